"""How far experts specialise in tasks, from counts of selections: information, effective numbers, stability, and what
chance alone would give.

Everything here is arithmetic on counts; it knows no model. Logarithms are natural.

Shape legend: T = tasks, E = experts, B = windows, N = permutations, Q = quantiles, ``…`` = any axes in front, such as
layers. A task without selections is left out, and has NaN where there is a number for each task.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from lzero import checks

QUANTILES = (0.05, 0.5, 0.95)
"""Of a null distribution: its middle, and the ends that a test of one side at 5 % looks at."""
# By how much equal tables may differ because their rows were added up in another order.
ROUNDING = 1e-12
# Cells of the largest array that permutations are counted with: 128 MiB.
CELLS_AT_ONCE = 2**24

Weights = Literal["tasks", "selections"]


def shannon_entropy(p: np.ndarray) -> np.ndarray:
    """Entropy in nats of distributions ``(…, E)``: ``(…)``, NaN for a row of NaN.

    scipy has it too, in a module that takes an eighth of what a run needs to start.
    """
    logarithm = np.log(p, out=np.zeros(p.shape), where=p > 0)  # 0 ln 0 is 0
    return 0.0 - (p * logarithm).sum(axis=-1)  # 0.0 of what is certain, not −0.0


@dataclass(frozen=True)
class MutualInformation:
    """Mutual information between task and expert in nats: what a selection tells of its task; all ``(…)``.

    Attributes:
        plug_in: of the observed shares; never below 0, and on average too large.
        bias: by how much, to second order; see :func:`mutual_information`.
        largest: what it can be at most: the smaller of the entropy of the tasks' weights and ln E.
    """

    plug_in: np.ndarray
    bias: np.ndarray
    largest: np.ndarray

    @property
    def corrected(self) -> np.ndarray:
        """Without the bias; may be below 0 where there is nothing to know."""
        return self.plug_in - self.bias

    @property
    def normalised(self) -> np.ndarray:
        """:attr:`plug_in` as a share of the largest value, 0 … 1; NaN with one expert, where there is nothing to choose."""
        return self._share(self.plug_in)

    @property
    def corrected_normalised(self) -> np.ndarray:
        """:attr:`corrected` as a share of the largest value; NaN as in :attr:`normalised`."""
        return self._share(self.corrected)

    def _share(self, information: np.ndarray) -> np.ndarray:
        nothing = np.full(self.largest.shape, np.nan)
        return np.divide(information, self.largest, out=nothing, where=self.largest > 0)


def mutual_information(
    counts: np.ndarray, *, weights: Weights = "tasks", draws: ArrayLike | None = None
) -> MutualInformation:
    """Mutual information between the task of a selection and the expert that was selected.

    With weights w and shares p of the tasks it is ``H(Σ_t w_t p_t) − Σ_t w_t H(p_t)``, the Jensen–Shannon divergence of
    T distributions. Weights of ``tasks`` are equal: the number is then one of the router, and does not change when a game
    gets a larger batch. Weights of ``selections`` are the tasks' shares of all selections, for the mixture of tasks that an
    update really saw.

    The plug-in value is too large, because the estimated shares differ between tasks even where the true ones do not. To
    second order in the deviations of p, with n_t independent draws of a task and K_t experts that it was seen to choose::

        bias = ½ Σ_t (w_t / n_t) (K_t − 1 − Σ_e r_te (1 − p_te))        r_te = w_t p_te / Σ_s w_s p_se

    which follows from E Δp² = p (1 − p) / n in both entropies. Where all tasks choose alike, with equal n, it is the
    correction of Miller and Madow, (T − 1)(E − 1) / 2N with N = Σ n_t. Tokens of one window are no independent draws: they
    see each other's content. Give the numbers of windows as ``draws`` then. That takes a window for a single draw, so the
    correction is rather too large; the mean of :func:`router_null` is free of such a choice.

    Args:
        counts: selections ``(…, T, E)``, from 0 on; they need not be whole.
        weights: ``tasks`` or ``selections``.
        draws: independent draws n, broadcast to ``(…, T)``; None takes every selection for one.

    Returns:
        ``(…)`` each; NaN where fewer than two tasks have selections.

    Raises:
        TypeError: if ``counts`` is no array.
        ValueError: if it has fewer than two axes, or a number is negative or not finite; for other weights; for draws that
            are not above 0 where a task has selections.

    Source: Miller, "Note on the bias of information estimates" (1955); the moments as in Paninski, "Estimation of entropy
    and mutual information" (2003), section 4.
    """
    counts = _checked_counts("counts", counts, 2)
    if weights not in ("tasks", "selections"):
        raise ValueError(f"weights={weights!r}: allowed are 'tasks' and 'selections'")
    total = counts.sum(axis=-1)  # (…, T)
    is_active = total > 0
    number = _draws_of(total, draws)
    w = is_active.astype(np.float64) if weights == "tasks" else total
    w = w / np.maximum(w.sum(axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    p = counts / np.where(is_active, total, 1.0)[..., None]
    joint = w[..., None] * p
    mixture = joint.sum(axis=-2)
    within = (w * shannon_entropy(p)).sum(axis=-1)
    plug_in = np.maximum(shannon_entropy(mixture) - within, 0.0)  # rounding may leave −1e−17

    r = joint / np.where(mixture > 0, mixture, 1.0)[..., None, :]
    excess = (p > 0).sum(axis=-1) - 1 - (r * (1 - p)).sum(axis=-1)
    bias = 0.5 * (w / number * np.where(is_active, excess, 0.0)).sum(axis=-1)

    largest = np.minimum(shannon_entropy(w), math.log(counts.shape[-1]))
    is_known = is_active.sum(axis=-1) > 1
    parts = (np.where(is_known, part, np.nan) for part in (plug_in, bias, largest))
    return MutualInformation(*parts)


def _draws_of(total: np.ndarray, draws: ArrayLike | None) -> np.ndarray:
    """Independent draws ``(…, T)`` of tasks with so many selections; 1 where there are none."""
    number = np.broadcast_to(total if draws is None else np.asarray(draws, np.float64), total.shape)
    wrong = (total > 0) & ~(number > 0)
    if wrong.any():
        raise ValueError(
            f"draws has {number[wrong][0]:g} for a task with selections: allowed are numbers above 0"
        )
    return np.where(total > 0, number, 1.0)


def effective_number(counts: np.ndarray) -> np.ndarray:
    """How many experts a task uses, as the exponential of the entropy of its selections ``(…)``: from 1, one alone, to E,
    all alike. In between it is how many that are used alike would have this entropy.

    Args:
        counts: selections of each expert ``(…, E)``, or their shares.

    Raises:
        TypeError, ValueError: as :func:`mutual_information`.

    Source: the number of order 1 of Hill, "Diversity and evenness" (1973).
    """
    return np.exp(shannon_entropy(_shares(_checked_counts("counts", counts, 1))))


def assignment_shift(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How far each task's selection moved between two moments: total variation ``(…, T)``, the share of its selections that
    go to other experts now.

    Args:
        before, after: selections ``(…, T, E)`` of one router: an expert has the same number in both.

    Raises:
        TypeError: if one is no array.
        ValueError: if the shapes differ, or a number is negative or not finite.
    """
    before = _checked_counts("before", before, 2)
    after = _checked_counts("after", after, 2)
    checks.shape("after", after, *before.shape)
    return np.abs(_shares(after) - _shares(before)).sum(axis=-1) / 2


