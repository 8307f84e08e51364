"""How the gradients of several tasks become one update, through the package torchjd.

Shape legend: T = tasks.
"""

import torch
from torch import Tensor

from lzero import checks

INSTALL = 'pip install "torchjd[quadprog-projector,cagrad]"'


# Length, relative to the tasks' root mean square, below which cagrad takes a combined gradient for
# zero and stops. torchjd's own 1e-4 is reached where one task's gradient is 1e-4 of another's,
# conflict or not.
SHORTEST = 1e-8


KINDS = ("pcgrad", "cagrad", "upgrad")


class AggregationError(RuntimeError):
    """A way to combine gradients is not there."""


class Aggregator:
    """Weights of the tasks' gradients, from their Gram matrix alone.

    Args:
        kind: ``pcgrad`` (arXiv 2001.06782), ``cagrad`` (arXiv 2110.14048) or ``upgrad`` (arXiv
            2406.16232).
        cagrad_c: cagrad's c, how far the update may be from the mean gradient.

    Raises:
        AggregationError: if torchjd or what it needs is not installed.
        ValueError: if there is no such kind, or ``cagrad_c`` is negative or no number.
    """

    def __init__(self, kind: str, cagrad_c: float) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}: allowed are {', '.join(KINDS)}")
        checks.number("cagrad_c", cagrad_c, 0.0)
        try:
            from torchjd.aggregation import CAGradWeighting, PCGradWeighting, UPGradWeighting

            makers = {
                "pcgrad": PCGradWeighting,
                "cagrad": lambda: CAGradWeighting(c=cagrad_c, norm_eps=SHORTEST),
                "upgrad": UPGradWeighting,
            }
            self._weighting = makers[kind]()
        except ImportError as error:
            raise AggregationError(
                f"policy.gradient_aggregator={kind!r} needs the package torchjd ({error}): "
                f"{INSTALL}; or use "
                "policy.gradient_aggregator='mean'"
            ) from error
        # PCGrad adds the projected gradients up; divided by T it is the mean where nothing
        # conflicts, as upgrad is.
        self._adds_up = kind == "pcgrad"

    def weights(self, gram: Tensor) -> Tensor:
        """Weights ``(T,)`` of a Gram matrix ``(T, T)``; 0 for tasks without gradient. Waits for the
        device.

        Without conflict pcgrad and upgrad give every task with a gradient 1 / T, as the mean does.
        cagrad's step is longer,
        as in its paper: 1 + c times the mean where all gradients are the same.

        Raises:
            ValueError: if the matrix is not square.
        """
        checks.shape("gram", gram, len(gram), len(gram))
        host = gram.double().cpu()
        valid = (host.diagonal() > 0).nonzero()[:, 0]
        weights = torch.zeros(len(host), dtype=torch.float64)
        if len(valid):
            inner = host[valid][:, valid]
            # torchjd takes gradients shorter than a fixed length for zero: give it some of length
            # about one
            found = self._weighting(inner / inner.diagonal().mean())
            weights[valid] = (
                found / len(host) if self._adds_up else found * (len(valid) / len(host))
            )
        return weights.to(gram.device)
