"""Experts switched off one at a time: what a network loses without them.

Shape legend: A = ablations, L = loss terms, B = windows, S = bootstrap resamples.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from lzero import checks
from lzero.analysis.expert_analysis import ROUTED, SHARED, expert_name
from lzero.nn.moe import MoELayer

LEVEL = 0.95  # of an interval


def parts_of(layer: MoELayer) -> dict[str, tuple[tuple[nn.Parameter, int | None], ...]]:
    """What can be switched off in a layer: ``expert_{e}``, ``routed_experts`` (all of them) and ``shared_expert`` (all, if
    there are several), as far as it has them.

    Returns:
        By name the output weights, each whole or with the number of a slice along its first axis.

    Raises:
        TypeError: if it is no layer of the world model.
    """
    checks.instance("layer", layer, MoELayer, "a MoELayer")
    parts: dict[str, tuple[tuple[nn.Parameter, int | None], ...]] = {}
    if layer.experts is not None:
        for expert in range(layer.config.num_experts):
            parts[expert_name(expert)] = ((layer.experts.w_out, expert),)
        parts[ROUTED] = ((layer.experts.w_out, None),)
    if layer.shared_experts:
        parts[SHARED] = tuple((expert.w_out, None) for expert in layer.shared_experts)
    return parts


@contextmanager
def switched_off(layer: MoELayer, part: str) -> Iterator[None]:
    """Let a part of a layer contribute nothing while the context is open.

    Its output weights are zero meanwhile (an expert has no biases), and afterwards are, bit for bit, what they were. The
    router does not know: it chooses as before, gates are not renormalised, and a token that is sent to a routed expert that
    is off gets what its other experts give it, the shared one and, with K > 1, those that were chosen beside it.

    Weights change in place, so tensors count it, and what has packed them (``nn.parameters.weights_version``) packs them
    anew. Autocast keeps the weights that it has cast: open the context outside of it.

    Args:
        layer: of the world model.
        part: a name of :func:`parts_of`.

    Raises:
        TypeError: if ``layer`` is none.
        ValueError: if it has no such part.
    """
    parts = parts_of(layer)
    if part not in parts:
        raise ValueError(f"part={part!r}: allowed are {', '.join(parts) or 'none'}")
    weights: list[Tensor] = []
    kept: list[Tensor] = []
    with torch.no_grad():
        for parameter, place in parts[part]:
            weights.append(parameter if place is None else parameter[place])
            kept.append(weights[-1].clone())
            weights[-1].zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(before)


def resampled_means(
    sums: np.ndarray, counts: np.ndarray, *, resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Means over windows, and the same of windows drawn with replacement.

    A window has a sum and a number of steps that count; the mean is the ratio of their totals, as in a loss. All means of
    one call are of the same draws, so differences and weighted sums of them can be taken resample by resample.

    Args:
        sums: ``(A, L, B)``.
        counts: steps in them ``(L, B)``.
        resamples: S.
        rng: draws the windows.

    Returns:
        ``(1 + S, A, L)``, the real ones first; NaN where no step counts.

    Raises:
        TypeError: if something has no shape, or ``rng`` draws nothing.
        ValueError: if shapes differ, or ``resamples`` is negative.
    """
    checks.shape("sums", sums, None, None, None)
    checks.shape("counts", counts, *sums.shape[1:])
    checks.count("resamples", resamples, 0)
    checks.generator("rng", rng)
    ablations, terms, windows = sums.shape
    times_SB = rng.multinomial(windows, np.full(windows, 1 / windows), size=resamples)
    times_SB = np.concatenate([np.ones((1, windows), times_SB.dtype), times_SB]).astype(np.float64)
    totals = (times_SB @ sums.reshape(-1, windows).T).reshape(-1, ablations, terms)
    numbers = (times_SB @ counts.T.astype(np.float64))[:, None]
    nothing = np.full(totals.shape, np.nan)
    return np.divide(totals, numbers, out=nothing, where=np.broadcast_to(numbers > 0, totals.shape))


def with_interval(means: np.ndarray) -> np.ndarray:
    """Value and both ends of the percentile interval ``(3, …)`` from :func:`resampled_means` ``(1 + S, …)``.

    A resample without a step that counts says nothing and is left out; NaN ends where none says anything.

    Raises:
        TypeError: if ``means`` is no array.
    """
    checks.instance("means", means, np.ndarray, "an array (1 + S, …)")
    ends = np.full((2, *means.shape[1:]), np.nan)
    is_known = ~np.isnan(means[1:]).all(axis=0)
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    if is_known.any():
        ends[:, is_known] = np.nanquantile(means[1:, is_known], tails, axis=0)
    return np.concatenate([means[:1], ends])
