"""Signs of a healthy world model: latents that use their dimensions, a target network that keeps up.

Shape legend: B = windows, S = H + 1 steps, D = latent width, T = tasks of the run.
"""

import torch
from torch import Tensor, nn


def effective_rank(rows: Tensor) -> Tensor:
    """Number of directions in which ``rows (R, D)`` vary: the exponential of the entropy of their singular values.

    Rows are centred first. Returns a scalar between 1 and min(R − 1, D), or 0 where all rows are the same.

    Source: Roy and Vetterli, "The effective rank" (EUSIPCO 2007).
    """
    singular = torch.linalg.svdvals((rows - rows.mean(dim=0)).float())
    share = singular / singular.sum().clamp_min(torch.finfo(singular.dtype).tiny)
    entropy = -torch.xlogy(share, share).sum()
    return torch.where(singular.sum() > 0, entropy.exp(), torch.zeros_like(entropy))


@torch.no_grad()
def parameter_lag(online: nn.Module, target: nn.Module) -> Tensor:
    """How far the target network is behind: ‖θ − θ'‖ / ‖θ‖, a scalar."""
    mine, theirs = list(online.parameters()), list(target.parameters())
    distance = torch.stack(torch._foreach_norm(torch._foreach_sub(mine, theirs))).norm()
    return distance / torch.stack(torch._foreach_norm(mine)).norm()
