"""Catch in numpy: a ball falls down a small grid, a paddle in the lowest row has to be under it.

In the mirrored game the two moves are swapped and nothing else: one picture asks for opposite
actions. The tasks therefore conflict, and a picture alone does not tell them apart: the paddle
starts anywhere, or its place would show which way the first moves went.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from lzero import checks
from lzero.envs.port import ReplayablePort

ROWS, COLUMNS = 8, 5
ACTIONS = ("left", "stay", "right")
BALL, PADDLE = 0, 1  # channels
RESEED_AFTER = 0
"""Every episode has a seed of its own (:class:`~lzero.envs.port.ReplayablePort`): a seed costs nothing."""
CATCH_COLOURS = np.array([[235, 235, 235], [80, 160, 240]], np.uint8)


class CatchVectorEnv(VectorEnv):
    """n Catch games: observations ``(n, ROWS, COLUMNS, 2)`` uint8, 0 or 255; an episode lasts ROWS
    − 1 steps.

    The last step rewards +1 if the paddle is under the ball and −1 if not. Ball and paddle start in
    columns that depend on the environment's seed and the number of the episode alone, so
    environments can be split over processes.

    Args:
        num_envs: n.
        mirrored: swap left and right.

    Raises:
        ValueError: if there is no environment.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, num_envs: int, *, mirrored: bool = False) -> None:
        self.num_envs = checks.count("num_envs", num_envs)
        self.single_observation_space = gymnasium.spaces.Box(0, 255, (ROWS, COLUMNS, 2), np.uint8)
        self.single_action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._direction = -1 if mirrored else 1
        self._seed = np.arange(num_envs, dtype=np.uint64)
        self._episode = np.zeros(num_envs, np.uint64)
        self._ball_row = np.zeros(num_envs, np.int64)
        self._ball_column = np.zeros(num_envs, np.int64)
        self._paddle = np.zeros(num_envs, np.int64)
        self._over = np.ones(num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a new episode everywhere, or where the option ``reset_mask (n,)`` says.

        Args:
            seed: one for each environment, or a number: environment j takes ``seed + j``; None continues the seeds'
                episodes.
            options: see above.
        """
        where = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        if seed is not None:
            seeds = seed + np.arange(self.num_envs) if isinstance(seed, int) else np.array(seed)
            self._seed[where] = seeds[where].astype(np.uint64)
            self._episode[where] = 0
        self._begin(where)
        return self._observe(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Move the paddles and let the balls fall; environments whose episode is over begin the
        next one instead.

        Raises:
            ValueError: if there is not one of the three actions for each.
        """
        actions = checks.integers("actions", actions)
        checks.shape("actions", actions, self.num_envs)
        if actions.min() < 0 or actions.max() >= len(ACTIONS):
            raise ValueError(f"actions={actions.tolist()}: allowed are 0 to {len(ACTIONS) - 1}")
        began = self._over.copy()
        move = self._direction * (actions - 1)
        self._paddle = np.where(began, self._paddle, np.clip(self._paddle + move, 0, COLUMNS - 1))
        self._ball_row += ~began
        self._begin(began)
        self._over = (self._ball_row == ROWS - 1) & ~began
        reward = np.where(self._over, np.where(self._paddle == self._ball_column, 1.0, -1.0), 0.0)
        return self._observe(), reward, self._over.copy(), np.zeros(self.num_envs, bool), {}

    def _begin(self, where: np.ndarray) -> None:
        """Put ball and paddle of the environments ``where (n,)`` at the start of their next
        episode."""
        self._ball_row[where] = 0
        places = _hash(self._seed[where], self._episode[where]) % np.uint64(COLUMNS**2)
        self._ball_column[where], self._paddle[where] = np.divmod(places.astype(np.int64), COLUMNS)
        self._episode[where] += np.uint64(1)
        self._over[where] = False

    def _observe(self) -> np.ndarray:
        picture = np.zeros((self.num_envs, ROWS, COLUMNS, 2), np.uint8)
        everyone = np.arange(self.num_envs)
        picture[everyone, self._ball_row, self._ball_column, BALL] = 255
        picture[everyone, ROWS - 1, self._paddle, PADDLE] = 255
        return picture


def _hash(seed: NDArray[np.uint64], episode: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Well mixed uint64 of two uint64 (the finaliser of splitmix64; Steele et al. 2014, doi
    10.1145/2660193.2660195)."""
    z: NDArray[np.uint64] = (seed << np.uint64(32)) + episode * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class CatchScreen:
    """Pictures of one Catch game for a video; see :class:`lzero.envs.domain.Screen`."""

    frames_per_second = 8
    SCALE = 24

    def __init__(self, *, mirrored: bool) -> None:
        self._port = ReplayablePort(CatchVectorEnv(1, mirrored=mirrored), RESEED_AFTER)

    def reset(self, seed: int) -> np.ndarray:
        """First picture of the episode that ``seed`` starts."""
        return self._picture(self._port.reset(seed)[0])

    def step(self, action: int) -> np.ndarray:
        """Picture after ``action``."""
        return self._picture(self._port.step(np.array([action]))[0])

    def close(self) -> None:
        """Nothing to free."""

    def _picture(self, observation: np.ndarray) -> np.ndarray:
        coloured = observation[0, :, :, None, :] // 255 * CATCH_COLOURS.T
        grid = coloured.max(axis=-1)  # (ROWS, COLUMNS, 3)
        return grid.repeat(self.SCALE, axis=0).repeat(self.SCALE, axis=1)
