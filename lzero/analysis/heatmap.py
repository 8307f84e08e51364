"""Matrices as pictures, drawn by seaborn: panels of cells with a name on every row and column.

matplotlib and seaborn are loaded when something is drawn; pyplot's current figure and its windows
are not used. matplotlib's layout finds the places; the sizes here only have to come near what it
needs.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lzero import checks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
MOST_ROWS_WITH_VALUES = 10  # beyond, the numbers would make a picture too large to take in at once
# points
NAME_SIZE, VALUE_SIZE, BORDER_WIDTH = 9.0, 8.0, 0.6
# inches
CELL, LEAST_CELL_WITH_VALUE = 0.22, 0.42
CHARACTER, VALUE_CHARACTER = 0.08, 0.075  # width of one, on the average of long texts
TITLE_CHARACTER = 0.14  # more than the average, so that a title has room; what is left is cut away
LINE, SPACE = 0.2, 0.15  # height of a line of names; between two panels
BAR, BAR_HEIGHT = 0.14, 2.4  # width and largest height of the colour bar
MOST_WIDTH = 14.0  # further panels stand below the others
MARGIN = 8  # white pixels around a picture
DARK = 0.179  # relative luminance (WCAG 2) below which white text has more contrast than black
MISSING = {"facecolor": "0.95", "edgecolor": "0.65", "hatch": "////"}  # cells without a number
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("axes.titlesize", "axes.labelsize"), NAME_SIZE),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), NAME_SIZE),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0.0),  # names without marks
    **{"figure.titlesize": 12.0, "figure.titleweight": "bold", "axes.grid": False},
    "text.parse_math": False,  # names are no mathematics
}


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
    bar_note: str = "",
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
        bar_note: what stands behind the limits at the colour bar, e.g. where they are from.

    Raises:
        TypeError: if ``panels`` is no mapping, or a name, label or title is no text.
        ValueError: if there is no panel or no cell, a matrix does not fit the names, the limits
            do not ascend, or no colour map is called ``colors``.
    """
    from matplotlib import colormaps, rc_context
    from matplotlib.figure import Figure

    labels = {"row_label": row_label, "column_label": column_label, "bar_note": bar_note}
    for name, text in {"title": title, **labels}.items():
        checks.instance(name, text, str, "a text")
    if colors not in colormaps:
        raise ValueError(f"colors={colors!r}: allowed is the name of a matplotlib colour map")
    matrices = _checked(panels, rows, columns, limits)
    values, cell = None, CELL
    if len(rows) <= MOST_ROWS_WITH_VALUES:
        values = _value_texts(matrices, limits)
        cell = max(LEAST_CELL_WITH_VALUE, VALUE_CHARACTER * max(map(len, values.flat)))
    width, height = cell * len(columns), cell * len(rows)
    is_upright = _width(columns) > cell
    bar_texts = _bar_texts(limits, bar_note)
    # the layout leaves room for the height of a panel's title, not for its width
    beside = SPACE + max(0.0, _width(list(panels)) - width)
    below = SPACE + 2 * LINE + (_width(columns) if is_upright else 0.0)
    outside = _width(rows) + _width(bar_texts) + BAR + 3 * LINE
    most_across = min(len(panels), max(1, int((MOST_WIDTH - outside) / (width + beside))))
    down = math.ceil(len(panels) / most_across)
    across = math.ceil(len(panels) / down)  # rows of panels as even as can be
    all_across = max(outside + across * (width + beside), TITLE_CHARACTER * len(title))
    all_down = 3 * LINE + down * (height + below)

    with rc_context(STYLE):
        figure = Figure(figsize=(all_across, all_down), dpi=DPI)
        figure.set_layout_engine("compressed", w_pad=beside / 2)
        grid = figure.add_gridspec(down, across)
        drawn = []
        for number, (name, matrix) in enumerate(zip(panels, matrices, strict=True)):
            axes = figure.add_subplot(grid[divmod(number, across)])
            drawn.append(axes)
            _draw_cells(axes, matrix, None if values is None else values[number], limits, colors)
            axes.set_title(name)
            # not by seaborn, which measures each name once more
            rotation = "vertical" if is_upright else "horizontal"
            axes.set_xticks(np.arange(len(columns)) + 0.5, labels=columns, rotation=rotation)
            if number % across == 0:
                axes.set_yticks(np.arange(len(rows)) + 0.5, labels=rows)
                axes.set_ylabel(row_label)
            if number + across >= len(panels):  # nothing stands below
                axes.set_xlabel(column_label)
        figure.suptitle(title)
        bar_height = min(BAR_HEIGHT, height)
        shrink = bar_height / (all_down - 3 * LINE - below)
        aspect = bar_height / BAR
        cells = drawn[0].collections[0]
        bar = figure.colorbar(cells, ax=drawn, shrink=shrink, aspect=aspect, anchor=(0.0, 1.0))
        low, high = limits
        bar.set_ticks([low, (low + high) / 2, high], labels=bar_texts)
        bar.outline.set_visible(False)
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
    bar_note: str = "",
) -> np.ndarray:
    """:func:`heatmap_figure` as a picture ``(3, H, W)`` uint8 with narrow margins; the same
    arguments and errors.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = heatmap_figure(
        *(panels, rows, columns),
        title=title,
        limits=limits,
        colors=colors,
        row_label=row_label,
        column_label=column_label,
        bar_note=bar_note,
    )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    is_ink = pixels.min(axis=2) < 255
    down, across = np.flatnonzero(is_ink.any(axis=1)), np.flatnonzero(is_ink.any(axis=0))
    inside = pixels[down[0] : down[-1] + 1, across[0] : across[-1] + 1].transpose(2, 0, 1)
    return np.pad(inside, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)), constant_values=255)


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


def _width(texts: Sequence[str]) -> float:
    """Inches that the longest name takes, about."""
    return CHARACTER * max(map(len, texts))


def _value_texts(matrices: Sequence[np.ndarray], limits: tuple[float, float]) -> np.ndarray:
    """What stands in the cells ``(P, R, C)``: two decimals, more where the limits have two digits
    behind them; three digits from 10 on.
    """
    decimals = max(2, 1 - math.floor(math.log10(max(map(abs, limits)))))
    texts = np.empty((len(matrices), *matrices[0].shape), object)
    for place, value in np.ndenumerate(np.stack(matrices)):
        # z: no -0.00
        texts[place] = f"{value:z.{decimals}f}" if abs(value) < 10 else f"{value:.3g}"
    return texts


def _bar_texts(limits: tuple[float, float], note: str) -> list[str]:
    """What stands at the lower end, the middle and the upper end of the colour bar."""
    low, high = limits
    return [f"{low:.3g} {note}".strip(), f"{(low + high) / 2:.3g}", f"{high:.3g} {note}".strip()]


def _draw_cells(
    axes: "Axes",
    matrix: np.ndarray,
    values: np.ndarray | None,
    limits: tuple[float, float],
    colors: str,
) -> None:
    """Cells of a panel ``(R, C)``, and their values if there are any."""
    import seaborn
    from seaborn.utils import relative_luminance

    is_finite = np.isfinite(matrix)
    scale = {"vmin": limits[0], "vmax": limits[1], "cmap": colors}
    written = {"annot": values, "fmt": "", "annot_kws": {"size": VALUE_SIZE, "in_layout": False}}
    without = {"cbar": False, "xticklabels": False, "yticklabels": False}
    style = scale | written | without | {"square": True, "linewidths": BORDER_WIDTH}
    seaborn.heatmap(matrix, mask=~is_finite, ax=axes, **style)
    if not is_finite.all():
        axes.patch.set(**MISSING)  # seen through the cells without colour
    if values is not None:
        # seaborn writes white up to a luminance of 0.408, where black has three times its contrast
        cell_colors = np.asarray(axes.collections[0].get_facecolor())[is_finite.ravel()]
        for text, color in zip(axes.texts, cell_colors, strict=True):
            text.set_color("black" if relative_luminance(color) > DARK else "white")
