"""The replay of a run in its checkpoints, also in those of another number of processes, and without a run."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lzero.checkpoint import CheckpointError, damaged_files, load_state, read_manifest
from lzero.config import ExperimentConfig
from lzero.entry.checkpointing import READING_ERRORS
from lzero.entry.shards import Rings, assign_tasks, rings_by_rank
from lzero.replay.buffer import ReplayBuffer
from lzero.replay.frame_chunks import CHUNK_NAME, Shard
from lzero.replay.rings import saved_layout
from lzero.replay.storage import GIBIBYTE, available_memory
from lzero.replay.sum_tree import PriorityConfig

if TYPE_CHECKING:
    from lzero.entry.run import Run

logger = logging.getLogger(__name__)
SUFFIX = "rank"
"""Ends the names of a rank's replay files."""


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
        run.replay.load(folder, suffix=SUFFIX, lost=_in_folder(lost, run.dist.rank))
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
    run.replay.load_shards(shards, suffix=SUFFIX)


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


def open_replay(checkpoint: Path, config: ExperimentConfig) -> ReplayBuffer:
    """The replay in a checkpoint, of all its processes together, to draw windows from; the checkpoint stays as it is.

    Frames that are damaged are left out, as when the run goes on.

    Args:
        checkpoint: folder ``step_…``.
        config: its experiment.

    Raises:
        CheckpointError: if there is no replay in it, it is damaged, or too large for this machine.
    """
    manifest = read_manifest(checkpoint)
    ranks = range(manifest.world_size)
    lost = []
    for name, problem in damaged_files(checkpoint, ranks).items():
        if not CHUNK_NAME.fullmatch(name.rpartition("/")[2]):
            raise CheckpointError(f"checkpoint {checkpoint}: {name} {problem}")
        logger.warning(
            "%s of %s %s: windows with its frames are left out", name, checkpoint, problem
        )
        lost.append(name)
    size = 0
    for rank in ranks:  # what the manifest does not name is not read
        folder = checkpoint / f"rank_{rank}"
        if f"{folder.name}/replay-{SUFFIX}.safetensors" not in manifest.files:
            raise CheckpointError(f"checkpoint {checkpoint} has no replay of rank {rank}")
        for file in folder.glob("frames-*"):
            name = f"{folder.name}/{file.name}"
            if name not in manifest.files:
                lost.append(name)
    for name, entry in manifest.files.items():
        size += entry.bytes if "/" in name else 0
    available = available_memory()
    if not config.policy.replay.on_disk and size > available:
        raise CheckpointError(
            f"the replay of {checkpoint} takes {size / GIBIBYTE:,.1f} GiB of memory, and {available / GIBIBYTE:,.1f} GiB are "
            "free"
        )
    try:
        return _from_all_ranks(checkpoint, config, manifest.world_size, lost)
    except READING_ERRORS as error:
        raise CheckpointError(
            f"the replay of checkpoint {checkpoint} cannot be read ({error})"
        ) from error


def _from_all_ranks(
    checkpoint: Path, config: ExperimentConfig, world_size: int, lost: Collection[str]
) -> ReplayBuffer:
    tasks: list[int] = []
    shards = []
    for rank in range(world_size):
        folder = checkpoint / f"rank_{rank}"
        layout = saved_layout(folder, suffix=SUFFIX)
        theirs = range(len(layout["task_id_of_ring"]))
        own = range(len(tasks), len(tasks) + len(theirs))
        shards.append(Shard(folder, own, theirs, _in_folder(lost, rank)))
        tasks += layout["task_id_of_ring"]  # ranks have consecutive tasks: they stay sorted
    settings = config.policy.replay
    replay = ReplayBuffer(
        np.array(tasks),
        layout["ring_length"],
        tuple(layout["observation_shape"]),
        np.dtype(layout["observation_dtype"]),
        layout["num_actions"],
        layout["window"],
        past=config.policy.burn_in_steps,
        priority=PriorityConfig(settings.alpha, settings.beta) if layout["prioritised"] else None,
        chunk_steps=layout["chunk_steps"],
        # a file without a name, which goes with the process
        directory=checkpoint.parent if settings.on_disk else None,
    )
    replay.load_shards(shards, suffix=SUFFIX)
    return replay


def _in_folder(files: Collection[str], rank: int) -> list[str]:
    """Names of those files that are in the folder of a rank."""
    folder = f"rank_{rank}/"
    return [name.removeprefix(folder) for name in files if name.startswith(folder)]
