"""Matrices: conflict and similarity between games, and which game uses which expert.

Conflict and similarity are means over seeds. Which game uses which expert is shown of one seed:
experts have no order that seeds share, so their mean over seeds would say nothing.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lzero import tags
from lzero.analysis.heatmap import heatmap_image
from lzero.report.components import EXPERT, Component
from lzero.report.last_part import Part
from lzero.report.run_data import Group, RunData, gather
from lzero.report.study import Study, once_per_study
from lzero.report.tables import Row

SIMILARITY = f"{tags.SIMILARITY_MATRIX}short_{tags.JENSEN_SHANNON}/"
MATRIX_COLUMNS = (
    *("group", "seeds", "tag", "row", "column", "value", "env_step_from", "env_step_to"),
)
GAP = 12  # white pixels between two blocks of a picture
WIDTH = 1400  # pixels up to which blocks stand side by side


@dataclass(frozen=True)
class Matrix:
    """One matrix of one group."""

    title: str  # of its panel
    group: str  # label
    seeds: tuple[str, ...]  # names of the runs in it
    tag: str  # under which the runs logged it
    rows: tuple[str, ...]  # names of the R rows
    columns: tuple[str, ...]  # names of the C columns
    values: np.ndarray  # (R, C), NaN where nothing is known
    part: Part  # the env steps that it is of


@dataclass(frozen=True)
class Block:
    """Matrices with common colours, one below the other; blocks of a picture stand side by side."""

    title: str
    matrices: Sequence[Matrix]


@once_per_study
def conflict_blocks(study: Study) -> list[Block]:
    """A block for each kind of component but single experts: panels of groups and layers."""
    found = []
    for group in study.groups:
        for tag in _logged(group.runs, tags.CONFLICT_MATRIX):
            component = Component.parse(tag.removeprefix(tags.CONFLICT_MATRIX))
            if component.kind != EXPERT:
                for matrix in _mean_matrix(study, group, tag):
                    found.append((Component(component.kind), matrix))
    blocks = []
    for kind, matrices in gather(sorted(found, key=lambda pair: pair[0].place)).items():
        blocks.append(Block(f"{kind.title}, cosine of gradients", matrices))
    return blocks


@once_per_study
def similarity_blocks(study: Study) -> list[Block]:
    """Jensen–Shannon divergence between the games' selections of experts."""
    matrices: list[Matrix] = []
    for group in study.groups:
        for tag in _logged(group.runs, SIMILARITY):
            matrices += _mean_matrix(study, group, tag)
    return [Block("Jensen–Shannon divergence [nats], short window", matrices)] if matrices else []


@once_per_study
def selection_blocks(study: Study) -> list[Block]:
    """A block for each window: which game uses which expert, the last of one seed of each group."""
    blocks = []
    for window, updates in tags.WINDOWS.items():
        matrices: list[Matrix] = []
        for group in study.groups:
            matrices += _selection(study, group, f"{tags.SELECTION_MATRIX}{window}/")
        if matrices:
            title = f"Share of selections, {window} window (last {updates:,} updates)"
            blocks.append(Block(title, matrices))
    return blocks


def matrix_rows(study: Study) -> Iterator[Row]:
    """Every cell that is drawn, under ``MATRIX_COLUMNS``; NaN where nothing is known."""
    blocks = [*conflict_blocks(study), *selection_blocks(study), *similarity_blocks(study)]
    for block in blocks:
        for matrix in block.matrices:
            names = (matrix.group, " ".join(matrix.seeds), matrix.tag)
            for (row, column), value in np.ndenumerate(matrix.values):
                place = (matrix.rows[row], matrix.columns[column])
                cell = (*names, *place, float(value), matrix.part.start, matrix.part.end)
                yield dict(zip(MATRIX_COLUMNS, cell, strict=True))


