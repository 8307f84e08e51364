"""Figures of curves: panels with intervals and reference lines, and a common legend.

matplotlib is loaded when something is drawn; pyplot, its global state and its windows are not used.
Where the panels are is computed here, in inches: matplotlib's layout engines measure every tick
label several times, which takes longer than to draw.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from lzero.report.statistics import RANDOM, Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
# Told apart by people with colour-blindness (Okabe and Ito, 2008); then again with other dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")  # where there are no lines to be dashed
STYLE: dict[Any, Any] = {
    **{"font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "figure.dpi": DPI},
    "text.parse_math": False,  # names have dollars of their own
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3},
}
GREY: dict[str, Any] = {"fontsize": 8.5, "color": "0.35"}  # remarks
LEGEND: dict[str, Any] = {
    **{"loc": "upper left", "bbox_to_anchor": (0, 1), "alignment": "left", "frameon": False},
    "title_fontproperties": {"size": 13, "weight": "bold"},
}
FAINT: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.45, "zorder": 1.5}
DOTTED: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "markersize": 4,
    "markerfacecolor": "white",
}
SWITCH: dict[str, Any] = {"linestyle": (0, (4, 3)), "linewidth": 0.9, "alpha": 0.7, "zorder": 1.2}
LINE_SHARE = 0.055  # of a panel's height that one line of small text takes
STRETCH = 3.0  # a reference line may make the y-axis this many times as long; else it is written
LOG_RATIO = 50.0  # positive losses that span more than this are shown on a logarithmic axis
# Inches.
EDGE = 0.1  # around everything
PANEL_SIZES = {1: (7.6, 3.6), 2: (5.8, 3.3)}  # by panels in a row, all labels included
PANEL_SIZE = (4.7, 3.0)  # of more
TITLE, REMARK_LINE, CAPTION_LINE = 0.3, 0.155, 0.15
TICKS_LEFT, TICKS_BELOW, RIGHT = 0.82, 0.55, 0.15
X_LABEL_DEPTH, Y_LABEL_DEPTH = 0.29, 0.75  # of the labels' near ends, from the axis
Y_LABEL = 0.25
TITLE_LINE, TITLE_LETTER = 0.2, 0.112
LEGEND_TITLE, LEGEND_LINE = 0.34, 0.21
SMALL_LETTER, LETTER = 0.067, 0.085  # mean widths
LEGEND_HANDLE = 0.65  # its line and the space to the next entry
REMARK_WIDTH, REFERENCE_WIDTH = 62, 18  # letters
LEAST_MARGIN = 1e-3  # of the values: numbers that differ by less would all have the same tick
LEAST_POINTS = 3  # of a line: two would look like a trend whatever they are
FEW_POINTS = 30  # up to which each one gets a marker
FEW = 9  # panels, up to which a row takes three of them; four of more

Styles = Mapping[str, tuple[str, Any]]
"""Colour and dash of each group."""


@dataclass(frozen=True)
class Panel:
    """What one pair of axes shows."""

    title: str
    curves: Sequence[Curve]  # at most one per group
    references: Mapping[str, float] = field(default_factory=dict)  # horizontal lines by label
    missing: Sequence[str] = ()  # what is not there to be drawn, each in a few words
    log_scale: bool = False  # allow a logarithmic axis
    dotted: Sequence[Curve] = ()  # beside the curves, in the colours of their groups, no band
    faint: Sequence[Curve] = ()  # thin curves in the colours of their groups, without a band
    limits: tuple[float, float] | None = None  # ends of the y-axis; None fits it to the curves
    has_zero_line: bool = False
    row: str | None = None  # name of its row, given for all panels of a figure or for none
    x_label: str = "env steps per game"
    x_limits: tuple[float, float] | None = None  # None begins at 0
    has_steps: bool = False  # whether curves stay as they are up to their next point
    # Places of vertical lines by group, in its colour; grey where the label is no group's.
    switches: Mapping[str, Sequence[float]] = field(default_factory=dict)
    spans: Sequence[tuple[float, float]] = ()  # stretches of the x-axis that are shaded

    @property
    def all_curves(self) -> list[Curve]:
        """Everything that its axes must show."""
        return [*self.curves, *self.dotted, *self.faint]


class Layout:
    """Room in inches for panels, entries of a legend, and ``lines`` of remarks above each panel."""

    def __init__(
        self, panels: Sequence[Panel], legend: Sequence[str], caption: str, y_label: str, lines: int
    ) -> None:
        self.places = arrange(panels)  # row and column of every panel
        rows, columns = (np.max(self.places, axis=0) + 1).tolist()
        panel_width, panel_height = PANEL_SIZES.get(columns, PANEL_SIZE)
        titles, right = [], RIGHT
        for panel in panels:
            titles.append(textwrap.wrap(panel.title, int(panel_width / TITLE_LETTER)))
            for line in chain.from_iterable(map(wrap_reference, panel.references)):
                right = max(right, RIGHT + (SMALL_LETTER * len(line) + 0.15))
        self.titles = list(map("\n".join, titles))  # of the panels, in lines that fit
        above = TITLE + TITLE_LINE * (max(map(len, titles)) - 1) + REMARK_LINE * lines
        panel_height += above - TITLE
        left = EDGE + Y_LABEL * bool(y_label)
        width = left + columns * panel_width + EDGE
        entry = LEGEND_HANDLE + LETTER * max(map(len, legend), default=0)
        self.legend_columns = max(1, min(len(legend), int(width / entry)))  # side by side
        legend_lines = math.ceil(len(legend) / self.legend_columns)
        header = EDGE + LEGEND_TITLE + LEGEND_LINE * legend_lines
        self.caption = textwrap.fill(caption, int((width - 2 * EDGE) / SMALL_LETTER))
        footer = CAPTION_LINE * (len(self.caption.splitlines()) + 0.5) + 2 * EDGE
        self.size = (width, header + rows * panel_height + footer)  # of the figure
        self.panel_size = (panel_width, panel_height)  # all labels included
        self.axes_size = (panel_width - TICKS_LEFT - right, panel_height - above - TICKS_BELOW)
        self.first = (left + TICKS_LEFT, header + above)  # from the left and top to the first axes

    def axes(self, number: int) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a panel's axes, as shares of the figure."""
        (width, height), (axes_width, axes_height) = self.size, self.axes_size
        row, column = self.places[number]
        left = self.first[0] + column * self.panel_size[0]
        bottom = height - self.first[1] - row * self.panel_size[1] - axes_height
        return left / width, bottom / height, axes_width / width, axes_height / height


