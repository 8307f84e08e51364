"""Prediction heads: one stacked set of weights per task, or one shared by all tasks.

Shape legend: R = rows of the batch, G = tasks present, S = rows per task after grouping, D = model width, O = outputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lzero import checks
from lzero.nn.tasks import TaskGroups


class Head(nn.Module):
    """``LN, Linear, LN, GELU, Linear`` with weights ``(T, in, out)`` stacked over tasks.

    Args:
        embed_dim: D.
        out_features: O.
        num_tasks: sets of weights; 1 shares one set among all tasks.
        zero_init: start with outputs of zero (uniform policy, zero value and reward).

    Raises:
        ValueError: if a number is below 1.
    """

    matrices = ("weight1", "weight2")

    def __init__(
        self, embed_dim: int, out_features: int, num_tasks: int, zero_init: bool = True
    ) -> None:
        super().__init__()
        checks.count("embed_dim", embed_dim)
        checks.count("out_features", out_features)
        checks.count("num_tasks", num_tasks)
        self.shared = num_tasks == 1
        self.norm1_scale, self.norm1_shift = _affine(num_tasks, embed_dim)
        self.weight1, self.bias1 = _linear(num_tasks, embed_dim, embed_dim)
        self.norm2_scale, self.norm2_shift = _affine(num_tasks, embed_dim)
        self.weight2, self.bias2 = _linear(num_tasks, embed_dim, out_features)
        if zero_init:
            nn.init.zeros_(self.weight2)

    def forward(self, x: Tensor, groups: TaskGroups) -> Tensor:
        """``(R, L, D)`` to ``(R, L, O)`` in fp32.

        Raises:
            ValueError: if ``x`` has another width, or other rows than ``groups``.
        """
        rows = None if self.shared else len(groups.task_id)
        checks.shape("x", x, rows, None, self.weight1.shape[1])
        y = torch.baddbmm(
            self._of(self.bias2, groups), self._hidden(x, groups), self._of(self.weight2, groups)
        )
        return self._by_row(y, x, groups).float()

    def activations(self, x: Tensor, groups: TaskGroups) -> Tensor:
        """Hidden units ``(R, L, D)`` after the GELU."""
        return self._by_row(self._hidden(x, groups), x, groups)

    def _hidden(self, x: Tensor, groups: TaskGroups) -> Tensor:
        """``(R, L, D)`` to the hidden units of the grid ``(G, S·L, D)``, where shared ``(1, R·L, D)``."""
        grid = (
            x.reshape(1, x.shape[0] * x.shape[1], x.shape[-1]) if self.shared else groups.to_grid(x)
        )
        y = F.layer_norm(grid.float(), grid.shape[-1:])
        y = torch.addcmul(self._of(self.norm1_shift, groups), y, self._of(self.norm1_scale, groups))
        y = torch.baddbmm(self._of(self.bias1, groups), y, self._of(self.weight1, groups))
        y = F.layer_norm(y.float(), y.shape[-1:])
        y = torch.addcmul(self._of(self.norm2_shift, groups), y, self._of(self.norm2_scale, groups))
        return F.gelu(y, approximate="tanh")

    def _by_row(self, y: Tensor, x: Tensor, groups: TaskGroups) -> Tensor:
        """The grid's ``(…, O)`` back in the order of ``x (R, L, D)``: ``(R, L, O)``."""
        return y.view(*x.shape[:2], y.shape[-1]) if self.shared else groups.from_grid(y, x.shape[1])

    def _of(self, stacked: Tensor, groups: TaskGroups) -> Tensor:
        if self.shared or len(groups.present) == len(stacked):
            return stacked
        if (
            len(groups.present) == 1
        ):  # a view: the gradient of a choice of rows is added up row by row
            return stacked.narrow(0, int(groups.host_task_id[0]), 1)
        return stacked.index_select(0, groups.present)


def _affine(num_tasks: int, dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.ones(num_tasks, 1, dim)), nn.Parameter(torch.zeros(num_tasks, 1, dim))


def _linear(num_tasks: int, fan_in: int, fan_out: int) -> tuple[nn.Parameter, nn.Parameter]:
    weight = nn.Parameter(torch.empty(num_tasks, fan_in, fan_out).normal_(std=fan_in**-0.5))
    return weight, nn.Parameter(torch.zeros(num_tasks, 1, fan_out))
