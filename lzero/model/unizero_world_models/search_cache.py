"""Keys and values of a tree search, in slots instead of hashes.

Shape legend: N = roots, M = simulations, C = context steps, W = 2C attention window, R = register tokens,
S = R + 2C − 1 + 2M slots, H = heads, K = head width.

Slots 0 … R−1 hold the register tokens, the next 2C−1 the root context: the last C−1 (latent, action) pairs and the
current latent, right-aligned. Simulation i owns the two slots after those: its action token and its latent token. A node
remembers the slots of the last W tokens on its path, so a step writes one slot and reads one gathered window.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lzero.model.unizero_world_models.attention import windowed_causal_mask
from lzero.model.unizero_world_models.heads import TaskGroups
from lzero.model.unizero_world_models.transformer import Transformer

EMPTY = -1


@dataclass(frozen=True)
class TokenSite:
    """Where one new token per root goes and what it sees; the keyword arguments of :meth:`Transformer.step`."""

    position: Tensor
    slot: int
    window: Tensor
    mask: Tensor


@dataclass
class SearchCache:
    """State of one search over N roots.

    Attributes:
        slabs: per layer keys and values ``(N, S, 2, H, K)``.
        window: slots that each node's latent token sees, ``(N, M+1, R+W)``, ``EMPTY`` where there is none.
        position: rotary position of each node's latent token ``(N, M+1)``.
        groups: tasks of the N roots.
        num_nodes: nodes so far, the root included.
    """

    slabs: list[Tensor]
    window: Tensor
    position: Tensor
    groups: TaskGroups
    num_registers: int
    num_root_tokens: int
    num_nodes: int = 1

    @classmethod
    def create(
        cls, transformer: Transformer, dtype: torch.dtype, num_valid: Tensor, groups: TaskGroups, num_simulations: int
    ) -> "SearchCache":
        """Empty slabs for N roots with ``num_valid (N,)`` real pairs of history each.

        Raises:
            ValueError: if the search needs more positions than the model has.
        """
        registers, window = transformer.num_registers, transformer.window
        num_roots, device = len(num_valid), num_valid.device
        root_tokens = registers + window - 1
        slots = root_tokens + 2 * num_simulations
        if slots > len(transformer.rotation):
            raise ValueError(
                f"search.num_simulations={num_simulations} needs {slots} token positions, the model has "
                f"{len(transformer.rotation)}; use at most {(len(transformer.rotation) - root_tokens) // 2}"
            )
        attention = transformer.blocks[0].attention
        head_width = attention.out.in_features // attention.num_heads
        shape = (num_roots, slots, 2, attention.num_heads, head_width)
        slabs = [torch.empty(shape, dtype=dtype, device=device) for _ in transformer.blocks]
        cache = cls(
            slabs=slabs,
            window=torch.empty(num_roots, num_simulations + 1, registers + window, dtype=torch.int64, device=device),
            position=torch.empty(num_roots, num_simulations + 1, dtype=torch.int64, device=device),
            groups=groups,
            num_registers=registers,
            num_root_tokens=root_tokens,
        )
        slot = torch.arange(root_tokens, device=device)
        cache.window[:, 0, :registers] = slot[:registers]
        cache.window[:, 0, registers] = EMPTY  # the root's context is one token shorter than the window
        cache.window[:, 0, registers + 1 :] = torch.where(cache.root_valid(num_valid), slot, EMPTY)[:, registers:]
        cache.position[:, 0] = registers + 2 * num_valid
        return cache

    def root_valid(self, num_valid: Tensor) -> Tensor:
        """Which root tokens are real: ``(N, R+2C−1)``; the unused history lies between registers and context."""
        slot = torch.arange(self.num_root_tokens, device=num_valid.device)
        first = self.num_root_tokens - 1 - 2 * num_valid[:, None]
        return (slot < self.num_registers) | (slot >= first)

    def root_positions(self, num_valid: Tensor) -> Tensor:
        """Rotary positions of the root tokens ``(N, R+2C−1)``: real tokens count from 0 without gaps."""
        slot = torch.arange(self.num_root_tokens, device=num_valid.device)
        missing = self.num_root_tokens - self.num_registers - 1 - 2 * num_valid[:, None]
        return torch.where(slot < self.num_registers, slot, (slot - missing).clamp_min(0))

    def root_mask(self, num_valid: Tensor) -> Tensor:
        """Attention mask of the root tokens ``(N, 1, L, L)``.

        Unused tokens see themselves alone: a row that sees nothing would turn into NaN.
        """
        length = self.num_root_tokens
        causal = windowed_causal_mask(length, length, self.num_registers, device=num_valid.device)
        diagonal = torch.eye(length, dtype=torch.bool, device=num_valid.device)
        return ((causal & self.root_valid(num_valid)[:, None]) | diagonal)[:, None]

    def add_node(self, parent: Tensor) -> tuple[TokenSite, TokenSite]:
        """Give every root one more node below ``parent (N,)``; where its action token and its latent token go."""
        num_roots, num_columns, width = self.window.shape
        node = torch.arange(num_roots, device=parent.device) * num_columns + parent
        seen_by_parent = self.window.view(-1, width).index_select(0, node)
        position = self.position.view(-1).index_select(0, node)
        slot = self.num_root_tokens + 2 * (self.num_nodes - 1)
        seen_by_action = self._slide(seen_by_parent, slot)
        seen_by_latent = self._slide(seen_by_action, slot + 1)
        self.window[:, self.num_nodes] = seen_by_latent
        self.position[:, self.num_nodes] = position + 2
        self.num_nodes += 1
        return self._site(position + 1, slot, seen_by_action), self._site(position + 2, slot + 1, seen_by_latent)

    def _slide(self, seen: Tensor, slot: int) -> Tensor:
        new = seen.new_full((len(seen), 1), slot)
        return torch.cat([seen[:, : self.num_registers], seen[:, self.num_registers + 1 :], new], dim=1)

    def _site(self, position: Tensor, slot: int, seen: Tensor) -> TokenSite:
        num_roots, num_slots = self.slabs[0].shape[:2]
        rows = torch.arange(0, num_roots * num_slots, num_slots, device=seen.device)[:, None]
        # added to the scores as it is: a boolean mask would be converted again in every layer
        mask = self.slabs[0].new_zeros(seen.shape).masked_fill_(seen < 0, -torch.inf)
        return TokenSite(position, slot, (seen.clamp_min(0) + rows).view(-1), mask[:, None, None])
