"""Vector envs of gymnasium's ids: gymnasium vectorises and wraps, ale_py does it for Atari games.

Shape legend: n = environments, F = features, S = stacked frames, H × W = pixels, C = channels of one frame.
"""

import copy
import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import (
    FlattenObservation,
    FrameStackObservation,
    GrayscaleObservation,
    ResizeObservation,
    TransformAction,
    TransformObservation,
)

from lzero import checks
from lzero.envs.task import Layout
from zoo.gym.games import Look

RESEED_AFTER = 1000
"""Env steps after which the next episode gets a new seed: seeding begins an episode twice, and a run that continues plays
again what came since, so many steps and an episode."""
STANDARD_FRAME_SKIP = 4
"""Of Atari games whose id skips none itself, such as ``PongNoFrameskip-v4`` (Machado et al., arXiv 1709.06009)."""
NOOP_MAX = 30  # of Atari games, same source
ALE_SCREEN = (210, 160)


@dataclass(frozen=True)
class View:
    """How the pictures of a game are shown to the agent."""

    side: int | None = None
    """Height and width to which they are resized; None leaves them as they are."""
    grayscale: bool = False
    frame_stack: int = 1

    def shape_of(self, look: Look) -> tuple[int, ...]:
        """``(F,)``, or ``(C · S, H, W)``."""
        if look.kind == "vector":
            return look.shape
        height, width, channels = look.shape
        if self.side is not None:
            height = width = self.side
        if self.grayscale and channels == 3:
            channels = 1
        return channels * self.frame_stack, height, width

    def layout_of(self, look: Look) -> Layout:
        """Of what :func:`make_gym_vector_env` makes."""
        if look.kind == "vector":
            return "vector"
        if look.is_native_ale:
            return "chw" if self.grayscale else "frames_hwc"
        return "hwc" if self.frame_stack == 1 else "frames_hwc"


def common_view(
    looks: Sequence[Look], image_size: int, *, grayscale: bool = False, frame_stack: int = 1
) -> View:
    """The view that makes the pictures of all games alike.

    Square pictures of one size that are no larger than ``image_size`` stay as they are: those of small grids have nothing to
    lose, and enlarged ones only cost. All others are resized to ``image_size``.

    Raises:
        ValueError: if a game's pictures cannot be, or OpenCV is missing, or vectors are to be stacked.
    """
    if looks[0].kind == "vector":
        if frame_stack > 1:
            raise ValueError(
                f"env.frame_stack={frame_stack}: {looks[0].game!r} observes a vector, and only pictures are stacked; leave it "
                "out"
            )
        return View()
    sizes = {look.shape[:2] for look in looks}
    height, width = looks[0].shape[:2]
    if len(sizes) == 1 and height == width <= image_size:
        return View(None, grayscale, frame_stack)
    for look in looks:
        if look.shape[:2] == (image_size, image_size) or look.is_native_ale:
            continue
        shown = f"env.games: game {look.game!r} shows {look.space.dtype} pictures of {look.shape[0]}x{look.shape[1]}"
        if not look.can_be_resized:
            raise ValueError(
                f"{shown}, and only uint8 from 0 to 255 is resized to env.image_size={image_size}: convert them in a wrapper "
                "of your own, or train it alone with their own size if they are square"
            )
        _check_opencv(shown, image_size)
    return View(image_size, grayscale, frame_stack)


def make_gym_vector_env(
    look: Look, num_envs: int, view: View, *, num_threads: int = 1, render_mode: str | None = None
) -> VectorEnv:
    """Environments of one game, autoreset NEXT_STEP, actions from 0 on, observations as :meth:`View.layout_of` says.

    Atari games are played by ale_py's vector env with the standard preprocessing (frames skipped once, maximum of two frames,
    up to 30 no-ops); sticky actions, the action set and the time limit are those of the id.

    Args:
        look: the game.
        num_envs: n.
        view: of pictures.
        num_threads: that emulate Atari games.
        render_mode: of gymnasium.

    Raises:
        TypeError, ValueError: if a number is no whole one, or below 1.
    """
    checks.count("num_envs", num_envs)
    checks.count("num_threads", num_threads)
    if look.is_native_ale:
        size = (view.side, view.side) if view.side is not None else ALE_SCREEN
        return _make_ale(look, num_envs, size, view, num_threads)
    return gymnasium.make_vec(
        look.spec,
        num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.NEXT_STEP},
        wrappers=[functools.partial(_wrapped, look, view)],  # type: ignore[list-item]  # its type hint lacks the result
        disable_env_checker=True,
        **({} if render_mode is None else {"render_mode": render_mode}),
    )


