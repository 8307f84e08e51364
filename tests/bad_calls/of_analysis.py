"""Gradient conflict, heatmaps, aggregation, expert selection, task gradients, plasticity."""

from typing import Any

import numpy as np
import torch
from torch import nn

from lzero.analysis.ablation import parts_of, resampled_means, switched_off, with_interval
from lzero.analysis.aggregation import Aggregator
from lzero.analysis.conflict import (
    GradientConflict,
    compute_gradient_conflict_distributed,
    compute_gradient_conflicts,
    compute_gradient_conflicts_batch,
    gram_matrices,
)
from lzero.analysis.conflict_heatmaps import (
    gradient_conflict_heatmap,
    log_gradient_conflict_heatmaps,
)
from lzero.analysis.conflict_log import log_gradient_conflicts
from lzero.analysis.drawing_budget import DrawingBudget, PictureSchedule
from lzero.analysis.effective_rank import effective_rank
from lzero.analysis.expert_analysis import ExpertAnalysis
from lzero.analysis.expert_log import (
    js_divergence_matrix,
    log_expert_selection,
    total_variation_matrix,
    wasserstein_matrix,
)
from lzero.analysis.expert_recorder import ExpertSelectionRecorder
from lzero.analysis.expert_statistics import (
    ExpertSelection,
    ExpertSelectionStatistics,
    reduce_selections,
)
from lzero.analysis.heatmap import heatmap_image
from lzero.analysis.parameter_norms import norms_by_module, parameter_lag, parameter_norms
from lzero.analysis.plasticity import measure_plasticity
from lzero.analysis.points import ActivationPoint, ParameterPoint, captured, expert_points
from lzero.analysis.specialisation import (
    assignment_shift,
    effective_number,
    match_experts,
    matching_null,
    mutual_information,
    router_null,
)
from lzero.analysis.task_gradients import TaskGradients, TaskLoss
from lzero.config import MoEConfig
from lzero.distributed import Distributed
from lzero.logging import RunLogger
from lzero.nn.moe import MoELayer
from tests.bad_calls.bad import Bad

G = torch.eye(2)
LINEAR = nn.Linear(2, 2)
EVEN = np.full((2, 4), 0.25)
RNG = np.random.default_rng(0)


def conflict() -> GradientConflict:
    return compute_gradient_conflicts(G)


def heatmap(panels: Any, rows: Any = ("a", "b"), **changes: Any) -> np.ndarray:
    settings: dict[str, Any] = {"title": "t", "limits": (0.0, 1.0), "colors": "viridis"}
    return heatmap_image(panels, rows, ("x", "y"), **settings | changes)


def heatmap_up_to(limit: Any) -> np.ndarray:
    return gradient_conflict_heatmap(conflict(), ["a", "b"], "t", limit=limit)


def statistics(tasks: Any = 2, experts: Any = 4, **settings: Any) -> ExpertSelectionStatistics:
    return ExpertSelectionStatistics(tasks, experts, windows={"short": 100}, **settings)


def selection(experts: int = 4) -> ExpertSelection:
    counts = np.ones((1, 2, experts), np.int64)
    return ExpertSelection(("short",), counts, np.ones((1, 2), np.int64))


def null(counts: Any = EVEN, task: Any = (0, 1), **settings: Any) -> object:
    settings = {"permutations": 3, "rng": RNG} | settings
    return router_null(counts, task, 2, **settings)


def switch_off(part: str) -> None:
    with switched_off(MoELayer(MoEConfig(num_experts=2), 8, 2), part):
        pass


def task_gradients(loss: torch.Tensor, points: Any, activations: Any = ()) -> TaskGradients:
    part = TaskLoss(0, loss, dict(activations), torch.tensor(1.0))
    return TaskGradients.of(list(LINEAR.parameters()), [], points, [part])


def one_task() -> TaskGradients:
    return task_gradients(LINEAR(torch.ones(1, 2)).sum(), {})


def capture(point: ActivationPoint) -> None:
    with captured({"here": point}):
        pass


def logger(folder) -> RunLogger:
    return RunLogger(folder / "run", is_main=True)


def plasticity(units: Any, tau: Any = 0.025) -> object:
    return measure_plasticity(LINEAR, units, (torch.ones(3, 2),), Distributed(), tau)


