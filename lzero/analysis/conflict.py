"""How far the gradients of tasks pull the shared weights apart: in this process, and spread over ranks.

Shape legend: T = tasks, L = rows of this rank, D = length of a gradient.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, distributed

from lzero import checks
from lzero.analysis.gradient_conflict import GradientConflict, HalfGrams
from lzero.analysis.gram import Gradients, Ranks, gram_matrices, gram_of_segments

__all__ = [
    "GradientConflict",
    "HalfGrams",
    "compute_gradient_conflict_distributed",
    "compute_gradient_conflicts",
    "compute_gradient_conflicts_batch",
    "gram_matrices",
]


def compute_gradient_conflicts(
    gradients: Gradients, second_half: Gradients | None = None
) -> GradientConflict:
    """Conflict of gradients that are all in this process.

    Args:
        gradients: T tensors of one shape, ``None`` for an absent one, or a tensor ``(T, D)``. A
            list is joined: T·D numbers more.
        second_half: where ``gradients`` are those of the means over one half of each task's rows,
            likewise those of the other half. A task's gradient is then the mean of the two, and its
            noise is known; ``None`` in both halves is an absent one.

    Raises:
        TypeError: if they are no tensors.
        ValueError: if shapes differ or nothing is given.
    """
    checks.instance("gradients", gradients, (Tensor, Sequence), "a tensor (T, D), or T tensors")
    if len(gradients) == 0:
        raise ValueError("no gradients: give one per task, None for a task without")
    num_tasks = len(gradients)
    halves = None if second_half is None else [second_half]
    return _conflicts([gradients], halves, range(num_tasks), num_tasks, Ranks())[0]


def compute_gradient_conflict_distributed(
    local_grads: Gradients,
    task_ids: Sequence[int] | Tensor,
    num_tasks: int,
    group: distributed.ProcessGroup | None = None,
    second_half: Gradients | None = None,
) -> GradientConflict:
    """Conflict of gradients that are spread over ranks; no rank ever holds all of them.

    A collective: all ranks call it together, also those without a task. One process needs no
    process group.

    Args:
        local_grads: gradients of this rank ``(L, D)``; ``(0, D)`` or an empty list where it has no
            task. D may be unknown to a rank that has nothing but ``None``.
        task_ids: the task ``(L,)`` of each row. Rows of one task are summed, also those of several
            ranks.
        num_tasks: T.
        group: process group; ``None`` for all ranks.
        second_half: as of :func:`compute_gradient_conflicts` ``(L, D)``, summed likewise; given by
            all ranks or by none.

    Returns:
        The same on every rank.

    Raises:
        TypeError: if they are no tensors, or tasks no whole numbers.
        ValueError: if arguments do not fit each other or those of the other ranks.
    """
    halves = None if second_half is None else [second_half]
    return _conflicts([local_grads], halves, task_ids, num_tasks, Ranks.of(group))[0]


def compute_gradient_conflicts_batch(
    groups: Mapping[str, Gradients],
    task_ids: Sequence[int] | Tensor | None = None,
    num_tasks: int | None = None,
    group: distributed.ProcessGroup | None = None,
    second_half: Mapping[str, Gradients] | None = None,
) -> dict[str, GradientConflict]:
    """Conflict in many components at once, e.g. in every layer: one sequence of collectives for all
    of them.

    Args:
        groups: gradients of this rank ``(L, D)`` by component; L is common, D the component's own.
            All ranks name the same components, with a list of ``None`` where they have no gradient
            of one.
        task_ids: the task ``(L,)`` of each row; by default row i is task i. Must be given where
            there are several ranks.
        num_tasks: T; by default the number of rows. Must be given where there are several ranks.
        group: process group; ``None`` for all ranks, or for this process alone where there is no
            process group.
        second_half: as of :func:`compute_gradient_conflicts`, of the same components; given by all
            ranks or by none.

    Returns:
        Conflicts by component, in the order of ``groups``; the same on every rank.

    Raises:
        TypeError: if ``groups`` is no mapping from names to gradients, or tasks are no whole numbers.
        ValueError: if arguments do not fit each other or those of the other ranks.
    """
    ranks = Ranks.of(group)
    if ranks.count > 1 and (task_ids is None or num_tasks is None):
        raise ValueError(
            f"task_ids={task_ids}, num_tasks={num_tasks} with {ranks.count} ranks: say which tasks "
            "this rank's rows are, and how many tasks there are on all ranks"
        )
    checks.mapping("groups", groups, "gradients by component")
    checks.names("groups", list(groups))
    names = sorted(groups)  # ranks may have met the components in different orders
    if not names and ranks.count == 1:
        raise ValueError("groups={}: no gradients; give at least one component")
    halves = None
    if second_half is not None:
        checks.mapping("second_half", second_half, "gradients by component")
        if set(second_half) != set(names):
            raise ValueError(
                f"second_half is of {sorted(second_half)}, groups of {names}: give both halves of "
                "the same components"
            )
        halves = list(map(second_half.__getitem__, names))
    rows = len(groups[names[0]]) if names else 0
    ids = range(rows) if task_ids is None else task_ids
    number = rows if num_tasks is None else num_tasks
    found = _conflicts(list(map(groups.__getitem__, names)), halves, ids, number, ranks)
    conflicts = dict(zip(names, found, strict=True))
    return {name: conflicts[name] for name in groups}


def _conflicts(
    groups: Sequence[Gradients],
    second_half: Sequence[Gradients] | None,
    task_ids: Sequence[int] | Tensor,
    num_tasks: int,
    ranks: Ranks,
) -> list[GradientConflict]:
    grams = gram_of_segments(groups, task_ids, num_tasks, ranks, second_half)
    if second_half is None:
        return GradientConflict.from_grams(grams)
    # each half's gradient is a mean, and counts for one half of the task's
    return GradientConflict.from_half_grams(grams / 4, torch.ones(num_tasks, 2))
