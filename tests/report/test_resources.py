"""What runs took and where they ran: from their log and from what they wrote at each start."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lzero.environment import ENVIRONMENT_FILE, AttemptLog, here, read_attempts
from lzero.report.resources import NOT_RECORDED, environment_rows, resource_rows, resource_tables
from lzero.report.run_data import RunDataError
from lzero.report.study import build_study
from tests.report.logged_runs import write_run


def timed(folder: Path) -> Path:
    """A run of two games that took 10 s for 100 env steps and 50 updates, and a night off."""
    lines = []
    for step, update, time in (
        (100, 0, 0.0),
        (150, 25, 5.0),
        (150, 25, 30_000.0),
        (200, 50, 30_005.0),
    ):
        lines.append(
            {
                "env_step": step,
                "train_iter": update,
                "wall_time": time,
                "metrics": {"learn/loss": 1.0},
            }
        )
    return write_run(folder, lines)


def test_rates_are_without_pauses(tmp_path):
    [row] = resource_rows(build_study([timed(tmp_path / "r_s0")]))
    assert row["env_steps"] == 400, "of both games"
    assert row["log_seconds"] == 10 and row["env_steps_per_second"] == 20
    assert row["updates_per_second"] == 5 and row["attempts"] == 0
    [took, where] = resource_tables(build_study([timed(tmp_path / "r_s1")]))
    assert took.rows[0][2:6] == ("400", "50", "20", "5") and took.rows[0][-2:] == ("–", "–")
    assert where.rows[0][1] == NOT_RECORDED


def test_every_attempt_is_told(tmp_path):
    run = timed(tmp_path / "r_s0")
    first = replace(here(4, 0, 0, 1, "cpu"), commit="c" * 40, is_changed=True, command="python <x>")
    AttemptLog(run, first).end(150, 25)
    AttemptLog(run, replace(first, env_step=150, train_iter=25, processor="another")).end(200, 50)
    AttemptLog(run, replace(first, env_step=200, train_iter=50)).end(200, 50)  # it was finished
    study = build_study([run])
    rows = environment_rows(study)
    assert [row["env_step"] for row in rows] == [0, 150] and rows[1]["processor"] == "another"
    [row] = resource_rows(study)
    attempts = read_attempts(run)
    assert row["attempts"] == 3 and row["cpu_seconds"] == sum(
        one.end.cpu_seconds for one in attempts
    )
    text = json.dumps(resource_tables(study)[1].rows)
    for words in ("another", "cccccccccc, changed", "python <x>", "torch 2.", "1 process(es)"):
        assert words in text, words
    (run / ENVIRONMENT_FILE).write_text("{}\n")
    with pytest.raises(RunDataError, match="line 1 is no start or end"):
        build_study([run])
