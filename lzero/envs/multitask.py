"""Joins one gymnasium vector env per task into a single batch that steps in lockstep.

Shape legend: T tasks, n environments of one task, N environments of all tasks, A actions (the
largest set), C channels, H × W pixels, F features. Task t owns ``rows[t]`` of every ``(N, ...)``
array; rows never move.

Time in one environment reads: reset row, step rows, ..., final row (``episode_over``), reset row,
and so on. The final observation of an episode is an ordinary row, which is what bootstrapping at
a time limit needs. This is gymnasium's ``AutoresetMode.NEXT_STEP``, the only mode accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

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

VectorAnswer = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]
"""What a gymnasium vector env answers: observations, rewards, terminated, truncated, and infos,
which may be anything.
"""


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
        ValueError: if ``seed`` or ``task_id`` is negative.
    """
    # the part below 2³¹ that is left free takes the numbers of a task's environments
    return int(np.random.SeedSequence((seed, task_id)).generate_state(1)[0]) % (2**31 - 2**20)


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
        legal_actions: ``(N, A)`` bool, False where A exceeds the task's own action set or the task
            excludes an action.
        observation_shape: ``(C, H, W)`` or ``(F,)``; missing channels and features are zero.
        observation_dtype: uint8 or float32 for images, float32 for vectors.

    Raises:
        ValueError: if tasks cannot be joined; the message names the task, what was found and what
            to do.
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
        self._ports = [_port(task.env) for task in tasks]
        self.num_envs_per_task = tuple(task.env.num_envs for task in tasks)
        self.num_envs = sum(self.num_envs_per_task)
        borders = np.cumsum((0, *self.num_envs_per_task)).tolist()
        self.rows = tuple(map(slice, borders[:-1], borders[1:]))

        self.task_id = np.empty(self.num_envs, np.int64)
        self._clip_reward, self._end_on_life_loss = np.empty((2, self.num_envs), np.bool_)
        for task, rows in zip(tasks, self.rows, strict=True):
            self.task_id[rows] = task.task_id
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

    def reset(self, seed: int) -> EnvStep:
        """Begin a new episode everywhere; all rows of the answer are reset rows.

        Environment j of a task is seeded with ``task_seed(seed, task_id) + env_offset + j``. Later
        episodes continue from there, so the same seed and the same actions give the same stream.
        """
        self._check_open()
        answers = []
        for task in self._tasks:
            observation, info = task.env.reset(seed=task_seed(seed, task.task_id) + task.env_offset)
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
            ValueError: if an action is not legal, or the shape or dtype differs.
        """
        self._check_open()
        self._check_actions(actions)
        # All tasks start before the first one is awaited, so that thread pools and worker processes
        # overlap.
        for (send, _), rows in zip(self._ports, self.rows, strict=True):
            send(actions[rows])
        return self._join([receive() for _, receive in self._ports])

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
            native, raw_reward[rows], ended[rows], timed_out[rows], info = answer
            _write(observation[rows], native, task.layout)
            if task.end_on_life_loss:
                lives[rows] = _lives(info, task)

        is_reset = self._episode_over
        life_lost = self._end_on_life_loss & (lives < self._lives) & ~is_reset
        terminated = ended | life_lost
        self._episode_over = ended | timed_out
        self._lives = lives
        return EnvStep(
            observation=observation if observation.ndim == 2 else observation.transpose(0, 3, 1, 2),
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


def _port(env: VectorEnv) -> tuple[Callable[[np.ndarray], object], Callable[[], VectorAnswer]]:
    """``send(actions)`` and ``receive()`` of an env.

    Looked up on the class, not the instance: a wrapper that forwards unknown attributes must not be
    bypassed.
    """
    for send, receive in (("send", "recv"), ("step_async", "step_wait")):
        if hasattr(type(env), send) and hasattr(type(env), receive):
            return getattr(env, send), getattr(env, receive)
    waiting: list[np.ndarray] = []
    return waiting.append, lambda: env.step(waiting.pop())


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
