"""How often each task chose each expert, in sliding windows over the last updates.

Shape legend: G = tasks, E = routed experts, W = windows, B = buckets of a window. Tensors of width
E + 1 hold the selections of the E experts and behind them the data points: updates in which the
task took part.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypedDict

import numpy as np
import torch
from torch import Tensor, distributed

from lzero import checks
from lzero.tags import WINDOWS

NUM_BUCKETS = 100


class WindowStatistics(TypedDict):
    """One task in one window: ``frequencies (E,)`` (NaN without data) and ``total_counts (E,)`` of
    its selections, their sum, and ``data_points``, the task's own updates in the window."""

    frequencies: np.ndarray
    total_counts: np.ndarray
    total_selections: int
    data_points: int


@dataclass(frozen=True)
class ExpertSelection:
    """Expert selection of one layer as plain numbers.

    Attributes:
        windows: names of the W windows.
        counts: selections ``(W, G, E)`` int64.
        data_points: updates in which the task took part ``(W, G)`` int64.
    """

    windows: tuple[str, ...]
    counts: np.ndarray
    data_points: np.ndarray

    @property
    def frequencies(self) -> np.ndarray:
        """Share of a task's selections that each expert has, ``(W, G, E)``; NaN for a task without
        data.
        """
        total = self.counts.sum(axis=-1, keepdims=True)
        return np.divide(
            self.counts, total, out=np.full(self.counts.shape, np.nan), where=total > 0
        )

    def stats(self, task_id: int | None = None) -> dict[int, dict[str, WindowStatistics]]:
        """The same by task and window, for one task or for all.

        Raises:
            TypeError: if it is no number.
            ValueError: if there is no such task.
        """
        num_tasks = self.counts.shape[1]
        checks.instance("task_id", task_id, (int, np.integer, type(None)), "a number, or None")
        if task_id is not None and not 0 <= task_id < num_tasks:
            raise ValueError(
                f"task_id={task_id}: allowed are 0 to {num_tasks - 1}, or None for all tasks"
            )
        frequencies = self.frequencies
        by_task: dict[int, dict[str, WindowStatistics]] = {}
        for task in range(num_tasks) if task_id is None else (task_id,):
            by_task[task] = {}
            for index, window in enumerate(self.windows):
                by_task[task][window] = WindowStatistics(
                    frequencies=frequencies[index, task],
                    total_counts=self.counts[index, task],
                    total_selections=int(self.counts[index, task].sum()),
                    data_points=int(self.data_points[index, task]),
                )
        return by_task


