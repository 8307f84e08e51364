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
from lzero.device import in_memory_order_of, side_by_side


@dataclass(frozen=True)
class RowRange:
    """Which rows of a task's part of a batch these are; the rows of all ranks have one order.

    Attributes:
        first: number of the first.
        count: how many.
        most: rows of the task that has most of them.
    """

    first: int
    count: int
    most: int


@dataclass(frozen=True)
class TaskLoss:
    """What the gradient of one task is taken from, or what one half of its rows adds to it.

    Attributes:
        task: whose loss it is.
        loss: a scalar with the graph of these rows alone.
        activations: tensors that passed the activation points, by point.
        share: part of the task's rows, over all ranks, that these are; a scalar, by which
            activations' gradients are averaged.
        half: 0 or 1; 0 where rows are not split.
        rows: which of the task's rows these are; needed at ``flat`` points alone.
    """

    task: int
    loss: Tensor
    activations: Mapping[str, list[Tensor]]
    share: Tensor | float
    half: int = 0
    rows: RowRange | None = None


@dataclass(frozen=True)
class TaskGradients:
    """One row for each task of this rank, or for each half of its rows.

    Attributes:
        layout: what the columns are.
        rows: ``(N, F)`` fp32.
        tasks: of the N rows, ascending.
        halves: of the task, of the N rows: 0 or 1.
    """

    layout: RowLayout
    rows: Tensor
    tasks: tuple[int, ...]
    halves: tuple[int, ...]

    @property
    def half_ids(self) -> list[int]:
        """2t and 2t + 1 for the halves of task t, of the N rows."""
        return [2 * task + half for task, half in zip(self.tasks, self.halves, strict=True)]

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
        """Backward through each task's graph, which is freed when it has been gone through; on CPUs side by side.

        Args:
            shared: parameters that all tasks share.
            own: parameters of single tasks; their gradients are added to ``.grad`` and have no
                columns.
            points: where to measure.
            losses: of the tasks of this rank, or of their halves, ascending.
            retain_graph: keep the graph, because the tasks share one.

        Raises:
            ValueError: if there are none, a loss is no scalar with a graph, nothing has passed a
                point, a point names a parameter that is not shared, or a ``flat`` one has losses
                that do not say which rows they are of.
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
        passed: dict[str, ActivationPoint] = {}
        for name, point in points.items():
            if isinstance(point, ActivationPoint):
                widths[name] = _width(name, point, losses[0])
                passed[name] = point
        layout = RowLayout.of(shared, points, widths)
        device = losses[0].loss.device
        rows = torch.empty(len(losses), sum(layout.lengths), device=device)

        def fill(index: int) -> Sequence[Tensor | None]:
            """Write a row; the gradients of ``own``."""
            part = losses[index]
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
            at_points = []
            for name, point in passed.items():
                tensors = part.activations[name]  # in the order of ``seen``
                pieces = list(zip(tensors, islice(gradients, len(tensors)), strict=True))
                if point.flat:
                    at_points.append(_all_tokens(pieces, part, widths[name]))
                else:
                    at_points.append(_mean_token(pieces, point.axis) * part.share)
            layout.write_(rows[index], at_shared, at_points)
            return at_own

        every = range(len(losses))
        if retain_graph:  # one graph is gone through by one thread at a time
            gradients_of_own = [fill(index) for index in every]
        else:
            gradients_of_own = side_by_side(fill, every, device)
        for at_own in gradients_of_own:
            for parameter, gradient in zip(own, at_own, strict=True):
                if gradient is None:
                    continue
                if parameter.grad is None:
                    parameter.grad = in_memory_order_of(parameter, gradient)
                else:
                    parameter.grad.add_(gradient)
        tasks, halves = (part.task for part in losses), (part.half for part in losses)
        return cls(layout, rows, tuple(tasks), tuple(halves))

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


Pieces = Sequence[tuple[Tensor, Tensor | None]]
"""Activations, and the gradients with respect to them; None where the loss has none."""


def _mean_token(pieces: Pieces, axis: int) -> Tensor:
    """Mean over tokens of the gradients with respect to activations with their D units on ``axis``,
    ``(D,)``; pieces are added.
    """
    total = pieces[0][0].new_zeros(pieces[0][0].shape[axis], dtype=torch.float32)
    for _, gradient in pieces:
        if gradient is not None:
            total += gradient.float().movedim(axis, -1).flatten(0, -2).mean(dim=0)
    return total


def _all_tokens(pieces: Pieces, part: TaskLoss, width: int) -> Tensor:
    """Gradients of all tokens one after another, at the places of their rows among those of the task;
    ``(width,)``.
    """
    assert part.rows is not None  # _width has looked
    flat = []
    for tensor, gradient in pieces:
        flat.append(torch.zeros_like(tensor) if gradient is None else gradient)
    of_rows = torch.cat([piece.float().flatten() for piece in flat])
    total = of_rows.new_zeros(width)
    start = part.rows.first * (width // part.rows.most)
    total[start : start + len(of_rows)] = of_rows
    return total


def _width(name: str, point: ActivationPoint, part: TaskLoss) -> int:
    """Columns of an activation point."""
    tensors = part.activations[name]
    if not point.flat:
        return tensors[0].shape[point.axis]
    numbers = sum(tensor.numel() for tensor in tensors)
    if part.rows is None or numbers % part.rows.count:
        raise ValueError(
            f"measuring point {name!r} is flat: its {numbers} numbers must be those of some rows of task "
            f"{part.task}, one after another, but rows={part.rows}; measure it averaged (flat=False)"
        )
    return numbers // part.rows.count * part.rows.most
