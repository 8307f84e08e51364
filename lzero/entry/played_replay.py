"""A replay to analyse an agent by, where none was kept: it is played anew, as an update's windows once were."""

from collections.abc import Callable

import numpy as np

from lzero import checks
from lzero.config import ExperimentConfig
from lzero.distributed import Distributed
from lzero.entry.build import lacks_are_run_errors, make_env
from lzero.entry.shards import assign_tasks
from lzero.logging import PhaseTimer
from lzero.policy.unizero_multitask import UniZeroMTPolicy
from lzero.replay.buffer import ReplayBuffer
from lzero.worker.actor import Actor
from lzero.worker.collector import Collector

ROWS_PER_WINDOW = (
    2  # env steps of a game for each window drawn of it: few windows begin at the same row
)


def steps_to_play(config: ExperimentConfig, windows: int) -> int:
    """Env steps of every environment behind ``windows`` windows of each game.

    Raises:
        ValueError: if ``windows`` is below 1.
    """
    checks.count("windows", windows)
    fewest = min(config.env.envs_of(game) for game in config.env.games)
    whole = config.policy.window + config.policy.burn_in_steps
    return whole + -(-ROWS_PER_WINDOW * windows // fewest)


@lacks_are_run_errors()
def played_replay(
    policy: UniZeroMTPolicy,
    windows: int,
    seed: int,
    dist: Distributed,
    advance: Callable[[], None] = lambda: None,
) -> ReplayBuffer:
    """What the policy plays in the training environments of its experiment, exploring as it does in training.

    Unlike a run's replay it holds no play of earlier parameters, and every row has the same priority.

    Args:
        policy: who plays; it stays as it is.
        windows: that are to be drawn of each game.
        seed: of environments and exploration.
        dist: of this process, which plays all games.
        advance: called after every step.

    Raises:
        ValueError: if ``windows`` is below 1.
        RunError: if the games need a package that is not there.
    """
    config = policy.config
    steps = steps_to_play(config, windows)
    games = config.env.games
    num_envs = [config.env.envs_of(game) for game in games]
    [share] = assign_tasks(len(games), num_envs, [1] * len(games), 1)
    env = make_env(config, share, dist.threads)
    try:
        replay = ReplayBuffer(
            env.task_id,
            steps,
            env.observation_shape,
            env.observation_dtype,
            env.num_actions,
            config.policy.window,
            past=config.policy.burn_in_steps,
        )
        explorer = Actor(policy, env.task_id, env.legal_actions, np.random.default_rng([seed, 1]))
        collector = Collector(env, explorer, replay, PhaseTimer())
        collector.begin(int(np.random.SeedSequence([seed, 0]).generate_state(1)[0]))
        for _ in range(steps):
            collector.collect(1)
            advance()
    finally:
        env.close()
    return replay
