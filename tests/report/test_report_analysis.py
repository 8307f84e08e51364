"""A whole report of runs with all analyses, and of runs that lack some."""

import csv
import logging
import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from lzero.logging import run_logger
from lzero.report import pictures
from lzero.report.analysis_tables import conflict_rows
from lzero.report.command import main
from lzero.report.last_part import OVER_BOTH_GROUPS
from lzero.report.pictures import PICTURES
from lzero.report.run_data import read_run
from lzero.report.study import build_study
from tests.report.synthetic_runs import ENV_STEPS, GAMES, write_run

TABLES = {
    "curves.csv",
    "final.csv",
    "conflict_final.csv",
    "conflict_differences.csv",
    "conflict_pairs.csv",
    "conflict_shares.csv",
    "expert_final.csv",
    "matrices.csv",
}


COMPARED = {
    *("aggregates.png", "profiles.png", "headline.csv", "aggregate.csv", "improvement.csv"),
    *("paired.csv", "resources.csv", "environment.csv"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Two seeds with experts and two without."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        # TensorBoard is slow and not what is tested
        patch.setattr(run_logger, "make_sinks", lambda *_: {})
        made = [write_run(folder / f"moe_s{seed}", seed=seed, layers=1) for seed in (0, 1)]
        return [
            *made,
            *(
                write_run(folder / f"dense_s{seed}", seed=seed + 5, layers=1, experts=0)
                for seed in (0, 1)
            ),
        ]


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory) -> Path:
    """Folder of the report of all runs."""
    out = tmp_path_factory.mktemp("report")
    main([*map(str, runs), "--out", str(out)])
    return out


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def names(pictures: Sequence[str]) -> set[str]:
    return {f"{name}.png" for name in pictures}


def test_every_figure_and_table_is_there_and_on_the_page(report):
    figures = names([picture.name for picture in PICTURES])
    assert {path.name for path in report.iterdir()} == figures | TABLES | COMPARED | {
        "index.html",
        "notes.txt",
    }
    page = (report / "index.html").read_text()
    assert page.count("data:image/png;base64,") == len(PICTURES) + 2, "and those of comparisons"
    for picture in PICTURES:
        assert f'<figure id="{picture.name}">' in page and f'href="#{picture.name}"' in page
    assert "fifth of training, moe − dense." in page and "before_moe/layer0" in page
    assert "gradient conflict of moe − dense has no interval: 3 seeds" in page
    sections = (
        "Comparison over games|Final evaluation|Runs|Returns|Learning|Gradient conflict|"
        "Expert selection|Plasticity|What it took, and where it ran|What is missing and must be known"
    )
    assert re.findall(r"<h2>(.*?)</h2>", page) == sections.split("|")


def test_what_dense_runs_cannot_have_is_said_once(report):
    notes = (report / "notes.txt").read_text().splitlines()
    about_experts = [note for note in notes if "expert" in note]
    assert len(about_experts) == 3
    assert (
        "expert_information_null.png, expert_ablation.png are not drawn: no run has expert_analysis.json; "
        "type python -m lzero.entry.analyse_experts RUN" in notes
    )
    assert (
        "no expert selection of dense: the feed-forward is a dense MLP (model.moe.enabled is false)"
        in notes
    )
    [unmeasured] = [note for note in notes if "fewer than two games" in note]
    assert (
        unmeasured.startswith("moe: gradient conflict left out") and "expert 20 of 80" in unmeasured
    )
    page = (report / "index.html").read_text()
    assert page.count("is a dense MLP") == 1 and not [
        note for note in notes if "was no number" in note and note != unmeasured
    ]


def test_the_tables_hold_what_the_runs_logged(runs, report):
    rows = {
        (row["group"], row["component"], row["measure"]): row
        for row in read_csv(report / "conflict_final.csv")
    }
    tag = "gradient_conflict/avg_before_moe/layer0"
    last = [
        read_run(run).scalars[tag].value[-2:].mean() for run in runs
    ]  # steps 900 and 1000 of 1000
    assert float(rows["moe", "before_moe/layer0", "avg"]["mean"]) == pytest.approx(
        np.mean(last[:2])
    )
    row = rows["moe − dense", "before_moe/layer0", "avg"]
    assert float(row["mean"]) == pytest.approx(np.mean(last[:2]) - np.mean(last[2:]))
    assert row["interval"] == OVER_BOTH_GROUPS and float(row["low"]) <= float(row["mean"]) <= float(
        row["high"]
    )
    assert (
        float(row["env_step_to"]) == ENV_STEPS
        and ("dense", "shared_expert/layer0", "max") not in rows
    )

    cells = read_csv(report / "matrices.csv")
    tag = "gradient_conflict_matrix/moe_layer/layer0"
    [value] = [
        float(row["value"])
        for row in cells
        if (row["group"], row["tag"], row["row"], row["column"])
        == ("dense", tag, GAMES[0], GAMES[2])
    ]
    arrays = [read_run(run).arrays[tag] for run in runs[2:]]
    assert value == pytest.approx(
        np.mean([[a[step][0][0, 2] for step in (900, 1000)] for a in arrays])
    )
    selection = [row for row in cells if row["tag"] == "expert_selection/long/layer0"]
    assert {row["seeds"] for row in selection} == {str(runs[0])} and len(selection) == len(
        GAMES
    ) * 4
    assert not [row for row in cells if "matrix/expert_" in row["tag"]]

    [entropy] = [
        row
        for row in read_csv(report / "expert_final.csv")
        if (row["metric"], row["game"]) == ("moe_task/short/selection_entropy", "")
    ]
    assert float(entropy["change"]) < 0 and entropy["num_seeds"] == "2"


class BlankFigure:
    """Takes the place of a figure where only its being there matters."""

    def savefig(self, file: BinaryIO, **_: object) -> None:
        """The head of a PNG."""
        file.write(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 1, 1))


def test_a_report_of_dense_runs_has_no_expert_figures(runs, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(pictures, "draw", lambda *_, **__: BlankFigure())
    with caplog.at_level(logging.WARNING):
        main([*map(str, runs[2:]), "--out", str(tmp_path)])
    made = {path.name for path in tmp_path.iterdir()}
    missing = names([picture.name for picture in PICTURES]) - made
    of_experts = ["entropy", "divergence", "load", "similarity", "selection"]
    of_experts += ["number", "information", "shift"]
    assert missing == names(
        [
            "conflict_experts",
            "conflict_shares",
            "router_entropy",
            *(f"expert_{name}" for name in of_experts),
        ]
    )
    of_others = {"expert_final.csv", "conflict_shares.csv", "conflict_differences.csv"}
    assert TABLES - made == of_others
    for name in missing:
        assert caplog.text.count(name) == 1
    assert "Expert selection" not in (tmp_path / "index.html").read_text()


def test_an_analysis_that_some_seeds_lack_is_named(runs, tmp_path):
    folder = tmp_path / "moe_s9"
    folder.mkdir()
    (folder / "config.json").write_text(
        (runs[0] / "config.json").read_text().replace("moe_s0", "moe_s9")
    )
    lines = (runs[0] / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(line for line in lines if '"learn/loss"' in line))
    study = build_study([runs[1], folder])
    whats = {
        "gradient_conflict/": "gradient conflict",
        "moe_": "expert selection",
        "plasticity/": "plasticity numbers",
    }
    for tags, what in whats.items():
        assert f"no {what} of {folder}: none logged ({tags}…)" in study.notes
    rows = list(conflict_rows(study))
    assert {row["seeds"] for row in rows} == {str(runs[1])} and all(
        math.isnan(row["low"]) for row in rows
    )
