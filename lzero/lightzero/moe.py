"""LightZero's ``MoELayer``: a mixture made of given experts and a given gate.

Shape legend: T = tokens, D = model width, E = experts, K = experts per token.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lzero import checks
from lzero.analysis.expert_statistics import ExpertSelectionStatistics
from lzero.nn.moe_paths import Segments
from lzero.nn.routing import count_selections_


class MoELayer(nn.Module):
    """A mixture of any experts behind any gate, with LightZero's names, parameters and results.

    Parameters are called as in LightZero (``gate.…``, ``experts.0.…``, ``shared_expert.0.…``), so that
    weights of one load into the other. What it computes differs from :class:`lzero.nn.moe.MoELayer` on
    purpose in three things: gates are a softmax over the K chosen logits, so that with K = 1 the gate is
    the constant 1 and the router gets no gradient; the shared expert is a GELU MLP of hidden width 4·D
    times ``n_shared_experts``; and without routed experts the tokens themselves are added to it.

    Selections are counted by ours (:class:`~lzero.analysis.expert_statistics.ExpertSelectionStatistics`):
    windows of 10,000 and 100,000 forwards are rings of 100 buckets instead of one row per forward.

    Args:
        config: has ``embed_dim`` and, if there are any, ``n_shared_experts``; attributes or keys.
        experts: E modules from ``(T, D)`` to ``(T, D)``.
        gate: from ``(T, D)`` to logits ``(T, E)``.
        num_experts_per_tok: K.

    Raises:
        TypeError: if experts or gate are no modules.
        ValueError: if K is more than E.
    """

    def __init__(
        self,
        config: Any,
        experts: Sequence[nn.Module],
        gate: nn.Module,
        num_experts_per_tok: int = 1,
    ) -> None:
        super().__init__()
        self.dim = checks.count("config.embed_dim", _field(config, "embed_dim"))
        self.num_experts = len(experts)
        for index, expert in enumerate(experts):
            checks.instance(f"experts[{index}]", expert, nn.Module, "a module")
        checks.instance("gate", gate, nn.Module, "a module")
        most = self.num_experts or None  # without experts nothing is chosen
        self.num_experts_per_tok = checks.count(
            "num_experts_per_tok", num_experts_per_tok, most=most
        )
        self.gate, self.experts = gate, nn.ModuleList(experts)
        num_shared = checks.count(
            "config.n_shared_experts", _field(config, "n_shared_experts", 0), 0
        )
        hidden = num_shared * 4 * self.dim
        self.shared_expert = (
            nn.Sequential(nn.Linear(self.dim, hidden), nn.GELU(), nn.Linear(hidden, self.dim))
            if num_shared
            else None
        )
        self._statistics: dict[int, ExpertSelectionStatistics] = {}

    def forward(self, x: Tensor, task_id: int | None = None) -> Tensor:
        """Mix.

        Args:
            x: tokens ``(…, D)`` of one task.
            task_id: the task, whose selections are counted while training; None counts nothing.

        Raises:
            TypeError: if ``x`` is no tensor.
            ValueError: if its last axis is not D.
        """
        checks.instance("x", x, Tensor, "a tensor (…, D)")
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(f"x has shape {tuple(x.shape)}: allowed is (…, {self.dim})")
        x_TD = x.reshape(-1, self.dim)
        y_TD = x_TD if self.num_experts == 0 else self._mixed(x_TD, task_id)
        if self.shared_expert is not None:
            y_TD = y_TD + self.shared_expert(x_TD)
        return y_TD.view(x.shape)

    def _mixed(self, x_TD: Tensor, task_id: int | None) -> Tensor:
        kept_TK, chosen_TK = self.gate(x_TD).topk(self.num_experts_per_tok, dim=1)
        gates_TK = kept_TK.softmax(dim=1).to(x_TD.dtype)
        if self.training and task_id is not None:
            self._count(task_id, chosen_TK)
        segments = Segments.of(chosen_TK, self.num_experts)
        gates = gates_TK.flatten()[segments.order]
        y_TD, start = torch.zeros_like(x_TD), 0
        for expert, length in zip(self.experts, segments.counts.tolist(), strict=True):
            if length:
                rows = segments.token[start : start + length]
                weighted = expert(x_TD[rows]) * gates[start : start + length, None]
                y_TD.index_add_(0, rows, weighted.to(y_TD.dtype))
            start += length
        return y_TD

    @torch.no_grad()
    def _count(self, task_id: int, chosen_TK: Tensor) -> None:
        task = checks.count("task_id", task_id, 0)
        counts = torch.zeros(1, self.num_experts, dtype=torch.int64, device=chosen_TK.device)
        count_selections_(counts, torch.zeros_like(chosen_TK[:, 0]), chosen_TK)
        if task not in self._statistics:
            self._statistics[task] = ExpertSelectionStatistics(
                1, self.num_experts, chosen_TK.device
            )
        self._statistics[task].record(counts)

    def get_expert_selection_stats(self, task_id: int | None = None) -> dict[Any, Any]:
        """Selections by window: ``{task_id: {window: {…}}}``, or the windows of one task; empty for a
        task that was not seen.

        A window has tensors ``frequencies`` and ``total_counts`` ``(E,)``, ``total_selections``, and
        ``data_points``: forwards of this task in the window (in LightZero, of all tasks together).
        """
        if task_id is None:
            return {task: self.get_expert_selection_stats(task) for task in self._statistics}
        if task_id not in self._statistics:
            return {}
        found = {}
        selection = self._statistics[task_id].selection()
        for window, one in selection.stats(0)[0].items():
            counts = torch.from_numpy(one["total_counts"]).float()
            found[window] = {
                "frequencies": counts / counts.sum().clamp(min=1.0),
                "total_counts": counts,
                "total_selections": float(one["total_selections"]),
                "data_points": one["data_points"],
            }
        return found

    def reset_expert_selection_stats(self) -> None:
        """Forget all selections."""
        self._statistics.clear()


def _field(config: Any, name: str, default: Any = None) -> Any:
    if isinstance(config, Mapping):
        return config.get(name, default)
    return getattr(config, name, default)
