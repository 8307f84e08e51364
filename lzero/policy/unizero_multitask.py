"""The multi-task UniZero policy: one update of the world model from replayed windows of all tasks.

Shape legend: B = windows of this rank (sorted by task), K = H + td + 1 frames of a window, H = unrolled transitions,
S = H + 1 steps, T = tasks of the run, A = actions, D = latent width.
"""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from lzero.analysis.aggregation import Aggregator
from lzero.analysis.conflict import GradientConflict, gram_matrices
from lzero.analysis.expert_statistics import ExpertSelection, ExpertSelectionRecorder
from lzero.analysis.plasticity import (
    effective_rank,
    measure_plasticity,
    norms_by_module,
    parameter_lag,
    parameter_norms,
)
from lzero.analysis.points import ActivationPoint, MeasuringPoint
from lzero.analysis.task_gradients import TaskGradients, TaskLoss
from lzero.config import ExperimentConfig
from lzero.device import autocast, resolve_device, resolve_precision, torch_threads
from lzero.distributed import Distributed
from lzero.model.unizero_model_multitask import UniZeroMTModel, ema_update_, parameter_groups
from lzero.nn.scalars import ScalarSupport
from lzero.nn.tasks import TaskGroups
from lzero.policy.losses import TERMS, EntropyWeight, Targets, masked_means, weighted_total
from lzero.policy.points import module_of, standard_points, unit_groups
from lzero.policy.targets import episode_masks, step_masks, value_targets
from lzero.policy.update import Batch, Pass, Totals, windows_by_task

if TYPE_CHECKING:
    from lzero.replay.buffer import ReplayWindows

# Multiplications of a token pass and an encoder below which an update gains nothing by a second thread.
SMALL_UPDATE = 7e6


