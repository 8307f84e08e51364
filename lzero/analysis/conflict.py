"""How far the gradients of tasks pull the shared weights apart, measured from their scalar products
alone.

Shape legend: T = tasks, L = rows of this rank, D = length of a gradient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor, distributed

from lzero import checks
from lzero.analysis.gram import Gradients, Ranks, gram_matrices, gram_of_segments
from lzero.analysis.heatmap import heatmap_image

__all__ = [
    "GradientConflict",
    "compute_gradient_conflict_distributed",
    "compute_gradient_conflicts",
    "compute_gradient_conflicts_batch",
    "gradient_conflict_heatmap",
    "gram_matrices",
    "log_gradient_conflict_heatmaps",
]

ColorLimit = float | Literal["auto"]
"""Cosine at the ends of a picture's colours, above 0 and at most 1; ``auto``: the largest of the
picture's own pairs."""
LEAST_COSINE = 1e-6  # below it is the rounding of gradients in single precision


@dataclass(frozen=True, eq=False)
class GradientConflict:
    """Pairwise conflict of T task gradients. Tensors are on the CPU in float64.

    A task whose gradient is zero, absent or not finite is not valid. The conflict score of a pair
    is minus its cosine; scores run over all pairs of two valid tasks and are NaN where there is no
    such pair.

    Source: gradients conflict where their cosine is negative, magnitude similarity: PCGrad (arXiv
    2001.06782).

    Attributes:
        cosine_similarity_matrix: ``(T, T)``, −1 to 1; row and column i are task i, NaN where it is
            not valid.
        valid: ``(T,)`` bool.
        avg_conflict_score: mean over pairs, −1 to 1.
        max_conflict_score: the maximum negative cosine similarity: 1 where two gradients are
            opposite.
        min_conflict_score: of the pair that agrees best.
        conflict_rate: share of pairs whose cosine is negative.
        magnitude_similarity: ``(T, T)``, 2‖g_i‖‖g_j‖ / (‖g_i‖² + ‖g_j‖²), 0 to 1; NaN where a task
            is not valid.
        gradient_norms: ``(T,)`` Euclidean lengths; 0 for absent gradients, NaN or infinite for
            those not finite.
        coverage: share of tasks that are valid.
    """

    cosine_similarity_matrix: Tensor
    valid: Tensor
    avg_conflict_score: float
    max_conflict_score: float
    min_conflict_score: float
    conflict_rate: float
    magnitude_similarity: Tensor
    gradient_norms: Tensor
    coverage: float

    @classmethod
    def from_gram(cls, gram: Tensor) -> Self:
        """From the scalar products ``(T, T)`` of the gradients.

        Raises:
            TypeError: if ``gram`` is no tensor.
            ValueError: if it is not square or empty.
        """
        checks.instance("gram", gram, Tensor, "a tensor (T, T)")
        return cls.from_grams(gram[None])[0]

    @classmethod
    def from_grams(cls, grams: Tensor) -> list[Self]:
        """From the scalar products ``(S, T, T)`` of S components.

        Raises:
            TypeError: if ``grams`` is no tensor.
            ValueError: if the matrices are not square or empty.
        """
        checks.instance("grams", grams, Tensor, "a tensor (S, T, T)")
        if grams.dim() != 3 or grams.shape[1] != grams.shape[2] or grams.shape[1] == 0:
            raise ValueError(
                f"Gram matrix of shape {tuple(grams.shape[1:])}: give (T, T) with T >= 1"
            )
        grams = grams.detach().to("cpu", torch.float64)
        grams = (grams + grams.mT) / 2  # a matrix product need not be symmetric to the last digit
        norms = grams.diagonal(dim1=1, dim2=2).sqrt()
        valid = norms.isfinite() & (norms > 0)
        both_valid = valid[:, :, None] & valid[:, None]
        products, squares = norms[:, :, None] * norms[:, None], norms.square()
        cosine = (grams / products).clamp(-1, 1)
        cosine.diagonal(dim1=1, dim2=2).fill_(1)
        magnitude = 2 * products / (squares[:, :, None] + squares[:, None])

        pair = both_valid.triu(1)
        pairs = pair.sum(dim=(1, 2))
        largest = -cosine.where(pair, torch.inf).amin(dim=(1, 2))
        smallest = -cosine.where(pair, -torch.inf).amax(dim=(1, 2))
        of_fields = (  # in the order of the fields
            cosine.where(both_valid, torch.nan),
            valid,
            (-cosine.where(pair, 0).sum(dim=(1, 2)) / pairs).tolist(),
            largest.where(pairs > 0, torch.nan).tolist(),
            smallest.where(pairs > 0, torch.nan).tolist(),
            ((pair & (cosine < 0)).sum(dim=(1, 2)) / pairs).tolist(),
            magnitude.where(both_valid, torch.nan),
            norms,
            valid.double().mean(dim=1).tolist(),
        )
        return list(map(cls, *of_fields))


def compute_gradient_conflicts(gradients: Gradients) -> GradientConflict:
    """Conflict of gradients that are all in this process.

    Args:
        gradients: T tensors of one shape, ``None`` for an absent one, or a tensor ``(T, D)``. A
            list is joined: T·D numbers more.

    Raises:
        TypeError: if they are no tensors.
        ValueError: if shapes differ or nothing is given.
    """
    checks.instance("gradients", gradients, (Tensor, Sequence), "a tensor (T, D), or T tensors")
    if len(gradients) == 0:
        raise ValueError("no gradients: give one per task, None for a task without")
    num_tasks = len(gradients)
    return GradientConflict.from_gram(
        gram_of_segments([gradients], range(num_tasks), num_tasks, Ranks())[0]
    )


