"""Matrices as pictures: panels of cells with a name on every row and column.

matplotlib is loaded when something is drawn; pyplot, its global state and its windows are not used.
Places are computed from measured text widths, and the numbers of all cells are one shape:
matplotlib's layout engines, its ticks and a text object per cell each take longer than the rest of
the picture.
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from lzero import checks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

DPI = 100
MOST_ROWS_WITH_VALUES = 10  # beyond, the numbers would make a picture too large to take in at once
NAME_SIZE, VALUE_SIZE, TITLE_SIZE = 9.0, 8.0, 12.0  # points
# inches
CELL_WITH_VALUE, CELL_WITHOUT_VALUE = 0.42, 0.22
MARGIN = 0.12  # around the picture
GAP = 0.06  # between a text and what it names
LINE, TITLE_LINE = 0.2, 0.32  # heights of a line of text
BETWEEN = 0.25  # between two panels
BAR, BAR_HEIGHT = 0.14, 2.4  # width and largest height of the colour bar
MOST_WIDTH = 14.0  # further panels stand below the others
MISSING = {"facecolor": "0.95", "edgecolor": "0.65", "hatch": "////"}  # cells without a number
BORDER_WIDTH = 0.6  # points
DARK = 0.179  # relative luminance (WCAG 2) below which white text has more contrast than black


def heatmap_figure(
    panels: Mapping[str, np.ndarray],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    limits: tuple[float, float],
    colors: str,
    row_label: str = "",
    column_label: str = "",
) -> "Figure":
    """One figure with a panel per matrix and one colour bar for all.

    Values stand in the cells where there are at most ten rows. Cells that are not finite are
    hatched.

    Args:
        panels: matrices ``(R, C)`` by the title of their panel.
        rows: R names, top to bottom.
        columns: C names, left to right; turned upright where one is wider than its cell.
        title: of the figure.
        limits: values at the two ends of the colours; values beyond get the colour of the end.
        colors: name of a matplotlib colour map.
        row_label: what the rows are, e.g. ``task``.
        column_label: what the columns are.

    Raises:
        TypeError: if ``panels`` is no mapping, or a name or title is no text.
        ValueError: if there is no panel or no cell, a matrix does not fit the names, the limits
            do not ascend, or no colour map is called ``colors``.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    checks.instance("title", title, str, "a text")
    if colors not in colormaps:
        raise ValueError(f"colors={colors!r}: allowed is the name of a matplotlib colour map")
    matrices = _checked(panels, rows, columns, limits)
    layout = _Layout.of(
        list(panels), rows, columns, title, _bar_labels(limits), bool(row_label), bool(column_label)
    )
    figure = Figure(figsize=(layout.width, layout.height), dpi=DPI)
    color_map = colormaps[colors]
    for number, (name, matrix) in enumerate(zip(panels, matrices, strict=True)):
        left, top = layout.corner(number)
        axes = _add_axes(figure, left, top, layout.panel_width, layout.panel_height)
        _draw_cells(axes, matrix, limits, color_map)
        if len(rows) <= MOST_ROWS_WITH_VALUES:
            _write_values(figure, matrix, _is_dark(axes), left, top, layout.cell)
        _write(figure, name, left, top - GAP, va="bottom")
        _name_cells(axes, rows if number % layout.across == 0 else (), columns, layout)
    left, top = layout.corner(0)
    _write(figure, title, MARGIN, MARGIN, va="top", size=TITLE_SIZE, weight="bold")
    _write(
        figure, row_label, MARGIN, top + layout.panel_height / 2, va="center", rotation="vertical"
    )
    _write(figure, column_label, left, layout.height - MARGIN, va="bottom")
    _draw_bar(figure, limits, color_map, layout)
    return figure


