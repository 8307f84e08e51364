"""MinAtar games of the package ``minatar`` as one gymnasium vector env in this process.

A step takes microseconds. The package is GPL-3 and optional: it is imported when the first game is
made, not when this module is.

Shape legend: n = environments, C = channels of the game, one per kind of object.
"""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from lzero import checks
from lzero.config import nearest
from lzero.envs.port import ReplayablePort

GAMES = {
    "Breakout": "breakout",
    "Asterix": "asterix",
    "SpaceInvaders": "space_invaders",
    "Freeway": "freeway",
    "Seaquest": "seaquest",
}
"""The package's name of every game."""

SIDE = 10
"""Height and width of the grid in cells."""
NUM_ACTIONS = 6
"""The same in all games: nothing, left, up, right, down, fire."""
NOTHING = 0
MAX_EPISODE_STEPS = 2500
"""Default time limit in env steps. Freeway ends itself, as a death, one step later and no
observation shows that clock; with this limit its episodes are truncated instead."""
CELL_PIXELS = 16
RESEED_AFTER = 0
"""Every episode has a seed of its own (:class:`~lzero.envs.port.ReplayablePort`): a seed costs microseconds."""


@dataclass(frozen=True)
class GameShape:
    """What a game shows and reacts to."""

    channels: int
    """C."""
    minimal_actions: tuple[int, ...]
    """Those that have an effect, ascending."""


@functools.cache
def game_shape(name: str) -> GameShape:
    """Channels and useful actions of a game, asked of the package.

    Raises:
        ValueError: if the game is unknown.
        ImportError: if the package ``minatar`` is missing.
    """
    game = _make_game(name, sticky=0.0, difficulty_ramping=True)
    return GameShape(game.n_channels, tuple(sorted(game.minimal_action_set())))


