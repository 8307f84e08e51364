"""Signs of a healthy world model: latents that use their dimensions, a target network that keeps up.

Shape legend: B = windows, S = H + 1 steps, D = latent width, T = tasks of the run.
"""

import torch
from torch import Tensor, nn


def effective_rank(rows: Tensor) -> Tensor:
    """Number of directions in which ``rows (R, D)`` vary: the exponential of the entropy of their singular values.

    Rows are centred first. Returns a scalar between 1 and min(R − 1, D), 0 where all rows are the same, NaN where one of
    them is not finite.

    Source: Roy and Vetterli, "The effective rank" (EUSIPCO 2007).
    """
    finite = rows.isfinite().all()
    rows = rows.float().where(finite, 0.0)  # LAPACK raises errors about NaN
    singular = torch.linalg.svdvals(rows - rows.mean(dim=0))
    share = singular / singular.sum().clamp_min(torch.finfo(singular.dtype).tiny)
    entropy = -torch.xlogy(share, share).sum()
    return torch.where(singular.sum() > 0, entropy.exp(), 0.0).where(finite, torch.nan)


@torch.no_grad()
def parameter_lag(online: nn.Module, target: nn.Module) -> Tensor:
    """How far the target network is behind: ‖θ − θ'‖ / ‖θ‖, a scalar."""
    mine, theirs = list(online.parameters()), list(target.parameters())
    distance = torch.stack(torch._foreach_norm(torch._foreach_sub(mine, theirs))).norm()
    return distance / torch.stack(torch._foreach_norm(mine)).norm()
