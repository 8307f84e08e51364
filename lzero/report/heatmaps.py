"""Pictures of matrices, and their cells for a table."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lzero.analysis.heatmap import heatmap_image
from lzero.report.matrices import (
    Block,
    Matrix,
    conflict_blocks,
    selection_blocks,
    similarity_blocks,
)
from lzero.report.pictures import Drawn, Section
from lzero.report.study import Study

MATRIX_COLUMNS = ("group", "seeds", "tag", "row", "column", "value", "env_step_from", "env_step_to")
GAP = 12  # white pixels between two blocks of a picture
WIDTH = 1400  # pixels up to which blocks stand side by side


@dataclass(frozen=True)
class HeatmapPicture:
    """A figure of matrices.

    Attributes:
        name: its file without the ending.
        title: what it shows.
        section: of the page.
        blocks: makes its parts; none if the runs have nothing to show there.
        lacking: what is missing if there are none.
        reading: how it was made and how to read it.
        limits: values at both ends of the colours.
        colours: matplotlib's name of the colours.
        column_label: what the columns are; empty where they are games like the rows.
        names_seeds: whether the text says which seeds are shown.
    """

    name: str
    title: str
    section: Section
    blocks: Callable[[Study], list[Block]]
    lacking: str
    reading: str
    limits: tuple[float, float]
    colours: str
    column_label: str = ""
    names_seeds: bool = False

    def draw(self, study: Study) -> Drawn | None:
        """None if there are no blocks."""
        blocks = self.blocks(study)
        if not blocks:
            return None
        seeds = {matrix.group: matrix.seeds for block in blocks for matrix in block.matrices}
        shown = "; ".join(f"{group}: {', '.join(names)}" for group, names in seeds.items())
        text = f"{self.reading} Shown: {shown}." if self.names_seeds else self.reading
        return Drawn(_png(_arrange([self._image(block) for block in blocks])), text)

    def _image(self, block: Block) -> np.ndarray:
        rows, columns = (
            tuple(dict.fromkeys(name for matrix in block.matrices for name in getattr(matrix, axis)))
            for axis in ("rows", "columns")
        )
        return heatmap_image(
            {matrix.title: _spread_out(matrix, rows, columns) for matrix in block.matrices},
            rows,
            columns,
            title=block.title,
            limits=self.limits,
            colors=self.colours,
            column_label=self.column_label,
        )


CONFLICT_MATRICES = HeatmapPicture(
    "conflict_matrices",
    "Who conflicts with whom at the end of training",
    Section.CONFLICT,
    conflict_blocks,
    "no run has logged conflict matrices (gradient_conflict_matrix/…)",
    "Cosine of the gradients of two games, mean over the last fifth of training and over seeds; red is conflict. "
    "Hatched: a game without gradient there.",
    (-1.0, 1.0),
    "RdBu",
)
SELECTION_MATRICES = HeatmapPicture(
    "expert_selection",
    "Which game uses which expert",
    Section.EXPERTS,
    selection_blocks,
    "no run has logged which game uses which expert (expert_selection/…)",
    "Share of each game's selections as last logged, of one seed of each experiment: experts have no order that seeds "
    "share, so a mean over seeds would say nothing. Rows sum to 1. Hatched: nothing counted.",
    (0.0, 1.0),
    "viridis",
    "expert",
    names_seeds=True,
)
SIMILARITY_MATRIX = HeatmapPicture(
    "expert_similarity",
    "Which games use the same experts at the end of training",
    Section.EXPERTS,
    similarity_blocks,
    "no run has logged how far games are apart (task_similarity/…)",
    "Jensen–Shannon divergence of the selections, mean over the last fifth of training and over seeds: 0 for the same "
    "experts, ln 2 = 0.69 for experts of their own.",
    (0.0, float(np.log(2))),
    "magma",
)
HEATMAPS = (CONFLICT_MATRICES, SELECTION_MATRICES, SIMILARITY_MATRIX)


def matrix_rows(study: Study) -> Iterator[dict[str, Any]]:
    """Every cell that is drawn, under ``MATRIX_COLUMNS``; NaN where nothing is known."""
    for picture in HEATMAPS:
        for matrix in (matrix for block in picture.blocks(study) for matrix in block.matrices):
            names = (matrix.group, " ".join(matrix.seeds), matrix.tag)
            for row, values in zip(matrix.rows, matrix.values, strict=True):
                for column, value in zip(matrix.columns, values, strict=True):
                    cell = (*names, row, column, float(value), matrix.part.start, matrix.part.end)
                    yield dict(zip(MATRIX_COLUMNS, cell, strict=True))


def _spread_out(matrix: Matrix, rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    """Its values at its names among all of the block; NaN elsewhere."""
    values = np.full((len(rows), len(columns)), np.nan)
    places = np.ix_([rows.index(name) for name in matrix.rows], [columns.index(name) for name in matrix.columns])
    values[places] = matrix.values
    return values


def _arrange(images: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures ``(3, H, W)`` on white, side by side as long as they fit, then below."""
    places = []
    top = left = bottom = 0
    for _, height, width in (image.shape for image in images):
        if left and left + width > WIDTH:
            top, left = bottom + GAP, 0
        places.append((top, left))
        left, bottom = left + width + GAP, max(bottom, top + height)
    right = max(left + image.shape[2] for (_, left), image in zip(places, images, strict=True))
    canvas = np.full((3, bottom, right), 255, np.uint8)
    for (top, left), image in zip(places, images, strict=True):
        canvas[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    return canvas


def _png(image: np.ndarray) -> bytes:
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(image.transpose(1, 2, 0)), format="png")
    return file.getvalue()
