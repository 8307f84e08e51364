"""A replay ring on disk: what is saved comes back, and full chunks are linked."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lzero.replay.buffer import ReplayBuffer
from lzero.replay.sum_tree import PriorityConfig
from tests.replay.buffer_cases import Stream, make


def contents(buffer: ReplayBuffer) -> dict[str, np.ndarray]:
    slots = buffer._rings.live_slots()
    arrays = {"frames": buffer._rings.frames[:, slots], "rows": buffer._rings.rows[:, slots]}
    if buffer._priorities:
        arrays |= {"tree": buffer._priorities.tree._nodes, "max": buffer._priorities.max_priority}
    return {name: array.copy() for name, array in arrays.items()} | {"head": np.array(buffer.head)}


@pytest.mark.parametrize("priority", [None, PriorityConfig()])
@pytest.mark.parametrize("steps", [0, 3, 29, 40, 173])
def test_a_loaded_buffer_equals_the_saved_one(tmp_path, priority, steps):
    options = {"shape": (3, 4, 5), "dtype": np.uint8, "priority": priority, "chunk_steps": 16}
    stream = Stream(make(**options)).append(steps)
    if priority and steps >= 29:
        index = stream.buffer.sample({3: 30, 5: 30}, np.random.default_rng(0)).index
        stream.buffer.update_priorities(index, np.random.default_rng(1).gamma(1, 1, 60))
    stream.buffer.save(tmp_path, suffix="rank0")
    loaded = (
        Stream(make(**options), seed=99).append(55).buffer
    )  # what was in it before does not matter
    loaded.load(tmp_path, suffix="rank0")
    after = contents(loaded)
    for name, array in contents(stream.buffer).items():
        assert array.tobytes() == after[name].tobytes(), name
    other = Stream(loaded, seed=5)
    other.rows, stream.rng = list(stream.rows), np.random.default_rng(5)
    draws = []
    for continued in (stream, other):
        continued.append(50)
        draws.append(vars(continued.buffer.sample({5: 40}, np.random.default_rng(2))))
    assert all(torch.equal(draws[0][name], draws[1][name]) for name in draws[0])


def inodes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in directory.glob("frames-*")}


def test_full_chunks_are_linked_and_the_rest_is_written(tmp_path):
    stream = Stream(make(chunk_steps=8), reset_share=0.0)
    previous, directories = None, []
    for number, steps in enumerate((21, 4, 30, 5)):  # heads 21, 25, 55, 60; the ring holds 40 steps
        stream.append(steps)
        directory = tmp_path / f"step_{number}"
        directory.mkdir()
        stream.buffer.save(directory, suffix="rank3", previous=previous)
        assert all("rank3" in path.name for path in directory.iterdir())
        directories.append(directory)
        previous = directory
        loaded = make(chunk_steps=8)
        loaded.load(directory, suffix="rank3")
        assert contents(loaded)["frames"].tobytes() == contents(stream.buffer)["frames"].tobytes()
    files = [inodes(directory) for directory in directories]
    shared = [len(set(files[i].items()) & set(files[i + 1].items())) for i in range(3)]
    # Full in the earlier checkpoint and live in the later one: chunks 0, 1; then 1, 2; then 2 to 5.
    assert shared == [2, 2, 4]
    assert [len(names) for names in files] == [3, 4, 6, 6]
    # The first checkpoint can go: its links keep the frames.
    for path in directories[0].iterdir():
        path.unlink()
    loaded = make(chunk_steps=8)
    loaded.load(directories[1], suffix="rank3")


def test_a_resumed_run_links_what_it_loaded_and_nothing_of_another_past(tmp_path):
    first, second, third, fourth = (
        tmp_path / name for name in ("first", "second", "third", "fourth")
    )
    for directory in (first, second, third, fourth):
        directory.mkdir()
    stream = Stream(make(chunk_steps=8)).append(16)
    stream.buffer.save(first, suffix="rank0")
    stream.append(8)
    stream.buffer.save(second, suffix="rank0", previous=first)
    resumed = Stream(make(chunk_steps=8), seed=77)
    resumed.buffer.load(first, suffix="rank0")
    resumed.rows = [{}] * 100  # shifts the content of the frames that follow from those of `second`
    resumed.append(8)
    resumed.buffer.save(third, suffix="rank0", previous=first)
    resumed.buffer.save(fourth, suffix="rank0", previous=second)
    for directory in (third, fourth):
        linked = set(inodes(second).items()) & set(inodes(directory).items())
        assert linked == set(inodes(first).items())
        loaded = make(chunk_steps=8)
        loaded.load(directory, suffix="rank0")
        assert contents(loaded)["rows"].tobytes() == contents(resumed.buffer)["rows"].tobytes()
        assert contents(loaded)["frames"].tobytes() == contents(resumed.buffer)["frames"].tobytes()


def test_file_systems_without_hard_links_get_copies(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("no hard links here")

    stream = Stream(make(chunk_steps=8)).append(20)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    stream.buffer.save(tmp_path / "a", suffix="rank0")
    monkeypatch.setattr(os, "link", refuse)
    stream.buffer.save(tmp_path / "b", suffix="rank0", previous=tmp_path / "a")
    shared = set(inodes(tmp_path / "a")) & set(inodes(tmp_path / "b"))
    assert len(shared) == 2
    assert all(inodes(tmp_path / "a")[name] != inodes(tmp_path / "b")[name] for name in shared)
    make(chunk_steps=8).load(tmp_path / "b", suffix="rank0")


def test_a_checkpoint_of_another_buffer_is_refused(tmp_path):
    Stream(make()).append(10).buffer.save(tmp_path, suffix="rank0")
    for change in (
        {"length": 41},
        {"window": 7},
        {"tasks": np.arange(6)},
        {"priority": PriorityConfig()},
    ):
        with pytest.raises(ValueError, match=r"was saved with"):
            make(**change).load(tmp_path, suffix="rank0")
    with pytest.raises(FileNotFoundError):
        make().load(tmp_path, suffix="rank1")
