"""Videos are written picture by picture, whole or not at all."""

import tracemalloc

import imageio.v3 as imageio
import numpy as np
import pytest

from lzero.entry.evaluation import VideoFile


def pictures(number: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (24, 32, 3), np.uint8) for _ in range(number)]


def test_a_video_has_all_pictures_enlarged(tmp_path):
    path = tmp_path / "videos" / "Pong.mp4"
    with VideoFile(path, 15) as video:
        for picture in pictures(20):
            video.write(picture)
    frames = imageio.imread(path)
    assert frames.shape == (20, 48, 64, 3)
    assert list(path.parent.iterdir()) == [path]


def test_a_video_that_is_given_up_leaves_nothing(tmp_path):
    path = tmp_path / "Pong.mp4"
    with pytest.raises(KeyboardInterrupt), VideoFile(path, 15) as video:
        video.write(pictures(1)[0])
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_pictures_are_not_kept_in_memory(tmp_path):
    """Half an hour of a game is 27,000 pictures of 98 KiB."""
    picture = np.zeros((210, 160, 3), np.uint8)
    with VideoFile(tmp_path / "long.mp4", 15) as video:
        video.write(picture)
        tracemalloc.start()
        for _ in range(200):
            video.write(picture)
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert kept < 20 * picture.nbytes
