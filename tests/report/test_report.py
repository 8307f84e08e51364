"""The command ``python -m lzero.report``: its files, what it says, and a report of runs that were really trained."""

import csv
import json
import logging
import math
import re
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lzero
from lzero.config import ExperimentConfig
from lzero.distributed import Distributed
from lzero.entry import train_unizero_multitask_segment_ddp
from lzero.report.command import main, write_report
from lzero.report.panels import game_panels, random_reward_rate
from lzero.report.pictures import PICTURES
from lzero.report.statistics import (
    NO_EVALUATION,
    NO_SCORES,
    OVER_BOTH,
    OVER_EPISODES,
    OVER_SEEDS,
    hierarchical_bootstrap_mean,
)
from lzero.report.study import build_study
from lzero.report.tables import CURVE_COLUMNS, final_rows
from zoo.classic_control.domain import CLASSIC_CONTROL

ROOT = Path(lzero.__file__).parents[1]
GAMES = ("CartPole-v1", "Acrobot-v1")
FIGURES = (
    "returns.png",
    "collect_returns.png",
    "collect_rewards.png",
    "learning.png",
    "health.png",
)
ALWAYS = ("curves.csv", "final.csv", "notes.txt", "index.html")


def write_run(folder: Path, lines: list[dict[str, Any]], **changes: Any) -> Path:
    """A run of ``GAMES`` with lines ``{env_step, metrics, arrays}``; ``changes`` go into its config by section."""
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


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    """Runs that a test may change."""
    return write_runs(tmp_path)


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> list[Path]:
    """Runs with a report in the first one's folder."""
    runs = write_runs(tmp_path_factory.mktemp("runs"))
    main([*map(str, runs)])
    return runs


def refusal(*argv: str) -> str:
    """What the command says before it ends with an error."""
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert isinstance(ended.value.code, str)
    return ended.value.code


def test_the_tables_hold_what_is_computed_by_hand(reported):
    out = reported[0] / "report"
    rows = read_csv(out / "curves.csv")
    assert tuple(rows[0]) == CURVE_COLUMNS
    found = {
        (row["group"], row["game"], row["metric"], float(row["env_step"])): row for row in rows
    }
    assert len(found) == len(rows) == 2 * 2 * (2 + 2 + 2 + 1 + 1), (
        "2 groups x 2 env steps x (evaluation, return and reward while collecting, 2 tags)"
    )

    row = found["moe", "Acrobot-v1", "eval_return", 200.0]  # 212 and 232
    assert (float(row["mean"]), float(row["low"]), float(row["high"])) == (222.0, 212.0, 232.0)
    assert (row["num_seeds"], row["interval"]) == ("2", OVER_SEEDS)
    assert row["seeds"] == f"{reported[0]} {reported[1]}" and row["domain"].endswith(
        ":CLASSIC_CONTROL"
    )
    row = found["moe", "CartPole-v1", "collect_return", 100.0]
    assert [float(row[name]) for name in ("mean", "low", "high")] == [60.0, 50.0, 70.0]
    row = found["moe", "", "learn/loss", 200.0]
    assert [float(row[name]) for name in ("mean", "low", "high")] == [13.0, 3.0, 23.0]
    row = found["dense", "", "health/latent_norm", 100.0]
    assert (row["mean"], row["low"], row["high"], row["num_seeds"]) == ("11.0", "", "", "1")

    finals = {(row["group"], row["game"]): row for row in read_csv(out / "final.csv")}
    assert list(finals) == [(group, game) for group in ("moe", "dense") for game in GAMES]
    row = finals["moe", "CartPole-v1"]
    low, high = hierarchical_bootstrap_mean([np.array([200.0, 204.0]), np.array([220.0, 224.0])])
    assert (float(row["mean"]), float(row["low"]), float(row["high"])) == (212.0, low, high)
    assert (row["env_step"], row["episodes"], row["interval"]) == ("200", "4", OVER_BOTH)
    random, solved = CLASSIC_CONTROL.reference_scores("CartPole-v1").values()
    assert float(row["random"]) == random and float(row["ratio_to_random"]) == pytest.approx(
        212.0 / random
    )
    assert (row["above_random"], row["published"]) == ("yes", f"solved {solved:g}")
    row = finals["moe", "Acrobot-v1"]
    assert float(row["random"]) < 0 and row["ratio_to_random"] == "", (
        "a ratio to a negative score means nothing"
    )
    row = finals["dense", "CartPole-v1"]
    assert (row["mean"], row["low"], row["above_random"], row["interval"]) == (
        "197.0",
        "",
        "",
        NO_SCORES,
    )


def test_the_figures_are_pictures_of_a_readable_size(reported):
    out = reported[0] / "report"
    assert {path.name for path in out.iterdir()} == {*FIGURES, *ALWAYS}
    for name in FIGURES:
        width, height = png_size(out / name)
        panels = 1 if name in ("learning.png", "health.png") else 2
        assert 450 * panels < width < 1000 * panels and 350 < height < 1200