def heatmap_image(
    panels: Mapping[str, np.ndarray],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    limits: tuple[float, float],
    colors: str,
    row_label: str = "",
    column_label: str = "",
) -> np.ndarray:
    """:func:`heatmap_figure` as a picture ``(3, H, W)`` uint8; the same arguments and errors."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = heatmap_figure(
        *(panels, rows, columns),
        title=title,
        limits=limits,
        colors=colors,
        row_label=row_label,
        column_label=column_label,
    )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].transpose(2, 0, 1).copy()


@dataclass(frozen=True)
class _Layout:
    """Where things are, in inches from the picture's left and top."""

    cell: float
    panel_width: float
    panel_height: float
    upright: bool  # names of columns
    left: float  # of the first panel
    top: float
    pitch: tuple[float, float]  # from a panel to the next one, to the right and downwards
    across: int  # panels side by side
    width: float
    height: float

    @classmethod
    def of(
        cls,
        panels: Sequence[str],
        rows: Sequence[str],
        columns: Sequence[str],
        title: str,
        bar_labels: Sequence[str],
        has_row_label: bool,
        has_column_label: bool,
    ) -> "_Layout":
        cell = CELL_WITH_VALUE if len(rows) <= MOST_ROWS_WITH_VALUES else CELL_WITHOUT_VALUE
        panel_width, panel_height = cell * len(columns), cell * len(rows)
        column_names = _widest(columns)
        upright = column_names > cell - GAP
        left = MARGIN + LINE * has_row_label + _widest(rows) + GAP
        top = MARGIN + TITLE_LINE + LINE
        pitch = (
            max(panel_width, _widest(panels)) + BETWEEN,
            panel_height + GAP + (column_names if upright else LINE) + GAP + LINE,
        )
        bar = BAR + GAP + _widest(bar_labels) + MARGIN
        most_across = min(len(panels), max(1, int((MOST_WIDTH - left - bar) / pitch[0])))
        down = math.ceil(len(panels) / most_across)
        across = math.ceil(len(panels) / down)  # rows of panels as even as can be
        width = max(
            left + across * pitch[0] + bar, _widest([title], TITLE_SIZE, bold=True) + 2 * MARGIN
        )
        height = top + down * pitch[1] - LINE + LINE * has_column_label + MARGIN
        return cls(
            cell, panel_width, panel_height, upright, left, top, pitch, across, width, height
        )

    def corner(self, number: int) -> tuple[float, float]:
        """Left and top of a panel."""
        down, across = divmod(number, self.across)
        return self.left + across * self.pitch[0], self.top + down * self.pitch[1]


def _checked(
    panels: Mapping[str, np.ndarray],
    rows: Sequence[str],
    columns: Sequence[str],
    limits: tuple[float, float],
) -> list[np.ndarray]:
    """The matrices in float64, or an error."""
    checks.mapping("panels", panels, "matrices by title")
    checks.names("panels", list(panels))
    checks.names("rows", rows)
    checks.names("columns", columns)
    if not panels or not len(rows) or not len(columns):
        raise ValueError(
            f"{len(panels)} panels of {len(rows)} rows x {len(columns)} columns: give at least one "
            "of each"
        )
    if not -math.inf < limits[0] < limits[1] < math.inf:
        raise ValueError(f"limits={limits}: the first must be below the second, both finite")
    matrices = []
    for name, panel in panels.items():
        matrix = np.asarray(panel, np.float64)
        if matrix.shape != (len(rows), len(columns)):
            raise ValueError(
                f"panel {name!r} has shape {matrix.shape} for {len(rows)} row and {len(columns)} "
                "column names: "
                "give one name per row and one per column"
            )
        matrices.append(matrix)
    return matrices


@functools.cache
def _renderer() -> "RendererAgg":
    """Measures text as it will be drawn."""
    from matplotlib.backends.backend_agg import RendererAgg

    return RendererAgg(1, 1, DPI)


@functools.cache
def _text_width(text: str, size: float, bold: bool) -> float:
    from matplotlib.font_manager import FontProperties

    font = FontProperties(size=size, weight="bold" if bold else "normal")
    return _renderer().get_text_width_height_descent(text, font, ismath=False)[0] / DPI


def _widest(texts: Iterable[str], size: float = NAME_SIZE, *, bold: bool = False) -> float:
    """Inches that the widest text takes, in whole pixels: cells then start on pixels and have sharp
    edges.
    """
    return math.ceil(DPI * max(_text_width(text, size, bold) for text in texts)) / DPI


