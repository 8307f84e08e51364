"""What a random policy scores in the games of a run, with that run's environment settings.

python benchmarks/random_policy.py runs/pong/pong_s0
"""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from lzero.config import ExperimentConfig
from lzero.envs.domain import load_domain
from lzero.report.statistics import hierarchical_bootstrap_mean
from lzero.worker.evaluator import evaluate
from lzero.worker.random_policy import RandomPlayer


@dataclass(frozen=True)
class Arguments:
    """Play at random."""

    run: tyro.conf.Positional[Path]
    """Folder of a run."""
    episodes: int = 200
    """Episodes per game."""
    envs: int = 20
    """Environments per game."""
    seed: int = 0
    """Of environments and actions."""


def main() -> None:
    """Print the table."""
    arguments = tyro.cli(Arguments)
    config = ExperimentConfig.model_validate(
        json.loads((arguments.run / "config.json").read_text(encoding="utf-8"))
    )
    games = config.env.games
    counts = [arguments.envs] * len(games)
    tasks = range(len(games))
    env = load_domain(config.env.domain).make(
        config.env,
        games,
        tasks,
        counts,
        env_offsets=[0] * len(games),
        training=False,
        num_threads=1,
    )
    with Progress() as progress:
        bar = progress.add_task("episodes", total=arguments.episodes * len(games))
        played = evaluate(
            env,
            RandomPlayer(env.legal_actions, arguments.seed),
            arguments.episodes,
            arguments.seed,
            on_step=lambda done, wanted: progress.update(bar, completed=done, total=wanted),
        )
    env.close()
    table = Table(title=f"random policy, settings of {arguments.run}")
    for header in ("game", "mean", "95 % interval", "episodes", "mean length"):
        table.add_column(header)
    for game, score, length in zip(games, played.score, played.length, strict=True):
        low, high = hierarchical_bootstrap_mean([score])
        table.add_row(
            game,
            f"{score.mean():.3f}",
            f"{low:.3f} … {high:.3f}",
            str(len(score)),
            f"{length.mean():.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
