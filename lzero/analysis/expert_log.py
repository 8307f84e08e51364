"""Expert selection in the logs: how each task uses the experts, and how far the tasks are apart.

Shape legend: L = layers, W = windows, T = tasks, E = experts. A task without data in a window is
NaN there and left out of every average. The exact tag of a number holds its mean over layers,
``{tag}/layer{l}`` that of one layer.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from lzero import checks, tags
from lzero.analysis.drawing_budget import DrawingBudget, PictureSchedule
from lzero.analysis.expert_statistics import ExpertSelection
from lzero.analysis.heatmap import heatmap_image
from lzero.analysis.specialisation import (
    assignment_shift,
    effective_number,
    mutual_information,
    shannon_entropy,
)
from lzero.logging import RunLogger

SUM_TOLERANCE = 1e-3  # by which shares in single precision may miss 1


def _check_distributions(p: np.ndarray) -> None:
    """Refuse what are no distributions ``(…, T, E)``; rows of NaN are."""
    checks.instance("p", p, np.ndarray, "an array (…, T, E)")
    if p.ndim < 2:
        raise ValueError(f"p has shape {p.shape}: allowed is (…, T, E), a distribution per row")
    total = p.sum(axis=-1)
    is_one = (np.abs(total - 1) <= SUM_TOLERANCE) & (p.min(axis=-1, initial=0.0) >= 0)
    bad = np.argwhere(~is_one & ~np.isnan(total))
    if len(bad):
        place = tuple(bad[0].tolist())
        where = ", ".join(map(str, place))
        raise ValueError(
            f"p[{where}]={checks.shown(p[place].tolist())} adds up to {total[place]:g}: allowed are "
            "shares from 0 that add up to 1, or NaN for a row without data"
        )


def js_divergence_matrix(p: np.ndarray) -> np.ndarray:
    """Jensen–Shannon divergence in nats between distributions, 0 … ln 2.

    It is the divergence, not its root, the distance. Renumbering the experts does not change it.

    Args:
        p: one distribution per row ``(…, T, E)``; NaN rows have no data.

    Returns:
        ``(…, T, T)``, symmetric, 0 on the diagonal; NaN where a row has no data.

    Raises:
        TypeError: if ``p`` is no array.
        ValueError: if a row is no distribution.

    Source: Lin, Divergence measures based on the Shannon entropy (1991), with equal weights.
    """
    _check_distributions(p)
    mixture = (p[..., :, None, :] + p[..., None, :, :]) / 2
    own = shannon_entropy(p)
    shared = shannon_entropy(mixture) - (own[..., :, None] + own[..., None, :]) / 2
    return np.maximum(shared, 0.0)  # rounding may leave −1e−16


def total_variation_matrix(p: np.ndarray) -> np.ndarray:
    """Total variation distance between distributions, 0 … 1: the share of selections in which they
    differ.

    Renumbering the experts does not change it. Shapes and errors as in
    :func:`js_divergence_matrix`.
    """
    _check_distributions(p)
    return np.abs(p[..., :, None, :] - p[..., None, :, :]).sum(axis=-1) / 2


def wasserstein_matrix(p: np.ndarray) -> np.ndarray:
    """Wasserstein-1 distance between distributions with the experts' numbers as a line, 0 … E − 1.

    Experts have no order: it changes when they are renumbered. Jensen–Shannon and total variation
    are the primary measures; this one is for comparison with studies that report it. Shapes and
    errors as in :func:`js_divergence_matrix`.
    """
    _check_distributions(p)
    cumulative = p.cumsum(axis=-1)
    return np.abs(cumulative[..., :, None, :] - cumulative[..., None, :, :]).sum(axis=-1)


@dataclass(frozen=True)
class _Comparison:
    """A way to compare tasks: its function, and its largest value for E experts."""

    matrix: Callable[[np.ndarray], np.ndarray]
    largest: Callable[[int], float]


_COMPARISONS = {
    tags.JENSEN_SHANNON: _Comparison(js_divergence_matrix, lambda _: math.log(2)),
    tags.TOTAL_VARIATION: _Comparison(total_variation_matrix, lambda _: 1.0),
    tags.WASSERSTEIN: _Comparison(
        wasserstein_matrix, lambda num_experts: max(1.0, num_experts - 1.0)
    ),
}


@dataclass(frozen=True)
class _Selection:
    """Expert selection of all layers, stacked.

    Attributes:
        layers: numbers of the L layers.
        windows: names of the W windows.
        counts: ``(L, W, T, E)``.
        data_points: ``(L, W, T)`` updates.
        frequencies: ``(L, W, T, E)``, NaN for tasks without data.
    """

    layers: tuple[int, ...]
    windows: tuple[str, ...]
    counts: np.ndarray
    data_points: np.ndarray
    frequencies: np.ndarray

    @classmethod
    def of(cls, selection: Mapping[int, ExpertSelection]) -> Self:
        counts, data_points, frequencies = [], [], []
        first = next(iter(selection.values()))
        for index, layer in selection.items():
            checks.shape(f"selection[{index}]", layer.counts, *first.counts.shape)
            counts.append(layer.counts)
            data_points.append(layer.data_points)
            frequencies.append(layer.frequencies)
            windows = layer.windows  # the same in all layers
        return cls(
            tuple(selection),
            windows,
            np.stack(counts),
            np.stack(data_points),
            np.stack(frequencies),
        )

    @property
    def num_experts(self) -> int:
        return self.counts.shape[-1]

    def by_task(self) -> dict[str, np.ndarray]:
        """How each task selects: each ``(L, W, T)``."""
        entropy = shannon_entropy(self.frequencies)
        return {
            tags.SELECTION_ENTROPY: entropy,
            f"{tags.SELECTION_ENTROPY}{tags.NORMALISED}": self._normalised(entropy),
            tags.SELECTION_VARIANCE: self.frequencies.var(axis=-1),
            tags.EFFECTIVE_EXPERTS: effective_number(self.counts),
        }

    def over_tasks(self, draws_per_update: Sequence[int] | None) -> dict[str, np.ndarray]:
        """How all tasks together use the experts: each ``(L, W)``."""
        active = np.asarray(self.counts.any(axis=-1))
        num_active = active.sum(axis=-1)
        mean_frequency = (
            np.where(active[..., None], self.frequencies, 0.0).sum(axis=-2)
            / np.maximum(num_active, 1)[..., None]
        )
        load = self.counts.sum(axis=-2)
        has_data = num_active > 0
        usage_entropy = np.where(has_data, shannon_entropy(mean_frequency), np.nan)
        imbalance = load.max(axis=-1) * self.num_experts / np.maximum(load.sum(axis=-1), 1)
        draws = self.counts.sum(axis=-1)
        if draws_per_update is not None:
            draws = np.clip(self.data_points * np.asarray(draws_per_update), 1, draws.clip(1))
        information = mutual_information(self.counts, draws=draws)
        return {
            tags.USAGE_ENTROPY: usage_entropy,
            f"{tags.USAGE_ENTROPY}{tags.NORMALISED}": self._normalised(usage_entropy),
            tags.MUTUAL_INFORMATION: information.corrected,
            f"{tags.MUTUAL_INFORMATION}{tags.NORMALISED}": information.corrected_normalised,
            tags.DEAD_EXPERTS: np.where(has_data, (load == 0).sum(axis=-1), np.nan),
            tags.LOAD_IMBALANCE: np.where(has_data, imbalance, np.nan),
            **_extreme_experts(load),
        }

    def between_tasks(self) -> dict[str, np.ndarray]:
        """How far tasks are apart: each ``(L, W, T, T)``."""
        return {
            name: comparison.matrix(self.frequencies) for name, comparison in _COMPARISONS.items()
        }

    def _normalised(self, entropy: np.ndarray) -> np.ndarray:
        return (
            entropy / math.log(self.num_experts)
            if self.num_experts > 1
            else np.full(entropy.shape, np.nan)
        )


def log_expert_selection(
    logger: RunLogger,
    selection: Mapping[int, ExpertSelection],
    task_names: Sequence[str],
    env_step: int,
    train_iter: int,
    *,
    is_main: bool = True,
    drawing: PictureSchedule | None = None,
    before: Mapping[int, ExpertSelection] | None = None,
    draws_per_update: Sequence[int] | None = None,
) -> None:
    """Log the expert selection of all layers: scalars, matrices (JSONL) and pictures (TensorBoard).

    ``selection_shift`` is the total variation between each task's selection and the one ``before``.
    A window that is longer than the time between two logs is still in part the same, so it can move
    by no more than that time's share of it: the immediate window tells most.

    Args:
        logger: of the run.
        selection: by layer, over all ranks, see ``ExpertSelectionRecorder.reduced``;
            nothing is logged where no layer routes.
        task_names: T names.
        env_step: env steps per game so far.
        train_iter: updates so far.
        is_main: whether this rank logs; the others return at once.
        drawing: when pictures are drawn; None draws now.
        before: ``selection`` as it was last logged; without one, nothing is said of a shift.
        draws_per_update: independent draws, windows of a replay, that an update has of each of the T tasks: by them the
            mutual information is corrected, which is below 0 as often as above it where experts tell nothing. None
            takes every selection for a draw.

    Raises:
        TypeError: if ``selection`` is no mapping.
        ValueError: if the number of names or of draws is not T, or layers have other windows, tasks or experts.
    """
    if not is_main or not selection:
        return
    checks.mapping("selection", selection, "ExpertSelection by layer")
    stacked = _Selection.of(selection)
    num_tasks = stacked.counts.shape[2]
    if len(task_names) != num_tasks:
        raise ValueError(
            f"task_names={list(task_names)} are {len(task_names)} names for {num_tasks} tasks; "
            "give one per task"
        )
    if draws_per_update is not None:
        checks.shape("draws_per_update", np.asarray(draws_per_update), num_tasks)
    similarity = stacked.between_tasks()
    of_tasks = stacked.by_task()
    if before:
        of_tasks[tags.SELECTION_SHIFT] = assignment_shift(
            _counts_of(before, stacked), stacked.counts
        )
    scalars = dict(_scalars(stacked, of_tasks, similarity, task_names, draws_per_update))
    logger.scalars(scalars, env_step, train_iter)
    logger.arrays(dict(_arrays(stacked, similarity)), env_step, train_iter)

    def draw() -> None:
        for tag, picture in _pictures(stacked, similarity, task_names):
            logger.add_image(tag, picture, env_step)

    (drawing or PictureSchedule(DrawingBudget(1.0))).offer(env_step, draw)


def _counts_of(before: Mapping[int, ExpertSelection], now: _Selection) -> np.ndarray:
    """Selections ``(L, W, T, E)`` as they were before, of the layers of ``now``."""
    checks.mapping("before", before, "ExpertSelection by layer")
    if tuple(before) != now.layers:
        raise ValueError(f"before has layers {list(before)}: allowed are {list(now.layers)}")
    counts = _Selection.of(before).counts
    checks.shape("before", counts, *now.counts.shape)
    return counts


def _scalars(
    stacked: _Selection,
    of_tasks: Mapping[str, np.ndarray],
    similarity: Mapping[str, np.ndarray],
    task_names: Sequence[str],
    draws_per_update: Sequence[int] | None,
) -> Iterator[tuple[str, float]]:
    overall = stacked.over_tasks(draws_per_update)
    pooled = _extreme_experts(
        stacked.counts.sum(axis=(0, 2))
    )  # a mean of expert numbers says nothing
    for index, window in enumerate(stacked.windows):
        for name, values in of_tasks.items():
            for task, of_layers in enumerate(values[:, index].T):
                tag = tags.task_selection(task_names[task], window, name)
                yield from _tagged(tag, of_layers, stacked.layers)
        for name, values in overall.items():
            mean = pooled[name][index] if name in pooled else None
            yield from _tagged(
                tags.expert_load(window, name), values[:, index], stacked.layers, mean
            )
        for name, matrices in similarity.items():
            average, largest = _over_pairs(matrices[:, index])
            yield from _tagged(tags.divergence(window, "avg", name), average, stacked.layers)
            yield from _tagged(tags.divergence(window, "max", name), largest, stacked.layers)


def _arrays(
    stacked: _Selection, similarity: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    for index, window in enumerate(stacked.windows):
        # no curve: it grows with the updates until the window is full, the same in every layer
        yield f"{tags.SELECTION_UPDATES}{window}", stacked.data_points[:, index].max(axis=0)
        for place, layer in enumerate(stacked.layers):
            yield (
                tags.of_layer(f"{tags.SELECTION_MATRIX}{window}", layer),
                stacked.frequencies[place, index],
            )
            for name, matrices in similarity.items():
                yield (
                    tags.of_layer(f"{tags.SIMILARITY_MATRIX}{window}_{name}", layer),
                    matrices[place, index],
                )


def _pictures(
    stacked: _Selection, similarity: Mapping[str, np.ndarray], task_names: Sequence[str]
) -> Iterator[tuple[str, np.ndarray]]:
    experts = list(map(str, range(stacked.num_experts)))
    panels = [f"layer {layer}" for layer in stacked.layers]
    for index, window in enumerate(stacked.windows):
        yield (
            f"{tags.SELECTION_MATRIX}{window}",
            heatmap_image(
                dict(zip(panels, stacked.frequencies[:, index], strict=True)),
                task_names,
                experts,
                title=f"expert selection, {window} window",
                limits=(0.0, 1.0),
                colors="viridis",
                row_label="task",
                column_label="expert",
            ),
        )
        for name, matrices in similarity.items():
            yield (
                f"{tags.SIMILARITY_MATRIX}{window}_{name}",
                heatmap_image(
                    dict(zip(panels, matrices[:, index], strict=True)),
                    task_names,
                    task_names,
                    title=f"{name.replace('_', ' ')} between tasks, {window} window",
                    limits=(0.0, _COMPARISONS[name].largest(stacked.num_experts)),
                    colors="magma",
                    row_label="task",
                    column_label="task",
                ),
            )


def _tagged(
    tag: str, of_layers: np.ndarray, layers: Sequence[int], overall: float | None = None
) -> Iterator[tuple[str, float]]:
    """A number's scalars: ``overall``, or else the mean over layers, and each layer's ``(L,)``."""
    yield tag, float(of_layers.mean() if overall is None else overall)
    for layer, value in zip(layers, of_layers, strict=True):
        yield tags.of_layer(tag, layer), float(value)


def _extreme_experts(load: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers of the most and the least used expert under ``load (…, E)``; NaN where nothing was
    selected.
    """
    has_data = load.any(axis=-1)
    return {
        tags.MOST_USED: np.where(has_data, load.argmax(axis=-1), np.nan),
        tags.LEAST_USED: np.where(has_data, load.argmin(axis=-1), np.nan),
    }


def _over_pairs(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and maximum of ``matrices (L, T, T)`` over pairs of tasks with data, ``(L,)`` each; NaN
    where there is no pair.
    """
    pairs = matrices[:, *np.triu_indices(matrices.shape[-1], k=1)]
    valid = ~np.isnan(pairs)
    count = valid.sum(axis=-1)
    average = np.where(valid, pairs, 0.0).sum(axis=-1) / np.maximum(count, 1)
    largest = np.where(valid, pairs, 0.0).max(axis=-1, initial=0.0)
    return np.where(count > 0, average, np.nan), np.where(count > 0, largest, np.nan)
