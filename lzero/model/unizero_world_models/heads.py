"""Prediction heads: one stacked set of weights per task, or one shared by all tasks.

Shape legend: R = rows of the batch, G = tasks present, S = rows per task after grouping, D = model width, O = outputs.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        """Group rows by ``task_id (R,)``; a tensor on an accelerator is copied to the host first."""
        host = task_id.cpu().numpy() if isinstance(task_id, Tensor) else np.asarray(task_id)
        present, group, sizes = np.unique(host, return_inverse=True, return_counts=True)
        on_device = torch.as_tensor(host, dtype=torch.int64).to(device, non_blocking=True)
        present_tensor = torch.as_tensor(present, dtype=torch.int64).to(device, non_blocking=True)
        if (sizes == sizes[0]).all() and (np.diff(host) >= 0).all():
            return cls(on_device, host, present_tensor, None, None)
        order = np.argsort(group, kind="stable")
        starts = np.cumsum(sizes) - sizes
        rank_in_group = np.empty(len(host), dtype=np.int64)
        rank_in_group[order] = np.arange(len(host)) - np.repeat(starts, sizes)
        widest = sizes.max()
        grid = np.minimum(np.arange(widest), sizes[:, None] - 1) + starts[:, None]  # short groups repeat their last row
        scatter = torch.as_tensor(group.astype(np.int64) * widest + rank_in_group).to(device, non_blocking=True)
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

    def to_grid(self, x: Tensor) -> Tensor:
        """``(R, L, D)`` to ``(G, S·L, D)``."""
        x = x if self.gather is None else x.index_select(0, self.gather)
        return x.reshape(len(self.present), x.shape[0] * x.shape[1] // len(self.present), x.shape[-1])

    def from_grid(self, y: Tensor, length: int) -> Tensor:
        """``(G, S·L, O)`` back to ``(R, L, O)``."""
        if self.scatter is None:
            return y.reshape(len(self.task_id), length, y.shape[-1])
        return y.reshape(len(self.gather), length, y.shape[-1]).index_select(0, self.scatter)


class Head(nn.Module):
    """``LN, Linear, LN, GELU, Linear`` with weights ``(T, in, out)`` stacked over tasks.

    Args:
        embed_dim: D.
        out_features: O.
        num_tasks: sets of weights; 1 shares one set among all tasks.
        zero_init: start with outputs of zero (uniform policy, zero value and reward).
    """

    def __init__(self, embed_dim: int, out_features: int, num_tasks: int, zero_init: bool = True) -> None:
        super().__init__()
        self.shared = num_tasks == 1
        self.norm1_scale, self.norm1_shift = _affine(num_tasks, embed_dim)
        self.weight1, self.bias1 = _linear(num_tasks, embed_dim, embed_dim)
        self.norm2_scale, self.norm2_shift = _affine(num_tasks, embed_dim)
        self.weight2, self.bias2 = _linear(num_tasks, embed_dim, out_features)
        if zero_init:
            nn.init.zeros_(self.weight2)

    def forward(self, x: Tensor, groups: TaskGroups) -> Tensor:
        """``(R, L, D)`` to ``(R, L, O)`` in fp32."""
        y = torch.baddbmm(self._of(self.bias2, groups), self._hidden(x, groups), self._of(self.weight2, groups))
        return self._by_row(y, x, groups).float()

    def activations(self, x: Tensor, groups: TaskGroups) -> Tensor:
        """Hidden units ``(R, L, D)`` after the GELU."""
        return self._by_row(self._hidden(x, groups), x, groups)

    def _hidden(self, x: Tensor, groups: TaskGroups) -> Tensor:
        """``(R, L, D)`` to the hidden units of the grid ``(G, S·L, D)``, where shared ``(1, R·L, D)``."""
        grid = x.reshape(1, x.shape[0] * x.shape[1], x.shape[-1]) if self.shared else groups.to_grid(x)
        y = torch.addcmul(self._of(self.norm1_shift, groups), _norm(grid), self._of(self.norm1_scale, groups))
        y = torch.baddbmm(self._of(self.bias1, groups), y, self._of(self.weight1, groups))
        y = torch.addcmul(self._of(self.norm2_shift, groups), _norm(y), self._of(self.norm2_scale, groups))
        return F.gelu(y, approximate="tanh")

    def _by_row(self, y: Tensor, x: Tensor, groups: TaskGroups) -> Tensor:
        """The grid's ``(…, O)`` back in the order of ``x (R, L, D)``: ``(R, L, O)``."""
        return y.view(*x.shape[:2], y.shape[-1]) if self.shared else groups.from_grid(y, x.shape[1])

    def _of(self, stacked: Tensor, groups: TaskGroups) -> Tensor:
        everyone = self.shared or len(groups.present) == len(stacked)
        return stacked if everyone else stacked.index_select(0, groups.present)


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x.float(), x.shape[-1:])


def _affine(num_tasks: int, dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.ones(num_tasks, 1, dim)), nn.Parameter(torch.zeros(num_tasks, 1, dim))


def _linear(num_tasks: int, fan_in: int, fan_out: int) -> tuple[nn.Parameter, nn.Parameter]:
    weight = nn.Parameter(torch.empty(num_tasks, fan_in, fan_out).normal_(std=fan_in**-0.5))
    return weight, nn.Parameter(torch.zeros(num_tasks, 1, fan_out))
