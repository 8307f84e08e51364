"""What a report says of runs in which something is missing, and of those that do not fit together."""

import json
import logging
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lzero.report.command import main, write_report
from lzero.report.panels import game_panels, random_reward_rate
from lzero.report.pictures import PICTURES
from lzero.report.statistics import NO_EVALUATION
from lzero.report.study import build_study
from lzero.report.tables import CURVE_COLUMNS, final_rows
from tests.report.logged_runs import (
    ALWAYS,
    FIGURES,
    GAMES,
    lines_of,
    read_csv,
    write_run,
    write_runs,
)
from zoo.classic_control.domain import CLASSIC_CONTROL


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    """Runs that a test may change."""
    return write_runs(tmp_path)


def test_what_is_missing_is_named_and_not_made_up(runs, tmp_path, caplog):
    waiting = write_run(tmp_path / "moe_s2", [{"env_step": 50, "metrics": {"learn/loss": None}}])
    partial = lines_of(1.0)
    partial[0]["metrics"].pop("eval_return/Acrobot-v1")
    partial[2]["metrics"] = {"eval_return/CartPole-v1": 7.0}
    partial = write_run(tmp_path / "short", [*partial, {"env_step": 300, "metrics": {"eval_return/CartPole-v1": None}}],
                        policy={"td_steps": 3})  # fmt: skip
    out = tmp_path / "out"
    with caplog.at_level(logging.WARNING):
        main([*map(str, [*runs, waiting, partial]), "--out", str(out)])
    notes = (out / "notes.txt").read_text().splitlines()
    assert [
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    ] == notes
    assert f"no evaluation yet of CartPole-v1, Acrobot-v1 (eval_return/…): {waiting}" in notes
    assert f"no evaluation yet of Acrobot-v1 (eval_return/…): {partial}" in notes
    assert (
        f"no update yet (learn/…): {waiting}" in notes
        and f"no health numbers yet (health/…): {waiting}" in notes
    )
    assert f"learn/loss was no number 1 time(s), which are left out: {waiting}" in notes
    assert (
        f"eval_return/CartPole-v1 was no number 1 time(s), which are left out: {partial}" in notes
    )
    without = "evaluations of CartPole-v1, Acrobot-v1 without the scores of their episodes (eval_scores/…)"
    assert f"{without}: {runs[2]}" in notes

    finals = {(row["group"], row["game"]): row for row in read_csv(out / "final.csv")}
    assert finals["moe", "CartPole-v1"]["num_seeds"] == "2"
    row = finals["short", "Acrobot-v1"]
    assert (row["mean"], row["low"], row["num_seeds"], row["interval"]) == (
        "",
        "",
        "0",
        NO_EVALUATION,
    )
    assert ("short", "Acrobot-v1", "eval_return") not in {
        (row["group"], row["game"], row["metric"]) for row in read_csv(out / "curves.csv")
    }


def test_a_figure_with_nothing_to_show_is_not_left_from_before(tmp_path, caplog):
    (tmp_path / "out").mkdir()
    for name in ("health.png", "conflict.png", "conflict_final.csv", "expert_selection.png"):
        (tmp_path / "out" / name).write_bytes(b"of an earlier report")
    empty = write_run(tmp_path / "new", [])
    with caplog.at_level(logging.WARNING):
        main([str(empty), "--out", str(tmp_path / "out")])
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(ALWAYS)
    not_drawn = [
        record.getMessage()
        for record in caplog.records
        if "not drawn: no run has" in record.getMessage()
    ]
    for picture in PICTURES:
        assert sum(f"{picture.name}.png" in re.split("[ ,]+", note) for note in not_drawn) == 1
        assert (
            f"{picture.name}.png" not in FIGURES
            or f"{picture.name}.png is not drawn: no run has" in caplog.text
        )
    assert len(not_drawn) == len(FIGURES) + 3, "an analysis that is nowhere is named once"
    assert read_csv(tmp_path / "out" / "curves.csv") == []
    assert (tmp_path / "out" / "curves.csv").read_text().strip() == ",".join(CURVE_COLUMNS)


def test_seeds_that_ended_at_different_times_are_said_to_have(runs, tmp_path):
    longer = write_run(
        tmp_path / "moe_s3",
        [*lines_of(3.0), {"env_step": 350, "metrics": {"eval_return/CartPole-v1": 9.0}}],
    )
    study = build_study([runs[0], longer])
    assert (
        "moe: CartPole-v1 shown up to 200 env steps per game, the shortest run's end" in study.notes
    )
    [curve] = [c for c in study.curves if (c.metric, c.game) == ("eval_return", "CartPole-v1")]
    assert curve.env_step.tolist() == [100, 200]
    shifted = lines_of(3.0)
    shifted[2]["env_step"] = shifted[3]["env_step"] = 190
    study = build_study([runs[0], write_run(tmp_path / "moe_s4", shifted)])
    notes = "\n".join(study.notes)
    assert "shown up to 190" in notes
    assert (
        "moe: final evaluations of CartPole-v1, Acrobot-v1 were made at 100, 190 env steps per game"
        in notes
    )
    late = [line | {"env_step": line["env_step"] + 1000} for line in lines_of(0.0)]
    study = build_study([runs[0], write_run(tmp_path / "moe_s5", late)])
    assert (
        "moe: CartPole-v1 not shown, its seeds have no env steps of evaluations in common"
        in study.notes
    )
    assert study.curves == ()


