"""How cost, memory and traffic grow, measured on this machine, and a model of the traffic with its error.

python benchmarks/scaling.py                       # all tables
python benchmarks/scaling.py --tables ranks --processes 1 2 4 8

Growth: one process, from one size (4 games, 8 environments a game, D = 128, 8 experts) one field at a time; memory is the peak
of a process of its own. Ranks: real gloo processes of one thread each, eight games over them; a barrier before every collective
separates waiting for the others from exchanging. Games: how long environments of each game take, and how unevenly the ranks are
loaded for it.

The model of an exchange: calls · 2 (n − 1) · latency + bytes sent by all ranks / bandwidth of the machine. The latency of a
round is that of a reduction of one number, the bandwidth the mean over all but the largest number of processes, for which the
time is then predicted.
"""

import lzero  # noqa: F401, I001  (before torch: it sets how OpenMP threads wait)

import multiprocessing
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import distributed

from lzero.config import EnvConfig, ExperimentConfig
from lzero.distributed import Distributed
from lzero.entry.shards import assign_tasks
from lzero.policy import UniZeroMTPolicy
from lzero.replay.buffer import ReplayBuffer
from lzero.worker.actor import Actor
from zoo.atari.domain import ATARI
from zoo.atari.envs import ATARI8

MIB = 2**20
NUM_ACTIONS, SHAPE = 18, (3, 64, 64)
COLLECTIVES = ("all_reduce", "all_gather", "all_to_all_single", "broadcast")
BASE = {"games": 4, "environments": 8, "width": 128, "experts": 8}
GROWTH = {
    "games": (1, 2, 4, 8),
    "environments": (4, 8, 16, 32),
    "width": (64, 128, 256, 512),
    "experts": (0, 8, 16, 32),
}


@dataclass(frozen=True)
class Arguments:
    """Measure how cost, memory and traffic grow."""

    tables: tuple[Literal["growth", "ranks", "games"], ...] = ("growth", "ranks", "games")
    """What to measure."""
    processes: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of ranks, ascending; the last one is predicted from those between it and 1."""
    updates: int = 5
    """Updates or moves timed in each case."""


@dataclass
class Traffic:
    """What the collectives of an update did.

    Attributes:
        calls: how many there were.
        sent: bytes that this rank sends: 2 (n − 1) / n of a reduction's size, (n − 1) / n of an exchange's.
        waiting: seconds until the last rank had come.
        exchanging: seconds from then on.
    """

    calls: int = 0
    sent: float = 0.0
    waiting: float = 0.0
    exchanging: float = 0.0


def make_policy(size: dict[str, int], dist: Distributed | None = None) -> UniZeroMTPolicy:
    """Networks of preset ``afternoon`` at another size."""
    experts = size["experts"]
    config = ExperimentConfig.model_validate(
        {
            "device": "cpu",
            "env": {"games": ATARI8[: size["games"]], "num_envs": size["environments"]},
            "model": {
                "embed_dim": size["width"],
                "num_heads": 4,
                "num_layers": 2,
                "encoder": {"kind": "resnet", "widths": (16, 32)},
                "moe": {"num_experts": experts} if experts else {"enabled": False},
            },
            "policy": {
                "batch_size": 16,
                "unroll_steps": 10,
                "gradient_conflict_interval": 1_000_000,  # measured where the counter says so
                "search": {"kind": "gumbel", "num_simulations": 16},
            },
        }
    )
    torch.manual_seed(0)
    legal = np.ones((size["games"], NUM_ACTIONS), bool)
    return UniZeroMTPolicy(config, SHAPE, legal, dist)


def filled_replay(task_ids: tuple[int, ...], window: int) -> ReplayBuffer:
    """Four environments of each task with 40 random steps."""
    rng, num_envs = np.random.default_rng(0), 4 * len(task_ids)
    ring = np.repeat(task_ids, 4)
    replay = ReplayBuffer(ring, 64, SHAPE, np.uint8, NUM_ACTIONS, window)
    nothing = np.zeros(num_envs, bool)
    for _ in range(40):
        frames = rng.integers(0, 256, (num_envs, 64, 64, 3), dtype=np.uint8).transpose(0, 3, 1, 2)
        visits = rng.dirichlet(np.ones(NUM_ACTIONS), num_envs).astype(np.float32)
        reward = rng.integers(-1, 2, num_envs).astype(np.float32)
        actions = rng.integers(0, NUM_ACTIONS, num_envs)
        replay.append(frames, actions, reward, nothing, nothing, nothing, visits, reward)
    return replay


def peak_resident() -> int:
    """Bytes of this process, at most so far."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def median_seconds(run: Callable[[], object], times: int) -> float:
    """After one run that warms up."""
    run()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def grown(size: dict[str, int], updates: int, _: int) -> tuple[int, float, float, float, int]:
    """Parameters, seconds of a move, of a plain and of a measuring update, and peak memory."""
    policy = make_policy(size)
    task_id = np.repeat(np.arange(size["games"]), size["environments"])
    legal = np.ones((len(task_id), NUM_ACTIONS), bool)
    actor = Actor(policy, task_id, legal, np.random.default_rng(0))
    frames = np.zeros((len(task_id), *SHAPE), np.uint8)
    move = median_seconds(lambda: actor.act(frames), updates)
    games = tuple(range(size["games"]))
    replay, rng = filled_replay(games, policy.config.policy.window), np.random.default_rng(1)
    batch = dict.fromkeys(games, policy.config.policy.batch_size)

    def update(train_iter: int) -> None:
        policy.train_iter = train_iter
        policy.learn(replay.sample(batch, rng))

    plain = median_seconds(partial(update, 1), updates)
    measuring = median_seconds(partial(update, 0), updates)
    parameters = sum(parameter.numel() for parameter in policy.model.parameters())
    return parameters, move, plain, measuring, peak_resident()


