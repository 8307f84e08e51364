"""The multi-task UniZero policy: one update of the world model from replayed windows of all tasks.

Shape legend: B = windows of this rank (sorted by task), K = H + td + 1 frames of a window, H = unrolled transitions,
S = H + 1 steps, T = tasks of the run, A = actions, D = latent width.
"""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lzero.config import ExperimentConfig
from lzero.device import autocast, resolve_device, resolve_precision
from lzero.distributed import Distributed
from lzero.model.unizero_model_multitask import UniZeroMTModel, ema_update_, parameter_groups
from lzero.model.unizero_world_models.heads import TaskGroups
from lzero.policy.health import effective_rank, parameter_lag
from lzero.policy.losses import (
    TERMS,
    EntropyWeight,
    Targets,
    latent_moments,
    masked_means,
    spread_shortfall,
    task_sums,
    weighted_total,
)
from lzero.policy.scaling_transform import ScalarSupport
from lzero.policy.targets import episode_masks, step_masks, value_targets

if TYPE_CHECKING:
    from lzero.mcts.replay_buffer import ReplayWindows
    from lzero.policy.actor import Actor


@dataclass(frozen=True)
class LearnResult:
    """What one update measured; tensors stay on the device until somebody reads them.

    Attributes:
        task_means: means of the loss terms over all ranks ``(Q, T)``, rows as in ``losses.TERMS``.
        spread: how far the latents' spread falls short of its target ``(T,)``.
        task_losses: weighted loss of each task ``(T,)``.
        grad_norm: gradient norm before clipping, a scalar.
        value_error: |predicted − target| value at the first step of each window ``(B,)``.
    """

    task_means: Tensor
    spread: Tensor
    task_losses: Tensor
    grad_norm: Tensor
    value_error: Tensor


