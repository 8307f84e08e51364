"""Numbers of the first and the last fifth of the env steps that all seeds compared have reached."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from lzero.report.run_data import RunData
from lzero.report.statistics import ONE_SEED, OVER_SEEDS, bootstrap_difference, bootstrap_mean

SHARE = 0.2
NO_NUMBER = "none: no number"
NOT_ENOUGH_SEEDS = "none: one seed in a group"
OVER_BOTH_GROUPS = "bootstrap over seeds, each group's by itself"


@dataclass(frozen=True)
class Part:
    """A stretch of training, in env steps per game."""

    start: float  # no longer in it
    end: float  # in it

    @classmethod
    def last(cls, runs: Iterable[RunData]) -> Self:
        """The last fifth of the training that all runs have behind them."""
        end = min((run.env_steps for run in runs), default=0.0)
        return cls((1 - SHARE) * end, end)

    @classmethod
    def first(cls, runs: Iterable[RunData]) -> Self:
        """The first fifth of the same training."""
        return cls(0.0, SHARE * cls.last(runs).end)

    def choose(self, env_step: np.ndarray) -> np.ndarray:
        """Mask ``(N,)`` of the logged points in it; without any, of the last before its end."""
        inside = (env_step > self.start) & (env_step <= self.end)
        if inside.any() or not (env_step <= self.end).any():
            return inside
        return env_step == env_step[env_step <= self.end].max()

    def mean(self, run: RunData, *logged: str) -> float:
        """Mean over tags of the mean of what a run logged; NaN where there is no number."""
        means = []
        for series in map(run.series, logged):
            means.append(mean_or_nan(series.value[self.choose(series.env_step)]))
        return mean_or_nan(means)

    def share_of_numbers(self, run: RunData, tag: str) -> float:
        """Share of what was logged under ``tag`` that is a number; NaN where nothing was."""
        if tag not in run.scalars:
            return math.nan
        series = run.scalars[tag]
        return mean_or_nan(np.isfinite(series.value[self.choose(series.env_step)]))


def with_numbers(runs: Iterable[RunData], prefix: str) -> list[RunData]:
    """Runs with a number whose tag begins with ``prefix``: no others say when training ended."""
    return [run for run in runs if run.tags(prefix)]


def mean_or_nan(values: Iterable[float]) -> float:
    """Mean of those that are numbers; NaN if none is."""
    known = only_numbers(values)
    return sum(known) / len(known) if known else math.nan


def only_numbers(values: Iterable[float]) -> list[float]:
    """Values without NaN."""
    return [value for value in values if not math.isnan(value)]


def over_seeds(by_seed: Mapping[str, float]) -> dict[str, Any]:
    """Mean over the seeds that have a number, with its interval."""
    known = {name: value for name, value in by_seed.items() if not math.isnan(value)}
    values = np.array(list(known.values()))
    low, high, interval = math.nan, math.nan, ONE_SEED if known else NO_NUMBER
    if len(known) > 1:
        (low, high), interval = map(float, bootstrap_mean(values)), OVER_SEEDS
    return {
        **{"seeds": " ".join(known), "mean": mean_or_nan(values), "low": low, "high": high},
        **{"num_seeds": len(known), "interval": interval},
    }


def difference(first: Iterable[float], second: Iterable[float]) -> dict[str, Any]:
    """Mean of one group's seeds minus that of another's, with its interval.

    Seeds without a number (NaN) do not count.
    """
    one, other = np.array(only_numbers(first)), np.array(only_numbers(second))
    low, high, interval = math.nan, math.nan, NOT_ENOUGH_SEEDS
    if min(len(one), len(other)) > 1:
        (low, high), interval = bootstrap_difference(one, other), OVER_BOTH_GROUPS
    return {
        **{"mean": mean_or_nan(one) - mean_or_nan(other), "low": low, "high": high},
        **{"num_seeds": len(one) + len(other), "interval": interval},
    }
