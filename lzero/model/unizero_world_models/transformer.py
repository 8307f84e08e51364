"""The causal transformer over latent and action tokens.

Shape legend: B = sequences, L = tokens, N = roots, E = new tokens of a search step, S = slots of
the key/value slab, D = model width, W = attention window in tokens, R = register tokens.
"""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from lzero.config import ModelConfig
from lzero.nn.attention import rotary_table, windowed_causal_mask
from lzero.nn.balance import BalanceSums
from lzero.nn.block import Block
from lzero.nn.moe import MoELayer


class Transformer(nn.Module):
    """Blocks with rotary positions and a causal mask of W tokens, and the final norm.

    Args:
        config: sizes and feed-forward.
        num_tasks: T.
        max_tokens: longest sequence, and highest position of a search plus one.
    """

    rotation: Tensor

    def __init__(self, config: ModelConfig, num_tasks: int, max_tokens: int) -> None:
        super().__init__()
        self.window = 2 * config.context_steps
        self.num_registers = (
            config.num_register_tokens if config.task_embedding == "register" else 0
        )
        blocks = nn.ModuleList(Block(config, num_tasks) for _ in range(config.num_layers))
        self.blocks = cast("Sequence[Block]", blocks)  # a ModuleList forgets what it holds
        self.norm = nn.LayerNorm(config.embed_dim)
        head_width = config.embed_dim // config.num_heads
        self.register_buffer("rotation", rotary_table(max_tokens, head_width), persistent=False)

    def forward(
        self,
        x: Tensor,
        task_id: Tensor,
        *,
        position: Tensor | None = None,
        mask: Tensor | None = None,
        slabs: list[Tensor] | None = None,
    ) -> tuple[Tensor, BalanceSums | None]:
        """Run whole sequences.

        Args:
            x: tokens ``(B, L, D)``.
            task_id: ``(B, L)`` int64.
            position: ``(B, L)`` int64; None for 0 … L−1.
            mask: boolean ``(B, 1, L, L)``; None for the windowed causal mask.
            slabs: per layer ``(B, S, 2, H, K)`` whose first L slots receive keys and values.

        Returns:
            ``(B, L, D)`` and the sums of the balance loss for every layer, None where there is none.
        """
        length = x.shape[1]
        rotation = self.rotation[:length] if position is None else self.rotation[position]
        if mask is None:
            mask = windowed_causal_mask(length, self.window, self.num_registers, device=x.device)
        balance = []
        for layer, block in enumerate(self.blocks):
            x, sums = block(
                x, rotation, mask, task_id, None if slabs is None else slabs[layer][:, :length]
            )
            if sums is not None:
                balance.append(sums)
        return self.norm(x), BalanceSums.stack(balance) if balance else None

    def step(
        self,
        x: Tensor,
        task_id: Tensor,
        *,
        position: Tensor,
        slabs: list[Tensor],
        slot: Tensor,
        window: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Run new tokens against stored keys and values, each on its own path.

        Args:
            x: tokens ``(E, D)``.
            task_id: ``(E,)`` int64.
            position: ``(E,)`` int64.
            slabs: per layer ``(N, S, 2, H, K)``.
            slot: ``(E,)`` flat rows of ``(N·S)`` where each layer stores the new keys and values.
            window: ``(E·W',)`` flat rows of ``(N·S)`` that each token sees, itself included.
            mask: ``(E, 1, 1, W')`` in the slabs' dtype, 0 or −inf.

        Returns:
            ``(E, D)``.
        """
        rotation = self.rotation.index_select(0, position)[:, None, None]
        for block, slab in zip(self.blocks, slabs, strict=True):
            x = block.step(
                x, task_id, rotation=rotation, slab=slab, slot=slot, window=window, mask=mask
            )
        return self.norm(x)

    def routed_layers(self) -> dict[int, MoELayer]:
        """Feed-forwards with routed experts by layer; empty where all blocks are dense or only have shared experts."""
        layers = {}
        for index, block in enumerate(self.blocks):
            if isinstance(block.feed_forward, MoELayer) and block.feed_forward.config.num_experts:
                layers[index] = block.feed_forward
        return layers
