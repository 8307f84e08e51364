"""Random shifts of pictures: a window is seen from slightly elsewhere, which keeps an encoder from learning places
by heart.

Shape legend: B = windows, K = rows of a window, C = channels, H = W = picture side.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lzero import checks
from lzero.replay.windows import ReplayWindows


def with_random_shifts(
    windows: ReplayWindows, most: int, rng: np.random.Generator
) -> ReplayWindows:
    """Each window's pictures moved by up to ``most`` pixels along both axes, all of a window alike, so that what moves
    in it is what moved in the game. What comes in at a border repeats the border.

    Args:
        windows: of pictures ``(B, K, C, H, W)``; other observations come back as they are.
        most: 0 moves nothing and draws nothing.
        rng: source of the draws.

    Raises:
        TypeError: if ``rng`` is no generator.
        ValueError: if ``most`` is negative.

    Source: DrQ (arXiv 2004.13649), which pads by repetition and crops at random.
    """
    checks.count("most", most, 0)
    checks.generator("rng", rng)
    if most == 0 or windows.observation.ndim != 5:
        return windows
    down, right = rng.integers(-most, most + 1, (2, len(windows.observation)))
    return replace(windows, observation=shifted(windows.observation, down, right))


def shifted(observation: Tensor, down: np.ndarray, right: np.ndarray) -> Tensor:
    """Pictures ``(B, K, C, H, W)`` moved by ``down (B,)`` and ``right (B,)`` pixels, in channels-last memory.

    Raises:
        ValueError: if there is not one number for each of the B windows.
    """
    checks.shape("observation", observation, None, None, None, None, None)
    checks.shape("down", down, len(observation))
    checks.shape("right", right, len(observation))
    num_windows, num_rows, channels, height, width = observation.shape
    row = np.clip(np.arange(height) - down[:, None], 0, height - 1)  # (B, H)
    column = np.clip(np.arange(width) - right[:, None], 0, width - 1)  # (B, W)
    place = (row[:, :, None] * width + column[:, None]).reshape(num_windows, 1, -1)
    first = np.arange(num_windows * num_rows).reshape(num_windows, num_rows, 1) * (height * width)
    index = torch.from_numpy((first + place).reshape(-1)).to(observation.device)
    pixels = observation.movedim(2, -1).reshape(-1, channels)
    moved = pixels.index_select(0, index)
    return moved.view(num_windows, num_rows, height, width, channels).movedim(-1, 2)
