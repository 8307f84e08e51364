"""Aggregates over games and seeds, against brute force, scipy and a known truth."""

import itertools

import numpy as np
import pytest
from scipy import stats

from lzero.report import aggregates
from lzero.report.aggregates import (
    aggregate,
    aggregate_intervals,
    improvement_interval,
    performance_profile,
    probability_of_improvement,
    profile_band,
)


def scores(seed: int, seeds: int = 5, games: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(seeds, games))


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (3, 3), (5, 4), (10, 7)])
def test_aggregates_are_those_of_scipy_and_numpy(shape):
    table = scores(1, *shape)
    found = aggregate(table)
    assert found["iqm"] == pytest.approx(stats.trim_mean(table, 0.25, axis=None))
    assert found["mean"] == pytest.approx(table.mean())
    assert found["median"] == pytest.approx(np.median(table.mean(axis=0)))
    gap = np.mean([max(0.0, 1.0 - score) for score in table.ravel()])
    assert found["optimality_gap"] == pytest.approx(gap)


def test_many_tables_are_aggregated_as_one_after_the_other():
    tables = np.stack([scores(seed) for seed in range(4)])
    found = aggregate(tables)
    for number, table in enumerate(tables):
        for name, value in aggregate(table).items():
            assert found[name][number] == pytest.approx(value)


@pytest.mark.parametrize("seed", range(3))
def test_probability_of_improvement_counts_all_pairs(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(4, size=(5, 3)) * 1.0, rng.integers(4, size=(4, 3)) * 1.0
    by_game = []
    for game in range(3):
        wins = []
        for one, other in itertools.product(first[:, game], second[:, game]):
            wins.append(1.0 if one > other else 0.5 if one == other else 0.0)
        by_game.append(np.mean(wins))
    found = probability_of_improvement(first, second)
    assert found == pytest.approx(np.mean(by_game))
    assert probability_of_improvement(second, first) == pytest.approx(1 - found)
    assert probability_of_improvement(first, first) == 0.5
    assert probability_of_improvement(first + 9, second) == 1.0
    low, high = improvement_interval(first, second)
    assert 0 <= low <= found <= high <= 1
    assert improvement_interval(first + 9, second) == (1.0, 1.0)


@pytest.mark.parametrize("whole_runs", [False, True])
def test_resamples_of_two_seeds_are_all_there_are(whole_runs):
    """Brute force over every resample of 2 seeds and 2 games."""
    table = np.array([[0.0, 10.0], [1.0, 30.0]])
    means = []
    for one in itertools.product((0, 1), repeat=2):
        for other in itertools.product((0, 1), repeat=2):
            if not whole_runs or one == other:
                means.append((table[list(one), 0].mean() + table[list(other), 1].mean()) / 2)
    exact = np.quantile(means, (0.025, 0.975), method="inverted_cdf")
    found = aggregate_intervals(table, whole_runs=whole_runs)["mean"]
    assert found == pytest.approx(tuple(exact))


@pytest.mark.parametrize("whole_runs", [False, True])
def test_improvement_is_resampled_as_by_brute_force(whole_runs):
    first, second = np.array([[0.0, 3.0], [2.0, 1.0]]), np.array([[1.0, 2.0], [3.0, 0.0]])
    rng = np.random.default_rng(0)
    values = []
    for _ in range(4000):
        drawn = []
        for table in (first, second):
            places = rng.integers(2, size=(2, 1 if whole_runs else 2))
            places = np.broadcast_to(places, (2, 2))
            drawn.append(np.take_along_axis(table, places, axis=0))
        values.append(probability_of_improvement(*drawn))
    exact = np.quantile(values, (0.025, 0.975))
    found = improvement_interval(first, second, whole_runs=whole_runs)
    np.testing.assert_allclose(found, exact, atol=0.13)  # the next possible value at most


def test_whole_runs_tell_what_games_of_a_run_share():
    """Where a run is good at all games or at none, games are no independent evidence."""
    rng = np.random.default_rng(2)
    shared = np.repeat(rng.normal(size=(10, 1)), 8, axis=1)
    low, high = aggregate_intervals(shared)["mean"]
    whole_low, whole_high = aggregate_intervals(shared, whole_runs=True)["mean"]
    assert whole_high - whole_low > 2 * (high - low)
    apart = rng.normal(size=(10, 8))
    low, high = aggregate_intervals(apart)["mean"]
    whole_low, whole_high = aggregate_intervals(apart, whole_runs=True)["mean"]
    assert 0.5 < (whole_high - whole_low) / (high - low) < 2


@pytest.mark.parametrize("name", ["mean", "iqm"])
def test_the_interval_covers_a_known_truth(name, monkeypatch):
    """Scores around 0 in every game: true mean and interquartile mean are 0."""
    monkeypatch.setattr(aggregates, "RESAMPLES", 500)
    rng = np.random.default_rng(3)
    covered, trials = 0, 200
    for _ in range(trials):
        low, high = aggregate_intervals(rng.normal(size=(10, 4)))[name]
        covered += low <= 0 <= high
    assert 0.87 < covered / trials < 0.99, "of 95 %: percentile intervals of 10 seeds are narrow"


@pytest.mark.parametrize("seed", range(3))
def test_a_profile_falls_from_one_to_zero(seed):
    table = scores(seed, 6, 4)
    places = np.linspace(table.min() - 0.1, table.max(), 50)
    profile = performance_profile(table, places)
    assert profile[0] == 1 and profile[-1] == 0 and (np.diff(profile) <= 0).all()
    assert profile.mean() * (places[-1] - places[0]) == pytest.approx(
        table.mean() - places[0], abs=0.1
    ), "the area under it is the mean"
    low, high = profile_band(table, places)
    assert (low <= profile).all() and (profile <= high).all()
    assert (np.diff(low) <= 0).all() and (np.diff(high) <= 0).all()
    assert low[0] == high[0] == 1 and low[-1] == high[-1] == 0


def test_nothing_depends_on_the_order_of_seeds_or_of_global_random_numbers():
    table = scores(5)
    np.random.seed(1)
    found = aggregate_intervals(table)
    assert aggregate_intervals(table) == found
    assert aggregate(table[::-1])["iqm"] == pytest.approx(aggregate(table)["iqm"])


def test_mistakes_are_named():
    table = scores(0)
    with pytest.raises(ValueError, match="at least two seeds of a game are needed"):
        aggregate_intervals(table[:1])
    with pytest.raises(ValueError, match="first has shape"):
        improvement_interval(table[0], table)
    with pytest.raises(ValueError, match=r"second has shape \(5, 2\): allowed is \(any, 3\)"):
        probability_of_improvement(table, table[:, :2])
    with pytest.raises(ValueError, match=r"scores\[0, 1\]=nan"):
        aggregate_intervals(np.array([[0.0, np.nan], [1.0, 2.0]]))
