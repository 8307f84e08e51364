"""Student's t over few seeds: how far two experiments are apart, whether they are the same within a
margin stated beforehand, and which difference so few seeds would have found.

S = seeds, C = comparisons. A percentile bootstrap of a mean never leaves the range of its seeds and
covers too seldom: of five normal values in 83 % where it says 95 %. Student's interval keeps its
95 % for any number of normal values. That differences are normal cannot be checked with a handful
of seeds; it is the price of an interval.
"""

from dataclasses import dataclass
from functools import cache
from math import isnan, nan, sqrt

import numpy as np

from lzero import checks
from lzero.report.last_part import mean_or_nan
from lzero.report.statistics import CONFIDENCE

MIN_SEEDS = 3  # two would have an interval of 13 standard errors to each side, from one number
POWER = 0.8  # the customary one
NO_SPREAD = 1e-12  # of the largest value: what scatters by less is equal but for rounding
# How an interval was made, as tables write it.
PAIRED = "Student's t over the differences of each seed"
UNPAIRED = "Welch's t, each group's seeds by themselves"
TOO_FEW_SEEDS = "none: fewer than three seeds"
ALL_EQUAL = "none: no spread over seeds"
LESS, MORE, EQUIVALENT, CANNOT_TELL = "less", "more", "equivalent", "cannot tell"
WITHIN_MARGIN = ", within the margin"  # behind one of the first two


@dataclass(frozen=True)
class Difference:
    """Mean over seeds of one experiment minus that of another; NaN where there is no interval."""

    first: float  # mean of the one; NaN without a seed
    second: float  # mean of the other
    low: float  # lower end of the 95 % interval of the difference
    high: float  # upper end
    low_90: float  # of the 90 % interval: two one-sided tests at 5 %
    high_90: float
    p_value: float  # of two sides, that there is no difference
    detectable: float  # smallest difference found with 80 % power, see :func:`noncentrality`
    num_first: int  # seeds
    num_second: int
    interval: str  # how it was made

    @property
    def mean(self) -> float:
        """The difference itself."""
        return self.first - self.second

    def verdict(self, margin: float = nan) -> str:
        """What the seeds tell: ``less``, ``more``, ``equivalent`` or ``cannot tell``.

        Less and more: the 95 % interval excludes 0. Equivalent: the 90 % interval lies within
        ``± margin``, so that both one-sided tests of a difference as large as the margin reject it
        at 5 % (TOST; Schuirmann 1987). What is both gets both: small, but there.

        Args:
            margin: largest difference that does not matter, chosen before looking; NaN where none
                was, and then nothing is equivalent.

        Raises:
            TypeError: if the margin is no number.
            ValueError: if it is not above 0.
        """
        if not (isinstance(margin, float) and isnan(margin)):
            checks.number("margin", margin, 0, above=True)
        is_within = -margin < self.low_90 and self.high_90 < margin
        side = LESS if self.high < 0 else MORE if self.low > 0 else ""
        if side:
            return f"{side}{WITHIN_MARGIN}" if is_within else side
        return EQUIVALENT if is_within else CANNOT_TELL


def paired_difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """Of ``first (S,)`` minus ``second (S,)``, entry i of both from seed i.

    Student's t over the S differences; none for fewer than three.

    Raises:
        TypeError: if either is no array.
        ValueError: if they are not of one length, or one is no number.
    """
    _check("first", first)
    _check("second", second)
    checks.shape("second", second, len(first))
    if len(first) < MIN_SEEDS:
        return _without_interval(first, second, TOO_FEW_SEEDS)
    error = (first - second).std(ddof=1) / sqrt(len(first))
    return _difference(first, second, float(error), len(first) - 1, PAIRED)


def unpaired_difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """Of ``first (S,)`` minus ``second (S',)``, seeds that have nothing in common.

    Welch's t, for groups that scatter differently, with the degrees of freedom of Satterthwaite;
    none where either has fewer than three seeds.

    Raises:
        TypeError: if either is no array.
        ValueError: if it has other than one axis, or one is no number.
    """
    _check("first", first)
    _check("second", second)
    if min(len(first), len(second)) < MIN_SEEDS:
        return _without_interval(first, second, TOO_FEW_SEEDS)
    one = float(first.var(ddof=1)) / len(first)
    other = float(second.var(ddof=1)) / len(second)
    freedom = 0.0  # without any spread, of which there is no interval
    if one + other > 0:
        parts = one**2 / (len(first) - 1) + other**2 / (len(second) - 1)
        freedom = (one + other) ** 2 / parts if parts > 0 else 0.0  # squares of the tiny are 0
    return _difference(first, second, sqrt(one + other), freedom, UNPAIRED)


