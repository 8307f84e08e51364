"""The gradient of every task on its own, in the time of one update: each task's rows go through the network alone.

Shape legend: N = tasks of this rank, F = columns of a row (see ``measuring.RowLayout``), P = shared parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lzero.device import in_memory_order_of
from lzero.policy.measuring import ActivationPoint, MeasuringPoint, RowLayout
from lzero.policy.update import Pass


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
        passes: Mapping[int, Pass],
        losses: Mapping[int, Tensor],
        num_windows: Tensor,
    ) -> "TaskGradients":
        """Backward through each task's pass; its graph is freed before the next one's turn.

        Args:
            shared: parameters that all tasks share.
            own: parameters of single tasks; their gradients are added to ``.grad`` and have no columns.
            points: where to measure.
            passes: by task, with the activations at ``points``.
            losses: scalars by task.
            num_windows: ``(T,)`` windows of each task over all ranks, by which activations' gradients are averaged.
        """
        names = [name for name, point in points.items() if isinstance(point, ActivationPoint)]
        first = next(iter(passes.values()))
        layout = RowLayout.of(shared, points, {name: first.activations[name][0].shape[-1] for name in names})
        rows = torch.empty(len(passes), sum(layout.lengths), device=num_windows.device)
        for row, (task, part) in zip(rows, passes.items(), strict=True):
            seen = [tensor for name in names for tensor in part.activations[name]]
            gradients = torch.autograd.grad(losses[task], [*shared, *own, *seen], allow_unused=True)
            at_shared, at_own = gradients[: len(shared)], gradients[len(shared) : len(shared) + len(own)]
            at_seen = iter(gradients[len(shared) + len(own) :])
            share = len(part.task_id) / num_windows[task]
            averages = [
                sum(_mean_token(next(at_seen), tensor) for tensor in part.activations[name]) * share for name in names
            ]
            layout.write_(row, at_shared, averages)
            for parameter, gradient in zip(own, at_own, strict=True):
                if gradient is not None and parameter.grad is None:
                    parameter.grad = in_memory_order_of(parameter, gradient)
                elif gradient is not None:
                    parameter.grad.add_(gradient)
        return cls(layout, rows, tuple(passes))

    def combine_(self, weights: Tensor) -> None:
        """Make the weighted sum of this rank's rows the shared parameters' ``.grad``; ``weights (T,)``."""
        flat = weights[list(self.tasks)].to(self.rows.dtype) @ self.rows[:, : self.layout.num_parameters]
        self.layout.set_gradients_(flat)


def _mean_token(gradient: Tensor | None, activation: Tensor) -> Tensor:
    """Mean over tokens of the gradient with respect to an activation ``(…, D)``, ``(D,)``; zero where the loss has none."""
    if gradient is None:
        return activation.new_zeros(activation.shape[-1], dtype=torch.float32)
    return gradient.float().flatten(0, -2).mean(dim=0)
