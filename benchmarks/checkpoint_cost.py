"""What checkpoints cost a run: its time and bytes, read from what it has logged.

python benchmarks/checkpoint_cost.py runs/atari_two_games_moe runs/another
"""

import sys
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from lzero.logging import METRICS_FILE, read_metrics

PHASES = (
    "time/collect",
    "time/sample",
    "time/learn",
    "time/log",
    "time/evaluate",
    "time/checkpoint",
)
"""What a run's rounds consist of; phases within them are left out."""


def main(runs: tyro.conf.Positional[tuple[Path, ...]]) -> None:
    """Print a line for each run."""
    table = Table("run", "checkpoints", "seconds each", "largest MiB", "of all time, %")
    for run in runs:
        seconds = dict.fromkeys(PHASES, 0.0)
        costs, sizes = [], [0.0]
        for line in read_metrics(run / METRICS_FILE):
            for phase in PHASES:
                seconds[phase] += line["metrics"].get(phase, 0.0)
            if "time/checkpoint" in line["metrics"]:
                costs.append(line["metrics"]["time/checkpoint"])
                sizes.append(line["metrics"].get("checkpoint/mebibytes", 0.0))
        if not costs:
            sys.exit(f"error: {run} has logged no checkpoint")
        share = 100 * seconds["time/checkpoint"] / sum(seconds.values())
        each = f"{sum(costs) / len(costs):.2f}"
        table.add_row(run.name, str(len(costs)), each, f"{max(sizes):,.0f}", f"{share:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    tyro.cli(main)