def compute_gradient_conflict_distributed(
    local_grads: Gradients,
    task_ids: Sequence[int] | Tensor,
    num_tasks: int,
    group: distributed.ProcessGroup | None = None,
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

    Returns:
        The same on every rank.

    Raises:
        TypeError: if they are no tensors, or tasks no whole numbers.
        ValueError: if arguments do not fit each other or those of the other ranks.
    """
    gram = gram_of_segments([local_grads], task_ids, num_tasks, Ranks.of(group))
    return GradientConflict.from_gram(gram[0])


def compute_gradient_conflicts_batch(
    groups: Mapping[str, Gradients],
    task_ids: Sequence[int] | Tensor | None = None,
    num_tasks: int | None = None,
    group: distributed.ProcessGroup | None = None,
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
            "this rank's rows "
            "are, and how many tasks there are on all ranks"
        )
    checks.mapping("groups", groups, "gradients by component")
    checks.names("groups", list(groups))
    names = sorted(groups)  # ranks may have met the components in different orders
    if not names and ranks.count == 1:
        raise ValueError("groups={}: no gradients; give at least one component")
    rows = len(groups[names[0]]) if names else 0
    ids = range(rows) if task_ids is None else task_ids
    grams = gram_of_segments(
        list(map(groups.__getitem__, names)), ids, rows if num_tasks is None else num_tasks, ranks
    )
    conflicts = dict(zip(names, GradientConflict.from_grams(grams), strict=True))
    return {name: conflicts[name] for name in groups}


class ImageLogger(Protocol):
    """What pictures are logged to: TensorBoard's ``SummaryWriter`` or
    :class:`lzero.logging.RunLogger`.
    """

    def add_image(self, tag: str, image: np.ndarray, step: int, /) -> None:
        """Log a picture ``(3, H, W)`` uint8."""


def check_color_limit(limit: ColorLimit) -> None:
    """Refuse what is no limit of colours.

    Raises:
        TypeError: if it is neither a number nor a text.
        ValueError: if it is another number or text.
    """
    if not isinstance(limit, str):
        checks.number("limit", limit, 0.0, 1.0, above=True)
    elif limit != "auto":
        raise ValueError(f"limit={limit!r}: allowed is 'auto' or a number above 0 up to 1")


def gradient_conflict_heatmap(
    conflict: GradientConflict, task_names: Sequence[str], title: str, *, limit: ColorLimit = 1.0
) -> np.ndarray:
    """Picture of the cosine matrix: red where gradients conflict, blue where they agree, hatched
    where there is none.

    Args:
        conflict: of T tasks.
        task_names: T names; row and column i get name i.
        title: of the picture.
        limit: |cosine| from which on colours are strongest; it stands at the colour bar. ``auto``
            shows small cosines: the largest one between two tasks, 1 where all are 0.

    Returns:
        ``(3, H, W)`` uint8. For at most ten tasks the cosines are written into the cells.

    Raises:
        TypeError: if ``task_names`` are no names, ``conflict`` is none, or ``limit`` no limit.
        ValueError: if there is not one name per task, or ``limit`` is another number or text.
    """
    checks.instance("conflict", conflict, GradientConflict, "a GradientConflict")
    checks.names("task_names", task_names, len(conflict.valid))
    check_color_limit(limit)
    cosine = conflict.cosine_similarity_matrix.numpy()
    largest = _largest_of_pairs(cosine) if isinstance(limit, str) else limit
    return heatmap_image(
        {"cosine similarity of gradients": cosine},
        task_names,
        task_names,
        title=title,
        limits=(-largest, largest),
        colors="RdBu",
        bar_note="(auto)" if limit == "auto" else "",
    )


def _largest_of_pairs(cosine: np.ndarray) -> float:
    """Largest finite |cosine| off the diagonal of ``(T, T)``; 1 where none is more than rounding."""
    pairs = np.abs(cosine[np.triu_indices(len(cosine), k=1)])
    largest = pairs[np.isfinite(pairs)].max(initial=0.0).item()
    return largest if largest > LEAST_COSINE else 1.0


def log_gradient_conflict_heatmaps(
    tb_logger: ImageLogger,
    conflicts: Mapping[str, GradientConflict],
    task_names: Sequence[str],
    step: int,
    *,
    limit: ColorLimit = 1.0,
) -> None:
    """Log a picture ``gradient_conflict_matrix/{component}`` per component; ranks other than 0 draw
    nothing.

    Args:
        tb_logger: where to; not touched on ranks other than 0.
        conflicts: by component.
        task_names: T names.
        step: x-axis, env steps per game.
        limit: of the colours, as of :func:`gradient_conflict_heatmap`; ``auto`` is each picture's
            own.

    Raises:
        TypeError: if ``tb_logger`` takes no pictures, ``conflicts`` is no mapping, or ``limit`` no
            limit.
        ValueError: if there is not one name per task, or ``limit`` is another number or text.
    """
    if Ranks.of(None).rank != 0:
        return
    if not hasattr(tb_logger, "add_image"):
        raise TypeError(
            f"tb_logger={checks.shown(tb_logger)}: allowed is what has add_image(tag, image, step)"
        )
    checks.mapping("conflicts", conflicts, "GradientConflict by component")
    check_color_limit(limit)
    for component, conflict in conflicts.items():
        picture = gradient_conflict_heatmap(conflict, task_names, component, limit=limit)
        tb_logger.add_image(f"gradient_conflict_matrix/{component}", picture, step)
