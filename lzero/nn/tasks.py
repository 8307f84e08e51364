"""Rows of a batch grouped by task.

Shape legend: R = rows of the batch, G = tasks present, S = rows per task after grouping, D = model width, O = outputs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lzero import checks


@dataclass(frozen=True)
class TaskGroups:
    """Rows of a batch grouped by task, so that one batched product serves all tasks.

    Made once per batch on the host, where task ids come from; nothing in the forward waits for the device.

    Attributes:
        task_id: ``(R,)`` int64 on the model's device.
        host_task_id: the same on the host.
        present: ``(G,)`` int64 tasks that occur, ascending.
        gather: ``(G·S,)`` row of each cell of the padded ``(G, S)`` grid; None when rows already form that grid.
        scatter: ``(R,)`` cell of each row; None likewise.
    """

    task_id: Tensor
    host_task_id: np.ndarray
    present: Tensor
    gather: Tensor | None
    scatter: Tensor | None

    @classmethod
    def of(cls, task_id: np.ndarray | Tensor, device: torch.device | str) -> "TaskGroups":
        """Group rows by ``task_id (R,)``; a tensor on an accelerator is copied to the host first.

        Raises:
            TypeError: if tasks are no whole numbers.
            ValueError: if there is no row, tasks have several axes, or one is negative.
        """
        host = task_id.cpu().numpy() if isinstance(task_id, Tensor) else task_id
        host = checks.integers("task_id", host)
        if host.ndim != 1 or not host.size:
            raise ValueError(f"task_id has shape {host.shape}: allowed is (R,) with a row or more")
        present, group, sizes = np.unique(host, return_inverse=True, return_counts=True)
        if present[0] < 0:
            raise ValueError(f"task_id holds {present[0]}: allowed are whole numbers from 0 on")
        on_device = torch.as_tensor(host, dtype=torch.int64).to(device, non_blocking=True)
        present_tensor = torch.as_tensor(present, dtype=torch.int64).to(device, non_blocking=True)
        if (sizes == sizes[0]).all() and (np.diff(host) >= 0).all():
            return cls(on_device, host, present_tensor, None, None)
        order = np.argsort(group, kind="stable")
        starts = np.cumsum(sizes) - sizes
        rank_in_group = np.empty(len(host), dtype=np.int64)
        rank_in_group[order] = np.arange(len(host)) - np.repeat(starts, sizes)
        widest = sizes.max()
        grid = (
            np.minimum(np.arange(widest), sizes[:, None] - 1) + starts[:, None]
        )  # short groups repeat their last row
        scatter = torch.as_tensor(group.astype(np.int64) * widest + rank_in_group).to(
            device, non_blocking=True
        )
        return cls(
            on_device,
            host,
            present_tensor,
            torch.as_tensor(order[grid.ravel()]).to(device, non_blocking=True),
            scatter,
        )

    def take(self, row: np.ndarray) -> "TaskGroups":
        """Groups of ``row (R',)`` of these rows, in that order; rows may be missing or repeated."""
        # A round of one simulation per root takes all rows as they are: nothing to group anew.
        if len(row) == len(self.host_task_id) and (row == np.arange(len(row))).all():
            return self
        return TaskGroups.of(self.host_task_id[row], self.task_id.device)

    def of_one_task(self, rows: slice) -> "TaskGroups":
        """Groups of ``rows``, which all belong to one task."""
        task_id = self.task_id[rows]
        return TaskGroups(task_id, self.host_task_id[rows], task_id[:1], None, None)

    def to_grid(self, x: Tensor) -> Tensor:
        """``(R, L, D)`` to ``(G, S·L, D)``."""
        x = x if self.gather is None else x.index_select(0, self.gather)
        return x.reshape(
            len(self.present), x.shape[0] * x.shape[1] // len(self.present), x.shape[-1]
        )

    def from_grid(self, y: Tensor, length: int) -> Tensor:
        """``(G, S·L, O)`` back to ``(R, L, O)``."""
        if self.scatter is None or self.gather is None:
            return y.reshape(len(self.task_id), length, y.shape[-1])
        return y.reshape(len(self.gather), length, y.shape[-1]).index_select(0, self.scatter)


def check_tokens(x: Tensor, task_id: Tensor, width: int) -> None:
    """Refuse tokens that are not ``(…, width)``, or have not one task each.

    Raises:
        TypeError: if tasks are no whole numbers.
        ValueError: if shapes differ.
    """
    if x.ndim < 1 or x.shape[-1] != width:
        raise ValueError(f"x has shape {tuple(x.shape)}: allowed is (…, {width})")
    checks.shape("task_id", task_id, *x.shape[:-1])
    if task_id.is_floating_point():
        raise TypeError(f"task_id is {task_id.dtype}: allowed are whole numbers")


def check_legal_actions(legal: np.ndarray, num_tasks: int) -> None:
    """Refuse what does not say which actions each of the tasks has, ``(T, A)`` bool.

    Raises:
        TypeError: if it is not bool.
        ValueError: if its shape is another, or a task has none.
    """
    checks.shape("legal_actions", legal, num_tasks, None)
    checks.flags("legal_actions", legal)
    without = np.flatnonzero(~legal.any(axis=1))
    if without.size:
        raise ValueError(f"legal_actions of task {without[0]} are none: at least one is needed")
