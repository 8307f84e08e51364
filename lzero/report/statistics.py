"""Curves and final scores over seeds, with bootstrap intervals.

S = seeds, P = points of a curve, E = episodes of an evaluation, B = bootstrap resamples. Env steps are per game.

Intervals are 95 % percentile bootstrap intervals of a mean. With few seeds they are too narrow: of two or three seeds
they reach from the worst to the best. All random numbers come from one fixed seed, so a report can be repeated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from lzero.report.run_data import EVALUATION_PREFIX, Group, RunData, Series

RESAMPLES = 5000
CONFIDENCE = 0.95
BOOTSTRAP_SEED = 0
MAX_BINS = 50  # points of a smoothed curve: each is the mean over 2 % of the env steps
MIN_BINS = 10  # with fewer, the values are shown as they were logged
EVALUATION_METRIC = "eval_return"
EPISODES_PREFIX = "collect_"  # numbers of single episodes: they scatter more than all others and are smoothed more

RANDOM = "random"  # what domains call the score of a random policy
# How an interval was made, as tables write it.
OVER_SEEDS = "bootstrap over seeds"
OVER_EPISODES = "bootstrap over episodes of one seed"
OVER_BOTH = "hierarchical bootstrap over seeds and episodes"
NO_SCORES = "none: one seed without episode scores"
ONE_SEED = "none: one seed"
NO_EVALUATION = "none: no evaluation yet"
NO_OVERLAP = "none: evaluations of the seeds do not overlap"


@dataclass(frozen=True)
class Curve:
    """One number over training, mean over the seeds of a group.

    Attributes:
        group: label of the group.
        seeds: names of the runs in it; runs that never logged the number are not among them.
        domain: import path of the domain.
        game: empty for what is not of one game.
        metric: tag without the game.
        env_step: ``(P,)`` within the range that all seeds cover.
        mean: ``(P,)``.
        low: ``(P,)`` lower end of the interval, NaN where there is none.
        high: ``(P,)`` upper end.
        interval: how the interval was made.
    """

    group: str
    seeds: tuple[str, ...]
    domain: str
    game: str
    metric: str
    env_step: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    interval: str


@dataclass(frozen=True)
class FinalScore:
    """The last evaluation of a game that all seeds of a group have reached.

    Attributes:
        group: label of the group.
        seeds: names of the runs in it.
        domain: import path of the domain.
        game: its name.
        env_steps: env step of each seed's evaluation.
        mean: mean over seeds; NaN without an evaluation.
        low: lower end of the interval, NaN where there is none.
        high: upper end.
        episodes: episodes of all seeds together; 0 where their scores were not logged.
        interval: how the interval was made.
    """

    group: str
    seeds: tuple[str, ...]
    domain: str
    game: str
    env_steps: tuple[int, ...]
    mean: float
    low: float
    high: float
    episodes: int
    interval: str


def bootstrap_mean(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interval of the mean over the first axis.

    All points are resampled together, so the ends of a curve's interval are curves too.

    Args:
        values: ``(S, …)``.

    Returns:
        Lower and upper end ``(…)``.

    Raises:
        ValueError: if S < 2: one value has no spread.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"{count} value(s): an interval needs at least two")
    low, high = _interval(_resample_weights(count) @ values.reshape(count, -1))
    return low.reshape(values.shape[1:]), high.reshape(values.shape[1:])


def bootstrap_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Interval of the mean of ``first (S,)`` minus that of ``second (S',)``, which are resampled independently.

    Raises:
        ValueError: if either has fewer than two values.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"{len(first)} and {len(second)} value(s): an interval needs at least two of each")
    rng = _generator()
    first_BS, second_BS = (rng.choice(values, size=(RESAMPLES, len(values))) for values in (first, second))
    low, high = _interval(first_BS.mean(axis=1) - second_BS.mean(axis=1))
    return float(low), float(high)


def hierarchical_bootstrap_mean(scores: Sequence[np.ndarray]) -> tuple[float, float]:
    """Interval of the mean over seeds of their mean episode score.

    Seeds are resampled, then the episodes of each drawn seed.

    Args:
        scores: ``(E,)`` of each of S seeds; E may differ. One seed gives an interval over its episodes alone.

    Raises:
        ValueError: if there is no seed, or one has fewer than two episodes.
    """
    if not scores or min(len(episodes) for episodes in scores) < 2:
        raise ValueError(f"episodes per seed: {[len(e) for e in scores]}; at least two of at least one seed are needed")
    rng = _generator()
    seed_BS = rng.integers(len(scores), size=(RESAMPLES, len(scores)))
    means_BS = np.empty(seed_BS.shape)
    for index, episodes in enumerate(scores):
        here = seed_BS == index
        means_BS[here] = rng.choice(episodes, size=(here.sum(), len(episodes))).mean(axis=1)
    low, high = _interval(means_BS.mean(axis=1))
    return float(low), float(high)


def common_range(series: Sequence[Series]) -> tuple[float, float]:
    """First and last env step that all of the (not empty) series cover; the first is larger if they do not overlap."""
    return max(one.env_step[0] for one in series), min(one.env_step[-1] for one in series)


def interpolate(series: Sequence[Series]) -> tuple[np.ndarray, np.ndarray]:
    """Bring series onto the env steps of all of them that lie in their common range.

    Returns:
        ``(P,)`` env steps and ``(S, P)`` values, linear between two logged ones and never beyond them.
    """
    low, high = common_range(series)
    steps = np.unique(np.concatenate([one.env_step for one in series]))
    steps = steps[(steps >= low) & (steps <= high)]
    return steps, np.stack([np.interp(steps, one.env_step, one.value) for one in series])


def smooth(series: Sequence[Series], values_per_bin: int) -> tuple[np.ndarray, np.ndarray]:
    """Means over equal bins of the common range; of short series the values themselves, see :func:`interpolate`.

    Args:
        series: one per seed.
        values_per_bin: there are so few bins that every seed has this many values in one, on average.

    Returns:
        ``(P,)`` centres of the bins in which every seed has a value, and ``(S, P)`` values.
    """
    low, high = common_range(series)
    inside = [(one.env_step >= low) & (one.env_step <= high) for one in series]
    bins = min(MAX_BINS, min(int(mask.sum()) for mask in inside) // values_per_bin)
    if bins < MIN_BINS:
        return interpolate(series)
    sums, counts = np.zeros((2, len(series), bins))
    for index, (one, mask) in enumerate(zip(series, inside, strict=True)):
        place = np.minimum((one.env_step[mask] - low) / (high - low) * bins, bins - 1).astype(np.intp)
        np.add.at(sums[index], place, one.value[mask])
        np.add.at(counts[index], place, 1.0)
    full = (counts > 0).all(axis=0)
    centres = low + (np.arange(bins) + 0.5) * (high - low) / bins
    return centres[full], sums[:, full] / counts[:, full]


def build_curves(group: Group, prefix: str) -> list[Curve]:
    """Curves of all tags of a group that begin with ``prefix``; evaluations as they are, all else smoothed."""
    tags = sorted({tag for run in group.runs for tag in run.tags(prefix)})
    curves = []
    for tag in tags:
        game = next((game for game in group.games if tag.endswith(f"/{game}")), "")
        metric = tag.removesuffix(f"/{game}")
        curve = mean_curve(group, metric, {run.name: run.series(tag) for run in group.runs}, game)
        if curve and metric == EVALUATION_METRIC and len(curve.seeds) == 1:
            curve = _with_episode_intervals(curve, next(run for run in group.runs if run.name in curve.seeds))
        curves += [curve] if curve else []
    return curves


def mean_curve(group: Group, metric: str, series: Mapping[str, Series], game: str = "") -> Curve | None:
    """A number over training, mean over seeds.

    Evaluations are interpolated between seeds, all else is smoothed, by its ``metric``.

    Args:
        group: whose number it is.
        metric: tag without the game.
        series: by name of the run; empty ones do not count.
        game: empty for what is not of one game.

    Returns:
        None if there is nothing, or the seeds have no env steps in common.
    """
    series = {name: one for name, one in series.items() if len(one)}
    align = interpolate
    if not metric.startswith(EVALUATION_PREFIX):
        align = partial(smooth, values_per_bin=4 if metric.startswith(EPISODES_PREFIX) else 2)
    steps, values = align([*series.values()]) if series else (np.empty(0), np.empty((0, 0)))
    if not len(steps):
        return None
    no_end = np.full(len(steps), np.nan)
    low, high = bootstrap_mean(values) if len(series) > 1 else (no_end, no_end)
    method = OVER_SEEDS if len(series) > 1 else ONE_SEED
    return Curve(group.label, tuple(series), group.domain, game, metric, steps, values.mean(axis=0), low, high, method)


def final_score(group: Group, game: str) -> FinalScore:
    """The last evaluation of ``game`` up to the env step that all seeds reached; seeds that have none are left out."""
    tag = f"eval_return/{game}"
    runs = [run for run in group.runs if len(run.series(tag))]
    make = partial(FinalScore, group.label, tuple(run.name for run in runs), group.domain, game)
    if not runs:
        return make((), np.nan, np.nan, np.nan, 0, NO_EVALUATION)
    series = [run.series(tag) for run in runs]
    last = [np.searchsorted(one.env_step, common_range(series)[1], side="right") - 1 for one in series]
    if min(last) < 0:
        return make((), np.nan, np.nan, np.nan, 0, NO_OVERLAP)
    steps = tuple(int(one.env_step[index]) for one, index in zip(series, last, strict=True))
    returns = np.array([one.value[index] for one, index in zip(series, last, strict=True)])
    scores = [run.episode_scores(game, step) for run, step in zip(runs, steps, strict=True)]
    if min(len(episodes) for episodes in scores) >= 2:
        low, high = hierarchical_bootstrap_mean(scores)
        method = OVER_BOTH if len(runs) > 1 else OVER_EPISODES
    elif len(runs) > 1:
        (low, high), method = map(float, bootstrap_mean(returns)), OVER_SEEDS
    else:
        low, high, method = np.nan, np.nan, NO_SCORES
    return make(steps, float(returns.mean()), low, high, sum(map(len, scores)), method)


def _with_episode_intervals(curve: Curve, run: RunData) -> Curve:
    """The interval over the episodes of each evaluation of one run; NaN where there are fewer than two scores."""
    ends = np.full((2, len(curve.env_step)), np.nan)
    for index, step in enumerate(curve.env_step):
        scores = run.episode_scores(curve.game, step)
        if len(scores) >= 2:
            ends[:, index] = hierarchical_bootstrap_mean([scores])
    method = OVER_EPISODES if np.isfinite(ends).any() else NO_SCORES
    return replace(curve, low=ends[0], high=ends[1], interval=method)


@cache
def _resample_weights(count: int) -> np.ndarray:
    """``(B, S)`` share of each of ``count`` seeds in each resample."""
    drawn = _generator().integers(count, size=(RESAMPLES, count))
    return np.stack([(drawn == index).sum(axis=1) for index in range(count)], axis=1) / count


def _interval(means: np.ndarray) -> np.ndarray:
    """Both ends, over the first axis."""
    tail = (1 - CONFIDENCE) / 2
    return np.quantile(means, (tail, 1 - tail), axis=0)


def _generator() -> np.random.Generator:
    return np.random.default_rng(BOOTSTRAP_SEED)