def arrange(panels: Sequence[Panel]) -> list[tuple[int, int]]:
    """Row and column of every panel, at most four in a row; a row has panels of one name."""
    most = 3 if len(panels) <= FEW and panels[0].row is None else 4
    places = [(0, 0)]
    for last, panel in pairwise(panels):
        row, column = places[-1]
        is_full = panel.row != last.row or column + 1 == most
        places.append((row + 1, 0) if is_full else (row, column + 1))
    return places


def draw(
    panels: Sequence[Panel],
    groups: Mapping[str, str | None],
    *,
    title: str,
    y_label: str,
    caption: str,
    line_width: float = 1.8,
) -> "Figure":
    """One figure of (at least one) panels with a common legend.

    ``groups`` has remarks for the legend by a group's label, e.g. ``3 seeds``, in the order of the
    colours; a group whose remark is None keeps its colour but is not in the legend. The ``y_label``
    stands at every row; ``caption`` says how numbers were made; ``line_width`` is in points.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    styles, entries = {}, {}
    for n, (label, remark) in enumerate(groups.items()):
        dash = DASHES[n // len(COLOURS) % len(DASHES)]
        styles[label] = (COLOURS[n % len(COLOURS)], dash)
        if remark is not None:
            entries[label] = f"{label}, {remark}" if remark else label
    with rc_context(STYLE):
        figure = Figure()
        axes, remarks = [], []
        for number, panel in enumerate(panels):
            ax = figure.add_axes((0, 0, 1, 1), label=f"panel {number}")
            axes.append(ax)
            remarks.append(_draw_panel(ax, panel, styles, line_width))
        # the same room everywhere keeps panels in line
        lines = max(len(remark.splitlines()) for remark in remarks)
        layout = Layout(panels, [*entries.values()], caption, y_label, lines)
        figure.set_size_inches(*layout.size)
        for number, (ax, remark) in enumerate(zip(axes, remarks, strict=True)):
            _place_panel(ax, layout, number, remark, lines)
            if layout.places[number][1] == 0:
                ax.set_ylabel(y_label)
        _draw_texts(figure, layout, title, entries, styles)
    return figure


def spread(places: Sequence[float], heights: Sequence[float]) -> np.ndarray:
    """Centres ``(N,)`` of labels along an axis from 0 to 1 so that none covers another.

    They are together as near to the wanted ``places (N,)``, which ascend, as the room that each one
    takes, ``heights (N,)``, allows (least squares).
    """
    from scipy.optimize import isotonic_regression

    wanted, room = np.asarray(places, dtype=np.float64), np.asarray(heights, dtype=np.float64)
    if not len(wanted):
        return wanted
    # Centres that touch are these offsets plus one number: labels are apart where it does not fall.
    offsets = np.concatenate([[0.0], np.cumsum((room[:-1] + room[1:]) / 2)])
    start = isotonic_regression(wanted - offsets).x
    lowest, highest = room[0] / 2, 1 - room[-1] / 2 - offsets[-1]
    return np.maximum(np.minimum(start, highest), lowest) + offsets


def value_range(curves: Sequence[Curve]) -> tuple[float, float]:
    """Smallest and largest number that (at least one) curves and their intervals reach."""
    parts: list[np.ndarray] = []
    for curve in curves:
        parts += (curve.mean, curve.low, curve.high)
    return float(np.nanmin(np.concatenate(parts))), float(np.nanmax(np.concatenate(parts)))


def wrap_reference(label: str) -> list[str]:
    """Lines of a reference line's label."""
    return textwrap.wrap(label, REFERENCE_WIDTH)


