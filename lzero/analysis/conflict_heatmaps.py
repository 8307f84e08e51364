"""Pictures of gradient conflict: the cosine matrix of a component."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

from lzero import checks
from lzero.analysis.conflict import GradientConflict
from lzero.analysis.gram import Ranks
from lzero.analysis.heatmap import heatmap_image

ColorLimit = float | Literal["auto"]
"""Cosine at the ends of a picture's colours, above 0 and at most 1; ``auto``: the largest of the
picture's own pairs."""
LEAST_COSINE = 1e-6  # below it is the rounding of gradients in single precision


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
        limit: ``|cosine|`` from which on colours are strongest; it stands at the colour bar. ``auto``
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
