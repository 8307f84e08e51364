"""Mixtures of experts in multi-task and continual RL: PPO on MinAtar, a grid of architectures and ways to route.

python benchmarks/mixture.py mtrl --seeds 0 1 2 3 4        # all games at once
python benchmarks/mixture.py crl                           # one game after another, twice, in two orders
python benchmarks/mixture.py orders                        # baseline and one mixture in all orders of three games
python benchmarks/mixture.py routers                       # what routers see, regularised routers, other tokens
python benchmarks/mixture.py single                        # each game alone
python benchmarks/mixture.py cost                          # parameters, work, time and memory, without training
python benchmarks/mixture.py speed                         # env steps per second, and learning against the baseline

Runs go to ``runs/mixture_{grid}/{variant}_s{seed}``, ``--jobs`` at a time with one thread each. The same command again
continues runs that were interrupted and leaves finished ones alone, then prints how to draw the report. Orders go to the
folder of ``crl``, which has two of them.
"""

import lzero  # noqa: F401, I001  (before torch: it sets how OpenMP threads wait)

import itertools
import resource
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from grid import Grid, Variant
from lzero.config_ppo import PPOExperiment
from lzero.entry.ppo_run import PPORun
from lzero.envs.domain import read_experiment
from lzero.model.actor_critic import ActorCritic, parameter_count
from zoo.minatar.config.ppo_presets import ppo_presets
from zoo.minatar.config.presets import THREE

SCRIPT = "zoo/minatar/config/minatar_ppo_moe_config.py"
# what is kept of a run: all that figures and tables are made of
KEPT = ("collect_", "eval_", "plasticity/", "gradient_conflict", "moe_", "expert_selection")


def mixture(architecture: str, routing: str, more: str = "") -> str:
    """Arguments of the training script for a mixture."""
    return f"--model.architecture {architecture} --model.mixture.routing {routing} {more}".strip()


STUDY = {
    "baseline": "",
    "big softmoe": mixture("big", "softmoe"),
    "big hardcoded": mixture("big", "hardcoded"),
    "big topk": mixture("big", "topk"),
    "middle softmoe": mixture("middle", "softmoe"),
    "all softmoe": mixture("all", "softmoe"),
    "big adaptive": mixture("big", "adaptive"),
    "big wide": mixture("big", "softmoe", "--model.mixture.wide"),
}
"""What is compared; ``big wide`` is the control, one expert with the parameters of all."""
IN_EVERY_ORDER = ("baseline", "big softmoe")
PARSEVAL_WEIGHT = 1e-3
ENTROPY_WEIGHT = 1e-2  # as that of the policy's entropy
ROUTERS = {
    "big softmoe, task id": mixture("big", "softmoe", "--model.mixture.router-task-id"),
    "big topk, task id": mixture("big", "topk", "--model.mixture.router-task-id"),
    "big softmoe, gradient": mixture("big", "softmoe", "--model.mixture.router-gradient"),
    "big softmoe, entropy up": mixture(
        "big", "softmoe", f"--model.mixture.entropy-weight {ENTROPY_WEIGHT}"
    ),
    "big softmoe, entropy down": mixture(
        "big", "softmoe", f"--model.mixture.entropy-weight -{ENTROPY_WEIGHT}"
    ),
    "big softmoe, parseval": mixture(
        "big", "softmoe", f"--model.mixture.parseval-weight {PARSEVAL_WEIGHT}"
    ),
    "big expert choice": mixture("big", "expert_choice"),
    "final softmoe": mixture("final", "softmoe"),
    "conv baseline": "--model.stem conv",
    "conv middle softmoe, PerConv": mixture(
        "middle", "softmoe", "--model.stem conv --model.mixture.tokens PerConv"
    ),
    "conv middle softmoe, PerFeat": mixture(
        "middle", "softmoe", "--model.stem conv --model.mixture.tokens PerFeat"
    ),
}


def variants_of(grid: str) -> list[Variant]:
    """All trainings of a grid, without seeds."""
    if grid == "single":
        return [Variant(game, SCRIPT, "mtrl", f"--env.games {game}") for game in THREE]
    if grid in ("mtrl", "routers"):
        chosen = STUDY if grid == "mtrl" else ROUTERS
        return [Variant(name, SCRIPT, "mtrl", arguments) for name, arguments in chosen.items()]
    found = []
    for name, arguments in STUDY.items():
        if grid == "orders" and name not in IN_EVERY_ORDER:
            continue
        for order in [THREE, THREE[::-1]] if grid == "crl" else itertools.permutations(THREE):
            short = "".join(game[0] for game in order)  # Breakout, Asterix, SpaceInvaders
            of_order = f"--schedule.order {' '.join(order)} {arguments}"
            found.append(Variant(f"{name} {short}", SCRIPT, "crl", of_order))
    return found


@dataclass(frozen=True)
class Arguments:
    """Train a grid of actor-critics, or measure what they cost."""

    grid: tyro.conf.Positional[
        Literal["mtrl", "crl", "orders", "routers", "single", "cost", "speed"]
    ]
    """What to train or measure."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run of each variant per seed."""
    jobs: int = 2
    """Runs side by side, each on one thread."""
    only: Annotated[str, tyro.conf.arg(metavar="TEXT")] = ""
    """Only variants whose name contains this."""
    max_env_steps: int | None = None
    """Env steps of each game; the preset's own if not given."""
    output_dir: Path = Path("runs")
    """Folder of all runs."""
    keep: Path | None = None
    """Write config and metrics of every run that has finished to this folder too."""