def test_a_report_can_be_repeated(reported, tmp_path):
    main([*map(str, reported), "--out", str(tmp_path / "again")])
    for path in (reported[0] / "report").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_labels_and_groups_as_asked(runs):
    study = build_study(runs, labels=["with experts", "without"])
    assert [group.label for group in study.groups] == ["with experts", "without"]
    assert (
        {curve.group for curve in study.curves}
        == {final.group for final in study.finals}
        == {"with experts", "without"}
    )
    study = build_study(runs, ignore=["model.moe"])
    assert [(final.group, len(final.seeds)) for final in study.finals] == [("moe", 3)] * 2
    said = refusal(*map(str, runs), "--labels", "one")
    assert "labels=['one']" in said and "'moe' (2 run(s)), 'dense' (1 run(s))" in said
    assert "all different" in refusal(*map(str, runs), "--labels", "one", "one")


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
    [panel, *_] = game_panels(study, "collect_reward", "", random_reward_rate)
    [curve] = panel.curves
    assert curve.env_step.tolist() == [100, 200, 300] and curve.mean.tolist() == [2.0, 4.0, 30.0]
    main([str(folder), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "collect_rewards.png").is_file()
    assert not (tmp_path / "out" / "returns.png").exists()


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
    study = build_study(
        [
            write_run(tmp_path / "a", lines_of(0.0)),
            write_run(tmp_path / "b", lines_of(1.0), env=env),
        ]
    )
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


def test_mistakes_are_answered_in_one_line(runs, tmp_path):
    assert "no run named; type python -m lzero.report" in refusal()
    assert f"{tmp_path} is no run" in refusal(str(tmp_path)) and str(runs[0]) in refusal(
        str(tmp_path)
    )
    assert "named more than once" in refusal(str(runs[0]), str(runs[0]))
    (tmp_path / "file").touch()
    assert "file is a file; name a folder" in refusal(str(runs[0]), "--out", str(tmp_path / "file"))
    assert "ignore: no run has a config field 'model.mo'" in refusal(
        str(runs[0]), "--ignore", "model.mo"
    )


def test_a_report_of_a_real_run(tmp_path, monkeypatch):
    """Trained here for a moment, reported by the command as a user types it."""
    monkeypatch.setattr(Distributed, "threads", 1)
    threads = torch.get_num_threads()
    model = {
        "embed_dim": 16,
        "num_heads": 2,
        "num_layers": 1,
        "context_steps": 2,
        "support_bins": 11,
    }
    search = {"num_simulations": 2, "num_eval_simulations": 2}
    config = {
        "exp_name": "tiny_s0",
        "output_dir": str(tmp_path),
        "env": {
            "domain": "zoo.classic_control.domain:CLASSIC_CONTROL",
            "games": GAMES,
            "num_envs": 2,
            "num_eval_envs": 2,
            "max_episode_steps": 12,
        },
        "model": model | {"encoder": {"kind": "mlp", "hidden": [16]}, "moe": {"num_experts": 2}},
        "policy": {
            "batch_size": 4,
            "unroll_steps": 3,
            "td_steps": 2,
            "replay": {"capacity": 80},
            "search": search,
        }
        | {"gradient_conflict_interval": 2},
        "train": {
            "max_env_steps": 80,
            "collect_steps": 10,
            "eval_interval": 40,
            "eval_episodes": 3,
            "log_interval": 1,
        }
        | {"moe_log_interval": 2},
        "device": "cpu",
        "precision": "fp32",
    }
    try:
        run = train_unizero_multitask_segment_ddp(config).run_dir
    finally:
        torch.set_num_threads(threads)
    done = subprocess.run(
        [sys.executable, "-m", "lzero.report", str(run)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "index.html" in done.stdout + done.stderr, "it says where to look"
    assert (
        "final evaluation" in done.stdout
        and "CartPole-v1" in done.stdout
        and "solved" in done.stdout
    )
    page = (run / "report" / "index.html").read_text()
    assert "conflict_average.png is not drawn: two games are one pair" in page
    for picture in (picture for picture in PICTURES if picture.name != "conflict_average"):
        assert min(png_size(run / "report" / f"{picture.name}.png")) > 150, (
            "the tags are those that training writes"
        )
        assert f'<figure id="{picture.name}">' in page
    rows = read_csv(run / "report" / "curves.csv")
    evaluated = [
        row for row in rows if (row["metric"], row["game"]) == ("eval_return", "CartPole-v1")
    ]
    assert [float(row["env_step"]) for row in evaluated] == [40, 80]
    assert {(row["group"], row["num_seeds"]) for row in rows} == {("tiny", "1")}
    components = {row["component"] for row in read_csv(run / "report" / "conflict_final.csv")}
    assert components >= {
        "encoder",
        "before_moe/layer0",
        "moe_layer/layer0",
        "shared_expert/layer0",
        "routed_experts/layer0",
    }
    assert {row["game"] for row in read_csv(run / "report" / "expert_final.csv")} == {"", *GAMES}
    final = read_csv(run / "report" / "final.csv")[0]
    assert float(final["mean"]) == float(evaluated[-1]["mean"])
    assert float(final["low"]) <= float(final["mean"]) <= float(final["high"]), (
        "episode scores are logged"
    )
    assert (final["episodes"], final["interval"]) == ("3", OVER_EPISODES)


HELP = """
import sys
from lzero.report.command import main
try:
    main(["--help"])
finally:
    assert not {"matplotlib", "torch", "zoo", "gymnasium"} & set(sys.modules), "slow to import, and not needed for this"
"""


def test_help_explains_the_options_and_comes_at_once():
    done = subprocess.run(
        [sys.executable, "-c", HELP], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for text in (
        "RUN [RUN …]",
        "--out",
        "--labels",
        "--ignore",
        "python -m lzero.report",
        "index.html",
    ):
        assert text in done.stdout
