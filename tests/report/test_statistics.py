"""Bootstrap intervals, and seeds brought onto common env steps."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lzero.report.run_data import Group, RunData, Series
from lzero.report.statistics import (
    MAX_BINS,
    NO_EVALUATION,
    NO_OVERLAP,
    NO_SCORES,
    ONE_SEED,
    OVER_BOTH,
    OVER_EPISODES,
    OVER_SEEDS,
    bootstrap_mean,
    build_curves,
    final_score,
    hierarchical_bootstrap_mean,
    interpolate,
    smooth,
)

FIELDS = {"exp_name": "x", "env.domain": "nowhere:NOTHING", "env.games": ["Pong"]}
RNG = np.random.default_rng(5)


def series(*points: tuple[float, float]) -> Series:
    steps, values = np.array(points, dtype=np.float64).T
    return Series(steps, values)


def group_of(*runs: dict[str, Series], scores: list[dict[int, list[float]]] | None = None) -> Group:
    """A group whose runs logged ``runs``; ``scores`` are each run's episode scores of Pong by env step."""
    scores = scores or [{}] * len(runs)
    return Group(
        "label",
        tuple(
            RunData(
                Path(f"s{n}"),
                FIELDS,
                scalars,
                {
                    "eval_scores/Pong": {
                        step: [np.array(values)] for step, values in scores[n].items()
                    }
                },
            )
            for n, scalars in enumerate(runs)
        ),
        FIELDS,
    )


def test_the_interval_is_that_of_scipy():
    values = RNG.normal(3.0, 2.0, 30)
    reference = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=RNG
    )
    low, high = bootstrap_mean(values)
    width = reference.confidence_interval.high - reference.confidence_interval.low
    assert low == pytest.approx(reference.confidence_interval.low, abs=0.05 * width)
    assert high == pytest.approx(reference.confidence_interval.high, abs=0.05 * width)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_interval_of_few_seeds_is_that_of_all_resamples(count):
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0])[:count]
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=count)]
    low, high = bootstrap_mean(values)
    exact = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    neighbours = np.unique(means)
    for found, true in zip(
        (low, high), exact, strict=True
    ):  # all resamples are drawn, up to one of the possible means
        assert abs(np.searchsorted(neighbours, found) - np.searchsorted(neighbours, true)) <= 1
    if count <= 3:
        assert (low, high) == (values.min(), values.max())


def test_the_interval_covers_the_mean_as_often_as_it_says():
    low, high = bootstrap_mean(RNG.normal(0.0, 1.0, (40, 1500)))
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(
        0.94, abs=0.02
    )  # of 40 values; 0.95 of very many
    low, high = bootstrap_mean(RNG.normal(0.0, 1.0, (3, 1500)))
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(0.75, abs=0.04), (
        "the worst to the best of three"
    )


def test_points_are_resampled_together_and_always_alike():
    values = RNG.normal(size=(4, 3))
    low, high = bootstrap_mean(np.repeat(values, 2, axis=1))
    assert np.array_equal(low[::2], low[1::2]) and np.array_equal(high[::2], high[1::2])
    again = bootstrap_mean(values.reshape(4, 3, 1))
    assert np.array_equal(again[0][:, 0], low[::2]) and again[0].shape == (3, 1)
    assert np.allclose(bootstrap_mean(2 * values + 1)[1], 2 * high[::2] + 1)


@pytest.mark.parametrize("seeds, episodes", [(1, 50), (20, 4), (20, 50)])
def test_the_hierarchical_interval_has_the_spread_of_both_levels(seeds, episodes):
    scores = [RNG.normal(RNG.normal(0.0, 1.0), 2.0, episodes) for _ in range(seeds)]
    variance = np.var([s.mean() for s in scores]) + np.mean([s.var() / episodes for s in scores])
    low, high = hierarchical_bootstrap_mean(scores)
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(variance / seeds), rel=0.06)
    assert (low + high) / 2 == pytest.approx(np.mean(scores), abs=0.1 * (high - low))
    assert (low, high) == hierarchical_bootstrap_mean(scores)


def test_seeds_count_alike_whatever_their_episodes():
    scores = [np.full(200, 10.0), np.zeros(2)]
    assert hierarchical_bootstrap_mean(scores) == (0.0, 10.0)
    assert hierarchical_bootstrap_mean([np.full(3, 7.0)]) == (7.0, 7.0)


def test_one_value_has_no_interval():
    with pytest.raises(ValueError, match="1 value"):
        bootstrap_mean(np.ones((1, 4)))
    for scores in ([], [np.ones(3), np.ones(1)]):
        with pytest.raises(ValueError, match="at least two"):
            hierarchical_bootstrap_mean(scores)


def test_seeds_are_compared_only_where_all_are():
    one, other = series((0, 0), (10, 1), (20, 2), (30, 3)), series((5, 50), (15, 60), (25, 70))
    steps, values = interpolate([one, other])
    assert steps.tolist() == [5, 10, 15, 20, 25]
    assert values.tolist() == [[0.5, 1, 1.5, 2, 2.5], [50, 55, 60, 65, 70]]
    steps, values = interpolate([one, series((10, 5), (20, 6))])
    assert steps.tolist() == [10, 20] and values.tolist() == [[1, 2], [5, 6]], "values as logged"
    steps, values = interpolate([one, series((40, 5), (50, 6))])
    assert len(steps) == 0 and values.shape == (2, 0)


