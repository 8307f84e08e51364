"""Mixture of experts: shared experts that see every token, routed experts that see their share.

    y = shared(x) + sum over chosen e of gate_e(x) * expert_e(x)          (DeepSeekMoE, arXiv 2401.06066)

Shape legend: T = tokens, D = model width, F = hidden width of an expert, E = routed experts, K = experts per token,
G = tasks. A suffix names a tensor's shape: ``x_TD``, ``scores_TE``, ``w_in_ED2F``.

P = (token, choice) pairs, T·K of them.

Routing is dropless: every chosen expert sees every token that chose it. Four execution paths compute the same sum
(:func:`choose_path` says when each is taken); each is one function from (x, gates, chosen, experts, segments) to y.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from lzero.config import MoEConfig
from lzero.model.unizero_world_models.balance import BalanceSums
from lzero.model.unizero_world_models.expert_statistics import (
    ExpertSelection,
    ExpertSelectionStatistics,
    WindowStatistics,
    reduce_selections,
)


class SwiGLU(nn.Module):
    """One expert, or E of them stacked: ``(silu(a) * b) w_out`` with ``a, b = x w_in`` (Shazeer, arXiv 2002.05202).

    Weights are stored (in, out), which lets one batched or grouped product serve all experts.
    """

    def __init__(self, embed_dim: int, hidden: int, num_experts: int | None = None) -> None:
        super().__init__()
        stack = () if num_experts is None else (num_experts,)
        self.w_in = nn.Parameter(torch.empty(*stack, embed_dim, 2 * hidden).normal_(std=embed_dim**-0.5))
        self.w_out = nn.Parameter(torch.empty(*stack, hidden, embed_dim).normal_(std=hidden**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        """``(T, D)`` to ``(T, D)``, or ``(E, T, D)`` to ``(E, T, D)``."""
        return torch.matmul(self.activations(x), self.w_out)

    def activations(self, x: Tensor, expert: int | None = None) -> Tensor:
        """Hidden units ``(…, F)`` after gating; of a stack, those of one ``expert`` or, by default, of all."""
        a, b = torch.matmul(x, self.w_in if expert is None else self.w_in[expert]).chunk(2, dim=-1)
        return F.silu(a) * b


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
        counts.index_add_(0, pairs, torch.ones_like(pairs))  # bincount would make the host wait for the largest index
        return cls(order, order // chosen_TK.shape[1], counts)


class SegmentedSwiGLU(torch.autograd.Function):
    """Every expert on its own rows of a sorted batch.

    Autograd alone would answer each slice of a stacked weight with a zero gradient of the full stack; here every expert's
    gradient is computed in its place.
    """

    @staticmethod
    def forward(ctx, x_PD: Tensor, w_in_ED2F: Tensor, w_out_EFD: Tensor, counts: list[int]) -> Tensor:
        ab = x_PD.new_empty(len(x_PD), w_in_ED2F.shape[2])
        for rows, expert in _rows(counts):
            torch.mm(x_PD[rows], w_in_ED2F[expert], out=ab[rows])
        a, b = ab.chunk(2, dim=-1)
        hidden = F.silu(a) * b
        y_PD = torch.empty_like(x_PD)
        for rows, expert in _rows(counts):
            torch.mm(hidden[rows], w_out_EFD[expert], out=y_PD[rows])
        ctx.save_for_backward(x_PD, w_in_ED2F, w_out_EFD, ab, hidden)
        ctx.counts = counts
        return y_PD

    @staticmethod
    def backward(ctx, dy_PD: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x_PD, w_in_ED2F, w_out_EFD, ab, hidden = ctx.saved_tensors
        dhidden = torch.empty_like(hidden)
        dw_out = torch.empty_like(w_out_EFD)
        for rows, expert in _rows(ctx.counts):
            torch.mm(dy_PD[rows], w_out_EFD[expert].t(), out=dhidden[rows])
            torch.mm(hidden[rows].t(), dy_PD[rows], out=dw_out[expert])
        a, b = ab.chunk(2, dim=-1)
        sigmoid = a.sigmoid()
        dab = torch.empty_like(ab)
        torch.mul(dhidden * b, sigmoid * (1 + a * (1 - sigmoid)), out=dab[:, : a.shape[1]])
        torch.mul(dhidden, a * sigmoid, out=dab[:, a.shape[1] :])
        dx_PD = torch.empty_like(x_PD)
        dw_in = torch.empty_like(w_in_ED2F)
        for rows, expert in _rows(ctx.counts):
            torch.mm(dab[rows], w_in_ED2F[expert].t(), out=dx_PD[rows])
            torch.mm(x_PD[rows].t(), dab[rows], out=dw_in[expert])
        for expert, count in enumerate(ctx.counts):
            if count == 0:
                dw_in[expert].zero_()
                dw_out[expert].zero_()
        return dx_PD, dw_in, dw_out, None


def _rows(counts: list[int]) -> Iterator[tuple[slice, int]]:
    """Rows and number of every expert that has any."""
    start = 0
    for expert, count in enumerate(counts):
        if count:
            yield slice(start, start + count), expert
        start += count


def run_segments(x_TD: Tensor, gates_TK: Tensor, chosen_TK: Tensor, experts: SwiGLU, segments: Segments) -> Tensor:
    """Run every expert on its own contiguous segment of the sorted tokens.

    The segment lengths must be known to the host: free on a CPU, a synchronisation on an accelerator.
    """
    dtype = compute_dtype(x_TD)
    weights = experts.w_in.to(dtype), experts.w_out.to(dtype)
    y = SegmentedSwiGLU.apply(x_TD.to(dtype).index_select(0, segments.token), *weights, segments.counts.tolist())
    return _combine(y, gates_TK, segments)


def run_padded(x_TD: Tensor, gates_TK: Tensor, chosen_TK: Tensor, experts: SwiGLU, segments: Segments) -> Tensor:
    """Give every expert as many rows as the busiest one has and run all in two batched products.

    With few rows the products cost what reading the weights costs, and padding is free.
    """
    num_experts = len(experts.w_in)
    rows = int(segments.counts.max())
    first_E = segments.counts.cumsum(0) - segments.counts
    place_ER = first_E[:, None] + torch.arange(rows, device=x_TD.device)
    token_ER = segments.token[place_ER.clamp_max(len(segments.token) - 1)]
    y_ERD = experts(x_TD.index_select(0, token_ER.flatten()).view(num_experts, rows, -1))
    expert_P = chosen_TK.flatten()[segments.order]
    cell_P = torch.arange(len(expert_P), device=x_TD.device) - first_E[expert_P] + expert_P * rows
    return _combine(y_ERD.flatten(0, 1).index_select(0, cell_P), gates_TK, segments)


def run_batched(x_TD: Tensor, gates_TK: Tensor, chosen_TK: Tensor, experts: SwiGLU, segments: Segments) -> Tensor:
    """Run all experts on all tokens as two batched products and keep the chosen ones.

    E/K times the arithmetic, but no synchronisation; the natural path when K = E. ``segments`` is not used.
    """
    gates_TE = torch.zeros(len(x_TD), len(experts.w_in), dtype=gates_TK.dtype, device=x_TD.device)
    gates_TE = gates_TE.scatter(1, chosen_TK, gates_TK)
    a_ETF, b_ETF = torch.matmul(x_TD, experts.w_in).chunk(2, dim=-1)
    hidden_ETF = F.silu(a_ETF) * b_ETF * gates_TE.t().unsqueeze(-1).to(a_ETF.dtype)
    return torch.bmm(hidden_ETF, experts.w_out).sum(dim=0)


def run_grouped(x_TD: Tensor, gates_TK: Tensor, chosen_TK: Tensor, experts: SwiGLU, segments: Segments) -> Tensor:
    """Run all segments of the sorted tokens in two grouped matrix products; nothing reaches the host."""
    dtype = compute_dtype(x_TD)
    ends_E = segments.counts.cumsum(0).to(torch.int32)
    x = x_TD.to(dtype).index_select(0, segments.token)
    a, b = F.grouped_mm(x, experts.w_in.to(dtype), offs=ends_E).chunk(2, dim=-1)
    return _combine(F.grouped_mm(F.silu(a) * b, experts.w_out.to(dtype), offs=ends_E), gates_TK, segments)


def _combine(y_PD: Tensor, gates_TK: Tensor, segments: Segments) -> Tensor:
    """Sum the sorted pairs' outputs ``(T·K, D)`` into their tokens, weighted by their gates: ``(T, D)``."""
    num_tokens, top_k = gates_TK.shape
    place_P = torch.empty_like(segments.order)
    place_P[segments.order] = torch.arange(len(place_P), device=place_P.device)
    y_TKD = y_PD.index_select(0, place_P).view(num_tokens, top_k, -1) * gates_TK.unsqueeze(-1).to(y_PD.dtype)
    return y_TKD.squeeze(1) if top_k == 1 else y_TKD.sum(dim=1)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Dtype in which matrix products of ``x`` run under the current autocast."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