def student_interval(values: np.ndarray) -> tuple[float, float]:
    """Student's interval of the mean of ``values (S,)``; NaN for fewer than three.

    Raises:
        TypeError: if they are no array.
        ValueError: if they have other than one axis, or one is no number.
    """
    _check("values", values)
    if len(values) < MIN_SEEDS:
        return nan, nan
    error = float(values.std(ddof=1)) / sqrt(len(values))
    return _ends(float(values.mean()), error, len(values) - 1, CONFIDENCE)


def holm(p_values: np.ndarray) -> np.ndarray:
    """P-values ``(C,)`` adjusted for how many there are; NaN is no comparison and stays.

    The smallest times C, the next one times C − 1 and so on, none smaller than the one before, none
    above 1: what stays below 5 % differs, and of all that are said to, one or more are said wrongly
    in at most 5 % of the studies (Holm 1979). Comparisons may depend on each other.

    Raises:
        TypeError: if they are no array.
        ValueError: if they have other than one axis, or one is below 0 or above 1.
    """
    checks.instance("p_values", p_values, np.ndarray, "an array (C,)")
    checks.shape("p_values", p_values, None)
    if ((p_values < 0) | (p_values > 1)).any():
        raise ValueError(f"p_values={checks.shown(p_values.tolist())}: allowed are 0 to 1, or NaN")
    adjusted = np.full(len(p_values), nan)
    known = np.flatnonzero(~np.isnan(p_values))
    largest = 0.0
    for rank, place in enumerate(known[np.argsort(p_values[known], kind="stable")]):
        largest = max(largest, min(1.0, (len(known) - rank) * float(p_values[place])))
        adjusted[place] = largest
    return adjusted


@cache
def noncentrality(freedom: float) -> float:
    """A difference in standard errors that is found with 80 % power.

    A t statistic of ``freedom`` ν degrees whose true difference is δ standard errors follows the
    noncentral t distribution with noncentrality δ. It is found where it is beyond the two-sided
    critical value: δ solves ``P(T'_ν(δ) > t_ν(0.975)) = 0.8``. (The other side, found with the
    wrong sign, has less than 1e-4.) The detectable difference is δ times the standard error: of
    pairs ``δ · s / √S``, s the standard deviation of the differences. As s is itself estimated from
    few seeds, so is the detectable difference.

    Raises:
        TypeError: if ``freedom`` is no number.
        ValueError: if it is not above 0.
    """
    from scipy import special, stats

    checks.number("freedom", freedom, 0, above=True)
    critical = stats.t.ppf((1 + CONFIDENCE) / 2, freedom)
    return float(special.nctdtrinc(freedom, 1 - POWER, critical))


def _difference(
    first: np.ndarray, second: np.ndarray, error: float, freedom: float, interval: str
) -> Difference:
    """From the standard error of the difference of the means and its degrees of freedom."""
    from scipy.stats import t  # takes longer to import than all else here

    largest = max(float(np.abs(first).max()), float(np.abs(second).max()))
    if error <= NO_SPREAD * largest or freedom <= 0:
        return _without_interval(first, second, ALL_EQUAL)
    mean = float(first.mean()) - float(second.mean())
    return Difference(
        *(float(first.mean()), float(second.mean())),
        *_ends(mean, error, freedom, CONFIDENCE),
        *_ends(mean, error, freedom, 2 * CONFIDENCE - 1),
        p_value=float(2 * t.sf(abs(mean) / error, freedom)),
        detectable=noncentrality(freedom) * error,
        num_first=len(first),
        num_second=len(second),
        interval=interval,
    )


def _without_interval(first: np.ndarray, second: np.ndarray, why: str) -> Difference:
    means = (mean_or_nan(first.tolist()), mean_or_nan(second.tolist()))
    unknown = (nan, nan, nan, nan, nan, nan)
    return Difference(*means, *unknown, len(first), len(second), why)


def _ends(mean: float, error: float, freedom: float, confidence: float) -> tuple[float, float]:
    from scipy.stats import t

    half = float(t.ppf((1 + confidence) / 2, freedom)) * error
    return mean - half, mean + half


def _check(name: str, values: np.ndarray) -> None:
    checks.instance(name, values, np.ndarray, "an array (S,)")
    checks.shape(name, values, None)
    checks.finite(name, values)
