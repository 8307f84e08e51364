"""Experiments of PPO against each other: over games, and seed by seed."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lzero.report.aggregates import performance_profile, probability_of_improvement
from lzero.report.command import main
from lzero.report.comparison import aggregate_rows, compare, improvement_rows, thresholds
from lzero.report.paired import pair_seeds, paired_notes, paired_rows
from lzero.report.panels import profile_panels
from lzero.report.run_data import Group, RunData
from lzero.report.scale import MIN_MAX
from lzero.report.statistics import bootstrap_mean
from lzero.report.study import build_study
from tests.report.logged_runs import png_size, read_csv, write_runs
from tests.report.ppo_runs import write_finals

MIXTURE = {"model": {"architecture": "big"}}
FIRST = np.array([[0.1, 0.5], [0.3, 0.4], [0.2, 0.9]])
SECOND = np.array([[0.0, 0.2], [0.25, 0.6], [-0.4, 0.1]])
FILES = {"aggregate.csv", "improvement.csv", "paired.csv", "profiles.png", "aggregates.png"}


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    """Two experiments of three seeds."""
    runs = write_finals(tmp_path, "dense", FIRST)
    return runs + write_finals(tmp_path, "moe", SECOND, **MIXTURE)


def notes_of(paths: list[Path], out: Path) -> str:
    main([*map(str, paths), "--out", str(out)])
    return (out / "notes.txt").read_text()


def test_the_tables_hold_what_is_computed_by_hand(runs, tmp_path):
    out = tmp_path / "out"
    notes = notes_of(runs, out)
    assert "compared" not in notes
    rows = {(row["group"], row["aggregate"]): row for row in read_csv(out / "aggregate.csv")}
    assert len(rows) == 2 * 4
    for label, table in (("dense", FIRST), ("moe", SECOND)):
        iqm = rows[label, "iqm"]
        assert float(iqm["value"]) == pytest.approx(stats.trim_mean(table, 0.25, axis=None))
        assert float(rows[label, "mean"]["value"]) == pytest.approx(table.mean())
        assert float(iqm["low"]) <= float(iqm["value"]) <= float(iqm["high"])
        gap = rows[label, "optimality_gap"]
        assert float(gap["value"]) == pytest.approx(1 - table.mean()), "no score is above 1"
        assert (gap["scale"], gap["games"]) == ("share of optimum", "Catch MirroredCatch")
        assert (gap["num_seeds"], gap["num_games"]) == ("3", "2")
    rows = {row["game"]: row for row in read_csv(out / "improvement.csv")}
    assert list(rows) == ["", "Catch", "MirroredCatch"]
    found = float(rows[""]["probability"])
    assert found == pytest.approx(probability_of_improvement(FIRST, SECOND))
    assert float(rows["Catch"]["probability"]) == pytest.approx(7 / 9)
    assert (rows[""]["first"], rows[""]["second"]) == ("dense", "moe")
    page = (out / "index.html").read_text()
    assert "Comparison over games" in page and "Differences seed by seed" in page
    for name in FILES:
        assert (out / name).exists()
        if name.endswith("png"):
            assert min(png_size(out / name)) > 150 and f'id="{name[:-4]}"' in page


def test_differences_are_those_of_the_same_seed(runs):
    rows = list(paired_rows(build_study(runs)))
    by_place = {(row["game"], row["score"]): row for row in rows}
    assert len(by_place) == len(rows) == 2 + 2 * 2
    row = by_place["", "mean over games, share of optimum"]
    differences = FIRST.mean(axis=1) - SECOND.mean(axis=1)
    assert row["difference"] == pytest.approx(differences.mean())
    assert (row["low"], row["high"]) == pytest.approx(
        tuple(map(float, bootstrap_mean(differences)))
    )
    student = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (row["t_low"], row["t_high"]) == pytest.approx(tuple(student))
    assert (row["seeds"], row["num_seeds"]) == ("0 1 2", 3)
    row = by_place["Catch", "return"]
    assert row["difference"] == pytest.approx((FIRST - SECOND)[:, 0].mean())


def test_what_seeds_share_cancels_out(tmp_path):
    """The seed moves scores by up to 100, the experiment by 1."""
    luck = np.array([[0.0], [100.0], [-50.0], [7.0]])
    one, other = luck + [[1.0, 2.0]], luck + [[0.0, 1.0]]
    runs = write_finals(tmp_path, "a", one) + write_finals(tmp_path, "b", other, **MIXTURE)
    for row in paired_rows(build_study(runs)):
        assert row["difference"] == pytest.approx(1) and row["low"] == pytest.approx(1)
        assert row["t_high"] == pytest.approx(1)


def test_seeds_that_do_not_fit_are_not_paired(runs, tmp_path):
    def group(label: str, *names: str) -> Group:
        return Group(label, tuple(RunData(Path(name), {}, {}, {}) for name in names), {})

    one = group("a", "runs/a_s0", "runs/a_s1", "runs/a_s5")
    pairs, reason = pair_seeds(one, group("b", "b_seed1", "b-s05", "b_s7"))
    assert [seed for seed in pairs] == [1, 5] and reason == ""
    assert pairs[5][1].name == "b-s05"
    assert pair_seeds(one, group("b", "b_s1", "b_s7")) == ({}, "fewer than two seeds in common")
    for names, said in (
        (("b_s0", "b"), "b does not end with the number of its seed"),
        (("b_s1", "other1"), "b_s1 and other1 end with the same number"),
    ):
        assert pair_seeds(one, group("b", *names)) == ({}, said)
    study = build_study([*runs[:3], runs[3]])
    said = ["not compared seed by seed: dense and moe: fewer than two seeds in common"]
    assert list(paired_notes(study)) == said and not list(paired_rows(study))


def test_profiles_are_exact_steps_from_one_to_zero(runs):
    study = build_study(runs)
    [panel] = profile_panels(study)
    assert [curve.group for curve in panel.curves] == ["dense", "moe"]
    for curve, table in zip(panel.curves, (FIRST, SECOND), strict=True):
        assert curve.mean[0] == 1 and curve.mean[-1] == 0 and (np.diff(curve.mean) <= 0).all()
        between = (curve.env_step[:-1] + curve.env_step[1:]) / 2
        np.testing.assert_array_equal(curve.mean[:-1], performance_profile(table, between))
    comparison, _ = compare(study)
    assert len(thresholds(comparison)) == len(np.unique([*FIRST.ravel(), *SECOND.ravel()])) + 2


def test_min_max_where_scores_on_a_scale_are_missing(tmp_path):
    runs = write_finals(tmp_path, "dense", FIRST, normalised=False)
    runs += write_finals(tmp_path, "moe", SECOND, **MIXTURE)
    study = build_study(runs)
    comparison, notes = compare(study)
    assert comparison.scale.name == MIN_MAX and not comparison.scale.has_target
    random = -0.6  # Catch's domain knows it
    best = np.maximum(FIRST.mean(axis=0), SECOND.mean(axis=0))
    np.testing.assert_allclose(comparison.scores["moe"], (SECOND - random) / (best - random))
    assert comparison.scores["dense"].mean(axis=0).tolist() == pytest.approx([1.0, 1.0])
    assert "eval_normalised/… of Catch, MirroredCatch: 0 is a random policy's" in notes[0]
    assert "no optimality gap: 1 of the scale min-max is nothing known to reach" in notes
    assert "optimality_gap" not in {row["aggregate"] for row in aggregate_rows(study)}


def test_games_that_nobody_learned_are_on_no_min_max_scale(tmp_path):
    lost = np.array([[-0.6, 0.5], [-0.6, 0.7]])
    runs = write_finals(tmp_path, "dense", lost, normalised=False)
    runs += write_finals(tmp_path, "moe", lost[::-1], normalised=False, **MIXTURE)
    study = build_study(runs)
    comparison, notes = compare(study)
    assert [game for _, game in comparison.scale.tasks] == ["MirroredCatch"]
    assert any(
        "left out" in note and ": Catch: no experiment ended above 0" in note for note in notes
    )
    assert {row["score"] for row in paired_rows(study) if row["game"] == "Catch"} == {"return"}


def test_what_cannot_be_compared_is_named(runs, tmp_path):
    single = write_finals(tmp_path, "big", [[1.0, 1.0]], schedule={"setting": "crl"})
    notes = notes_of([*runs, *single], tmp_path / "one")
    assert "not compared over games: big, of which one seed says nothing of others" in notes
    notes = notes_of([runs[0], runs[1], runs[3]], tmp_path / "two")
    assert "no comparison of all experiments over games: it needs two experiments of" in notes
    assert not {path.name for path in (tmp_path / "two").iterdir()} & (
        FILES - {"paired.csv", "aggregate.csv"}
    )
    metrics = (runs[5] / "metrics.jsonl").read_text()
    lacking = metrics.replace('"eval_normalised/Catch"', '"x"').replace(
        '"eval_return/Catch"', '"y"'
    )
    (runs[5] / "metrics.jsonl").write_text(lacking)
    notes = notes_of(runs, tmp_path / "three")
    assert f"not compared: {runs[5]}, without a final score of every game" in notes


def test_only_shared_games_are_compared(runs, tmp_path):
    runs += write_finals(tmp_path, "alone", [[0.5], [0.6]], games=("Catch",))
    study = build_study(runs)
    comparison, notes = compare(study)
    assert [game for _, game in comparison.scale.tasks] == ["Catch"]
    assert list(comparison.scores) == ["dense", "moe", "alone"]
    assert "not compared: MirroredCatch, which not every experiment has" in notes
    pairs = [(row["first"], row["second"]) for row in improvement_rows(study) if not row["game"]]
    assert pairs == [("dense", "moe"), ("dense", "alone"), ("moe", "alone")]
    games = {row["game"] for row in paired_rows(study) if row["second"] == "moe"}
    assert games == {"", "Catch", "MirroredCatch"}


def test_unizero_is_compared_as_ppo_is(tmp_path):
    study = build_study(write_runs(tmp_path))
    notes = [*compare(study)[1], *paired_notes(study)]
    assert "not compared over games: dense, of which one seed says nothing of others" in notes
    assert "not compared seed by seed: moe and dense: fewer than two seeds in common" in notes


def test_results_are_computed_once(runs, monkeypatch):
    """Tables, pictures, notes and the headline ask for the same scores."""
    study = build_study(runs)
    assert compare(study) is compare(study) and aggregate_rows(study) is aggregate_rows(study)
    monkeypatch.setattr("lzero.report.comparison.score_table", None)  # a second time would fail
    assert improvement_rows(study) and profile_panels(study)
    with pytest.raises(TypeError):
        compare(build_study(runs))
