"""A policy that does not look, and what it scores: the lower end of a common scale.

Shape legend: N = environments, A = actions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lzero import checks
from lzero.envs.multitask import MultiTaskVectorEnv
from lzero.envs.random_scores import RandomScore
from lzero.worker.collector import EpisodeCounter

EPISODES = 20  # their mean is known to a quarter of their deviation
MAX_ENV_STEPS = 20_000  # per game: twenty seconds of one that makes a thousand steps a second


@dataclass(frozen=True)
class RandomChoice:
    """Actions ``(N,)`` int64, as an evaluation asks for them."""

    action: np.ndarray


class RandomPlayer:
    """Draws legal actions uniformly, in a policy's place.

    Args:
        legal: ``(N, A)`` bool.
        seed: of the draws.
    """

    def __init__(self, legal: np.ndarray, seed: int) -> None:
        self.legal, self.rng = legal, np.random.default_rng(seed)

    def act(self, observation: np.ndarray) -> RandomChoice:
        """Choose without looking."""
        drawn = np.where(self.legal, self.rng.random(self.legal.shape), -1.0)
        return RandomChoice(drawn.argmax(axis=1))

    def forget(self, ended: np.ndarray) -> None:
        """There is no memory."""


def measure_random_policy(
    env: MultiTaskVectorEnv,
    seed: int,
    *,
    episodes: int = EPISODES,
    max_env_steps: int = MAX_ENV_STEPS,
    on_step: Callable[[int, int], None] | None = None,
) -> dict[int, RandomScore]:
    """What a random policy scores, by task id.

    Every environment plays its own share of the episodes, rounded up, so that short ones are not counted more often. Where
    ``max_env_steps`` of a game end before they do, its running episodes count with what they have got.

    Args:
        env: evaluation environments; they are reset.
        seed: of environments and actions: it decides the result.
        episodes: of every task.
        max_env_steps: of every task.
        on_step: told (episodes finished, episodes wanted) after every step.

    Raises:
        TypeError, ValueError: if a number is no whole one, or out of range.
    """
    checks.count("seed", seed, 0)
    checks.count("episodes", episodes)
    checks.count("max_env_steps", max_env_steps)
    counts = np.array(env.num_envs_per_task)
    share = np.repeat(-(-episodes // counts), counts)  # of each environment, rounded up
    limit = np.repeat(-(-max_env_steps // counts), counts)  # of its env steps
    player = RandomPlayer(env.legal_actions, seed)
    counter = EpisodeCounter(env.task_id)
    scores: list[list[float]] = [[] for _ in range(env.num_envs)]
    cut = np.zeros(env.num_envs, np.int64)
    done = np.zeros(env.num_envs, np.int64)

    observation = env.reset(seed).observation
    steps = 0
    while True:
        running = (done < share) & (steps < limit)
        if not running.any():
            break
        step = env.step(player.act(observation).action)
        observation = step.observation
        steps += 1
        ended = counter.add(step)
        for row, score in zip(ended.env, ended.score, strict=True):
            if running[row]:
                scores[row].append(float(score))
                done[row] += 1
        for row in np.flatnonzero((done < share) & (steps == limit) & (counter.length > 0)):
            scores[row].append(float(counter.score[row]))
            cut[row] += 1
        if on_step is not None:
            on_step(int(done.sum()), int(share.sum()))

    found = {}
    for rows in env.rows:
        of_task = np.concatenate([np.array(scores[row]) for row in range(rows.start, rows.stop)])
        score = RandomScore(
            float(of_task.mean()), float(of_task.std()), len(of_task), int(cut[rows].sum())
        )
        found[int(env.task_id[rows.start])] = score
    return found
