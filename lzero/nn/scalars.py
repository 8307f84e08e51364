"""Scalars as categorical distributions: value transform, its inverse, and two-hot targets.

Everything here runs in fp32, whatever autocast is active: a bf16 bin position would be off by half a bin.
"""

# S = support bins

from dataclasses import dataclass

import torch
from torch import Tensor

from lzero import checks

EPSILON = 0.001  # weight of the linear term; keeps h invertible with a bounded slope of the inverse


def _single(name: str, x: Tensor) -> Tensor:
    """``x`` in fp32; TypeError if it is no tensor of real numbers."""
    checks.instance(name, x, Tensor, "a tensor")
    if x.is_complex():
        raise TypeError(f"{name} is {x.dtype}: allowed are real numbers")
    return x.float()


def scalar_transform(x: Tensor) -> Tensor:
    """Compress scalars with ``h(x) = sign(x)(√(|x|+1) − 1) + 0.001x``.

    Args:
        x: any shape, any real dtype.

    Returns:
        fp32 tensor of the same shape.

    Raises:
        TypeError: if it is no tensor of real numbers.

    Source: arXiv 1805.11593, used by MuZero (arXiv 1911.08265).
    """
    x = _single("x", x)
    magnitude = x.abs()
    # |x|/(√(|x|+1)+1) is √(|x|+1) − 1 without the cancellation near 0
    return x / ((magnitude + 1).sqrt() + 1) + EPSILON * x


def inverse_scalar_transform(y: Tensor) -> Tensor:
    """Exact inverse of :func:`scalar_transform`.

    With ``u = √(|x|+1) − 1`` the transform reads ``0.001u² + 1.002u = |y|``. Its positive root is written as a
    quotient of positive terms, so that fp32 loses no digits at either end.

    Args:
        y: any shape, any real dtype.

    Returns:
        fp32 tensor of the same shape.

    Raises:
        TypeError: if it is no tensor of real numbers.
    """
    y = _single("y", y)
    magnitude = y.abs()
    slope = 1 + 2 * EPSILON
    u = 2 * magnitude / (slope + (slope**2 + 4 * EPSILON * magnitude).sqrt())
    return y.sign() * u * (u + 2)


@dataclass(frozen=True)
class ScalarSupport:
    """Evenly spaced bins over the transformed scalar.

    Attributes:
        num_bins: S, number of bins.
        low: transformed scalar of the first bin.
        high: transformed scalar of the last bin.
        label_smoothing: share of a target's mass that is spread evenly over all bins, in [0, 1).

    Raises:
        ValueError: if there are fewer than 2 bins, ``low >= high``, one of them is not finite, or
            ``label_smoothing`` is out of range.
    """

    num_bins: int = 101
    low: float = -50.0
    high: float = 50.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        checks.count("num_bins", self.num_bins, 2)
        checks.number("low", self.low)
        checks.number("high", self.high)
        if not self.low < self.high:
            raise ValueError(f"low={self.low}, high={self.high}: low must be less than high")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(
                f"label_smoothing={self.label_smoothing}: allowed is 0 <= label_smoothing < 1"
            )

    def saturates(self, x: Tensor) -> Tensor:
        """Which raw scalars lie in the outermost bin or beyond, bool of the same shape: what bootstraps from a value at
        the limit is discounted, so its return stops a little below.
        """
        bin_width = (self.high - self.low) / (self.num_bins - 1)
        transformed = scalar_transform(x)
        return (transformed > self.high - bin_width) | (transformed < self.low + bin_width)

    @property
    def largest(self) -> float:
        """The largest raw scalar that a prediction can stand for."""
        return inverse_scalar_transform(torch.tensor(self.high)).item()

    def two_hot(self, x: Tensor) -> Tensor:
        """Target distribution of raw scalars; scalars beyond the support fall on its outermost bin.

        Args:
            x: ``(…,)`` raw (untransformed) scalars.

        Returns:
            ``(…, S)`` fp32, non-negative, summing to one.

        Raises:
            TypeError: if it is no tensor.
        """
        neighbours, weights = self._neighbours(x)
        hot = torch.zeros(*x.shape, self.num_bins, device=x.device).scatter_(
            -1, neighbours, weights
        )
        return hot * (1 - self.label_smoothing) + self.label_smoothing / self.num_bins

    def expectation(self, logits: Tensor) -> Tensor:
        """Raw scalar that a categorical prediction stands for.

        Args:
            logits: ``(…, S)``, any float dtype.

        Returns:
            ``(…,)`` fp32: inverse transform of the mean bin value.

        Raises:
            ValueError: if there are other bins.
        """
        self._check_bins(logits)
        bins = torch.linspace(self.low, self.high, self.num_bins, device=logits.device)
        # a product and a sum, not a matmul: autocast would run the matmul in bf16
        return inverse_scalar_transform((logits.float().softmax(dim=-1) * bins).sum(dim=-1))

    def cross_entropy(self, logits: Tensor, x: Tensor) -> Tensor:
        """Cross entropy between :meth:`two_hot` of ``x`` and the prediction, without building the target.

        Args:
            logits: ``(…, S)``, any float dtype.
            x: ``(…,)`` raw (untransformed) scalars.

        Returns:
            ``(…,)`` fp32, in nats.

        Raises:
            ValueError: if there are other bins, or there is not one scalar for each prediction.
        """
        self._check_bins(logits)
        checks.shape("x", x, *logits.shape[:-1])
        log_probabilities = logits.float().log_softmax(dim=-1)
        neighbours, weights = self._neighbours(x)
        log_likelihood = (log_probabilities.gather(-1, neighbours) * weights).sum(dim=-1)
        if self.label_smoothing > 0.0:
            log_likelihood = torch.lerp(
                log_likelihood, log_probabilities.mean(dim=-1), self.label_smoothing
            )
        return -log_likelihood

    def _check_bins(self, logits: Tensor) -> None:
        if logits.shape[-1:] != (self.num_bins,):
            raise ValueError(
                f"logits has shape {tuple(logits.shape)}: allowed is (…, {self.num_bins}), a number per bin"
            )

    def _neighbours(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Indices ``(…, 2)`` int64 of the two bins around each scalar and their weights ``(…, 2)`` fp32."""
        bin_width = (self.high - self.low) / (self.num_bins - 1)
        position = (scalar_transform(x).clamp(self.low, self.high) - self.low) / bin_width
        # clamped after the cast, so that a NaN target gives a NaN loss instead of an index out of range
        lower = position.floor().long().clamp(0, self.num_bins - 2)
        upper_weight = position - lower
        return torch.stack((lower, lower + 1), dim=-1), torch.stack(
            (1 - upper_weight, upper_weight), dim=-1
        )
