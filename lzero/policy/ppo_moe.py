"""PPO with mixtures of experts: acting, and the updates of a round, on several tasks in one batch.

Source: Schulman et al., "Proximal policy optimization algorithms" (arXiv 1707.06347); details as in PureJaxRL's MinAtar recipe.

Shape legend: S = steps of a round, N = environments of this rank, R = rows of an update on this rank, T = tasks of the run,
A = actions, M = updates of a round, P = parameters, X = numbers about the last gradient, Q = terms (``TERMS``).
"""

from collections.abc import Mapping
from functools import partial
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lzero import checks
from lzero.analysis.conflict import HalfGrams, gram_matrices
from lzero.analysis.expert_recorder import ExpertSelectionRecorder
from lzero.analysis.points import MeasuringPoint, captured
from lzero.analysis.task_gradients import TaskGradients, TaskLoss
from lzero.checkpoint import load_optimizer_state_, optimizer_state_to_tensors
from lzero.config_ppo import PPOExperiment
from lzero.device import autocast, resolve_device, resolve_precision, tuned_for
from lzero.distributed import Distributed
from lzero.model.actor_critic import ActorCritic
from lzero.nn.parameters import adamw, trained
from lzero.nn.tasks import check_legal_actions
from lzero.policy.ppo_points import measuring_points
from lzero.policy.ppo_result import TERMS, Acted, PPOResult
from lzero.policy.rollout import Minibatch, Rollout, minibatches_of

SMALLEST_NORM = 1e-8  # of a gradient that has a direction
PROJECTION_SEED = 0  # of the directions along which routers see gradients: the same in all runs


