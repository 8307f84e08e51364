"""Replay ring: bytes per frame, memory once the ring is full, sampling time by number of stored steps.

python benchmarks/replay.py
python benchmarks/replay.py --batch 512 --repeats 50
"""

import argparse
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from lzero.replay.buffer import ReplayBuffer
from lzero.replay.sum_tree import PriorityConfig

NUM_RINGS, NUM_TASKS, NUM_ACTIONS = 16, 2, 18
ATARI, TINY = (3, 64, 64), (3, 4, 4)


def make_buffer(
    shape: tuple[int, ...], stored_steps: int, window: int, prioritised: bool
) -> ReplayBuffer:
    """An empty buffer with room for ``stored_steps`` rows over all rings."""
    tasks, length = (
        np.repeat(np.arange(NUM_TASKS), NUM_RINGS // NUM_TASKS),
        stored_steps // NUM_RINGS,
    )
    priority = PriorityConfig() if prioritised else None
    return ReplayBuffer(tasks, length, shape, np.uint8, NUM_ACTIONS, window, priority=priority)


def fill(buffer: ReplayBuffer, steps: int) -> None:
    """Append random rows; observations are channel-first views of HWC memory, as Atari gives them."""
    rng = np.random.default_rng(0)
    channels, height, width = buffer.observation_shape
    frames = rng.integers(0, 256, (NUM_RINGS, height, width, channels), dtype=np.uint8).transpose(
        0, 3, 1, 2
    )
    visits = rng.dirichlet(np.ones(NUM_ACTIONS), NUM_RINGS).astype(np.float32)
    no, zeros = np.zeros(NUM_RINGS, bool), np.zeros(NUM_RINGS, np.float32)
    for _ in range(steps):
        buffer.append(frames, np.zeros(NUM_RINGS, int), zeros, no, no, no, visits, zeros)


def median_sampling_time(buffer: ReplayBuffer, batch: int, repeats: int) -> float:
    """Milliseconds to draw ``batch`` windows, split over the tasks (priority updates not counted)."""
    rng = np.random.default_rng(1)
    sizes = dict.fromkeys(range(NUM_TASKS), batch // NUM_TASKS)
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        buffer.sample(sizes, rng)
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times[3:]))


def resident_mib() -> float:
    """Resident memory of this process in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def report_bytes(window: int) -> None:
    """Bytes per stored step of 64×64 RGB frames."""
    for prioritised in (False, True):
        buffer = make_buffer(ATARI, 100_000, window, prioritised)
        kind, extra = "prioritised" if prioritised else "uniform", buffer.bookkeeping_bytes
        print(f"{kind:12s} {buffer.frame_bytes:>7,} B per frame + {extra:6.1f} B of bookkeeping")


def report_memory(window: int, steps: int) -> None:
    """Resident memory while a ring fills and then goes round three times."""
    start = resident_mib()
    buffer = make_buffer(ATARI, steps, window, prioritised=True)
    print(
        f"\nresident memory of a prioritised ring for {steps:,} steps\n{'filled':>10s} {'MiB':>8s}"
    )
    print(f"{'0 %':>10s} {resident_mib() - start:8.1f}")
    for part in (50, 100, 200, 300):
        fill(buffer, steps // NUM_RINGS * part // 100 - buffer.head)
        print(f"{f'{part} %':>10s} {resident_mib() - start:8.1f}")


def report_sampling(window: int, batch: int, repeats: int, atari_steps: int) -> None:
    """Sampling time by number of stored steps, and its ratio to the smallest ring's."""
    print(f"\n{batch} windows of {window} rows")
    print(f"{'frame':>10s} {'sampling':>12s} {'stored steps':>13s} {'ms':>8s} {'ratio':>6s}")
    for shape, all_steps in ((ATARI, (10_000, atari_steps)), (TINY, (10_000, 100_000, 1_000_000))):
        for prioritised in (False, True):
            label = f"{'×'.join(map(str, shape)):>10s} {'prioritised' if prioritised else 'uniform':>12s}"
            smallest = None
            for stored_steps in all_steps:
                buffer = make_buffer(shape, stored_steps, window, prioritised)
                fill(buffer, buffer.ring_length)
                milliseconds = median_sampling_time(buffer, batch, repeats)
                smallest = smallest or milliseconds
                print(
                    f"{label} {stored_steps:>13,} {milliseconds:8.2f} {milliseconds / smallest:6.2f}"
                )


def main() -> None:
    """Print the tables."""
    keep_lines = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=keep_lines)
    parser.add_argument("--batch", type=int, default=256, help="windows per draw (default 256)")
    parser.add_argument("--window", type=int, default=16, help="rows per window (default 16)")
    parser.add_argument("--repeats", type=int, default=30, help="draws per median (default 30)")
    parser.add_argument(
        "--atari-steps", type=int, default=100_000, help="12 KiB each (default 100000)"
    )
    arguments = parser.parse_args()
    print(
        f"{datetime.now(UTC):%Y-%m-%d} · {platform.machine()}, {os.cpu_count()} cores · "
        f"torch {torch.__version__}, numpy {np.__version__} · {NUM_RINGS} rings, {NUM_TASKS} tasks\n"
    )
    report_bytes(arguments.window)
    report_memory(arguments.window, 16_000)
    report_sampling(arguments.window, arguments.batch, arguments.repeats, arguments.atari_steps)


if __name__ == "__main__":
    main()
