"""Differences over few seeds: intervals, equivalence, power and adjusted p-values, by simulation and by hand."""

import math
from functools import partial

import numpy as np
import pytest
from scipy import stats

from lzero.report.student import (
    ALL_EQUAL,
    PAIRED,
    TOO_FEW_SEEDS,
    UNPAIRED,
    Difference,
    holm,
    noncentrality,
    paired_difference,
    student_interval,
    unpaired_difference,
)

DRAWS = 2000


def drawn(seeds: int, mean: float, deviation: float, seed: int) -> list[Difference]:
    """Differences of DRAWS studies; what the two runs of a seed share is far larger than both."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0.0, 100.0, (DRAWS, seeds))
    own = rng.normal(mean, deviation, (DRAWS, seeds))
    return list(map(paired_difference, shared + own, shared))


@pytest.fixture(scope="module")
def five() -> list[Difference]:
    """Of five pairs, mean 1, deviation 2."""
    return drawn(5, 1.0, 2.0, 0)


def share(found: list[bool]) -> float:
    return sum(found) / len(found)


def test_the_interval_of_five_pairs_covers_as_often_as_it_says(five):
    assert 0.93 < share([one.low < 1 < one.high for one in five]) < 0.97
    assert 0.88 < share([one.low_90 < 1 < one.high_90 for one in five]) < 0.92


def test_the_interval_of_groups_that_scatter_differently_covers_too():
    rng = np.random.default_rng(1)
    first, second = rng.normal(1.0, 0.5, (DRAWS, 4)), rng.normal(0.0, 2.0, (DRAWS, 7))
    found = list(map(unpaired_difference, first, second))
    assert 0.93 < share([one.low < 1 < one.high for one in found]) < 0.97


@pytest.mark.parametrize("deviation, least", [(0.02, 0.035), (0.2, 0.0)])
def test_what_differs_by_the_margin_is_rarely_called_equivalent(deviation, least):
    """At most 5 %; as often as that where seeds scatter little, or a verdict of chance would pass."""
    found = drawn(5, 0.1, deviation, 2)
    within = share(
        ["equivalent" in one.verdict(0.1) or "within" in one.verdict(0.1) for one in found]
    )
    assert least <= within < 0.065, "four standard errors of 2,000 draws above 5 %"


def test_what_is_equal_is_called_equivalent_if_it_scatters_little():
    assert share([one.verdict(0.1).startswith("equivalent") for one in drawn(5, 0, 0.02, 3)]) > 0.9


@pytest.mark.parametrize("seeds", [3, 5])
def test_four_of_five_studies_find_what_is_said_to_be_detectable(seeds):
    detectable = noncentrality(seeds - 1) * 2.0 / math.sqrt(seeds)
    found = drawn(seeds, detectable, 2.0, 4)
    assert share([one.verdict() == "more" for one in found]) == pytest.approx(0.8, abs=0.03)


def test_the_detectable_difference_is_that_of_the_seeds_spread(five):
    reference = stats.nct.sf(stats.t.ppf(0.975, 4), 4, noncentrality(4))
    assert reference == pytest.approx(0.8, abs=1e-4)
    errors = [(one.high - one.low) / 2 / stats.t.ppf(0.975, 4) for one in five]
    for one, error in zip(five, errors, strict=True):
        assert one.detectable == pytest.approx(noncentrality(4) * error)
    assert noncentrality(1000) == pytest.approx(1.96 + 0.842, abs=0.01), "two normal quantiles"


def test_numbers_are_those_of_scipy():
    rng = np.random.default_rng(5)
    first, second = rng.normal(1, 1, 6), rng.normal(0, 3, 6)
    reference = partial(stats.ttest_rel, first, second)
    for found, test, interval in (
        (paired_difference(first, second), reference(), PAIRED),
        (
            unpaired_difference(first, second[:4]),
            stats.ttest_ind(first, second[:4], equal_var=False),
            UNPAIRED,
        ),
    ):
        assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
        assert (found.low_90, found.high_90) == pytest.approx(tuple(test.confidence_interval(0.9)))
        assert found.p_value == pytest.approx(test.pvalue)
        assert (found.interval, found.num_first) == (interval, 6)
    assert student_interval(first - second) == pytest.approx(
        tuple(reference().confidence_interval(0.95))
    )


def test_two_seeds_have_a_difference_and_no_interval():
    ones = np.array([1.0, 2.0])
    for found in (
        paired_difference(ones, 3 * ones),
        unpaired_difference(ones, np.array([3.0, 6.0])),
        unpaired_difference(np.array([1.0, 1.5, 2.0]), 3 * ones),
    ):
        assert found.mean == -3 and math.isnan(found.low) and math.isnan(found.p_value)
        assert (found.interval, found.verdict(1.0)) == (TOO_FEW_SEEDS, "cannot tell")
    assert all(map(math.isnan, student_interval(ones)))
    none = paired_difference(np.empty(0), np.empty(0))
    assert math.isnan(none.mean) and none.num_first == 0


def test_seeds_without_spread_prove_nothing():
    """No experts were dead in the one experiment and one in the other: counts, not measurements."""
    for make in (paired_difference, unpaired_difference):
        for value in (0.0, 1.0):
            found = make(np.full(4, value), np.zeros(4))
            assert (found.interval, found.verdict(2.0)) == (ALL_EQUAL, "cannot tell")
    rounded = paired_difference(np.array([0.1, 0.2, 0.3]) + 0.7, np.array([0.1, 0.2, 0.3]))
    assert rounded.interval == ALL_EQUAL, "equal but for rounding"


@pytest.mark.parametrize(
    "ends, ends_90, margin, verdict",
    [
        ((-0.5, -0.1), (-0.4, -0.2), math.nan, "less"),
        ((0.1, 0.5), (0.2, 0.4), math.nan, "more"),
        ((-0.1, 0.5), (0.0, 0.4), math.nan, "cannot tell"),
        ((-0.01, 0.01), (-0.005, 0.005), math.nan, "cannot tell"),
        ((-0.06, 0.04), (-0.04, 0.02), 0.05, "equivalent"),
        ((-0.06, 0.04), (-0.05, 0.03), 0.05, "cannot tell"),
        ((-0.04, 0.07), (-0.02, 0.06), 0.05, "cannot tell"),
        ((-0.04, -0.01), (-0.035, -0.015), 0.05, "less, within the margin"),
        ((0.01, 0.06), (0.02, 0.04), 0.05, "more, within the margin"),
        ((0.01, 0.3), (0.02, 0.2), 0.05, "more"),
        ((math.nan, math.nan), (math.nan, math.nan), 0.05, "cannot tell"),
    ],
)
def test_verdicts(ends, ends_90, margin, verdict):
    found = Difference(0.0, 0.0, *ends, *ends_90, math.nan, math.nan, 5, 5, PAIRED)
    assert found.verdict(margin) == verdict


def test_holm_by_hand():
    found = holm(np.array([0.01, 0.04, math.nan, 0.03, 0.005]))
    # 4 · 0.005, 3 · 0.01, 2 · 0.03, and 1 · 0.04, which is no smaller than the one before
    assert found.tolist() == pytest.approx([0.03, 0.06, math.nan, 0.06, 0.02], nan_ok=True)
    assert holm(np.array([0.5, 0.9])).tolist() == [1.0, 1.0] and holm(np.empty(0)).size == 0
