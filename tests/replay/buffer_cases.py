"""A small replay ring and a stream of rows to fill it with."""

import numpy as np

from lzero.replay.buffer import ReplayBuffer

TASKS = np.array([3, 3, 5, 5, 5, 9])
A = 18


def make(length=40, window=6, shape=(1,), dtype=np.float32, tasks=TASKS, **options) -> ReplayBuffer:
    return ReplayBuffer(tasks, length, shape, dtype, A, window, **options)


class Stream:
    """Random rows for a buffer, also kept in a list; ring r's observation at step t starts at
    1000·t + r.
    """

    def __init__(self, buffer: ReplayBuffer, seed: int = 0, reset_share: float = 0.2) -> None:
        self.buffer, self.rng, self.reset_share = buffer, np.random.default_rng(seed), reset_share
        self.rows: list[dict[str, np.ndarray]] = []

    def append(self, steps: int) -> "Stream":
        shape, rings, rng = self.buffer.observation_shape, self.buffer.num_rings, self.rng
        for _ in range(steps):
            frame = 1000 * len(self.rows) + np.arange(rings)
            content = np.arange(np.prod(shape)).reshape(shape) + frame.reshape(
                -1, *[1] * len(shape)
            )
            row = {
                "observation": content.astype(self.buffer._rings.frames.dtype),
                "action": rng.integers(0, A, rings),
                "reward": rng.normal(size=rings).astype(np.float32),
                "terminated": rng.random(rings) < 0.1,
                "truncated": rng.random(rings) < 0.1,
                "reset": rng.random(rings) < self.reset_share,
                "visits": rng.dirichlet(np.ones(A), size=rings).astype(np.float32),
                "root_value": rng.normal(size=rings).astype(np.float32),
            }
            self.rows.append(row)
            self.buffer.append(**row)
        return self

    def window(self, name: str, ring: int, step: int) -> np.ndarray:
        return np.stack([row[name][ring] for row in self.rows[step : step + self.buffer.window]])
