"""One update in parts: the whole batch, or the rows of every task on their own.

The parts' losses add up to the loss of the batch on all ranks, whichever way it is cut: means are taken over the
valid steps of all parts and ranks, which one small reduction counts.

Shape legend: B = windows of a part, S = H + 1 steps, H = unrolled transitions, T = tasks of the run, D = latent width,
Q = loss terms that are means over steps, L = mixture-of-experts layers, E = routed experts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lzero.analysis.points import ActivationPoint, captured
from lzero.config import ExperimentConfig
from lzero.distributed import Distributed
from lzero.model.unizero_model_multitask import UniZeroMTModel
from lzero.model.unizero_world_models.world_model_multitask import WorldModelOutput
from lzero.nn.scalars import ScalarSupport
from lzero.nn.tasks import TaskGroups
from lzero.policy.losses import (
    Targets,
    TaskSums,
    latent_moments,
    masked_means,
    spread_shortfall,
    task_sums,
    weighted_total,
)


@dataclass(frozen=True)
class Batch:
    """Windows on the device, sorted by task.

    Attributes:
        observation: ``(B, S, …)``.
        action: ``(B, H)`` int64.
        targets: what is to be predicted.
        groups: tasks of the B rows.
    """

    observation: Tensor
    action: Tensor
    targets: Targets
    groups: TaskGroups

    def by_task(self, sizes: Mapping[int, int]) -> dict[int, "Batch"]:
        """The rows of each task; ``sizes`` are windows by task, in the order of the rows."""
        parts, start = {}, 0
        for task, size in sizes.items():
            rows = slice(start, start + size)
            task_id, host_task_id = self.groups.task_id[rows], self.groups.host_task_id[rows]
            groups = TaskGroups(task_id, host_task_id, task_id[:1], None, None)
            parts[task] = Batch(self.observation[rows], self.action[rows], self.targets.rows(rows), groups)
            start += size
        return parts


@dataclass(frozen=True)
class Pass:
    """One part, seen by the network.

    Attributes:
        latent: ``(B, S, D)``.
        output: predictions.
        sums: of the loss terms.
        moments: of the latents, see ``losses.latent_moments``.
        activations: tensors at the measuring points, by point.
        task_id: ``(B,)`` int64.
    """

    latent: Tensor
    output: WorldModelOutput
    sums: TaskSums
    moments: Tensor
    activations: Mapping[str, list[Tensor]]
    task_id: Tensor

    @classmethod
    def of(
        cls,
        batch: Batch,
        model: UniZeroMTModel,
        support: ScalarSupport,
        num_tasks: int,
        points: Mapping[str, ActivationPoint],
    ) -> "Pass":
        """Predict along the windows and add up the loss terms."""
        task_id = batch.groups.task_id
        with captured(points) as activations:
            latent, output = model(batch.observation, batch.action, batch.groups)
        sums = task_sums(output, batch.targets, task_id, num_tasks, support, model.encoder.norm)
        return cls(latent, output, sums, latent_moments(latent, task_id, num_tasks), activations, task_id)


@dataclass(frozen=True)
class Totals:
    """Sums over all parts on all ranks.

    Attributes:
        sums, counts: of the loss terms ``(Q, T)``.
        moments: of the latents ``(T, 1 + 2·D)``.
        load: choices of the experts that a balance loss steers ``(L, E)``; None where there is none.
    """

    sums: Tensor
    counts: Tensor
    moments: Tensor
    load: Tensor | None

    @classmethod
    def of(cls, passes: Sequence[Pass], dist: Distributed) -> "Totals":
        """One small reduction, which makes every mean a mean over all ranks: 1 and N ranks take the same step."""
        mine = [
            sum(part.sums.sums.detach() for part in passes),
            sum(part.sums.counts for part in passes),
            sum(part.moments for part in passes),
        ]
        if passes[0].output.balance is not None:
            mine.append(sum(part.output.balance.load for part in passes))
        flat = dist.all_reduce_sum_(torch.cat([tensor.flatten() for tensor in mine]))
        shaped = (x.view_as(y) for x, y in zip(flat.split([x.numel() for x in mine]), mine, strict=True))
        return cls(*shaped) if len(mine) == 4 else cls(*shaped, None)

    def spread(self, part: Pass, model: UniZeroMTModel, config: ExperimentConfig) -> Tensor:
        """How far the latents' spread falls short of its target ``(T,)``, with the part's gradient."""
        target = config.policy.loss.spread_target * model.encoder.norm.full_spread
        return spread_shortfall(part.latent, part.task_id, self.moments, target)

    def loss(self, part: Pass, spread: Tensor, entropy_weight: Tensor, config: ExperimentConfig) -> Tensor:
        """A scalar whose gradient is the part's share of the gradient of the mean loss over tasks.

        Args:
            part: whose gradient is wanted.
            spread: of :meth:`spread`, for this part.
            entropy_weight: ``(T,)``.
            config: loss weights.
        """
        means = masked_means(part.sums.sums, self.counts)
        loss = weighted_total(means, spread, config.policy.loss, entropy_weight).mean()
        balance = part.output.balance
        return loss if balance is None else loss + balance.loss(self.load, config.model.moe)


def windows_by_task(task_id: Tensor) -> dict[int, int]:
    """How many windows each task has in ``task_id (B,)``, which is on the host and sorted."""
    tasks, sizes = np.unique(task_id.numpy(), return_counts=True)
    return dict(zip(tasks.tolist(), sizes.tolist(), strict=True))
