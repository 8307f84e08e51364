"""Gradient conflict in the logs: scores, whole matrices, heatmaps."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lzero import checks, tags
from lzero.analysis.conflict import (
    GradientConflict,
)
from lzero.analysis.conflict_heatmaps import (
    ColorLimit,
    check_color_limit,
    log_gradient_conflict_heatmaps,
)
from lzero.analysis.conflict_parts import conflict_shares, matched_conflict, parts_by_layer
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
    """Log conflicts: scores as scalars, cosines, gradient norms and those of the halves whole
    (JSONL), heatmaps (TensorBoard). What the parts of a layer have of its conflict is logged beside
    them.

    Args:
        logger: of the run.
        conflicts: by component, over all ranks.
        task_names: T names; row i of every matrix is task i.
        env_step: env steps per game so far.
        train_iter: updates so far.
        is_main: whether this rank logs; the others return at once.
        drawing: when heatmaps are drawn; None draws now.
        limit: of their colours, see :func:`~lzero.analysis.conflict_heatmaps.gradient_conflict_heatmap`.

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
    scalars, arrays = conflict_numbers(conflicts)
    logger.scalars(scalars, env_step, train_iter)
    logger.arrays(arrays, env_step, train_iter)
    draw = partial(
        log_gradient_conflict_heatmaps, logger, conflicts, task_names, env_step, limit=limit
    )
    (drawing or PictureSchedule(DrawingBudget(1.0))).offer(env_step, draw)


def conflict_numbers(
    conflicts: Mapping[str, GradientConflict],
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What is logged of one measurement: scalars and arrays by tag."""
    scalars: dict[str, float] = {}
    arrays: dict[str, np.ndarray] = {}
    for component, conflict in conflicts.items():
        scalars |= {
            tags.conflict("avg", component): conflict.avg_conflict_score,
            tags.conflict("max", component): conflict.max_conflict_score,
            tags.conflict("rate", component): conflict.conflict_rate,
            tags.conflict("null", component): conflict.max_conflict_null,
            tags.conflict("pairs", component): float(conflict.num_pairs),
            tags.conflict("reliability", component): conflict.reliability.nanmean().item(),
            tags.conflict(tags.DENOISED, component): -mean_of_pairs(conflict.denoised_cosine),
        }
        arrays |= {
            f"{tags.CONFLICT_MATRIX}{component}": conflict.cosine_similarity_matrix.numpy(),
            f"{tags.CONFLICT_NORMS}{component}": conflict.gradient_norms.numpy(),
            f"{tags.CONFLICT_SIGNAL}{component}": conflict.products.signal[-1].numpy(),
            f"{tags.CONFLICT_HALF_NORMS}{component}": conflict.products.half_norms[-1].numpy(),
        }
    scalars |= _of_parts(conflicts)
    return scalars, arrays


def mean_of_pairs(matrix: Tensor) -> float:
    """Mean above the diagonal of ``(T, T)``, over what is a number; NaN where nothing is."""
    above = torch.ones_like(matrix, dtype=torch.bool).triu(1)
    return matrix[above].nanmean().item()


def _of_parts(conflicts: Mapping[str, GradientConflict]) -> dict[str, float]:
    """Shares of every layer's parts in its conflict, and its experts compared on the same pairs."""
    scalars: dict[str, float] = {}
    for layer, components in parts_by_layer(list(conflicts)).items():
        parts = {part: conflicts[name] for part, name in components.items()}
        for part, share in conflict_shares(parts).items():
            scalars[f"{tags.CONFLICT_SHARE}{part}/{layer}"] = share.conflict
            scalars[f"{tags.CONFLICT_NORM_SHARE}{part}/{layer}"] = share.norm
            scalars[f"{tags.CONFLICT_EXCESS}{part}/{layer}"] = share.excess
        cosines = {part: one.cosine_similarity_matrix.numpy() for part, one in parts.items()}
        matched = matched_conflict(cosines)
        if matched.num_experts:
            scalars[f"{tags.CONFLICT_MATCHED}shared_expert/{layer}"] = matched.shared
            scalars[f"{tags.CONFLICT_MATCHED}routed_experts/{layer}"] = matched.routed
            scalars[f"{tags.CONFLICT_MATCHED}pairs/{layer}"] = matched.num_pairs
    return scalars
