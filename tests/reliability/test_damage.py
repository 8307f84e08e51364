"""Damaged checkpoints: never taken, always named, and the newest whole one is used in their stead."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from lzero.checkpoint import CheckpointError, list_checkpoints
from lzero.distributed import Distributed
from lzero.entry import train_unizero_multitask_segment_ddp
from lzero.entry.checkpointing import RunError
from lzero.entry.run import Run
from lzero.replay.frame_chunks import CHUNK_NAME
from tests.reliability.damage import DAMAGES, bit_flipped, files_of
from tests.reliability.runs import assert_same_future, run_settings

CASES = int(os.environ.get("LZERO_DAMAGED_CHECKPOINTS", "60"))
"""``make soak`` tries hundreds."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run with two checkpoints of several frame files."""
    directory = tmp_path_factory.mktemp("damage")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distributed, "threads", 1)
        train_unizero_multitask_segment_ddp(run_settings(directory, "catch"), seed=3)
    assert len(list_checkpoints(directory / "tiny" / "checkpoints")) >= 2
    return directory


def opened(directory: Path) -> str:
    """The checkpoint that a run goes on from."""
    with Run(run_settings(directory, "catch"), seed=3, max_env_steps=1000, resume=True) as run:
        return f"step_{run.policy.train_iter:06d}"


def damaged_copy(finished: Path, directory: Path, number: int) -> tuple[str, Path, Path]:
    """A copy of the run whose newest checkpoint is damaged; how, and both of its checkpoints."""
    shutil.copytree(finished, directory)
    *_, older, newest = list_checkpoints(directory / "tiny" / "checkpoints")
    name = list(DAMAGES)[number % len(DAMAGES)]
    DAMAGES[name](newest, older, np.random.default_rng(number))
    return name, older, newest


@pytest.mark.parametrize("number", range(CASES))
def test_a_damaged_checkpoint_is_named_and_an_older_one_used(finished, tmp_path, number, caplog):
    name, older, newest = damaged_copy(finished, tmp_path / "runs", number)
    try:
        used = opened(tmp_path / "runs")
    except (CheckpointError, RunError) as error:
        # what somebody has forged with care is no damage: it is refused, not passed over
        assert name in ("forged", "hostile_manifest"), (name, error)
        assert newest.name in str(error) and "\n" not in str(error)
        return
    if used == newest.name:  # frames alone may be lost
        assert "are damaged; windows with them are not learned from" in caplog.text, name
        return
    assert used == older.name
    assert f"{newest} is passed over and renamed" in caplog.text
    assert not newest.exists() and (newest.parent / f"damaged_{newest.name}").exists()


def test_frames_that_are_lost_cost_their_windows_alone(finished, tmp_path, caplog):
    shutil.copytree(finished, tmp_path / "runs")
    newest = list_checkpoints(tmp_path / "runs" / "tiny" / "checkpoints")[-1]
    [frames] = [file for file in files_of(newest) if CHUNK_NAME.fullmatch(file.name)]
    content = frames.read_bytes()
    frames.unlink()
    frames.write_bytes(content[:-1])
    with Run(
        run_settings(tmp_path / "runs", "catch"), seed=3, max_env_steps=1000, resume=True
    ) as run:
        assert not run.replay.can_sample and run.updates_due() == 0
        assert frames.name in caplog.text
    train_unizero_multitask_segment_ddp(
        run_settings(tmp_path / "runs", "catch", {"train.max_env_steps": 360}), seed=3
    )
    newest = list_checkpoints(tmp_path / "runs" / "tiny" / "checkpoints")[-1]
    assert int(newest.name[5:]) > 60, "new windows are learned from"


def test_without_a_whole_checkpoint_nothing_is_started(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "runs")
    checkpoints = list_checkpoints(tmp_path / "runs" / "tiny" / "checkpoints")
    for checkpoint in checkpoints:
        (checkpoint / "model.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"no checkpoint .* can be read .*model.safetensors is missing"
    ):
        opened(tmp_path / "runs")
    assert list_checkpoints(tmp_path / "runs" / "tiny" / "checkpoints") == checkpoints


def test_a_run_whose_newest_checkpoint_is_damaged_ends_as_if_nothing_had_happened(
    finished, tmp_path
):
    """It goes on from the older one, and comes to the same end."""
    shutil.copytree(finished, tmp_path / "runs")
    *_, older, newest = list_checkpoints(tmp_path / "runs" / "tiny" / "checkpoints")
    bit_flipped(newest, older, np.random.default_rng(0))
    train_unizero_multitask_segment_ddp(run_settings(tmp_path / "runs", "catch"), seed=3)
    assert_same_future(tmp_path / "runs" / "tiny", finished / "tiny")
