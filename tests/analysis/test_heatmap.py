"""Heatmaps, read back from their pixels and from the objects of the figure."""

import numpy as np
import pytest
from matplotlib import colormaps, pyplot, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from lzero.analysis.heatmap import MARGIN, heatmap_figure, heatmap_image

LONG = (
    "Alien",
    "ChopperCommand",
    "Pong",
    "MsPacman",
    "KungFuMaster",
    "Seaquest",
    "Qbert",
    "CrazyClimber",
)


def draw(matrix: np.ndarray, rows=None, columns=None, **changes) -> tuple[Figure, np.ndarray]:
    """A figure of one panel and its pixels ``(H, W, 3)``, margins included."""
    rows = [str(row) for row in range(len(matrix))] if rows is None else rows
    columns = [str(column) for column in range(matrix.shape[1])] if columns is None else columns
    arguments = {"title": "Title", "limits": (-1.0, 1.0), "colors": "RdBu"} | changes
    figure = heatmap_figure({"panel": matrix}, rows, columns, **arguments)
    return figure, pixels_of(figure)


def pixels_of(figure: Figure) -> np.ndarray:
    """Picture of the whole figure ``(H, W, 3)``; everything has its place after it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def box_of(axes: Axes, pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the axes in pixels from the picture's top left."""
    box = axes.get_window_extent()
    return round(box.x0), round(len(pixels) - box.y1), round(box.x1), round(len(pixels) - box.y0)


def cell(
    pixels: np.ndarray, axes: Axes, shape: tuple[int, int], row: int, column: int
) -> np.ndarray:
    """Pixels of a cell without its border."""
    left, top, right, bottom = box_of(axes, pixels)
    height, width = (bottom - top) / shape[0], (right - left) / shape[1]
    rows = slice(round(top + row * height) + 2, round(top + (row + 1) * height) - 2)
    return pixels[rows, round(left + column * width) + 2 : round(left + (column + 1) * width) - 2]


