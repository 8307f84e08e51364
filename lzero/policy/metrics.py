"""What an update measured, and the numbers that are logged of it.

Shape legend: B = windows of this rank, T = tasks of the run, P = parameters, Q = loss terms (``losses.TERMS``).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lzero import tags
from lzero.analysis.conflict import GradientConflict, HalfGrams
from lzero.analysis.effective_rank import effective_rank
from lzero.analysis.parameter_norms import norms_by_module, parameter_lag, parameter_norms
from lzero.analysis.plasticity import measure_plasticity
from lzero.model.unizero_world_models.world_model_multitask import Timeline
from lzero.nn.scalars import ScalarSupport
from lzero.nn.tasks import TaskGroups
from lzero.policy.losses import TERMS
from lzero.policy.points import module_of
from lzero.policy.targets import Batch

if TYPE_CHECKING:
    from lzero.policy.unizero_multitask import UniZeroMTPolicy
    from lzero.replay.windows import ReplayWindows


@dataclass(frozen=True)
class LearnResult:
    """What one update measured; tensors stay on the device until somebody reads them.

    Attributes:
        task_means: means of the loss terms over all ranks ``(Q, T)``.
        open_means: means at steps whose latent is predicted ``(Q, T)``; None without ``loss.open_loop``.
        spread: how far the latents' spread falls short of its target ``(T,)``.
        task_losses: weighted loss of each task ``(T,)``.
        grad_norm: gradient norm before clipping, a scalar.
        gradient_norms: that of every trained parameter ``(P,)``, in the order of ``model.parameters()``.
        counts: of this rank's steps, see :func:`counts_of` ``(4, T)``.
        value_error: |predicted − target| value, mean over the acting steps of each window ``(B,)``.
        measured: scalar products of the tasks' gradients; None if no update measured conflict.
    """

    task_means: Tensor
    open_means: Tensor | None
    spread: Tensor
    task_losses: Tensor
    grad_norm: Tensor
    gradient_norms: Tensor
    counts: Tensor
    value_error: Tensor
    measured: HalfGrams | None

    def conflicts(self) -> dict[str, GradientConflict]:
        """Gradient conflict by measuring point; empty if the update measured none. Waits for the device."""
        return {} if self.measured is None else self.measured.conflicts()


def update_metrics(policy: "UniZeroMTPolicy", result: LearnResult) -> dict[str, float]:
    """Losses and gradient norm of an update as plain numbers, by tag; waits for the device."""
    config = policy.config
    means, spread, losses = result.task_means.cpu(), result.spread.cpu(), result.task_losses.cpu()
    entropy_weight = policy.entropy_weight.weight().cpu()
    grad_norm = result.grad_norm.item()
    metrics = {
        f"{tags.LEARN}grad_norm": grad_norm,
        f"{tags.LEARN}grad_norm_clipped": min(grad_norm, config.policy.optimiser.max_grad_norm),
        f"{tags.LEARN}loss": losses.mean().item(),
        f"{tags.LEARN}spread": spread.mean().item(),
        f"{tags.LEARN}skipped_updates": float(policy.skipped.item()),
    }
    for index, name in enumerate(TERMS):
        metrics[f"{tags.LEARN}{name}"] = means[index].mean().item()
    if result.open_means is not None:
        for name, mean in zip(TERMS, result.open_means.cpu().mean(dim=1).tolist(), strict=True):
            metrics[f"{tags.LEARN}open_loop_{name}"] = mean
    for task, game in enumerate(config.env.games):
        metrics[f"learn_loss/{game}"] = losses[task].item()
        metrics[f"learn_spread/{game}"] = spread[task].item()
        for index, name in enumerate(TERMS):
            metrics[f"learn_{name}/{game}"] = means[index, task].item()
        if config.policy.loss.adaptive_entropy:
            metrics[f"learn_entropy_weight/{game}"] = entropy_weight[task].item()
    return metrics


def counts_of(batch: Batch, reward: Tensor, support: ScalarSupport, num_tasks: int) -> Tensor:
    """Steps of a batch by task ``(4, T)``: those whose return is larger than values can say, and all that act; those with a
    reward that is predicted by half or more, and all with a reward.

    Args:
        batch: what was learned from.
        reward: predicted ``(B, H)``.
        support: of values.
        num_tasks: T.
    """
    rewarded = batch.acting[:, :-1] & (batch.reward != 0)
    recalled = rewarded & (reward * batch.reward >= 0.5 * batch.reward.square())
    saturated = batch.acting & support.saturates(batch.value)
    by_row = torch.stack(
        [part.sum(dim=1) for part in (saturated, batch.acting, recalled, rewarded)]
    )
    counts = torch.zeros(4, num_tasks, device=reward.device)
    return counts.index_add(1, batch.groups.task_id, by_row.float())


def count_metrics(policy: "UniZeroMTPolicy", result: LearnResult) -> dict[str, float]:
    """By game, the share of an update's returns that are larger than values can say, and of its rewards that are predicted.

    Far more rewards recalled here than in acting (``health/reward_recall``) are known by heart. Collective; waits for the
    device.
    """
    saturated, acting, recalled, rewarded = policy.dist.all_reduce_sum_(result.counts).cpu().numpy()
    metrics = {}
    for name, part, whole in (
        (tags.SATURATED, saturated, acting),
        (tags.REWARD_RECALL, recalled, rewarded),
    ):
        for task in np.flatnonzero(whole):
            game = policy.config.env.games[task]
            metrics[tags.of_game(name, game)] = float(part[task] / whole[task])
    return metrics


def health_metrics(policy: "UniZeroMTPolicy", windows: "ReplayWindows") -> dict[str, float]:
    """How far the target network lags, and by game the effective rank and the length of the latents.

    Collective; waits for the device. Two frames of every window are looked at, which bounds the rank.
    """
    metrics = {f"{tags.HEALTH}target_lag": parameter_lag(policy.model, policy.target).item()}
    ranks = np.stack(policy.dist.all_gather_array(_latent_health(policy, windows)))  # (ranks, 2, T)
    seen = ~np.isnan(ranks)
    values = np.where(seen, ranks, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    for row, name in enumerate(("effective_rank", "latent_norm")):
        for task, game in enumerate(policy.config.env.games):
            if seen[:, row, task].any():
                metrics[tags.of_game(f"{tags.HEALTH}{name}", game)] = values[row, task]
    return metrics


@torch.no_grad()
def _latent_health(policy: "UniZeroMTPolicy", windows: "ReplayWindows") -> np.ndarray:
    """Effective rank of each task's latents and their mean length before the final norm ``(2, T)``; NaN without windows."""
    encoder, health = policy.model.encoder, np.full((2, policy.num_tasks), np.nan)
    for task in np.unique(windows.task_id.numpy()):
        first = policy.config.policy.burn_in_steps
        frames = windows.observation[windows.task_id == task][
            :, [first, first + policy.config.policy.unroll_steps]
        ]
        frames = frames.flatten(0, 1).to(policy.device)
        with policy.autocast():
            latent = encoder.unnormalised(
                frames, torch.full((len(frames),), task, device=policy.device)
            )
        health[0, task] = effective_rank(encoder.norm(latent)).item()
        health[1, task] = latent.float().norm(dim=-1).mean().item()
    return health


