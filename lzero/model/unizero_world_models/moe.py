"""Mixture of experts: shared experts that see every token, routed experts that see their share.

    y = shared(x) + sum over chosen e of gate_e(x) * expert_e(x)          (DeepSeekMoE, arXiv 2401.06066)

Shape legend: T = tokens, D = model width, F = hidden width of an expert, E = routed experts, K = experts per token,
G = tasks. A suffix names a tensor's shape: ``x_TD``, ``scores_TE``, ``w_in_ED2F``.

Routing is dropless: every chosen expert sees every token that chose it. Three execution paths compute the same sum
(:func:`choose_path` says when each is taken); each is one function from (x, gates, chosen, experts) to y.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lzero.config import MoEConfig


class SwiGLU(nn.Module):
    """One expert: ``w_out (silu(a) * b)`` with ``a, b = w_in x`` (Shazeer, arXiv 2002.05202)."""

    def __init__(self, embed_dim: int, hidden: int) -> None:
        super().__init__()
        self.w_in = nn.Parameter(torch.empty(2 * hidden, embed_dim))
        self.w_out = nn.Parameter(torch.empty(embed_dim, hidden))
        nn.init.normal_(self.w_in, std=embed_dim**-0.5)
        nn.init.normal_(self.w_out, std=hidden**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """``(…, D)`` to ``(…, D)``."""
        a, b = F.linear(x, self.w_in).chunk(2, dim=-1)
        return F.linear(F.silu(a) * b, self.w_out)


def sort_by_expert(chosen_TK: Tensor) -> tuple[Tensor, Tensor]:
    """Order of the T·K (token, choice) pairs by expert, and the token of each pair in that order."""
    order = chosen_TK.flatten().argsort(stable=True)
    return order, order // chosen_TK.shape[1]


def run_segments(x_TD: Tensor, gates_TK: Tensor, chosen_TK: Tensor, experts: Sequence[SwiGLU]) -> Tensor:
    """Sort tokens by expert and run every expert on its own contiguous segment.

    The segment lengths must be known to the host: free on a CPU, a synchronisation on an accelerator.
    """
    order, token = sort_by_expert(chosen_TK)
    counts = torch.bincount(chosen_TK.flatten(), minlength=len(experts)).tolist()
    segments = x_TD.index_select(0, token).split(counts)
    y = torch.cat([expert(segment) for expert, segment in zip(experts, segments, strict=True) if len(segment)])
    y = y * gates_TK.flatten()[order, None].to(y.dtype)
    return torch.zeros_like(y[: len(x_TD)]).index_add(0, token, y) if chosen_TK.shape[1] > 1 else y[order.argsort()]


def run_batched(x_TD: Tensor, gates_TK: Tensor, chosen_TK: Tensor, experts: Sequence[SwiGLU]) -> Tensor:
    """Run all experts on all tokens as two batched products and keep the chosen ones.

    E/K times the arithmetic, but no sorting and no synchronisation; the natural path when K = E.
    """
    gates_TE = torch.zeros(len(x_TD), len(experts), dtype=gates_TK.dtype, device=x_TD.device)
    gates_TE = gates_TE.scatter(1, chosen_TK, gates_TK)
    w_in_E2FD, w_out_EDF = stack_experts(experts)
    a_ETF, b_ETF = torch.matmul(x_TD, w_in_E2FD.transpose(1, 2)).chunk(2, dim=-1)
    hidden_ETF = F.silu(a_ETF) * b_ETF * gates_TE.t().unsqueeze(-1).to(a_ETF.dtype)
    return torch.bmm(hidden_ETF, w_out_EDF.transpose(1, 2)).sum(dim=0)


def run_grouped(x_TD: Tensor, gates_TK: Tensor, chosen_TK: Tensor, experts: Sequence[SwiGLU]) -> Tensor:
    """Sort tokens by expert and run all segments in two grouped matrix products; nothing reaches the host."""
    dtype = torch.get_autocast_dtype(x_TD.device.type) if torch.is_autocast_enabled(x_TD.device.type) else x_TD.dtype
    order, token = sort_by_expert(chosen_TK)
    ends_E = torch.bincount(chosen_TK.flatten(), minlength=len(experts)).cumsum(0).to(torch.int32)
    w_in_E2FD, w_out_EDF = (w.to(dtype).transpose(1, 2) for w in stack_experts(experts))
    a, b = F.grouped_mm(x_TD.to(dtype).index_select(0, token), w_in_E2FD, offs=ends_E).chunk(2, dim=-1)
    y = F.grouped_mm(F.silu(a) * b, w_out_EDF, offs=ends_E)
    y = y * gates_TK.flatten()[order, None].to(y.dtype)
    return torch.zeros_like(y[: len(x_TD)]).index_add(0, token, y)


def stack_experts(experts: Sequence[SwiGLU]) -> tuple[Tensor, Tensor]:
    """Weights of all experts as ``w_in (E, 2F, D)`` and ``w_out (E, D, F)``; the backward hands out views."""
    return torch.stack([expert.w_in for expert in experts]), torch.stack([expert.w_out for expert in experts])


PATHS = {"segments": run_segments, "batched": run_batched, "grouped": run_grouped}


def choose_path(device_type: str, dtype: torch.dtype, every_expert: bool) -> str:
    """The execution path for a device and dtype, as measured by ``benchmarks/moe.py``.

    Batched when all experts are wanted anyway; segments on a CPU, where counts are on the host; on CUDA grouped
    products where they exist (bfloat16), else batched, because counting segments would synchronise.
    """
    if every_expert:
        return "batched"
    if device_type == "cpu":
        return "segments"
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
        self.experts = nn.ModuleList(SwiGLU(embed_dim, hidden) for _ in range(config.num_experts))
        learned = config.num_experts > 0 and config.routing != "hardcoded"
        self.router = Router(config, embed_dim) if learned else None
        if config.num_experts:
            self.register_buffer("experts_of_task", hardcoded_experts(num_tasks, config), persistent=False)
            self.register_buffer(
                "selection_counts", torch.zeros(num_tasks, config.num_experts, dtype=torch.int64), persistent=False
            )

    def forward(self, x: Tensor, task_id: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mix.

        Args:
            x: tokens ``(…, D)``.
            task_id: ``(…,)`` int64 task of each token.

        Returns:
            ``(…, D)`` and the balance loss (a scalar), None where there is none.
        """
        x_TD, task_T = x.reshape(-1, x.shape[-1]), task_id.reshape(-1)
        y_TD = None
        for expert in self.shared_experts:
            y_TD = expert(x_TD) if y_TD is None else y_TD + expert(x_TD)
        balance_loss = None
        if self.config.num_experts:
            routed_TD, balance_loss = self._routed(x_TD, task_T)
            y_TD = routed_TD if y_TD is None else y_TD + routed_TD
        return y_TD.view(*x.shape[:-1], -1), balance_loss

    def _routed(self, x_TD: Tensor, task_T: Tensor) -> tuple[Tensor, Tensor | None]:
        balance_loss = None
        if self.router is None:
            chosen_TK = self.experts_of_task[task_T]
            gates_TK = torch.full(chosen_TK.shape, 1 / chosen_TK.shape[1], device=x_TD.device)
        else:
            gates_TK, chosen_TK, scores_TE, logits_TE = self.router(x_TD)
            if self.training and self.config.balance == "aux_loss":
                balance_loss = self._balance_loss(chosen_TK, scores_TE, logits_TE)
        if self.training:
            self._count(chosen_TK, task_T)
        device = x_TD.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_TD.dtype
        path = choose_path(device, dtype, every_expert=chosen_TK.shape[1] == len(self.experts))
        return PATHS[path](x_TD, gates_TK, chosen_TK, self.experts), balance_loss

    def _balance_loss(self, chosen_TK: Tensor, scores_TE: Tensor, logits_TE: Tensor) -> Tensor:
        """Load loss of Switch Transformer (arXiv 2101.03961, eq. 4) and router z-loss (arXiv 2202.08906, eq. 5)."""
        num_experts = scores_TE.shape[1]
        load_E = torch.zeros_like(scores_TE[0]).index_add(
            0, chosen_TK.flatten(), torch.ones_like(scores_TE[:1, :1]).expand(chosen_TK.numel(), 1).flatten()
        )
        load_loss = num_experts * (load_E / chosen_TK.numel() * scores_TE.mean(dim=0)).sum()
        z_loss = logits_TE.logsumexp(dim=-1).square().mean()
        return self.config.aux_loss_weight * load_loss + self.config.z_loss_weight * z_loss

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


def hardcoded_experts(num_tasks: int, config: MoEConfig) -> Tensor:
    """Experts ``(G, K)`` that each task owns under ``hardcoded`` routing.

    With at least as many experts as tasks the sets are disjoint, each of ``E // G`` experts; otherwise tasks share.
    """
    share = max(1, config.num_experts // num_tasks)
    first = torch.arange(num_tasks)[:, None] * share
    return (first + torch.arange(share)) % config.num_experts
