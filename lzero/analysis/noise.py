"""What noise does to the conflict of gradients, told from two halves of every task's rows.

A gradient is taken from some rows and differs from that of all rows by noise. Scalar products between
tasks are right on average, but squared norms are too large by the noise, so every cosine is too small.
Two gradients a and b of one task from different rows share the signal and not the noise: ⟨a, b⟩ is its
squared norm, right on average (Spearman's correction for attenuation, 1904).

Shape legend: S = components, K = measurements, T = tasks, P = patterns of signs, Q = pairs of tasks.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from lzero import checks

MOST_PATTERNS = (
    512  # all of ten tasks; of more tasks that many are drawn: their mean is right to about 1 %
)


@dataclass(frozen=True)
class HalfProducts:
    """Scalar products of gradients, and what two halves of the rows tell of their noise; float64.

    Attributes:
        gram: of the tasks' whole gradients ``(S, T, T)``.
        signal: of the two halves' gradients with each other ``(S, T)``: the squared norm without noise, on average.
            NaN where a half has no rows.
        half_norms: of the halves' gradients ``(S, T, 2)``; NaN likewise.
        noise: of the differences between the halves' gradients ``(S, T, T)``: noise alone, of the same shape as that
            of the whole gradients but larger; NaN likewise.
    """

    gram: Tensor
    signal: Tensor
    half_norms: Tensor
    noise: Tensor

    @classmethod
    def of(cls, grams: Tensor, sizes: Tensor) -> "HalfProducts":
        """From scalar products of what the halves contribute to the tasks' gradients.

        Args:
            grams: ``(S, 2·T, 2·T)``; row 2t is what the first half of task t's rows adds to its gradient, row 2t + 1
                what the second half adds.
            sizes: number of rows of each half ``(T, 2)``.

        Raises:
            TypeError: if they are no tensors.
            ValueError: if shapes do not fit, or a number is negative.
        """
        checks.instance("grams", grams, Tensor, "a tensor (S, 2·T, 2·T)")
        checks.instance("sizes", sizes, Tensor, "a tensor (T, 2)")
        if sizes.ndim != 2 or sizes.shape[1] != 2 or len(sizes) == 0 or (sizes < 0).any():
            raise ValueError(
                f"sizes={checks.shown(sizes.tolist())}: give two numbers of rows, from 0 on, for each task"
            )
        num_tasks = len(sizes)
        checks.shape("grams", grams, None, 2 * num_tasks, 2 * num_tasks)
        grams = grams.detach().to("cpu", torch.float64)
        parts = grams.view(-1, num_tasks, 2, num_tasks, 2)
        share = sizes.to("cpu", torch.float64) / sizes.sum(dim=1, keepdim=True)
        # a half adds its share times its own gradient; a half without rows has none
        scale = torch.where(share > 0, 1 / share, torch.nan)
        own = parts.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)  # (S, T, 2, 2)
        own = own * scale[:, :, None] * scale[:, None]
        signs = scale * torch.tensor([1.0, -1.0], dtype=torch.float64)
        return cls(
            gram=parts.sum(dim=(2, 4)),
            signal=own[..., 0, 1],
            half_norms=own.diagonal(dim1=2, dim2=3).sqrt(),
            noise=torch.einsum("ti,stiuj,uj->stu", signs, parts, signs),
        )

    @classmethod
    def unsplit(cls, grams: Tensor) -> "HalfProducts":
        """From scalar products ``(S, T, T)`` of whole gradients: nothing is known of their noise."""
        grams = grams.detach().to("cpu", torch.float64)
        unknown = torch.full_like(grams, torch.nan)
        halves = unknown[..., :1].expand(-1, -1, 2)
        return cls(gram=grams, signal=unknown[..., 0], half_norms=halves, noise=unknown)

    def by_component(self) -> list["HalfProducts"]:
        """Each component's own, with S = 1."""
        parts = (self.gram, self.signal, self.half_norms, self.noise)
        return [HalfProducts(*own) for own in zip(*(part.split(1) for part in parts), strict=True)]


