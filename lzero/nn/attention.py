"""Self-attention with rotary positions, over whole sequences and over one new token at a time.

Shape legend: B = sequences, L = tokens, N = roots, E = new tokens of a search step, H = heads,
K = head width, D = H·K, W = window of keys, S = slots.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lzero import checks


def rotary_table(num_positions: int, head_width: int, base: float = 10_000.0) -> Tensor:
    """Unit complex numbers ``(num_positions, K/2)`` that rotate pairs of channels (Su et al., arXiv 2104.09864).

    Raises:
        ValueError: if a size is below 1, ``head_width`` is odd, or ``base`` is not positive.
    """
    checks.count("num_positions", num_positions)
    checks.number("base", base, 0.0, above=True)
    if checks.count("head_width", head_width, 2) % 2:
        raise ValueError(f"head_width={head_width}: channels are rotated in pairs; use an even one")
    frequency = base ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    angle = torch.outer(torch.arange(num_positions, dtype=torch.float64), frequency)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate channel pairs of ``x (…, K)`` by ``rotation (…, K/2)``; the dtype is kept.

    Raises:
        ValueError: if K is odd, or ``rotation`` is of another width.
    """
    if x.shape[-1] % 2:
        raise ValueError(f"x has shape {tuple(x.shape)}: channels are rotated in pairs")
    if 2 * rotation.shape[-1] != x.shape[-1]:
        raise ValueError(
            f"rotation has shape {tuple(rotation.shape)}: allowed is (…, {x.shape[-1] // 2})"
        )
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


def windowed_causal_mask(
    num_tokens: int, window: int, num_registers: int = 0, device: torch.device | None = None
) -> Tensor:
    """Boolean mask ``(L, L)``, True where row may attend to column.

    A token sees itself and the ``window − 1`` tokens before it; the first ``num_registers`` tokens are seen by all
    that come after them. Training and search use this one rule, so both compute the same function.

    Raises:
        ValueError: if there is no token, the window holds none, or there are fewer than no registers.
    """
    checks.count("num_tokens", num_tokens)
    checks.count("window", window)
    checks.count("num_registers", num_registers, 0)
    column = torch.arange(num_tokens, device=device)
    row = column[:, None]
    return (column <= row) & ((column > row - window) | (column < num_registers))


def mask_within(causal: Tensor, part: Tensor, num_registers: int = 0) -> Tensor:
    """Attention mask ``(B, 1, L, L)`` of sequences of several parts: a token sees its own part, and register tokens.

    Args:
        causal: of :func:`windowed_causal_mask` ``(L, L)``.
        part: ``(B, L)``, which part a token belongs to; of register tokens it may be any.
        num_registers: register tokens in front.
    """
    is_register = torch.arange(part.shape[1], device=part.device) < num_registers
    return (causal & ((part[:, :, None] == part[:, None]) | is_register))[:, None]


