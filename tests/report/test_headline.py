"""Who is ahead: said only where the interval of the difference excludes 0."""

import numpy as np
import pytest
from scipy import stats

from lzero.report.aggregates import IQM, aggregate, difference_interval
from lzero.report.headline import AHEAD, headline_rows, headline_sentences
from lzero.report.student import CANNOT_TELL
from lzero.report.study import build_study
from tests.report.ppo_runs import write_finals

MIXTURE = {"model": {"architecture": "big"}}
LOW = np.array([[0.1, 0.2], [0.15, 0.3], [0.2, 0.25]])
HIGH = LOW + [[0.5, 0.52], [0.48, 0.5], [0.51, 0.49]]


def test_the_better_experiment_is_ahead_by_what_is_computed_by_hand(tmp_path):
    runs = write_finals(tmp_path, "dense", LOW) + write_finals(tmp_path, "moe", HIGH, **MIXTURE)
    study = build_study(runs)
    [row] = headline_rows(study)
    assert (row["first"], row["second"], row["verdict"]) == ("moe", "dense", f"moe {AHEAD}")
    differences = (HIGH - LOW).mean(axis=1)  # of two games the IQM is the mean
    found = stats.ttest_1samp(differences, 0)
    low, high = found.confidence_interval(0.95)
    assert row["difference"] == pytest.approx(differences.mean())
    assert (row["low"], row["high"]) == pytest.approx((low, high))
    assert row["p_value"] == pytest.approx(found.pvalue) == pytest.approx(row["p_holm"])
    assert (row["bootstrap_low"], row["bootstrap_high"]) == difference_interval(HIGH, LOW)
    assert (row["seeds"], row["probability"]) == ("0 1 2", 1.0)
    [sentence] = headline_sentences(study)
    for words in (
        *("moe is ahead of dense by 0.5", "95 % interval", "share of optimum"),
        *("games Catch, MirroredCatch", "seeds 0, 1, 2 of each"),
    ):
        assert words in sentence, (words, sentence)


def test_what_cannot_be_told_is_not_told(tmp_path):
    noisy = LOW + [[0.5, 0.5], [-0.6, -0.5], [0.3, 0.2]]
    runs = write_finals(tmp_path, "dense", LOW) + write_finals(tmp_path, "moe", noisy, **MIXTURE)
    [row] = headline_rows(build_study(runs))
    assert row["low"] < 0 < row["high"] and row["verdict"] == CANNOT_TELL
    [sentence] = headline_sentences(build_study(runs))
    assert sentence.startswith("Cannot tell whether") and "contains 0" in sentence
    few = build_study([*runs[:2], *runs[3:5]])
    [row] = headline_rows(few)
    assert np.isnan(row["low"]) and row["verdict"] == CANNOT_TELL
    assert "fewer than three seeds" in headline_sentences(few)[0]
    [_, sentence] = headline_sentences(build_study(runs[:3]))
    assert sentence == "One experiment: there is nothing to be ahead of."
    apart = write_finals(tmp_path, "one", LOW[:, :1], games=("Catch",))
    apart += write_finals(tmp_path, "two", LOW[:, 1:], games=("MirroredCatch",))
    study = build_study(apart)
    assert not headline_rows(study)
    assert "no two experiments have final scores of a common game" in headline_sentences(study)[-1]


def test_many_pairs_are_adjusted_for_their_number(tmp_path):
    """A difference whose interval just excludes 0 is not told among three."""
    step = np.array([[0.03], [0.12], [0.18], [0.1]])
    base = np.array([[0.1, 0.2], [0.15, 0.3], [0.2, 0.25], [0.3, 0.1]])
    wide = base + [[0.4, 0.4], [-0.4, -0.3], [0.2, 0.3], [-0.1, 0.0]]
    runs = write_finals(tmp_path, "a", base) + write_finals(tmp_path, "b", base + step, **MIXTURE)
    [alone] = headline_rows(build_study(runs))
    assert alone["verdict"] == f"b {AHEAD}" and 0.02 < alone["p_value"] < 0.05
    runs += write_finals(
        tmp_path, "c", wide, model={"architecture": "baseline"}, policy={"discount": 0.9}
    )
    rows = headline_rows(build_study(runs))
    assert len(rows) == 3
    [row] = [row for row in rows if {row["first"], row["second"]} == {"a", "b"}]
    assert row["low"] > 0 and row["p_holm"] > 0.05 and row["verdict"] == CANNOT_TELL
    assert any("after Holm" in sentence for sentence in headline_sentences(build_study(runs)))


def test_the_interval_of_a_difference_holds_it_and_narrows():
    rng = np.random.default_rng(0)
    widths = []
    for seeds in (3, 30):
        first, second = rng.normal(1.0, 0.2, (seeds, 4)), rng.normal(0.0, 0.2, (seeds, 4))
        low, high = difference_interval(first, second)
        assert low < aggregate(first)[IQM] - aggregate(second)[IQM] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
