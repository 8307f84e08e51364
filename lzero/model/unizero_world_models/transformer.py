"""The causal transformer over latent and action tokens.

Shape legend: B = sequences, L = tokens, N = roots, E = new tokens of a search step, S = slots of
the key/value slab, D = model width, W = attention window in tokens, R = register tokens.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, distributed, nn

from lzero.config import ModelConfig
from lzero.model.unizero_world_models.attention import SelfAttention, rotary_table, windowed_causal_mask
from lzero.model.unizero_world_models.balance import BalanceSums
from lzero.model.unizero_world_models.expert_statistics import ExpertSelection, WindowStatistics, reduce_selections
from lzero.model.unizero_world_models.moe import MoELayer


class DenseMLP(nn.Module):
    """The feed-forward that the mixture of experts is compared with; it takes ``task_id`` like its twin."""

    def __init__(self, embed_dim: int, hidden: int) -> None:
        super().__init__()
        self.w_in = nn.Linear(embed_dim, hidden)
        self.w_out = nn.Linear(hidden, embed_dim)

    def forward(self, x: Tensor, task_id: Tensor) -> tuple[Tensor, None]:
        """``(…, D)`` to ``(…, D)``; there is nothing to balance."""
        return self.w_out(self.activations(x)), None

    def activations(self, x: Tensor) -> Tensor:
        """Hidden units ``(…, hidden)`` after the GELU."""
        return F.gelu(self.w_in(x), approximate="tanh")


class Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: ModelConfig, num_tasks: int) -> None:
        super().__init__()
        dim = config.embed_dim
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, config.num_heads, config.dropout)
        self.feed_forward = (
            MoELayer(config.moe, dim, num_tasks) if config.moe.enabled else DenseMLP(dim, round(config.mlp_ratio * dim))
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, rotation: Tensor, mask: Tensor, task_id: Tensor, keys_values: Tensor | None = None
    ) -> tuple[Tensor, BalanceSums | None]:
        """``(B, L, D)`` with ``task_id (B, L)`` to the same shape and the feed-forward's sums of the balance loss."""
        x = x + self.dropout(self.attention(self.norm1(x), rotation, mask, keys_values))
        y, balance = self.feed_forward(self.norm2(x), task_id)
        return x + self.dropout(y), balance

    def step(self, x: Tensor, task_id: Tensor, **attention: Tensor) -> Tensor:
        """New tokens ``(E, D)`` with ``task_id (E,)``; see :meth:`SelfAttention.step`."""
        x = x + self.attention.step(self.norm1(x), **attention)
        return x + self.feed_forward(self.norm2(x), task_id)[0]


class Transformer(nn.Module):
    """Blocks with rotary positions and a causal mask of W tokens, and the final norm.

    Args:
        config: sizes and feed-forward.
        num_tasks: T.
        max_tokens: longest sequence, and highest position of a search plus one.
    """

    def __init__(self, config: ModelConfig, num_tasks: int, max_tokens: int) -> None:
        super().__init__()
        self.window = 2 * config.context_steps
        self.num_registers = config.num_register_tokens if config.task_embedding == "register" else 0
        self.blocks = nn.ModuleList(Block(config, num_tasks) for _ in range(config.num_layers))
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
            x, sums = block(x, rotation, mask, task_id, None if slabs is None else slabs[layer][:, :length])
            balance += [sums] if sums is not None else []
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
            x = block.step(x, task_id, rotation=rotation, slab=slab, slot=slot, window=window, mask=mask)
        return self.norm(x)

    def routed_layers(self) -> dict[int, MoELayer]:
        """Feed-forwards with routed experts by layer; empty where all blocks are dense or only have shared experts."""
        layers = {index: block.feed_forward for index, block in enumerate(self.blocks)}
        return {
            index: layer for index, layer in layers.items() if isinstance(layer, MoELayer) and layer.config.num_experts
        }

    def record_expert_selection(self, present: Tensor | None = None) -> None:
        """Record the update that ends in every layer; see :meth:`MoELayer.record_expert_selection`."""
        for layer in self.routed_layers().values():
            layer.record_expert_selection(present)

    def get_expert_selection_stats(self, task_id: int | None = None) -> dict[int, dict[int, dict[str, WindowStatistics]]]:
        """Selections that this rank recorded, ``{layer: {task: {window: {...}}}}``; waits for the device.

        A layer without routed experts has no entry.
        """
        return {index: layer.get_expert_selection_stats(task_id) for index, layer in self.routed_layers().items()}

    def reduce_expert_selection_stats(self, group: distributed.ProcessGroup | None = None) -> dict[int, ExpertSelection]:
        """Selections that all ranks recorded, by layer; collective, see :func:`reduce_selections`."""
        layers = self.routed_layers()
        reduced = reduce_selections([layer.expert_selection for layer in layers.values()], group)
        return dict(zip(layers, reduced, strict=True))

    def reset_expert_selection_stats(self) -> None:
        """Forget all selections."""
        for layer in self.routed_layers().values():
            layer.reset_expert_selection_stats()

    def expert_selection_state(self, group: distributed.ProcessGroup | None = None) -> dict[str, Tensor]:
        """Windows of all layers over all ranks for a checkpoint, ``layer{l}.{name}``; collective."""
        return {
            f"layer{index}.{name}": tensor
            for index, layer in self.routed_layers().items()
            for name, tensor in layer.expert_selection.reduced(group).state().items()
        }

    def load_expert_selection_state(self, state: Mapping[str, Tensor], *, is_main: bool = True) -> None:
        """Continue from :meth:`expert_selection_state`; ``is_main`` on the one rank that takes over the selections.

        Raises:
            ValueError: if ``state`` comes from other layers, windows, tasks or experts.
        """
        layers = self.routed_layers()
        saved = {name.partition(".")[0] for name in state}
        if saved != {f"layer{index}" for index in layers}:
            raise ValueError(
                f"the expert statistics are of {sorted(saved)}, this transformer routes in layers {list(layers)}; "
                "load them into a model of the same layers, or start without them"
            )
        for index, layer in layers.items():
            prefix = f"layer{index}."
            own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
            layer.expert_selection.load_state(own, is_main=is_main)