def draw_blocks(
    blocks: Sequence[Block], limits: tuple[float, float], colors: str, column_label: str
) -> bytes:
    """PNG of (at least one) blocks, each with rows and columns for all names in its matrices.

    See :class:`lzero.report.pictures.MatrixPicture` for how they look.
    """
    from matplotlib.image import imsave

    images = []
    for block in blocks:
        rows, columns = dict[str, None](), dict[str, None]()
        for matrix in block.matrices:
            rows |= dict.fromkeys(matrix.rows)
            columns |= dict.fromkeys(matrix.columns)
        row_names, column_names = list(rows), list(columns)
        panels = {}
        for matrix in block.matrices:
            down = list(map(row_names.index, matrix.rows))
            across = list(map(column_names.index, matrix.columns))
            panels[matrix.title] = np.full((len(rows), len(columns)), np.nan)
            panels[matrix.title][np.ix_(down, across)] = matrix.values
        texts = {"title": block.title, "colors": colors, "column_label": column_label}
        images.append(heatmap_image(panels, row_names, column_names, limits=limits, **texts))
    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(_arrange(images).transpose(1, 2, 0)), format="png")
    return file.getvalue()


def nan_mean(values: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of equal shapes over what is a number; NaN where nothing is."""
    return np.ma.masked_invalid(np.stack(values)).mean(axis=0).filled(np.nan)


def _selection(study: Study, group: Group, prefix: str) -> Iterator[Matrix]:
    """Every layer's last matrix of the first seed that has any."""
    for run in group.runs:
        logged = _logged([run], prefix)
        for tag in logged:
            step = max(run.arrays[tag])
            values = run.arrays[tag][step][-1]
            title = ", ".join(dict.fromkeys((group.label, run.path.name, f"layer {_layer(tag)}")))
            games = tuple(map(study.task_title, group.tasks))
            experts = tuple(map(str, range(values.shape[1])))
            seeds, part = (run.name,), Part(step, step)
            yield Matrix(title, group.label, seeds, tag, games, experts, values, part)
        if logged:
            return


def _mean_matrix(study: Study, group: Group, tag: str) -> Iterator[Matrix]:
    """Mean over the last part of training of the seeds that logged it, then over those seeds.

    Seeds that had not logged it by the end of that part do not count; without any there is none.
    """
    runs = [run for run in group.runs if tag in run.arrays]
    part = Part.last(runs)
    means = {}
    for run in runs:
        steps = np.array(sorted(run.arrays[tag]))
        if steps[0] <= part.end:
            # as of scalars: the mean over what was measured at each env step, then over these
            chosen = [nan_mean(run.arrays[tag][step]) for step in steps[part.choose(steps)]]
            means[run.name] = nan_mean(chosen)
    if means:
        layer = _layer(tag)
        title = group.label if layer is None else f"{group.label}, layer {layer}"
        games = tuple(map(study.task_title, group.tasks))
        values = nan_mean(list(means.values()))
        yield Matrix(title, group.label, tuple(means), tag, games, games, values, part)


def _logged(runs: Sequence[RunData], prefix: str) -> list[str]:
    """Tags of arrays that begin with ``prefix``, sorted by layer."""
    found = {tag for run in runs for tag in run.arrays if tag.startswith(prefix)}
    return sorted(found, key=lambda tag: (tag.partition("/layer")[0], _layer(tag) or 0))


def _layer(tag: str) -> int | None:
    _, _, number = tag.partition("/layer")
    return int(number) if number.isdigit() else None


def _arrange(images: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures ``(3, H, W)`` on white, side by side as long as they fit, then below."""
    places = []
    top = left = bottom = right = 0
    for image in images:
        _, height, width = image.shape
        if left and left + width > WIDTH:
            top, left = bottom + GAP, 0
        places.append((top, left))
        bottom, right = max(bottom, top + height), max(right, left + width)
        left += width + GAP
    canvas = np.full((3, bottom, right), 255, np.uint8)
    for (top, left), image in zip(places, images, strict=True):
        _, height, width = image.shape
        canvas[:, top : top + height, left : left + width] = image
    return canvas
