"""A run that was interrupted ends as if nothing had happened, bit for bit."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lzero.checkpoint import CheckpointError, list_checkpoints, load_state
from lzero.distributed import Distributed
from lzero.entry import train_unizero_multitask_segment_ddp
from lzero.entry.checkpointing import RunError
from lzero.policy import UniZeroMTPolicy
from tests.entry.run_cases import curves, settings
from tests.ranks import run_ranks
from tests.reliability.runs import (
    ENVS,
    assert_same_future,
    assert_same_tensorboard,
    future,
    run_settings,
)
from zoo.minatar.envs import MinAtarVectorEnv


@pytest.fixture(autouse=True)
def _one_thread():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distributed, "threads", 1)
        yield


def dying(directory: Path, domain: str, end: int) -> None:
    """Train until ``end`` updates are done, then die."""
    learn: Callable = UniZeroMTPolicy.learn

    def failing_learn(policy, windows):
        if policy.train_iter == end:
            raise KeyboardInterrupt
        return learn(policy, windows)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(UniZeroMTPolicy, "learn", failing_learn)
        train_unizero_multitask_segment_ddp(run_settings(directory, domain), seed=3)


def finishing(directory: Path, domain: str, **changes) -> None:
    """Train to the end, from where the run is."""
    torch.manual_seed(77)  # what the process drew before does not matter
    train_unizero_multitask_segment_ddp(run_settings(directory, domain, changes), seed=3)


@pytest.mark.parametrize("domain", ENVS)
def test_a_run_goes_on_as_if_nothing_had_happened(tmp_path, domain):
    finishing(tmp_path / "undisturbed", domain)
    for end in (13, 14, 25):
        dying(tmp_path / "disturbed", domain, end)
    finishing(tmp_path / "disturbed", domain)
    disturbed, undisturbed = tmp_path / "disturbed" / "tiny", tmp_path / "undisturbed" / "tiny"
    assert_same_future(disturbed, undisturbed)
    assert curves(disturbed) == curves(undisturbed)
    assert_same_tensorboard(disturbed, undisturbed)


def test_on_two_ranks(tmp_path):
    run_ranks(partial(finishing, tmp_path / "undisturbed", "catch"), 2, tmp_path)
    run_ranks(partial(dying, tmp_path / "disturbed", "catch", 13), 2, tmp_path)
    run_ranks(partial(finishing, tmp_path / "disturbed", "catch"), 2, tmp_path)
    assert_same_future(tmp_path / "disturbed" / "tiny", tmp_path / "undisturbed" / "tiny")
    assert "rank 1" in future(tmp_path / "disturbed" / "tiny")
    assert curves(tmp_path / "disturbed" / "tiny") == curves(tmp_path / "undisturbed" / "tiny")


def test_environments_that_ended_elsewhere_begin_anew(tmp_path, caplog, monkeypatch):
    """As after an update of the emulator: said in the log, and no window runs over the seam."""
    finishing(tmp_path, "minatar", **{"train.max_env_steps": 80})
    observe = MinAtarVectorEnv._observe
    monkeypatch.setattr(
        MinAtarVectorEnv, "_observe", lambda self, envs: np.roll(observe(self, envs), 1, axis=1)
    )
    with caplog.at_level(logging.WARNING):
        finishing(tmp_path, "minatar")
    assert "ended elsewhere: episodes begin anew" in caplog.text
    assert load_state(list_checkpoints(tmp_path / "tiny" / "checkpoints")[-1])["env_steps"] == 120


def test_environments_that_cannot_say_where_they_are_begin_anew(tmp_path, caplog):
    """CartPole's poles share one random stream."""
    train_unizero_multitask_segment_ddp(settings(tmp_path), max_env_step=60)
    with caplog.at_level(logging.WARNING):
        train_unizero_multitask_segment_ddp(settings(tmp_path), max_env_step=80)
    assert "cannot say where they were: episodes begin anew" in caplog.text


def test_a_named_checkpoint_is_gone_on_from(tmp_path):
    """An earlier one of the run, which ends as before; or another run's, from which a new one branches off."""
    finishing(tmp_path / "undisturbed", "catch")
    finishing(tmp_path / "runs", "catch")
    checkpoints = list_checkpoints(tmp_path / "runs" / "tiny" / "checkpoints")
    config = run_settings(tmp_path / "runs", "catch")
    train_unizero_multitask_segment_ddp(config, seed=3, resume=checkpoints[0])
    assert_same_future(tmp_path / "runs" / "tiny", tmp_path / "undisturbed" / "tiny")
    aside = {path.name for path in checkpoints[0].parent.iterdir() if path.name.startswith("left_")}
    assert aside == {f"left_{path.name}" for path in checkpoints[1:]}

    branch = run_settings(tmp_path / "branch", "catch")
    train_unizero_multitask_segment_ddp(branch, seed=3, resume=str(checkpoints[0]))
    assert_same_future(tmp_path / "branch" / "tiny", tmp_path / "undisturbed" / "tiny")
    with pytest.raises(RunError, match="holds checkpoints of its own"):
        train_unizero_multitask_segment_ddp(branch, seed=3, resume=checkpoints[0])
    with pytest.raises(CheckpointError, match="step_000099: no such directory"):
        new = run_settings(tmp_path / "new", "catch")
        train_unizero_multitask_segment_ddp(new, seed=3, resume=tmp_path / "step_000099")