class PPOPolicy:
    """Actor and critic, optimizer, and the updates of a round.

    Args:
        config: the experiment.
        observation_shape: ``(C, H, W)`` or ``(F,)``, padded over tasks.
        legal_actions: ``(T, A)`` bool, the action set of every task of the run.
        dist: process group of the run.

    Raises:
        TypeError, ValueError: for another kind of experiment, or actions that do not fit its tasks.
    """

    state_groups = ("model", "optimizer", "gradient", "expert_selection")

    def __init__(
        self,
        config: PPOExperiment,
        observation_shape: tuple[int, ...],
        legal_actions: np.ndarray,
        dist: Distributed | None = None,
    ) -> None:
        checks.instance("config", config, PPOExperiment, "a PPOExperiment")
        self.config, self.num_tasks = config, config.num_tasks
        check_legal_actions(legal_actions, self.num_tasks)
        self.dist = dist or Distributed()
        self.device = resolve_device(config.device, self.dist.local_rank)
        dtype = resolve_precision(config.precision, self.device)
        self.autocast = partial(autocast, self.device, dtype)
        num_actions = legal_actions.shape[1]
        self.model = ActorCritic(config.model, observation_shape, num_actions, self.num_tasks)
        self.model.to(self.device).eval()
        self.dist.broadcast_parameters_(self.model)
        self.legal = torch.as_tensor(legal_actions, device=self.device)
        self.optimizer = adamw(self.model, config.policy.optimiser, config.policy.optimiser.epsilon)
        self.train_iter = 0
        # updates whose loss or gradient was no number: all of them, and in a row until now
        self.skipped, self.skipped_in_a_row = torch.zeros(
            2, dtype=torch.int64, device=self.device
        ).unbind()
        self.parameters = trained(list(self.model.parameters()))
        size = sum(parameter.numel() for parameter in self.parameters)
        self.last_gradient = torch.zeros(size, device=self.device)  # before clipping
        self.extra: Tensor | None = None  # (X,), what routers see of it
        mixture = config.model.mixture
        if mixture.router_gradient:
            generator = torch.Generator().manual_seed(PROJECTION_SEED)
            directions_XP = torch.randn(mixture.gradient_features, size, generator=generator)
            self._directions = directions_XP.to(self.device)
            self.extra = torch.zeros(mixture.gradient_features, device=self.device)
        self.mixtures = self.model.mixtures()
        self.expert_statistics = ExpertSelectionRecorder(dict(enumerate(self.mixtures.values())))
        self._points = measuring_points(self.model)

    @torch.inference_mode()
    def act(self, observation: Tensor, task_id: Tensor, rng: np.random.Generator | None) -> Acted:
        """Draw an action for every observation ``(N, *shape)`` of tasks ``(N,)``; without ``rng`` the likeliest one."""
        with self.autocast():
            logits, value, _ = self.model(observation.to(self.device), task_id, self.extra)
        log_probs = self._log_probs(logits, task_id)
        scores = log_probs.cpu().numpy()
        if rng is not None:  # the largest of noisy logits is a draw from their softmax (Gumbel)
            scores = scores + rng.gumbel(size=scores.shape)
        action = scores.argmax(axis=1)
        chosen = torch.as_tensor(action, device=self.device)
        return Acted(action, log_probs.gather(1, chosen[:, None]).squeeze(1), value.float())

    def set_progress(self, share: float) -> None:
        """Tell learning rate and adaptive routers which ``share`` of training is done."""
        if self.config.policy.anneal:
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.policy.optimiser.learning_rate * (1.0 - share)
        self.model.set_progress(share)

    def learn(self, rollout: Rollout, rows: np.ndarray) -> PPOResult:
        """All updates of a round.

        An update whose loss or gradient is no number leaves parameters and optimizer as they are, on all ranks.

        Args:
            rollout: of this rank.
            rows: of every update among the flattened steps ``(S·N,)``: ``(M, R)`` int64, −1 for those of other
                ranks.
        """
        work = rollout.num_steps * rollout.num_envs * self.last_gradient.numel()
        with tuned_for(work, self.device):
            return self._learn(rollout, rows)

    def _learn(self, rollout: Rollout, rows: np.ndarray) -> PPOResult:
        config = self.config.policy
        self.model.train()
        means, grad_norms, cosines, measured = [], [], [], None
        entropies: dict[str, list[Tensor]] = {name: [] for name in self.mixtures}
        for batch in minibatches_of(rollout, rows, config, self.num_tasks, self.dist):
            points = self._points if self.measures_conflict else {}
            with self.autocast(), captured(points) as activations:
                logits, value, mixing = self.model(batch.observation, batch.task_id, self.extra)
            terms = self._terms(logits, value.float(), batch)
            loss_R = terms[0] + config.value * terms[1] - config.entropy * terms[2]
            # of the ranks' tokens: the shares add up to the mean over all of them
            regularisation = batch.share * self.model.mixture_loss(mixing)
            if points:
                measured = self._backward_by_half(
                    loss_R, regularisation, batch, points, activations
                )
            else:
                ((batch.weight * loss_R).sum() + regularisation).backward()
            sums = terms.new_zeros(len(TERMS), self.num_tasks)
            sums.index_add_(1, batch.task_id, (batch.weight * terms).detach())
            self.dist.all_reduce_sum_(sums)
            norms, cosine = self._step(sums.isfinite().all(), batch.is_played)
            # undo the mean over tasks; what was not played has none
            means.append(torch.where(batch.is_played, sums * batch.is_played.sum(), torch.nan))
            grad_norms.append(norms.norm())
            cosines.append(cosine)
            for name, found in mixing.items():
                entropies[name].append(found.mean_entropy().detach())
        self.model.eval()
        last = means[-1]
        return PPOResult(
            task_means=torch.stack(means).mean(dim=0),
            task_losses=last[0] + config.value * last[1] - config.entropy * last[2],
            gradient_norms=norms,
            grad_norm=torch.stack(grad_norms).mean(),
            similarity=torch.stack(cosines).nanmean(),
            router_entropy={
                name: torch.stack(found).nanmean(dim=0) for name, found in entropies.items()
            },
            measured=measured,
        )

    def _terms(self, logits: Tensor, value: Tensor, batch: Minibatch) -> Tensor:
        """The terms of every row ``(Q, R)``."""
        config = self.config.policy
        log_probs = self._log_probs(logits, batch.task_id)
        log_prob = log_probs.gather(1, batch.action[:, None]).squeeze(1)
        change = log_prob - batch.log_prob
        ratio = change.exp()
        within = ratio.clamp(1 - config.clip, 1 + config.clip)
        policy = -torch.minimum(ratio * batch.advantage, within * batch.advantage)
        error = (value - batch.target).square()
        if config.clip_value:
            near = batch.value + (value - batch.value).clamp(-config.clip, config.clip)
            error = torch.maximum(error, (near - batch.target).square())
        # of an action that is not legal it is minus infinity, and 0 times that no number, in the gradient too
        finite = log_probs.masked_fill(~self.legal[batch.task_id], 0.0)
        entropy = -(log_probs.exp() * finite).sum(dim=1)
        kl = ratio - 1 - change
        clipped = ((ratio - 1).abs() > config.clip).float()
        return torch.stack([policy, 0.5 * error, entropy, kl, clipped])

    def _log_probs(self, logits: Tensor, task_id: Tensor) -> Tensor:
        return F.log_softmax(logits.float().masked_fill(~self.legal[task_id], -torch.inf), dim=-1)

    def _backward_by_half(
        self,
        loss_R: Tensor,
        regularisation: Tensor,
        batch: Minibatch,
        points: Mapping[str, MeasuringPoint],
        activations: Mapping[str, list[Tensor]],
    ) -> HalfGrams:
        """Set the gradient from those of the halves of tasks, as a plain update has it; their scalar products.

        All share one forward, for some ways to route look at the whole batch. The steps of one environment are alike: each
        half has the environments of its own.
        """
        rows = torch.bincount(batch.task_id, minlength=self.num_tasks)
        half_id = 2 * batch.task_id + batch.is_second_half
        losses = []
        for task, half in product(batch.task_id.unique().tolist(), (0, 1)):
            own = torch.where(half_id == 2 * task + half, batch.weight * loss_R, 0.0).sum()
            # an activation's gradient is averaged over all rows here, and is nothing but at the half's own
            share = len(batch.task_id) / rows[task] * batch.share_of_task[task]
            losses.append(TaskLoss(task, own, activations, share, half))
        found = TaskGradients.of(self.parameters, [], points, losses, retain_graph=True)
        num_rows = 2 * self.num_tasks
        grams = gram_matrices(found.rows, found.layout.lengths, found.half_ids, num_rows)
        found.combine_(torch.ones(self.num_tasks, device=self.device))
        if regularisation.requires_grad:
            regularisation.backward()
        counts = grams.new_zeros(num_rows).index_add_(
            0, half_id, (batch.weight > 0).to(grams.dtype)
        )
        sizes = self.dist.all_reduce_sum_(counts).view(self.num_tasks, 2)
        grams = grams * batch.is_played.sum() ** 2
        return HalfGrams(found.layout.component_grams(grams), sizes)

    def _step(self, finite_loss: Tensor, is_played: Tensor) -> tuple[Tensor, Tensor]:
        """Sum gradients over ranks, clip, step; norms ``(P,)`` before clipping, and the cosine with the gradient before."""
        self.dist.all_reduce_gradients_(self.parameters)
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        norm, before = flat.norm(), self.last_gradient.norm()
        cosine = torch.dot(flat, self.last_gradient) / (norm * before)  # NaN where there is none
        norms = torch.stack(torch._foreach_norm(gradients))
        limit = self.config.policy.optimiser.max_grad_norm
        torch.nn.utils.clip_grads_with_norm_(self.parameters, limit, norm)
        finite = finite_loss & norm.isfinite()
        self.skipped = self.skipped + ~finite
        self.skipped_in_a_row = torch.where(finite, 0, self.skipped_in_a_row + 1)
        # what gradient scalers tell an optimizer: with 1 a fused step leaves everything as it was
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.last_gradient = torch.where(finite, flat, self.last_gradient)
        if self.extra is not None:  # routers see its direction
            unit = self.last_gradient / self.last_gradient.norm().clamp_min(SMALLEST_NORM)
            self.extra = self._directions @ unit
        self.expert_statistics.record(is_played)
        self.train_iter += 1
        return norms, cosine

    @property
    def measures_conflict(self) -> bool:
        """Whether the next update measures the conflict between the tasks' gradients."""
        interval = self.config.policy.gradient_conflict_interval
        together = self.num_tasks > 1 and not self.config.is_continual
        return together and interval > 0 and self.train_iter % interval == 0

    def measuring_points(self) -> dict[str, MeasuringPoint]:
        """Where gradient conflict is measured, by component; research code adds its own points to this dict."""
        return self._points

    def unit_groups(self) -> dict[str, nn.Module]:
        """Modules whose units plasticity looks at, by name."""
        return self.model.unit_groups()

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Network, optimizer, last gradient, counters and statistics, in groups of tensors; collective."""
        named = list(self.model.named_parameters())
        return {
            "model": self.model.state_dict(),
            "optimizer": optimizer_state_to_tensors(self.optimizer, named),
            "gradient": {"last": self.last_gradient}
            | ({} if self.extra is None else {"seen": self.extra}),
            "expert_selection": self.expert_statistics.state(),
            "counters": {
                "train_iter": torch.tensor(self.train_iter),
                "skipped": self.skipped.cpu(),
                "skipped_in_a_row": self.skipped_in_a_row.cpu(),
            },
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from what :meth:`state_dict` gave.

        Raises:
            CheckpointError: if the optimizer's state does not fit the model.
            RuntimeError: if the network's parameters do not.
        """
        self.model.load_state_dict(state["model"])
        named = list(self.model.named_parameters())
        load_optimizer_state_(self.optimizer, named, state["optimizer"])
        self.last_gradient = state["gradient"]["last"].clone()
        if self.extra is not None:
            self.extra = state["gradient"]["seen"].clone()
        self.expert_statistics.load_state(state["expert_selection"], is_main=self.dist.is_main)
        counters = state["counters"]
        self.train_iter = int(counters["train_iter"])
        self.skipped = counters["skipped"].to(self.device)
        self.skipped_in_a_row = counters["skipped_in_a_row"].to(self.device)
