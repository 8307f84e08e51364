"""In how many directions something varies: representations, and what a step of gradient descent can do to outputs.

Shape legend: R = rows, D = their width, B = observations.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lzero import checks


def effective_rank(rows: Tensor) -> Tensor:
    """Number of directions in which ``rows (R, D)`` vary: the exponential of the entropy of their
    singular values.

    Rows are centred first. Returns a scalar between 1 and min(R − 1, D), 0 where all rows are the
    same, NaN where one of them is not finite.

    Raises:
        ValueError: if there are no rows, or there is another number of axes.

    Source: Roy and Vetterli, "The effective rank" (EUSIPCO 2007).
    """
    if rows.ndim != 2 or not rows.numel():
        raise ValueError(
            f"rows has shape {tuple(rows.shape)}: allowed is (R, D), neither of them 0"
        )
    finite = rows.isfinite().all()
    rows = rows.float().where(finite, 0.0)  # LAPACK raises errors about NaN
    singular = torch.linalg.svdvals(rows - rows.mean(dim=0))
    share = singular / singular.sum().clamp_min(torch.finfo(singular.dtype).tiny)
    entropy = -torch.xlogy(share, share).sum()
    return torch.where(singular.sum() > 0, entropy.exp(), 0.0).where(finite, torch.nan)


def ntk_effective_rank(output: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Effective rank of the empirical neural tangent kernel, a scalar between 1 and B: in how many ways a step of gradient
    descent can move the outputs of B observations against each other.

    The kernel is J Jᵀ with the gradients of the outputs as rows of J; its effective rank is the exponential of the entropy of
    its eigenvalues, as shares of their sum. 0 where no output has a gradient, NaN where one is not finite.

    Args:
        output: a number for each observation ``(B,)``, with its graph, which is kept.
        parameters: with respect to which.

    Raises:
        ValueError: if there are no outputs, or no parameters.

    Source: SPHERE (arXiv 2605.04712), whose authors call it spectral plasticity; the entropy's exponential is that of Roy and
    Vetterli (2007).
    """
    checks.shape("output", output, None)
    if not len(output) or not parameters:
        raise ValueError(
            f"{len(output)} outputs and {len(parameters)} parameters: give some of both"
        )
    rows = []
    for one in output:
        gradients = torch.autograd.grad(one, parameters, retain_graph=True, allow_unused=True)
        parts = []
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parts.append(torch.zeros_like(parameter) if gradient is None else gradient)
        rows.append(torch.cat([part.flatten().float() for part in parts]))
    jacobian = torch.stack(rows)
    finite = jacobian.isfinite().all()
    kernel = jacobian.where(finite, 0.0).double()
    eigenvalues = torch.linalg.eigvalsh(kernel @ kernel.T).clamp_min(0.0)
    total = eigenvalues.sum()
    share = eigenvalues / total.clamp_min(torch.finfo(total.dtype).tiny)
    entropy = -torch.xlogy(share, share).sum()
    return torch.where(total > 0, entropy.exp(), 0.0).where(finite, torch.nan)
