"""It learns: two tasks that look alike and ask for opposite actions, learned by the real script in about a minute.

The agent that sees one step, shares its heads and is not told the task cannot know at first which way its paddle moves:
it must be far worse, or the first result would prove nothing about tasks.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lzero
from lzero.logging import read_metrics
from zoo.catch.domain import CATCH

ROOT = Path(lzero.__file__).parents[1]
SCRIPT = "zoo/catch/config/catch_unizero_multitask_segment_ddp_config_moe.py"
GAMES = ("Catch", "MirroredCatch")
ONLY_THE_LAST_EVALUATION = (
    "--train.eval-interval",
    "100000",
    "--train.no-video",
    "--train.no-pictures",
)
A_THIRD_LONGER = ("--train.max-env-steps", "12800")
"""At the presets' 9,600 env steps one seed of four still has 0.81 in one game; here all have arrived."""


def scores_of(preset: str, folder: Path) -> dict[str, np.ndarray]:
    """Scores of the last evaluation by game."""
    command = [sys.executable, SCRIPT, preset, "--output-dir", str(folder), "--exp-name", preset]
    run = subprocess.run(
        [*command, *ONLY_THE_LAST_EVALUATION, *A_THIRD_LONGER],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    *_, last = (
        line["arrays"]
        for line in read_metrics(folder / preset / "metrics.jsonl")
        if "arrays" in line
    )
    return {game: np.array(last[f"eval_scores/{game}"]) for game in GAMES}


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[str, np.ndarray]:
    """Scores of an agent that is told which task it plays."""
    return scores_of("both", tmp_path_factory.mktemp("runs"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("game", GAMES)
def test_both_mirrored_tasks_reach_nine_tenths_of_the_optimum(told, game):
    assert len(told[game]) >= 50
    assert told[game].mean() >= 0.9 * CATCH.reference_scores(game)["optimum"]


@pytest.mark.timeout(1200)
def test_an_agent_that_cannot_tell_the_tasks_apart_is_far_worse(told, tmp_path):
    """Not hopeless: walls to which a few moves lead tell the tasks apart (benchmarks/RESULTS.md)."""
    blind = scores_of("blind", tmp_path)
    assert np.mean([blind[game].mean() for game in GAMES]) < 0.9 * np.mean(
        [told[game].mean() for game in GAMES]
    )