def contrasts(rgb: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Contrast ratios (WCAG 2) of colours ``(N, 3)`` uint8 on a ground ``(3,)``: 1 to 21."""
    colours = np.vstack([rgb, ground]) / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722] + 0.05
    return np.maximum(luminance[:-1], luminance[-1]) / np.minimum(luminance[:-1], luminance[-1])


def texts(figure: Figure) -> list[Text]:
    """All that is written but the values in cells."""
    values = {text for axes in figure.axes for text in axes.texts}
    found = []
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text() and text not in values:
            found.append(text)
    return found


def names(axes: Axes) -> tuple[list[str], list[str]]:
    """Of rows and columns."""
    rows, columns = axes.get_yticklabels(), axes.get_xticklabels()
    return [name.get_text() for name in rows], [name.get_text() for name in columns]


@pytest.mark.parametrize(
    ("shape", "limits", "colors"), [((3, 3), (-1, 1), "RdBu"), ((4, 7), (0, 2), "viridis")]
)
def test_pixels_of_a_cell_have_the_colour_of_its_value(shape, limits, colors):
    matrix = np.random.default_rng(0).uniform(limits[0] - 0.2, limits[1] + 0.2, shape)
    figure, pixels = draw(matrix, limits=limits, colors=colors)
    for (row, column), value in np.ndenumerate(matrix):
        share = np.clip((value - limits[0]) / (limits[1] - limits[0]), 0, 1)
        corner = cell(pixels, figure.axes[0], shape, row, column)[1, 1]
        assert np.abs(corner - 255 * np.array(colormaps[colors](share)[:3])).max() < 2.5, (
            row,
            column,
        )


def test_pixels_beside_row_i_and_below_column_i_are_name_i():
    """Names are told apart by the ink they take."""
    rows, columns = ["mmm", "mmmmmm", "m", "mmmmmmmmm"], ["mmmmm", "mmm", "mmmmmmmm"]
    figure, pixels = draw(np.zeros((4, 3)), rows, columns)
    left, top, right, bottom = box_of(figure.axes[0], pixels)
    is_ink = pixels.min(axis=2) < 128
    down, across = np.linspace(top, bottom, 5).round().astype(int), np.linspace(left, right, 4)
    beside, below = [], []
    for i in range(4):
        beside.append(np.flatnonzero(is_ink[down[i] : down[i + 1], : left - 2].any(axis=0)))
    for i in range(3):
        band = slice(round(across[i]), round(across[i + 1]))
        below.append(np.flatnonzero(is_ink[bottom + 2 :, band].any(axis=1)))
    for written, found in ((rows, beside), (columns, below)):
        widths = [np.ptp(ink) + 1 for ink in found]
        assert np.allclose(
            [width / len(name) for width, name in zip(widths, written, strict=True)],
            widths[0] / len(written[0]),
            rtol=0.2,
        )


def test_names_are_in_the_middle_of_their_rows_and_columns():
    figure, _ = draw(np.zeros((8, 8)), LONG, LONG[::-1])
    axes = figure.axes[0]
    assert names(axes) == (list(LONG), list(LONG[::-1]))
    box = axes.get_window_extent()
    assert box.width == pytest.approx(box.height), "cells are square"
    for i in range(8):
        beside = axes.get_yticklabels()[i].get_window_extent()
        below = axes.get_xticklabels()[i].get_window_extent()
        assert abs((beside.y0 + beside.y1) / 2 - (box.y1 - (i + 0.5) * box.height / 8)) < 4
        assert abs((below.x0 + below.x1) / 2 - (box.x0 + (i + 0.5) * box.width / 8)) < 4


@pytest.mark.parametrize(
    ("rows", "columns", "panels", "title"),
    [
        *[(count, count, ("cosine similarity",), "moe_layer/layer3") for count in (1, 2, 3, 8, 26)],
        (8, 8, tuple(f"layer {layer}" for layer in range(7)), "Expert selection"),
        (2, 3, ("a panel with a long title", "another panel with a title"), "A title that is longer than its picture is wide"),
        (1, 1, ("p",), "A title that is much longer than its picture is wide"),
        (1, 1, ("p",), "gradient_conflict_matrix/moe_layer/layer3, " * 3 + "a title wider than several pictures"),
        (3, 64, tuple(f"layer {layer}" for layer in range(3)), "Many experts"),
    ],
)  # fmt: skip
def test_nothing_is_cut_off_or_overlaps(rows, columns, panels, title):
    games = [f"{LONG[i % 8]}{i // 8 or ''}" for i in range(rows)]
    others = games if columns == rows else [str(i) for i in range(columns)]
    matrices = {panel: np.full((rows, columns), 0.5) for panel in panels}
    style = {"title": title, "limits": (-1.0, 1.0), "colors": "RdBu"}
    labels = {"row_label": "task", "column_label": "expert"}
    figure = heatmap_figure(matrices, games, others, bar_note="(auto)", **labels, **style)
    pixels_of(figure)
    written = texts(figure)
    assert {text.get_text() for text in written} >= {
        *games,
        *others,
        *panels,
        title,
        *labels.values(),
        "-1 (auto)",
        "0",
        "1 (auto)",
    }
    low, high = np.array(
        [part.get_window_extent().get_points() for part in [*written, *figure.axes]]
    ).transpose(1, 0, 2)
    assert (low >= 0).all() and (high <= figure.canvas.get_width_height()).all()
    shared = np.minimum(high[:, None], high) - np.maximum(
        low[:, None], low
    )  # pixels across and down, of each pair
    np.fill_diagonal(shared[..., 0], 0)
    assert (shared.min(axis=2) < 1).all()


def test_panels_stand_in_order_and_share_names_of_rows():
    panels = {f"the name of layer {layer}": np.full((2, 3), layer / 10) for layer in range(9)}
    figure = heatmap_figure(
        panels, ["a", "b"], list("xyz"), title="Title", limits=(0, 1), colors="viridis"
    )
    pixels_of(figure)
    for layer, axes in enumerate(figure.axes[:9]):
        assert (axes.get_title(), axes.collections[0].get_array().max()) == (
            f"the name of layer {layer}",
            layer / 10,
        )
    places = []
    for axes in figure.axes[:9]:
        box = axes.get_window_extent()
        places.append((-round(box.y0), round(box.x0)))
    assert places == sorted(places) and 1 < len({down for down, _ in places}) < 9
    for axes, (_, left) in zip(figure.axes, places, strict=False):
        is_first = left == min(other for _, other in places)
        assert names(axes) == (["a", "b"] if is_first else [], ["x", "y", "z"])
    assert figure.get_size_inches()[0] <= 14.5


def test_missing_cells_are_hatched():
    matrix = np.array([[0.3, np.nan, 0.5], [np.nan, np.nan, np.nan], [np.inf, 0.1, 0.2]])
    figure, pixels = draw(matrix)
    for (row, column), value in np.ndenumerate(matrix):
        inside = cell(pixels, figure.axes[0], (3, 3), row, column).reshape(-1, 3).astype(int)
        is_grey = (np.ptp(inside, axis=1) <= 2).all()
        assert is_grey == (not np.isfinite(value))
        if is_grey:  # two greys, lines on a ground, and nothing written
            assert inside.min() > 120 and np.ptp(inside[:, 0]) > 50
            assert 0.02 < (inside[:, 0] < 200).mean() < 0.5


def test_values_are_written_and_readable_in_small_matrices_only():
    matrix = np.linspace(-1, 1, 100).reshape(10, 10)
    figure, pixels = draw(matrix)
    for row, column in np.ndindex(10, 10):
        inside = cell(pixels, figure.axes[0], (10, 10), row, column)
        assert (
            contrasts(inside.reshape(-1, 3), inside[0, 0]).max() > 4
        )  # thin strokes do not get the full 4.5
    figure, pixels = draw(np.linspace(-1, 1, 121).reshape(11, 11))
    for row, column in np.ndindex(11, 11):
        inside = cell(pixels, figure.axes[0], (11, 11), row, column)
        assert (inside == inside[0, 0]).all()


@pytest.mark.parametrize(
    ("limit", "written"),
    [
        (1.0, "0.00 0.00 0.00 0.12 -0.13 9.50 12.3 1.23e+03"),
        (0.1, "0.00 0.00 0.00 0.12 -0.13 9.50 12.3 1.23e+03"),
        (0.06, "0.000 -0.001 0.004 0.123 -0.130 9.500 12.3 1.23e+03"),
        (0.006, "0.0000 -0.0010 0.0040 0.1230 -0.1300 9.5000 12.3 1.23e+03"),
    ],
)
def test_the_written_value_is_the_cells_as_exact_as_its_colour(limit, written):
    values = np.array([[0.0, -0.001, 0.004, 0.123], [-0.13, 9.5, 12.34, 1234.5]])
    figure, _ = draw(values, limits=(-limit, limit))
    box = figure.axes[0].get_window_extent()
    texts_of_cells = figure.axes[0].texts
    assert [text.get_text() for text in texts_of_cells] == written.split()
    for number, text in enumerate(texts_of_cells):
        row, column = divmod(number, 4)
        extent = text.get_window_extent()
        assert abs((extent.y0 + extent.y1) / 2 - (box.y1 - (row + 0.5) * box.height / 2)) < 4
        assert extent.x0 >= box.x0 + column * box.width / 4
        assert extent.x1 <= box.x0 + (column + 1) * box.width / 4


@pytest.mark.parametrize("shape", [(4, 4), (26, 26)])
def test_the_colour_bar_says_what_colours_mean(shape):
    figure, pixels = draw(np.zeros(shape), limits=(-3.0, 5.0), colors="viridis")
    bar = figure.axes[-1]
    left, top, right, bottom = box_of(bar, pixels)
    labels = bar.get_yticklabels()
    assert [text.get_text() for text in labels] == ["-3", "1", "5"]
    for text in labels:
        extent = text.get_window_extent()
        share = ((extent.y0 + extent.y1) / 2 - bar.get_window_extent().y0) / (bottom - top)
        assert share == pytest.approx((float(text.get_text()) + 3) / 8, abs=0.03)
        inside = np.clip(round(bottom - share * (bottom - top)), top + 2, bottom - 3)
        meant = 255 * np.array(colormaps["viridis"]((float(text.get_text()) + 3) / 8)[:3])
        assert np.abs(pixels[inside, (left + right) // 2] - meant).max() < 20


def test_the_picture_is_the_figure_with_narrow_margins():
    arguments = ({"panel": np.eye(3)}, list("abc"), list("def"))
    style = {
        "title": "A title that is longer than its picture",
        "limits": (0, 1),
        "colors": "magma",
    }
    picture = heatmap_image(*arguments, **style).transpose(1, 2, 0)
    whole = pixels_of(heatmap_figure(*arguments, **style))
    assert picture.dtype == np.uint8
    inside = picture[MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert (picture < 255).sum() == (inside < 255).sum() == (whole < 255).sum()
    assert all((edge < 255).any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def test_drawing_leaves_matplotlib_as_it_was():
    before = dict(rcParams)
    draw(np.eye(2))
    assert dict(rcParams) == before and pyplot.get_fignums() == []


def test_names_are_taken_literally():
    odd = "$\\wrong$"  # mathtext would refuse it
    picture = heatmap_image(
        {odd: np.zeros((1, 1))},
        [odd],
        [odd],
        title=odd,
        limits=(0, 1),
        colors="viridis",
        row_label=odd,
        column_label=odd,
    )
    assert picture.shape[0] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({}, ["a"], ["b"]), "0 panels"),
        (({"p": np.zeros((0, 1))}, [], ["b"]), "0 rows"),
        (
            ({"p": np.zeros((2, 1))}, ["a"], ["b"]),
            r"panel 'p' has shape \(2, 1\) for 1 row and 1 column names",
        ),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        heatmap_image(*arguments, title="", limits=(0, 1), colors="viridis")
    with pytest.raises(ValueError, match=r"limits=\(1, 1\)"):
        draw(np.zeros((1, 1)), limits=(1, 1))
