"""Which experts tokens see: the ways of a mixture that have no slots.

Shape legend: T = tokens, E = experts, K = experts per token, C = tokens per expert, G = tasks. A suffix names a tensor's
shape.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lzero import checks


@dataclass(frozen=True)
class Routing:
    """Which experts tokens see.

    Attributes:
        weights: of experts in tokens ``(T, E)``; 0 for an expert that a token does not see.
        chosen: experts that are counted for a token ``(T, K)``; None where experts choose.
        gates: their weights, where tokens see these alone ``(T, K)``; else None.
        tokens: that every expert chose ``(E, C)``; None where tokens choose.
        log_scores: logarithm of the router's probabilities ``(T, E)``; None without a router.
    """

    weights: Tensor
    chosen: Tensor | None = None
    gates: Tensor | None = None
    tokens: Tensor | None = None
    log_scores: Tensor | None = None


def tokens_see_chosen(
    gates_TK: Tensor, chosen_TK: Tensor, num_experts: int, logits_TE: Tensor | None = None
) -> Routing:
    """Every token sees the experts that were chosen for it and no others; ``logits_TE`` are those of a router that chose."""
    nothing_TE = gates_TK.new_zeros(len(gates_TK), num_experts)
    log_scores_TE = None if logits_TE is None else logits_TE.log_softmax(dim=-1)
    weights_TE = nothing_TE.scatter(1, chosen_TK, gates_TK)
    return Routing(weights_TE, chosen_TK, gates_TK, log_scores=log_scores_TE)


def tokens_see_all_or_top_k(
    logits_TE: Tensor, top_k: int, temperature: Tensor, is_hard: Tensor
) -> Routing:
    """Every token sees all experts by their probabilities at ``temperature``, or of these, if ``is_hard``, the top K alone.

    Probabilities are not renormalised: the lower the temperature, the smaller is what the top K leave out, and with it the step
    when ``is_hard`` is set. Both are scalars on the device: a branch would make the host wait for them.
    """
    log_scores_TE = (logits_TE / temperature).log_softmax(dim=-1)
    scores_TE = log_scores_TE.exp()
    chosen_TK = log_scores_TE.topk(top_k, dim=-1).indices
    is_chosen_TE = torch.zeros_like(scores_TE, dtype=torch.bool).scatter(1, chosen_TK, True)
    weights_TE = scores_TE.where(is_chosen_TE | ~is_hard, 0.0)
    return Routing(weights_TE, chosen_TK, log_scores=log_scores_TE)


def experts_choose(logits_TE: Tensor, top_k: int) -> Routing:
    """Every expert takes the ``T·K/E`` tokens, rounded up, that score it highest, and weighs them by these probabilities.

    Source: Zhou et al., "Mixture-of-Experts with Expert Choice Routing" (arXiv 2202.09368).
    """
    log_scores_TE = logits_TE.log_softmax(dim=-1)
    scores_TE = log_scores_TE.exp()
    num_tokens, num_experts = scores_TE.shape
    capacity = math.ceil(num_tokens * top_k / num_experts)
    tokens_EC = scores_TE.t().topk(capacity, dim=-1).indices
    is_chosen_TE = torch.zeros_like(scores_TE, dtype=torch.bool).scatter(0, tokens_EC.t(), True)
    weights_TE = scores_TE.where(is_chosen_TE, 0.0)
    return Routing(weights_TE, tokens=tokens_EC, log_scores=log_scores_TE)


def entropies(log_scores_TE: Tensor) -> Tensor:
    """Entropy of every row ``(T,)`` in nats; finite, with its gradient, where probabilities are 0 in this precision."""
    return -(log_scores_TE.exp() * log_scores_TE).sum(dim=-1)


class HasExperts(Protocol):
    """A config that says how many experts a layer has."""

    @property
    def num_experts(self) -> int:
        """E."""


def hardcoded_experts(num_tasks: int, config: HasExperts) -> Tensor:
    """Experts ``(G, K)`` that each task owns under ``hardcoded`` routing.

    With at least as many experts as tasks the sets are disjoint, each of ``E // G`` experts; otherwise tasks share.
    """
    share = max(1, config.num_experts // checks.count("num_tasks", num_tasks))
    first = torch.arange(num_tasks)[:, None] * share
    return (first + torch.arange(share)) % config.num_experts


def count_selections_(counts_GE: Tensor, task_T: Tensor, chosen_TK: Tensor) -> None:
    """Add to ``counts_GE`` how often each task chose each expert: one scatter on the device."""
    cell_TK = task_T[:, None] * counts_GE.shape[1] + chosen_TK
    ones_TK = torch.ones_like(cell_TK)
    counts_GE.view(-1).index_add_(0, cell_TK.flatten(), ones_TK.flatten())
