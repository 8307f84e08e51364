"""Expert selection in the logs, under the address that its users know; it lives in :mod:`lzero.analysis.expert_log`."""

from lzero.analysis.expert_log import (
    js_divergence_matrix,
    log_expert_selection,
    total_variation_matrix,
    wasserstein_matrix,
)

__all__ = [
    "js_divergence_matrix",
    "log_expert_selection",
    "total_variation_matrix",
    "wasserstein_matrix",
]