class MinAtarVectorEnv(VectorEnv):
    """n environments of one game: observations ``(n, 10, 10, C)`` uint8, 255 where an object is;
    autoreset NEXT_STEP.

    The same seed and the same actions give the same stream. Every episode starts from "nothing" as
    the action that a sticky step would repeat, so that no episode depends on how the one before it
    ended.

    Args:
        name: one of :data:`GAMES`.
        num_envs: n.
        max_episode_steps: time limit in env steps; it truncates and does not terminate.
        sticky: probability per env step that the game repeats the action it executed last.
        difficulty_ramping: games get harder with progress (Breakout and Freeway never do).

    Raises:
        ValueError: if the game is unknown or a number is out of range.
        ImportError: if the package ``minatar`` is missing.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}

    def __init__(
        self,
        name: str,
        num_envs: int,
        *,
        max_episode_steps: int = MAX_EPISODE_STEPS,
        sticky: float = 0.1,
        difficulty_ramping: bool = True,
    ) -> None:
        checks.count("num_envs", num_envs)
        checks.count("max_episode_steps", max_episode_steps)
        checks.number("sticky", sticky, 0.0, 1.0)
        self.num_envs = num_envs
        self._max_episode_steps = max_episode_steps
        self._games = [_make_game(name, sticky, difficulty_ramping) for _ in range(num_envs)]
        self.single_observation_space = Box(
            0, 255, (SIDE, SIDE, game_shape(name).channels), np.uint8
        )
        self.single_action_space = Discrete(NUM_ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._over = np.ones(num_envs, np.bool_)
        self._steps = np.zeros(num_envs, np.int64)
        self._seen = np.zeros((num_envs, SIDE, SIDE, game_shape(name).channels), np.uint8)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode in every environment.

        Args:
            seed: one for each environment, or a number: environment j is seeded with ``seed + j``; None continues the
                random streams.
            options: ``reset_mask (n,)`` bool: begin in these environments alone.
        """
        where = (options or {}).get("reset_mask", np.ones(self.num_envs, np.bool_))
        seeds = range(seed, seed + self.num_envs) if isinstance(seed, int) else seed
        for j in np.flatnonzero(where).tolist():
            if seeds is not None:
                self._games[j].seed(seeds[j])
            _begin_episode(self._games[j])
        self._over[where] = False
        self._steps[where] = 0
        begun = np.flatnonzero(where)
        if len(begun):  # the others show what they showed
            self._seen[begun] = self._observe(begun.tolist())
        return self._seen.copy(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Act in every environment; those whose episode is over begin the next one and ignore their
        action.

        Args:
            actions: ``(n,)`` int64, 0 to 5.

        Returns:
            Observations, rewards float64, terminated and truncated (each ``(n,)``), and an empty
            info.

        Raises:
            ValueError: if there is not one of the six actions for each.
        """
        actions = checks.integers("actions", actions)
        checks.shape("actions", actions, self.num_envs)
        if actions.min() < 0 or actions.max() >= NUM_ACTIONS:
            raise ValueError(f"actions={actions.tolist()}: allowed are 0 to {NUM_ACTIONS - 1}")
        reward = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, np.bool_)
        for j, game in enumerate(self._games):
            if self._over[j]:
                _begin_episode(game)
            else:
                reward[j], terminated[j] = game.act(actions[j])
        self._steps = np.where(self._over, 0, self._steps + 1)
        truncated = (self._steps >= self._max_episode_steps) & ~terminated
        self._over = terminated | truncated
        self._seen = self._observe(range(self.num_envs))
        return self._seen.copy(), reward, terminated, truncated, {}

    def _observe(self, envs: Sequence[int]) -> np.ndarray:
        occupied = np.stack([self._games[j].state() for j in envs])
        return np.multiply(occupied, 255, dtype=np.uint8)


class MinAtarScreen:
    """Replays the first environment of a task as pictures, for videos.

    With the same seed, settings and actions (also those that a reset row ignores) it plays the same
    episodes.

    Args:
        name: the game.
        settings: those of the environment that it shadows, as in :class:`MinAtarVectorEnv`.

    Attributes:
        frames_per_second: of a video with one picture per env step, at about the speed of a human's
            game.
        raw_reward: of the last step.
        episode_over: whether the last step ended the episode; the next one starts another.
    """

    frames_per_second = 15

    def __init__(self, name: str, **settings: Any) -> None:
        self._port = ReplayablePort(MinAtarVectorEnv(name, 1, **settings), RESEED_AFTER)
        self._colours = _colours(game_shape(name).channels)
        self.raw_reward, self.episode_over = 0.0, False

    def reset(self, seed: int) -> np.ndarray:
        """First picture ``(160, 160, 3)`` uint8 RGB of the episode that ``seed`` starts."""
        observation, _ = self._port.reset(seed)
        self.raw_reward, self.episode_over = 0.0, False
        return self._picture(observation[0])

    def step(self, action: int) -> np.ndarray:
        """Picture after ``action``, which is what the shadowed environment got."""
        observation, reward, terminated, truncated, _ = self._port.step(
            np.array([action], np.int64)
        )
        self.raw_reward, self.episode_over = float(reward[0]), bool(terminated[0] | truncated[0])
        return self._picture(observation[0])

    def close(self) -> None:
        """Close the environment."""
        self._port.env.close()

    def _picture(self, observation: np.ndarray) -> np.ndarray:
        """Every channel in its own colour; objects in one cell mix theirs, so that none hides
        another."""
        present = observation / 255.0
        share = present / np.maximum(present.sum(axis=2, keepdims=True), 1.0)
        cells = (share @ self._colours).round().astype(np.uint8)
        return cells.repeat(CELL_PIXELS, axis=0).repeat(CELL_PIXELS, axis=1)


def _colours(channels: int) -> np.ndarray:
    """``(C, 3)`` RGB of 0 to 255: hues evenly spaced on the circle."""
    return 255.0 * np.array(
        [colorsys.hsv_to_rgb(channel / channels, 0.75, 1.0) for channel in range(channels)]
    )


def _make_game(name: str, sticky: float, difficulty_ramping: bool) -> Any:
    if name not in GAMES:
        raise ValueError(f"game {name!r} is not of MinAtar; {nearest(name, list(GAMES))}")
    return _package().Environment(
        GAMES[name], sticky_action_prob=sticky, difficulty_ramping=difficulty_ramping
    )


def _package() -> ModuleType:
    try:
        import minatar
    except ModuleNotFoundError as error:
        if error.name != "minatar":  # it is installed, but something that it needs is not
            raise
        raise ImportError(
            "MinAtar games need the package minatar (GPL-3), an optional extra. Install it:\n"
            "pip install minatar\n"
            "or, in a checkout of this project: pip install -e .[minatar]"
        ) from error
    return minatar


def _begin_episode(game: Any) -> None:
    game.reset()
    game.last_action = NOTHING