def _draw_panel(ax: "Axes", panel: Panel, styles: Styles, line_width: float) -> str:
    """Draw all but the title; returns what is to be remarked below it."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    remarks = [*_counts(panel), *panel.missing]
    for curve in panel.curves:
        color, dash = styles[curve.group]
        marker = "o" if len(curve.env_step) <= FEW_POINTS and not panel.has_steps else ""
        looks: dict[str, Any] = {"linewidth": line_width, "marker": marker, "markersize": 3}
        step: Any = "post" if panel.has_steps else None
        looks["drawstyle"] = "steps-post" if panel.has_steps else "default"
        if _is_trend(curve, panel):
            ax.plot(curve.env_step, curve.mean, dash, color=color, **looks)
            if np.isfinite(curve.low).any():
                band = (curve.env_step, curve.low, curve.high)
                ax.fill_between(*band, step=step, color=color, alpha=0.2, linewidth=0)
        else:
            _draw_points(ax, curve, color, MARKERS[DASHES.index(dash)])
    for curve in panel.dotted:
        ax.plot(curve.env_step, curve.mean, color=styles[curve.group][0], **DOTTED)
    for curve in panel.faint:
        dash = "-" if _is_trend(curve, panel) else "."
        ax.plot(curve.env_step, curve.mean, dash, color=styles[curve.group][0], **FAINT)
    if panel.has_zero_line:
        ax.axhline(0.0, color="0.45", linewidth=0.8, zorder=1)
    ax.set_xlabel(panel.x_label)
    curves = panel.all_curves
    if curves:
        is_steps = panel.x_limits is None  # else small numbers, of which 0.2 is not 200m
        ax.xaxis.set_major_formatter(EngFormatter(sep="") if is_steps else _written_out)
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        end = max(float(curve.env_step[-1]) for curve in curves)
        ax.set_xlim(*(panel.x_limits or (0, 1.02 * end)))
        _draw_turns(ax, panel, styles, end)
        beyond = _set_y_axis(ax, panel)
        remarks += [f"off the scale: {', '.join(beyond)}"] if beyond else []
    else:
        ax.text(0.5, 0.5, "nothing to draw yet", transform=ax.transAxes, ha="center", **GREY)
        ax.set(xticks=[], yticks=[])
    return textwrap.fill("; ".join(remarks), REMARK_WIDTH)


def _is_trend(curve: Curve, panel: Panel) -> bool:
    """Whether there are points enough for a line, which two would not prove."""
    return panel.has_steps or len(curve.env_step) >= LEAST_POINTS


def _draw_points(ax: "Axes", curve: Curve, color: str, marker: str) -> None:
    """Points with their intervals, without a line."""
    ax.plot(curve.env_step, curve.mean, marker, color=color, markersize=5)
    known = np.isfinite(curve.low)
    ends = (curve.low[known], curve.high[known])
    ax.vlines(curve.env_step[known], *ends, color=color, linewidth=1.4, alpha=0.6)


def _counts(panel: Panel) -> list[str]:
    """How many numbers stand behind the curves of a panel."""
    counts = [*chain.from_iterable(curve.measured for curve in panel.curves)]
    if not counts:
        return []
    least, most = min(counts), max(counts)
    each = " per seed" if len(counts) > 1 else ""
    return [f"n = {least:,}{each}" if least == most else f"n = {least:,}–{most:,}{each}"]


def _draw_turns(ax: "Axes", panel: Panel, styles: Styles, end: float) -> None:
    """Vertical lines and shades up to where the curves end."""
    for label, places in panel.switches.items():
        color = styles[label][0] if label in styles else "0.35"
        for place in places:
            if place < end:
                ax.axvline(place, color=color, **SWITCH)
    for start, stop in panel.spans:
        if start < end:
            ax.axvspan(start, min(stop, end), color="0.5", alpha=0.12, linewidth=0, zorder=0)


def _set_y_axis(ax: "Axes", panel: Panel) -> list[str]:
    """Fit the axis to the curves and draw reference lines that are near; returns the others."""
    low, high = panel.limits or value_range(panel.all_curves)
    random = panel.references.get(RANDOM, low)  # what all else is measured by is always drawn
    low, high = min(low, random), max(high, random)
    if panel.log_scale and low > 0 and high > LOG_RATIO * low:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(_written_out)
        return []
    room = STRETCH * max(high - low, abs(high) * 0.1, 1e-6)
    near, beyond = {}, []
    for label, y in panel.references.items():
        if high - room <= y <= low + room:
            near[label] = y
        else:
            beyond.append(f"{label} {y:,.4g}")
    low, high = min(low, *near.values(), high), max(low, *near.values(), high)
    if low == high == 0:
        high = 1.0
    margin = max(0.06 * (high - low), LEAST_MARGIN * abs(high)) if high > low else abs(high) * 0.1
    ax.yaxis.set_major_formatter(_written_out)
    ax.set_ylim(low - margin, high + margin)
    _draw_references(ax, near)
    return beyond


def _written_out(value: float, _: float) -> str:
    """A tick's whole number: matplotlib would put a common factor where the title is."""
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


