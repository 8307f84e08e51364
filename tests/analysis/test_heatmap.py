"""Heatmaps, read back from their pixels and from the objects of the figure."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lzero.analysis.heatmap import heatmap_figure, heatmap_image

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
    """A figure of one panel and its pixels ``(H, W, 3)``."""
    rows = [str(row) for row in range(len(matrix))] if rows is None else rows
    columns = [str(column) for column in range(matrix.shape[1])] if columns is None else columns
    arguments = {"title": "Title", "limits": (-1.0, 1.0), "colors": "RdBu"} | changes
    figure = heatmap_figure({"panel": matrix}, rows, columns, **arguments)
    picture = heatmap_image({"panel": matrix}, rows, columns, **arguments)
    assert picture.dtype == np.uint8 and picture.shape == (
        3,
        *figure.canvas.get_width_height()[::-1],
    )
    return figure, picture.transpose(1, 2, 0)


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


def texts(figure: Figure) -> list:
    return [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]


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
    size = (bottom - top) // 4
    beside = [
        np.flatnonzero(is_ink[top + size * i : top + size * (i + 1), : left - 2].any(axis=0))
        for i in range(4)
    ]
    below = [
        np.flatnonzero(is_ink[bottom + 2 :, left + size * i : left + size * (i + 1)].any(axis=1))
        for i in range(3)
    ]
    for names, found in ((rows, beside), (columns, below)):
        widths = [np.ptp(ink) + 1 for ink in found]
        assert np.allclose(
            [width / len(name) for width, name in zip(widths, names, strict=True)],
            widths[0] / len(names[0]),
            rtol=0.15,
        )


def test_names_are_in_the_middle_of_their_rows_and_columns():
    figure, _ = draw(np.zeros((8, 8)), LONG, LONG[::-1])
    figure.draw_without_rendering()
    axes = figure.axes[0]
    box = axes.get_window_extent()
    ends = {text.get_text(): [] for text in axes.texts}
    for text in axes.texts:
        ends[text.get_text()].append(text.get_window_extent())
    for i, name in enumerate(LONG):
        beside, below = sorted(ends[name], key=lambda extent: extent.x0)
        assert abs((beside.y0 + beside.y1) / 2 - (box.y1 - (i + 0.5) * box.height / 8)) < 4
        assert abs((below.x0 + below.x1) / 2 - (box.x0 + (8 - i - 0.5) * box.width / 8)) < 4


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
    names = [f"{LONG[i % 8]}{i // 8 or ''}" for i in range(rows)]
    others = names if columns == rows else [str(i) for i in range(columns)]
    matrices = {panel: np.full((rows, columns), 0.5) for panel in panels}
    style = {"title": title, "limits": (-1.0, 1.0), "colors": "RdBu"}
    figure = heatmap_figure(
        matrices, names, others, row_label="task", column_label="expert", **style
    )
    figure.draw_without_rendering()
    written = texts(figure)
    assert {text.get_text() for text in written} >= {
        *names,
        *others,
        *panels,
        title,
        "task",
        "expert",
        "-1",
        "0",
        "1",
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
    assert [axes.get_images()[0].get_array().max() for axes in figure.axes[:9]] == [
        layer / 10 for layer in range(9)
    ]
    places = [axes.get_window_extent() for axes in figure.axes[:9]]
    lines = sorted({-place.y0 for place in places})
    assert places == sorted(places, key=lambda place: (-place.y0, place.x0)) and len(lines) < 9
    for axes, place in zip(figure.axes, places, strict=False):
        is_first = place.x0 == min(other.x0 for other in places)
        assert [text.get_text() for text in axes.texts] == [
            *(["a", "b"] if is_first else []),
            "x",
            "y",
            "z",
        ]
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


def test_the_written_value_is_the_cells():
    """The same colour everywhere, so that pixels differ by what is written."""
    values = np.array([[0.0, -0.001, 0.004], [0.12, 0.1249, 0.13], [-0.12, 12.3, 12.34]])
    figure, pixels = draw(values, limits=(-1e9, 1e9))
    crops = [cell(pixels, figure.axes[0], (3, 3), *place).astype(int) for place in np.ndindex(3, 3)]
    same = {
        (first, second)
        for first, second in combinations(range(9), 2)
        if np.abs(crops[first] - crops[second]).max() < 90
    }
    assert same == {(0, 1), (0, 2), (1, 2), (3, 4), (7, 8)}


def test_the_colour_bar_says_what_colours_mean():
    figure, pixels = draw(np.zeros((4, 4)), limits=(-3.0, 5.0), colors="viridis")
    figure.draw_without_rendering()
    bar = figure.axes[-1]
    left, top, right, bottom = box_of(bar, pixels)
    found = []
    for text in figure.texts:
        if text.get_text() in ("-3", "1", "5"):
            extent = text.get_window_extent()
            share = np.clip(
                ((extent.y0 + extent.y1) / 2 - bar.get_window_extent().y0) / (bottom - top), 0, 1
            )
            shown = pixels[round(bottom - 2 - share * (bottom - top - 4)), (left + right) // 2]
            meant = 255 * np.array(colormaps["viridis"]((float(text.get_text()) + 3) / 8)[:3])
            assert np.abs(shown - meant).max() < 45  # the outer labels stand a little inside
            found.append(text.get_text())
    assert sorted(found) == ["-3", "1", "5"]


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
