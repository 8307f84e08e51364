"""The gradient of every task on its own, in the time of one update: each task's rows go through the
network alone.

Shape legend: N = tasks of this rank, F = columns of a row (see ``points.RowLayout``), P = shared
parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import torch
from torch import Tensor, nn

from lzero import checks
from lzero.analysis.points import ActivationPoint, MeasuringPoint, RowLayout
from lzero.device import in_memory_order_of


@dataclass(frozen=True)
class TaskLoss:
    """What the gradient of one task is taken from.

    Attributes:
        task: whose loss it is.
        loss: a scalar with the graph of this task's rows alone.
        activations: tensors that passed the activation points, by point.
        share: part of the task's rows, over all ranks, that are this rank's; a scalar, by which
            activations' gradients are averaged.
    """

    task: int
    loss: Tensor
    activations: Mapping[str, list[Tensor]]
    share: Tensor


@dataclass(frozen=True)
class TaskGradients:
    """One row for each task of this rank.

    Attributes:
        layout: what the columns are.
        rows: ``(N, F)`` fp32.
        tasks: the N tasks, ascending.
    """

    layout: RowLayout
    rows: Tensor
    tasks: tuple[int, ...]

    @classmethod
    def of(
        cls,
        shared: list[nn.Parameter],
        own: list[nn.Parameter],
        points: Mapping[str, MeasuringPoint],
        losses: Sequence[TaskLoss],
        *,
        retain_graph: bool = False,
    ) -> "TaskGradients":
        """Backward through each task's graph, which is freed before the next one's turn.

        Args:
            shared: parameters that all tasks share.
            own: parameters of single tasks; their gradients are added to ``.grad`` and have no
                columns.
            points: where to measure.
            losses: of the tasks of this rank, ascending.
            retain_graph: keep the graph, because the tasks share one.

        Raises:
            ValueError: if there are none, a loss is no scalar with a graph, nothing has passed a
                point, or a point names a parameter that is not shared.
        """
        if not losses:
            raise ValueError("losses is empty; give one for every task of this rank")
        for part in losses:
            checks.shape(f"loss of task {part.task}", part.loss)
            if not part.loss.requires_grad:
                raise ValueError(f"loss of task {part.task} has no graph to go back through")
            for name, point in points.items():
                if isinstance(point, ActivationPoint) and not part.activations.get(name):
                    raise ValueError(
                        f"activations of task {part.task} lack {name!r}: allowed are those of "
                        "captured(points)"
                    )
        widths: dict[str, int] = {}
        axes: dict[str, int] = {}
        for name, point in points.items():
            if isinstance(point, ActivationPoint):
                widths[name] = losses[0].activations[name][0].shape[point.axis]
                axes[name] = point.axis
        layout = RowLayout.of(shared, points, widths)
        rows = torch.empty(len(losses), sum(layout.lengths), device=losses[0].loss.device)
        for row, part in zip(rows, losses, strict=True):
            seen = list(chain.from_iterable(map(part.activations.__getitem__, widths)))
            gradients = iter(
                torch.autograd.grad(
                    part.loss,
                    [*shared, *own, *seen],
                    allow_unused=True,
                    retain_graph=retain_graph,
                )
            )
            at_shared, at_own = (
                list(islice(gradients, len(shared))),
                list(islice(gradients, len(own))),
            )
            averages = []
            for name, width in widths.items():
                total = part.loss.new_zeros(width, dtype=torch.float32)
                for tensor in part.activations[name]:  # in the order of ``seen``
                    total += _mean_token(next(gradients), tensor, axes[name])
                averages.append(total * part.share)
            layout.write_(row, at_shared, averages)
            for parameter, gradient in zip(own, at_own, strict=True):
                if gradient is None:
                    continue
                if parameter.grad is None:
                    parameter.grad = in_memory_order_of(parameter, gradient)
                else:
                    parameter.grad.add_(gradient)
        return cls(layout, rows, tuple(part.task for part in losses))

    def combine_(self, weights: Tensor) -> None:
        """Make the weighted sum of this rank's rows the shared parameters' ``.grad``; ``weights
        (T,)``.

        Raises:
            ValueError: if there is no weight for one of the tasks.
        """
        if weights.ndim != 1 or len(weights) <= max(self.tasks):
            raise ValueError(
                f"weights has shape {tuple(weights.shape)}: allowed is (T,) with T > "
                f"{max(self.tasks)}, one per task"
            )
        # as a tensor: a list as index would make the host wait for the device
        tasks = torch.tensor(self.tasks, dtype=torch.int64).to(weights.device, non_blocking=True)
        mine = weights.index_select(0, tasks).to(self.rows.dtype)
        flat = mine @ self.rows[:, : self.layout.num_parameters]
        self.layout.set_gradients_(flat)


def _mean_token(gradient: Tensor | None, activation: Tensor, axis: int) -> Tensor:
    """Mean over tokens of the gradient with respect to an activation with its D units on ``axis``,
    ``(D,)``; zero where the loss has none.
    """
    if gradient is None:
        return activation.new_zeros(activation.shape[axis], dtype=torch.float32)
    return gradient.float().movedim(axis, -1).flatten(0, -2).mean(dim=0)
