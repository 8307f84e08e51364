"""Pictures of environments of gymnasium's registry, for videos."""

import logging
from collections.abc import Callable

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from lzero.envs.domain import Screen
from lzero.envs.port import Port, ReplayablePort
from zoo.gym.envs import STANDARD_FRAME_SKIP, View, make_gym_vector_env, reseed_after
from zoo.gym.games import Look
from zoo.gym.registry import why_not_made

logger = logging.getLogger(__name__)

DEFAULT_FRAMES_PER_SECOND = 30  # of environments that name no rate
CONSOLE_FRAMES_PER_SECOND = 60


class GymScreen:
    """Plays one environment a second time and takes pictures of it; see :class:`lzero.envs.domain.Screen`.

    Args:
        look: the game.
        env: one environment of it.
        picture: makes ``(height, width, 3)`` uint8 of what ``env`` has observed last.
        frames_per_second: as fast as the game is meant to be.
    """

    def __init__(
        self,
        look: Look,
        env: VectorEnv,
        picture: Callable[[np.ndarray], np.ndarray],
        frames_per_second: int,
    ) -> None:
        after = reseed_after(look)
        self._port = Port(env) if after is None else ReplayablePort(env, after)
        self._picture = picture
        self.frames_per_second = frames_per_second

    def reset(self, seed: int) -> np.ndarray:
        """First picture of the episode that ``seed`` starts."""
        return self._picture(self._port.reset(seed)[0])

    def step(self, action: int) -> np.ndarray:
        """Picture after ``action``."""
        return self._picture(self._port.step(np.array([action], np.int64))[0])

    def close(self) -> None:
        """Free the environment."""
        self._port.env.close()


def make_screen(look: Look, view: View) -> Screen | None:
    """A screen of a game that can be rendered as pictures; None where it cannot, or where a package for it is missing."""
    if look.is_native_ale:  # the emulator's whole screen, in colours
        env = make_gym_vector_env(look, 1, View())
        skip = look.spec.kwargs.get("frameskip", 1)
        skip = STANDARD_FRAME_SKIP if skip == 1 else skip
        return GymScreen(look, env, lambda seen: seen[0, -1], CONSOLE_FRAMES_PER_SECOND // skip)
    if "rgb_array" not in look.render_modes:
        return None
    try:
        env = make_gym_vector_env(look, 1, view, render_mode="rgb_array")
        env.reset(seed=0)
        _rendered(env)
    except (ImportError, TypeError, ValueError, gymnasium.error.Error) as error:
        logger.warning("no video of %s: %s", look.game, why_not_made(error))
        return None
    rate = int(env.metadata.get("render_fps") or DEFAULT_FRAMES_PER_SECOND)
    return GymScreen(look, env, lambda seen: _rendered(env), rate)


def _rendered(env: VectorEnv) -> np.ndarray:
    """What the only environment of ``env`` shows.

    Raises:
        ValueError: if it is no picture in colours.
    """
    picture = np.asarray((env.render() or (None,))[0])
    if picture.ndim != 3 or picture.shape[-1] != 3 or picture.dtype != np.uint8:
        raise ValueError(f"its render() answers {picture.dtype} of shape {picture.shape}")
    return picture
