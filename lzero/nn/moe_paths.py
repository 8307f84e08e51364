"""Four ways to compute the sum over a token's chosen experts; :func:`choose_path` says when each is taken.

Each is one function from (x, gates, chosen, experts, segments) to y.

Shape legend: T = tokens, D = model width, F = hidden width of an expert, E = routed experts, K = experts per token,
P = (token, choice) pairs, T·K of them, R = rows that every expert is given. A suffix names a tensor's shape.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from lzero.nn.moe import SwiGLU


@dataclass(frozen=True)
class Segments:
    """The T·K (token, choice) pairs sorted by expert.

    Attributes:
        order: pair at each place of the sorted sequence ``(T·K,)``.
        token: token at each place ``(T·K,)``.
        counts: pairs of each expert ``(E,)``.
    """

    order: Tensor
    token: Tensor
    counts: Tensor

    @classmethod
    def of(cls, chosen_TK: Tensor, num_experts: int) -> "Segments":
        """Sort; nothing reaches the host."""
        pairs = chosen_TK.flatten()
        order = pairs.argsort(stable=True)
        counts = torch.zeros(num_experts, dtype=torch.int64, device=pairs.device)
        counts.index_add_(
            0, pairs, torch.ones_like(pairs)
        )  # bincount would make the host wait for the largest index
        return cls(order, order // chosen_TK.shape[1], counts)


@contextmanager
def kernels_of_any_shape() -> Iterator[None]:
    """Products by MKL: oneDNN, if it was chosen (``fast_products``), writes a kernel for every number of rows it meets."""
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch's stubs lack it
    before = products.fp32_precision
    products.fp32_precision = "ieee"
    try:
        yield
    finally:
        products.fp32_precision = before


class SegmentedSwiGLU(torch.autograd.Function):
    """Every expert on its own rows of a sorted batch.

    Autograd alone would answer each slice of a stacked weight with a zero gradient of the full stack; here every expert's
    gradient is computed in its place. With σ the sigmoid and dy the gradient of the loss with respect to y, per expert::

        [a, b] = x W_in          h = a σ(a) · b          y = h W_out

        dh = dy W_outᵀ           dW_out = hᵀ dy
        da = dh · b · σ(a) (1 + a (1 − σ(a)))            since (a σ)' = σ + a σ (1 − σ)
        db = dh · a σ(a)
        dx = [da, db] W_inᵀ      dW_in = xᵀ [da, db]
    """

    @staticmethod
    @kernels_of_any_shape()
    def forward(
        ctx, x_PD: Tensor, w_in_ED2F: Tensor, w_out_EFD: Tensor, counts: list[int]
    ) -> Tensor:
        """Outputs ``(P, D)`` of the pairs ``x_PD``, which are sorted by expert; ``counts`` are those of the E experts."""
        ab_P2F = x_PD.new_empty(len(x_PD), w_in_ED2F.shape[2])
        for rows, expert in _rows(counts):
            torch.mm(x_PD[rows], w_in_ED2F[expert], out=ab_P2F[rows])
        a_PF, b_PF = ab_P2F.chunk(2, dim=-1)
        hidden_PF = F.silu(a_PF) * b_PF
        y_PD = torch.empty_like(x_PD)
        for rows, expert in _rows(counts):
            torch.mm(hidden_PF[rows], w_out_EFD[expert], out=y_PD[rows])
        ctx.save_for_backward(x_PD, w_in_ED2F, w_out_EFD, ab_P2F, hidden_PF)
        ctx.counts = counts
        return y_PD

    @staticmethod
    @kernels_of_any_shape()
    def backward(ctx, dy_PD: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of the three tensors of :meth:`forward`, by the formulas above."""
        x_PD, w_in_ED2F, w_out_EFD, ab_P2F, hidden_PF = ctx.saved_tensors
        counts: list[int] = ctx.counts
        dhidden_PF = torch.empty_like(hidden_PF)
        dw_out_EFD = torch.empty_like(w_out_EFD)
        for rows, expert in _rows(counts):
            torch.mm(dy_PD[rows], w_out_EFD[expert].t(), out=dhidden_PF[rows])
            torch.mm(hidden_PF[rows].t(), dy_PD[rows], out=dw_out_EFD[expert])
        a_PF, b_PF = ab_P2F.chunk(2, dim=-1)
        sigmoid_PF = a_PF.sigmoid()
        dab_P2F = torch.empty_like(ab_P2F)
        width = a_PF.shape[1]
        slope_PF = sigmoid_PF * (1 + a_PF * (1 - sigmoid_PF))
        torch.mul(dhidden_PF * b_PF, slope_PF, out=dab_P2F[:, :width])
        torch.mul(dhidden_PF, a_PF * sigmoid_PF, out=dab_P2F[:, width:])
        dx_PD = torch.empty_like(x_PD)
        dw_in_ED2F = torch.empty_like(w_in_ED2F)
        for rows, expert in _rows(counts):
            torch.mm(dab_P2F[rows], w_in_ED2F[expert].t(), out=dx_PD[rows])
            torch.mm(x_PD[rows].t(), dab_P2F[rows], out=dw_in_ED2F[expert])
        for expert, count in enumerate(counts):
            if count == 0:  # nobody chose it: its place still holds what was in memory
                dw_in_ED2F[expert].zero_()
                dw_out_EFD[expert].zero_()
        return dx_PD, dw_in_ED2F, dw_out_EFD, None


def _rows(counts: list[int]) -> Iterator[tuple[slice, int]]:
    """Rows and number of every expert that has any."""
    start = 0
    for expert, count in enumerate(counts):
        if count:
            yield slice(start, start + count), expert
        start += count