@dataclass(frozen=True)
class ExpertMatch:
    """Experts of two runs, paired so that the tasks use them as alike as can be.

    Attributes:
        permutation: ``(E,)``, the second run's expert that stands for each of the first's.
        similarity: mean over tasks of the share of selections that then agree, 0 … 1: one minus the mean total variation.
    """

    permutation: np.ndarray
    similarity: float


def match_experts(first: np.ndarray, second: np.ndarray) -> ExpertMatch:
    """Pair the experts of two runs, which number them as it happens, by the Hungarian method.

    Experts e and f overlap by ``Σ_t min(p_te, q_tf) / T``. Over a pairing these add up to one minus the mean total variation
    of the tasks' selections, so no other pairing makes that smaller.

    Args:
        first, second: selections ``(T, E)`` of the same tasks by both runs; a task without any in one of them is left out.

    Raises:
        TypeError: if one is no array.
        ValueError: if the shapes differ, no task has selections in both, or a number is negative or not finite.
    """
    p, q = _common_shares(first, second)
    return _match(p, q)


def matching_null(
    first: np.ndarray, second: np.ndarray, *, permutations: int, rng: np.random.Generator
) -> "NullTest":
    """Whether two runs agree in *which* tasks share experts, by more than the best pairing finds anyway.

    The best of E! pairings makes any two assignments look alike. Chance here is the second run with its tasks named anew at
    random: its loads, the entropies of its tasks, and how many of them share an expert stay as they are; only which task is
    which is lost. If the two runs have nothing to do with each other task by task, every such naming is as likely as the
    real one, so the p-value is exact. Random assignments (of a Dirichlet distribution, say) would also count it as agreement
    that both routers use one expert for everything. Two tasks have one other naming, after which experts can be paired as
    well as before: nothing can be told of fewer than about four, whose p-value is 1/24 at best.

    Args:
        first, second: as of :func:`match_experts`.
        permutations: N random namings.
        rng: draws them.

    Raises:
        TypeError, ValueError: as :func:`match_experts`, and for less than one permutation.
    """
    checks.count("permutations", permutations)
    checks.generator("rng", rng)
    p, q = _common_shares(first, second)
    found = np.empty(permutations)
    for number in range(permutations):
        found[number] = _match(p, rng.permutation(q, axis=0)).similarity
    return NullTest.above(np.array(_match(p, q).similarity), found)


