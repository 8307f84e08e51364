"""A stand-in for a model: what it says of a node is a fixed random function of the node's path."""

import hashlib
from collections.abc import Sequence

import numpy as np


def random_node(
    seed: int, path: tuple[int, ...], num_actions: int, regimes: Sequence[tuple[float, float]]
) -> tuple[float, float, np.ndarray]:
    """Reward, value (rounded to float32) and prior; ``regimes`` are offsets and spreads of rewards
    and values, by seed."""
    digest = hashlib.blake2b(repr((seed, path)).encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    offset, spread = regimes[seed % len(regimes)]
    reward, value = (offset + spread * rng.normal(size=2)).astype(np.float32)
    return float(reward), float(value), rng.dirichlet(np.full(num_actions, 0.5)).astype(np.float32)