def sign_patterns(num_tasks: int) -> np.ndarray:
    """Signs ``(P, T)`` of ±1: all that differ in the products of pairs, or ``MOST_PATTERNS`` random ones."""
    if 2 ** (num_tasks - 1) <= MOST_PATTERNS:
        # both signs of all tasks together give the same products: the first one stays +1
        return np.array([(1, *rest) for rest in product((1, -1), repeat=num_tasks - 1)])
    return np.random.default_rng(0).choice((1, -1), (MOST_PATTERNS, num_tasks))


def expected_maximum(noise: np.ndarray, compared: np.ndarray) -> np.ndarray:
    """Maximum negative cosine to be expected of as many unrelated gradients as were compared ``(S,)``.

    The more pairs, and the fewer directions there are, the larger the greatest of their negative cosines is by chance.
    The noise of two tasks is unrelated whatever their gradients are, and points where rows make gradients
    point: its cosines, with random signs, are those of unrelated gradients.

    Args:
        noise: scalar products of the tasks' noise ``(S, K, T, T)``, of K measurements that are added up.
        compared: which pairs each of them compared ``(S, K, T, T)`` bool, above the diagonal.

    Returns:
        NaN where there is no pair, or the noise of one that was compared is not known.
    """
    first, second = np.triu_indices(noise.shape[-1], 1)
    is_pair: np.ndarray = compared[..., first, second]  # (S, K, Q)
    squares = noise.diagonal(axis1=2, axis2=3)  # (S, K, T)
    unknown: np.ndarray = is_pair & ~np.isfinite(noise[..., first, second])
    known = ~np.any(unknown, axis=(1, 2))
    signs = sign_patterns(noise.shape[-1])
    flips = (signs[:, first] * signs[:, second]).astype(np.float64)  # (P, Q)
    products = np.zeros((len(noise), *flips.shape))  # (S, P, Q)
    rng = np.random.default_rng(0)
    for measured in range(noise.shape[1]):
        own = np.where(is_pair[:, measured], noise[:, measured, first, second], 0.0)
        # the noise of one measurement is unrelated to that of the next: so are its signs
        products += own[:, None] * flips[rng.permutation(len(flips))]
    lengths = np.ones((len(noise), len(first)))
    for tasks in (first, second):
        lengths *= np.sqrt(np.where(is_pair, squares[..., tasks], 0.0).sum(axis=1))
    has_pair: np.ndarray = np.any(is_pair, axis=1)  # (S, Q)
    with np.errstate(invalid="ignore", divide="ignore"):
        negative = -products / lengths[:, None]
        largest = np.where(has_pair[:, None], negative, -np.inf).max(axis=2, initial=-np.inf)
        return np.where(np.any(has_pair, axis=1) & known, largest.mean(axis=1), np.nan)


def jackknife_interval(
    products: np.ndarray, first: np.ndarray, second: np.ndarray, confidence: float
) -> tuple[float, float]:
    """Interval of ``Σ products / √(Σ first · Σ second)`` over independent measurements.

    Args:
        products: scalar products of two tasks' gradients ``(K,)``.
        first: squared norm of one without noise ``(K,)``.
        second: of the other ``(K,)``.
        confidence: between 0 and 1.

    Returns:
        Its ends; NaN with fewer than two measurements, or where a squared norm without one of them is not positive.

    Source: Tukey's jackknife of a ratio (Miller, The jackknife — a review, 1974), with Student's t of K − 1.
    """
    from scipy.special import stdtrit  # takes half a second to load

    number = len(products)
    if number < 2:
        return np.nan, np.nan
    squares = (first.sum() - first) * (second.sum() - second)
    if (
        first.sum() <= 0
        or second.sum() <= 0
        or (first.sum() - first).min() <= 0
        or squares.min() <= 0
    ):
        return np.nan, np.nan
    without_one = (products.sum() - products) / np.sqrt(squares)
    whole = products.sum() / np.sqrt(first.sum() * second.sum())
    # the mean of the values without one is as far beside the whole's as the whole is beside the truth, over K − 1
    centre = number * whole - (number - 1) * without_one.mean()
    error = np.sqrt((number - 1) * ((without_one - without_one.mean()) ** 2).mean())
    reach = stdtrit(number - 1, (1 + confidence) / 2) * error
    return float(centre - reach), float(centre + reach)
