"""The examples run as their first lines say, and show what they promise."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest

import lzero
from lzero.analysis.expert_statistics import WINDOWS

ROOT = Path(lzero.__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MOST_LINES = 40
GAMES = ("Catch", "MirroredCatch")
SHARE = r"\d\.\d\d"


def run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start an example in ``folder``, as a user would whose lzero is this one."""
    command = [sys.executable, str(ROOT / "examples" / script), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )


def printed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> tuple[Path, str]:
    """The folder in which train_from_python.py has run for seconds, and what it printed."""
    folder = tmp_path_factory.mktemp("examples")
    return folder, printed(run(folder, "train_from_python.py", "seconds"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_to_start_it(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    assert f"\npython examples/{path.name}" in text.split('"""')[1]


def test_own_models_conflict_where_tasks_ask_for_opposites(tmp_path):
    output = printed(run(tmp_path, "conflict_of_your_model.py", "pictures"))
    for part in ("hidden", "output"):
        [score] = re.findall(rf"{part}: maximum negative cosine ({SHARE})", output)
        assert float(score) > 0.9  # of the sum and its opposite
        picture = imageio.imread(tmp_path / "pictures" / f"conflict_{part}.png")
        assert picture.ndim == 3 and picture.std() > 0
    rows = re.findall(r"\[([-\d. ]+)\]", output)
    matrices = np.array([row.split() for row in rows], dtype=float).reshape(2, 3, 3)
    np.testing.assert_allclose(matrices.diagonal(axis1=1, axis2=2), 1.0)
    np.testing.assert_allclose(matrices, matrices.swapaxes(1, 2))


def test_training_from_python_prints_a_score_of_every_game_and_can_go_on(training):
    folder, output = training
    for game in GAMES:
        [score] = re.findall(
            rf"^{game}: (-?{SHARE}) \(random -0.6, optimum 1\)$", output, re.MULTILINE
        )
        assert -1 <= float(score) <= 1
    assert list((folder / "runs" / "example_catch" / "checkpoints").glob("step_*"))


def test_a_callback_ends_a_run_before_its_time(tmp_path):
    output = printed(run(tmp_path, "stop_early.py", "-1"))
    assert re.search(rf"^320 env steps: \w+ is worst with -?{SHARE}$", output, re.MULTILINE)
    assert "320 env steps; stopped early: every game scores at least -1" in output
    result = json.loads((tmp_path / "runs" / "example_stop_early" / "result.json").read_text())
    assert result["env_steps"] == 320 and result["stopped_early"].startswith("every game")


def test_a_checkpoints_experts_have_shares_that_add_up_to_one(training):
    folder, _ = training
    output = printed(run(folder, "expert_statistics_of_a_checkpoint.py", "runs/example_catch"))
    assert re.findall(r"layer 0, window (\w+)", output) == list(WINDOWS)
    for game in GAMES:
        rows = re.findall(rf"^  {game} +([\d. ]+)  in ([1-9]\d*) updates$", output, re.MULTILINE)
        assert len(rows) == len(WINDOWS)
        for shares, _ in rows:
            assert sum(map(float, shares.split())) == pytest.approx(1, abs=0.05)  # of rounded ones


def test_a_folder_without_a_checkpoint_is_refused_in_one_line(tmp_path):
    done = run(tmp_path, "expert_statistics_of_a_checkpoint.py", "nowhere")
    assert done.returncode != 0
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("error: nowhere does not exist")
