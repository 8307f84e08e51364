"""A run from its config: process group, environments, policy, replay and the generators of everything random."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from lzero.analysis.aggregation import AggregationError
from lzero.config import Experiment, ExperimentConfig
from lzero.device import DeviceError, resolve_device
from lzero.distributed import (
    Distributed,
    LaunchError,
    init_distributed,
    local_rank_from_environment,
)
from lzero.entry.checkpointing import RunError
from lzero.entry.shards import RankShare, assign_tasks
from lzero.envs.domain import load_domain
from lzero.envs.multitask import MultiTaskVectorEnv
from lzero.logging import setup_logging
from lzero.model.unizero_model_multitask import UniZeroMTModel
from lzero.nn.encoder import EncoderKindError
from lzero.policy.unizero_multitask import UniZeroMTPolicy
from lzero.profiling import Profilers
from lzero.replay.buffer import ReplayBuffer
from lzero.replay.storage import GIBIBYTE, available_memory
from lzero.replay.sum_tree import PriorityConfig
from lzero.sinks import check_loggers


@dataclass(frozen=True)
class Foundation:
    """What any run stands on, on this rank.

    Attributes:
        dist: process group.
        share: tasks of this rank, and its part of each one's environments and batch.
        env: training environments.
        legal_actions: ``(T, A)`` bool of all tasks of the run, also those of other ranks.
    """

    dist: Distributed
    share: RankShare
    env: MultiTaskVectorEnv
    legal_actions: np.ndarray


@dataclass(frozen=True)
class Parts:
    """What UniZero's run works with on this rank.

    Attributes:
        foundation: process group and environments.
        policy: what is trained.
        replay: what was collected.
        rngs: generators by name: ``act`` and ``replay``.
        profilers: off, unless the config asks for them.
    """

    foundation: Foundation
    policy: UniZeroMTPolicy
    replay: ReplayBuffer
    rngs: dict[str, np.random.Generator]
    profilers: Profilers


@contextmanager
def lacks_are_run_errors() -> Iterator[None]:
    """Say as a RunError what the machine lacks that a config asks for.

    Raises:
        RunError: it says what to type or install instead.
    """
    try:
        yield
    # an ImportError names an optional package
    except (
        ImportError,
        AggregationError,
        DeviceError,
        EncoderKindError,
        LaunchError,
    ) as error:
        raise RunError(str(error)) from error


def lay_foundation(config: Experiment, batch_sizes: Sequence[int]) -> Foundation:
    """Process group and environments of a run; nothing is written.

    What it lacks is said first: a missing package of ``train.loggers`` before any environment is made.

    Args:
        config: the experiment.
        batch_sizes: samples of each task in one update.
    """
    check_loggers(config.train.loggers)
    dist = init_distributed(resolve_device(config.device, local_rank_from_environment()))
    games = config.env.games
    num_envs = [config.env.envs_of(game) for game in games]
    share = assign_tasks(len(games), num_envs, batch_sizes, dist.world_size)[dist.rank]
    setup_logging(dist.is_main)
    env = make_env(config, share, dist.threads)
    mine = np.zeros((config.num_tasks, env.num_actions), dtype=bool)
    mine[env.task_id] = env.legal_actions
    legal_actions = np.logical_or.reduce(dist.all_gather_array(mine))
    return Foundation(dist, share, env, legal_actions)


def make_env(config: Experiment, share: RankShare, threads: int) -> MultiTaskVectorEnv:
    """Training environments of a rank."""
    games = config.env.games
    env = load_domain(config.env.domain).make(
        config.env,
        games,
        share.task_ids,
        share.num_envs,
        env_offsets=share.env_offset,
        training=True,
        num_threads=threads,
    )
    env.limit_episodes({task: config.env.step_limit_of(games[task]) for task in share.task_ids})
    return env


def generators(
    names: Sequence[str], seed: int, rank: int, shared: Sequence[str] = ()
) -> dict[str, np.random.Generator]:
    """A generator by name, of this rank alone but for those that are ``shared``."""
    found = {}
    for stream, name in enumerate(names):
        found[name] = np.random.default_rng([seed, 0 if name in shared else rank, stream])
    return found


@lacks_are_run_errors()
def build(config: ExperimentConfig, seed: int, model: UniZeroMTModel | None = None) -> Parts:
    """Everything of a fresh run; nothing is written.

    Args:
        config: the experiment.
        seed: of everything random.
        model: to go on with; None makes one.

    Raises:
        RunError: if the machine lacks something that the config asks for; it says what to type or install instead.
    """
    foundation = lay_foundation(config, [config.batch_size_of(game) for game in config.env.games])
    dist, env = foundation.dist, foundation.env
    profilers = Profilers(config.policy.profile, config.run_dir, is_main=dist.is_main)
    torch.manual_seed(seed)  # the same parameters on every rank
    policy = UniZeroMTPolicy(config, env.observation_shape, foundation.legal_actions, dist, model)
    torch.manual_seed(seed + dist.rank)  # but each drops out what it likes
    replay = _replay(config, env, dist)
    rngs = generators(("act", "replay"), seed, dist.rank)
    return Parts(foundation, policy, replay, rngs, profilers)


def _replay(config: ExperimentConfig, env: MultiTaskVectorEnv, dist: Distributed) -> ReplayBuffer:
    """An empty replay for the environments of this rank; collective.

    Raises:
        RunError: on all ranks, if it will not fit into this machine when it is full.
    """
    settings = config.policy.replay
    what = f"policy.replay.capacity={settings.capacity:,} transitions of {len(np.unique(env.task_id))} game(s)"
    less = "take less of policy.replay.capacity"
    problem = None
    try:
        replay = ReplayBuffer(
            env.task_id,
            config.ring_length(),
            env.observation_shape,
            env.observation_dtype,
            env.num_actions,
            config.policy.window,
            past=config.policy.burn_in_steps,
            priority=PriorityConfig(settings.alpha, settings.beta)
            if settings.prioritised
            else None,
            directory=config.run_dir if settings.on_disk else None,
        )
    except MemoryError as error:
        problem = f"{what}: {error}; {less}, or --policy.replay.on-disk"
    except OSError as error:
        problem = f"{what} do not fit onto the disk of {config.run_dir}: {error}; {less}"
    else:
        needed, available = replay.memory_bytes * dist.local_world_size, available_memory()
        if needed > available:
            instead = less if settings.on_disk else f"{less}, or --policy.replay.on-disk"
            problem = (
                f"{what} take {needed / GIBIBYTE:,.1f} GiB of memory in {dist.local_world_size} process(es) here, and "
                f"{available / GIBIBYTE:,.1f} GiB are free; {instead}"
            )
    if dist.any(problem is not None):
        raise RunError(problem or "the replay of another rank does not fit")
    return replay
