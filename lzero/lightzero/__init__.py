"""LightZero's names, for code that comes from there: thin adapters on our functions.

Nobody inside lzero imports this package. ``docs/coming_from_lightzero.md`` is its manual.
"""

from lzero.lightzero.conflict import (
    compute_gradient_conflict_distributed,
    compute_gradient_conflicts,
    compute_gradient_conflicts_batch,
    log_gradient_conflict_heatmaps_distributed_fast,
)
from lzero.lightzero.divergences import (
    compute_distribution_divergences_optimized,
    jensen_shannon_divergence_batch_gpu,
    wasserstein_distance_batch_gpu,
)
from lzero.lightzero.experts import (
    collect_and_log_moe_statistics,
    gather_distributed_moe_stats,
    get_expert_selection_stats,
    merge_expert_stats_across_ranks,
)
from lzero.lightzero.moe import MoELayer
from lzero.lightzero.train import train_unizero_multitask_segment_ddp
from lzero.lightzero.translation import Row, Translation, translate_config

__all__ = [
    "MoELayer",
    "Row",
    "Translation",
    "collect_and_log_moe_statistics",
    "compute_distribution_divergences_optimized",
    "compute_gradient_conflict_distributed",
    "compute_gradient_conflicts",
    "compute_gradient_conflicts_batch",
    "gather_distributed_moe_stats",
    "get_expert_selection_stats",
    "jensen_shannon_divergence_batch_gpu",
    "log_gradient_conflict_heatmaps_distributed_fast",
    "merge_expert_stats_across_ranks",
    "train_unizero_multitask_segment_ddp",
    "translate_config",
    "wasserstein_distance_batch_gpu",
]
