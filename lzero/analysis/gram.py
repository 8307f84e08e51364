"""Gram matrices of task gradients that are spread over ranks, without any rank holding all
gradients.

Every rank multiplies its share of the columns for all tasks, so what travels and what is held is a
part of T·D, not all of it.

Shape legend: L = rows of this rank, R = rows of all ranks, P = tasks that have a row somewhere, T =
tasks, D = columns, S = segments of columns, C = columns in hand.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, count
from typing import Self

import numpy as np
import torch
from torch import Tensor, distributed

from lzero import checks
from lzero.distributed import split_evenly

Gradients = Sequence[Tensor | None] | Tensor
"""A tensor ``(L, D)``, or L tensors of one shape; ``None`` and zeros mark a task without gradient.
"""

# at a time
BUFFER_NUMBERS = 2**20  # sent, and received: hides the latency of a collective
# multiplied: in float64 still in a second-level cache, and long enough for a product of few rows
BLOCK_NUMBERS = 2**18


@dataclass(frozen=True)
class Ranks:
    """The processes that exchange gradients, and which of them this is; by default it is alone."""

    rank: int = 0
    count: int = 1
    group: distributed.ProcessGroup | None = None

    @classmethod
    def of(cls, group: distributed.ProcessGroup | None) -> Self:
        """Those of a process group (``None``: all of the run); one process alone where none was
        started.

        Raises:
            ValueError: if this process is not in the group.
        """
        if not distributed.is_initialized():
            return cls()
        rank = distributed.get_rank(group)
        if rank < 0:
            raise ValueError(
                f"group={group}: this process is not in it; only its members may call this"
            )
        return cls(rank, distributed.get_world_size(group), group)


def gram_matrices(
    rows: Tensor,
    lengths: Sequence[int],
    task_ids: Sequence[int] | Tensor,
    num_tasks: int,
    group: distributed.ProcessGroup | None = None,
) -> Tensor:
    """Scalar products of all tasks' gradients, for several components at once.

    A collective: all ranks of the group call it together, also those without rows. Rows of one task
    are summed first. Besides its rows a rank holds two buffers of ``BUFFER_NUMBERS`` numbers and a
    few of ``BLOCK_NUMBERS``. Products and sums are in float64.

    Args:
        rows: gradients of this rank ``(L, D)``, L ≥ 0; D is the same on all ranks.
        lengths: S numbers of columns, one per component; they sum to D.
        task_ids: the task ``(L,)`` of each row; a task may have rows on several ranks, or several
            on one.
        num_tasks: T.
        group: process group; ``None`` for all ranks, or for this process alone where there is no
            process group.

    Returns:
        ``(S, T, T)`` float64 on the device of ``rows``, the same on every rank; zero for tasks
        without a row.

    Raises:
        TypeError: if ``rows`` is no tensor, or tasks are no whole numbers.
        ValueError: if arguments do not fit each other or those of the other ranks.
    """
    checks.instance("rows", rows, Tensor, "a tensor (L, D)")
    if rows.dim() != 2:
        raise ValueError(f"rows has shape {tuple(rows.shape)}: give (L, D), a row per task")
    if sum(lengths) != rows.shape[1] or min(lengths, default=0) < 1:
        raise ValueError(
            f"lengths={list(lengths)} for {rows.shape[1]} columns: give at least one, all "
            "positive, that sum to them"
        )
    return gram_of_segments(rows.split(list(lengths), dim=1), task_ids, num_tasks, Ranks.of(group))


@torch.no_grad()
def gram_of_segments(
    groups: Sequence[Gradients],
    task_ids: Sequence[int] | Tensor,
    num_tasks: int,
    ranks: Ranks,
    second_half: Sequence[Gradients] | None = None,
) -> Tensor:
    """:func:`gram_matrices` of S components ``(L, D_s)``, which are never joined.

    A component without any gradient on this rank may be wider on others: their columns are zero
    here. With a ``second_half`` ``(L, D_s)`` of every component the result is ``(S, 2·T, 2·T)``: rows
    2t and 2t + 1 are the two halves of task t.
    """
    segments: list[Tensor] = []
    ids: list[int] = []
    problem: ValueError | TypeError | None = None
    try:
        checks.count("num_tasks", num_tasks)
        ids = _as_list(task_ids)
        segments = list(map(as_rows, groups))
        _check(segments, ids, num_tasks)
        if second_half is not None:
            others = list(map(as_rows, second_half))
            _check(others, ids, num_tasks)
            segments = list(map(_joined, segments, others))
            ids = [2 * task for task in ids] + [2 * task + 1 for task in ids]
    except (ValueError, TypeError) as error:
        problem = error  # the other ranks wait in the first collective: they have to hear of it
    num_tasks = num_tasks if second_half is None else 2 * num_tasks
    device = _device(segments, ranks)
    ids_by_rank, widths, wide = _announce(segments, ids, num_tasks, problem, device, ranks)
    nothing = torch.zeros(1, 1, device=device)
    for component, width in enumerate(widths):
        if segments[component].shape[1] == 0:  # other ranks have this component
            segments[component] = nothing.expand(len(ids), width)
    everywhere = list(chain.from_iterable(ids_by_rank))
    present = list(dict.fromkeys(everywhere))
    gram_TT = torch.zeros(len(segments), num_tasks, num_tasks, dtype=torch.float64, device=device)
    if not present:
        return gram_TT
    places = None  # in P, of each of the R rows
    if len(present) < len(everywhere):
        places = torch.tensor(list(map(present.index, everywhere))).to(device, non_blocking=True)
    gram_PP = torch.zeros(
        len(segments), len(present), len(present), dtype=torch.float64, device=device
    )
    ends = list(accumulate(widths))
    for start, shard_RC in _shards(segments, ends, list(map(len, ids_by_rank)), wide, ranks):
        _add_products_(gram_PP, shard_RC, places, ends, start)
    if ranks.count > 1:
        distributed.all_reduce(gram_PP, group=ranks.group)
    index = torch.tensor(present).to(device, non_blocking=True)
    gram_TT[:, index[:, None], index] = gram_PP
    return gram_TT


def as_rows(gradients: Gradients) -> Tensor:
    """The gradients as one tensor ``(L, D)``; zeros for those that are absent, ``(L, 0)`` if all in
    a list are.

    Raises:
        TypeError: if they are no tensors.
        ValueError: if they have no common shape, a tensor is no ``(L, D)`` with D ≥ 1, or they are
            complex.
    """
    allowed = "a tensor (L, D), or a list of tensors"
    checks.instance("gradients", gradients, (Tensor, Sequence), allowed)
    for index, one in enumerate([gradients] if isinstance(gradients, Tensor) else gradients):
        if one is not None:
            checks.instance(f"gradients[{index}]", one, Tensor, "a tensor, or None")
            if one.is_complex():
                raise ValueError(f"gradients are {one.dtype}: allowed are real numbers")
    if isinstance(gradients, Tensor):
        if gradients.dim() != 2 or gradients.shape[1] == 0:
            raise ValueError(
                f"gradients have shape {tuple(gradients.shape)}: give (L, D) with at least one "
                "column"
            )
        return gradients.detach()
    present = [gradient.detach() for gradient in gradients if gradient is not None]
    if not present:
        return torch.zeros(len(gradients), 0)
    shapes = {tuple(gradient.shape) for gradient in present}
    zeros = torch.zeros_like(present[0])
    if len(shapes) > 1 or zeros.numel() == 0:
        raise ValueError(
            f"gradients of {len(gradients)} tasks with shapes {sorted(shapes)}: give tensors of "
            "one shape that is not "
            "empty, and None for a task without gradient"
        )
    rows = []
    for gradient in gradients:
        rows.append((zeros if gradient is None else gradient.detach()).reshape(-1))
    return torch.stack(rows)


def _add_products_(
    gram_PP: Tensor, shard_RC: Tensor, places: Tensor | None, ends: Sequence[int], start: int
) -> None:
    """Add the scalar products of the columns from ``start`` on to the Gram matrices of their
    segments.
    """
    for block_RC in shard_RC.split(max(1, BLOCK_NUMBERS // len(shard_RC)), dim=1):
        sum_PC = block_RC.double()
        if places is not None:
            sum_PC = sum_PC.new_zeros(gram_PP.shape[1], sum_PC.shape[1]).index_add_(
                0, places, sum_PC
            )
        stop = start + sum_PC.shape[1]
        for index, low, high in _overlaps(ends, start, stop):
            piece = sum_PC[:, low - start : high - start]
            gram_PP[index].addmm_(piece, piece.T)
        start = stop


def _as_list(task_ids: Sequence[int] | Tensor) -> list[int]:
    ids = task_ids.cpu().numpy() if isinstance(task_ids, Tensor) else task_ids
    found = checks.integers("task_ids", ids)
    checks.shape("task_ids", found, None)
    return found.tolist()


def _check(segments: Sequence[Tensor], task_ids: Sequence[int], num_tasks: int) -> None:
    if not segments:
        raise ValueError("no gradients: give at least one component")
    for segment in segments:
        if len(segment) != len(task_ids):
            raise ValueError(
                f"{len(segment)} rows of gradients, {len(task_ids)} task_ids: give one task per row"
            )
    for task in task_ids:
        if not 0 <= task < num_tasks:
            raise ValueError(
                f"task_ids={list(task_ids)}: allowed are 0 to num_tasks - 1 = {num_tasks - 1}"
            )


def _joined(first: Tensor, second: Tensor) -> Tensor:
    """Rows of one half above those of the other ``(2·L, D)``; one that is absent is zero."""
    if first.shape[1] == 0:
        first = second.new_zeros(len(first), second.shape[1])
    if second.shape[1] == 0:
        second = first.new_zeros(len(second), first.shape[1])
    if first.shape != second.shape:
        raise ValueError(
            f"the halves' gradients have shapes {tuple(first.shape)} and {tuple(second.shape)}: give "
            "tensors of one shape"
        )
    return torch.cat([first, second])


def _device(segments: Sequence[Tensor], ranks: Ranks) -> torch.device:
    """Where the gradients are; without any, where the ranks' backend takes tensors from."""
    for segment in segments:
        if segment.shape[1]:
            return segment.device
    on_gpu = ranks.count > 1 and distributed.get_backend(ranks.group) == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def _announce(
    segments: Sequence[Tensor],
    task_ids: Sequence[int],
    num_tasks: int,
    problem: ValueError | TypeError | None,
    device: torch.device,
    ranks: Ranks,
) -> tuple[list[list[int]], list[int], bool]:
    """Tell all ranks what this one brings, or that it has a ``problem``.

    Returns:
        The tasks of each rank's rows, numbers of columns of the segments, and whether any rank has
        float64 rows.

    Raises:
        ValueError: on every rank, if one has a problem or they do not bring the same number of
            tasks and the same segments.
    """
    widths = [segment.shape[1] for segment in segments]
    wide = any(segment.dtype == torch.float64 for segment in segments)
    headers = [[int(problem is not None), num_tasks, len(widths), len(task_ids), int(wide)]]
    if ranks.count > 1:
        headers = _gather(headers[0], device, ranks)
    if problem is not None:
        raise problem
    for rank, (failed, *theirs) in enumerate(headers):
        if failed:
            raise ValueError(
                f"rank {rank} was given gradients or tasks that do not fit each other; its own "
                "error says which"
            )
        if theirs[:2] != headers[0][1:3]:
            raise ValueError(
                f"rank 0 has {headers[0][1]} tasks and {headers[0][2]} components, rank {rank} has "
                f"{theirs[0]} and "
                f"{theirs[1]}: all ranks must pass the same number of tasks and the same components"
            )
    _, _, _, num_rows, is_wide = zip(*headers, strict=True)
    bodies = [[*widths, *task_ids]]
    if ranks.count > 1:
        padding = [-1] * (
            max(num_rows) - len(task_ids)
        )  # a gather takes equally many numbers from each
        bodies = _gather([*bodies[0], *padding], device, ranks)
    widths_by_rank, ids_by_rank = [], []
    for body, rows in zip(bodies, num_rows, strict=True):
        widths_by_rank.append(body[: len(widths)])
        ids_by_rank.append(body[len(widths) :][:rows])
    common = list(map(_common_width, count(), zip(*widths_by_rank, strict=True)))
    return ids_by_rank, common, any(is_wide)


