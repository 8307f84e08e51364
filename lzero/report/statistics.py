"""Curves and final scores over seeds, with bootstrap intervals.

S = seeds, P = points of a curve, E = episodes of an evaluation, B = bootstrap resamples. Env steps
are per game. Intervals are 95 % percentile bootstrap intervals of a mean, too narrow with few
seeds: of two or three they reach from the worst to the best. All random numbers come from one fixed
seed, so a report can be repeated.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from lzero import checks, tags
from lzero.report.run_data import EVALUATION_PREFIX, Group, RunData, Series

RESAMPLES = 5000
CONFIDENCE = 0.95
LEVEL = f"{100 * CONFIDENCE:.0f} %"
BOOTSTRAP_SEED = 0
MAX_BINS = 50  # points of a smoothed curve: each is the mean over 2 % of the env steps
MIN_BINS = 10  # with fewer, the values are shown as they were logged
EPISODES_PREFIX = "collect_"  # numbers of single episodes scatter most and are smoothed more

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
    """One number over training, mean over the seeds of a group."""

    group: str  # label
    seeds: tuple[str, ...]  # names of the runs in it, without those that never logged the number
    domain: str  # import path
    game: str  # empty for what is not of one game
    metric: str  # tag without the game
    env_step: np.ndarray  # (P,) within the range that all seeds cover
    mean: np.ndarray  # (P,)
    low: np.ndarray  # (P,) lower end of the interval, NaN where there is none
    high: np.ndarray  # (P,) upper end
    interval: str  # how it was made
    measured: tuple[
        int, ...
    ] = ()  # how many numbers each seed logged; empty where that says nothing


@dataclass(frozen=True)
class FinalScore:
    """The last evaluation of a game that all seeds of a group have reached."""

    group: str  # label
    seeds: tuple[str, ...]  # names of the runs in it
    domain: str  # import path
    game: str
    env_steps: tuple[int, ...]  # of each seed's evaluation
    mean: float  # over seeds; NaN without an evaluation
    low: float  # lower end of the interval, NaN where there is none
    high: float  # upper end
    episodes: int  # of all seeds together; 0 where their scores were not logged
    interval: str  # how it was made


def bootstrap_mean(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both ends ``(…)`` of the interval of the mean of ``values (S, …)`` over S.

    All points are resampled together: the ends of a curve's interval are curves too.

    Raises:
        TypeError: if they are no array.
        ValueError: if S < 2: one value has no spread, or one is no number.
    """
    checks.instance("values", values, np.ndarray, "an array (S, …)")
    count = len(values)
    if count < 2:
        raise ValueError(f"{count} value(s): an interval needs at least two")
    checks.finite("values", values)
    low, high = _interval(_resample_weights(count) @ values.reshape(count, -1))
    return low.reshape(values.shape[1:]), high.reshape(values.shape[1:])


