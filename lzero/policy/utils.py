"""Gradient conflict under the address that its users know; it lives in
:mod:`lzero.analysis.conflict` and :mod:`lzero.analysis.conflict_heatmaps`.
"""

from lzero.analysis.conflict import (
    GradientConflict,
    compute_gradient_conflict_distributed,
    compute_gradient_conflicts,
    compute_gradient_conflicts_batch,
)
from lzero.analysis.conflict_heatmaps import (
    gradient_conflict_heatmap,
    log_gradient_conflict_heatmaps,
)

__all__ = ["GradientConflict", "compute_gradient_conflict_distributed", "compute_gradient_conflicts",
           "compute_gradient_conflicts_batch", "gradient_conflict_heatmap", "log_gradient_conflict_heatmaps"]  # fmt: skip
