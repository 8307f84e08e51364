"""What it costs that ranks ask each other before every step whether somebody wants to stop.

python -m torch.distributed.run --standalone --nproc_per_node=2 benchmarks/asking.py
"""

import time

import numpy as np

from lzero.distributed import init_distributed

CALLS, ROUNDS = 2000, 5


def main() -> None:
    """Print microseconds of a question on rank 0, the median and the range over rounds."""
    dist = init_distributed("cpu")
    rounds = []
    for _ in range(ROUNDS):
        dist.barrier()
        start = time.perf_counter()
        for _ in range(CALLS):
            dist.any(False)
        rounds.append(1e6 * (time.perf_counter() - start) / CALLS)
    if dist.is_main:
        low, high = min(rounds), max(rounds)
        print(  # noqa: T201
            f"{dist.world_size} rank(s): {np.median(rounds):.0f} us a question ({low:.0f} to {high:.0f})"
        )
    dist.shutdown()


if __name__ == "__main__":
    main()
