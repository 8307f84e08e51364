"""What an environment of gymnasium's registry observes and does, read from the environment itself.

Shape legend: F = features, H × W = pixels, C = channels of one frame.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete

from lzero.envs.task import LARGEST_PIXEL
from zoo.gym.registry import is_ale, quiet_ale, spec_of, why_not_made

# What ale_py's vector env can be told of a game; ids registered with more (modes, RAM) go the way of all others.
NATIVE_ALE = {
    *("game", "repeat_action_probability", "full_action_space"),
    *("frameskip", "max_num_frames_per_episode"),
}


@dataclass(frozen=True)
class Look:
    """One environment as it is registered, before anything is changed."""

    game: str
    spec: EnvSpec
    kind: Literal["vector", "picture"]
    space: Box
    """What it observes."""
    shape: tuple[int, ...]
    """``(F,)`` of a vector, ``(H, W, C)`` of a picture, wherever it has its channels."""
    channel_axis: int | None
    """Axis of a picture's channels; None where it has none."""
    dtype: np.dtype
    """In which pictures are kept: uint8 or float32."""
    num_actions: int
    first_action: int
    """Number of the first action."""
    has_lives: bool
    """Whether ``info["lives"]`` tells how many are left."""
    render_modes: tuple[str, ...]

    @property
    def is_native_ale(self) -> bool:
        """Whether ale_py's own vector env plays it, with its preprocessing."""
        is_skip = isinstance(self.spec.kwargs.get("frameskip", 4), int)
        return is_ale(self.spec) and is_skip and set(self.spec.kwargs) <= NATIVE_ALE

    @property
    def can_be_resized(self) -> bool:
        """Whether its pictures may have another size: as gymnasium's wrapper wants them, or bool, which becomes that."""
        is_bytes = (self.space.low == 0).all() and (self.space.high == 255).all()
        return self.space.dtype == np.bool_ or (self.dtype == np.uint8 and bool(is_bytes))


@functools.cache
def look_at(game: str) -> Look:
    """Make one environment of an id, read its spaces, and close it.

    Raises:
        ValueError: if it is unknown, cannot be made, or is none that can be learned; why, and what to do.
    """
    spec = spec_of(game)
    if is_ale(spec):
        quiet_ale()
    try:
        env = gymnasium.make(spec, disable_env_checker=True)
    except Exception as error:  # whatever a stranger's environment raises
        raise ValueError(
            f"env.games: game {game!r} cannot be made: {why_not_made(error)}"
        ) from error
    try:
        _, info = env.reset(seed=0)
    except Exception as error:
        raise ValueError(
            f"env.games: game {game!r} cannot be reset: {why_not_made(error)}"
        ) from error
    finally:
        env.close()
    seen, actions = env.observation_space, env.action_space
    if not isinstance(actions, Discrete):
        raise ValueError(
            f"env.games: game {game!r} takes actions {_short(actions)}; allowed is Discrete: offer a choice of "
            "them in a wrapper, under an id of its own"
        )
    if not isinstance(seen, Box):
        raise ValueError(
            f"env.games: game {game!r} observes {_short(seen)}; allowed is a Box: register it under an id of its own with "
            "additional_wrappers=(gymnasium.wrappers.FlattenObservation.wrapper_spec(),)"
        )
    kind, axis = _kind_of(game, seen)
    shape = tuple(map(int, seen.shape))
    if kind == "vector":
        shape = (int(np.prod(shape, dtype=np.int64)),)
    elif axis is None:
        shape = (*shape, 1)
    elif axis == 0:
        shape = (*shape[1:], shape[0])
    in_bytes = kind == "picture" and seen.dtype in (np.uint8, np.bool_)
    return Look(
        game,
        spec,
        kind,
        seen,
        shape,
        axis,
        np.dtype(np.uint8 if in_bytes else np.float32),
        int(actions.n),
        int(actions.start),
        "lives" in info,
        tuple(env.metadata.get("render_modes") or ()),
    )


def check_together(looks: Sequence[Look]) -> None:
    """Refuse games that no one encoder takes.

    Raises:
        ValueError: naming two of them.
    """
    first = looks[0]
    for look in looks[1:]:
        if look.kind != first.kind:
            raise ValueError(
                f"env.games: {first.game!r} observes a {first.kind}, {look.game!r} a {look.kind}; one encoder takes one kind: "
                "train them in two runs"
            )
        if look.kind == "picture" and look.dtype != first.dtype:
            raise ValueError(
                f"env.games: {first.game!r} shows {first.dtype} pictures, {look.game!r} {look.dtype}; train them in two runs, "
                "or convert them in a wrapper of your own"
            )


def _kind_of(game: str, space: Box) -> tuple[Literal["vector", "picture"], int | None]:
    """Vector or picture, and the axis of a picture's channels.

    Two axes of bytes are a picture in gray, three axes always a picture; the fewer of first and last are channels.
    """
    axes, dtype = len(space.shape), space.dtype
    in_bytes = dtype in (np.uint8, np.bool_)
    if axes > 3:
        raise ValueError(
            f"env.games: game {game!r} observes {_short(space)}, of {axes} axes; allowed are vectors, and "
            "pictures (H, W), (H, W, C) or (C, H, W): reshape it in a wrapper of your own"
        )
    if axes < 2 or (axes == 2 and not in_bytes):
        return "vector", None
    if not in_bytes and not (
        -LARGEST_PIXEL <= space.low.min() <= space.high.max() <= LARGEST_PIXEL
    ):
        raise ValueError(
            f"env.games: game {game!r} shows {dtype} pictures from {space.low.min():g} to {space.high.max():g}; allowed "
            f"is uint8, or numbers from {-LARGEST_PIXEL:g} to {LARGEST_PIXEL:g}: scale them in a wrapper of your own"
        )
    if axes == 2:
        return "picture", None
    return "picture", 0 if space.shape[0] < space.shape[-1] else 2


def _short(space: gymnasium.Space) -> str:
    """A space in a few words: what a Box holds is not printed."""
    if isinstance(space, Box):
        return f"Box{tuple(map(int, space.shape))} {space.dtype}"
    words = " ".join(str(space).split())
    return words if len(words) <= 80 else f"{words[:77]}..."
