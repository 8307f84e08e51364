"""LightZero's divergences between tasks' expert selections, on those of :mod:`lzero.analysis.expert_log`.

Shape legend: T = tasks, E = experts.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lzero import checks
from lzero.analysis.expert_log import js_divergence_matrix, wasserstein_matrix

Stats = Mapping[int, Mapping[str, Mapping[str, Any]]]
"""``{task_id: {window: {"frequencies": (E,), "total_selections": …, "data_points": …}}}``"""


def jensen_shannon_divergence_batch_gpu(distributions_tensor: Tensor) -> Tensor:
    """Jensen–Shannon divergence in nats between rows: 0 to ln 2 (scipy's ``jensenshannon`` is its
    root).

    As :func:`lzero.entry.utils.js_divergence_matrix`, but rows need not be normalised, and a row of
    zeros, which has no distribution and is NaN there, is ln 2 / 2 from every other, as in LightZero.
    The name is LightZero's; it is computed in float64 on the host, wherever the tensor lies.

    Args:
        distributions_tensor: ``(T, E)``, numbers from 0 on.

    Returns:
        ``(T, T)`` with the device of the argument, symmetric.

    Raises:
        TypeError: if it is no tensor.
        ValueError: if it has other axes, or a number is negative or not finite.
    """
    p, is_empty = _distributions(distributions_tensor)
    js = js_divergence_matrix(p)
    js[np.isnan(js)] = (
        math.log(2) / 2
    )  # half of KL(q || q / 2); where p has nothing, nothing is added
    js[np.ix_(is_empty, is_empty)] = 0.0
    return _like(distributions_tensor, js)


def wasserstein_distance_batch_gpu(distributions_tensor: Tensor) -> Tensor:
    """Wasserstein-1 distance between rows with the experts' numbers as a line, 0 to E − 1.

    As :func:`lzero.entry.utils.wasserstein_matrix`, not divided by E − 1 either; rows need not be
    normalised. A row of zeros, NaN there, is as far from another as that one's cumulative sums add up
    to, as in LightZero. Arguments and errors as of :func:`jensen_shannon_divergence_batch_gpu`.
    """
    p, is_empty = _distributions(distributions_tensor)
    distance = wasserstein_matrix(p)
    to_nothing = np.where(is_empty, 0.0, p.cumsum(axis=1).sum(axis=1))
    distance[is_empty] = to_nothing
    distance[:, is_empty] = to_nothing[:, None]
    return _like(distributions_tensor, distance)


def compute_distribution_divergences_optimized(
    merged_stats: Stats, window_type: str = "immediate"
) -> dict[str, Any]:
    """Divergences between tasks in one window, with LightZero's keys.

    Args:
        merged_stats: as :func:`merge_expert_stats_across_ranks` gives them.
        window_type: one of immediate, short, medium, long.

    Returns:
        ``task_ids``, ``n_tasks``, ``n_experts``, ``device``, ``gpu_accelerated``, ``js_matrix`` and
        ``wasserstein_matrix`` (arrays ``(T, T)``), and ``js_stats`` and ``wasserstein_stats`` with
        avg, max, min and std (n − 1; NaN of one pair) over pairs. Empty for fewer than two tasks.

    Raises:
        TypeError: if ``merged_stats`` is no mapping.
        ValueError: if tasks have different numbers of experts.
    """
    checks.mapping("merged_stats", merged_stats, "statistics by task")
    task_ids, rows = [], []
    for task, windows in merged_stats.items():
        if window_type in windows:
            task_ids.append(task)
            rows.append(torch.as_tensor(windows[window_type]["frequencies"], dtype=torch.float64))
    if len(rows) < 2:
        return {}
    for task, row in zip(task_ids, rows, strict=True):
        checks.shape(f"merged_stats[{task}] frequencies", row, len(rows[0]))
    frequencies = torch.stack(rows).cpu()
    js = jensen_shannon_divergence_batch_gpu(frequencies).numpy()
    distance = wasserstein_distance_batch_gpu(frequencies).numpy()
    return {
        "task_ids": tuple(task_ids),
        "n_tasks": len(rows),
        "n_experts": frequencies.shape[1],
        "device": "cpu",
        "gpu_accelerated": False,
        "js_matrix": js,
        "wasserstein_matrix": distance,
        "js_stats": _over_pairs(js),
        "wasserstein_stats": _over_pairs(distance),
    }


def _distributions(tensor: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rows as shares in float64, NaN for rows of zeros, and which rows those are."""
    checks.instance("distributions_tensor", tensor, Tensor, "a tensor (T, E)")
    checks.shape("distributions_tensor", tensor, None, None)
    rows = tensor.detach().to("cpu", torch.float64).numpy()
    checks.finite("distributions_tensor", rows)
    if rows.size and rows.min() < 0:
        raise ValueError(f"distributions_tensor holds {rows.min()}: allowed are numbers from 0 on")
    total = rows.sum(axis=1, keepdims=True)
    is_empty = total[:, 0] == 0
    return np.divide(rows, total, out=np.full(rows.shape, np.nan), where=total > 0), is_empty


def _like(tensor: Tensor, matrix: np.ndarray) -> Tensor:
    dtype = tensor.dtype if tensor.is_floating_point() else torch.float32
    return torch.from_numpy(matrix).to(tensor.device, dtype)


def _over_pairs(matrix: np.ndarray) -> dict[str, float]:
    pairs = matrix[np.triu_indices(len(matrix), 1)]
    return {
        "avg": float(pairs.mean()),
        "max": float(pairs.max()),
        "min": float(pairs.min()),
        "std": float(pairs.std(ddof=1)) if len(pairs) > 1 else math.nan,
    }
