"""The multi-task UniZero policy: one update of the world model from replayed windows of all tasks.

Shape legend: B = windows of this rank (sorted by task), K = S + td steps frames of a window, H = unrolled transitions,
S = H + 1 steps, T = tasks of the run, A = actions, D = latent width, P = parameters, Q = loss terms (``losses.TERMS``).
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor, nn

from lzero import checks
from lzero.analysis.aggregation import Aggregator
from lzero.analysis.conflict import HalfGrams, gram_matrices
from lzero.analysis.expert_recorder import ExpertSelectionRecorder
from lzero.analysis.points import MeasuringPoint, captured
from lzero.analysis.task_gradients import TaskGradients, TaskLoss
from lzero.config import ExperimentConfig
from lzero.device import autocast, resolve_device, resolve_precision, tuned_for
from lzero.distributed import Distributed
from lzero.model.unizero_model_multitask import UniZeroMTModel
from lzero.nn.parameters import adamw, ema_update_, trained
from lzero.nn.scalars import ScalarSupport
from lzero.nn.tasks import check_legal_actions
from lzero.policy.exported import policy_from_export
from lzero.policy.losses import (
    TERMS,
    EntropyWeight,
    ForwardPass,
    add_up,
    loss_sums,
    masked_means,
    means_of,
    spread_shortfall,
    weighted_total,
)
from lzero.policy.metrics import LearnResult, counts_of
from lzero.policy.open_loop import open_loop_sums
from lzero.policy.parts import Part, half_tasks, whole_tasks
from lzero.policy.points import standard_points, unit_groups
from lzero.policy.state import load_state_of_, state_of
from lzero.policy.targets import Batch, make_batch

if TYPE_CHECKING:
    from lzero.replay.windows import ReplayWindows


class UniZeroMTPolicy:
    """Online and target network, optimizer, and the update.

    Args:
        config: the experiment.
        observation_shape: ``(C, H, W)`` or ``(F,)``, padded over tasks.
        legal_actions: ``(T, A)`` bool, the action set of every task of the run.
        dist: process group of the run.
        model: to go on with, of this config (TypeError or ValueError if it is not); None makes one.

    Source: UniZero (arXiv 2406.10667), eq. 5; targets as in MuZero (arXiv 1911.08265).
    """

    state_groups = ("model", "target", "optimizer", "entropy", "expert_selection")

    def __init__(
        self,
        config: ExperimentConfig,
        observation_shape: tuple[int, ...],
        legal_actions: np.ndarray,
        dist: Distributed | None = None,
        model: UniZeroMTModel | None = None,
    ) -> None:
        self.config, self.num_tasks = config, config.num_tasks
        check_legal_actions(legal_actions, self.num_tasks)
        self.dist = dist or Distributed()
        self.device = resolve_device(config.device, self.dist.local_rank)
        self.dtype = resolve_precision(config.precision, self.device)
        self.autocast = partial(autocast, self.device, self.dtype)
        """Makes a context in which the networks run at the precision of the run."""
        if model is None:
            model = UniZeroMTModel(
                config.model, observation_shape, legal_actions.shape[1], self.num_tasks
            )
        checks.instance("model", model, UniZeroMTModel, "a UniZeroMTModel")
        if model.config != config.model:
            raise ValueError(
                "model was made of another config than config.model; make it of this one"
            )
        self.model = model
        self.model.to(self.device).eval()
        self.dist.broadcast_parameters_(self.model)
        self.target = copy.deepcopy(self.model).requires_grad_(False)
        limit = config.model.support_limit
        self.support = ScalarSupport(
            config.model.support_bins, -limit, limit, config.model.label_smoothing
        )
        self.legal = torch.as_tensor(legal_actions, device=self.device)
        self.entropy_weight = EntropyWeight(config.policy.loss, self.legal.sum(dim=1))
        self.enough_spread = config.policy.loss.spread_target * self.model.encoder.norm.full_spread
        self.optimizer = adamw(self.model, config.policy.optimiser)
        self.train_iter = 0
        # updates whose loss or gradient was no number: all of them, and in a row until now
        self.skipped, self.skipped_in_a_row = torch.zeros(
            2, dtype=torch.int64, device=self.device
        ).unbind()
        self.routed_layers = self.model.world_model.transformer.routed_layers()
        windows = [config.batch_size_of(game) for game in config.env.games]
        self.expert_statistics = ExpertSelectionRecorder(self.routed_layers, windows)
        self._points = standard_points(self.model)
        kind = config.policy.gradient_aggregator
        self._aggregator = None if kind == "mean" else Aggregator(kind, config.policy.cagrad_c)

    def learn(self, windows: "ReplayWindows") -> LearnResult:
        """One update: targets, loss of all tasks, gradient summed over ranks, clipped, applied.

        If the loss or the gradient is no number, parameters and optimizer stay as they are, on all ranks, and the update is
        counted in ``skipped``. Nothing waits for the device for it.

        Args:
            windows: this rank's share of the batch, from its replay ring.
        """
        # of the tokens of both networks, and of the narrowest encoder
        work = 2 * windows.action.numel() * self.config.model.embed_dim**2
        work += 16 * windows.observation.numel()
        with tuned_for(work, self.device):
            return self._update(windows)

    def _update(self, windows: "ReplayWindows") -> LearnResult:
        loss_config, moe_config = self.config.policy.loss, self.config.model.moe
        with self.autocast():
            batch = make_batch(windows, self.target, self.support, self.legal, self.config)
        points = self._points if self.measures_conflict else {}
        # all windows together, or those of each task by themselves where its own gradient is wanted, or in two halves where
        # its noise is wanted too
        parts, half_sizes = [Part(batch)], None
        if points:
            parts, half_sizes = half_tasks(batch, self.num_tasks, self.dist)
        elif self._aggregator is not None:
            parts = whole_tasks(batch)

        self.model.train()
        passes = [self._forward(part.batch, points) for part in parts]
        totals = add_up([part.sums for part in passes], self.dist)
        opened = [part.opened for part in passes if part.opened is not None]
        open_totals = add_up(opened, self.dist) if opened else None
        entropy_weight = self.entropy_weight.weight()
        losses, spreads = [], []
        for part in passes:  # the parts' losses add up to the mean over tasks of all ranks' windows
            means = masked_means(part.sums.terms, totals.counts)
            task_id = part.groups.task_id
            spread = spread_shortfall(part.latent, task_id, totals.moments, self.enough_spread)
            open_means = means_of(part.opened, open_totals)
            loss = weighted_total(means, spread, loss_config, entropy_weight, open_means).mean()
            if part.output.balance is not None and totals.load is not None:
                loss = loss + part.output.balance.loss(totals.load, moe_config)
            losses.append(loss)
            spreads.append(spread.detach())

        measured = None
        if points or self._aggregator is not None:
            measured = self._backward_by_task(parts, passes, losses, points, half_sizes)
        else:
            losses[0].backward()
        self.model.eval()
        gradient_norms = self._step(
            present=totals.moments[:, 0] > 0, finite_loss=totals.terms.isfinite().all()
        )

        task_means = masked_means(totals.terms, totals.counts)
        open_means = means_of(open_totals, open_totals)
        self.entropy_weight.update_(task_means[TERMS.index("entropy")], self.train_iter)
        value = self.support.expectation(torch.cat([part.output.value.detach() for part in passes]))
        value_error = torch.where(batch.acting, (value - batch.value).abs(), 0.0).sum(dim=1)
        reward = self.support.expectation(torch.cat([p.output.reward.detach() for p in passes]))
        return LearnResult(
            task_means=task_means,
            open_means=open_means,
            spread=spreads[0],  # the same number in every part
            task_losses=weighted_total(
                task_means, spreads[0], loss_config, entropy_weight, open_means
            ),
            counts=counts_of(batch, reward, self.support, self.num_tasks),
            grad_norm=gradient_norms.norm(),
            gradient_norms=gradient_norms,
            value_error=value_error / batch.acting.sum(dim=1).clamp_min(1),
            measured=measured,
        )

    def _forward(self, batch: Batch, points: Mapping[str, MeasuringPoint]) -> ForwardPass:
        """Predict along the windows and add up the loss terms, remembering what passes the measuring points."""
        with self.autocast(), captured(points) as activations:
            latent, output = self.model(
                batch.observation, batch.action, batch.groups, batch.timeline
            )
            if self.config.policy.loss.online_labels:
                batch = replace(batch, latent=latent[:, 1:].detach())
            norm = self.model.encoder.norm
            sums = loss_sums(latent, output, batch, self.num_tasks, self.support, norm)
        opened = None
        if self.config.policy.loss.open_loop > 0:
            with self.autocast():
                opened = open_loop_sums(
                    self.model, batch, latent, output, self.num_tasks, self.support
                )
        return ForwardPass(latent, output, sums, opened, batch.groups, activations)

    def _backward_by_task(
        self,
        parts: Sequence[Part],
        passes: Sequence[ForwardPass],
        losses: Sequence[Tensor],
        points: Mapping[str, MeasuringPoint],
        half_sizes: Tensor | None,
    ) -> HalfGrams | None:
        """Set the gradient from those of the tasks, or of their halves; their scalar products where it is measured.

        Each loss carries 1 / T, so with weights of one the rows add up to the gradient of a plain update.

        Args:
            parts: of the batch; their P rows are this rank's.
            passes: of each part.
            losses: of each part.
            points: where to measure.
            half_sizes: windows of the halves ``(T, 2)``; None where parts are whole tasks.
        """
        shared = trained(self.model.shared_parameters())
        own = trained(self.model.task_parameters())
        tasks = []
        for part, seen, loss in zip(parts, passes, losses, strict=True):
            tasks.append(
                TaskLoss(part.task, loss, seen.activations, part.share, part.half, part.rows)
            )
        found = TaskGradients.of(shared, own, points, tasks)
        num_rows = 2 * self.num_tasks
        grams = gram_matrices(found.rows, found.layout.lengths, found.half_ids, num_rows)
        weights = torch.ones(self.num_tasks, dtype=torch.float64, device=self.device)
        if self._aggregator is not None:  # one rank decides: some ways are random
            # a whole task's gradient is the sum of its halves
            whole = found.layout.whole_gram(grams).view(self.num_tasks, 2, self.num_tasks, 2)
            weights = self._aggregator.weights(whole.sum(dim=(1, 3)))
            weights = self.num_tasks * weights * self.dist.is_main
            self.dist.all_reduce_sum_(weights)
        found.combine_(weights)
        if half_sizes is None:
            return None
        return HalfGrams(found.layout.component_grams(grams * self.num_tasks**2), half_sizes)

    def _step(self, present: Tensor, finite_loss: Tensor) -> Tensor:
        """Sum gradients over ranks, clip, step, and let the target follow; norms ``(P,)`` before clipping.

        Args:
            present: ``(T,)`` bool, tasks with windows on any rank.
            finite_loss: bool, the same on all ranks.
        """
        parameters = trained(list(self.model.parameters()))
        self.dist.all_reduce_gradients_(parameters)
        # after the sum over ranks every one of them has a gradient
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))
        limit = self.config.policy.optimiser.max_grad_norm
        norm = norms.norm()
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        finite = finite_loss & norm.isfinite()
        self.skipped = self.skipped + ~finite
        self.skipped_in_a_row = torch.where(finite, 0, self.skipped_in_a_row + 1)
        # what gradient scalers tell an optimizer: with 1 a fused step leaves everything as it was
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.config.model.moe.balance == "bias":
            for layer in self.routed_layers.values():  # before the record, which sets counts to 0
                load = self.dist.all_reduce_sum_(layer.selection_counts.sum(dim=0))
                layer.update_selection_bias(load)
        self.expert_statistics.record(present)
        ema_update_(self.target, self.model, self.config.policy.target_momentum)
        self.train_iter += 1
        return norms

    @property
    def measures_conflict(self) -> bool:
        """Whether the next update measures the conflict between the tasks' gradients."""
        interval = self.config.policy.gradient_conflict_interval
        return self.num_tasks > 1 and interval > 0 and self.train_iter % interval == 0

    def measuring_points(self) -> dict[str, MeasuringPoint]:
        """Where gradient conflict is measured, by component; research code adds its own points to this dict."""
        return self._points

    def unit_groups(self) -> dict[str, nn.Module]:
        """Modules whose units plasticity looks at, by name."""
        return unit_groups(self.model)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Networks, optimizer, counters, statistics, as :func:`~lzero.policy.state.state_of` has them; collective."""
        return state_of(self)

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from what :meth:`state_dict` gave; raises as :func:`~lzero.policy.state.load_state_of_`."""
        load_state_of_(self, state)

    @classmethod
    def from_export(
        cls, path: Path | str, *, device: str = "auto", allow_domains: Collection[str] = ()
    ) -> Self:
        """The agent of an exported zip, ready to play.

        Args and errors: as of :func:`~lzero.policy.exported.policy_from_export`.
        """
        return policy_from_export(cls, path, device=device, allow_domains=allow_domains)
