"""Shifted windows against a loop that pads and crops."""

import numpy as np
import torch

from lzero.replay.augmentation import shifted, with_random_shifts
from tests.replay.buffer_cases import Stream, make


def test_shifts_equal_padding_and_cropping():
    observation = torch.randint(0, 256, (5, 3, 8, 9, 2), dtype=torch.uint8).movedim(-1, 2)
    down, right = np.array([0, 2, -3, 1, 0]), np.array([0, -1, 3, 3, 2])
    moved = shifted(observation, down, right)
    assert moved.dtype == torch.uint8 and moved.shape == observation.shape
    assert moved.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    for window in range(5):
        padded = torch.nn.functional.pad(
            observation[window].float(), (3, 3, 3, 3), mode="replicate"
        )
        top, left = 3 - down[window], 3 - right[window]
        expected = padded[..., top : top + 8, left : left + 9]
        torch.testing.assert_close(moved[window].float(), expected)


def test_windows_are_shifted_by_every_distance_and_nothing_else_changes():
    buffer = make(shape=(1, 9, 9), dtype=np.int64)
    Stream(buffer).append(30)
    windows = buffer.sample({3: 300}, np.random.default_rng(0))
    moved = with_random_shifts(windows, 2, np.random.default_rng(1))
    middle = windows.observation[:, 0, 0, 4, 4] - moved.observation[:, 0, 0, 4, 4]
    # pixel (row, column) holds 9 row + column
    assert set(middle.tolist()) == {
        9 * down + right for down in range(-2, 3) for right in range(-2, 3)
    }
    assert moved.action is windows.action and moved.index is windows.index


def test_nothing_is_drawn_where_nothing_is_shifted():
    rng, untouched = np.random.default_rng(0), np.random.default_rng(0)
    pictures, vectors = make(shape=(1, 4, 4)), make(shape=(3,))
    for buffer in (pictures, vectors):
        Stream(buffer).append(20)
    windows = pictures.sample({3: 2}, np.random.default_rng(0))
    assert with_random_shifts(windows, 0, rng) is windows
    windows = vectors.sample({3: 2}, np.random.default_rng(0))
    assert with_random_shifts(windows, 2, rng) is windows
    assert rng.bit_generator.state == untouched.bit_generator.state
