"""What is drawn, read back from the figure's objects."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.text import Text

from lzero.report.figures import COLOURS, Panel, draw, spread
from lzero.report.statistics import OVER_SEEDS, Curve


def curve(mean: list[float], group: str = "a", *, spread: float = 0.5) -> Curve:
    values = np.array(mean, dtype=np.float64)
    steps = 1000.0 * np.arange(1, len(mean) + 1)
    return Curve(
        group,
        ("s0", "s1"),
        "d",
        "Pong",
        "eval_return",
        steps,
        values,
        values - spread,
        values + spread,
        OVER_SEEDS,
    )


def axes_of(*panels: Panel, groups: tuple[str, ...] = ("a", "b")) -> list[Axes]:
    remarks = dict.fromkeys(groups, "2 seeds")
    figure = draw(panels, remarks, title="Title", y_label="return", caption="how it was made")
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        f"{group}, 2 seeds" for group in groups
    ]
    assert (
        figure.legends[0].get_title().get_text() == "Title"
        and figure.get_supxlabel() == "how it was made"
    )
    boxes = [figure.legends[0].get_window_extent(), figure._supxlabel.get_window_extent()]
    boxes += [ax.get_tightbbox() for ax in figure.axes]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2)), "texts keep apart"
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in boxes)
    return figure.axes


def references(axes: Axes) -> dict[str, tuple[float, str]]:
    """Height and dash of the labelled horizontal lines across the whole panel."""
    lines = [
        line
        for line in axes.lines
        if list(line.get_xdata()) == [0, 1] and not line.get_label().startswith("_")
    ]
    return {line.get_label(): (line.get_ydata()[0], line.get_linestyle()) for line in lines}


def texts(axes: Axes) -> str:
    return " | ".join(text.get_text().replace("\n", " ") for text in axes.texts)


def test_curves_and_bands_show_the_numbers():
    first, second = curve([1, 2, 4]), curve([3, 1, 1], "b", spread=np.nan)
    [axes] = axes_of(Panel("Pong", [first, second]))
    lines = {to_hex(line.get_color()).upper(): line for line in axes.lines}
    for colour, expected in zip(COLOURS, (first, second), strict=False):
        assert lines[colour].get_xdata().tolist() == expected.env_step.tolist()
        assert lines[colour].get_ydata().tolist() == expected.mean.tolist()
    [band] = axes.collections
    corners = {tuple(point) for point in band.get_paths()[0].vertices}
    assert corners >= {(1000, 0.5), (2000, 1.5), (3000, 3.5), (1000, 1.5), (2000, 2.5), (3000, 4.5)}
    assert axes.get_title(loc="left") == "Pong" and "env steps per game" in axes.get_xlabel()
    assert axes.get_ylabel() == "return" and axes.get_xlim()[0] == 0


def test_reference_lines_are_where_they_belong():
    [axes] = axes_of(
        Panel("Pong", [curve([-20, -10, 5])], {"random": -20.7, "human": 14.6, "published": 21.0})
    )
    assert references(axes) == {
        "random": (-20.7, "--"),
        "human": (14.6, ":"),
        "published": (21.0, ":"),
    }
    bottom, top = axes.get_ylim()
    assert bottom < -20.7 and top > 21.0
    labels = {
        text.get_text(): text
        for text in axes.texts
        if text.get_text() in ("random", "human", "published")
    }
    for name, (y, _) in references(axes).items():
        x, place = labels[name].get_position()
        assert x > 1 and place == pytest.approx((y - bottom) / (top - bottom), abs=0.06), (
            "at the line's end"
        )


def test_a_reference_far_away_is_written_instead_of_drawn():
    [axes] = axes_of(
        Panel("MsPacman", [curve([300, 500, 700])], {"random": 307.3, "human": 6951.6})
    )
    assert references(axes) == {"random": (307.3, "--")}
    assert axes.get_ylim()[1] < 1000
    assert "off the scale: human 6,952" in texts(axes)
    [axes] = axes_of(Panel("MsPacman", [curve([7000, 7100])], {"random": 307.3}))
    assert references(axes) == {"random": (307.3, "--")} and axes.get_ylim()[0] < 307.3, (
        "the random policy always is"
    )


def test_what_is_missing_is_written_in_its_panel():
    full, empty = axes_of(
        Panel("Pong", [curve([1, 2])], missing=["b: no evaluation yet"]),
        Panel("Boxing", [], {"random": 0.1}),
    )
    assert "b: no evaluation yet" in texts(full)
    assert "nothing to draw yet" in texts(empty) and not empty.lines


def test_constant_curves_and_single_points_are_drawn():
    for mean in ([1, 1, 1], [0.0], [-3.0]):
        [axes] = axes_of(Panel("Pong", [curve(mean, spread=0.0)], {"optimum": mean[0]}))
        bottom, top = axes.get_ylim()
        assert bottom < mean[0] < top and references(axes) == {"optimum": (mean[0], ":")}


@pytest.mark.parametrize(
    "values, scale", [([1e-3, 1.0], "log"), ([0.5, 1.0], "linear"), ([-1.0, 1.0], "linear")]
)
def test_losses_over_many_magnitudes_get_a_logarithmic_axis(values, scale):
    [axes] = axes_of(Panel("loss", [curve(values, spread=0.0)], log_scale=True))
    assert axes.get_yscale() == scale
    [axes] = axes_of(Panel("return", [curve(values, spread=0.0)]))
    assert axes.get_yscale() == "linear"


def test_long_titles_are_wrapped_and_rows_begin_where_asked():
    long = "a group with many words in its name (num_experts=8, top_k=2), layer 0"
    panels = [
        Panel(long, [curve([1, 2])], row="upper"),
        Panel("b", [curve([1, 2])], row="upper"),
        Panel("c", [curve([1, 2])], row="lower"),
    ]
    first, second, third = axes_of(*panels)
    assert first.get_title(loc="left").split() == long.split() and "\n" in first.get_title(
        loc="left"
    )
    assert first.get_position().y0 == second.get_position().y0 > third.get_position().y1
    assert (
        first.get_position().x0 == third.get_position().x0
        and third.get_ylabel() == "return" != second.get_ylabel()
    )


def test_faint_curves_and_limits():
    thin = curve([5, 6, 7], "b")
    [axes] = axes_of(Panel("x", [curve([1, 2, 3])], faint=[thin], has_zero_line=True))
    assert (
        to_hex([line for line in axes.lines if line.get_ydata()[0] == 5][0].get_color()).upper()
        == COLOURS[1]
    )
    assert axes.get_ylim()[1] > 7 and len(axes.collections) == 1, (
        "thin curves count for the axis but have no band"
    )
    assert [line for line in axes.lines if list(line.get_ydata()) == [0, 0]]
    [axes] = axes_of(Panel("x", [curve([1, 2, 3])], limits=(-2.0, 10.0)))
    assert axes.get_ylim()[0] < -2 and axes.get_ylim()[1] > 10
    assert axes_of(Panel("x", [], faint=[thin]))[0].lines, "thin curves alone are drawn too"


def test_a_group_without_a_remark_keeps_its_colour_out_of_the_legend():
    figure = draw(
        [Panel("x", [curve([1, 2], "b")])], {"a": None, "b": ""}, title="t", y_label="", caption="c"
    )
    [text] = figure.legends[0].get_texts()
    assert (
        text.get_text() == "b" and to_hex(figure.axes[0].lines[0].get_color()).upper() == COLOURS[1]
    )


def test_many_panels_and_groups_keep_apart():
    groups = tuple(f"group {n}" for n in range(10))
    axes = axes_of(
        *(Panel(str(n), [curve([1, n, 2], group) for group in groups[n:]]) for n in range(10)),
        groups=groups,
    )
    shown = [panel for panel in axes if panel.axison]
    assert [panel.get_title(loc="left") for panel in shown] == [str(n) for n in range(10)]
    drawn = [
        line for line in shown[0].lines if isinstance(line, Line2D) and len(line.get_xdata()) == 3
    ]
    assert len({(line.get_color(), line.get_linestyle()) for line in drawn}) == 10
    boxes = [panel.get_tightbbox() for panel in shown]
    assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[n + 1 :])


def test_labels_of_near_lines_do_not_cover_each_other():
    rng = np.random.default_rng(0)
    for _ in range(200):
        heights = rng.uniform(0.02, 0.12, rng.integers(1, 8))
        places = np.sort(rng.uniform(0, 1, len(heights)))
        centres = spread(places, heights)
        assert (np.diff(centres) >= (heights[1:] + heights[:-1]) / 2 - 1e-9).all()
        assert centres[0] >= heights[0] / 2 - 1e-9 and centres[-1] <= 1 - heights[-1] / 2 + 1e-9
    assert np.allclose(spread([0.2, 0.5, 0.9], [0.1, 0.1, 0.1]), [0.2, 0.5, 0.9]), (
        "those that do not stay"
    )
    assert np.allclose(spread([0.5, 0.5], [0.1, 0.1]), [0.45, 0.55]) and len(spread([], [])) == 0


@pytest.mark.parametrize(
    "name", ["lr_$LR_$SEED", "Ba$$in", "a$b$c", r"$\\frac{", "_underscore", "100 %", "{x}"]
)
def test_names_are_shown_as_they_are_typed(name):
    """Dollars are no mathematics, and a leading underscore hides nothing."""
    panel = Panel(title=name, curves=(curve([1.0, 2.0, 3.0], name),), references={name: 2.0})
    figure = draw([panel], {name: "2 seeds"}, title=name, y_label=name, caption=name)
    FigureCanvasAgg(figure).draw()
    [axes] = figure.axes
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{name}, 2 seeds"]
    assert axes.get_title(loc="left") == name and name in texts(axes)
    everything = [*figure.findobj(Text), *legend.findobj(Text)]
    assert not any(text.get_parse_math() for text in everything if name in text.get_text())


def test_ticks_of_a_logarithmic_axis_are_numbers():
    [axes] = axes_of(Panel(title="loss", curves=(curve([1.0, 100.0, 10000.0]),), log_scale=True))
    axes.figure.canvas.draw()
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert "1000" in ticks and not any("$" in tick for tick in ticks)


def test_two_points_have_no_line_and_counts_stand_above():
    """A line through two points looks like a trend whatever they are."""
    few = replace(curve([1.0, 3.0]), measured=(2, 5))
    many = curve([1.0, 3.0, 2.0])
    axes = axes_of(Panel("few", [few]), Panel("many", [many], dotted=[curve([4.0, 5.0, 9.0])]))
    assert [line.get_linestyle() for line in axes[0].lines] == ["None"]
    assert len(axes[0].collections) == 1, "bars for the intervals"
    assert any("n = 2–5 per seed" in text.get_text() for text in axes[0].texts)
    assert [line.get_linestyle() for line in axes[1].lines] == ["-", "None"]
    assert axes[1].get_ylim()[1] > 9, "the axis shows what is realised too"


def test_points_of_more_groups_than_colours_keep_apart():
    groups = tuple(f"group {n}" for n in range(10))
    [axes] = axes_of(Panel("p", [curve([1, 2], group) for group in groups]), groups=groups)
    looks = {(line.get_color(), line.get_marker()) for line in axes.lines}
    assert len(looks) == 10
