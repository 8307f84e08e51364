"""The loss of one update: masked means per task, exact on any number of ranks.

Shape legend: B = windows, S = H + 1 steps, H = unrolled transitions, T = tasks of the run, A = actions, D = latent width,
Q = loss terms that are means over steps, L = mixture-of-experts layers, E = routed experts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lzero.config import LossConfig
from lzero.distributed import Distributed
from lzero.model.unizero_world_models.world_model_multitask import WorldModelOutput
from lzero.nn.encoder import LatentNorm
from lzero.nn.scalars import ScalarSupport
from lzero.nn.tasks import TaskGroups
from lzero.policy.targets import Batch

TERMS = ("latent", "reward", "termination", "value", "policy", "entropy")
ILLEGAL_LOGIT = -1e9  # finite, so that 0 · log(0) stays 0


@dataclass(frozen=True)
class Sums:
    """What the loss needs of all windows together, added up over some of them.

    Attributes:
        terms: loss terms, added over the steps that count ``(Q, T)``.
        counts: how many steps those are ``(Q, T)``.
        moments: of the latents, see :func:`latent_moments`.
        load: choices of the experts that a balance loss steers ``(L, E)``; None where there is none.
    """

    terms: Tensor
    counts: Tensor
    moments: Tensor
    load: Tensor | None


@dataclass(frozen=True)
class ForwardPass:
    """Some windows, seen by the network.

    Attributes:
        latent: ``(B, S, D)``.
        output: predictions.
        sums: with the gradient of these windows.
        opened: likewise at steps whose latent is predicted; None where they are not run.
        groups: tasks of the B windows.
        activations: tensors at the points where the gradient is measured, by point.
    """

    latent: Tensor
    output: WorldModelOutput
    sums: Sums
    opened: Sums | None
    groups: TaskGroups
    activations: Mapping[str, list[Tensor]]


def loss_sums(
    latent: Tensor,
    output: WorldModelOutput,
    batch: Batch,
    num_tasks: int,
    support: ScalarSupport,
    latent_norm: LatentNorm,
) -> Sums:
    """Add up every loss term per task; the gradient flows through ``terms``.

    Args:
        latent: of the windows ``(B, S, D)``.
        output: predictions along them.
        batch: what they should have been.
        num_tasks: T.
        support: of value and reward.
        latent_norm: final norm of latents.
    """
    log_policy = output.policy.masked_fill(~batch.legal[:, None], ILLEGAL_LOGIT).log_softmax(dim=-1)
    survived = F.binary_cross_entropy_with_logits(
        output.termination, batch.terminated.float(), reduction="none"
    )
    unrolled = batch.acting[:, :-1]
    # in the order of TERMS
    terms = (
        (latent_loss(output.next_latent, batch.latent, latent_norm), batch.led_on),
        (support.cross_entropy(output.reward, batch.reward), unrolled),
        (survived, unrolled),
        (support.cross_entropy(output.value, batch.value), batch.acting),
        (-(batch.policy * log_policy).sum(dim=-1), batch.acting),
        (-(log_policy.exp() * log_policy).sum(dim=-1), batch.acting),
    )
    weight = batch.weight[:, None]
    by_row = torch.stack([torch.where(mask, loss * weight, 0.0).sum(dim=1) for loss, mask in terms])
    count_by_row = torch.stack([mask.sum(dim=1) for _, mask in terms]).float()
    empty = by_row.new_zeros(len(terms), num_tasks)
    task_id = batch.groups.task_id
    return Sums(
        terms=empty.index_add(1, task_id, by_row),
        counts=empty.index_add(1, task_id, count_by_row),
        moments=latent_moments(latent, task_id, num_tasks),
        load=None if output.balance is None else output.balance.load,
    )


def add_up(parts: Sequence[Sums], dist: Distributed) -> Sums:
    """Sums over parts of a batch and over all ranks, without gradient.

    One small reduction, which makes every mean a mean over all ranks: 1 and N ranks take the same step, whichever way the
    windows are cut.
    """
    first = parts[0]
    mine = [first.terms.detach(), first.counts, first.moments]
    if first.load is not None:
        mine.append(first.load)
    for part in parts[1:]:
        more = [part.terms.detach(), part.counts, part.moments]
        if part.load is not None:
            more.append(part.load)
        mine = [total + tensor for total, tensor in zip(mine, more, strict=True)]
    flat = dist.all_reduce_sum_(torch.cat([tensor.flatten() for tensor in mine]))
    pieces = flat.split([tensor.numel() for tensor in mine])
    terms, counts, moments, *load = (
        piece.view_as(tensor) for piece, tensor in zip(pieces, mine, strict=True)
    )
    return Sums(terms, counts, moments, load[0] if load else None)


def latent_moments(latent: Tensor, task_id: Tensor, num_tasks: int) -> Tensor:
    """Number, sum and sum of squares of the latents of each task ``(T, 1 + 2·D)``; they add up over ranks.

    Args:
        latent: ``(B, S, D)``.
        task_id: ``(B,)`` int64.
        num_tasks: T.
    """
    latent = latent.detach()
    number = latent.new_full((len(latent), 1), latent.shape[1])
    by_row = torch.cat([number, latent.sum(dim=1), latent.square().sum(dim=1)], dim=1)
    return by_row.new_zeros(num_tasks, by_row.shape[1]).index_add(0, task_id, by_row)


def spread_shortfall(latent: Tensor, task_id: Tensor, moments: Tensor, target: float) -> Tensor:
    """By how much the standard deviation of a latent dimension falls short of ``target``: mean over dimensions ``(T,)``.

    Without this term frames that look alike collapse: at first there is hardly any reward to tell them apart, and
    latents that are all the same are the easiest to predict. The value is that of the whole batch on every rank; the
    gradient is each rank's own part, so that gradients add up.

    Args:
        latent: of this rank, with gradient ``(B, S, D)``.
        task_id: ``(B,)`` int64.
        moments: of :func:`latent_moments`, over all ranks.
        target: standard deviation that is enough.

    Source: variance term of VICReg (arXiv 2105.04906, eq. 1), per task.
    """
    number = moments[:, :1].clamp_min(1.0)
    mean, mean_square = (moments[:, 1:] / number).chunk(2, dim=1)
    deviation = (mean_square - mean.square()).clamp_min(1e-6).sqrt()
    short = (target - deviation).clamp_min(0.0)
    value = torch.where(moments[:, 0] > 0, short.mean(dim=1), 0.0)
    # ∂ deviation / ∂ z = (z − mean) / (number · deviation)
    slope = torch.where(short > 0, -1 / (number * deviation * latent.shape[-1]), 0.0)
    centred = latent.detach() - mean[task_id][:, None]
    by_row = (slope[task_id][:, None] * centred * latent).sum(dim=(1, 2))
    carrier = torch.zeros_like(value).index_add(0, task_id, by_row)
    return value + carrier - carrier.detach()


def latent_loss(predicted: Tensor, target: Tensor, norm: LatentNorm) -> Tensor:
    """Next-latent loss ``(B, H)``: mean squared error, or with ``sim_norm`` the mean cross-entropy of the groups."""
    if norm.kind == "layer_norm":
        return (norm(predicted) - target).square().mean(dim=-1)
    groups = (-1, norm.GROUP)
    log_predicted = predicted.float().unflatten(-1, groups).log_softmax(dim=-1)
    return -(target.unflatten(-1, groups) * log_predicted).sum(dim=-1).mean(dim=-1)


def weighted_total(
    means: Tensor,
    spread: Tensor,
    config: LossConfig,
    entropy_weight: Tensor,
    opened: Tensor | None = None,
) -> Tensor:
    """Loss per task ``(T,)`` from the terms' means ``(Q, T)``, the spread's shortfall and entropy weights, both ``(T,)``,
    and the terms' means at steps whose latent is predicted ``(Q, T)``.
    """
    total = _weighted(means, config) + config.spread * spread - entropy_weight * means[-1]
    return total if opened is None else total + config.open_loop * _weighted(opened, config)


def _weighted(means: Tensor, config: LossConfig) -> Tensor:
    latent, reward, termination, value, policy, _ = means
    return (
        config.latent * latent
        + config.reward * reward
        + config.termination * termination
        + config.value * value
        + config.policy * policy
    )


class EntropyWeight:
    """Weight of the entropy bonus per task, constant or steered towards a falling target entropy.

    Adaptive: ``log w += rate · (target − entropy)``, with the target falling linearly from ``entropy_target_start`` to
    ``entropy_target_end`` (shares of ln A) over ``entropy_target_updates`` (after SAC, arXiv 1812.05905, section 5).

    Args:
        config: loss section.
        legal_actions: number of legal actions of each task ``(T,)``.
    """

    RATE = 1e-3
    LOG_LIMITS = (-12.0, 0.0)

    def __init__(self, config: LossConfig, legal_actions: Tensor) -> None:
        self.config = config
        self.max_entropy = legal_actions.float().log()
        self.log_weight = torch.full_like(self.max_entropy, max(config.entropy, 1e-12)).log()

    def weight(self) -> Tensor:
        """``(T,)``."""
        return (
            self.log_weight.exp()
            if self.config.entropy or self.config.adaptive_entropy
            else 0 * self.log_weight
        )

    def update_(self, entropy: Tensor, train_iter: int) -> None:
        """Steer after an update in which the tasks' mean entropies were ``(T,)`` nats."""
        config = self.config
        if not config.adaptive_entropy:
            return
        done = min(1.0, train_iter / config.entropy_target_updates)
        share = config.entropy_target_start + done * (
            config.entropy_target_end - config.entropy_target_start
        )
        # an entropy that is no number steers nowhere
        drift = (share * self.max_entropy - entropy).nan_to_num(0.0, 0.0, 0.0)
        self.log_weight = (self.log_weight + self.RATE * drift).clamp(*self.LOG_LIMITS)


def masked_means(sums: Tensor, counts: Tensor) -> Tensor:
    """Means ``(Q, T)``; a task without a valid step contributes 0."""
    return sums / counts.clamp_min(1.0)


def means_of(part: Sums | None, totals: Sums | None) -> Tensor | None:
    """The share of ``part`` in the means of ``totals``, which it belongs to ``(Q, T)``; None of nothing."""
    return None if part is None or totals is None else masked_means(part.terms, totals.counts)
