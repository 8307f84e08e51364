"""The last fifth of training, and differences between groups."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lzero.report.last_part import (
    NOT_ENOUGH_SEEDS,
    OVER_BOTH_GROUPS,
    Part,
    difference,
    mean_or_nan,
    over_seeds,
    with_numbers,
)
from lzero.report.run_data import RunData, Series
from lzero.report.statistics import ONE_SEED, OVER_SEEDS, bootstrap_difference, bootstrap_mean

RNG = np.random.default_rng(3)


def run_of(steps: list[float], values: list[float]) -> RunData:
    return RunData(
        Path("run"), {}, {"x": Series(np.array(steps, float), np.array(values, float))}, {}
    )


def test_the_last_fifth_is_that_of_the_shortest_run():
    long, short = run_of([100, 1000], [0, 0]), run_of([50, 500], [0, 0])
    assert Part.last([long, short]) == Part(400.0, 500.0) and Part.first([long, short]) == Part(
        0.0, 100.0
    )
    assert Part.last([long]) == Part(800.0, 1000.0)


def test_a_seed_without_a_number_is_told_from_the_others():
    long, empty, nan = (
        run_of([100, 1000], [0, 0]),
        RunData(Path("run"), {}, {}, {}),
        run_of([10], [math.nan]),
    )
    assert with_numbers([long, empty, nan], "x") == [long] and with_numbers([long], "y") == []
    assert Part.last([]) == Part.first([]) == Part(0.0, 0.0)


def test_what_lies_in_a_part_is_averaged():
    run = run_of([*range(100, 1100, 100)], [*range(10)])  # value n at step 100 (n + 1)
    assert Part(400, 700).mean(run, "x") == 5.0, "the start is out, the end is in"
    assert Part(0, 100).mean(run, "x") == 0.0
    assert Part(410, 490).mean(run, "x") == 3.0, "nothing in it: the last before its end"
    assert math.isnan(Part(0, 50).mean(run, "x")) and math.isnan(Part(400, 700).mean(run, "y"))
    assert Part(0, 50).choose(np.empty(0)).shape == (0,)


def test_moments_without_a_number_are_left_out_and_counted():
    run = run_of([10, 20, 30, 40], [1.0, math.nan, 3.0, math.nan])
    assert Part(0, 40).mean(run, "x") == 2.0 and Part(0, 40).share_of_numbers(run, "x") == 0.5
    assert Part(20, 30).share_of_numbers(run, "x") == 1.0 and math.isnan(
        Part(0, 40).share_of_numbers(run, "y")
    )
    assert mean_or_nan([1.0, math.nan, 2.0]) == 1.5 and math.isnan(mean_or_nan([math.nan]))


def test_means_over_seeds_have_the_interval_of_those_that_count():
    row = over_seeds({"a": 1.0, "b": math.nan, "c": 4.0})
    low, high = bootstrap_mean(np.array([1.0, 4.0]))
    assert (row["mean"], row["low"], row["high"], row["num_seeds"]) == (2.5, low, high, 2)
    assert (row["seeds"], row["interval"]) == ("a c", OVER_SEEDS)
    row = over_seeds({"a": 1.0, "b": math.nan})
    assert (row["mean"], row["interval"]) == (1.0, ONE_SEED) and math.isnan(row["low"])


def test_the_difference_has_the_interval_of_scipy():
    one, other = RNG.normal(3.0, 1.0, 12), RNG.normal(1.0, 2.0, 20)
    reference = stats.bootstrap(
        (one, other),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        method="percentile",
        n_resamples=20_000,
        rng=RNG,
    )
    low, high = bootstrap_difference(one, other)
    width = reference.confidence_interval.high - reference.confidence_interval.low
    assert low == pytest.approx(reference.confidence_interval.low, abs=0.05 * width)
    assert high == pytest.approx(reference.confidence_interval.high, abs=0.05 * width)
    assert bootstrap_difference(one, other) == (low, high)


def test_a_group_of_one_seed_gives_a_difference_without_interval():
    row = difference([1.0, 3.0, math.nan], [5.0])
    assert (row["mean"], row["interval"], row["num_seeds"]) == (
        -3.0,
        NOT_ENOUGH_SEEDS,
        3,
    ) and math.isnan(row["low"])
    row = difference([1.0, 3.0], [0.0, 1.0])
    assert row["interval"] == OVER_BOTH_GROUPS and (row["low"], row["mean"], row["high"]) == (
        0.0,
        1.5,
        3.0,
    )
    with pytest.raises(ValueError, match="1 and 2 value"):
        bootstrap_difference(np.ones(1), np.ones(2))
