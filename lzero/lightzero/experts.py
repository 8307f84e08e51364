"""LightZero's functions of expert selection, on those of :mod:`lzero.analysis`.

Signatures and values are those of LightZero's ``lzero/entry/utils.py``. Statistics have its shape:
``{task_id: {window: {"frequencies": (E,), "total_selections": …, "data_points": …}}}``, without
layers. Ours are kept by layer, because layers have routers of their own.

Shape legend: T = tasks, E = experts.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import distributed

from lzero import checks, tags
from lzero.analysis.expert_log import log_expert_selection
from lzero.analysis.expert_statistics import ExpertSelection
from lzero.analysis.gram import Ranks
from lzero.earlier_tags import QUANTITIES, translated
from lzero.lightzero.divergences import Stats, compute_distribution_divergences_optimized
from lzero.logging import RunLogger

logger = logging.getLogger(__name__)


def merge_expert_stats_across_ranks(
    all_expert_stats: Sequence[Stats | None],
) -> dict[int, dict[str, dict[str, Any]]]:
    """One set of statistics from those of all ranks; windows without selections are left out.

    Where a task has selections on several ranks they are added up, frequencies weighted by their
    number; in LightZero, whose tasks live on one rank each, the last rank would win.

    Raises:
        TypeError: if ``all_expert_stats`` is no sequence of mappings.
    """
    checks.instance("all_expert_stats", all_expert_stats, Sequence, "a list of statistics")
    merged: dict[int, dict[str, dict[str, Any]]] = {}
    for rank, of_rank in enumerate(all_expert_stats):
        if not of_rank:
            continue
        checks.mapping(f"all_expert_stats[{rank}]", of_rank, "statistics by task")
        for task, windows in of_rank.items():
            of_task = merged.setdefault(task, {})
            for window, stats in windows.items():
                if stats and stats.get("total_selections", 0) > 0:
                    _add(of_task, window, stats)
    return merged


def gather_distributed_moe_stats(local_stats: Stats, world_size: int) -> list[Stats]:
    """Statistics of all ranks, in their order; a collective.

    A failing exchange is an error here; LightZero goes on with what this rank has.

    Raises:
        ValueError: if ``world_size`` is not the number of processes.
    """
    ranks = Ranks.of(None)
    if world_size != ranks.count:
        raise ValueError(f"world_size={world_size}: this run has {ranks.count} processes")
    if ranks.count == 1:
        return [local_stats]
    everybody: list[Any] = [None] * ranks.count
    distributed.all_gather_object(everybody, local_stats)
    return everybody


def get_expert_selection_stats(policy: Any, task_id: int | None = None) -> dict[Any, Any]:
    """Expert selection that this rank has counted, in LightZero's shape: layers are added up.

    Args:
        policy: one of ours, which keeps ``expert_statistics``, or one with LightZero's
            ``_model.world_model.transformer.get_expert_selection_stats``.
        task_id: gives the windows of one task instead of ``{task_id: windows}``.

    Returns:
        Tensors ``frequencies`` and ``total_counts`` ``(E,)`` (zeros without data, where ours are NaN),
        ``total_selections`` and ``data_points``, the task's own updates.

    Raises:
        TypeError: if ``policy`` keeps no such statistics.
        ValueError: if there is no such task.
    """
    recorder = getattr(policy, "expert_statistics", None)
    if recorder is None:
        return _their_transformer(policy).get_expert_selection_stats(task_id)
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for of_layer in recorder.stats(task_id).values():
        for task, windows in of_layer.items():
            of_task = found.setdefault(task, {})
            for window, stats in windows.items():
                counts = torch.from_numpy(np.array(stats["total_counts"], np.float64))
                if window in of_task:
                    counts = counts + of_task[window]["total_counts"]
                total = counts.sum()
                of_task[window] = {
                    "frequencies": counts / total if total > 0 else torch.zeros_like(counts),
                    "total_counts": counts,
                    "total_selections": total.item(),
                    "data_points": stats["data_points"],
                }
    return found if task_id is None else found.get(task_id, {})


def collect_and_log_moe_statistics(
    policy: Any, tb_logger: Any, train_iter: int, world_size: int, rank: int
) -> None:
    """Log expert selection of all ranks to TensorBoard under LightZero's tags: ``MOE_Details``, ``MOE_Global``,
    ``MOE_Heatmap``, ``TaskSimilarity``, ``MOE_Divergence`` and ``TaskPairwise``. What we call otherwise in our own
    logs is translated by :mod:`lzero.earlier_tags`; what LightZero does not log keeps our name.

    A collective; rank 0 writes, where in LightZero every rank does. Errors are raised, where LightZero
    prints them. Entropies are exact, without LightZero's 1e-8 in the logarithm.

    Args:
        policy: as of :func:`get_expert_selection_stats`; ours are logged by layer too.
        tb_logger: TensorBoard's ``SummaryWriter``.
        train_iter: updates so far, the x-axis.
        world_size: number of processes.
        rank: of this process.

    Raises:
        TypeError: if ``policy`` keeps no such statistics.
        ValueError: if ``world_size`` is not the number of processes.
    """
    local = _serialisable(get_expert_selection_stats(policy))
    merged = merge_expert_stats_across_ranks(gather_distributed_moe_stats(local, world_size))
    recorder = getattr(policy, "expert_statistics", None)
    selection = _selection_of(merged) if recorder is None else recorder.reduced()
    if rank != 0:
        return
    if not any(merged.values()):
        logger.warning("update %d: no expert has been selected yet, nothing to log", train_iter)
        return
    num_tasks = next(iter(selection.values())).counts.shape[1]
    names = [f"T{task}" for task in range(num_tasks)]
    face = cast("RunLogger", _TensorBoardFace(tb_logger, _their_names(names)))
    log_expert_selection(face, selection, names, train_iter, train_iter)
    tb_logger.add_scalar("MOE_Global/ActiveTasks", len(merged), train_iter)
    for task, windows in merged.items():
        for window, one in windows.items():
            tag = f"MOE_Details/Task{task}_{window}/TotalSelections"
            tb_logger.add_scalar(tag, one["total_selections"], train_iter)
    for tag, value in _their_divergences(merged):
        tb_logger.add_scalar(tag, value, train_iter)


def _their_names(games: Sequence[str]) -> dict[str, str]:
    """LightZero's tags by ours, without layers."""
    theirs = []
    for window in tags.WINDOWS:
        for quantity in QUANTITIES:
            theirs.append(f"MOE_Global/{window}/{quantity}")
            for task in range(len(games)):
                theirs.append(f"MOE_Details/Task{task}_{window}/{quantity}")
        for distance in ("JS_Divergence", "TV_Distance", "Wasserstein_Distance"):
            theirs.append(f"MOE_Divergence/{window}_Avg{distance}")
            theirs.append(f"MOE_Divergence/{window}_Max{distance}")
        theirs.append(f"MOE_Heatmap/{window}_TaskExpert_Heatmap")
        for distance in ("JS", "TV", "Wasserstein"):
            theirs.append(f"TaskSimilarity/{window}_{distance}_Matrix")
    return {translated(tag, games): tag for tag in theirs}