def positions_within(part: Tensor, num_registers: int) -> Tensor:
    """Rotary positions ``(B, L)`` that count each part from the registers on; arguments as of :func:`mask_within`.

    Only differences of positions matter, so without registers a sequence's own positions do as well.
    """
    token = torch.arange(part.shape[1], device=part.device)
    begins = torch.ones_like(part, dtype=torch.bool)
    begins[:, 1:] = part[:, 1:] != part[:, :-1]
    begins[:, num_registers : num_registers + 1] = True
    first = torch.where(begins, token, 0).cummax(dim=1).values
    return torch.where(token < num_registers, token, token - first + num_registers)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention of queries ``(…, L, K)`` to keys and values ``(…, S, K)``.

    On CPUs two batched products: the fused call works in blocks that are longer than the sequences here.

    Args:
        q, k, v: queries, keys, values.
        mask: True where row may attend to column, or a number to add, ``(…, L, S)``; None for full attention.
        dropout: rate at which weights are dropped.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        closed = mask.dtype == torch.bool
        scores = scores.masked_fill(~mask, -torch.inf) if closed else scores + mask
    weights = scores.softmax(dim=-1)
    return F.dropout(weights, dropout, training=dropout > 0).to(v.dtype) @ v


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused query-key-value projection.

    Raises:
        ValueError: if heads do not divide the width, or ``dropout`` is not a share below 1.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if checks.count("embed_dim", embed_dim) % checks.count("num_heads", num_heads):
            raise ValueError(f"num_heads={num_heads} does not divide embed_dim={embed_dim}")
        checks.number("dropout", dropout, 0.0, 1.0)
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)

    def forward(
        self,
        x_BLD: Tensor,
        rotation: Tensor | None,
        mask: Tensor | None,
        keys_values: Tensor | None = None,
    ) -> Tensor:
        """Attend within whole sequences.

        Args:
            x_BLD: tokens ``(B, L, D)``.
            rotation: rotary numbers ``(L, K/2)`` or ``(B, L, K/2)``; None for no positions.
            mask: boolean ``(L, L)`` or ``(B, 1, L, L)``; None for full attention.
            keys_values: if given, a ``(B, L, 2, H, K)`` view that receives the (rotated) keys and the values.

        Returns:
            ``(B, L, D)``.

        Raises:
            ValueError: if shapes differ.
        """
        checks.shape("x_BLD", x_BLD, None, None, self.qkv.in_features)
        tokens = x_BLD.shape[1]
        if mask is not None and mask.shape[-2:] != (tokens, tokens):
            raise ValueError(
                f"mask has shape {tuple(mask.shape)}: allowed is (…, {tokens}, {tokens})"
            )
        if rotation is not None and rotation.shape[-2] != tokens:
            raise ValueError(
                f"rotation has shape {tuple(rotation.shape)}: allowed is (…, {tokens}, K/2)"
            )
        qkv = self.qkv(x_BLD).unflatten(-1, (3, self.num_heads, -1))  # (B, L, 3, H, K)
        q_k, v = qkv[:, :, :2], qkv[:, :, 2]
        if rotation is not None:
            q_k = rotate(q_k, rotation[..., None, None, :])
        q, k = q_k.unbind(dim=2)
        if keys_values is not None:
            keys_values[:, :, 0] = k
            keys_values[:, :, 1] = v
        y = attend(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            mask,
            self.dropout if self.training else 0.0,
        )
        return self.out(y.transpose(1, 2).flatten(2))

    def step(
        self,
        x_ED: Tensor,
        rotation: Tensor,
        slab: Tensor,
        slot: Tensor,
        window: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Attend from every new token to its own window of stored tokens.

        All new keys and values are stored first, for every token sees itself.

        Args:
            x_ED: the new tokens ``(E, D)``.
            rotation: rotary numbers of their positions ``(E, 1, 1, K/2)``.
            slab: this layer's keys and values ``(N, S, 2, H, K)``.
            slot: rows ``(E,)`` of ``slab`` seen as ``(N·S, …)`` where the new keys and values go.
            window: likewise ``(E·W,)``, what each new token sees, itself included.
            mask: ``(E, 1, 1, W)`` in the slab's dtype, 0 where the window holds a token, else −inf.

        Returns:
            ``(E, D)``.
        """
        num_tokens = len(x_ED)
        # fp32 also under autocast: the rotation works in place on pairs of fp32 numbers
        qkv = self.qkv(x_ED).float().view(num_tokens, 3, self.num_heads, -1)
        torch.view_as_complex(qkv[:, :2].unflatten(-1, (-1, 2))).mul_(rotation)
        slots = slab.flatten(0, 1)  # (N·S, 2, H, K)
        slots.index_copy_(0, slot, qkv[:, 1:].to(slab.dtype))
        keys_values = slots.index_select(0, window)
        keys_values = keys_values.unflatten(0, (num_tokens, -1))  # (E, W, 2, H, K)
        k, v = keys_values.permute(2, 0, 3, 1, 4).unbind(0)
        y = attend(qkv[:, 0].unsqueeze(2).to(k.dtype), k, v, mask)
        return self.out(y.reshape(num_tokens, -1))
