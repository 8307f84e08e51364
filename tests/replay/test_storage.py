"""Frames in a file instead of memory: the same rings, also where memory is too small for them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import lzero
from lzero.checkpoint import list_checkpoints
from lzero.distributed import Distributed
from lzero.entry import train_unizero_multitask_segment_ddp
from lzero.entry.checkpointing import RunError
from lzero.replay import storage
from lzero.replay.storage import available_memory, frames_on_disk
from tests.reliability.runs import future, run_settings

LARGE_RING = """
import resource, sys
from pathlib import Path
import numpy as np
from lzero.replay.buffer import ReplayBuffer

used = int(Path("/proc/self/status").read_text().partition("VmData:")[2].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 2**26, used + 2**26))  # 64 MiB more
directory = Path(sys.argv[1]) if len(sys.argv) > 1 else None
replay = ReplayBuffer(np.zeros(1, int), 2048, (2, 256, 256), np.uint8, 3, 4, directory=directory)  # 256 MiB
row = {"action": [1], "reward": [0.0], "terminated": [False], "truncated": [False], "reset": [False]}
row = {name: np.array(value) for name, value in row.items()}
for step in range(3000):
    frame = np.full((1, 2, 256, 256), step % 251, np.uint8)
    replay.append(frame, visits=np.ones((1, 3), np.float32) / 3, root_value=np.zeros(1), **row)
windows = replay.sample({0: 64}, np.random.default_rng(0))
steps = windows.index[:, 1:] + np.arange(4)
assert (windows.observation[:, :, 0, 7, 9].numpy() == steps.numpy() % 251).all()
print("all in place")
"""


def large_ring(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", LARGE_RING, *arguments],
        capture_output=True,
        text=True,
        cwd=Path(lzero.__file__).parents[1],
        timeout=120,
    )


def test_a_ring_larger_than_memory_works_on_the_disk(tmp_path):
    in_memory = large_ring()
    assert "Unable to allocate" in in_memory.stderr, "the limit has to be felt"
    on_disk = large_ring(str(tmp_path))
    assert on_disk.stdout == "all in place\n", on_disk.stderr
    assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_frames_begin_as_zeros_and_keep_what_is_written(tmp_path):
    frames = frames_on_disk((3, 50, 2), np.dtype(np.int32), tmp_path / "new")
    assert frames.shape == (3, 50, 2) and not frames.any()
    frames[1, 7] = -5
    assert frames.sum() == -10


def test_a_disk_that_is_too_small_is_told_at_once(tmp_path):
    with pytest.raises(OSError, match="No space left|File too large"):
        frames_on_disk((2**45,), np.dtype(np.uint8), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capacity": 10**11}, r"100,000,000,000 transitions of 2 game.*; take less .* or --policy.replay.on-disk"),
        ({"capacity": 10**13, "on_disk": True}, r"do not fit onto the disk of .*tiny: .*; take less"),
    ],
    ids=["memory", "disk"],
)  # fmt: skip
def test_a_replay_that_cannot_fit_is_refused_before_the_start(tmp_path, changes, message):
    with pytest.raises(RunError, match=message):
        train_unizero_multitask_segment_ddp(
            run_settings(tmp_path, "catch", {"policy.replay": changes})
        )
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_a_replay_is_measured_against_what_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr("lzero.entry.build.available_memory", lambda: 2**14)
    with pytest.raises(RunError, match=r"take 0.0 GiB of memory in 1 process.* 0.0 GiB are free"):
        train_unizero_multitask_segment_ddp(run_settings(tmp_path, "catch"))


def test_containers_have_less_memory_than_their_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "CGROUPS", tmp_path)
    whole = available_memory()
    assert 2**20 < whole < 2**50
    for name, content in (("max", "3000000"), ("current", "2500000"), ("stat", "anon 1\nfile 7")):
        (tmp_path / f"memory.{name}").write_text(content + "\n")
    assert available_memory() == 500_007
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() > 2**20


def test_a_run_with_frames_on_the_disk_is_the_same_run(tmp_path, monkeypatch):
    """It may also go on in memory."""
    monkeypatch.setattr(Distributed, "threads", 1)
    on_disk = {"policy.replay": {"capacity": 160, "prioritised": True, "on_disk": True}}
    halved = {"train.max_env_steps": 80}
    train_unizero_multitask_segment_ddp(run_settings(tmp_path / "a", "catch"), seed=3)
    train_unizero_multitask_segment_ddp(
        run_settings(tmp_path / "b", "catch", on_disk | halved), seed=3
    )
    assert list_checkpoints(tmp_path / "b" / "tiny" / "checkpoints")
    train_unizero_multitask_segment_ddp(run_settings(tmp_path / "b", "catch"), seed=3)
    one, other = future(tmp_path / "a" / "tiny"), future(tmp_path / "b" / "tiny")
    one.pop("state"), other.pop("state")
    assert one.keys() == other.keys()
    assert not [name for name in one if not np.array_equal(one[name], other[name])]
    assert torch.get_num_threads() == 1