class _TensorBoardFace:
    """What :func:`log_expert_selection` asks of a run's logger, on a ``SummaryWriter``."""

    def __init__(self, tb_logger: Any, names: Mapping[str, str]) -> None:
        self.tb_logger, self.names = tb_logger, names

    def _name(self, tag: str) -> str:
        whole, slash, layer = tag.rpartition("/layer")
        if slash and whole in self.names:
            return f"{self.names[whole]}{slash}{layer}"
        return self.names.get(tag, tag)

    def scalars(self, values: Mapping[str, float], env_step: int, train_iter: int) -> None:
        for tag, value in values.items():
            if math.isfinite(value):
                self.tb_logger.add_scalar(self._name(tag), value, train_iter)

    def arrays(self, values: Mapping[str, np.ndarray], env_step: int, train_iter: int) -> None:
        """TensorBoard has no matrices; they are drawn."""

    def add_image(self, tag: str, image: np.ndarray, step: int) -> None:
        self.tb_logger.add_image(self._name(tag), image, step)


def _their_divergences(merged: Stats) -> Iterator[tuple[str, float]]:
    found = compute_distribution_divergences_optimized(merged)
    if not found:
        return
    for measure, name in (("js", "JS_Divergence"), ("wasserstein", "Wasserstein_Distance")):
        yield f"MOE_Divergence/Immediate_Avg{name}", found[f"{measure}_stats"]["avg"]
        yield f"MOE_Divergence/Immediate_Max{name}", found[f"{measure}_stats"]["max"]
        matrix, tasks = found[f"{measure}_matrix"], found["task_ids"]
        for i, j in zip(*np.triu_indices(len(tasks), 1), strict=True):
            yield f"TaskPairwise/Immediate_Task{tasks[i]}_Task{tasks[j]}_{name}", matrix[i, j]


def _their_transformer(policy: Any) -> Any:
    model = getattr(policy, "_model", None)
    transformer = getattr(getattr(model, "world_model", None), "transformer", None)
    if not hasattr(transformer, "get_expert_selection_stats"):
        raise TypeError(
            f"policy={checks.shown(policy)}: allowed is a policy with expert_statistics, or with "
            "_model.world_model.transformer.get_expert_selection_stats"
        )
    return transformer


def _serialisable(stats: Stats) -> dict[int, dict[str, dict[str, Any]]]:
    """Plain numbers, which ranks can send; windows without data are left out."""
    plain: dict[int, dict[str, dict[str, Any]]] = {}
    for task, windows in stats.items():
        plain[task] = {}
        for window, one in windows.items():
            if one and "frequencies" in one:
                plain[task][window] = {
                    "frequencies": torch.as_tensor(one["frequencies"]).tolist(),
                    "total_selections": one["total_selections"],
                    "data_points": one["data_points"],
                }
    return plain


def _add(of_task: dict[str, dict[str, Any]], window: str, stats: Mapping[str, Any]) -> None:
    frequencies = torch.as_tensor(stats["frequencies"], dtype=torch.float64).cpu().numpy()
    total, data_points = stats["total_selections"], stats["data_points"]
    if window in of_task:
        before = of_task[window]
        counts = before["frequencies"] * before["total_selections"] + frequencies * total
        total = before["total_selections"] + total
        frequencies = counts / total
        data_points = max(before["data_points"], data_points)
    of_task[window] = {
        "frequencies": frequencies,
        "total_selections": total,
        "data_points": data_points,
    }


def _selection_of(merged: Stats) -> dict[int, ExpertSelection]:
    """Statistics in LightZero's shape as those of one layer; tasks that are not there are empty."""
    widths = [len(one["frequencies"]) for windows in merged.values() for one in windows.values()]
    if not widths:
        return {}
    shape = (len(tags.WINDOWS), max(merged) + 1, widths[0])
    counts, data_points = np.zeros(shape, np.int64), np.zeros(shape[:2], np.int64)
    for task, windows in merged.items():
        for index, window in enumerate(tags.WINDOWS):
            if window in windows:
                one = windows[window]
                counts[index, task] = np.rint(one["frequencies"] * one["total_selections"])
                data_points[index, task] = one["data_points"]
    return {0: ExpertSelection(tuple(tags.WINDOWS), counts, data_points)}
