"""Keys and values of a tree search, in slots instead of hashes.

Shape legend: N = roots, M = simulations, C = context steps, W = 2C attention window, J = history steps,
R = register tokens, S = R + 2J − 1 + 2M slots, H = heads, K = head width, D = model width, E = rows of a round.

Slots 0 … R−1 hold the register tokens, the next 2J−1 the root's history: the last J−1 (latent, action) pairs and the
current latent, right-aligned. Node i + 1 owns the two slots 2i and 2i + 1 after those: its action
token and its latent token. A node remembers the slots of the last W tokens on its path, so a step
writes one slot a row and reads one gathered window. Rows of a step may belong to one root: each
sees its own path, so they do not see each other.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lzero.model.unizero_world_models.transformer import Transformer
from lzero.nn.attention import mask_within, positions_within, windowed_causal_mask
from lzero.nn.tasks import TaskGroups

EMPTY = -1


@dataclass(frozen=True)
class TokenSite:
    """Where one new token a row goes and what it sees; arguments of :meth:`Transformer.step`."""

    position: Tensor
    slot: Tensor
    window: Tensor
    mask: Tensor


@dataclass
class SearchCache:
    """State of one search over N roots.

    Attributes:
        slabs: per layer keys and values ``(N, S, 2, H, K)``.
        window: slots that each node's latent token sees, ``(N, M+1, R+W)``, counted through all
            roots: slot s of root n is n·S + s; ``EMPTY`` where there is none.
        position: rotary position of each node's latent token ``(N, M+1)``.
        groups: tasks of the N roots.
        latent: of every node ``(N·(M+1), D)``, where the next one is predicted as a change of it; else None.
    """

    slabs: list[Tensor]
    window: Tensor
    position: Tensor
    groups: TaskGroups
    num_registers: int
    num_root_tokens: int
    latent: Tensor | None = None

    @classmethod
    def create(
        cls,
        transformer: Transformer,
        dtype: torch.dtype,
        history_steps: int,
        num_valid: Tensor,
        groups: TaskGroups,
        num_simulations: int,
    ) -> "SearchCache":
        """Empty slabs for N roots with J ``history_steps``, of which ``num_valid (N,)`` pairs are real.

        Raises:
            ValueError: if the search needs more positions than the model has.
        """
        registers, window = transformer.num_registers, transformer.window
        num_roots, device = len(num_valid), num_valid.device
        root_tokens = registers + 2 * history_steps - 1
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
            window=torch.empty(
                num_roots, num_simulations + 1, registers + window, dtype=torch.int64, device=device
            ),
            position=torch.empty(num_roots, num_simulations + 1, dtype=torch.int64, device=device),
            groups=groups,
            num_registers=registers,
            num_root_tokens=root_tokens,
        )
        slot = torch.arange(num_roots * slots, device=device).view(num_roots, slots)
        slot = slot[:, :root_tokens]
        cache.window[:, 0, :registers] = slot[:, :registers]
        seen = torch.where(cache.root_part(num_valid) == 0, slot, EMPTY)
        places = min(window, root_tokens - registers)  # a short history leaves some empty
        cache.window[:, 0, registers:] = EMPTY
        cache.window[:, 0, -places:] = seen[:, -places:]
        cache.position[:, 0] = registers + 2 * num_valid
        return cache

    def keep_latents(self, root_latent: Tensor) -> None:
        """Remember each node's latent from now on, beginning with the roots' ``(N, D)``."""
        num_roots, num_nodes = self.position.shape
        latent = root_latent.new_empty(num_roots, num_nodes, root_latent.shape[1])
        latent[:, 0] = root_latent
        self.latent = latent.flatten(0, 1)

    def root_part(self, num_valid: Tensor) -> Tensor:
        """0 for root tokens that are real, 1 for those of unused history, between registers and context: ``(N, R+2J−1)``."""
        token = torch.arange(self.num_root_tokens, device=num_valid.device)
        unused = token < self.num_root_tokens - 1 - 2 * num_valid[:, None]
        return (unused & (token >= self.num_registers)).long()

    def root_positions(self, num_valid: Tensor) -> Tensor:
        """Rotary positions of the root tokens ``(N, R+2J−1)``: real tokens count from 0 without gaps."""
        return positions_within(self.root_part(num_valid), self.num_registers)

    def root_mask(self, num_valid: Tensor) -> Tensor:
        """Attention mask of the root tokens ``(N, 1, L, L)``."""
        length = self.num_root_tokens
        window = self.window.shape[2] - self.num_registers
        causal = windowed_causal_mask(length, window, self.num_registers, device=num_valid.device)
        return mask_within(causal, self.root_part(num_valid), self.num_registers)

    def is_like(self, other: "SearchCache") -> bool:
        """Whether both are of as many roots, of the same tasks, with as many simulations."""
        same_tasks = np.array_equal(self.groups.host_task_id, other.groups.host_task_id)
        return same_tasks and self.slabs[0].shape == other.slabs[0].shape

    def take_roots_of_(self, other: "SearchCache") -> None:
        """Start over with the roots of ``other``, which :meth:`is_like` this one; memory stays in place."""
        tokens = self.num_root_tokens
        for mine, theirs in zip(self.slabs, other.slabs, strict=True):
            mine[:, :tokens] = theirs[:, :tokens]
        self.window[:, 0] = other.window[:, 0]
        self.position[:, 0] = other.position[:, 0]
        if self.latent is not None and other.latent is not None:
            nodes = self.position.shape[1]
            self.latent[::nodes] = other.latent[::nodes]

    def rows(
        self, root: np.ndarray, parent: np.ndarray, action: np.ndarray, node: np.ndarray
    ) -> np.ndarray:
        """What :meth:`add_nodes` needs of a round, int64 ``(5, E)``: flat numbers of parents and new
        nodes, slots of the action and the latent tokens, actions.

        They are computed on the host, where each small operation costs least, and travel at once.

        Args:
            root: ``(E,)`` int64, may hold a root several times.
            parent: ``(E,)`` int64, nodes of these roots that exist before the round.
            action: ``(E,)`` int64, taken there.
            node: ``(E,)`` int64, numbers of the new nodes, 1 … M.
        """
        num_columns = self.window.shape[1]
        first_slot = root * self.slabs[0].shape[1] + self.num_root_tokens
        slot = first_slot + 2 * (node - 1)
        old, new = root * num_columns + parent, root * num_columns + node
        return np.stack([old, new, slot, slot + 1, action])

    def add_nodes(self, rows: Tensor) -> tuple[TokenSite, TokenSite]:
        """Add a node a row; where its action token and its latent token go.

        Args:
            rows: of :meth:`rows`, on the device.
        """
        width = self.window.shape[2]
        old, new, action_slot, latent_slot = rows[:4].unbind()
        windows, positions = self.window.view(-1, width), self.position.view(-1)
        position = positions.index_select(0, old)
        seen_by_action = self._slide(windows.index_select(0, old), action_slot)
        seen_by_latent = self._slide(seen_by_action, latent_slot)
        windows.index_copy_(0, new, seen_by_latent)
        positions.index_copy_(0, new, position + 2)
        return (
            self._site(position + 1, action_slot, seen_by_action),
            self._site(position + 2, latent_slot, seen_by_latent),
        )

    def _slide(self, seen: Tensor, slot: Tensor) -> Tensor:
        registers = self.num_registers
        return torch.cat([seen[:, :registers], seen[:, registers + 1 :], slot[:, None]], dim=1)

    def _site(self, position: Tensor, slot: Tensor, seen: Tensor) -> TokenSite:
        empty = seen < 0
        # added to the scores as it is: a boolean mask would be converted again in every layer
        mask = self.slabs[0].new_zeros(seen.shape).masked_fill_(empty, -torch.inf)
        # Something is read for an empty place too: the token itself, which is its own root's and finite.
        window = torch.where(empty, slot[:, None], seen).view(-1)
        return TokenSite(position, slot, window, mask[:, None, None])