@dataclass(frozen=True)
class LearnResult:
    """What one update measured; tensors stay on the device until somebody reads them.

    Attributes:
        task_means: means of the loss terms over all ranks ``(Q, T)``, rows as in ``losses.TERMS``.
        spread: how far the latents' spread falls short of its target ``(T,)``.
        task_losses: weighted loss of each task ``(T,)``.
        grad_norm: gradient norm before clipping, a scalar.
        gradient_norms: that of every parameter ``(P,)``, as in ``model.parameters()``.
        value_error: |predicted − target| value at the first step of each window ``(B,)``.
        grams: Gram matrices of the tasks' gradients by measuring point ``(T, T)``; empty if the update measured none.
    """

    task_means: Tensor
    spread: Tensor
    task_losses: Tensor
    grad_norm: Tensor
    gradient_norms: Tensor
    value_error: Tensor
    grams: Mapping[str, Tensor] = field(default_factory=dict)


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
        own = {id(parameter) for parameter in self.model.task_parameters()}
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._shared = [parameter for parameter in trained if id(parameter) not in own]
        self._own = [parameter for parameter in trained if id(parameter) in own]
        self.expert_statistics = ExpertSelectionRecorder(self.model.world_model.transformer.routed_layers())
        self._points: dict[str, MeasuringPoint] = standard_points(self.model)
        kind = config.policy.gradient_aggregator
        self._aggregator = None if kind == "mean" else Aggregator(kind, config.policy.cagrad_c)

    def measuring_points(self) -> dict[str, MeasuringPoint]:
        """Where gradient conflict is measured, by component; research code adds its own points to this dict."""
        return self._points

    def unit_groups(self) -> dict[str, nn.Module]:
        """Modules whose units plasticity looks at, by name."""
        return unit_groups(self.model)

    def autocast(self) -> AbstractContextManager:
        """Context in which the networks run at the precision of the run."""
        return autocast(self.device, self.dtype)

    def learn(self, windows: "ReplayWindows") -> LearnResult:
        """One update: targets, loss of all tasks in one forward, gradient summed over ranks, clipped, applied.

        Args:
            windows: this rank's share of the batch, from its replay ring.
        """
        with torch_threads(1 if self._is_small(windows) else None):
            return self._learn(windows)

    def _is_small(self, windows: "ReplayWindows") -> bool:
        """Whether waking a second CPU thread costs more than it computes."""
        tokens = 2 * windows.action.numel()
        work = tokens * self.config.model.embed_dim**2 + 16 * windows.observation.numel()  # of the narrowest encoder
        return self.device.type == "cpu" and work < SMALL_UPDATE

    def _learn(self, windows: "ReplayWindows") -> LearnResult:
        config, num_tasks = self.config, self.config.num_tasks
        batch = self._batch(windows)
        points = self._points if self.measures_conflict else {}
        # one pass over the whole batch, or, where every task's gradient is wanted, one over the rows of each task
        parts = {None: batch} if not points and self._aggregator is None else batch.by_task(windows_by_task(windows.task_id))
        activations = {name: point for name, point in points.items() if isinstance(point, ActivationPoint)}

        self.model.train()
        with self.autocast():
            passes = {
                task: Pass.of(part, self.model, self.support, num_tasks, activations) for task, part in parts.items()
            }
        totals = Totals.of(list(passes.values()), self.dist)
        spreads = {task: totals.spread(part, self.model, config) for task, part in passes.items()}
        entropy_weight = self.entropy_weight.weight()
        losses = {task: totals.loss(part, spreads[task], entropy_weight, config) for task, part in passes.items()}
        if None in losses:
            losses[None].backward()
            grams = {}
        else:
            grams = self._backward_by_task(passes, losses, points, totals)
        self.model.eval()
        gradient_norms = self._step(present=totals.moments[:, 0] > 0)

        task_means, spread = masked_means(totals.sums, totals.counts), next(iter(spreads.values())).detach()
        self.entropy_weight.update_(task_means[TERMS.index("entropy")], self.train_iter)
        first_value = torch.cat([part.output.value[:, 0].detach() for part in passes.values()])
        return LearnResult(
            task_means=task_means,
            spread=spread,
            task_losses=weighted_total(task_means, spread, config.policy.loss, entropy_weight),
            grad_norm=gradient_norms.norm(),
            gradient_norms=gradient_norms,
            value_error=(self.support.expectation(first_value) - batch.targets.value[:, 0]).abs(),
            grams=grams,
        )

    @property
    def measures_conflict(self) -> bool:
        """Whether the next update measures the conflict between the tasks' gradients."""
        interval = self.config.policy.gradient_conflict_interval
        return self.config.num_tasks > 1 and interval > 0 and self.train_iter % interval == 0

    def conflicts(self, result: LearnResult) -> dict[str, GradientConflict]:
        """Gradient conflict by component; empty if the update measured none. Waits for the device."""
        if not result.grams:
            return {}
        return dict(zip(result.grams, GradientConflict.from_grams(torch.stack(list(result.grams.values()))), strict=True))

    def _backward_by_task(
        self,
        passes: Mapping[int, Pass],
        losses: Mapping[int, Tensor],
        points: Mapping[str, MeasuringPoint],
        totals: Totals,
    ) -> dict[str, Tensor]:
        """Set the gradient from those of the tasks; Gram matrices by measuring point.

        Each loss carries 1 / T, so with weights of one the rows add up to the gradient of a plain update.
        """
        num_windows = totals.moments[:, 0] / (self.config.policy.unroll_steps + 1)
        task_losses = [
            TaskLoss(task, losses[task], part.activations, len(part.task_id) / num_windows[task])
            for task, part in passes.items()
        ]
        found = TaskGradients.of(self._shared, self._own, points, task_losses)
        num_tasks = self.config.num_tasks
        grams = gram_matrices(found.rows, found.layout.lengths, found.tasks, num_tasks)
        weights = torch.ones(num_tasks, dtype=torch.float64, device=self.device)
        if self._aggregator is not None:  # one rank decides: some ways are random
            weights = num_tasks * self._aggregator.weights(found.layout.whole_gram(grams)) * self.dist.is_main
            self.dist.all_reduce_sum_(weights)
        found.combine_(weights)
        return found.layout.component_grams(grams * num_tasks**2)

    def _batch(self, windows: "ReplayWindows") -> Batch:
        """Windows on the device, with their targets."""
        groups = self.model.groups(windows.task_id)
        observation = windows.observation.to(self.device, non_blocking=True)
        action = windows.action.to(self.device, non_blocking=True)
        targets = self._targets(windows, observation, action, groups)
        steps = self.config.policy.unroll_steps + 1
        return Batch(observation[:, :steps], action[:, : steps - 1], targets, groups)

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

    def _step(self, present: Tensor) -> Tensor:
        """Sum gradients over ranks, clip, step, and let the target follow; norms ``(P,)`` before clipping.

        Args:
            present: ``(T,)`` bool, tasks with windows on any rank.
        """
        parameters = list(self.model.parameters())
        self.dist.all_reduce_gradients_(parameters)
        norms = torch.stack(torch._foreach_norm([parameter.grad for parameter in parameters]))
        torch.nn.utils.clip_grads_with_norm_(parameters, self.config.policy.optimiser.max_grad_norm, norms.norm())
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self._count_experts(present)
        ema_update_(self.target, self.model, self.config.policy.target_momentum)
        self.train_iter += 1
        return norms

    @torch.no_grad()
    def _count_experts(self, present: Tensor) -> None:
        """Put the update's expert choices on record; balancing without a loss moves each router's bias against them."""
        if self.config.model.moe.balance == "bias":
            for layer in self.model.world_model.transformer.routed_layers().values():
                layer.update_selection_bias(self.dist.all_reduce_sum_(layer.selection_counts.sum(dim=0)))
        self.expert_statistics.record(present)

    def expert_selection(self) -> dict[int, ExpertSelection]:
        """How often each task chose each expert, by layer, over all ranks; empty without routed experts."""
        return self.expert_statistics.reduced()

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

    def plasticity(self, windows: "ReplayWindows", result: LearnResult) -> dict[str, float]:
        """Dormant units, routers' entropy, and norms of weights and gradients by module; collective, waits for the device."""
        steps = self.config.policy.unroll_steps + 1
        observation = windows.observation[:, :steps].to(self.device)
        action = windows.action[:, : steps - 1].to(self.device)
        with self.autocast():
            arguments = (observation, action, self.model.groups(windows.task_id))
            metrics = measure_plasticity(self.model, self.unit_groups(), arguments, self.dist)
        modules = [module_of(name) for name, _ in self.model.named_parameters()]
        for name, norms in {
            "weight_norm": norms_by_module(modules, parameter_norms(self.model)),
            "gradient_norm": norms_by_module(modules, result.gradient_norms),
        }.items():
            metrics |= {f"plasticity/{name}/{module}": norm for module, norm in norms.items()}
        return metrics

    def target_lag(self) -> float:
        """Distance of the target network's parameters from the online network's, relative to those; waits for the device."""
        return parameter_lag(self.model, self.target).item()

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """Everything that a checkpoint keeps besides the optimiser, by file; every rank must call it."""
        return {
            "model": self.model.state_dict(),
            "target": self.target.state_dict(),
            "entropy": {"log_weight": self.entropy_weight.log_weight},
            "expert_selection": self.expert_statistics.state(),
        }

    def load_tensors(self, load: Callable[[str], Mapping[str, Tensor]]) -> None:
        """Take over the tensors of a checkpoint; ``load(name)`` reads one of its files, see :meth:`tensors`."""
        self.model.load_state_dict(load("model"))
        self.target.load_state_dict(load("target"))
        self.entropy_weight.log_weight = load("entropy")["log_weight"]
        self.expert_statistics.load_state(load("expert_selection"), is_main=self.dist.is_main)