def _match(p: np.ndarray, q: np.ndarray) -> ExpertMatch:
    from scipy.optimize import linear_sum_assignment  # takes as long to import as all else here

    overlap = np.minimum(p[:, :, None], q[:, None, :]).mean(axis=0)
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    return ExpertMatch(columns, float(overlap[rows, columns].sum()))


def _common_shares(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares ``(T', E)`` of the tasks that have selections in both."""
    first, second = _checked_counts("first", first, 2), _checked_counts("second", second, 2)
    checks.shape("first", first, None, None)
    checks.shape("second", second, *first.shape)
    in_both = first.any(axis=1) & second.any(axis=1)
    if not in_both.any():
        raise ValueError("first and second have no task with selections in both: one is needed")
    return _shares(first[in_both]), _shares(second[in_both])


@dataclass(frozen=True)
class NullTest:
    """A number, what it would be by chance, and how rarely chance goes as far.

    Attributes:
        observed: ``(…)``.
        mean: of the null distribution ``(…)``.
        quantiles: of the null distribution ``(Q, …)``, at :data:`QUANTILES`.
        p_value: ``(1 + draws that go as far) / (1 + N)`` ``(…)``, so never 0. NaN where there is no number.
    """

    observed: np.ndarray
    mean: np.ndarray
    quantiles: np.ndarray
    p_value: np.ndarray

    @classmethod
    def above(cls, observed: np.ndarray, null: np.ndarray) -> "NullTest":
        """Test whether ``observed (…)`` is larger than the draws ``null (N, …)``."""
        return cls._of(observed, null, null >= observed - ROUNDING)

    @classmethod
    def below(cls, observed: np.ndarray, null: np.ndarray) -> "NullTest":
        """Test whether ``observed (…)`` is smaller than the draws ``null (N, …)``."""
        return cls._of(observed, null, null <= observed + ROUNDING)

    @classmethod
    def _of(cls, observed: np.ndarray, null: np.ndarray, goes_as_far: np.ndarray) -> "NullTest":
        p_value = (1 + goes_as_far.sum(axis=0)) / (1 + len(null))
        p_value = np.where(np.isnan(observed), np.nan, p_value)
        return cls(observed, null.mean(axis=0), np.quantile(null, QUANTILES, axis=0), p_value)


@dataclass(frozen=True)
class RouterNull:
    """Selections against a router that cannot know the task.

    Attributes:
        information: mutual information of task and expert ``(…)``, tested for being larger.
        entropy: of each task's selections ``(…, T)`` in nats, tested for being smaller.
    """

    information: NullTest
    entropy: NullTest


def router_null(
    counts: np.ndarray,
    task: np.ndarray,
    num_tasks: int,
    *,
    permutations: int,
    rng: np.random.Generator,
    weights: Weights = "tasks",
) -> RouterNull:
    """Compare the selections of windows with those of a router that cannot know which task a window is of.

    For such a router the tasks are labels without a meaning: permuted among the windows they are as likely as they are. A
    window keeps its selections whole, so tokens of one window may depend on each other as they like, which no formula for
    independent tokens (a χ² test, a corrected bias) allows for. Every task keeps its number of windows.

    Two things it does not say. Windows of one episode, or overlapping ones, are taken for independent: draw from a replay
    that is much larger than what is drawn. And to know the task is not to be told it: where games look different a router
    that sees nothing but pictures knows them too.

    Args:
        counts: selections ``(…, B, E)`` of the windows.
        task: of each window ``(B,)``, whole numbers.
        num_tasks: T.
        permutations: N.
        rng: draws them.
        weights: as of :func:`mutual_information`.

    Raises:
        TypeError: if something is no array of the kind that is asked for.
        ValueError: if shapes differ, a number is out of range, or there are fewer than two windows.
    """
    counts = _checked_counts("counts", counts, 2)
    checks.count("num_tasks", num_tasks)
    checks.count("permutations", permutations)
    checks.generator("rng", rng)
    task = checks.tasks("task", task, num_tasks)
    *front, windows, experts = counts.shape
    checks.shape("task", task, windows)
    if windows < 2:
        raise ValueError(f"counts has {windows} windows: allowed are two or more")
    flat_BX = np.moveaxis(counts, -2, 0).reshape(windows, -1)

    def tables(labels_NB: np.ndarray) -> np.ndarray:
        """Selections ``(N, …, T, E)`` under labels of the windows."""
        is_of_NTB = labels_NB[:, None, :] == np.arange(num_tasks)[:, None]
        found = is_of_NTB.astype(np.float64) @ flat_BX
        found = found.reshape(len(labels_NB), num_tasks, *front, experts)
        return np.moveaxis(found, 1, -2)

    at_once = max(1, CELLS_AT_ONCE // max(num_tasks * windows, num_tasks * flat_BX.shape[1]))
    information, entropies = [], []
    for start in range(0, permutations, at_once):
        number = min(at_once, permutations - start)
        permuted = tables(rng.permuted(np.tile(task, (number, 1)), axis=1))
        information.append(mutual_information(permuted, weights=weights).plug_in)
        entropies.append(shannon_entropy(_shares(permuted)))
    [table] = tables(task[None])
    observed = mutual_information(table, weights=weights).plug_in
    entropy = shannon_entropy(_shares(table))
    return RouterNull(
        NullTest.above(observed, np.concatenate(information)),
        NullTest.below(entropy, np.concatenate(entropies)),
    )


def _shares(counts: np.ndarray) -> np.ndarray:
    """Shares ``(…, E)`` of counts; NaN where nothing was counted."""
    total = counts.sum(axis=-1, keepdims=True)
    return np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)


def _checked_counts(name: str, counts: np.ndarray, least_axes: int) -> np.ndarray:
    """Counts in double precision."""
    checks.instance(name, counts, np.ndarray, "an array of counts (…, E)")
    if counts.ndim < least_axes or not counts.shape[-1]:
        axes = "(…, T, E)" if least_axes > 1 else "(…, E)"
        raise ValueError(f"{name} has shape {counts.shape}: allowed is {axes}, E from 1 on")
    checks.finite(name, counts)
    if counts.size and counts.min() < 0:
        raise ValueError(f"{name} has {counts.min():g}: allowed are counts from 0 on")
    return counts.astype(np.float64)