def plasticity_metrics(
    policy: "UniZeroMTPolicy", windows: "ReplayWindows", result: LearnResult
) -> dict[str, float]:
    """Dormant units, routers' entropy, and norms of weights and gradients by module; collective, waits for the device."""
    first = policy.config.policy.burn_in_steps
    last = first + policy.config.policy.unroll_steps
    observation = windows.observation[:, first : last + 1].to(policy.device)
    action = windows.action[:, first:last].to(policy.device)
    timeline = Timeline(windows.episode[:, first : last + 1].to(policy.device))
    arguments = (observation, action, TaskGroups.of(windows.task_id, policy.device), timeline)
    with policy.autocast():
        metrics = measure_plasticity(policy.model, policy.unit_groups(), arguments, policy.dist)
    modules, with_gradient = [], []
    for name, parameter in policy.model.named_parameters():
        modules.append(module_of(name))
        if parameter.requires_grad:
            with_gradient.append(module_of(name))
    for prefix, names, norms in (
        (tags.WEIGHT_NORM, modules, parameter_norms(policy.model)),
        (tags.GRADIENT_NORM, with_gradient, result.gradient_norms),
    ):
        for module, norm in norms_by_module(names, norms).items():
            metrics[f"{prefix}{module}"] = norm
    return metrics
