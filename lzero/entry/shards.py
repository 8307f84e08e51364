"""Which rank plays which tasks, and where the replay of each environment is when the number of ranks changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from lzero import checks
from lzero.distributed import LaunchError, split_evenly

Rings = tuple[list[int], list[int]]
"""Of a rank that reads, and the same ones of a rank that has saved them."""


@dataclass(frozen=True)
class RankShare:
    """Tasks of one rank; the four tuples run in parallel, one entry per task of the rank.

    Attributes:
        task_ids: tasks, ascending.
        num_envs: environments of each task on this rank.
        batch_sizes: samples of each task in this rank's part of an update.
        env_offset: number of the rank's first environment within each task; keeps seeds of ranks
            apart.
    """

    task_ids: tuple[int, ...]
    num_envs: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    env_offset: tuple[int, ...]


def assign_tasks(
    num_tasks: int,
    num_envs_per_task: Sequence[int],
    batch_size_per_task: Sequence[int],
    world_size: int,
) -> tuple[RankShare, ...]:
    """Split the tasks of a run over its ranks.

    Each rank gets a contiguous block of tasks. Where there are more ranks than tasks, each task
    gets a contiguous block of ranks, which split its environments and its batch. All sizes differ
    by at most one.

    Args:
        num_tasks: T.
        num_envs_per_task: T numbers of environments.
        batch_size_per_task: T numbers of samples per update.
        world_size: number of ranks.

    Returns:
        One share per rank.

    Raises:
        TypeError: if a number is no whole one.
        ValueError: if the lists do not have T entries, or a number is below 1.
        LaunchError: if a task has fewer environments or samples than ranks.
    """
    checks.count("num_tasks", num_tasks)
    checks.count("world_size", world_size)
    ranks_per_task = (
        split_evenly(world_size, num_tasks) if world_size > num_tasks else (1,) * num_tasks
    )
    _check_sizes("num_envs", num_envs_per_task, ranks_per_task)
    _check_sizes("batch_size", batch_size_per_task, ranks_per_task)

    shares = []
    if world_size > num_tasks:
        for task, ranks in enumerate(ranks_per_task):
            num_envs = split_evenly(num_envs_per_task[task], ranks)
            batch_sizes = split_evenly(batch_size_per_task[task], ranks)
            for envs, batch, offset in zip(num_envs, batch_sizes, _starts(num_envs), strict=True):
                shares.append(RankShare((task,), (envs,), (batch,), (offset,)))
        return tuple(shares)
    tasks_per_rank = split_evenly(num_tasks, world_size)
    for start, count in zip(_starts(tasks_per_rank), tasks_per_rank, strict=True):
        own = slice(start, start + count)
        share = RankShare(
            task_ids=tuple(range(num_tasks)[own]),
            num_envs=tuple(num_envs_per_task[own]),
            batch_sizes=tuple(batch_size_per_task[own]),
            env_offset=(0,) * count,
        )
        shares.append(share)
    return tuple(shares)


def rings_by_rank(then: Sequence[RankShare], now: RankShare) -> dict[int, Rings]:
    """Who has saved the rings of a rank.

    Args:
        then: shares of all ranks when they were saved.
        now: the share of the rank that reads.

    Returns:
        Rings by the rank that has saved them; all rings of ``now``, each once.

    Raises:
        ValueError: if nobody had one of its environments.
    """
    own = {environment: ring for ring, environment in enumerate(_environments(now))}
    found: dict[int, Rings] = {}
    for rank, share in enumerate(then):
        for ring, environment in enumerate(_environments(share)):
            if environment in own:
                here, there = found.setdefault(rank, ([], []))
                here.append(own.pop(environment))
                there.append(ring)
    if own:
        raise ValueError(f"nobody played environments {sorted(own)} (task, number)")
    return found


def _environments(share: RankShare) -> list[tuple[int, int]]:
    """Task and number within it of each environment of a rank, in the order of its rings."""
    numbers = []
    for task, count, offset in zip(share.task_ids, share.num_envs, share.env_offset, strict=True):
        numbers += [(task, offset + number) for number in range(count)]
    return numbers


def _check_sizes(field: str, values: Sequence[int], ranks_per_task: Sequence[int]) -> None:
    """Raise unless there is one value per task, and enough of it for one per rank of the task."""
    checks.integers(field, values)
    if len(values) != len(ranks_per_task):
        raise ValueError(
            f"{field} has {len(values)} entries for {len(ranks_per_task)} tasks: give one per task"
        )
    for task, (value, ranks) in enumerate(zip(values, ranks_per_task, strict=True)):
        if value < ranks:
            raise LaunchError(
                f"{field}={value} of task {task}, which {ranks} process(es) play: each needs at least one; "
                f"raise {field} of task {task} to at least {ranks}"
                + (f", or start fewer than {sum(ranks_per_task)} processes" if ranks > 1 else "")
            )


def _starts(sizes: Sequence[int]) -> tuple[int, ...]:
    """First index of each of several consecutive blocks."""
    return tuple(accumulate(sizes[:-1], initial=0))