distributed = compute_gradient_conflict_distributed
batch = compute_gradient_conflicts_batch
conflicts = compute_gradient_conflicts

CASES = {
    "conflicts of nothing": Bad(lambda: conflicts([]), "gradients"),
    "conflicts of None": Bad(lambda: conflicts(None), "gradients=None", TypeError),
    "conflicts of a number": Bad(lambda: conflicts(5), "gradients=5", TypeError),
    "conflicts of numbers": Bad(lambda: conflicts([1.0, 2.0]), r"gradients\[0\]=1.0", TypeError),
    "conflicts of an array": Bad(
        lambda: conflicts(np.eye(2)), r"gradients=ndarray of shape \(2, 2\)", TypeError
    ),
    "conflicts of other lengths": Bad(
        lambda: conflicts([torch.ones(3), torch.ones(4)]), r"\(3,\), \(4,\)"
    ),
    "conflicts of one vector": Bad(lambda: conflicts(torch.ones(3)), r"gradients.*\(3,\)"),
    "conflicts of three axes": Bad(
        lambda: conflicts(torch.ones(2, 3, 4)), r"gradients.*\(2, 3, 4\)"
    ),
    "conflicts without columns": Bad(lambda: conflicts(torch.ones(2, 0)), r"gradients.*\(2, 0\)"),
    "conflicts of empty tensors": Bad(lambda: conflicts([torch.ones(0)] * 2), r"gradients.*\(0,\)"),
    "conflicts of complex numbers": Bad(
        lambda: conflicts(torch.ones(2, 3, dtype=torch.complex64)), "gradients.*complex64"
    ),
    "Gram matrix not square": Bad(
        lambda: GradientConflict.from_gram(torch.ones(2, 3)), r"\(2, 3\)"
    ),
    "Gram matrix empty": Bad(lambda: GradientConflict.from_gram(torch.ones(0, 0)), r"\(0, 0\)"),
    "Gram matrix of one axis": Bad(lambda: GradientConflict.from_gram(torch.ones(3)), r"\(3,\)"),
    "Gram matrix as an array": Bad(
        lambda: GradientConflict.from_gram(np.eye(2)), "gram.*ndarray", TypeError
    ),
    "Gram matrix as a list": Bad(
        lambda: GradientConflict.from_gram([[1.0]]), r"gram.*\[\[1.0\]\]", TypeError
    ),
    "ranks: fewer tasks than rows": Bad(lambda: distributed(G, [0], 2), "2 rows.*1 task_ids"),
    "ranks: task beyond the last": Bad(lambda: distributed(G, [0, 2], 2), r"task_ids=\[0, 2\]"),
    "ranks: negative task": Bad(lambda: distributed(G, [-1, 0], 2), r"task_ids=\[-1, 0\]"),
    "ranks: tasks that are no whole numbers": Bad(
        lambda: distributed(G, [0.5, 1], 2), r"task_ids.*0.5", TypeError
    ),
    "ranks: tasks None": Bad(lambda: distributed(G, None, 2), "task_ids=None", TypeError),
    "ranks: tasks in two axes": Bad(
        lambda: distributed(G, torch.zeros(2, 1, dtype=torch.int64), 2), "task_ids"
    ),
    "ranks: tasks as text": Bad(lambda: distributed(G, "01", 2), "task_ids='01'", TypeError),
    "ranks: no tasks": Bad(lambda: distributed(G, [0, 1], 0), "num_tasks=0"),
    "ranks: two and a half tasks": Bad(
        lambda: distributed(G, [0, 1], 2.5), "num_tasks=2.5", TypeError
    ),
    "ranks: tasks without number": Bad(
        lambda: distributed(G, [0, 1], None), "num_tasks=None", TypeError
    ),
    "batch of nothing": Bad(lambda: batch({}), "no gradients.*component"),
    "batch of a list": Bad(lambda: batch([G, G]), r"groups=\[", TypeError),
    "batch of other numbers of rows": Bad(
        lambda: batch({"a": torch.eye(2), "b": torch.eye(3)}), "3 rows.*2 task_ids"
    ),
    "batch of names that are none": Bad(lambda: batch({0: G, "a": G}), "groups.*0", TypeError),
    "batch: task beyond the last": Bad(
        lambda: batch({"a": G}, task_ids=[0, 7]), r"task_ids=\[0, 7\]"
    ),
    "Gram: rows of one axis": Bad(
        lambda: gram_matrices(torch.ones(3), [3], [0], 1), r"rows.*\(3,\)"
    ),
    "Gram: rows in a list": Bad(
        lambda: gram_matrices([torch.ones(3)], [3], [0], 1), r"rows=\[", TypeError
    ),
    "Gram: lengths too short": Bad(lambda: gram_matrices(G, [1], [0, 1], 2), r"lengths=\[1\]"),
    "Gram: a length of zero": Bad(lambda: gram_matrices(G, [2, 0], [0, 1], 2), r"lengths=\[2, 0\]"),
    "Gram: half lengths": Bad(
        lambda: gram_matrices(G, [1.5, 0.5], [0, 1], 2), "lengths.*1.5", (TypeError, ValueError)
    ),
    "heatmap: a name too few": Bad(lambda: gradient_conflict_heatmap(conflict(), ["a"], "t"), "1"),
    "heatmap: names in one text": Bad(
        lambda: gradient_conflict_heatmap(conflict(), "ab", "t"), "task_names='ab'", TypeError
    ),
    "heatmap: no names": Bad(
        lambda: gradient_conflict_heatmap(conflict(), None, "t"), "task_names=None", TypeError
    ),
    "heatmap of None": Bad(
        lambda: gradient_conflict_heatmap(None, ["a"], "t"), "conflict=None", TypeError
    ),
    "heatmap: a limit of nothing": Bad(lambda: heatmap_up_to(0.0), "limit=0.0.*above 0 up to 1"),
    "heatmap: a limit above one": Bad(lambda: heatmap_up_to(1.5), "limit=1.5.*above 0 up to 1"),
    "heatmap: a limit that is no number": Bad(lambda: heatmap_up_to(float("nan")), "limit=nan"),
    "heatmap: a limit of another name": Bad(lambda: heatmap_up_to("most"), "limit='most'.*'auto'"),
    "heatmap: no limit": Bad(lambda: heatmap_up_to(None), "limit=None", TypeError),
    "heatmap: two limits": Bad(
        lambda: heatmap_up_to((-1.0, 1.0)), r"limit=\(-1.0, 1.0\)", TypeError
    ),
    "picture without panels": Bad(lambda: heatmap({}), "0 panels"),
    "picture of a list": Bad(lambda: heatmap([G]), "panels", TypeError),
    "picture of another shape": Bad(lambda: heatmap({"p": np.eye(3)}), r"'p'.*\(3, 3\)"),
    "picture without rows": Bad(lambda: heatmap({"p": np.eye(2)}, rows=()), "0 rows"),
    "picture with numbers as names": Bad(
        lambda: heatmap({"p": np.eye(2)}, rows=(1, 2)), r"rows=\(1, 2\)", TypeError
    ),
    "picture with limits that fall": Bad(
        lambda: heatmap({"p": np.eye(2)}, limits=(1.0, 0.0)), r"limits=\(1.0, 0.0\)"
    ),
    "picture with a limit that is no number": Bad(
        lambda: heatmap({"p": np.eye(2)}, limits=(0.0, np.nan)), "limits=.*nan"
    ),
    "picture with an infinite limit": Bad(
        lambda: heatmap({"p": np.eye(2)}, limits=(0.0, np.inf)), "limits=.*inf"
    ),
    "picture in unknown colors": Bad(
        lambda: heatmap({"p": np.eye(2)}, colors="no such map"), "colors='no such map'"
    ),
    "picture without title": Bad(
        lambda: heatmap({"p": np.eye(2)}, title=None), "title=None", TypeError
    ),
    "picture: a note that is no text": Bad(
        lambda: heatmap({"p": np.eye(2)}, bar_note=1.0), "bar_note=1.0", TypeError
    ),
    "heatmaps logged up to no limit": Bad(
        lambda folder: log_gradient_conflict_heatmaps(
            logger(folder), {"a": conflict()}, ["x", "y"], 0, limit=-1.0
        ),
        "limit=-1.0",
    ),
    "conflicts logged up to no limit": Bad(
        lambda folder: log_gradient_conflicts(
            logger(folder), {"a": conflict()}, ["x", "y"], 0, 0, limit="largest"
        ),
        "limit='largest'.*'auto'",
    ),
    "heatmaps logged nowhere": Bad(
        lambda: log_gradient_conflict_heatmaps(None, {"a": conflict()}, ["x", "y"], 0),
        "tb_logger=None",
        TypeError,
    ),
    "conflicts logged nowhere": Bad(
        lambda: log_gradient_conflicts(None, {}, ["x", "y"], 0, 0), "logger=None", TypeError
    ),
    "conflicts logged from a list": Bad(
        lambda folder: log_gradient_conflicts(logger(folder), [conflict()], ["x", "y"], 0, 0),
        "conflicts=",
        TypeError,
    ),
    "conflicts logged under too few names": Bad(
        lambda folder: log_gradient_conflicts(
            *(logger(folder), {"a": conflict()}, ["x"], 0, 0),
            drawing=PictureSchedule(DrawingBudget(0.0)),
        ),
        "task_names=.*1 names",
    ),
    "aggregation of an unknown kind": Bad(lambda: Aggregator("median", 0.4), "kind='median'"),
    "aggregation: c below zero": Bad(lambda: Aggregator("cagrad", -1.0), "cagrad_c=-1.0"),
    "aggregation: c no number": Bad(lambda: Aggregator("cagrad", float("nan")), "cagrad_c=nan"),
    "aggregation: Gram not square": Bad(
        lambda: Aggregator("upgrad", 0.4).weights(torch.ones(2, 3)), r"gram.*\(2, 3\)"
    ),
    "drawing: a negative share": Bad(lambda: DrawingBudget(-0.1), "share=-0.1"),
    "drawing: no number": Bad(lambda: DrawingBudget(float("nan")), "share=nan"),
    "drawing: text": Bad(lambda: DrawingBudget("all"), "share='all'", TypeError),
    "drawing: a share for a budget": Bad(lambda: PictureSchedule(0.1), "budget=0.1", TypeError),
    "drawing: half an env step": Bad(
        lambda: PictureSchedule(DrawingBudget(1.0)).offer(0.5, print), "env_step=0.5", TypeError
    ),
    "selection: no tasks": Bad(lambda: statistics(0), "num_tasks=0"),
    "selection: fewer than no experts": Bad(lambda: statistics(2, -1), "num_experts=-1"),
    "selection: half a task": Bad(lambda: statistics(2.5), "num_tasks=2.5", TypeError),
    "selection: no buckets": Bad(lambda: statistics(num_buckets=0), "num_buckets=0"),
    "selection: a window in no buckets": Bad(
        lambda: ExpertSelectionStatistics(2, 4, windows={"a": 150}), r"windows\['a'\]=150"
    ),
    "selection: counts of other experts": Bad(
        lambda: statistics().record(torch.ones(2, 5, dtype=torch.int64)), r"counts.*\(2, 5\)"
    ),
    "selection: counts with fractions": Bad(
        lambda: statistics().record(torch.full((2, 4), 0.5)), "counts.*float32", TypeError
    ),
    "selection: other tasks present": Bad(
        lambda: statistics().record(
            torch.ones(2, 4, dtype=torch.int64), torch.ones(3, dtype=torch.bool)
        ),
        r"present.*\(3,\)",
    ),
    "selection: an unknown task": Bad(lambda: selection().stats(2), "task_id=2"),
    "selection: a task's name": Bad(lambda: selection().stats("a"), "task_id='a'", TypeError),
    "selection: an empty state": Bad(
        lambda: statistics().load_state({}), "state.*ring", (ValueError, KeyError)
    ),
    "selection: a state of other tasks": Bad(
        lambda: statistics().load_state(statistics(3).state()), r"\(1, 100, 3, 5\)"
    ),
    "selections of layers unlike": Bad(
        lambda: reduce_selections([statistics(), statistics(3)]), r"statistics\[1\].*\(1, 3, 5\)"
    ),
    "selection recorder of a list": Bad(
        lambda: ExpertSelectionRecorder([LINEAR]), r"layers=\[", TypeError
    ),
    "selection recorder of what does not count": Bad(
        lambda: ExpertSelectionRecorder({0: LINEAR}), r"layers\[0\].*Linear", TypeError
    ),
    "selection recorder without draws": Bad(
        lambda: ExpertSelectionRecorder({}, (20, 0)), r"draws_per_update\[1\]=0"
    ),
    "divergence of one distribution": Bad(
        lambda: js_divergence_matrix(np.full(4, 0.25)), r"p.*\(4,\)"
    ),
    "divergence of a list": Bad(lambda: js_divergence_matrix([[0.5, 0.5]]), "p=", TypeError),
    "divergence of negative shares": Bad(
        lambda: js_divergence_matrix(np.array([[1.5, -0.5], [0.5, 0.5]])), r"p\[0\].*-0.5"
    ),
    "divergence of counts": Bad(
        lambda: js_divergence_matrix(np.array([[3.0, 1.0], [0.5, 0.5]])), r"p\[0\].*4"
    ),
    "total variation of counts": Bad(
        lambda: total_variation_matrix(np.array([[3.0, 1.0], [0.5, 0.5]])), r"p\[0\].*4"
    ),
    "Wasserstein of one distribution": Bad(
        lambda: wasserstein_matrix(np.full(4, 0.25)), r"p.*\(4,\)"
    ),
    "selection logged under too few names": Bad(
        lambda folder: log_expert_selection(logger(folder), {0: selection()}, ["x"], 0, 0),
        "task_names=.*1 names",
    ),
    "selection logged from a list": Bad(
        lambda folder: log_expert_selection(logger(folder), [selection()], ["x", "y"], 0, 0),
        "selection=",
        TypeError,
    ),
    "selection logged of layers unlike": Bad(
        lambda folder: log_expert_selection(
            logger(folder), {0: selection(), 1: selection(5)}, ["x", "y"], 0, 0
        ),
        r"selection\[1\].*\(1, 2, 5\)",
    ),
    "selection logged after a list": Bad(
        lambda folder: log_expert_selection(
            logger(folder), {0: selection()}, ["x", "y"], 0, 0, before=[selection()]
        ),
        r"before=\[",
        TypeError,
    ),
    "selection logged after other experts": Bad(
        lambda folder: log_expert_selection(
            logger(folder), {0: selection()}, ["x", "y"], 0, 0, before={0: selection(5)}
        ),
        r"before.*\(1, 1, 2, 5\)",
    ),
    "information of a list": Bad(
        lambda: mutual_information([[1, 2]]), r"counts=\[\[1, 2\]\]", TypeError
    ),
    "information of one axis": Bad(lambda: mutual_information(np.ones(3)), r"counts.*\(3,\)"),
    "information of fewer than none": Bad(lambda: mutual_information(-EVEN), "counts has -0.25"),
    "information of no numbers": Bad(
        lambda: mutual_information(np.full((2, 2), np.nan)), r"counts\[0, 0\]=nan"
    ),
    "information by other weights": Bad(
        lambda: mutual_information(EVEN, weights="tokens"), "weights='tokens'"
    ),
    "information of no draws": Bad(lambda: mutual_information(EVEN, draws=0), "draws has 0"),
    "effective number of a number": Bad(lambda: effective_number(3), "counts=3", TypeError),
    "shift to other experts": Bad(
        lambda: assignment_shift(EVEN, np.ones((2, 5))), r"after.*\(2, 5\)"
    ),
    "experts matched with others": Bad(
        lambda: match_experts(EVEN, np.ones((2, 5))), r"second.*\(2, 5\)"
    ),
    "experts matched by no task": Bad(
        lambda: match_experts(EVEN, np.zeros((2, 4))), "first and second have no task"
    ),
    "experts matched with a seed": Bad(
        lambda: matching_null(EVEN, EVEN, permutations=3, rng=0), "rng=0", TypeError
    ),
    "experts matched with no naming": Bad(
        lambda: matching_null(EVEN, EVEN, permutations=0, rng=RNG), "permutations=0"
    ),
    "null of no permutation": Bad(lambda: null(permutations=0), "permutations=0"),
    "null of a task beyond the last": Bad(lambda: null(task=[0, 2]), "task spans 0 to 2"),
    "null of too few tasks": Bad(lambda: null(task=[0]), r"task.*\(1,\)"),
    "null of half tasks": Bad(lambda: null(task=[0.5, 1.0]), "task=", TypeError),
    "null of one window": Bad(lambda: null(EVEN[:1], [0]), "counts has 1 windows"),
    "null of a seed": Bad(lambda: null(rng=3), "rng=3", TypeError),
    "parts of no mixture": Bad(lambda: parts_of(LINEAR), "layer=Linear", TypeError),
    "a part switched off that is not there": Bad(
        lambda: switch_off("expert_9"), "part='expert_9': allowed are expert_0"
    ),
    "means of other windows": Bad(
        lambda: resampled_means(np.ones((1, 2, 3)), np.ones((2, 4)), resamples=1, rng=RNG),
        r"counts.*\(2, 4\)",
    ),
    "means of fewer than no draws": Bad(
        lambda: resampled_means(np.ones((1, 2, 3)), np.ones((2, 3)), resamples=-1, rng=RNG),
        "resamples=-1",
    ),
    "interval of means in a list": Bad(lambda: with_interval([1.0]), r"means=\[1.0\]", TypeError),
    "analysis read from a number": Bad(lambda: ExpertAnalysis.read(3), "file=3", TypeError),
    "task gradients of no loss": Bad(
        lambda: TaskGradients.of(list(LINEAR.parameters()), [], {}, []), "losses"
    ),
    "task gradients of a vector": Bad(
        lambda: task_gradients(LINEAR(torch.ones(1, 2))[0], {}), r"loss.*task 0.*\(2,\)"
    ),
    "task gradients without graph": Bad(
        lambda: task_gradients(torch.tensor(1.0), {}), "loss of task 0.*graph"
    ),
    "task gradients of strangers": Bad(
        lambda: task_gradients(
            LINEAR(torch.ones(1, 2)).sum(), {"here": ParameterPoint.of(nn.Linear(1, 1))}
        ),
        "'here'",
    ),
    "task gradients without activations": Bad(
        lambda: task_gradients(
            LINEAR(torch.ones(1, 2)).sum(), {"here": ActivationPoint(LINEAR, "output")}
        ),
        "activations of task 0.*'here'",
    ),
    "task gradients: a weight too few": Bad(
        lambda: one_task().combine_(torch.ones(0)), r"weights.*\(0,\)"
    ),
    "point on a third side": Bad(lambda: ActivationPoint(LINEAR, "outputs"), "side='outputs'"),
    "point at no module": Bad(lambda: ActivationPoint(None, "output"), "module=None", TypeError),
    "point of no module's parameters": Bad(
        lambda: ParameterPoint.of(None), "modules.*None", TypeError
    ),
    "point that nothing passes": Bad(
        lambda: capture(ActivationPoint(LINEAR, "output")), "'here', output"
    ),
    "points of a layer without experts": Bad(
        lambda: expert_points(LINEAR), "layer=Linear", TypeError
    ),
    "plasticity of nothing": Bad(lambda: plasticity({}), "units"),
    "plasticity of no module": Bad(
        lambda: plasticity({"a": None}), r"units\['a'\]=None", TypeError
    ),
    "plasticity below zero": Bad(lambda: plasticity({"a": LINEAR}, tau=-1.0), "tau=-1.0"),
    "plasticity at no number": Bad(lambda: plasticity({"a": LINEAR}, tau=float("nan")), "tau=nan"),
    "norms of other modules": Bad(lambda: norms_by_module(["a"], torch.ones(2)), r"norms.*\(2,\)"),
    "norms in a list": Bad(lambda: norms_by_module(["a"], [1.0]), "norms=", TypeError),
    "norms of a model without parameters": Bad(lambda: parameter_norms(nn.ReLU()), "model=ReLU"),
    "rank of one vector": Bad(lambda: effective_rank(torch.ones(3)), r"rows.*\(3,\)"),
    "rank of no rows": Bad(lambda: effective_rank(torch.ones(0, 3)), r"rows.*\(0, 3\)"),
    "lag of another network": Bad(
        lambda: parameter_lag(LINEAR, nn.Linear(2, 3)), r"target.*\(3, 2\)"
    ),
}
