"""Run folders of PPO with the evaluations that a test asks for."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lzero.config_ppo import PPOExperiment

GAMES = ("Catch", "MirroredCatch")
DOMAIN = "zoo.catch.domain:CATCH"
ROUND = 512  # env steps
MAX_ENV_STEPS = 4096  # of a game


def experiment(name: str, games: Sequence[str] = GAMES, **changes: Any) -> PPOExperiment:
    """``changes`` go into the sections, by name."""
    sections: dict[str, dict[str, Any]] = {
        "env": {"domain": DOMAIN, "games": games, "num_envs": 32},
        "train": {"max_env_steps": MAX_ENV_STEPS, "collect_steps": 16},
        "policy": {"minibatches": 4},
    }
    for section, fields in changes.items():
        sections[section] = sections.get(section, {}) | fields
    return PPOExperiment.model_validate({"exp_name": name, **sections})


def write_ppo_run(
    folder: Path,
    evaluations: Mapping[int, Sequence[float]],
    *,
    normalised: bool = True,
    other: Mapping[str, float] | None = None,
    **changes: Any,
) -> Path:
    """A run with the games' returns by env step; Catch's returns are scores on its scale.

    Args:
        folder: of the run; its name is the run's.
        evaluations: returns of all games, by env step.
        normalised: whether the scores on the domain's scale are logged.
        other: numbers that are logged at every evaluation.
        changes: of its config.
    """
    config = experiment(folder.name, **changes)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.model_dump_json())
    lines = []
    for step, returns in evaluations.items():
        metrics = {"learn/value": 1 / (1 + step)} | dict(other or {})
        for game, value in zip(config.env.games, returns, strict=True):
            metrics[f"eval_return/{game}"] = value
            if normalised:
                metrics[f"eval_normalised/{game}"] = value
        row = {"env_step": step, "train_iter": step, "wall_time": 0.0, "metrics": metrics}
        lines.append(json.dumps(row) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


def write_finals(
    folder: Path, name: str, scores: Sequence[Sequence[float]], **changes: Any
) -> list[Path]:
    """Runs ``{name}_s0``, … whose only evaluation has ``scores (S, G)``."""
    runs = []
    for seed, values in enumerate(np.asarray(scores, np.float64).tolist()):
        runs.append(write_ppo_run(folder / f"{name}_s{seed}", {MAX_ENV_STEPS: values}, **changes))
    return runs