def test_smoothing_is_the_mean_of_each_bin():
    runs = [Series(np.sort(RNG.uniform(0, 1000, n)), RNG.normal(size=n)) for n in (900, 700)]
    runs[1].env_step[:] = 100 + 0.8 * runs[1].env_step
    steps, values = smooth(runs, 4)
    low, high = runs[1].env_step[0], runs[1].env_step[-1]
    assert len(steps) == MAX_BINS and steps[0] > low and steps[-1] < high
    width = (high - low) / MAX_BINS
    for step, column in zip(steps, values.T, strict=True):
        for run, value in zip(runs, column, strict=True):
            inside = [
                v
                for s, v in zip(run.env_step, run.value, strict=True)
                if abs(s - step) <= width / 2 + 1e-9
            ]
            assert value == pytest.approx(np.mean(inside))


def test_a_bin_that_a_seed_has_nothing_in_is_left_out():
    full = Series(np.arange(200.0), np.arange(200.0))
    holed = Series(np.delete(full.env_step, np.s_[90:110]), np.delete(full.value, np.s_[90:110]))
    steps, values = smooth([full, holed], 4)
    assert len(steps) < 45 and not ((steps > 93) & (steps < 106)).any() and steps[-1] > 190
    assert np.allclose(values, steps, atol=4.0)


def test_short_series_are_shown_as_logged():
    short = series(*((step, step**2) for step in range(30)))
    steps, values = smooth([short], 4)
    assert np.array_equal(steps, short.env_step) and np.array_equal(values[0], short.value)
    assert len(smooth([short], 2)[0]) == 15


def test_curves_of_seeds_have_an_interval_over_seeds():
    tag = "eval_return/Pong"
    group = group_of(
        {tag: series((10, 1), (20, 4))},
        {tag: series((10, 3), (20, 8))},
        {"eval_return/Boxing": series((1, 1))},
    )
    [curve] = [curve for curve in build_curves(group, "eval_return/") if curve.game == "Pong"]
    assert (curve.metric, curve.seeds, curve.interval) == ("eval_return", ("s0", "s1"), OVER_SEEDS)
    assert (curve.mean.tolist(), curve.low.tolist(), curve.high.tolist()) == (
        [2, 6],
        [1, 4],
        [3, 8],
    )
    assert list(build_curves(group, "health/")) == []
    never_meet = group_of({tag: series((1, 1))}, {tag: series((2, 2))})
    assert list(build_curves(never_meet, tag)) == []


def test_one_seed_has_no_invented_interval():
    run = {"eval_return/Pong": series((10, 1), (20, 4)), "learn/loss": series((10, 1), (20, 4))}
    [bare] = build_curves(group_of(run), "eval_return/")
    assert (
        bare.interval == NO_SCORES
        and np.isnan([bare.low, bare.high]).all()
        and bare.mean.tolist() == [1, 4]
    )
    [loss] = build_curves(group_of(run), "learn/")
    assert (
        loss.interval == ONE_SEED
        and np.isnan(loss.low).all()
        and (loss.metric, loss.game) == ("learn/loss", "")
    )
    [known] = build_curves(group_of(run, scores=[{20: [3.0, 5.0, 4.0]}]), "eval_return/")
    assert known.interval == OVER_EPISODES and np.isnan(known.low[0])
    assert (known.low[1], known.high[1]) == hierarchical_bootstrap_mean([np.array([3.0, 5.0, 4.0])])


def test_the_final_score_is_that_of_the_last_common_evaluation():
    tag = "eval_return/Pong"
    runs = ({tag: series((10, 1), (20, 4), (30, 100))}, {tag: series((10, 3), (22, 8))}, {})
    final = final_score(group_of(*runs), "Pong")
    assert (final.seeds, final.env_steps, final.mean) == (("s0", "s1"), (20, 22), 6.0)
    assert (final.low, final.high, final.interval, final.episodes) == (4.0, 8.0, OVER_SEEDS, 0)

    scores = [{20: [3.0, 5.0], 30: [0.0, 0.0]}, {22: [8.0, 7.0, 9.0]}, {}]
    final = final_score(group_of(*runs, scores=scores), "Pong")
    assert (final.mean, final.interval, final.episodes) == (6.0, OVER_BOTH, 5)
    assert (final.low, final.high) == hierarchical_bootstrap_mean(
        [np.array([3.0, 5.0]), np.array([8.0, 7.0, 9.0])]
    )

    final = final_score(group_of(runs[0], scores=[{30: [90.0, 110.0]}]), "Pong")
    assert (final.mean, final.env_steps, final.interval, final.high) == (
        100.0,
        (30,),
        OVER_EPISODES,
        110.0,
    )
    final = final_score(group_of(runs[0], scores=[{30: [90.0]}]), "Pong")
    assert final.interval == NO_SCORES and np.isnan([final.low, final.high]).all()
    assert final_score(group_of(runs[2]), "Pong").interval == NO_EVALUATION
    final = final_score(group_of({tag: series((10, 1))}, {tag: series((20, 1))}), "Pong")
    assert final.interval == NO_OVERLAP and np.isnan(final.mean) and final.env_steps == ()
