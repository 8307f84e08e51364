"""Products of fp32 matrices on the CPU: as torch takes them (MKL) against lzero's way, :func:`~lzero.device.fast_products`.

    OMP_NUM_THREADS=1 python benchmarks/products.py

First single products, ``(rows, inner) x (inner, columns)``; then a whole update of preset ``afternoon``, dense and MoE, on
one game. Both ways take turns; medians, and the median of the ratios of neighbours. Error: relative, against float64.
"""

import lzero  # noqa: F401, I001  (before torch: it sets how OpenMP threads wait)

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from lzero import device as devices
from lzero.config import ExperimentConfig
from lzero.policy import UniZeroMTPolicy
from lzero.replay.buffer import ReplayBuffer
from zoo.atari.config.presets import presets

CPU = torch.device("cpu")
SHAPES = ((16, 128, 512), (320, 128, 128), (640, 128, 512), (2304, 512, 128), (4096, 1024, 128))
NUM_ACTIONS = 18


def take_turns(run: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Seconds of ``run`` as torch does it and in lzero's way, and their ratio."""
    ways: tuple[Callable[[], AbstractContextManager], ...] = (
        nullcontext,
        lambda: devices.fast_products(CPU),
    )
    seconds: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for way, taken in zip(ways, seconds, strict=True):
            with way():
                start = time.perf_counter()
                run()
                if turn:  # the first one warms up
                    taken.append(time.perf_counter() - start)
    before, now = map(statistics.median, seconds)
    return before, now, statistics.median(a / b for a, b in zip(*seconds, strict=True))


def update(moe: bool) -> Callable[[], object]:
    """An update of preset ``afternoon`` on windows of noise, in whatever way surrounds it."""
    data = presets(moe=moe)["afternoon"][1].model_dump()
    config = ExperimentConfig.model_validate(data | {"device": "cpu", "precision": "fp32"})
    torch.manual_seed(0)
    policy = UniZeroMTPolicy(config, (3, 64, 64), np.ones((1, NUM_ACTIONS), bool))
    rng = np.random.default_rng(0)
    replay = ReplayBuffer(
        np.zeros(16, np.int64), 200, (3, 64, 64), np.uint8, NUM_ACTIONS, config.policy.window
    )
    nothing = np.zeros(16, bool)
    for _ in range(200):
        visits = rng.dirichlet(np.ones(NUM_ACTIONS), 16).astype(np.float32)
        frames = rng.integers(0, 256, (16, 64, 64, 3), dtype=np.uint8).transpose(0, 3, 1, 2)
        reward = rng.integers(0, 2, 16).astype(np.float32)
        actions = rng.integers(0, NUM_ACTIONS, 16)
        replay.append(frames, actions, reward, nothing, nothing, nothing, visits, reward)
    windows = replay.sample({0: config.policy.batch_size}, rng)
    return lambda: policy._update(windows)


def main() -> None:
    """Print both tables."""
    print(f"oneDNN is taken here: {devices.onednn_is_better()}")
    print(f"{'product':<22}{'torch us':>10}{'lzero us':>10}{'ratio':>7}{'error':>9}{'error':>9}")
    for rows, inner, columns in SHAPES:
        a, b = torch.randn(rows, inner), torch.randn(inner, columns)
        exact = a.double() @ b.double()
        errors = [((a @ b).double() - exact).norm() / exact.norm()]
        with devices.fast_products(CPU):
            errors.append(((a @ b).double() - exact).norm() / exact.norm())
        before, now, ratio = take_turns(lambda a=a, b=b: a @ b, 200)
        shape = f"{rows} x {inner} x {columns}"
        print(
            f"{shape:<22}{before * 1e6:>10.0f}{now * 1e6:>10.0f}{ratio:>7.2f}{errors[0]:>9.0e}{errors[1]:>9.0e}"
        )
    for moe in (False, True):
        before, now, ratio = take_turns(update(moe), 40)
        name = "update, MoE" if moe else "update, dense"
        print(f"{name:<22}{before * 1e6:>10.0f}{now * 1e6:>10.0f}{ratio:>7.2f}")
    print(f"{torch.get_num_threads()} thread(s), torch {torch.__version__}")


if __name__ == "__main__":
    main()
