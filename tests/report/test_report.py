"""The command ``python -m lzero.report``: its files, and a report of a run that was trained."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import lzero
from lzero.distributed import Distributed
from lzero.entry import train_unizero_multitask_segment_ddp
from lzero.report.command import main
from lzero.report.pictures import PICTURES
from lzero.report.statistics import (
    NO_SCORES,
    OVER_BOTH,
    OVER_EPISODES,
    OVER_SEEDS,
    hierarchical_bootstrap_mean,
)
from lzero.report.study import build_study
from lzero.report.tables import CURVE_COLUMNS
from tests.report.logged_runs import ALWAYS, FIGURES, GAMES, png_size, read_csv, write_runs
from zoo.classic_control.domain import CLASSIC_CONTROL

ROOT = Path(lzero.__file__).parents[1]


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
    assert {path.name for path in out.iterdir()} == {*FIGURES, *ALWAYS, "headline.csv"}
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


def test_mistakes_are_answered_in_one_line(runs, tmp_path):
    assert "no run named; type python -m lzero.report" in refusal()
    (tmp_path / "empty").mkdir()
    assert "empty is no run and holds none" in refusal(str(tmp_path / "empty"))
    assert f"did you mean {runs[0]}?" in refusal(f"{runs[0]}0")
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
        "--margin",
        "lzero report",
        "index.html",
    ):
        assert text in done.stdout