def _draw_references(ax: "Axes", references: Mapping[str, float]) -> None:
    bottom, top = ax.get_ylim()
    lines = sorted(references.items(), key=lambda item: item[1])
    ends, heights = [], []
    for label, y in lines:
        ends.append((y - bottom) / (top - bottom))
        heights.append(LINE_SHARE * len(wrap_reference(label)))
    for (label, y), end, place in zip(lines, ends, spread(ends, heights), strict=True):
        dash = "--" if label == RANDOM else ":"
        ax.axhline(y, color="0.45", linewidth=1.2, linestyle=dash, label=label, zorder=1)
        leader: dict[str, Any] = {"color": "0.6", "linewidth": 0.7, "clip_on": False}
        ax.plot([1.0, 1.03], [end, place], transform=ax.transAxes, **leader)
        looks: dict[str, Any] = {"transform": ax.transAxes, "va": "center", "linespacing": 1.0}
        ax.text(1.04, place, "\n".join(wrap_reference(label)), **looks, **GREY)


def _place_panel(ax: "Axes", layout: Layout, number: int, remark: str, lines: int) -> None:
    """Move a drawn panel to its place; above it are its title and ``lines`` for remarks."""
    ax.set_position(layout.axes(number))
    ax.set_title(layout.titles[number], loc="left", y=1.0, pad=6 + 72 * REMARK_LINE * lines)
    at: dict[str, Any] = {"textcoords": "offset points", "xycoords": "axes fraction"}
    ax.annotate(remark, (0, 1), xytext=(0, 4), **at, **GREY)
    # Labels at set places: matplotlib would measure the ticks of every panel to find them.
    axes_width, axes_height = layout.axes_size
    ax.xaxis.set_label_coords(0.5, -X_LABEL_DEPTH / axes_height)
    ax.yaxis.set_label_coords(-Y_LABEL_DEPTH / axes_width, 0.5)


def _draw_texts(
    figure: "Figure", layout: Layout, title: str, entries: Mapping[str, str], styles: Styles
) -> None:
    """Title, legend and caption."""
    from matplotlib.lines import Line2D

    handles = []
    for number, label in enumerate(entries):
        color, dash = styles[label]
        name = f"entry {number}"  # matplotlib would leave out a text that begins with an underscore
        handles.append(Line2D([], [], color=color, linestyle=dash, linewidth=2, label=name))
    legend = figure.legend(handles=handles, title=title, ncols=layout.legend_columns, **LEGEND)
    for written, text in zip(legend.get_texts(), entries.values(), strict=True):
        written.set_text(text)
    width, height = layout.size
    x, y = EDGE / width, EDGE / height
    figure.supxlabel(layout.caption, x=x, y=y, ha="left", va="bottom", **GREY)
