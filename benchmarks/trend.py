"""What runs collected, stretch by stretch, and how they were evaluated: tables of RESULTS.md.

python benchmarks/trend.py benchmarks/curves/four/*
python benchmarks/trend.py runs/ablate/* --stretch 5000
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from lzero.report.run_data import RunData, read_run


@dataclass(frozen=True)
class Arguments:
    """Print what runs collected and their evaluations."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, or of what is kept of them."""
    stretch: int = 10_000
    """Env steps of a column; the last one may be shorter, or longer by less than half."""


def collected(run: RunData, game: str, stretch: int) -> list[float]:
    """Points per 1,000 env steps while collecting (exploring), mean of each stretch."""
    series = run.series(f"collect_reward/{game}")
    number = (series.env_step - 1) // stretch  # the step at a stretch's end belongs to it
    # what is left at the end and shorter than half a stretch joins the one before
    number = np.minimum(number, max(0, round(series.env_step[-1] / stretch) - 1))
    return [series.value[number == one].mean() for one in np.unique(number)]


def evaluated(run: RunData, game: str) -> list[str]:
    """Mean and standard deviation of the episodes of every evaluation, with its env step."""
    series, found = run.series(f"eval_return/{game}"), []
    for step in series.env_step.tolist():
        scores = run.episode_scores(game, step)
        found.append(f"{step:,.0f}: {scores.mean():,.0f} ({scores.std():,.0f})")
    return found


def main() -> None:
    """Print a line for each run and game."""
    arguments = tyro.cli(Arguments, description=__doc__)
    table = Table(title=f"points per 1,000 env steps, by {arguments.stretch:,} env steps")
    for header in ("run", "game", "collected", "evaluations, mean (standard deviation)"):
        table.add_column(header)
    for folder in arguments.runs:
        run = read_run(folder)
        for game in run.games:
            points = ", ".join(f"{value:,.0f}" for value in collected(run, game, arguments.stretch))
            table.add_row(folder.name, game, points, "\n".join(evaluated(run, game)))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