def _add_axes(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """A frame without ticks."""
    across, down = figure.get_size_inches()
    axes = figure.add_axes(
        (left / across, 1 - (top + height) / down, width / across, height / down)
    )
    axes.xaxis.set_visible(False)
    axes.yaxis.set_visible(False)
    axes.spines[:].set(color="0.4", linewidth=BORDER_WIDTH)
    return axes


def _write(
    figure: "Figure",
    text: str,
    x: float,
    y: float,
    *,
    va: Literal["top", "center", "bottom"],
    size: float = NAME_SIZE,
    weight: str = "normal",
    rotation: Literal["horizontal", "vertical"] = "horizontal",
) -> None:
    """Text at inches from the left and the top."""
    if text:
        width, height = figure.get_size_inches()
        place = x / width, 1 - y / height
        figure.text(
            *place, text, size=size, va=va, weight=weight, rotation=rotation, parse_math=False
        )


def _draw_cells(
    axes: "Axes", matrix: np.ndarray, limits: tuple[float, float], color_map: "Colormap"
) -> None:
    finite = np.isfinite(matrix)
    if not finite.all():
        axes.patch.set(**MISSING)  # seen through the cells without colour
    low, high = limits
    shown = np.ma.masked_where(~finite, matrix)
    axes.imshow(shown, cmap=color_map, vmin=low, vmax=high, interpolation="nearest", aspect="auto")
    rows, columns = matrix.shape
    axes.hlines(
        np.arange(1, rows) - 0.5, -0.5, columns - 0.5, colors="white", linewidth=BORDER_WIDTH
    )
    axes.vlines(
        np.arange(1, columns) - 0.5, -0.5, rows - 0.5, colors="white", linewidth=BORDER_WIDTH
    )


def _name_cells(axes: "Axes", rows: Sequence[str], columns: Sequence[str], layout: _Layout) -> None:
    gap = GAP / layout.cell
    for row, name in enumerate(rows):
        axes.text(
            -0.5 - gap,
            row,
            name,
            ha="right",
            va="center_baseline",
            size=NAME_SIZE,
            parse_math=False,
        )
    bottom = layout.panel_height / layout.cell - 0.5 + gap
    rotation: Literal["vertical", "horizontal"] = "vertical" if layout.upright else "horizontal"
    style = {"ha": "center", "va": "top", "size": NAME_SIZE}
    for column, name in enumerate(columns):
        axes.text(column, bottom, name, style, rotation=rotation, parse_math=False)


def _is_dark(axes: "Axes") -> np.ndarray:
    """Cells of a panel ``(R, C)`` on which white text has more contrast than black."""
    [image] = axes.get_images()
    values = image.get_array()
    assert values is not None, "a panel has cells"
    color = image.to_rgba(values)
    rgb = color[..., :3]
    # The relative luminance of WCAG 2: sRGB made linear, then weighted by how bright the eye sees
    # each channel.
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return (linear @ [0.2126, 0.7152, 0.0722] < DARK) & (color[..., 3] > 0)


@functools.cache
def _glyph(character: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Outline ``(N, 2)`` of a character in inches, its path codes, and how far the next one is."""
    from matplotlib.textpath import TextPath

    outline = TextPath((0, 0), character, size=VALUE_SIZE)
    return outline.vertices / 72, outline.codes, _text_width(character, VALUE_SIZE, bold=False)


def _write_values(
    figure: "Figure", matrix: np.ndarray, is_dark: np.ndarray, left: float, top: float, cell: float
) -> None:
    """The numbers of the cells, as one shape per colour."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    height = figure.get_size_inches()[1]
    half_digit = _glyph("0")[0][:, 1].max() / 2
    for color, where in (("black", ~is_dark), ("white", is_dark)):
        vertices, codes = [], []
        for row, column in np.argwhere(where & np.isfinite(matrix)):
            glyphs = list(map(_glyph, _value_text(matrix[row, column])))
            _, _, advances = zip(*glyphs, strict=True)
            x = left + (column + 0.5) * cell - sum(advances) / 2
            y = height - top - (row + 0.5) * cell - half_digit
            for outline, code, advance in glyphs:
                vertices.append(outline + (x, y))
                codes.append(code)
                x += advance
        if vertices:
            shape = Path(np.concatenate(vertices), np.concatenate(codes))
            figure.add_artist(
                PathPatch(shape, facecolor=color, linewidth=0, transform=figure.dpi_scale_trans)
            )


def _value_text(value: float) -> str:
    """At most five characters wherever two decimals or three digits can say it."""
    return f"{value:z.2f}" if abs(value) < 10 else f"{value:.3g}"


def _bar_labels(limits: tuple[float, float]) -> list[str]:
    low, high = limits
    return list(map("{:.3g}".format, (high, (low + high) / 2, low)))


def _draw_bar(
    figure: "Figure", limits: tuple[float, float], color_map: "Colormap", layout: _Layout
) -> None:
    left, top = layout.left + layout.across * layout.pitch[0], layout.top
    height = min(BAR_HEIGHT, layout.panel_height)
    axes = _add_axes(figure, left, top, BAR, height)
    axes.imshow(np.linspace(1, 0, 256)[:, None], cmap=color_map, vmin=0, vmax=1, aspect="auto")
    labels, x = _bar_labels(limits), left + BAR + GAP
    _write(figure, labels[0], x, top, va="top")
    _write(figure, labels[1], x, top + height / 2, va="center")
    _write(figure, labels[2], x, top + height, va="bottom")
