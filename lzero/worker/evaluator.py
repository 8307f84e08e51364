"""Evaluating: whole episodes of every game with search and without exploration.

Shape legend: N = environments, T = tasks of the run, E = episodes per task.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lzero import checks
from lzero.envs.domain import Screen
from lzero.envs.multitask import MultiTaskVectorEnv, task_seed
from lzero.worker.collector import EpisodeCounter


class Choice(Protocol):
    """What an evaluation asks of a decision."""

    @property
    def action(self) -> np.ndarray:
        """``(N,)`` int64."""


class Player(Protocol):
    """Who is evaluated: an :class:`~lzero.worker.actor.Actor`, or anybody else who chooses actions."""

    def act(self, observation: np.ndarray) -> Choice:
        """Choose an action for every observation ``(N, *shape)``."""

    def forget(self, ended: np.ndarray) -> None:
        """Forget the past of the environments whose episode ``ended (N,)``."""


@dataclass(frozen=True)
class Film:
    """Where the pictures of one episode come from, and who takes each of them as it comes."""

    screen: Screen
    write: Callable[[np.ndarray], None]
    """Takes ``(height, width, 3)`` uint8."""


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        score: ``(tasks of this rank, E)`` sums of the games' own rewards.
        length: env steps ``(tasks of this rank, E)``.
        cut: episodes that a time limit ended ``(tasks of this rank,)``.
    """

    score: np.ndarray
    length: np.ndarray
    cut: np.ndarray


class _Camera:
    """Films the first environment of a task until its first episode ends."""

    def __init__(self, film: Film, row: int, seed: int) -> None:
        self.film, self.row = film, row
        self.film.write(film.screen.reset(seed))
        self.rolling = True

    def follow(self, actions: np.ndarray, over: np.ndarray) -> None:
        if not self.rolling:
            return
        self.film.write(self.film.screen.step(int(actions[self.row])))
        if over[self.row]:
            self.rolling = False
            self.film.screen.close()


def evaluate(
    env: MultiTaskVectorEnv,
    actor: Player,
    num_episodes: int,
    seed: int,
    *,
    films: Mapping[int, Film] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Play ``num_episodes`` episodes of every task.

    Every environment plays its own fixed share of the episodes, so that short episodes are not
    counted more often than long ones. The actor's context is cleared where an episode ends.

    Args:
        env: evaluation environments, neither clipping rewards nor cutting at lost lives.
        actor: not exploring, with as many roots as ``env`` has environments.
        num_episodes: E; rounded up to a multiple of each task's environments, the surplus is
            dropped.
        seed: of the environments.
        films: by task id, of the first episode.
        on_step: told (episodes finished, episodes wanted) after every step.

    Raises:
        TypeError: if a number is no whole one.
        ValueError: if no episode is to be played, the seed is negative, or a film is of no task.
    """
    checks.count("num_episodes", num_episodes)
    checks.count("seed", seed, 0)
    for task in films or {}:
        if task not in env.task_id:
            raise ValueError(
                f"films has task {task}: the tasks are {np.unique(env.task_id).tolist()}"
            )
    cameras: dict[int, _Camera] = {}
    for task, film in (films or {}).items():
        first_row = int(np.flatnonzero(env.task_id == task)[0])
        cameras[task] = _Camera(film, first_row, task_seed(seed, task))
    counts = np.array(env.num_envs_per_task)
    per_env = np.repeat(-(-num_episodes // counts), counts)  # rounded up
    score = np.zeros((env.num_envs, per_env.max()))
    length = np.zeros((env.num_envs, per_env.max()), np.int64)
    cut = np.zeros((env.num_envs, per_env.max()), np.int64)
    done = np.zeros(env.num_envs, np.int64)
    counter = EpisodeCounter(env.task_id)

    observation = env.reset(seed).observation
    actor.forget(np.ones(env.num_envs, bool))
    while (done < per_env).any():
        action = actor.act(observation).action
        step = env.step(action)
        for camera in cameras.values():
            camera.follow(action, step.episode_over)
        ended = counter.add(step)
        wanted = done[ended.env] < per_env[ended.env]
        cell = ended.env[wanted], done[ended.env[wanted]]
        score[cell], length[cell] = ended.score[wanted], ended.length[wanted]
        cut[cell] = step.truncated[ended.env[wanted]]
        done[cell[0]] += 1
        actor.forget(step.episode_over | step.reset)
        observation = step.observation
        if on_step is not None:
            on_step(int(done.sum()), int(per_env.sum()))
    return Evaluation(
        score=_first_episodes(score, per_env, env, num_episodes),
        length=_first_episodes(length, per_env, env, num_episodes),
        cut=_first_episodes(cut, per_env, env, num_episodes).sum(axis=1),
    )


def _first_episodes(
    values: np.ndarray, per_env: np.ndarray, env: MultiTaskVectorEnv, num_episodes: int
) -> np.ndarray:
    """``(tasks, E)``: of every task, the environments' first episodes, then their second ones, and
    so on.
    """
    by_task = []
    for rows in env.rows:
        by_task.append(values[rows, : per_env[rows.start]].T.flatten()[:num_episodes])
    return np.stack(by_task)
