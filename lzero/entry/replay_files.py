"""The replay of a run in its checkpoints, also in those of another number of processes."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lzero.checkpoint import load_state
from lzero.entry.shards import Rings, assign_tasks, rings_by_rank
from lzero.replay.frame_chunks import Shard

if TYPE_CHECKING:
    from lzero.entry.run import Run


def load_replay(
    run: "Run",
    checkpoint: Path,
    state: Mapping[str, Any],
    own: Mapping[str, Any] | None,
    lost: Collection[str],
) -> None:
    """Take over the replay, and the sums of the round under way, as :meth:`Run.load_rank`."""
    if own is not None:
        run.collected[:] = own["collected"]
        folder = checkpoint / f"rank_{run.dist.rank}"
        run.replay.load(folder, suffix="rank", lost=_in_folder(lost, run.dist.rank))
        return
    world_size = state["world_size"]
    if run.dist.is_main:  # sums over all ranks
        run.collected[:] = sum(
            np.array(load_state(checkpoint, rank)["collected"]) for rank in range(world_size)
        )
    shards = [
        Shard(checkpoint / f"rank_{rank}", mine, theirs, _in_folder(lost, rank))
        for rank, (mine, theirs) in ranks_with_replay(run, world_size).items()
    ]
    run.replay.load_shards(shards, suffix="rank")


def ranks_with_replay(run: "Run", world_size: int) -> dict[int, Rings]:
    """Where the replay of each environment of this rank is in a checkpoint of ``world_size`` processes.

    Raises:
        ValueError: if it is nowhere: the environments were others.
    """
    config = run.config
    num_envs = [config.env.envs_of(game) for game in config.env.games]
    batch_sizes = [world_size] * config.num_tasks  # they are no matter of who has which environment
    then = assign_tasks(config.num_tasks, num_envs, batch_sizes, world_size)
    return rings_by_rank(then, run.share)


def _in_folder(files: Collection[str], rank: int) -> list[str]:
    """Names of those files that are in the folder of a rank."""
    folder = f"rank_{rank}/"
    return [name.removeprefix(folder) for name in files if name.startswith(folder)]
