"""Where the replay of each environment is when the number of processes changes."""

from collections.abc import Sequence

from lzero.distributed import RankShare

Rings = tuple[list[int], list[int]]
"""Of the rank that reads, and the same ones of a rank that has saved them."""


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