def reseed_after(look: Look) -> int | None:
    """When environments of a game are seeded anew (:class:`~lzero.envs.port.ReplayablePort`); None where its author says that
    a seed does not decide what happens. Whoever breaks that promise is found out where a run continues.
    """
    return None if look.spec.nondeterministic else RESEED_AFTER


def _make_ale(
    look: Look, num_envs: int, size: tuple[int, int], view: View, num_threads: int
) -> VectorEnv:
    from zoo.atari.envs.atari import SeedableAtariVectorEnv

    spec = copy.deepcopy(look.spec)
    spec.vector_entry_point = SeedableAtariVectorEnv  # type: ignore[assignment]  # a class makes envs too
    skip = spec.kwargs.get("frameskip", STANDARD_FRAME_SKIP)
    skip = STANDARD_FRAME_SKIP if skip == 1 else skip
    return gymnasium.make_vec(
        spec,
        num_envs,
        vectorization_mode="vector_entry_point",
        frameskip=skip,
        num_threads=num_threads,
        autoreset_mode=AutoresetMode.NEXT_STEP,
        img_height=size[0],
        img_width=size[1],
        grayscale=view.grayscale,
        stack_num=view.frame_stack,
        maxpool=skip > 1,
        noop_max=NOOP_MAX + 1,  # ALE draws from 0 to noop_max - 1
        episodic_life=False,
        life_loss_info=False,
        reward_clipping=False,
        use_fire_reset=False,
    )


def _wrapped(look: Look, view: View, env: gymnasium.Env) -> gymnasium.Env:
    """``env`` as the agent plays it."""
    if look.first_action != 0:
        env = TransformAction(
            env, lambda action: action + look.first_action, Discrete(look.num_actions)
        )
    if look.kind == "vector":
        return env if len(look.space.shape) == 1 else FlattenObservation(env)
    if look.channel_axis != 2 or look.space.dtype != look.dtype:
        env = TransformObservation(env, functools.partial(_as_picture, look), _picture_space(look))
    if view.grayscale and look.shape[-1] == 3 and look.dtype == np.uint8:
        env = GrayscaleObservation(env, keep_dim=True)
    if view.side is not None and look.shape[:2] != (view.side, view.side):
        env = ResizeObservation(env, (view.side, view.side))
    if view.frame_stack > 1:
        env = FrameStackObservation(env, view.frame_stack)
    return env


def _as_picture(look: Look, observation: np.ndarray) -> np.ndarray:
    """``(H, W, C)`` uint8 or float32."""
    picture = np.asarray(observation)
    if look.channel_axis is None:
        picture = picture[..., None]
    elif look.channel_axis == 0:
        picture = np.moveaxis(picture, 0, -1)
    if look.space.dtype == np.bool_:
        return picture.astype(np.uint8) * 255
    return picture.astype(look.dtype)


def _picture_space(look: Look) -> Box:
    if look.space.dtype == np.bool_:
        return Box(0, 255, look.shape, np.uint8)
    low, high = _as_picture(look, look.space.low), _as_picture(look, look.space.high)
    return Box(low, high, look.shape, look.dtype.type)


def _check_opencv(shown: str, image_size: int) -> None:
    if importlib.util.find_spec("cv2") is None:  # with which gymnasium's wrapper resizes
        raise ValueError(
            f"{shown}, and OpenCV is missing that resizes them to env.image_size={image_size}: pip install "
            "opencv-python-headless, or pip install -e .[gym]"
        )