PATHS = {"segments": run_segments, "padded": run_padded, "batched": run_batched, "grouped": run_grouped}
FEW_ROWS = 8  # up to here a padded product costs no more than reading its weights
PADDING_LIMIT = 1.75  # padded rows over real ones up to which one batched product beats a loop over experts


def choose_path(device_type: str, dtype: torch.dtype, segments: Segments, *, every_expert: bool) -> str:
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


class Router(nn.Module):
    """Scores tokens against experts, in fp32.

    The softmax runs over all E logits and the top K are kept from it: at K = 1 a softmax over the kept logit alone
    would be the constant 1, and the router would never learn.
    """

    def __init__(self, config: MoEConfig, embed_dim: int) -> None:
        super().__init__()
        self.top_k = config.num_experts if config.routing == "soft" else config.top_k
        self.renormalise = config.renormalise
        self.weight = nn.Parameter(torch.empty(config.num_experts, embed_dim))
        nn.init.normal_(self.weight, std=embed_dim**-0.5)
        self.register_buffer("selection_bias", torch.zeros(config.num_experts))

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gates ``(T, K)``, chosen experts ``(T, K)``, scores ``(T, E)`` and logits ``(T, E)``."""
        with torch.autocast(x_TD.device.type, enabled=False):
            logits_TE = F.linear(x_TD.float(), self.weight.float())
            scores_TE = logits_TE.softmax(dim=-1)  # over all experts: keeps a gradient at K = 1
        # The bias moves the choice alone, never the gate (Wang et al., arXiv 2408.15664).
        chosen_TK = (scores_TE + self.selection_bias).topk(self.top_k, dim=-1).indices
        gates_TK = scores_TE.gather(1, chosen_TK)
        if self.renormalise:
            gates_TK = gates_TK / gates_TK.sum(dim=-1, keepdim=True)
        return gates_TK, chosen_TK, scores_TE, logits_TE


class MoELayer(nn.Module):
    """Feed-forward of a block as a mixture of experts.

    Args:
        config: experts, routing, balance.
        embed_dim: D.
        num_tasks: G; ``hardcoded`` routing gives each task its own experts (:func:`hardcoded_experts`).
    """

    def __init__(self, config: MoEConfig, embed_dim: int, num_tasks: int) -> None:
        super().__init__()
        self.config = config
        hidden = max(8, round(config.hidden_ratio * embed_dim / 8) * 8)
        self.shared_experts = nn.ModuleList(SwiGLU(embed_dim, hidden) for _ in range(config.num_shared_experts))
        self.experts = SwiGLU(embed_dim, hidden, config.num_experts) if config.num_experts else None
        learned = config.num_experts > 0 and config.routing != "hardcoded"
        self.router = Router(config, embed_dim) if learned else None
        if config.num_experts:
            self.register_buffer("experts_of_task", hardcoded_experts(num_tasks, config), persistent=False)
            self.register_buffer(
                "selection_counts", torch.zeros(num_tasks, config.num_experts, dtype=torch.int64), persistent=False
            )
        # no buffer, and made when first needed: a target network, which counts nothing, carries no windows
        self._expert_selection: ExpertSelectionStatistics | None = None

    def forward(self, x: Tensor, task_id: Tensor) -> tuple[Tensor, BalanceSums | None]:
        """Mix.

        Args:
            x: tokens ``(…, D)``.
            task_id: ``(…,)`` int64 task of each token.

        Returns:
            ``(…, D)`` and the sums of the balance loss, None where there is none.
        """
        x_TD, task_T = x.reshape(-1, x.shape[-1]), task_id.reshape(-1)
        y_TD = None
        for expert in self.shared_experts:
            y_TD = expert(x_TD) if y_TD is None else y_TD + expert(x_TD)
        balance = None
        if self.config.num_experts:
            routed_TD, balance = self._routed(x_TD, task_T)
            y_TD = routed_TD if y_TD is None else y_TD + routed_TD
        return y_TD.view(*x.shape[:-1], -1), balance

    def _routed(self, x_TD: Tensor, task_T: Tensor) -> tuple[Tensor, BalanceSums | None]:
        balance = None
        gates_TK, chosen_TK, scores_TE, logits_TE = self.routing(x_TD, task_T)
        if self.training and self.config.balance == "aux_loss":
            balance = BalanceSums.of(chosen_TK, scores_TE, logits_TE)
        if self.training:
            self._count(chosen_TK, task_T)
        segments = Segments.of(chosen_TK, self.config.num_experts)
        every_expert = chosen_TK.shape[1] == self.config.num_experts
        path = choose_path(x_TD.device.type, compute_dtype(x_TD), segments, every_expert=every_expert)
        return PATHS[path](x_TD, gates_TK, chosen_TK, self.experts, segments), balance

    def routing(self, x_TD: Tensor, task_T: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """What :meth:`Router.forward` gives; with ``hardcoded`` routing equal gates, and neither scores nor logits."""
        if self.router is not None:
            return self.router(x_TD)
        chosen_TK = self.experts_of_task[task_T]
        return torch.full(chosen_TK.shape, 1 / chosen_TK.shape[1], device=x_TD.device), chosen_TK, None, None

    @torch.no_grad()
    def _count(self, chosen_TK: Tensor, task_T: Tensor) -> None:
        """Add this forward's choices to ``selection_counts (G, E)``: one scatter on the device."""
        cell = task_T[:, None] * self.config.num_experts + chosen_TK
        self.selection_counts.view(-1).index_add_(0, cell.flatten(), torch.ones_like(cell).flatten())

    @torch.no_grad()
    def update_selection_bias(self, load_E: Tensor) -> None:
        """Move the selection bias against the load ``(E,)`` of the last update (summed over ranks by the caller)."""
        load_E = load_E.float()
        self.router.selection_bias += self.config.bias_rate * (load_E.mean() - load_E).sign()

    @property
    def expert_selection(self) -> ExpertSelectionStatistics:
        """Windows over this layer's selections.

        Raises:
            ValueError: if the layer has no routed experts.
        """
        if self._expert_selection is None:
            if not self.config.num_experts:
                raise ValueError("moe.num_experts=0: a layer without routed experts selects none; use at least 1")
            self._expert_selection = ExpertSelectionStatistics(*self.selection_counts.shape, self.selection_counts.device)
        return self._expert_selection

    def record_expert_selection(self, present: Tensor | None = None) -> None:
        """Move ``selection_counts`` of the update that ends into the windows; once per update, without a host sync.

        Args:
            present: tasks ``(G,)`` bool that took part in the update on any rank, the same on every rank; None takes those
                that this rank has counted.
        """
        self.expert_selection.record(self.selection_counts, present)
        self.selection_counts.zero_()

    def get_expert_selection_stats(self, task_id: int | None = None) -> dict[int, dict[str, WindowStatistics]]:
        """Selections that this rank recorded, ``{task: {window: {...}}}``, of one task or of all; waits for the device."""
        return self.expert_selection.selection().stats(task_id)

    def reduce_expert_selection_stats(self, group: distributed.ProcessGroup | None = None) -> ExpertSelection:
        """Selections that all ranks recorded; collective, see :func:`reduce_selections`."""
        return reduce_selections([self.expert_selection], group)[0]

    def reset_expert_selection_stats(self) -> None:
        """Forget all selections, also those not recorded yet."""
        self.expert_selection.reset()
        self.selection_counts.zero_()


def hardcoded_experts(num_tasks: int, config: MoEConfig) -> Tensor:
    """Experts ``(G, K)`` that each task owns under ``hardcoded`` routing.

    With at least as many experts as tasks the sets are disjoint, each of ``E // G`` experts; otherwise tasks share.
    """
    share = max(1, config.num_experts // num_tasks)
    first = torch.arange(num_tasks)[:, None] * share
    return (first + torch.arange(share)) % config.num_experts
