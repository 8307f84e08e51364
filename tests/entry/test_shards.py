"""Tasks shared out over ranks, and a run that goes on with another number of them: every environment's replay goes with it."""

import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lzero.checkpoint import list_checkpoints, load_state
from lzero.distributed import Distributed
from lzero.entry import train_unizero_multitask_segment_ddp
from lzero.entry.checkpointing import RunError
from lzero.entry.run import Run
from lzero.entry.shards import assign_tasks, rings_by_rank
from lzero.logging import read_metrics
from lzero.replay.frame_chunks import Shard
from lzero.replay.sum_tree import PriorityConfig
from tests.ranks import run_ranks
from tests.reliability.runs import run_settings
from tests.replay.buffer_cases import Stream, make


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 8, 26])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8, 16, 27])
def test_shares_add_up_exactly(num_tasks, world_size):
    generator = np.random.default_rng(num_tasks * 100 + world_size)
    num_envs, batch_sizes = generator.integers(27, 60, (2, num_tasks)).tolist()
    shares = assign_tasks(num_tasks, num_envs, batch_sizes, world_size)

    assert len(shares) == world_size
    assert [task for share in shares for task in share.task_ids] == sorted(
        task for share in shares for task in share.task_ids
    )
    for share in shares:
        assert (
            len(share.task_ids)
            == len(share.num_envs)
            == len(share.batch_sizes)
            == len(share.env_offset)
            > 0
        )
        assert min(share.num_envs + share.batch_sizes) >= 1
    task_counts = [len(share.task_ids) for share in shares]
    assert max(task_counts) - min(task_counts) <= 1
    ranks_of_tasks = []
    for task in range(num_tasks):
        parts = [
            (share.env_offset[index], share.num_envs[index], share.batch_sizes[index])
            for share in shares
            for index, shared_task in enumerate(share.task_ids)
            if shared_task == task
        ]
        ranks_of_tasks.append(len(parts))
        envs = [env for offset, count, _ in parts for env in range(offset, offset + count)]
        assert envs == list(range(num_envs[task]))
        assert sum(batch for *_, batch in parts) == batch_sizes[task]
        for column in (1, 2):
            assert max(part[column] for part in parts) - min(part[column] for part in parts) <= 1
    assert max(ranks_of_tasks) - min(ranks_of_tasks) <= 1
    if world_size <= num_tasks:
        assert ranks_of_tasks == [1] * num_tasks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (2, [4, 1], [8, 8], 4),
            "num_envs=1 of task 1.*at least 2, or start fewer than 4 processes",
        ),
        ((2, [4, 4], [1, 8], 3), "batch_size=1 of task 0.*at least 2"),
        ((2, [4, 0], [8, 8], 1), "num_envs=0 of task 1.*at least 1$"),
        ((2, [4], [8, 8], 1), "num_envs has 1 entries for 2 tasks"),
        ((0, [], [], 1), "num_tasks=0"),
        ((1, [1], [1], 0), "world_size=0"),
    ],
)
def test_impossible_splits_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        assign_tasks(*arguments)


@pytest.mark.parametrize("then", range(1, 7))
@pytest.mark.parametrize("now", range(1, 7))
def test_every_ring_is_found_once(then, now):
    """For fewer, as many and more ranks than tasks, with numbers of environments of their own."""
    num_envs, sizes = [4, 3, 5], [6, 6, 6]
    shares_then = assign_tasks(3, num_envs, sizes, then)
    found = set()
    for share in assign_tasks(3, num_envs, sizes, now):
        rings = rings_by_rank(shares_then, share)
        here = [ring for own, _ in rings.values() for ring in own]
        assert sorted(here) == list(range(sum(share.num_envs)))
        found |= {(rank, ring) for rank, (_, theirs) in rings.items() for ring in theirs}
        tasks_then = {
            rank: np.repeat(shares_then[rank].task_ids, shares_then[rank].num_envs)
            for rank in rings
        }
        tasks = np.repeat(share.task_ids, share.num_envs)
        for rank, (own, theirs) in rings.items():
            assert (tasks[own] == tasks_then[rank][theirs]).all()
    assert len(found) == sum(num_envs)
    if then == now:
        for rank, share in enumerate(shares_then):
            whole = list(range(sum(share.num_envs)))
            assert rings_by_rank(shares_then, share) == {rank: (whole, whole)}


def test_environments_that_nobody_played_are_an_error():
    [more] = assign_tasks(1, [3], [1], 1)
    with pytest.raises(ValueError, match=r"nobody played environments \[\(0, 2\)\]"):
        rings_by_rank(assign_tasks(1, [2], [1], 1), more)


