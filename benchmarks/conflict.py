"""What measuring gradient conflict costs: an update that measures, and one in between, against a plain update, and
the exchange between processes against a plain all-gather (benchmarks/conflict_exchange.py, which has more options).

    python benchmarks/conflict.py
    python benchmarks/conflict.py --tasks 8 --dense --rounds 9 --no-exchange

Pictures are logged, not learned: their cost is in a run's ``time/log``.
"""

import lzero  # noqa: F401, I001  (before torch: it sets how OpenMP threads wait)

import statistics
import time
from dataclasses import dataclass

import conflict_exchange
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from lzero.config import ExperimentConfig
from lzero.replay.buffer import ReplayBuffer
from lzero.replay.windows import ReplayWindows
from lzero.policy import UniZeroMTPolicy

ACTIONS = 18
ATARI8 = ("Alien", "Amidar", "Assault", "Boxing", "ChopperCommand", "Hero", "MsPacman", "Pong")


@dataclass(frozen=True)
class Arguments:
    """Time updates of one policy."""

    tasks: tuple[int, ...] = (4, 8)
    """Numbers of games."""
    batch_size: int = 16
    """Windows per game."""
    dim: int = 256
    """Model width."""
    layers: int = 2
    """Blocks."""
    dense: bool = False
    """Dense blocks instead of 8+1 experts."""
    rounds: int = 5
    """Measurements of each; the order changes from round to round."""
    exchange: bool = True
    """Also compare the exchange between processes."""


def make_policy(arguments: Arguments, num_tasks: int) -> UniZeroMTPolicy:
    """A policy on random parameters."""
    model = {
        "embed_dim": arguments.dim,
        "num_layers": arguments.layers,
        "moe": {"enabled": not arguments.dense},
    }
    config = ExperimentConfig.model_validate(
        {
            "env": {"games": ATARI8[:num_tasks]},
            "model": model,
            "policy": {"batch_size": arguments.batch_size},
        }
    )
    torch.manual_seed(0)
    return UniZeroMTPolicy(config, (3, 64, 64), np.ones((num_tasks, ACTIONS), bool))


def make_windows(policy: UniZeroMTPolicy) -> ReplayWindows:
    """Random frames and rewards."""
    rng, num_tasks = np.random.default_rng(0), policy.config.num_tasks
    window = policy.config.policy.window
    replay = ReplayBuffer(
        np.repeat(np.arange(num_tasks), 2), 60, (3, 64, 64), np.uint8, ACTIONS, window
    )
    rings = 2 * num_tasks
    for _ in range(60):
        frames = rng.integers(0, 256, (rings, 64, 64, 3), dtype=np.uint8).transpose(0, 3, 1, 2)
        flags = dict.fromkeys(("terminated", "truncated", "reset"), np.zeros(rings, bool))
        reward = rng.integers(-1, 2, rings).astype(np.float32)
        visits = rng.dirichlet(np.ones(ACTIONS), rings).astype(np.float32)
        replay.append(
            frames,
            rng.integers(0, ACTIONS, rings),
            reward,
            visits=visits,
            root_value=reward,
            **flags,
        )
    return replay.sample(dict.fromkeys(range(num_tasks), policy.config.policy.batch_size), rng)


def seconds(policy: UniZeroMTPolicy, windows: ReplayWindows, interval: int) -> float:
    """Time of update number 1, which measures if ``interval`` is 1."""
    changed = policy.config.policy.model_copy(update={"gradient_conflict_interval": interval})
    policy.config = policy.config.model_copy(update={"policy": changed})
    policy.train_iter = 1
    start = time.perf_counter()
    policy.learn(windows)
    if policy.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Print the tables."""
    arguments = tyro.cli(Arguments)
    Console().print(compare(arguments))
    if arguments.exchange:
        Console(width=130).print(conflict_exchange.compare(conflict_exchange.Arguments()))


def compare(arguments: Arguments) -> Table:
    """Measure updates; the table."""
    kinds = {"plain": 0, "in between": 1_000_000, "measuring": 1}
    table = Table(
        title=f"update, {arguments.batch_size} windows per game, D = {arguments.dim}, H = 10, td = 5"
    )
    for header in (
        "games",
        *(f"{kind} s" for kind in kinds),
        "in between / plain",
        "measuring / plain",
    ):
        table.add_column(header, justify="right")
    for num_tasks in arguments.tasks:
        policy = make_policy(arguments, num_tasks)
        windows = make_windows(policy)
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for round_number in range(arguments.rounds + 1):
            order = list(kinds) if round_number % 2 else list(kinds)[::-1]
            for kind in order:
                times[kind].append(seconds(policy, windows, kinds[kind]))
        measured = {kind: values[1:] for kind, values in times.items()}  # the first round warms up
        ratios = {
            kind: statistics.median(
                a / b for a, b in zip(measured[kind], measured["plain"], strict=True)
            )
            for kind in ("in between", "measuring")
        }
        medians = (f"{statistics.median(values):.2f}" for values in measured.values())
        table.add_row(str(num_tasks), *medians, *(f"{ratio:.2f}" for ratio in ratios.values()))
    blocks = "dense blocks" if arguments.dense else "8+1 experts"
    table.caption = (
        f"{blocks}, {policy.device}, {policy.dtype}, {torch.get_num_threads()} threads; medians"
    )
    return table


if __name__ == "__main__":
    main()