def test_one_seed_twice_is_not_taken_for_two_without_a_word(runs, tmp_path):
    twin = write_run(tmp_path / "moe_s9", lines_of(0.0))
    notes = "\n".join(build_study([*runs, twin]).notes)
    assert (
        f"{runs[0]} and {twin} logged the same losses" in notes and notes.count("same losses") == 1
    )


def test_games_of_one_name_in_two_domains_stay_apart(tmp_path, monkeypatch):
    (tmp_path / "other_games.py").write_text(
        "class Other:\n"
        "    games = ('CartPole-v1', 'Acrobot-v1')\n"
        "    def reference_scores(self, game):\n"
        "        return {'random': 1.0} if game == 'CartPole-v1' else {}\n"
        "OTHER = Other()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    env = {"domain": "other_games:OTHER", "games": GAMES}
    runs = [
        write_run(tmp_path / "a", lines_of(0.0)),
        write_run(tmp_path / "b", lines_of(1.0), env=env),
    ]
    untrusting = build_study(runs)
    assert untrusting.references["other_games:OTHER", "CartPole-v1"] == {}
    assert any("--allow-domain other_games:OTHER" in note for note in untrusting.notes)
    assert "other_games" not in sys.modules, "reading a run runs nothing of it"
    study = build_study(runs, allow_domains=["other_games:OTHER"])
    assert [study.task_title(task) for task in study.tasks] == [
        f"{game} ({domain})" for domain in ("classic_control", "other") for game in GAMES
    ]
    assert study.references["other_games:OTHER", "CartPole-v1"] == {"random": 1.0}
    known = CLASSIC_CONTROL.reference_scores("CartPole-v1")
    assert study.references["zoo.classic_control.domain:CLASSIC_CONTROL", "CartPole-v1"] == known
    assert (
        "no reference lines of Acrobot-v1: other_games:OTHER names no reference scores"
        in study.notes
    )


def test_a_domain_that_is_not_here_costs_the_reference_lines_alone(runs, tmp_path):
    for run in runs:
        text = (run / "config.json").read_text()
        (run / "config.json").write_text(
            text.replace("zoo.classic_control.domain:CLASSIC_CONTROL", "gone.domain:GONE")
        )
    study = build_study(runs)
    assert [
        note
        for note in study.notes
        if re.match(r"no reference lines of CartPole.*gone\.domain:GONE", note)
    ]
    for row in final_rows(study):
        assert (
            math.isnan(row["random"])
            and math.isnan(row["ratio_to_random"])
            and row["published"] == ""
        )
    study = replace(
        study, curves=tuple(curve for curve in study.curves if curve.metric == "eval_return")
    )
    assert "returns.png" in write_report(study, tmp_path / "out")


def test_panels_name_who_is_missing(runs, tmp_path):
    waiting = write_run(tmp_path / "moe_s2", [])
    idle = write_run(tmp_path / "idle", [], policy={"td_steps": 3})
    panels = game_panels(build_study([*runs, waiting, idle]), "eval_return", "no evaluation yet")
    assert [panel.title for panel in panels] == list(GAMES)
    for panel in panels:
        assert [curve.group for curve in panel.curves] == ["moe", "dense"]
        assert panel.missing == ["idle: no evaluation yet", "moe: 2 of 3 seeds"]
        assert panel.references == CLASSIC_CONTROL.reference_scores(panel.title)
    assert game_panels(build_study([waiting, idle]), "eval_return", "no evaluation yet") == []


def test_an_unfinished_run_shows_its_reward_beside_that_of_its_random_beginning(tmp_path):
    """No evaluation and no finished episode yet."""
    lines = [
        {"env_step": step, "metrics": {f"collect_reward/{game}": rate for game in GAMES}}
        for step, rate in ((100, 2.0), (200, 4.0), (300, 30.0))
    ]
    folder = write_run(tmp_path / "new", lines)
    config = json.loads((folder / "config.json").read_text())
    config["train"]["random_steps"] = 200
    (folder / "config.json").write_text(json.dumps(config))
    study = build_study([folder])
    assert study.tasks and all(
        random_reward_rate(study, task) == {"random": 3.0} for task in study.tasks
    )
    [panel, *_] = game_panels(study, "collect_reward", "")
    [curve] = panel.curves
    assert panel.references == {"random": 3.0}
    assert curve.env_step.tolist() == [100, 200, 300] and curve.mean.tolist() == [2.0, 4.0, 30.0]
    main([str(folder), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "collect_rewards.png").is_file()
    assert not (tmp_path / "out" / "returns.png").exists()
