"""Scores of several runs on several games in a few numbers, as Agarwal et al. ask for it.

Shape legend: S = seeds (runs), G = games, B = bootstrap resamples, T = thresholds.

Scores ``(S, G)`` are on one scale. The stratified bootstrap of the paper (arXiv 2108.13264) draws
seeds anew for every game, as if the games of a run were trained apart. Where one network plays all
games their scores depend on each other, and the intervals can be too narrow: with ``whole_runs``
runs are drawn with all their games. Intervals are 95 % percentile intervals.
"""

import numpy as np

from lzero import checks
from lzero.report.statistics import BOOTSTRAP_SEED, CONFIDENCE, RESAMPLES

MEAN, MEDIAN, IQM, GAP = "mean", "median", "iqm", "optimality_gap"
TRIMMED = 0.25  # of the scores at both ends that the interquartile mean leaves out
TARGET = 1.0  # the score from which on the optimality gap sees no difference
CHUNK = 500  # resamples at a time: bounds the memory of many games
Interval = tuple[float, float]


def aggregate(scores: np.ndarray) -> dict[str, np.ndarray]:
    """Aggregates ``(…)`` of ``scores (…, S, G)`` by name.

    ``mean`` over seeds and games; ``median`` over games of the mean over seeds; ``iqm``, the mean
    of the middle half of all scores; ``optimality_gap``, by how much scores miss 1 on average,
    where more than 1 counts as 1.
    """
    from scipy.stats import trim_mean  # takes longer to import than all else here

    flat = scores.reshape(*scores.shape[:-2], -1)
    return {
        MEAN: flat.mean(axis=-1),
        MEDIAN: np.median(scores.mean(axis=-2), axis=-1),
        IQM: trim_mean(flat, TRIMMED, axis=-1),
        GAP: TARGET - np.minimum(flat, TARGET).mean(axis=-1),
    }


def aggregate_intervals(scores: np.ndarray, *, whole_runs: bool = False) -> dict[str, Interval]:
    """Both ends of the interval of every aggregate of ``scores (S, G)``.

    Raises:
        ValueError: if S < 2 or there is no game, or a score is no number.
    """
    _check("scores", scores)
    found: dict[str, list[np.ndarray]] = {}
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    for _ in range(0, RESAMPLES, CHUNK):
        drawn_BSG = draw(rng, *scores.shape, whole_runs=whole_runs)
        resampled = np.take_along_axis(scores[None], drawn_BSG, axis=1)
        for name, values in aggregate(resampled).items():
            found.setdefault(name, []).append(values)
    return {name: _ends(np.concatenate(values)) for name, values in found.items()}


def probability_of_improvement(first: np.ndarray, second: np.ndarray) -> float:
    """How likely a run of ``first (S, G)`` is better than one of ``second (S', G)`` on a game.

    The mean over games of the share of pairs of seeds in which the first is better; a tie is half
    of one (Mann-Whitney). 0.5 is no difference.
    """
    return float(_wins(first, second).mean())


def improvement_interval(
    first: np.ndarray, second: np.ndarray, *, whole_runs: bool = False
) -> Interval:
    """Both ends of the interval of :func:`probability_of_improvement`, seeds of both drawn alone.

    Raises:
        ValueError: if either has fewer than two seeds, games differ, or a score is no number.
    """
    _check("first", first)
    _check("second", second)
    wins = _wins(first, second)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    values = []
    for _ in range(0, RESAMPLES, CHUNK):
        one = _counts(draw(rng, *first.shape, whole_runs=whole_runs))
        other = _counts(draw(rng, *second.shape, whole_runs=whole_runs))
        values.append(np.einsum("bsg,stg,btg->b", one, wins, other, optimize=True))
    return _ends(np.concatenate(values) / wins.size)


def difference_interval(first: np.ndarray, second: np.ndarray, name: str = IQM) -> Interval:
    """Both ends of the interval of an aggregate of ``first (S, G)`` minus that of ``second (S', G)``.

    Seeds of both are drawn alone, which is too wide where the seeds of both share luck.

    Raises:
        ValueError: as :func:`improvement_interval`, or if no aggregate is called ``name``.
    """
    _check("first", first)
    _check("second", second)
    checks.shape("second", second, None, first.shape[1])
    if name not in (MEAN, MEDIAN, IQM, GAP):
        raise ValueError(f"name={name!r}: allowed are {', '.join((MEAN, MEDIAN, IQM, GAP))}")
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    values = []
    for _ in range(0, RESAMPLES, CHUNK):
        of_both = []
        for scores in (first, second):
            drawn_BSG = draw(rng, *scores.shape, whole_runs=False)
            resampled = np.take_along_axis(scores[None], drawn_BSG, axis=1)
            of_both.append(aggregate(resampled)[name])
        values.append(of_both[0] - of_both[1])
    return _ends(np.concatenate(values))


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share ``(T,)`` of the runs and games of ``scores (S, G)`` with a score above each threshold."""
    return (scores[:, :, None] > thresholds).mean(axis=(0, 1))


def profile_band(scores: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both ends ``(T,)`` of the pointwise intervals of :func:`performance_profile`.

    Raises:
        ValueError: as :func:`aggregate_intervals`.
    """
    _check("scores", scores)
    above = (scores[:, :, None] > thresholds).reshape(scores.size, -1).astype(np.float64)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    profiles = []
    for _ in range(0, RESAMPLES, CHUNK):
        counts = _counts(draw(rng, *scores.shape, whole_runs=False))
        profiles.append(counts.reshape(CHUNK, -1) @ above / scores.size)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(profiles), (tail, 1 - tail), axis=0)
    return low, high


def draw(rng: np.random.Generator, seeds: int, games: int, *, whole_runs: bool) -> np.ndarray:
    """Numbers ``(CHUNK, S, G)`` of the seeds that stand in each place of a resample."""
    if whole_runs:
        drawn = rng.integers(seeds, size=(CHUNK, seeds, 1))
        return np.broadcast_to(drawn, (CHUNK, seeds, games))
    return rng.integers(seeds, size=(CHUNK, seeds, games))


def _counts(drawn_BSG: np.ndarray) -> np.ndarray:
    """``(B, S, G)`` how often every seed is in the resamples of a game."""
    seeds = range(drawn_BSG.shape[1])
    counts = np.stack([(drawn_BSG == seed).sum(axis=1) for seed in seeds], axis=1)
    return counts.astype(np.float64)  # of which sums are exact


def _wins(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """``(S, S', G)``: 1 where the first is better, 0.5 where both are alike."""
    checks.shape("second", second, None, first.shape[1])
    difference = first[:, None] - second[None]
    return (difference > 0) + 0.5 * (difference == 0)


def _check(name: str, scores: np.ndarray) -> None:
    checks.shape(name, scores, None, None)
    if len(scores) < 2 or not scores.shape[1]:
        raise ValueError(
            f"{name} has shape {scores.shape}: at least two seeds of a game are needed"
        )
    checks.finite(name, scores)


def _ends(values: np.ndarray) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return float(low), float(high)
