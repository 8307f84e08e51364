"""Matrices of a report: conflict and similarity between games, and which game uses which expert.

T = games, E = experts. Conflict and similarity are means over seeds. Which game uses which expert is shown of one seed:
experts have no order that seeds share, so their mean over seeds would say nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from lzero.report.components import EXPERT, Component
from lzero.report.last_part import Part
from lzero.report.run_data import Group, RunData
from lzero.report.study import Study

CONFLICT_MATRIX = "gradient_conflict_matrix/"
SELECTION = "expert_selection/"
SIMILARITY = "task_similarity/short_JS/"
WINDOWS = {"immediate": "100", "short": "1,000", "medium": "10,000", "long": "100,000"}
"""Windows of the expert selection, in updates."""


@dataclass(frozen=True)
class Matrix:
    """One matrix of one group.

    Attributes:
        title: of its panel.
        group: label of the group.
        seeds: names of the runs in it.
        tag: under which the runs logged it.
        rows: names of the R rows.
        columns: names of the C columns.
        values: ``(R, C)``, NaN where nothing is known.
        part: the env steps that it is of.
    """

    title: str
    group: str
    seeds: tuple[str, ...]
    tag: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray
    part: Part


@dataclass(frozen=True)
class Block:
    """Matrices with common colours, one below the other with further blocks in a picture."""

    title: str
    matrices: tuple[Matrix, ...]


def conflict_blocks(study: Study) -> list[Block]:
    """A block for each kind of component, without the single experts; in it a panel for each group and layer."""
    by_group = {group.label: _conflict_components(group) for group in study.groups}
    everywhere = sorted({c for found in by_group.values() for c in found}, key=lambda component: component.place)
    blocks = []
    for _, kinds in groupby(everywhere, key=lambda component: component.kind):
        layers = list(kinds)
        matrices = [
            matrix
            for group in study.groups
            for component in layers
            for matrix in _mean_matrix(
                study, group, f"{CONFLICT_MATRIX}{component.name}", _title(group, component.layer)
            )
        ]
        name = layers[0].title.replace(f"/layer{layers[0].layer}", "")
        blocks.append(Block(f"{name}, cosine of gradients", tuple(matrices)))
    return [block for block in blocks if block.matrices]


def similarity_blocks(study: Study) -> list[Block]:
    """Jensen–Shannon divergence between the games' selections of experts."""
    matrices = [
        matrix
        for group in study.groups
        for tag in _tags(group.runs, SIMILARITY)
        for matrix in _mean_matrix(study, group, tag, _title(group, _layer(tag)))
    ]
    return [Block("Jensen–Shannon divergence [nats], short window", tuple(matrices))] if matrices else []


def selection_blocks(study: Study) -> list[Block]:
    """A block for each window: which game uses which expert, the last of one seed of each group."""
    blocks = []
    for window, updates in WINDOWS.items():
        matrices = [matrix for group in study.groups for matrix in _selection(study, group, f"{SELECTION}{window}/")]
        if matrices:
            blocks.append(Block(f"Share of selections, {window} window (last {updates} updates)", tuple(matrices)))
    return blocks


def nan_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is a number; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    return np.where(count, np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def _selection(study: Study, group: Group, prefix: str) -> Iterator[Matrix]:
    """Every layer's last matrix of the first seed that has any."""
    seed = next((run for run in group.runs if _tags([run], prefix)), None)
    for tag in _tags([seed] if seed else [], prefix):
        step, (*_, values) = max(seed.arrays[tag].items(), key=lambda item: item[0])
        title = ", ".join(dict.fromkeys((group.label, seed.path.name, f"layer {_layer(tag)}")))
        columns = tuple(str(expert) for expert in range(values.shape[1]))
        yield Matrix(title, group.label, (seed.name,), tag, _games(study, group), columns, values, Part(step, step))


def _mean_matrix(study: Study, group: Group, tag: str, title: str) -> Iterator[Matrix]:
    """Mean over the last part of training of the seeds that logged it, then over those that logged it by then, if any did."""
    runs = [run for run in group.runs if tag in run.arrays]
    part = Part.last(runs)
    runs = [run for run in runs if min(run.arrays[tag]) <= part.end]
    if runs:
        values = nan_mean(np.stack([_last_mean(run, tag, part) for run in runs]))
        games = _games(study, group)
        yield Matrix(title, group.label, tuple(run.name for run in runs), tag, games, games, values, part)


def _last_mean(run: RunData, tag: str, part: Part) -> np.ndarray:
    """As of scalars: the mean over what was measured at each env step, then over the env steps."""
    steps = np.array(sorted(run.arrays[tag]))
    return nan_mean(np.stack([nan_mean(np.stack(run.arrays[tag][step])) for step in steps[part.choose(steps)]]))


def _conflict_components(group: Group) -> set[Component]:
    tags = _tags(group.runs, CONFLICT_MATRIX)
    return {c for tag in tags if (c := Component.parse(tag.removeprefix(CONFLICT_MATRIX))).kind != EXPERT}


def _tags(runs: Sequence[RunData], prefix: str) -> list[str]:
    found = {tag for run in runs for tag in run.arrays if tag.startswith(prefix)}
    return sorted(found, key=lambda tag: (tag.partition("/layer")[0], _layer(tag) or 0))


def _layer(tag: str) -> int | None:
    _, _, number = tag.partition("/layer")
    return int(number) if number.isdigit() else None


def _title(group: Group, layer: int | None) -> str:
    return group.label if layer is None else f"{group.label}, layer {layer}"


def _games(study: Study, group: Group) -> tuple[str, ...]:
    return tuple(study.task_title((group.domain, game)) for game in group.games)