class UniZeroMTPolicy:
    """Online and target network, optimiser, and the update.

    Args:
        config: the experiment.
        observation_shape: ``(C, H, W)`` or ``(F,)``, padded over tasks.
        legal_actions: ``(T, A)`` bool, the action set of every task of the run.
        dist: process group of the run.

    Source: UniZero (arXiv 2406.10667), eq. 5; targets as in MuZero (arXiv 1911.08265).
    """

    def __init__(
        self,
        config: ExperimentConfig,
        observation_shape: tuple[int, ...],
        legal_actions: np.ndarray,
        dist: Distributed | None = None,
    ) -> None:
        self.config = config
        self.dist = dist or Distributed()
        self.device = resolve_device(config.device, self.dist.local_rank)
        self.dtype = resolve_precision(config.precision, self.device)
        model_config = config.model
        self.model = UniZeroMTModel(model_config, observation_shape, legal_actions.shape[1], config.num_tasks)
        self.model.to(self.device).eval()
        self.dist.broadcast_parameters_(self.model)
        self.target = copy.deepcopy(self.model).requires_grad_(False)
        limit = model_config.support_limit
        self.support = ScalarSupport(model_config.support_bins, -limit, limit, model_config.label_smoothing)
        self.legal = torch.as_tensor(legal_actions, device=self.device)
        self.entropy_weight = EntropyWeight(config.policy.loss, self.legal.sum(dim=1))
        optimiser = config.policy.optimiser
        self.optimiser = torch.optim.AdamW(
            parameter_groups(self.model, optimiser.weight_decay),
            lr=optimiser.learning_rate,
            betas=(optimiser.beta1, optimiser.beta2),
            fused=True,
        )
        self.train_iter = 0

    def autocast(self) -> AbstractContextManager:
        """Context in which the networks run at the precision of the run."""
        return autocast(self.device, self.dtype)

    def learn(self, windows: "ReplayWindows") -> LearnResult:
        """One update: targets, loss of all tasks in one forward, gradient summed over ranks, clipped, applied.

        Args:
            windows: this rank's share of the batch, from its replay ring.
        """
        groups = self.model.groups(windows.task_id)
        observation = windows.observation.to(self.device, non_blocking=True)
        action = windows.action.to(self.device, non_blocking=True)
        targets = self._targets(windows, observation, action, groups)

        self.model.train()
        steps = self.config.policy.unroll_steps + 1
        with self.autocast():
            latent, output = self.model(observation[:, :steps], action[:, : steps - 1], groups)
        norm = self.model.encoder.norm
        sums = task_sums(output, targets, groups.task_id, self.config.num_tasks, self.support, norm)
        # One small reduction makes every mean a mean over all ranks, so 1 and N ranks take the same step.
        moments = latent_moments(latent, groups.task_id, self.config.num_tasks)
        parts = (sums.sums.detach(), sums.counts, moments.t())
        reduced = self.dist.all_reduce_sum_(torch.cat(parts))
        global_sums, global_counts, moments = reduced.split([len(part) for part in parts])
        weights, entropy_weight = self.config.policy.loss, self.entropy_weight.weight()
        spread = spread_shortfall(latent, groups.task_id, moments.t(), weights.spread_target * norm.full_spread)
        local_means = masked_means(sums.sums, global_counts)
        loss = weighted_total(local_means, spread, weights, entropy_weight).mean()
        if output.balance_loss is not None:
            loss = loss + output.balance_loss / self.dist.world_size
        loss.backward()
        self.model.eval()
        grad_norm = self._step()

        task_means = masked_means(global_sums, global_counts)
        self.entropy_weight.update_(task_means[TERMS.index("entropy")], self.train_iter)
        first_value = self.support.expectation(output.value[:, 0].detach())
        return LearnResult(
            task_means=task_means,
            spread=spread.detach(),
            task_losses=weighted_total(task_means, spread.detach(), weights, entropy_weight),
            grad_norm=grad_norm,
            value_error=(first_value - targets.value[:, 0]).abs(),
        )

    @torch.no_grad()
    def _targets(self, windows: "ReplayWindows", observation: Tensor, action: Tensor, groups: TaskGroups) -> Targets:
        """Targets from one pass of the target network over the whole window, history included."""
        policy = self.config.policy
        steps = policy.unroll_steps + 1
        reward, terminated, truncated, reset, visits, weight = (
            x.to(self.device, non_blocking=True)
            for x in (
                windows.reward,
                windows.terminated,
                windows.truncated,
                windows.reset,
                windows.visits,
                windows.weight,
            )
        )
        with self.autocast():
            latent = self.target.encode(observation, groups.task_id[:, None].expand(observation.shape[:2]))
            value = self.target.world_model.value_logits(latent, action[:, :-1], groups)
            visits = self._reanalysed(visits[:, :steps], latent, action, groups)
        acting, observed = episode_masks(terminated, truncated, reset)
        return Targets(
            latent=latent[:, 1:steps],
            reward=reward[:, : steps - 1],
            terminated=terminated[:, : steps - 1],
            value=value_targets(
                reward,
                acting,
                observed,
                self.support.expectation(value),
                discount=policy.discount,
                td_steps=policy.td_steps,
                num_steps=steps,
            ),
            policy=visits,
            masks=step_masks(acting, observed, num_steps=steps),
            legal=self.legal[groups.task_id],
            weight=weight,
        )

    def _reanalysed(self, visits: Tensor, latent: Tensor, action: Tensor, groups: TaskGroups) -> Tensor:
        """Stored visit distributions ``(B, S, A)``, a share of the windows searched anew with the target network.

        The share is spread evenly over the batch, which is sorted by task: every task gets its part.
        """
        fraction = self.config.policy.reanalyse_fraction
        if fraction == 0.0:
            return visits
        from lzero.policy.reanalyse import reanalysed_policy

        windows, steps = visits.shape[:2]
        chosen = torch.linspace(0, windows - 1, max(1, round(fraction * windows)), device=self.device).round().long()
        task_id = groups.task_id[chosen]
        fresh = reanalysed_policy(
            self.target,
            self.support,
            self.config,
            latent[chosen, :steps],
            action[chosen, :steps],
            task_id,
            self.legal[task_id],
        )
        return visits.index_copy(0, chosen, fresh)

    def _step(self) -> Tensor:
        """Sum gradients over ranks, clip, step, and let the target follow; the norm before clipping."""
        parameters = list(self.model.parameters())
        self.dist.all_reduce_gradients_(parameters)
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.policy.optimiser.max_grad_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self._balance_experts()
        ema_update_(self.target, self.model, self.config.policy.target_momentum)
        self.train_iter += 1
        return grad_norm

    @torch.no_grad()
    def _balance_experts(self) -> None:
        """Aux-loss-free balancing: move each router's selection bias against the load over all ranks."""
        if self.config.model.moe.balance != "bias":
            return
        for layer in self.model.balance_layers():
            load = self.dist.all_reduce_sum_(layer.selection_counts.sum(dim=0))
            layer.update_selection_bias(load)
            layer.selection_counts.zero_()

    def scalars(self, result: LearnResult) -> dict[str, float]:
        """Metrics of an update as plain numbers, keyed by name; waits for the device."""
        means, spread, losses = result.task_means.cpu(), result.spread.cpu(), result.task_losses.cpu()
        entropy_weight = self.entropy_weight.weight().cpu()
        grad_norm = result.grad_norm.item()
        metrics = {
            "learn/grad_norm": grad_norm,
            "learn/grad_norm_clipped": min(grad_norm, self.config.policy.optimiser.max_grad_norm),
            "learn/loss": losses.mean().item(),
            "learn/spread": spread.mean().item(),
        }
        for index, name in enumerate(TERMS):
            metrics[f"learn/{name}"] = means[index].mean().item()
        for task, game in enumerate(self.config.env.games):
            metrics[f"learn_loss/{game}"] = losses[task].item()
            metrics[f"learn_spread/{game}"] = spread[task].item()
            metrics |= {f"learn_{name}/{game}": means[index, task].item() for index, name in enumerate(TERMS)}
            if self.config.policy.loss.adaptive_entropy:
                metrics[f"learn_entropy_weight/{game}"] = entropy_weight[task].item()
        return metrics

    @torch.no_grad()
    def latent_health(self, windows: "ReplayWindows") -> np.ndarray:
        """Effective rank of each task's latents and their mean length before the final norm; waits for the device.

        Two frames of every window are looked at, which bounds the rank.

        Returns:
            ``(2, T)`` float64, NaN for tasks that ``windows`` does not hold.
        """
        health = np.full((2, self.config.num_tasks), np.nan)
        for task in np.unique(windows.task_id.numpy()):
            frames = windows.observation[windows.task_id == task][:, [0, self.config.policy.unroll_steps]]
            frames = frames.flatten(0, 1).to(self.device)
            with self.autocast():
                latent = self.model.encoder.unnormalised(frames, torch.full((len(frames),), task, device=self.device))
            health[0, task] = effective_rank(self.model.encoder.norm(latent)).item()
            health[1, task] = latent.float().norm(dim=-1).mean().item()
        return health

    def target_lag(self) -> float:
        """Distance of the target network's parameters from the online network's, relative to those; waits for the device."""
        return parameter_lag(self.model, self.target).item()

    def actor(self, task_id: np.ndarray, legal: np.ndarray, rng: np.random.Generator | None) -> "Actor":
        """An actor for environments of tasks ``task_id (N,)`` with ``legal (N, A)`` actions.

        With ``rng`` it explores (collecting); without, it takes the most visited action (evaluating).
        """
        from lzero.policy.actor import Actor  # compiles the search's kernels: not a cost of importing this module

        return Actor(
            self.model,
            self.support,
            self.autocast,
            self.config.model,
            self.config.policy.search,
            discount=self.config.policy.discount,
            task_id=task_id,
            legal=legal,
            rng=rng,
        )

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """Everything that a checkpoint keeps besides the optimiser, by file."""
        return {
            "model": self.model.state_dict(),
            "target": self.target.state_dict(),
            "entropy": {"log_weight": self.entropy_weight.log_weight},
        }

    def load_tensors(self, load: Callable[[str], Mapping[str, Tensor]]) -> None:
        """Take over the tensors of a checkpoint; ``load(name)`` reads one of its files, see :meth:`tensors`."""
        self.model.load_state_dict(load("model"))
        self.target.load_state_dict(load("target"))
        self.entropy_weight.log_weight = load("entropy")["log_weight"]
