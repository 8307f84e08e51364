"""Random streams of a process as JSON, and back."""

import base64
import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lzero import checks
from lzero.checkpoint.manifest import CheckpointError

logger = logging.getLogger(__name__)


def rng_state(generators: Mapping[str, np.random.Generator]) -> dict[str, Any]:
    """Random state of this process as JSON values: torch's CPU and, where in use, CUDA generator;
    numpy's.

    Raises:
        TypeError: if one of them is no numpy generator.
    """
    of_numpy = {}
    for name, generator in generators.items():  # the state of some bit generators holds arrays
        checks.generator(f"generators[{name!r}]", generator)
        of_numpy[name] = json.loads(
            json.dumps(generator.bit_generator.state, default=np.ndarray.tolist)
        )
    return {
        "torch_cpu": _encode(torch.get_rng_state()),
        "torch_cuda": _encode(torch.cuda.get_rng_state()) if torch.cuda.is_initialized() else None,
        "numpy": of_numpy,
    }


def set_rng_state(state: Mapping[str, Any], generators: Mapping[str, np.random.Generator]) -> None:
    """Continue the random streams of :func:`rng_state`; numpy generators are set in place.

    Raises:
        CheckpointError: if something is missing, or the names of the numpy generators differ.
    """
    for name in ("numpy", "torch_cpu", "torch_cuda"):
        if name not in state:
            raise CheckpointError(f"state={checks.shown(state)} lacks {name!r}; see rng_state()")
    if state["numpy"].keys() != generators.keys():
        raise CheckpointError(
            f"random generators {sorted(generators)} expected, the checkpoint has "
            f"{sorted(state['numpy'])}"
        )
    for name, generator in generators.items():
        generator.bit_generator.state = state["numpy"][name]
    torch.set_rng_state(_decode(state["torch_cpu"]))
    if state["torch_cuda"] is None:
        return
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(_decode(state["torch_cuda"]))
    else:
        logger.warning(
            "the checkpoint was written on CUDA: its CUDA random stream does not continue on this "
            "device"
        )


def _encode(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode("ascii")


def _decode(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype=np.uint8).copy())
