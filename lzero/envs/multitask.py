"""Joins one gymnasium vector env per task into a single batch that steps in lockstep.

Shape legend: T tasks, n environments of one task, N environments of all tasks, A actions (the
largest set), C channels, H × W pixels, F features. Task t owns ``rows[t]`` of every ``(N, ...)``
array; rows never move.

Time in one environment reads: reset row, step rows, ..., final row (``episode_over``), reset row,
and so on. The final observation of an episode is an ordinary row, which is what bootstrapping at
a time limit needs. This is gymnasium's ``AutoresetMode.NEXT_STEP``, the only mode accepted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lzero import checks
from lzero.envs.answers import check_answer, naming
from lzero.envs.port import MAX_SEED, Port, ReplayablePort, VectorAnswer
from lzero.envs.task import (
    Layout,
    TaskEnv,
    channels_last,
    check_tasks,
    common_observation_dtype,
    common_observation_shape,
    num_actions_of,
    padded_size,
)


@dataclass(frozen=True)
class EnvStep:
    """What N environments answered. Its arrays are never written again: keep them freely."""

    observation: np.ndarray
    """``(N, *observation_shape)``; images are a channel-first view of channel-last memory, which
    torch calls channels_last."""
    reward: np.ndarray
    """``(N,)`` float32, the reward to learn from: the sign of ``raw_reward`` where the task clips.
    """
    raw_reward: np.ndarray
    """``(N,)`` float32, the reward of the environment: sum it for the score."""
    terminated: np.ndarray
    """``(N,)`` bool, no value beyond this row: the episode ended, or lost a life where that counts.
    """
    truncated: np.ndarray
    """``(N,)`` bool, cut by the time limit and not terminated: bootstrap from ``observation``."""
    episode_over: np.ndarray
    """``(N,)`` bool, the episode really ended, also by the time limit: a reset row follows."""
    reset: np.ndarray
    """``(N,)`` bool, this row only began an episode: its action was ignored and its reward is 0."""


def task_seed(seed: int, task_id: int) -> int:
    """Seed of a task's first environment; environment j takes ``task_seed + j`` (gymnasium's
    convention).

    Hashed, so that runs with neighbouring seeds share no environment seed; a function of the task
    alone, so that any rank may play the task. Below 2³¹ − 2²⁰: ALE keeps seeds in signed 32-bit
    integers.

    Raises:
        TypeError, ValueError: if one of them is no whole number, or negative.
    """
    checks.count("seed", seed, 0)
    checks.count("task_id", task_id, 0)
    return int(np.random.SeedSequence((seed, task_id)).generate_state(1)[0]) % MAX_SEED


class NotTheSameError(RuntimeError):
    """Environments that were played again did not end where they were."""


class MultiTaskVectorEnv:
    """All environments of all tasks as one batch.

    Args:
        tasks: one entry per task, in row order.
        num_actions: A; None for the largest action set. State it if other ranks hold other tasks.
        observation_shape: ``(C, H, W)`` or ``(F,)`` to pad to; None for the largest C or F.

    Attributes:
        num_envs: N.
        num_envs_per_task: n of each task.
        rows: one slice of the N rows per task.
        task_id: ``(N,)`` int64.
        env_number: ``(N,)`` int64, of the environment in its task, over all ranks.
        legal_actions: ``(N, A)`` bool, False where A exceeds the task's own action set or the task
            excludes an action.
        observation_shape: ``(C, H, W)`` or ``(F,)``; missing channels and features are zero.
        observation_dtype: uint8 or float32 for images, float32 for vectors.

    Raises:
        ValueError: if tasks cannot be joined; the message names the task, what was found and what
            to do.

    ``reset`` and ``step`` raise EnvironmentFaultError where an environment answers what it must not.
    """

    def __init__(
        self,
        tasks: Sequence[TaskEnv],
        *,
        num_actions: int | None = None,
        observation_shape: tuple[int, ...] | None = None,
    ) -> None:
        check_tasks(tasks)
        self._tasks = tuple(tasks)
        self._ports = [_port(task) for task in tasks]
        self.num_envs_per_task = tuple(task.env.num_envs for task in tasks)
        self.num_envs = sum(self.num_envs_per_task)
        borders = np.cumsum((0, *self.num_envs_per_task)).tolist()
        self.rows = tuple(map(slice, borders[:-1], borders[1:]))

        self.task_id, self.env_number = np.empty((2, self.num_envs), np.int64)
        self._clip_reward, self._end_on_life_loss = np.empty((2, self.num_envs), np.bool_)
        for task, rows in zip(tasks, self.rows, strict=True):
            self.task_id[rows] = task.task_id
            self.env_number[rows] = task.env_offset + np.arange(rows.stop - rows.start)
            self._clip_reward[rows] = task.clip_reward
            self._end_on_life_loss[rows] = task.end_on_life_loss
        sizes = list(map(num_actions_of, tasks))
        self.num_actions = padded_size("num_actions", num_actions, sizes, tasks)
        self.legal_actions = np.zeros((self.num_envs, self.num_actions), np.bool_)
        for task, rows, size in zip(tasks, self.rows, sizes, strict=True):
            legal = range(size) if task.legal_actions is None else task.legal_actions
            self.legal_actions[rows, list(legal)] = True

        self.observation_dtype = common_observation_dtype(tasks)
        self.observation_shape = common_observation_shape(tasks, observation_shape)
        self._lives = np.zeros(self.num_envs, np.int64)
        self._episode_over = np.ones(self.num_envs, np.bool_)
        self._length = np.zeros(self.num_envs, np.int64)  # env steps of the episodes under way
        self._limit = np.full(self.num_envs, np.iinfo(np.int64).max)
        self._observation = np.zeros((self.num_envs, *self.observation_shape))

    def limit_episodes(self, steps: Mapping[int, int]) -> None:
        """Cut every episode that its environment has not ended after so many env ``steps``, by task id.

        Environments that can be seeded alone (``TaskEnv.reseed_after``) then begin another one; others play on, and what
        follows is called the next episode.
        TypeError or ValueError unless each of the tasks has a whole number of them, at least 1.
        """
        for task, rows in zip(self._tasks, self.rows, strict=True):
            if task.task_id not in steps:
                raise ValueError(f"steps={checks.shown(dict(steps))} lacks task {task.task_id}")
            self._limit[rows] = checks.count(f"steps[{task.task_id}]", steps[task.task_id])

    def reset(self, seed: int) -> EnvStep:
        """Begin a new episode everywhere; all rows of the answer are reset rows.

        Environment j of a task is seeded with ``task_seed(seed, task_id) + env_offset + j``. Later
        episodes follow from there, so the same seed and the same actions give the same stream.
        TypeError or ValueError unless the seed is a whole number, at least 0.
        """
        self._check_open()
        checks.count("seed", seed, 0)
        answers = []
        for task, port in zip(self._tasks, self._ports, strict=True):
            with naming(task):
                observation, info = port.reset(task_seed(seed, task.task_id) + task.env_offset)
            nothing = np.zeros(task.env.num_envs)
            answers.append((observation, nothing, nothing, nothing, info))
        # What ran before is forgotten: an all-over predecessor makes every row a reset row.
        self._episode_over = np.ones(self.num_envs, np.bool_)
        return self._join(answers)

    def step(self, actions: np.ndarray) -> EnvStep:
        """Act in every environment; environments whose episode is over start the next one instead.

        Args:
            actions: ``(N,)`` int64, each legal in its row (also where it will be ignored).

        Raises:
            TypeError, ValueError: if actions are no array, an action is not legal, or the shape or dtype differs.
        """
        self._check_open()
        self._check_actions(actions)
        # All tasks start before the first one is awaited, so that thread pools and worker processes
        # overlap.
        for task, port, rows in zip(self._tasks, self._ports, self.rows, strict=True):
            with naming(task):
                port.send(actions[rows])
        answers = []
        for task, port in zip(self._tasks, self._ports, strict=True):
            with naming(task):
                answers.append(port.receive())
        return self._join(answers)

    def state(self) -> dict[str, np.ndarray] | None:
        """What brings another such env to where this one is; None if a task has no ``reseed_after``."""
        self._check_open()
        state = {
            "lives": self._lives,
            "episode_over": self._episode_over,
            "length": self._length,
            "observation": self._observation,
        }
        for task, port in zip(self._tasks, self._ports, strict=True):
            remembered = port.state()
            if remembered is None:
                return None
            state |= {f"{task.task_id}/{name}": values for name, values in remembered.items()}
        return state

    def restore(self, state: dict[str, np.ndarray]) -> np.ndarray:
        """Go to where the env was whose :meth:`state` this is, by playing its last steps again.

        Returns:
            Its last observation ``(N, *observation_shape)``; the next step answers what it would have answered.

        Raises:
            ValueError: if it is no state of these tasks.
            NotTheSameError: if another observation is seen at the end: the games, their versions or settings differ, or are
                not deterministic. Reset the env then.
        """
        self._check_open()
        stored = self._blank_observations()
        for task, port, rows in zip(self._tasks, self._ports, self.rows, strict=True):
            prefix = f"{task.task_id}/"
            own = {
                name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)
            }
            _write(stored[rows], port.restore(own), task.layout)
        observation = _channels_first(stored)
        same = (observation == state["observation"]).reshape(self.num_envs, -1).all(axis=1)
        if not same.all():
            names = {
                self._tasks[i].name for i, rows in enumerate(self.rows) if not same[rows].all()
            }
            raise NotTheSameError(
                f"{int((~same).sum())} of {self.num_envs} environments ({', '.join(sorted(names))}) were played again "
                "and ended elsewhere"
            )
        self._lives, self._episode_over = state["lives"].copy(), state["episode_over"].copy()
        self._length = state["length"].copy()
        self._observation = observation
        return observation

    def close(self) -> None:
        """Close the environments and let go of them, which ends their threads. Calling it twice is
        fine.
        """
        for task in self._tasks:
            task.env.close()
        self._tasks, self._ports = (), []

    def _check_open(self) -> None:
        if not self._tasks:
            raise ValueError("this multi-task env is closed; make a new one")

    def _join(self, answers: Sequence[VectorAnswer]) -> EnvStep:
        observation = self._blank_observations()
        raw_reward = np.empty(self.num_envs, np.float32)
        ended, timed_out = np.empty((2, self.num_envs), np.bool_)
        lives = self._lives.copy()
        for task, rows, answer in zip(self._tasks, self.rows, answers, strict=True):
            check_answer(task, answer)
            native, raw_reward[rows], ended[rows], timed_out[rows], info = answer
            _write(observation[rows], native, task.layout)
            if task.end_on_life_loss:
                lives[rows] = _lives(info, task)

        is_reset = self._episode_over
        raw_reward[is_reset] = 0.0  # some environments that were cut have played on
        self._length = np.where(is_reset, 0, self._length + 1)
        cut = (self._length >= self._limit) & ~ended & ~timed_out
        if cut.any():
            timed_out = timed_out | cut
            for port, rows in zip(self._ports, self.rows, strict=True):
                port.cut(cut[rows])
        life_lost = self._end_on_life_loss & (lives < self._lives) & ~is_reset
        terminated = ended | life_lost
        self._episode_over = ended | timed_out
        self._lives = lives
        self._observation = _channels_first(observation)
        return EnvStep(
            observation=self._observation,
            reward=np.where(self._clip_reward, np.sign(raw_reward), raw_reward),
            raw_reward=raw_reward,
            terminated=terminated,
            truncated=timed_out & ~terminated,
            episode_over=self._episode_over,
            reset=is_reset,
        )

    def _blank_observations(self) -> np.ndarray:
        """``(N, F)`` or channel-last ``(N, H, W, C)``; new each time, so that no caller sees it
        change.
        """
        shape = self.observation_shape
        stored = shape if len(shape) == 1 else (*shape[1:], shape[0])
        return np.zeros((self.num_envs, *stored), self.observation_dtype)

    def _check_actions(self, actions: np.ndarray) -> None:
        checks.instance("actions", actions, np.ndarray, "an array")
        if actions.shape != (self.num_envs,) or actions.dtype != np.int64:
            raise ValueError(
                f"actions: got shape {actions.shape} and dtype {actions.dtype}, "
                f"allowed is shape ({self.num_envs},) and dtype int64"
            )
        # Left unchecked, an action that ALE does not know kills its worker and the step never
        # returns.
        known = (actions >= 0) & (actions < self.num_actions)
        legal = known & self.legal_actions[np.arange(self.num_envs), np.where(known, actions, 0)]
        if not legal.all():
            row = int(legal.argmin())
            ends = np.cumsum(self.num_envs_per_task)
            name = self._tasks[int(np.searchsorted(ends, row, side="right"))].name
            raise ValueError(
                f"actions[{row}]={actions[row]} is not a legal action of task {name!r}; allowed "
                "are "
                f"{', '.join(map(str, np.flatnonzero(self.legal_actions[row])))} (mask the policy "
                "with legal_actions)"
            )


def _port(task: TaskEnv) -> Port:
    if task.reseed_after is None:
        return Port(task.env)
    return ReplayablePort(task.env, task.reseed_after)


def _channels_first(stored: np.ndarray) -> np.ndarray:
    """Observations as callers see them, a view: ``(N, C, H, W)`` or ``(N, F)``."""
    return stored if stored.ndim == 2 else stored.transpose(0, 3, 1, 2)


def _write(target: np.ndarray, native: np.ndarray, layout: Layout) -> None:
    """Copy observations into the leading channels (features) of ``target`` ``(n, H, W, C)`` or
    ``(n, F)``.
    """
    source = channels_last(native, layout)
    target[..., : source.shape[-1]] = source


def _lives(info: dict[str, Any], task: TaskEnv) -> np.ndarray:
    if "lives" not in info:
        raise ValueError(
            f"task {task.name!r}: end_on_life_loss=True needs info['lives'], but the environment's "
            "info has "
            f"{sorted(info) or 'no entries'}; set end_on_life_loss=False or report lives in info"
        )
    return info["lives"]