class ExpertSelectionStatistics:
    """Sliding windows over the selections of one layer.

    A window is a ring of B buckets of window/B updates, and their running sum. It covers the last
    ``window`` updates exactly whenever the number of updates is a multiple of the bucket; in
    between it is the last B − 1 full buckets and the one under way. An update costs O(G·E) per
    window and nothing reaches the host.

    Args:
        num_tasks: G.
        num_experts: E.
        device: where to count; follows the recorded counts.
        windows: lengths in updates by name.
        num_buckets: B.

    Raises:
        ValueError: if a window cannot be cut into B buckets, or a number is below 1.
    """

    def __init__(
        self,
        num_tasks: int,
        num_experts: int,
        device: torch.device | None = None,
        *,
        windows: Mapping[str, int] = WINDOWS,
        num_buckets: int = NUM_BUCKETS,
    ) -> None:
        checks.count("num_tasks", num_tasks)
        checks.count("num_experts", num_experts)
        checks.count("num_buckets", num_buckets)
        for name, length in windows.items():
            if length < num_buckets or length % num_buckets:
                raise ValueError(
                    f"windows[{name!r}]={length} is no multiple of num_buckets={num_buckets}; "
                    f"use {max(1, round(length / num_buckets)) * num_buckets}"
                )
        self.windows = dict(windows)
        self.updates = 0
        self._bucket_sizes = [length // num_buckets for length in windows.values()]
        # int64: half of it would overflow in silence, and all of it is below 1 MiB for 26 tasks and
        # 8 experts
        shape = len(windows), num_buckets, num_tasks, num_experts + 1
        self._ring = torch.zeros(shape, dtype=torch.int64, device=device)
        self._sums = self._ring.sum(dim=1)

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self._ring.nbytes + self._sums.nbytes

    @torch.no_grad()
    def record(self, counts: Tensor, present: Tensor | None = None) -> None:
        """Add one update.

        Args:
            counts: selections ``(G, E)`` int64 of this rank in the update.
            present: tasks ``(G,)`` bool that took part in the update on any rank, on the device of
                ``counts``; None takes those with selections.

        Raises:
            TypeError: if counts are no whole numbers.
            ValueError: if the tasks or experts are others.
        """
        num_tasks, width = self._ring.shape[2:]
        checks.shape("counts", counts, num_tasks, width - 1)
        if counts.is_floating_point():
            raise TypeError(f"counts are {counts.dtype}: allowed are whole numbers")
        if present is not None:
            checks.shape("present", present, num_tasks)
        if self._ring.device != counts.device:
            self._ring, self._sums = self._ring.to(counts.device), self._sums.to(counts.device)
        if present is None:
            present = counts.any(dim=1)
        update = torch.cat([counts, present[:, None].to(counts.dtype)], dim=1)
        num_buckets = self._ring.shape[1]
        for window, size in enumerate(self._bucket_sizes):
            # indexed by plain integers: an index tensor would have to be copied to the device,
            # which waits
            bucket = self._ring[window, self.updates // size % num_buckets]
            if self.updates % size == 0:
                self._sums[window].sub_(bucket)
                bucket.zero_()
            bucket.add_(update)
        self._sums.add_(update)
        self.updates += 1

    def reset(self) -> None:
        """Forget everything."""
        self._ring.zero_()
        self._sums.zero_()
        self.updates = 0

    def selection(self) -> ExpertSelection:
        """What this rank has counted; waits for the device."""
        return self.as_selection(self._sums)

    def reduced(self, group: distributed.ProcessGroup | None = None) -> Self:
        """A copy that holds the selections of all ranks, ring included; for a checkpoint.
        Collective.

        Data points are the largest of all ranks in each bucket.
        """
        result = copy.copy(self)
        result._ring = _over_ranks(self._ring, group)
        result._sums = result._ring.sum(dim=1)
        return result

    def state(self) -> dict[str, Tensor]:
        """Tensors for a checkpoint: ``ring (W, B, G, E + 1)``, ``windows (W,)`` and ``updates``, a
        scalar.
        """
        return {
            "ring": self._ring,
            "windows": torch.tensor(list(self.windows.values())),
            "updates": torch.tensor(self.updates),
        }

    def load_state(self, state: Mapping[str, Tensor], *, is_main: bool = True) -> None:
        """Continue from :meth:`state`.

        Args:
            state: reduced over the ranks that wrote it.
            is_main: whether this rank takes over the selections. The others start without any, so
                that the ranks still add up; data points and the number of updates are the same
                everywhere.

        Raises:
            ValueError: if something is missing, or the windows, tasks or experts are others.
        """
        for name in ("ring", "windows", "updates"):
            if name not in state:
                raise ValueError(f"state={checks.shown(dict(state))} lacks {name!r}; see state()")
        ring, lengths = state["ring"], state["windows"].tolist()
        if ring.shape != self._ring.shape or lengths != list(self.windows.values()):
            raise ValueError(
                f"the expert statistics have ring {tuple(ring.shape)} (windows, buckets, tasks, "
                "experts + 1) and windows of "
                f"{lengths} updates, this layer {tuple(self._ring.shape)} and "
                f"{list(self.windows.values())}; "
                "load them into a model of the same tasks and experts, or start without them"
            )
        self._ring.copy_(ring)
        if not is_main:
            self._ring[..., :-1].zero_()
        self._sums = self._ring.sum(dim=1)
        self.updates = int(state["updates"])

    def as_selection(self, totals: Tensor, name: str = "totals") -> ExpertSelection:
        """Selections, and data points behind them, ``(W, G, E + 1)`` as plain numbers; waits for the device.

        Raises:
            ValueError: if the windows, tasks or experts are others; says so of ``name``.
        """
        checks.shape(name, totals, *self._sums.shape)
        numbers = totals.cpu().numpy().copy()
        return ExpertSelection(
            tuple(self.windows), counts=numbers[..., :-1], data_points=numbers[..., -1]
        )


def reduce_selections(
    statistics: Sequence[ExpertSelectionStatistics], group: distributed.ProcessGroup | None = None
) -> list[ExpertSelection]:
    """Expert selection of several layers over all ranks: selections are added, data points are the
    largest of all ranks.

    Collective; only the sums travel, not the rings, those of all layers together. Nothing local
    changes. Waits for the device.

    Args:
        statistics: of the layers, all of the same shape.
        group: ranks; None for all. One process needs no process group.

    Raises:
        ValueError: if a layer has other windows, tasks or experts than the first.
    """
    if not statistics:
        return []
    for index, layer in enumerate(statistics):
        checks.shape(f"statistics[{index}]", layer._sums, *statistics[0]._sums.shape)
    sums = _over_ranks(torch.stack([layer._sums for layer in statistics]), group).cpu()
    return [layer.as_selection(own) for layer, own in zip(statistics, sums, strict=True)]


def _over_ranks(totals: Tensor, group: distributed.ProcessGroup | None) -> Tensor:
    """A copy of ``totals (…, E + 1)`` over all ranks."""
    totals = totals.clone()
    if not distributed.is_initialized() or distributed.get_world_size(group) == 1:
        return totals
    counts, data_points = totals[..., :-1].contiguous(), totals[..., -1].contiguous()
    distributed.all_reduce(counts, group=group)
    distributed.all_reduce(data_points, op=distributed.ReduceOp.MAX, group=group)
    return torch.cat([counts, data_points.unsqueeze(-1)], dim=-1)
