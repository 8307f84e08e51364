"""How a batch is cut where the gradient of every task is wanted on its own, and where its noise is.

Shape legend: T = tasks of the run.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lzero.analysis.task_gradients import RowRange
from lzero.distributed import Distributed
from lzero.policy.targets import Batch


@dataclass(frozen=True)
class Part:
    """Windows of one task that go through the network alone: all that this rank has, or those of one half.

    Attributes:
        batch: the windows.
        half: 0 or 1; 0 where they are not split.
        share: of the task's windows on all ranks.
        rows: which of the task's windows they are; None where they are not split.
    """

    batch: Batch
    half: int = 0
    share: float = 1.0
    rows: RowRange | None = None

    @property
    def task(self) -> int:
        """Whose windows they are."""
        return int(self.batch.groups.host_task_id[0])


def whole_tasks(batch: Batch) -> list[Part]:
    """The windows of each task, ascending."""
    parts, start = [], 0
    _, sizes = np.unique(batch.groups.host_task_id, return_counts=True)
    for size in sizes.tolist():
        parts.append(Part(batch.of_one_task(slice(start, start + size))))
        start += size
    return parts


def half_tasks(batch: Batch, num_tasks: int, dist: Distributed) -> tuple[list[Part], Tensor]:
    """The windows of each task in two halves; collective.

    They are drawn independently of each other, so the first half of them is as good as any. The windows of all ranks are
    split as if one rank had them all.

    Args:
        batch: of this rank.
        num_tasks: T.
        dist: process group.

    Returns:
        This rank's parts, by task and half, and the halves' numbers of windows on all ranks ``(T, 2)``; of an odd number the
        first half has one more.
    """
    mine = np.bincount(batch.groups.host_task_id, minlength=num_tasks)
    by_rank = np.stack(dist.all_gather_array(mine))  # (ranks, T)
    earlier, total = by_rank[: dist.rank].sum(axis=0), by_rank.sum(axis=0)
    first_half = total - total // 2
    parts, start = [], 0
    for task in np.flatnonzero(mine).tolist():
        middle = start + int(np.clip(first_half[task] - earlier[task], 0, mine[task]))
        stop = start + int(mine[task])
        for half, (low, high) in enumerate(((start, middle), (middle, stop))):
            if low == high:  # this rank has windows of the other half only
                continue
            rows = RowRange(int(earlier[task]) + low - start, high - low, int(total.max()))
            share = (high - low) / float(total[task])
            parts.append(Part(batch.of_one_task(slice(low, high)), half, share, rows))
        start = stop
    return parts, torch.from_numpy(np.stack([first_half, total // 2], axis=1))