@pytest.mark.parametrize("priority", [None, PriorityConfig()], ids=["uniform", "prioritised"])
@pytest.mark.parametrize("steps", [3, 29, 173])
def test_rings_of_two_buffers_go_on_in_three(tmp_path, priority, steps):
    tasks, options = (np.array([0, 0, 1]), np.array([1, 2, 2])), {"chunk_steps": 16}
    options |= {"shape": (3, 4, 5), "dtype": np.uint8, "priority": priority}
    then = [Stream(make(tasks=those, **options), seed=number) for number, those in enumerate(tasks)]
    for number, stream in enumerate(then):
        stream.append(steps)
        if priority and steps >= 29:
            drawn = stream.buffer.sample({1: 30}, np.random.default_rng(number)).index
            stream.buffer.update_priorities(drawn, np.random.default_rng(number).gamma(1, 1, 30))
        (tmp_path / str(number)).mkdir()
        stream.buffer.save(tmp_path / str(number), suffix="rank")
    places = ([(0, 0), (0, 1)], [(0, 2), (1, 0)], [(1, 2), (1, 1)])  # (buffer, ring) of each ring
    for rings in places:
        now = make(tasks=np.array([tasks[one][ring] for one, ring in rings]), **options)
        shards = [
            Shard(
                tmp_path / str(one),
                [own for own, (which, _) in enumerate(rings) if which == one],
                [ring for which, ring in rings if which == one],
            )
            for one in {which for which, _ in rings}
        ]
        now.load_shards(shards, suffix="rank")
        assert now.head == steps
        slots = now._rings.live_slots()
        for own, (one, ring) in enumerate(rings):
            old = then[one].buffer
            assert (now._rings.frames[own, slots] == old._rings.frames[ring, slots]).all()
            assert (now._rings.rows[own, slots] == old._rings.rows[ring, slots]).all()
            if priority:
                mass, mass_then = (
                    buffer._priorities.tree.mass(number * buffer.ring_length + slots)
                    for buffer, number in ((now, own), (old, ring))
                )
                assert (mass == mass_then).all()
        if priority:
            largest = [
                max(then[one].buffer._priorities.max_priority[
                    np.searchsorted(np.unique(tasks[one]), task)] for one, ring in rings if tasks[one][ring] == task)
                for task in np.unique(now.task_id_of_ring)
            ]  # fmt: skip
            assert now._priorities.max_priority.tolist() == largest
        Stream(now).append(5)
        assert now.head == steps + 5


def test_rings_of_different_moments_are_an_error(tmp_path):
    for number, steps in enumerate((20, 21)):
        (tmp_path / str(number)).mkdir()
        Stream(make(tasks=np.array([number]))).append(steps).buffer.save(
            tmp_path / str(number), suffix="rank"
        )
    shards = [Shard(tmp_path / str(number), [number], [0]) for number in range(2)]
    with pytest.raises(ValueError, match="ends at step 21, files beside it at 20"):
        make(tasks=np.array([0, 1])).load_shards(shards, suffix="rank")
    with pytest.raises(ValueError, match="task_id_of_ring is"):
        make(tasks=np.array([2])).load_shards([Shard(tmp_path / "0", [0], [0])], suffix="rank")


def training(directory: Path, steps: int) -> None:
    train_unizero_multitask_segment_ddp(
        run_settings(directory, "catch", {"train.max_env_steps": steps}), seed=3
    )


def rings(checkpoint: Path) -> dict[tuple[int, int], dict[str, np.ndarray]]:
    """What the replay of a checkpoint holds, by task and environment."""
    world_size = load_state(checkpoint)["world_size"]
    found = {}
    for rank, share in enumerate(assign_tasks(2, [2, 2], [8, 8], world_size)):
        arrays = load_file(checkpoint / f"rank_{rank}" / "replay-rank.safetensors")
        files = sorted((checkpoint / f"rank_{rank}").glob("frames-*"))
        arrays["frames"] = np.concatenate([load_file(file)["frames"] for file in files], axis=1)
        del arrays["max_priority"]
        ring = 0
        for task, count, offset in zip(
            share.task_ids, share.num_envs, share.env_offset, strict=True
        ):
            for number in range(count):
                found[task, offset + number] = {name: a[ring] for name, a in arrays.items()}
                ring += 1
    return found


def saved_again(directory: Path) -> None:
    """Go on from the newest checkpoint, and write one before anything is done."""
    with Run(run_settings(directory, "catch"), seed=3, max_env_steps=1000, resume=True) as run:
        run.save()


@pytest.mark.parametrize(("then", "now"), [(1, 2), (2, 1), (2, 3)])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path, then, now, monkeypatch, caplog):
    monkeypatch.setattr(Distributed, "threads", 1)

    def on(world_size: int, function: partial) -> None:
        if world_size == 1:
            function()
        else:
            run_ranks(function, world_size, tmp_path)

    checkpoints = tmp_path / "tiny" / "checkpoints"
    on(then, partial(training, tmp_path, 80))
    before = rings(list_checkpoints(checkpoints)[-1])
    with caplog.at_level(logging.WARNING):
        on(now, partial(saved_again, tmp_path))
    if now == 1:
        assert (
            "was written by 2 process(es), this run has 1: the replay is shared out" in caplog.text
        )
    after = rings(list_checkpoints(checkpoints)[-1])
    assert before.keys() == after.keys()
    for environment, arrays in before.items():
        for name in ("action", "reward", "visits", "root_value", "frames"):
            assert (arrays[name] == after[environment][name]).all(), (environment, name)

    on(now, partial(training, tmp_path, 120))
    state = load_state(list_checkpoints(checkpoints)[-1])
    assert state["env_steps"] == 120 and state["world_size"] == now
    steps = [line["env_step"] for line in read_metrics(tmp_path / "tiny" / "metrics.jsonl")]
    assert steps == sorted(steps)


def test_other_environments_are_refused_by_their_names(tmp_path, monkeypatch):
    """Nothing is renamed: the checkpoint is no worse for what is asked of it."""
    monkeypatch.setattr(Distributed, "threads", 1)
    run_ranks(partial(training, tmp_path, 40), 2, tmp_path)
    before = list_checkpoints(tmp_path / "tiny" / "checkpoints")
    for num_envs in (1, 3):
        other = run_settings(tmp_path, "catch", {"train.max_env_steps": 80}).model_dump()
        other["env"]["num_envs"] = num_envs
        with pytest.raises(RunError, match="another env.num_envs: env.num_envs was 2, is"):
            train_unizero_multitask_segment_ddp(other, seed=3)
    assert list_checkpoints(tmp_path / "tiny" / "checkpoints") == before