def run_segments(
    x_TD: Tensor, gates_TK: Tensor, chosen_TK: Tensor, experts: "SwiGLU", segments: Segments
) -> Tensor:
    """Run every expert on its own contiguous segment of the sorted tokens.

    The segment lengths must be known to the host: free on a CPU, a synchronisation on an accelerator.
    """
    dtype = compute_dtype(x_TD)
    weights = experts.w_in.to(dtype), experts.w_out.to(dtype)
    y = SegmentedSwiGLU.apply(
        x_TD.to(dtype).index_select(0, segments.token), *weights, segments.counts.tolist()
    )
    return _combine(y, gates_TK, segments)


def run_padded(
    x_TD: Tensor,
    gates_TK: Tensor,
    chosen_TK: Tensor,
    experts: Callable[[Tensor], Tensor],
    segments: Segments,
) -> Tensor:
    """Give every expert as many rows as the busiest one has and run all in one batched pass.

    With few rows the products cost what reading the weights costs, and padding is free. Any stack of experts will do: what
    maps ``(E, R, …)`` to ``(E, R, …)``; tokens and outputs may have several axes.
    """
    num_experts = len(segments.counts)
    rows = int(segments.counts.max())
    if rows > FEW_ROWS:  # few different shapes: oneDNN writes a kernel for each
        rows = -(-rows // FEW_ROWS) * FEW_ROWS
    first_E = segments.counts.cumsum(0) - segments.counts
    place_ER = first_E[:, None] + torch.arange(rows, device=x_TD.device)
    token_ER = segments.token[place_ER.clamp_max(len(segments.token) - 1)]
    x_ERD = x_TD.index_select(0, token_ER.flatten()).view(num_experts, rows, *x_TD.shape[1:])
    y_ERD = experts(x_ERD)
    expert_P = chosen_TK.flatten()[segments.order]
    cell_P = torch.arange(len(expert_P), device=x_TD.device) - first_E[expert_P] + expert_P * rows
    return _combine(y_ERD.flatten(0, 1).index_select(0, cell_P), gates_TK, segments)


def run_batched(
    x_TD: Tensor, gates_TK: Tensor, chosen_TK: Tensor, experts: "SwiGLU", segments: Segments
) -> Tensor:
    """Run all experts on all tokens as two batched products and keep the chosen ones.

    E/K times the arithmetic, but no synchronisation; the natural path when K = E. ``segments`` is not used.
    """
    gates_TE = torch.zeros(len(x_TD), len(experts.w_in), dtype=gates_TK.dtype, device=x_TD.device)
    gates_TE = gates_TE.scatter(1, chosen_TK, gates_TK)
    a_ETF, b_ETF = torch.matmul(x_TD, experts.w_in).chunk(2, dim=-1)
    hidden_ETF = F.silu(a_ETF) * b_ETF * gates_TE.t().unsqueeze(-1).to(a_ETF.dtype)
    return torch.bmm(hidden_ETF, experts.w_out).sum(dim=0)


def run_grouped(
    x_TD: Tensor, gates_TK: Tensor, chosen_TK: Tensor, experts: "SwiGLU", segments: Segments
) -> Tensor:
    """Run all segments of the sorted tokens in two grouped matrix products; nothing reaches the host."""
    dtype = compute_dtype(x_TD)
    ends_E = segments.counts.cumsum(0).to(torch.int32)
    x = x_TD.to(dtype).index_select(0, segments.token)
    a, b = F.grouped_mm(x, experts.w_in.to(dtype), offs=ends_E).chunk(2, dim=-1)
    return _combine(
        F.grouped_mm(F.silu(a) * b, experts.w_out.to(dtype), offs=ends_E), gates_TK, segments
    )


def _combine(y_PD: Tensor, gates_TK: Tensor, segments: Segments) -> Tensor:
    """Sum the sorted pairs' outputs ``(T·K, …)`` into their tokens, weighted by their gates: ``(T, …)``."""
    num_tokens, top_k = gates_TK.shape
    place_P = torch.empty_like(segments.order)
    place_P[segments.order] = torch.arange(len(place_P), device=place_P.device)
    gates = gates_TK.view(num_tokens, top_k, *[1] * (y_PD.ndim - 1)).to(y_PD.dtype)
    y_TKD = y_PD.index_select(0, place_P).view(num_tokens, top_k, *y_PD.shape[1:]) * gates
    return y_TKD.squeeze(1) if top_k == 1 else y_TKD.sum(dim=1)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Dtype in which matrix products of ``x`` run under the current autocast."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


PATHS: dict[str, Callable[[Tensor, Tensor, Tensor, "SwiGLU", Segments], Tensor]] = {
    "segments": run_segments,
    "padded": run_padded,
    "batched": run_batched,
    "grouped": run_grouped,
}
FEW_ROWS = 8  # up to here a padded product costs no more than reading its weights
PADDING_LIMIT = (
    1.75  # padded rows over real ones up to which one batched product beats a loop over experts
)


def choose_path(
    device_type: str, dtype: torch.dtype, segments: Segments, *, every_expert: bool
) -> str:
    """The execution path for a device, dtype and load, as measured by ``benchmarks/moe.py``.

    Batched when all experts are wanted anyway. On a CPU, where counts are on the host, padded unless the busiest expert makes
    padding dear, then segments. On CUDA grouped products where they exist (bfloat16), else batched: counting would synchronise.
    """
    if every_expert:
        return "batched"
    if device_type == "cpu":
        busiest = int(segments.counts.max())
        padding = busiest * len(segments.counts) / len(segments.order)
        return "padded" if busiest <= FEW_ROWS or padding <= PADDING_LIMIT else "segments"
    return "grouped" if dtype == torch.bfloat16 else "batched"
