"""Gradient conflict in the logs: scores, whole matrices, heatmaps."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from lzero import checks, tags
from lzero.analysis.conflict import (
    ColorLimit,
    GradientConflict,
    check_color_limit,
    log_gradient_conflict_heatmaps,
)
from lzero.analysis.drawing_budget import DrawingBudget, PictureSchedule
from lzero.logging import RunLogger


def log_gradient_conflicts(
    logger: RunLogger,
    conflicts: Mapping[str, GradientConflict],
    task_names: Sequence[str],
    env_step: int,
    train_iter: int,
    *,
    is_main: bool = True,
    drawing: PictureSchedule | None = None,
    limit: ColorLimit = 1.0,
) -> None:
    """Log conflicts: scores as scalars, cosines and gradient norms whole (JSONL), heatmaps
    (TensorBoard).

    Args:
        logger: of the run.
        conflicts: by component, over all ranks.
        task_names: T names; row i of every matrix is task i.
        env_step: env steps per game so far.
        train_iter: updates so far.
        is_main: whether this rank logs; the others return at once.
        drawing: when heatmaps are drawn; None draws now.
        limit: of their colours, see :func:`~lzero.analysis.conflict.gradient_conflict_heatmap`.

    Raises:
        TypeError: if ``logger``, ``conflicts`` or ``limit`` are others.
        ValueError: if there is not one name per task, or ``limit`` is another number or text.
    """
    if not is_main:
        return
    checks.instance("logger", logger, RunLogger, "a RunLogger")
    checks.mapping("conflicts", conflicts, "GradientConflict by component")
    for conflict in conflicts.values():
        checks.names("task_names", task_names, len(conflict.valid))
    check_color_limit(limit)
    scalars: dict[str, float] = {}
    arrays: dict[str, np.ndarray] = {}
    for component, conflict in conflicts.items():
        scalars |= {
            tags.conflict("avg", component): conflict.avg_conflict_score,
            tags.conflict("max", component): conflict.max_conflict_score,
            tags.conflict("rate", component): conflict.conflict_rate,
        }
        arrays |= {
            f"{tags.CONFLICT_MATRIX}{component}": conflict.cosine_similarity_matrix.numpy(),
            f"gradient_conflict_norms/{component}": conflict.gradient_norms.numpy(),
        }
    logger.scalars(scalars, env_step, train_iter)
    logger.arrays(arrays, env_step, train_iter)
    draw = partial(
        log_gradient_conflict_heatmaps, logger, conflicts, task_names, env_step, limit=limit
    )
    (drawing or PictureSchedule(DrawingBudget(1.0))).offer(env_step, draw)