def watch(traffic: list[Traffic], world_size: int) -> None:
    """Count what the collectives of this process do in the last entry of ``traffic``."""
    for name in COLLECTIVES:
        collective = getattr(distributed, name)

        def counted(*args, name=name, collective=collective, **kwargs):
            start = time.perf_counter()
            distributed.barrier()
            all_here = time.perf_counter()
            found = collective(*args, **kwargs)
            now = traffic[-1]
            tensor = args[1] if name in ("all_gather", "all_to_all_single") else args[0]
            factor = 2 if name == "all_reduce" else world_size if name == "all_gather" else 1
            now.sent += factor * tensor.nbytes * (world_size - 1) / world_size
            now.calls += 1
            now.waiting += all_here - start
            now.exchanging += time.perf_counter() - all_here
            return found

        setattr(distributed, name, counted)


def on_rank(processes: int, updates: int, meeting: str, rank: int) -> dict[str, Traffic]:
    """Traffic of this rank: of the median plain and measuring update, and of the reduction of one number."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes
    )
    dist = Distributed(rank, processes, rank, processes, "gloo")
    policy = make_policy(BASE | {"games": 8}, dist)
    share = assign_tasks(8, [8] * 8, [16] * 8, processes)[rank]
    replay = filled_replay(share.task_ids, policy.config.policy.window)
    rng, batch = (
        np.random.default_rng(rank),
        dict(zip(share.task_ids, share.batch_sizes, strict=True)),
    )
    one = torch.ones(1)
    reducing = median_seconds(lambda: distributed.all_reduce(one), 50)
    found = {"small": Traffic(calls=1, exchanging=reducing)}
    traffic = [Traffic()]
    watch(traffic, processes)
    for kind, train_iter in (("plain", 1), ("measuring", 0)):
        updates_of_kind = []
        for _ in range(updates + 1):
            policy.train_iter = train_iter
            traffic.append(Traffic())
            policy.learn(replay.sample(batch, rng))
            updates_of_kind.append(traffic[-1])
        found[kind] = sorted(updates_of_kind[1:], key=lambda t: t.exchanging)[updates // 2]
    distributed.destroy_process_group()
    return found


def in_processes(function: Callable, processes: int = 1) -> list:
    """Results of ``function(rank)`` in fresh processes, forked from one that has imported torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lzero.policy", "tyro", "rich.table"])
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        return list(pool.map(function, range(processes)))


def growth_table(arguments: Arguments) -> Table:
    """One field at a time."""
    table = Table(
        title="one process; the other fields are " + ", ".join(f"{v} {k}" for k, v in BASE.items())
    )
    for header in (
        "field",
        "value",
        "parameters",
        "move ms",
        "update s",
        "measuring s",
        "peak MiB",
    ):
        table.add_column(header, justify="right")
    for name, values in GROWTH.items():
        for value in values:
            job = partial(grown, BASE | {name: value}, arguments.updates)
            [(parameters, move, plain, measuring, peak)] = in_processes(job)
            cells = (f"{1e3 * move:.0f}", f"{plain:.2f}", f"{measuring:.2f}", f"{peak / MIB:.0f}")
            table.add_row(name, str(value), f"{parameters:,}", *cells)
    return table