def _common_width(component: int, widths: Sequence[int]) -> int:
    """Columns of a component from those on each rank, 0 where it has no gradient; 1 where no rank
    has any.
    """
    first = int(np.flatnonzero(widths)[0]) if any(widths) else 0
    for rank, width in enumerate(widths):
        if width not in (0, widths[first]):
            raise ValueError(
                f"component {component}: rank {first} has {widths[first]} columns, rank {rank} has "
                f"{width}; all ranks must "
                "pass the same components of the same sizes in the same order"
            )
    return widths[first] or 1


def _gather(numbers: Sequence[int], device: torch.device, ranks: Ranks) -> list[list[int]]:
    """The numbers of every rank, equally many on each."""
    mine = torch.tensor(numbers, device=device)
    everybody = [torch.empty_like(mine) for _ in range(ranks.count)]
    distributed.all_gather(everybody, mine, group=ranks.group)
    return torch.stack(everybody).tolist()


def _shards(
    segments: Sequence[Tensor],
    ends: Sequence[int],
    rows_of_ranks: Sequence[int],
    wide: bool,
    ranks: Ranks,
) -> Iterator[tuple[int, Tensor]]:
    """This rank's share of the columns, some at a time: where they start, and all ranks' rows of
    them ``(R, C)``.

    A share lies in a buffer that the next one overwrites. One process alone has all rows already.
    """
    if ranks.count == 1:
        yield from zip([0, *ends], segments, strict=False)
        return
    dtype = torch.float64 if wide else torch.float32
    all_rows, my_rows, most_rows = sum(rows_of_ranks), rows_of_ranks[ranks.rank], max(rows_of_ranks)
    width = max(1, BUFFER_NUMBERS // max(all_rows, ranks.count * most_rows))
    width = min(width, -(-ends[-1] // ranks.count))
    sent = segments[0].new_empty(my_rows * width * ranks.count, dtype=dtype)
    received = segments[0].new_empty(all_rows * width, dtype=dtype)
    for start in range(0, ends[-1], width * ranks.count):
        widths = split_evenly(min(width * ranks.count, ends[-1] - start), ranks.count)
        starts = list(accumulate(widths[:-1], initial=start))
        mine = widths[ranks.rank]
        to_ranks = [my_rows * columns for columns in widths]
        from_ranks = [rows * mine for rows in rows_of_ranks]
        outgoing = sent[: sum(to_ranks)]
        parts = outgoing.split(to_ranks)
        for first, columns, part in zip(starts, widths, parts, strict=True):
            _copy_columns(segments, ends, first, part.view(my_rows, columns))
        incoming = received[: sum(from_ranks)]
        distributed.all_to_all_single(incoming, outgoing, from_ranks, to_ranks, group=ranks.group)
        yield starts[ranks.rank], incoming.view(all_rows, mine)


def _copy_columns(
    segments: Sequence[Tensor], ends: Sequence[int], start: int, target: Tensor
) -> None:
    """Fill ``target (L, C)`` with the columns from ``start`` on."""
    for index, low, high in _overlaps(ends, start, start + target.shape[1]):
        begin = ends[index] - segments[index].shape[1]
        target[:, low - start : high - start] = segments[index][:, low - begin : high - begin]


def _overlaps(ends: Sequence[int], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The segments that share columns with ``start:stop``: their number, and the first and last
    column shared.
    """
    index = bisect_right(ends, start)
    while start < stop:
        end = min(ends[index], stop)
        yield index, start, end
        start, index = end, index + 1
