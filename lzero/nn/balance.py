"""The auxiliary loss that keeps experts evenly used, in sums that add up over parts of a batch and over ranks.

Shape legend: T = tokens, E = routed experts, K = experts per token, L = layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lzero.config import MoEConfig


@dataclass(frozen=True)
class BalanceSums:
    """What the loss needs of some tokens, added up over them.

    Attributes:
        load: (token, choice) pairs of every expert ``(…, E)``; no gradient.
        scores: router scores ``(…, E)``.
        z: squared log-sum-exp of the router's logits ``(…,)``.
    """

    load: Tensor
    scores: Tensor
    z: Tensor

    @classmethod
    def of(cls, chosen_TK: Tensor, scores_TE: Tensor, logits_TE: Tensor) -> "BalanceSums":
        """Sums of one layer."""
        pairs = chosen_TK.flatten()
        load = scores_TE.new_zeros(scores_TE.shape[1]).index_add(
            0, pairs, scores_TE.new_ones(len(pairs))
        )
        return cls(load, scores_TE.sum(dim=0), logits_TE.logsumexp(dim=-1).square().sum())

    @classmethod
    def stack(cls, layers: Sequence["BalanceSums"]) -> "BalanceSums":
        """Sums of all layers, with a leading axis L."""
        return cls(
            load=torch.stack([layer.load for layer in layers]),
            scores=torch.stack([layer.scores for layer in layers]),
            z=torch.stack([layer.z for layer in layers]),
        )

    def loss(self, load: Tensor, config: MoEConfig) -> Tensor:
        """This part's share of the loss, added over layers: a scalar; the shares of all parts add up to the loss.

        Args:
            load: of all parts on all ranks ``(L, E)``.
            config: weights of the two terms.

        Source: load loss of Switch Transformer (arXiv 2101.03961, eq. 4), router z-loss (arXiv 2202.08906, eq. 5).
        """
        pairs = load.sum(dim=-1)
        top_k = config.num_experts if config.routing == "soft" else config.top_k
        tokens = pairs / top_k
        share, mean_score = load / pairs[:, None], self.scores / tokens[:, None]
        load_loss = config.num_experts * (share * mean_score).sum()
        return config.aux_loss_weight * load_loss + config.z_loss_weight * (self.z / tokens).sum()
