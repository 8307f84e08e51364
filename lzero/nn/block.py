"""A block of the transformer: attention, and a feed-forward that is dense or a mixture of experts.

Shape legend: B = sequences, L = tokens, E = new tokens of a search step, D = model width.
"""

from torch import Tensor, nn

from lzero.config import ModelConfig
from lzero.nn.attention import SelfAttention
from lzero.nn.balance import BalanceSums
from lzero.nn.feed_forward import feed_forward


class Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: ModelConfig, num_tasks: int) -> None:
        super().__init__()
        dim = config.embed_dim
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, config.num_heads, config.dropout)
        self.feed_forward = feed_forward(config, num_tasks)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotation: Tensor,
        mask: Tensor,
        task_id: Tensor,
        keys_values: Tensor | None = None,
    ) -> tuple[Tensor, BalanceSums | None]:
        """``(B, L, D)`` with ``task_id (B, L)`` to the same shape and the feed-forward's sums of the balance loss."""
        x = x + self.dropout(self.attention(self.norm1(x), rotation, mask, keys_values))
        y, balance = self.feed_forward(self.norm2(x), task_id)
        return x + self.dropout(y), balance

    def step(self, x: Tensor, task_id: Tensor, **attention: Tensor) -> Tensor:
        """New tokens ``(E, D)`` with ``task_id (E,)``; see :meth:`SelfAttention.step`."""
        x = x + self.attention.step(self.norm1(x), **attention)
        return x + self.feed_forward(self.norm2(x), task_id)[0]
