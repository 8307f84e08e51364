"""Conflict of tasks' gradients, from their scalar products alone.

Shape legend: T = tasks, K = measurements, S = sets of gradients, such as measuring points, each pooled on its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from lzero import checks
from lzero.analysis.noise import HalfProducts, expected_maximum, jackknife_interval


@dataclass(frozen=True, eq=False)
class GradientConflict:
    """Pairwise conflict of T task gradients. Tensors are on the CPU in float64.

    A task whose gradient is zero, absent or not finite is not valid. The conflict score of a pair
    is minus its cosine; scores run over all pairs of two valid tasks and are NaN where there is no
    such pair.

    Where two halves of every task's rows were given, their noise is known too (see
    :mod:`lzero.analysis.noise`). With half gradients a and b of task i and f their mean,
    ⟨f_i, f_j⟩ between two tasks is right on average, ‖f_i‖² is too large, and ⟨a_i, b_i⟩ is what it
    would be without noise. A single measurement may have a product that is not positive: pool
    several (:meth:`pooled`).

    Source: gradients conflict where their cosine is negative, magnitude similarity: PCGrad (arXiv
    2001.06782); correction for attenuation: Spearman (1904).

    Attributes:
        cosine_similarity_matrix: ``(T, T)``, −1 to 1; row and column i are task i, NaN where it is
            not valid.
        valid: ``(T,)`` bool.
        num_pairs: pairs of two valid tasks, which the scores run over.
        avg_conflict_score: mean over pairs, −1 to 1.
        max_conflict_score: the maximum negative cosine similarity: 1 where two gradients are
            opposite. It grows with the number of pairs: see ``max_conflict_null``.
        max_conflict_null: what it would be on average if the tasks' gradients were unrelated, with
            as many pairs and as many directions as the noise has; NaN without halves.
        min_conflict_score: of the pair that agrees best.
        conflict_rate: share of pairs whose cosine is negative.
        magnitude_similarity: ``(T, T)``, 2‖g_i‖‖g_j‖ / (‖g_i‖² + ‖g_j‖²), 0 to 1; NaN where a task
            is not valid.
        gradient_norms: ``(T,)`` Euclidean lengths; 0 for absent gradients, NaN or infinite for
            those not finite.
        coverage: share of tasks that are valid.
        reliability: ``(T,)`` ⟨a_i, b_i⟩ / (‖a_i‖‖b_i‖), −1 to 1: the cosine between the gradients of a
            task's two halves. That between two independent batches of full size is
            2ρ / (1 + ρ). NaN without halves, and where these have nothing in common: of flattened
            activations each half has places of its own.
        denoised_cosine: ``(T, T)`` ⟨f_i, f_j⟩ / √(⟨a_i, b_i⟩⟨a_j, b_j⟩): the cosine without noise. It
            is not clipped: the less reliable, the farther beyond ±1 it may lie. NaN where a product
            under the root is not positive or not known.
        undenoised: T reasons why a task's row of ``denoised_cosine`` is NaN; empty where it is not.
        products: what all this was computed from; of each of the measurements.
    """

    cosine_similarity_matrix: Tensor
    valid: Tensor
    num_pairs: int
    avg_conflict_score: float
    max_conflict_score: float
    max_conflict_null: float
    min_conflict_score: float
    conflict_rate: float
    magnitude_similarity: Tensor
    gradient_norms: Tensor
    coverage: float
    reliability: Tensor
    denoised_cosine: Tensor
    undenoised: tuple[str, ...]
    products: HalfProducts

    @classmethod
    def from_gram(cls, gram: Tensor) -> Self:
        """From the scalar products ``(T, T)`` of the gradients.

        Raises:
            TypeError: if ``gram`` is no tensor.
            ValueError: if it is not square or empty.
        """
        checks.instance("gram", gram, Tensor, "a tensor (T, T)")
        return cls.from_grams(gram[None])[0]

    @classmethod
    def from_grams(cls, grams: Tensor) -> list[Self]:
        """From the scalar products ``(S, T, T)`` of S components.

        Raises:
            TypeError: if ``grams`` is no tensor.
            ValueError: if the matrices are not square or empty.
        """
        checks.instance("grams", grams, Tensor, "a tensor (S, T, T)")
        if grams.dim() != 3 or grams.shape[1] != grams.shape[2] or grams.shape[1] == 0:
            raise ValueError(
                f"Gram matrix of shape {tuple(grams.shape[1:])}: give (T, T) with T >= 1"
            )
        return cls._of(HalfProducts.unsplit(grams), pool=False)

    @classmethod
    def from_half_grams(cls, grams: Tensor, sizes: Tensor) -> list[Self]:
        """From the scalar products of what two halves of the rows contribute to S components.

        Args:
            grams: ``(S, 2·T, 2·T)``; rows 2t and 2t + 1 are the halves of task t, which add up to its
                gradient.
            sizes: numbers of their rows ``(T, 2)``. A task with all its rows in one half has no
                reliability.

        Raises:
            TypeError: if they are no tensors.
            ValueError: if shapes do not fit, or a number is negative.
        """
        return cls._of(HalfProducts.of(grams, sizes), pool=False)

    @classmethod
    def from_measurements(cls, products: HalfProducts) -> Self:
        """From the scalar products of K measurements of one component, as :meth:`pooled`.

        Raises:
            TypeError: if they are none.
        """
        checks.instance("products", products, HalfProducts, "HalfProducts")
        return cls._of(products, pool=True)[0]

    @classmethod
    def pooled(cls, conflicts: Sequence[Self]) -> Self:
        """Several measurements of one component as one: scalar products and squared norms are added
        up before they are divided, those of a pair over the measurements in which both tasks are
        valid.

        A mean of cosines has the noise of every one of them; a ratio of sums has less with every
        measurement. Larger gradients weigh more. ``gradient_norms`` are root mean squares.

        Raises:
            TypeError: if they are no conflicts.
            ValueError: if there is none, or they are of other numbers of tasks.
        """
        checks.instance("conflicts", conflicts, Sequence, "a list of GradientConflict")
        for index, one in enumerate(conflicts):
            checks.instance(f"conflicts[{index}]", one, GradientConflict, "a GradientConflict")
        numbers = {len(one.valid) for one in conflicts}
        if len(numbers) != 1:
            raise ValueError(
                f"{len(conflicts)} conflicts of {sorted(numbers)} tasks: give one or more, all of "
                "the same tasks"
            )
        gathered = HalfProducts(
            gram=torch.cat([one.products.gram for one in conflicts]),
            signal=torch.cat([one.products.signal for one in conflicts]),
            half_norms=torch.cat([one.products.half_norms for one in conflicts]),
            noise=torch.cat([one.products.noise for one in conflicts]),
        )
        return cls.from_measurements(gathered)

    def denoised_cosine_interval(self, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
        """Interval of ``denoised_cosine`` over the measurements that were pooled, taken as independent.

        Args:
            confidence: of the interval, between 0 and 1.

        Returns:
            Lower and upper ends, both ``(T, T)``; NaN on the diagonal, with fewer than two
            measurements, and where the sum of products without one of them is not positive.

        Raises:
            TypeError: if ``confidence`` is no number.
            ValueError: if it is not between 0 and 1.
        """
        checks.number("confidence", confidence, 0.0, 1.0)
        gram, signal = self.products.gram.numpy(), self.products.signal.numpy()
        known = np.isfinite(signal) & np.isfinite(gram.diagonal(axis1=1, axis2=2))
        known &= gram.diagonal(axis1=1, axis2=2) > 0
        ends = torch.full((2, *gram.shape[1:]), torch.nan, dtype=torch.float64)
        for i, j in zip(*np.triu_indices(gram.shape[1], 1), strict=True):
            both = known[:, i] & known[:, j]
            found = jackknife_interval(
                *(gram[both, i, j], signal[both, i], signal[both, j]), confidence
            )
            ends[:, i, j] = ends[:, j, i] = torch.tensor(found, dtype=torch.float64)
        return ends[0], ends[1]

    @classmethod
    def _of(cls, products: HalfProducts, *, pool: bool) -> list[Self]:
        """The conflict of each component (S of them), or (``pool``) of K measurements of one."""
        axis = 0 if pool else 1
        gram, signal = products.gram.unsqueeze(axis), products.signal.unsqueeze(axis)  # (S, K, …)
        half_norms, noise = products.half_norms.unsqueeze(axis), products.noise.unsqueeze(axis)
        gram = (gram + gram.mT) / 2  # a matrix product need not be symmetric to the last digit
        squares = gram.diagonal(dim1=2, dim2=3)
        norms = squares.sqrt()
        measured = norms.isfinite() & (norms > 0)
        both = measured[..., :, None] & measured[..., None, :]
        product_sum, square_sum = _sums_of_pairs(gram, squares, both)
        lengths = square_sum.sqrt() * square_sum.mT.sqrt()
        cosine = (product_sum / lengths).clamp(-1, 1)
        cosine.diagonal(dim1=1, dim2=2).fill_(1)
        magnitude = 2 * lengths / (square_sum + square_sum.mT)
        valid, both_valid = measured.any(dim=1), both.any(dim=1)
        root_mean_square = (square_sum.diagonal(dim1=1, dim2=2) / measured.sum(dim=1)).sqrt()

        pair = both_valid.triu(1)
        pairs = pair.sum(dim=(1, 2))
        largest = -cosine.where(pair, torch.inf).amin(dim=(1, 2))
        smallest = -cosine.where(pair, -torch.inf).amax(dim=(1, 2))

        # halves that share no number, as of flattened activations, cannot tell signal from noise
        apart = measured & (signal == 0) & (half_norms > 0).all(dim=-1)
        split = measured & signal.isfinite() & ~apart
        split_pair = split[..., :, None] & split[..., None, :]
        clean_product, clean_square = _sums_of_pairs(gram, signal, split_pair)
        is_positive = (clean_square > 0) & (clean_square.mT > 0)
        denoised = clean_product / (clean_square.sqrt() * clean_square.mT.sqrt())
        denoised.diagonal(dim1=1, dim2=2).fill_(1)
        halves = half_norms.square().where(split[..., None], 0).sum(dim=1)
        clean = clean_square.diagonal(dim1=1, dim2=2)
        reliability = clean / halves.prod(dim=2).sqrt()
        null = expected_maximum(noise.numpy(), both.triu(1).numpy())
        reasons = []
        for of_component in zip(valid, split.any(dim=1), apart.any(dim=1), clean > 0, strict=True):
            reasons.append(_reasons(*of_component))
        parts = [products] if pool else products.by_component()

        of_fields = (  # in the order of the fields
            cosine.where(both_valid, torch.nan),
            valid,
            pairs.tolist(),
            (-cosine.where(pair, 0).sum(dim=(1, 2)) / pairs).tolist(),
            largest.where(pairs > 0, torch.nan).tolist(),
            null.tolist(),
            smallest.where(pairs > 0, torch.nan).tolist(),
            ((pair & (cosine < 0)).sum(dim=(1, 2)) / pairs).tolist(),
            magnitude.where(both_valid, torch.nan),
            root_mean_square.where(valid, norms[:, -1]),
            valid.double().mean(dim=1).tolist(),
            reliability,
            denoised.where(is_positive, torch.nan),
            reasons,
            parts,
        )
        return list(map(cls, *of_fields))


def _sums_of_pairs(gram: Tensor, squares: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
    """Scalar products, and the squared norms of i beside j, over the measurements that have both.

    Args:
        gram: ``(S, K, T, T)``.
        squares: ``(S, K, T)``.
        both: ``(S, K, T, T)`` bool.

    Returns:
        ``(S, T, T)`` each.
    """
    products = gram.where(both, 0).sum(dim=1)
    return products, squares[..., :, None].where(both, 0).sum(dim=1)


def _reasons(valid: Tensor, split: Tensor, apart: Tensor, is_positive: Tensor) -> tuple[str, ...]:
    """Why tasks have no de-noised cosine, from what they have; all ``(T,)`` bool."""
    found = []
    of_tasks = zip(valid, split, apart, is_positive, strict=True)
    for is_valid, is_split, is_apart, has_signal in of_tasks:
        reason = "" if has_signal else "the gradients of its two halves have no positive product"
        if is_apart and not is_split:
            reason = "the gradients of its two halves have nothing in common, as those of flattened activations"
        elif not is_split:
            reason = "its rows were not split into two halves"
        found.append(reason if is_valid else "it has no gradient")
    return tuple(found)


@dataclass(frozen=True)
class HalfGrams:
    """What an update measured of conflict; tensors stay on the device until somebody reads them.

    Attributes:
        by_point: scalar products ``(2·T, 2·T)`` of what the two halves of every task's rows contribute
            to its gradient, by measuring point; rows 2t and 2t + 1 are those of task t.
        sizes: number of rows of each half ``(T, 2)``.
    """

    by_point: Mapping[str, Tensor]
    sizes: Tensor

    def conflicts(self) -> dict[str, GradientConflict]:
        """By measuring point; waits for the device."""
        grams = torch.stack(list(self.by_point.values()))
        found = GradientConflict.from_half_grams(grams, self.sizes)
        return dict(zip(self.by_point, found, strict=True))
