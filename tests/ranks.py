"""Real processes of one gloo group, forked from a server that has loaded torch: a rank begins in a moment.

The environment is torchrun's, which ``tests/test_distributed.py`` starts itself.
"""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SECONDS = 120
"""Time limit of all ranks together; a collective that waits longer than half of it fails."""


def run_ranks(worker: Callable[[], Any], world_size: int, directory: Path) -> list[Any]:
    """What ``worker`` returns on each rank; it has to be a function of a module.

    Raises:
        RuntimeError: if a rank fails or does not end in time; none is left behind.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "lzero.policy", "pytest", "scipy"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        context.Process(target=_run_rank, args=(worker, rank, world_size, port, directory))
        for rank in range(world_size)
    ]
    try:
        for process in ranks:
            process.start()
        end = time.monotonic() + SECONDS
        for process in ranks:
            process.join(max(0.0, end - time.monotonic()))
        codes = [process.exitcode for process in ranks]
        if any(codes):
            raise RuntimeError(f"exit codes of the ranks: {codes}; what they said is above")
        if None in codes:
            raise RuntimeError(
                f"after {SECONDS} s these ranks were still at work: {[code is None for code in codes]}"
            )
    finally:
        for process in ranks:
            process.kill()
    return [
        torch.load(directory / f"rank_{rank}.pt", weights_only=False) for rank in range(world_size)
    ]


def _run_rank(
    worker: Callable[[], Any], rank: int, world_size: int, port: int, directory: Path
) -> None:
    place = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_WORLD_SIZE": world_size,
    }
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.save(worker(), directory / f"rank_{rank}.pt")
