"""Random streams in a checkpoint go on where they were."""

import json
import logging

import numpy as np
import pytest
import torch

from lzero.checkpoint import (
    CheckpointError,
    rng_state,
    set_rng_state,
)


@pytest.mark.parametrize(
    "bit_generator", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64]
)
def test_random_streams_continue(bit_generator):
    generator = np.random.Generator(bit_generator(1))
    generator.integers(5, dtype=np.int32)  # leaves half a word behind, which is part of the state
    state = json.loads(json.dumps(rng_state({"collect": generator})))
    expected = torch.randn(5), generator.random(50), generator.integers(9, dtype=np.int32)

    other = np.random.Generator(bit_generator(2))
    torch.manual_seed(1)
    set_rng_state(state, {"collect": other})
    assert torch.equal(torch.randn(5), expected[0])
    np.testing.assert_array_equal(other.random(50), expected[1])
    assert other.integers(9, dtype=np.int32) == expected[2]


def test_random_state_with_other_generators_is_refused():
    state = rng_state({"collect": np.random.default_rng(0)})
    with pytest.raises(
        CheckpointError, match=r"\['replay'\] expected, the checkpoint has \['collect'\]"
    ):
        set_rng_state(state, {"replay": np.random.default_rng(0)})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to continue on")
def test_cuda_stream_that_cannot_continue_is_reported(caplog):
    state = rng_state({}) | {"torch_cuda": rng_state({})["torch_cpu"]}
    with caplog.at_level(logging.WARNING, logger="lzero.checkpoint"):
        set_rng_state(state, {})
    assert "does not continue" in caplog.text
