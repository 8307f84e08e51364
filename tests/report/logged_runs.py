"""Run folders with the lines that a test asks for, and what reads a report's files."""

import csv
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from lzero.config import ExperimentConfig

GAMES = ("CartPole-v1", "Acrobot-v1")
FIGURES = (
    "returns.png",
    "collect_returns.png",
    "collect_rewards.png",
    "learning.png",
    "health.png",
)
ALWAYS = (
    *("curves.csv", "final.csv", "resources.csv", "environment.csv", "notes.txt"),
    "index.html",
)


def write_run(folder: Path, lines: list[dict[str, Any]], **changes: Any) -> Path:
    """A run of ``GAMES`` with lines ``{env_step, metrics, arrays}``.

    ``changes`` go into its config by section.
    """
    config = ExperimentConfig.model_validate(
        {
            "exp_name": folder.name,
            "env": {"domain": "zoo.classic_control.domain:CLASSIC_CONTROL", "games": GAMES},
            **changes,
        }
    )
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.model_dump_json())
    rows = [{"train_iter": 0, "wall_time": 0.0, "metrics": {}} | line for line in lines]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def lines_of(offset: float, *, scores: bool = True) -> list[dict[str, Any]]:
    """Two evaluations of both games, at 100 and 200 env steps, and everything else once."""
    lines = []
    for step in (100, 200):
        returns = {
            game: [step + offset + 10 * n, step + offset + 10 * n + 4]
            for n, game in enumerate(GAMES)
        }
        metrics = {
            f"eval_return/{game}": float(np.mean(values)) for game, values in returns.items()
        }
        metrics |= {f"collect_return/{game}": offset + step / 2 for game in GAMES}
        metrics |= {f"collect_reward/{game}": offset + step / 4 for game in GAMES}
        metrics |= {"learn/loss": 5.0 + offset - step / 100, "health/latent_norm": 16.0 + offset}
        lines.append({"env_step": step, "metrics": metrics})
        if scores:
            lines.append(
                {
                    "env_step": step,
                    "arrays": {f"eval_scores/{game}": returns[game] for game in GAMES},
                }
            )
    return lines


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def png_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels of a PNG."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and content[-8:-4] == b"IEND"
    return struct.unpack(">II", content[16:24])


def write_runs(folder: Path) -> list[Path]:
    """Two experiments: two seeds with episode scores, and one seed without."""
    dense = {"model": {"moe": {"enabled": False}}}
    return [
        write_run(folder / "moe_s0", lines_of(0.0)),
        write_run(folder / "moe_s1", lines_of(20.0), train={"max_env_steps": 300}),
        write_run(folder / "dense_s0", lines_of(-5.0, scores=False), **dense),
    ]
