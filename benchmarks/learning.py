"""Learning curves and ablations: trains every variant of a suite with several seeds and prints one line for each.

python benchmarks/learning.py catch                      # ablations on Catch and MirroredCatch
python benchmarks/learning.py breakout --seeds 0 1       # ablations on MinAtar Breakout
python benchmarks/learning.py minatar --seeds 0 1        # MinAtar Breakout alone, and three games together

Runs go to ``runs/{suite}/{variant}_s{seed}``, ``--jobs`` at a time with one thread each. The same command again continues
runs that were interrupted and leaves finished ones alone.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from lzero.config import ExperimentConfig, load_domain
from lzero.logging import read_metrics

ROOT = Path(__file__).parents[1]
CATCH = "zoo/catch/config/catch_unizero_multitask_segment_ddp_config"
MINATAR = "zoo/minatar/config/minatar_unizero_multitask_segment_ddp_config"


@dataclass(frozen=True)
class Variant:
    """A training script, its preset and what is changed."""

    name: str
    script: str
    preset: str
    arguments: str = ""


def ablations(script: str, preset: str, *, longer: bool) -> tuple[Variant, ...]:
    """The changes that are compared with the preset, one at a time."""
    variants = [Variant("preset", f"{script}_moe.py", preset), Variant("dense blocks", f"{script}.py", preset)]
    variants += [
        Variant(
            f"{count} simulations",
            f"{script}_moe.py",
            preset,
            f"--policy.search.num-simulations {count} --policy.search.num-eval-simulations {count}",
        )
        for count in (5, 25, 50)
    ]
    if not longer:
        return tuple(variants)
    variants += [
        Variant(
            f"gumbel, {count} simulations",
            f"{script}_moe.py",
            preset,
            f"--policy.search.kind gumbel --policy.search.num-simulations {count} "
            f"--policy.search.num-eval-simulations {count}",
        )
        for count in (8, 16)
    ]
    variants += [
        Variant(f"replay ratio {ratio}", f"{script}_moe.py", preset, f"--policy.replay-ratio {ratio}")
        for ratio in (0.1, 0.25, 1)
    ]
    variants += [
        Variant(f"context {steps}", f"{script}_moe.py", preset, f"--model.context-steps {steps}") for steps in (1, 4)
    ]
    variants += [
        Variant(
            f"task embedding {kind}, shared heads",
            f"{script}_moe.py",
            preset,
            f"--model.task-embedding {kind} --model.share-head",
        )
        for kind in ("none", "add", "concat", "register")
    ]
    return tuple(variants)


SUITES = {
    "catch": ablations(CATCH, "both", longer=True),
    "blind": (
        Variant("context 1, shared heads, no embedding", f"{CATCH}_moe.py", "blind"),
        Variant("context 4, shared heads, no embedding", f"{CATCH}_moe.py", "context"),
    ),
    "breakout": ablations(MINATAR, "breakout", longer=False),
    "minatar": (
        Variant("breakout", f"{MINATAR}_moe.py", "breakout"),
        Variant("three", f"{MINATAR}_moe.py", "three"),
    ),
}


@dataclass(frozen=True)
class Arguments:
    """Train every variant of a suite with several seeds."""

    suite: tyro.conf.Positional[Literal["catch", "blind", "breakout", "minatar"]]
    """What to train."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of each variant per seed."""
    jobs: int = 2
    """Runs side by side, each on one thread."""
    only: Annotated[str, tyro.conf.arg(metavar="TEXT")] = ""
    """Only variants whose name contains this."""
    output_dir: Path = Path("runs")
    """Folder of all runs."""


def slug(name: str) -> str:
    """``name`` as part of a folder's name."""
    return "_".join("".join(c if c.isalnum() or c == "." else " " for c in name).split())


def run(arguments: Arguments, variant: Variant, seed: int) -> Path:
    """Train one variant with one seed, unless it is finished; its folder."""
    folder = arguments.output_dir.resolve() / arguments.suite / f"{slug(variant.name)}_s{seed}"
    if (folder / "finished.txt").exists():
        return folder
    command = [sys.executable, str(ROOT / variant.script), variant.preset, *variant.arguments.split()]
    command += ["--train.no-video", "--output-dir", str(folder.parent), "--exp-name", folder.name, "--seed", str(seed)]
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with (folder / "log.txt").open("a") as log:
        subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )
    (folder / "finished.txt").write_text(f"{time.monotonic() - start:.0f} s, {' '.join(command[1:])}\n")
    return folder


def interval(scores: list[np.ndarray], rng: np.random.Generator, resamples: int = 10_000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean, over seeds and over the episodes of each."""
    seeds = rng.integers(len(scores), size=(resamples, len(scores)))
    means = np.stack([s[rng.integers(len(s), size=(resamples, len(scores), len(s)))].mean(axis=-1) for s in scores])
    resampled = np.take_along_axis(means.transpose(1, 2, 0), seeds[..., None], axis=2)[..., 0].mean(axis=1)
    return tuple(np.percentile(resampled, [2.5, 97.5]))


def main() -> None:
    """Train, then print the table."""
    arguments = tyro.cli(Arguments)
    variants = [variant for variant in SUITES[arguments.suite] if arguments.only in variant.name]
    jobs = [(variant, seed) for variant in variants for seed in arguments.seeds]
    with Progress() as progress, ThreadPoolExecutor(arguments.jobs) as pool:
        bar = progress.add_task("runs", total=len(jobs))

        def done(job: tuple[Variant, int]) -> Path:
            folder = run(arguments, *job)
            progress.advance(bar)
            return folder

        folders = dict(zip(jobs, pool.map(done, jobs), strict=True))
    table = Table(title=f"{arguments.suite}: final evaluation, seeds {', '.join(map(str, arguments.seeds))}")
    for header in ("variant", "game", "mean", "95 % interval", "per seed", "x random", "minutes a run"):
        table.add_column(header)
    rng = np.random.default_rng(0)
    for variant in variants:
        mine = [folders[variant, seed] for seed in arguments.seeds]
        for row in rows(variant, mine, rng):
            table.add_row(*row)
    Console(width=150).print(table)


def rows(variant: Variant, folders: list[Path], rng: np.random.Generator) -> list[tuple[str, ...]]:
    """The table's lines of one variant, one for each game."""
    config = ExperimentConfig.model_validate_json((folders[0] / "config.json").read_text())
    lines = [read_metrics(folder / "metrics.jsonl") for folder in folders]
    minutes = np.mean([float((folder / "finished.txt").read_text().split()[0]) / 60 for folder in folders])
    found = []
    for game in config.env.games:
        tag = f"eval_scores/{game}"
        scores = [np.array([line["arrays"][tag] for line in run if tag in line.get("arrays", {})][-1]) for run in lines]
        low, high = interval(scores, rng)
        mean = np.mean([s.mean() for s in scores])
        random = load_domain(config.env.domain).reference_scores(game).get("random")
        ratio = f"{mean / random:.1f}" if random is not None and random > 0 else "–"
        per_seed = " ".join(f"{s.mean():.2f}" for s in scores)
        found.append((variant.name, game, f"{mean:.2f}", f"{low:.2f} … {high:.2f}", per_seed, ratio, f"{minutes:.1f}"))
    return found


if __name__ == "__main__":
    main()
