"""The feed-forward of a block: dense, or a mixture of experts.

A dense one comes in two kinds. That with SwiGLU is the twin of the mixture: the same layer, as wide as all experts that a
token passes, and nothing that chooses. That with GELU differs in its activation too.

Shape legend: D = model width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from lzero.config import ModelConfig
from lzero.nn.moe import MoELayer, SwiGLU


class DenseMLP(nn.Module):
    """A GELU between two linear maps; it takes ``task_id`` like a mixture of experts."""

    def __init__(self, embed_dim: int, hidden: int) -> None:
        super().__init__()
        self.w_in = nn.Linear(embed_dim, hidden)
        self.w_out = nn.Linear(hidden, embed_dim)

    def forward(self, x: Tensor, task_id: Tensor) -> tuple[Tensor, None]:
        """``(…, D)`` to ``(…, D)``; there is nothing to balance."""
        return self.w_out(self.activations(x)), None

    def work_of_token(self) -> int:
        """Multiplications for one token."""
        return self.w_in.weight.numel() + self.w_out.weight.numel()

    def activations(self, x: Tensor) -> Tensor:
        """Hidden units ``(…, hidden)`` after the GELU."""
        return F.gelu(self.w_in(x), approximate="tanh")


class DenseSwiGLU(nn.Module):
    """One expert that every token passes; it takes ``task_id`` like a mixture of experts.

    SwiGLUs add up: with the weights of a shared and a chosen expert side by side it is their sum.
    """

    def __init__(self, embed_dim: int, hidden: int) -> None:
        super().__init__()
        self.expert = SwiGLU(embed_dim, hidden)

    def forward(self, x: Tensor, task_id: Tensor) -> tuple[Tensor, None]:
        """``(…, D)`` to ``(…, D)``; there is nothing to balance."""
        return self.expert(x), None

    def work_of_token(self) -> int:
        """Multiplications for one token."""
        return self.expert.w_in.numel() + self.expert.w_out.numel()

    def activations(self, x: Tensor) -> Tensor:
        """Hidden units ``(…, hidden)`` after gating."""
        return self.expert.activations(x)


FeedForward = MoELayer | DenseMLP | DenseSwiGLU


def feed_forward(config: ModelConfig, num_tasks: int) -> FeedForward:
    """The feed-forward of a block, as ``config`` says."""
    dim = config.embed_dim
    if config.moe.enabled:
        return MoELayer(config.moe, dim, num_tasks)
    if config.mlp_kind == "gelu":
        return DenseMLP(dim, round(config.mlp_ratio * dim))
    # Three matrices in place of two: with 2/3 of the width they have the same parameters. The width is a multiple of 16
    # because an expert's is one of 8: at the default ratios it is that of two experts, exactly.
    return DenseSwiGLU(dim, max(16, round(config.mlp_ratio * 2 / 3 * dim / 16) * 16))
