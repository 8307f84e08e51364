"""SoftMoE: experts see slots, each a weighted mean of a sample's tokens, and tokens see weighted means of the slots.

    dispatch = softmax over tokens of x Φ       slots = dispatchᵀ x
    combine  = softmax over slots of x Φ        y = combine expert(slots)

Everything is differentiable and no token is dropped. A sample with a single token fills all slots with it: what is left is a
soft mixture of the experts. Source: Puigcerver et al., "From Sparse to Soft Mixtures of Experts" (arXiv 2308.00951).

Shape legend: R = samples, N = tokens of a sample, D = width of a token, E = experts, S = slots of an expert, O = outputs.
A suffix names a tensor's shape.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lzero import checks

SHORTEST = 1e-12  # length of a token that has a direction, as in ``torch.nn.functional.normalize``


@dataclass(frozen=True)
class SlotWeights:
    """How a sample's tokens and slots see each other.

    Attributes:
        dispatch: tokens in slots ``(R, N, E, S)``; adds up to 1 over tokens.
        combine: slots in tokens ``(R, N, E, S)``; adds up to 1 over slots.
        log_experts: logarithm of the weight of all slots of an expert in a token ``(R, N, E)``.
    """

    dispatch: Tensor
    combine: Tensor
    log_experts: Tensor

    def fill(self, x_RND: Tensor) -> Tensor:
        """What the experts see, ``(E, R·S, D)``."""
        slots_ERSD = torch.einsum("rnes,rnd->ersd", self.dispatch.to(x_RND.dtype), x_RND)
        return slots_ERSD.flatten(1, 2)

    def mix_by_expert(self, y_ERO: Tensor) -> Tensor:
        """The experts' terms ``(R, N, E, O)`` of what tokens see of their outputs ``(E, R·S, O)``."""
        y_ERSO = y_ERO.unflatten(1, (-1, self.combine.shape[-1]))
        return torch.einsum("rnes,erso->rneo", self.combine.to(y_ERO.dtype), y_ERSO)

    def mix(self, y_ERO: Tensor) -> Tensor:
        """What tokens see of the experts' outputs ``(E, R·S, O)``: ``(R, N, O)``."""
        y_ERSO = y_ERO.unflatten(1, (-1, self.combine.shape[-1]))
        return torch.einsum("rnes,erso->rno", self.combine.to(y_ERO.dtype), y_ERSO)


class SlotRouter(nn.Module):
    """Scores tokens against slots, in fp32.

    Tokens and slots are brought to length 1 and their product is scaled by a learned number, as in the paper's section 2.3:
    otherwise wide tokens would make the softmax one-hot.

    Args:
        width: D of what the router sees.
        num_experts: E.
        slots: S.

    Raises:
        ValueError: if a number is below 1.
    """

    matrices = ("slots",)

    def __init__(self, width: int, num_experts: int, slots: int) -> None:
        super().__init__()
        checks.count("width", width)
        checks.count("num_experts", num_experts)
        checks.count("slots", slots)
        self.slots = nn.Parameter(torch.empty(width, num_experts, slots).normal_(std=width**-0.5))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x_RND: Tensor) -> SlotWeights:
        """Weights for tokens ``(R, N, D)``; a token of zeros scores 0 everywhere."""
        dtype = torch.promote_types(x_RND.dtype, torch.float32)
        with torch.autocast(x_RND.device.type, enabled=False):
            x_RND = x_RND.to(dtype)
            slots_DES = self.scale * F.normalize(self.slots.to(dtype), dim=0)
            # the product of what is brought to length 1, without a copy of the tokens
            length_RN = torch.linalg.vector_norm(x_RND, dim=-1).clamp_min(SHORTEST)
            logits_RNES = torch.einsum("rnd,des->rnes", x_RND, slots_DES)
            logits_RNES = logits_RNES / length_RN[:, :, None, None]
            log_combine = logits_RNES.flatten(2).log_softmax(dim=-1).view_as(logits_RNES)
            return SlotWeights(
                dispatch=logits_RNES.softmax(dim=1),
                combine=log_combine.exp(),
                log_experts=log_combine.logsumexp(dim=-1),
            )
