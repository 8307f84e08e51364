"""Gradient conflict over ranks by shards of columns, against a plain all-gather of full rows.

python benchmarks/conflict_exchange.py
python benchmarks/conflict_exchange.py --tasks 26 --columns 1000000 --processes 2 4

Real gloo processes of one thread each on this machine, every task on one rank. Memory: highest resident set while the
function runs (the kernel's VmHWM) less the resident set before it, in processes of their own for each function. Time: of the
slowest rank, median of rounds in which the two functions take turns. The gathered rows are multiplied in float32; gloo
holds them twice while it gathers.
"""

import lzero  # noqa: F401, I001  (before torch: it sets how OpenMP threads wait)

import multiprocessing
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, distributed

from lzero.distributed import split_evenly
from lzero.analysis.conflict import GradientConflict, compute_gradient_conflict_distributed

MIB = 2**20
WARM_UP_COLUMNS = 1000
# deprecated in torch 2.13; what is to replace it does not exist in 2.11
warnings.filterwarnings("ignore", message=".*all_gather_into_tensor", category=FutureWarning)

Function = Callable[[Tensor, list[int], int], GradientConflict]


@dataclass(frozen=True)
class Arguments:
    """Memory and time of the distributed gradient conflict."""

    tasks: int = 8
    """Tasks, spread evenly over the processes."""
    columns: int = 4_000_000
    """Length of a gradient."""
    processes: tuple[int, ...] = (2, 4, 8)
    """Numbers of processes."""
    rounds: int = 3
    """Measurements of time."""


def by_all_gather(rows: Tensor, task_ids: list[int], num_tasks: int) -> GradientConflict:
    """Every rank gets all rows; at least one task per rank, each on one."""
    ranks = distributed.get_world_size()
    most = -(-num_tasks // ranks)
    padded = (
        rows
        if len(rows) == most
        else torch.cat([rows, rows.new_zeros(most - len(rows), rows.shape[1])])
    )
    everything = rows.new_empty(ranks * most, rows.shape[1])
    distributed.all_gather_into_tensor(everything, padded)
    gram = everything @ everything.T
    filled = [
        rank * most + row
        for rank, count in enumerate(split_evenly(num_tasks, ranks))
        for row in range(count)
    ]
    return GradientConflict.from_gram(gram[filled][:, filled])


FUNCTIONS: dict[str, Function] = {
    "shards": compute_gradient_conflict_distributed,
    "all-gather": by_all_gather,
}


def resident(field: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at most so far."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", status)[1])


def join(rank: int, processes: int, arguments: Arguments, meeting: str) -> tuple[Tensor, list[int]]:
    """Start a process group and make this rank's gradients."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes
    )
    counts = split_evenly(arguments.tasks, processes)
    first = sum(counts[:rank])
    generator = torch.Generator().manual_seed(rank)
    rows = torch.randn(counts[rank], arguments.columns, generator=generator)
    return rows, list(range(first, first + counts[rank]))


def extra_memory(name: str, processes: int, arguments: Arguments, meeting: str, rank: int) -> int:
    """Bytes that a rank needs for a while besides its rows."""
    rows, ids = join(rank, processes, arguments, meeting)
    FUNCTIONS[name](rows[:, :WARM_UP_COLUMNS].contiguous(), ids, arguments.tasks)
    before = resident("VmRSS")
    FUNCTIONS[name](rows, ids, arguments.tasks)
    extra = resident("VmHWM") - before
    distributed.destroy_process_group()
    return extra


def seconds(
    processes: int, arguments: Arguments, meeting: str, rank: int
) -> dict[str, list[float]]:
    """Time of each round by function; also checks that both find the same."""
    rows, ids = join(rank, processes, arguments, meeting)
    taken: dict[str, list[float]] = {name: [] for name in FUNCTIONS}
    for _ in range(arguments.rounds + 1):
        cosines = []
        for name, function in FUNCTIONS.items():
            distributed.barrier()
            start = time.perf_counter()
            cosines.append(function(rows, ids, arguments.tasks).cosine_similarity_matrix)
            taken[name].append(time.perf_counter() - start)
        torch.testing.assert_close(*cosines, atol=1e-4, rtol=0)
    distributed.destroy_process_group()
    return {name: rounds[1:] for name, rounds in taken.items()}


def on_ranks(function: Callable, *arguments: object, processes: int) -> list:
    """Results of all ranks of a fresh process group; they are forked from a process that has imported torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lzero.analysis.conflict", "tyro", "rich.table"])
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(processes, mp_context=context) as pool,
    ):
        job = partial(function, *arguments, str(Path(folder) / "meeting"))
        return list(pool.map(job, range(processes)))


def compare(arguments: Arguments) -> Table:
    """Measure; the table."""
    full = 4 * arguments.tasks * arguments.columns / MIB
    table = Table(
        title=f"{arguments.tasks} tasks x {arguments.columns:,} columns, float32: {full:.0f} MiB in all"
    )
    for header in (
        "ranks",
        "T·D/ranks MiB",
        "shards MiB",
        "all-gather MiB",
        "shards s",
        "all-gather s",
        "shards / all-gather",
    ):
        table.add_column(header, justify="right")
    for processes in arguments.processes:
        memory = {
            name: max(on_ranks(extra_memory, name, processes, arguments, processes=processes))
            for name in FUNCTIONS
        }
        ranks = on_ranks(seconds, processes, arguments, processes=processes)
        slowest = {
            name: [max(column) for column in zip(*(rank[name] for rank in ranks), strict=True)]
            for name in FUNCTIONS
        }
        ratio = statistics.median(a / b for a, b in zip(*slowest.values(), strict=True))
        table.add_row(
            *(str(processes), f"{full / processes:.0f}"),
            *(f"{memory[name] / MIB:.0f}" for name in FUNCTIONS),
            *(f"{statistics.median(slowest[name]):.2f}" for name in FUNCTIONS),
            f"{ratio:.2f}",
        )
    table.caption = (
        f"memory: peak of the worst rank besides its own rows; torch {torch.__version__}"
    )
    return table


def main() -> None:
    """Print the table."""
    arguments = tyro.cli(Arguments)
    if arguments.tasks < max(arguments.processes):
        raise SystemExit(
            f"--tasks {arguments.tasks}: give every one of {max(arguments.processes)} processes a task"
        )
    Console(width=130).print(compare(arguments))


if __name__ == "__main__":
    main()