def bootstrap_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Interval of the mean of ``first (S,)`` minus that of ``second (S',)``, each resampled alone.

    Raises:
        ValueError: if either has fewer than two values, or one is no number.
    """
    if min(len(first), len(second)) < 2:
        counts = f"{len(first)} and {len(second)}"
        raise ValueError(f"{counts} value(s): an interval needs at least two of each")
    checks.finite("first", first)
    checks.finite("second", second)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    first_BS = rng.choice(first, size=(RESAMPLES, len(first)))
    second_BS = rng.choice(second, size=(RESAMPLES, len(second)))
    low, high = _interval(first_BS.mean(axis=1) - second_BS.mean(axis=1))
    return float(low), float(high)


def hierarchical_bootstrap_mean(scores: Sequence[np.ndarray]) -> tuple[float, float]:
    """Interval of the mean over S seeds of their mean episode score; ``scores`` are ``(E,)`` each.

    Seeds are resampled, then the episodes of each drawn one; E may differ, and S may be 1.

    Raises:
        ValueError: if there is no seed, one has fewer than two episodes, or a score is no number.
    """
    counts = list(map(len, scores))
    if min(counts, default=0) < 2:
        needed = "at least two of at least one seed are needed"
        raise ValueError(f"episodes per seed: {counts}; {needed}")
    for index, episodes in enumerate(scores):
        checks.finite(f"scores[{index}]", episodes)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    seed_BS = rng.integers(len(scores), size=(RESAMPLES, len(scores)))
    means_BS = np.empty(seed_BS.shape)
    for index, episodes in enumerate(scores):
        here = seed_BS == index
        means_BS[here] = rng.choice(episodes, size=(here.sum(), len(episodes))).mean(axis=1)
    low, high = _interval(means_BS.mean(axis=1))
    return float(low), float(high)


def common_range(series: Sequence[Series]) -> tuple[float, float]:
    """First and last env step that all (not empty) series cover; the first is larger if none is.

    Raises:
        ValueError: if there is no series, or one is empty.
    """
    if not series:
        raise ValueError("series=[]: at least one is needed")
    for index, one in enumerate(series):
        if not len(one):
            raise ValueError(f"series[{index}] is empty: leave it out")
    ends = np.array([one.env_step[[0, -1]] for one in series])
    return ends[:, 0].max(), ends[:, 1].min()


def interpolate(series: Sequence[Series]) -> tuple[np.ndarray, np.ndarray]:
    """Env steps ``(P,)`` of any of the series in their common range, and values ``(S, P)`` there.

    Values are linear between two logged ones, never beyond them.
    """
    low, high = common_range(series)
    steps = np.unique(np.concatenate([one.env_step for one in series]))
    steps = steps[(steps >= low) & (steps <= high)]
    return steps, np.stack([np.interp(steps, one.env_step, one.value) for one in series])


def smooth(series: Sequence[Series], values_per_bin: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres ``(P,)`` of equal bins of the common range, and mean values ``(S, P)`` in them.

    Every seed has values in a bin, at least ``values_per_bin`` on average. Short series come as
    :func:`interpolate` gives them.

    Raises:
        ValueError: as :func:`common_range`, or if ``values_per_bin`` is below 1.
    """
    checks.count("values_per_bin", values_per_bin)
    low, high = common_range(series)
    inside = [(one.env_step >= low) & (one.env_step <= high) for one in series]
    bins = min(MAX_BINS, int(min(map(np.sum, inside))) // values_per_bin)
    if bins < MIN_BINS:
        return interpolate(series)
    sums, counts = np.zeros((2, len(series), bins))
    for index, (one, mask) in enumerate(zip(series, inside, strict=True)):
        place = np.minimum((one.env_step[mask] - low) / (high - low) * bins, bins - 1)
        np.add.at(sums[index], place.astype(np.intp), one.value[mask])
        np.add.at(counts[index], place.astype(np.intp), 1.0)
    full = (counts > 0).all(axis=0)
    centres = low + (np.arange(bins) + 0.5) * (high - low) / bins
    return centres[full], sums[:, full] / counts[:, full]


def build_curves(group: Group, prefix: str) -> Iterator[Curve]:
    """Curves of all numbers of a group whose tags begin with ``prefix``."""
    logged: set[str] = set()
    for run in group.runs:
        logged.update(run.tags(prefix))
    for tag in sorted(logged):
        game = tags.game_of(tag, group.games)
        curve = mean_curve(group, tag.removesuffix(f"/{game}"), group.series(tag), game)
        if curve:
            yield curve


def mean_curve(
    group: Group, metric: str, series: Mapping[str, Series], game: str = ""
) -> Curve | None:
    """The mean over ``series`` by the name of the run, none empty; of a number of ``group``.

    Evaluations are interpolated between seeds, all else is smoothed, by its ``metric`` (the tag
    without the game). None if there is nothing, or the seeds have no env steps in common.
    """
    align = interpolate
    if not metric.startswith(EVALUATION_PREFIX):
        align = partial(smooth, values_per_bin=4 if metric.startswith(EPISODES_PREFIX) else 2)
    steps, values = align([*series.values()]) if series else (np.empty(0), np.empty((0, 0)))
    if not len(steps):
        return None
    low = high = np.full(len(steps), np.nan)
    interval = ONE_SEED
    if len(series) > 1:
        (low, high), interval = bootstrap_mean(values), OVER_SEEDS
    elif metric == tags.EVAL_RETURN:
        run = next(run for run in group.runs if run.name in series)
        (low, high), interval = _over_episodes(run, game, steps)
    place = (group.label, tuple(series), group.domain, game, metric)
    measured = tuple(map(len, series.values()))
    return Curve(*place, steps, values.mean(axis=0), low, high, interval, measured)


def final_score(group: Group, game: str) -> FinalScore:
    """The last evaluation of ``game`` up to the env step that all seeds that have one reached.

    Raises:
        ValueError: if it is no game of the group.
    """
    if game not in group.games:
        raise ValueError(f"game={game!r}: allowed are {', '.join(group.games)}")
    series = group.series(tags.of_game(tags.EVAL_RETURN, game))
    make = partial(FinalScore, group.label, tuple(series), group.domain, game)
    if not series:
        return make((), np.nan, np.nan, np.nan, 0, NO_EVALUATION)
    last = last_common(series)
    if not last:
        return make((), np.nan, np.nan, np.nan, 0, NO_OVERLAP)
    steps, returns, scores = [], [], []
    for run in group.runs:
        if run.name in last:
            step, value = last[run.name]
            steps.append(int(step))
            returns.append(value)
            scores.append(run.episode_scores(game, step))
    low, high, interval = _final_interval(np.array(returns), scores)
    return make(tuple(steps), float(np.mean(returns)), low, high, sum(map(len, scores)), interval)


def last_common(series: Mapping[str, Series]) -> dict[str, tuple[float, float]]:
    """Env step and value of the last number of every series, none empty, up to the env step that
    all of them reached; empty if one has none up to there, or there is no series.
    """
    if not series:
        return {}
    _, end = common_range([*series.values()])
    last = {}
    for name, one in series.items():
        until = int((one.env_step <= end).sum())
        if not until:
            return {}
        last[name] = (float(one.env_step[until - 1]), float(one.value[until - 1]))
    return last


def _final_interval(returns: np.ndarray, scores: list[np.ndarray]) -> tuple[float, float, str]:
    """Of one evaluation of each seed: from the episodes' scores if all have them."""
    if min(map(len, scores)) >= 2:
        return *hierarchical_bootstrap_mean(scores), OVER_BOTH if len(scores) > 1 else OVER_EPISODES
    if len(scores) > 1:
        low, high = bootstrap_mean(returns)
        return float(low), float(high), OVER_SEEDS
    return np.nan, np.nan, NO_SCORES


def _over_episodes(run: RunData, game: str, steps: np.ndarray) -> tuple[np.ndarray, str]:
    """Intervals ``(2, P)`` of one run's evaluations; NaN where there are fewer than two scores."""
    ends = np.full((2, len(steps)), np.nan)
    for index, step in enumerate(steps):
        scores = run.episode_scores(game, step)
        if len(scores) >= 2:
            ends[:, index] = hierarchical_bootstrap_mean([scores])
    return ends, OVER_EPISODES if np.isfinite(ends).any() else NO_SCORES


@cache
def _resample_weights(count: int) -> np.ndarray:
    """``(B, S)`` share of each of ``count`` seeds in each resample."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    drawn_BS = rng.integers(count, size=(RESAMPLES, count))
    return np.stack([(drawn_BS == index).sum(axis=1) for index in range(count)], axis=1) / count


def _interval(means: np.ndarray) -> np.ndarray:
    """Both ends, over the first axis."""
    tail = (1 - CONFIDENCE) / 2
    return np.quantile(means, (tail, 1 - tail), axis=0)