def train_all(arguments: Arguments) -> None:
    """Train the grid, then say how to look at it."""
    every = variants_of(arguments.grid)
    chosen = [variant for variant in every if arguments.only in variant.name]
    if not chosen:
        names = ", ".join(variant.name for variant in every)
        raise SystemExit(f"--only {arguments.only!r}: no variant is called so; there are {names}")
    if arguments.max_env_steps is not None:
        shorter = f" --train.max-env-steps {arguments.max_env_steps}"
        chosen = [replace(variant, arguments=variant.arguments + shorter) for variant in chosen]
    # runs of all orders are those of two orders and more
    name = "mixture_crl" if arguments.grid == "orders" else f"mixture_{arguments.grid}"
    kept = None if arguments.keep is None else arguments.keep / name
    grid = Grid(chosen, arguments.seeds, arguments.output_dir / name, kept, KEPT)
    grid.train(arguments.jobs)
    print(f"draw it: python -m lzero.report {grid.folder}/* --out reports/{name}")


def preset(arguments: str = "", **policy: object) -> PPOExperiment:
    """Preset mtrl with the ``--model`` fields of a variant's arguments."""
    data = ppo_presets()["mtrl"][1].model_dump()
    words = arguments.split()
    for word, value in itertools.zip_longest(words, words[1:]):
        if not word.startswith("--model."):
            continue
        *path, field = word.removeprefix("--").replace("-", "_").split(".")
        node = data
        for name in path:
            node = node[name]
        node[field] = True if value is None or value.startswith("--") else value
    data["policy"] |= {"gradient_conflict_interval": 0} | policy
    return read_experiment(PPOExperiment, data | {"device": "cpu", "precision": "fp32"})


def running(config: PPOExperiment, directory: str) -> PPORun:
    """A run of this config in a folder that is thrown away."""
    data = config.model_dump() | {"output_dir": directory}
    config = read_experiment(PPOExperiment, data)
    return PPORun(config, seed=0, max_env_steps=config.clock_steps, resume="never")


def learning_seconds(config: PPOExperiment, rounds: int) -> list[float]:
    """Seconds of learning in each of some rounds, after one that warms up."""
    with tempfile.TemporaryDirectory() as directory, running(config, directory) as run:
        rollout, _ = run.collect()
        seconds = []
        for index in range(rounds + 1):
            start = time.perf_counter()
            run.learn(rollout)
            if index:
                seconds.append(time.perf_counter() - start)
    return seconds


def megaflop(model: ActorCritic, shape: tuple[int, ...]) -> float:
    """Multiply-adds times two of one observation's forward, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    batch = 30  # over which experts that choose can share out tokens
    observation = torch.zeros(batch, *shape)
    task_id = torch.arange(batch) % model.num_tasks
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(observation, task_id)
    return counter.get_total_flops() / 1e6 / batch


def cost() -> None:
    """Parameters, multiplications, learning time and memory of every variant."""
    table = Table(title="cost of architectures and ways to route, three games")
    for header in ("variant", "parameters", "MFLOP a step", "learn a round s", "x baseline", "MiB"):
        table.add_column(header, justify="left" if header == "variant" else "right")
    first = None
    for name, arguments in (STUDY | ROUTERS).items():
        config = preset(arguments)
        seconds = statistics.median(learning_seconds(config, 3))
        first = first or seconds
        shape = (6, 10, 10)  # SpaceInvaders has the most channels
        model = ActorCritic(config.model, shape, 6, len(THREE)).eval()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        table.add_row(
            name,
            f"{parameter_count(model):,}",
            f"{megaflop(model, shape):.2f}",
            f"{seconds:.2f}",
            f"{seconds / first:.2f}",
            f"{peak:,.0f}",
        )
    table.caption = (
        "MiB: largest resident memory of the process until then; it never falls from line to line"
    )
    Console(width=120).print(table)


def speed(rounds: int = 5) -> None:
    """Env steps per second of the whole loop, of its environments alone, and learning with experts against the baseline."""
    with (
        tempfile.TemporaryDirectory() as directory,
        running(preset(), directory) as run,
    ):
        steps = run.of_all_games(run.config.train.collect_steps * run.config.env.num_envs)
        env, rng = run.env, np.random.default_rng(0)
        actions = rng.integers(0, 6, (run.config.train.collect_steps, env.num_envs))
        whole, raw = [], []
        for index in range(rounds + 1):
            start = time.perf_counter()
            rollout, _ = run.collect()
            run.learn(rollout)
            middle = time.perf_counter()
            for action in actions:
                env.step(action)
            if index:
                whole.append(steps / (middle - start))
                raw.append(steps / (time.perf_counter() - middle))
        ratio = statistics.median(a / b for a, b in zip(whole, raw, strict=True))
        print(f"env steps/s, acting and learning: {statistics.median(whole):,.0f}")
        print(f"env steps/s, environments alone:  {statistics.median(raw):,.0f}; ratio {ratio:.2f}")
    baseline = learning_seconds(preset(), rounds)
    for name in ("big softmoe", "all softmoe", "middle softmoe", "big topk", "big hardcoded"):
        with_experts = learning_seconds(preset(STUDY[name]), rounds)
        ratio = statistics.median(with_experts) / statistics.median(baseline)
        print(
            f"learning, {name}: {statistics.median(with_experts):.2f} s a round, {ratio:.2f} x baseline"
        )
    print(f"{torch.get_num_threads()} thread(s), torch {torch.__version__}")


def main() -> None:
    """Train, or measure."""
    arguments = tyro.cli(Arguments, description=__doc__)
    if arguments.grid == "cost":
        cost()
    elif arguments.grid == "speed":
        speed()
    else:
        train_all(arguments)


if __name__ == "__main__":
    main()
