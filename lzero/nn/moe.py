"""Mixture of experts: shared experts that see every token, routed experts that see their share.

    y = shared(x) + sum over chosen e of gate_e(x) * expert_e(x)          (DeepSeekMoE, arXiv 2401.06066)

Routing is dropless: every chosen expert sees every token that chose it; how the sum is computed is in ``moe_paths.py``.

Shape legend: T = tokens, D = model width, F = hidden width of an expert, E = routed experts, K = experts per token,
G = tasks. A suffix names a tensor's shape: ``x_TD``, ``scores_TE``, ``w_in_ED2F``.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lzero import checks
from lzero.config import MoEConfig
from lzero.nn.balance import BalanceSums
from lzero.nn.moe_paths import PATHS, Segments, choose_path, compute_dtype
from lzero.nn.routing import count_selections_, hardcoded_experts
from lzero.nn.tasks import check_tokens


class SwiGLU(nn.Module):
    """One expert, or E of them stacked: ``(silu(a) * b) w_out`` with ``a, b = x w_in`` (Shazeer, arXiv 2002.05202).

    Weights are stored (in, out), which lets one batched or grouped product serve all experts.
    """

    matrices = ("w_in", "w_out")

    def __init__(self, embed_dim: int, hidden: int, num_experts: int | None = None) -> None:
        super().__init__()
        embed_dim, hidden = checks.count("embed_dim", embed_dim), checks.count("hidden", hidden)
        stack = () if num_experts is None else (checks.count("num_experts", num_experts),)
        # as spread as in torch.nn.Linear; with 1 / sqrt(inputs) first outputs drown those of attention
        w_in = torch.empty(*stack, embed_dim, 2 * hidden).normal_(std=(3 * embed_dim) ** -0.5)
        w_out = torch.empty(*stack, hidden, embed_dim).normal_(std=(3 * hidden) ** -0.5)
        self.w_in, self.w_out = nn.Parameter(w_in), nn.Parameter(w_out)

    def forward(self, x: Tensor) -> Tensor:
        """``(T, D)`` to ``(T, D)``, or ``(E, T, D)`` to ``(E, T, D)``."""
        return torch.matmul(self.activations(x), self.w_out)

    def activations(self, x: Tensor, expert: int | None = None) -> Tensor:
        """Hidden units ``(…, F)`` after gating; of a stack, those of one ``expert`` or, by default, of all."""
        a, b = torch.matmul(x, self.w_in if expert is None else self.w_in[expert]).chunk(2, dim=-1)
        return F.silu(a) * b


class Router(nn.Module):
    """Scores tokens against experts, in fp32.

    The softmax runs over all E logits and the top K are kept from it: at K = 1 a softmax over the kept logit alone
    would be the constant 1, and the router would never learn.
    """

    matrices = ("weight",)
    selection_bias: Tensor

    def __init__(
        self, embed_dim: int, num_experts: int, top_k: int, *, renormalise: bool = False
    ) -> None:
        super().__init__()
        self.top_k, self.renormalise = top_k, renormalise
        self.weight = nn.Parameter(torch.empty(num_experts, embed_dim))
        nn.init.normal_(self.weight, std=embed_dim**-0.5)
        self.register_buffer("selection_bias", torch.zeros(num_experts))

    def logits(self, x_TD: Tensor) -> Tensor:
        """``(T, E)`` in fp32, of doubles in double precision."""
        dtype = torch.promote_types(x_TD.dtype, torch.float32)
        with torch.autocast(x_TD.device.type, enabled=False):
            return F.linear(x_TD.to(dtype), self.weight.to(dtype))

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gates ``(T, K)``, chosen experts ``(T, K)``, scores ``(T, E)`` and logits ``(T, E)``."""
        logits_TE = self.logits(x_TD)
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

    experts_of_task: Tensor
    selection_counts: Tensor

    def __init__(self, config: MoEConfig, embed_dim: int, num_tasks: int) -> None:
        super().__init__()
        self.config, self.embed_dim = config, checks.count("embed_dim", embed_dim)
        hidden = max(8, round(config.hidden_ratio * embed_dim / 8) * 8)
        shared = nn.ModuleList(SwiGLU(embed_dim, hidden) for _ in range(config.num_shared_experts))
        self.shared_experts = cast("Sequence[SwiGLU]", shared)  # a ModuleList forgets what it holds
        self.experts = SwiGLU(embed_dim, hidden, config.num_experts) if config.num_experts else None
        learned = config.num_experts > 0 and config.routing != "hardcoded"
        top_k = config.num_experts if config.routing == "soft" else config.top_k
        self.router = (
            Router(embed_dim, config.num_experts, top_k, renormalise=config.renormalise)
            if learned
            else None
        )
        if config.num_experts:
            self.register_buffer(
                "experts_of_task", hardcoded_experts(num_tasks, config), persistent=False
            )
            self.register_buffer(
                "selection_counts",
                torch.zeros(num_tasks, config.num_experts, dtype=torch.int64),
                persistent=False,
            )

    def forward(self, x: Tensor, task_id: Tensor) -> tuple[Tensor, BalanceSums | None]:
        """Mix.

        Args:
            x: tokens ``(…, D)``.
            task_id: ``(…,)`` int64 task of each token.

        Returns:
            ``(…, D)`` and the sums of the balance loss, None where there is none.

        Raises:
            TypeError, ValueError: as :func:`~lzero.nn.tasks.check_tokens`.
        """
        check_tokens(x, task_id, self.embed_dim)
        x_TD, task_T = x.reshape(-1, x.shape[-1]), task_id.reshape(-1)
        parts_TD = [expert(x_TD) for expert in self.shared_experts]
        balance = None
        if self.experts is not None:
            gates_TK, chosen_TK, scores_TE, logits_TE = self.routing(x_TD, task_T)
            if self.training:
                count_selections_(self.selection_counts, task_T, chosen_TK)
                if (
                    self.config.balance == "aux_loss"
                    and scores_TE is not None
                    and logits_TE is not None
                ):
                    balance = BalanceSums.of(chosen_TK, scores_TE, logits_TE)
            segments = Segments.of(chosen_TK, self.config.num_experts)
            every_expert = chosen_TK.shape[1] == self.config.num_experts
            path = choose_path(
                x_TD.device.type, compute_dtype(x_TD), segments, every_expert=every_expert
            )
            parts_TD.append(PATHS[path](x_TD, gates_TK, chosen_TK, self.experts, segments))
        y_TD = parts_TD[0]
        for part_TD in parts_TD[1:]:
            y_TD = y_TD + part_TD
        return y_TD.view(*x.shape[:-1], -1), balance

    def routing(
        self, x_TD: Tensor, task_T: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """What :meth:`Router.forward` gives; with ``hardcoded`` routing equal gates, and neither scores nor logits."""
        if self.router is not None:
            return self.router(x_TD)
        chosen_TK = self.experts_of_task.index_select(0, task_T)
        gates_TK = torch.full(chosen_TK.shape, 1 / chosen_TK.shape[1], device=x_TD.device)
        return gates_TK, chosen_TK, None, None

    def work_of_token(self) -> int:
        """Multiplications for one token, by the shared and by its chosen experts."""
        work = 0
        for expert in self.shared_experts:
            work += expert.w_in.numel() + expert.w_out.numel()
        if self.experts is not None:
            of_one = self.experts.w_in[0].numel() + self.experts.w_out[0].numel()
            chosen = self.experts_of_task.shape[1] if self.router is None else self.router.top_k
            work += of_one * chosen
        return work

    @torch.no_grad()
    def update_selection_bias(self, load_E: Tensor) -> None:
        """Move the selection bias against the load ``(E,)`` of the last update (summed over ranks by the caller).

        Its mean stays 0: what all experts have in common chooses nothing, but would grow from update to update.
        """
        if self.router is None:
            raise ValueError(
                "only a learned router has a selection bias; set moe.routing=topk, or moe.balance=none"
            )
        checks.shape("load_E", load_E, self.config.num_experts)
        load_E = load_E.float()
        step_E = (load_E.mean() - load_E).sign()
        self.router.selection_bias += self.config.bias_rate * (step_E - step_E.mean())
