"""Environments of a few lines that register themselves with gymnasium, one for each thing that a domain must cope with."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space

LENGTH = 4  # steps to the goal


class Walk(gymnasium.Env):
    """Actions 5, 6 and 7 are worth their number less 5; the way ends after LENGTH steps with action 7, or at the time limit."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 5}
    observation_space: Space = Box(-1e6, 1e6, (2,), np.float64)
    action_space: Space = Discrete(3, start=5)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.place, self.draw = 0, 0.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.place, self.draw = 0, float(self.np_random.random())
        return self.seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        self.place += action == 7
        self.draw = float(self.np_random.random())
        return self.seen(), float(action - 5), bool(self.place == LENGTH), False, {}

    def seen(self) -> Any:
        return np.array([self.place, self.draw])

    def render(self) -> Any:
        return np.full((8, 6, 3), 10 * self.place, np.uint8)


class Table(Walk):
    """Numbers in two axes, which are no picture, and no pictures of itself."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    observation_space = Box(0, 1, (2, 3), np.float32)
    action_space = Discrete(2)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return self.seen(), 0.0, False, False, {}

    def seen(self) -> Any:
        return np.full((2, 3), self.draw, np.float32)


class Cells(Table):
    """A small grid of truth values, channels first."""

    observation_space = Box(0, 1, (2, 10, 10), np.bool_)

    def seen(self) -> Any:
        cells = np.zeros((2, 10, 10), np.bool_)
        cells[1, 0, 3] = True
        return cells


class Photo(Cells):
    """A picture in colours, wider than high: red on the left, green on the right."""

    observation_space = Box(0, 255, (32, 48, 3), np.uint8)

    def seen(self) -> Any:
        photo = np.zeros((32, 48, 3), np.uint8)
        photo[:, :24, 0], photo[:, 24:, 1] = 200, 100
        return photo


class Parts(Cells):
    """What is refused: no Box to see."""

    observation_space = Dict({"here": Discrete(3)})

    def seen(self) -> Any:
        return {"here": 1}


class Levers(Walk):
    """What is refused: several actions at once."""

    action_space = MultiDiscrete([2, 2])


class Broken(Walk):
    """What is refused: it fails."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        raise OSError("no\nconnection")


class Bright(Cells):
    """What is refused: a picture in numbers whose size nobody knows."""

    observation_space = Box(0, 1000, (8, 8, 3), np.float32)

    def seen(self) -> Any:
        return np.zeros((8, 8, 3), np.float32)


gymnasium.register("Tiny/Walk-v0", Walk, max_episode_steps=6, reward_threshold=8.0)
gymnasium.register("Tiny_Walk-v0", Walk, max_episode_steps=6, nondeterministic=True)
for made in (Table, Cells, Photo, Parts, Levers, Broken, Bright):
    gymnasium.register(f"Tiny/{made.__name__}-v0", made, max_episode_steps=5)