def ranks_table(arguments: Arguments) -> Table:
    """Traffic over numbers of ranks, and what the fitted model says of the largest."""
    table = Table(title="eight games, D = 128, 8 experts; slowest rank, median update")
    for header in (
        "update",
        "ranks",
        "collectives",
        "MiB sent",
        "waiting ms",
        "exchanging ms",
        "model ms",
    ):
        table.add_column(header, justify="right")
    measured: dict[str, dict[int, Traffic]] = {"plain": {}, "measuring": {}}
    small: dict[int, float] = {}
    for processes in arguments.processes:
        if processes == 1:
            continue  # nothing is sent
        with tempfile.TemporaryDirectory() as folder:
            job = partial(on_rank, processes, arguments.updates, str(Path(folder) / "meeting"))
            ranks = in_processes(job, processes)
        small[processes] = max(rank["small"].exchanging for rank in ranks)
        for kind in measured:
            measured[kind][processes] = max(
                (rank[kind] for rank in ranks), key=lambda t: t.exchanging
            )
    largest = arguments.processes[-1]
    for kind, by_ranks in measured.items():
        known = [n for n in by_ranks if n != largest]
        latency = statistics.mean(small[n] / (2 * (n - 1)) for n in known)
        per_byte = statistics.mean(
            max(by_ranks[n].exchanging - predicted(n, by_ranks[n], latency, 0), 0)
            / (n * by_ranks[n].sent)
            for n in known
        )
        for processes, traffic in by_ranks.items():
            model = predicted(processes, traffic, latency, per_byte)
            table.add_row(
                *(kind, str(processes), str(traffic.calls), f"{traffic.sent / MIB:.2f}"),
                *(
                    f"{1e3 * traffic.waiting:.0f}",
                    f"{1e3 * traffic.exchanging:.1f}",
                    f"{1e3 * model:.1f}",
                ),
            )
        last = by_ranks[largest]
        error = predicted(largest, last, latency, per_byte) / last.exchanging - 1
        table.add_section()
        print(
            f"{kind}: latency {1e6 * latency:.0f} us a round, {1 / per_byte / MIB:.0f} MiB/s of all "
            f"ranks together; at {largest} ranks the model is off by {error:+.0%}"
        )
    return table


def predicted(processes: int, traffic: Traffic, latency: float, per_byte: float) -> float:
    """Seconds of an update's exchanges."""
    rounds = traffic.calls * 2 * (processes - 1)
    return rounds * latency + processes * traffic.sent * per_byte


def games_table(arguments: Arguments) -> Table:
    """Seconds of an environment step by game, and the load of the ranks that play them."""
    table = Table(title="8 environments a game, milliseconds of a step of all of them, one thread")
    table.add_column("game")
    table.add_column("ms", justify="right")
    costs = []
    for game in ATARI8:
        env = ATARI.make(
            EnvConfig(games=(game,)),
            (game,),
            range(1),
            [8],
            env_offsets=[0],
            training=True,
            num_threads=1,
        )
        env.reset(0)
        rng = np.random.default_rng(0)
        costs.append(median_seconds(lambda env=env, rng=rng: env.step(rng.integers(0, 6, 8)), 100))
        env.close()
        table.add_row(game, f"{1e3 * costs[-1]:.2f}")
    for processes in arguments.processes:
        shares = assign_tasks(8, [8] * 8, [16] * 8, processes)
        loads = [sum(costs[task] for task in share.task_ids) for share in shares]
        worst = max(loads) / statistics.mean(loads)
        table.add_row(f"{processes} ranks: busiest over mean", f"{worst:.2f}")
    return table


def main() -> None:
    """Print the tables."""
    arguments = tyro.cli(Arguments)
    console = Console(width=110)
    if "growth" in arguments.tables:
        console.print(growth_table(arguments))
    if "ranks" in arguments.tables:
        console.print(ranks_table(arguments))
    if "games" in arguments.tables:
        console.print(games_table(arguments))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
