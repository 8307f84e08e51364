"""Pictures of a report: panels of curves with their intervals and reference lines.

matplotlib is loaded when something is drawn. Figures are objects of their own: pyplot, its global state and its windows
are not used.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lzero.report.layout import (
    EDGE,
    REMARK_LINE,
    REMARK_WIDTH,
    X_LABEL_DEPTH,
    Y_LABEL_DEPTH,
    Layout,
    wrap_reference,
)
from lzero.report.statistics import RANDOM, Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
# Colours that people with colour-blindness tell apart (Okabe and Ito, 2008); then again with another dash.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "figure.dpi": DPI,
}
GREY = {"fontsize": 8.5, "color": "0.35"}  # remarks
FAINT = {"linewidth": 0.7, "alpha": 0.45, "zorder": 1.5}
LINE_SHARE = 0.055  # of a panel's height that one line of small text takes
STRETCH = (
    3.0  # a reference line may make the y-axis this many times as long as the curves need; else it is only written
)
LOG_RATIO = 50.0  # positive losses that span more than this are shown on a logarithmic axis


@dataclass(frozen=True)
class Panel:
    """What one pair of axes shows.

    Attributes:
        title: its name.
        curves: at most one per group.
        references: raw score by label, drawn as horizontal lines.
        missing: what is not there to be drawn, each in a few words.
        log_scale: allow a logarithmic axis.
        faint: thin curves in the colours of their groups, without a band.
        limits: both ends of the y-axis; None fits it to the curves.
        has_zero_line: draw a line at 0.
        starts_row: the panel is the first of its row.
    """

    title: str
    curves: Sequence[Curve]
    references: Mapping[str, float] = field(default_factory=dict)
    missing: Sequence[str] = ()
    log_scale: bool = False
    faint: Sequence[Curve] = ()
    limits: tuple[float, float] | None = None
    has_zero_line: bool = False
    starts_row: bool = False


def draw(
    panels: Sequence[Panel],
    groups: Mapping[str, str | None],
    *,
    title: str,
    y_label: str,
    caption: str,
    line_width: float = 1.8,
) -> "Figure":
    """One figure of many panels with a common legend.

    Args:
        panels: at least one.
        groups: remark for the legend by label of a group, e.g. ``3 seeds``; their order gives the colours. A group
            whose remark is None keeps its colour but is not in the legend.
        title: of the figure.
        y_label: of every panel, with the unit.
        caption: how the numbers were made.
        line_width: of the curves, in points.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    style = {
        label: (COLOURS[n % len(COLOURS)], DASHES[n // len(COLOURS) % len(DASHES)]) for n, label in enumerate(groups)
    }
    entries = {
        label: f"{label}, {remark}" if remark else label for label, remark in groups.items() if remark is not None
    }
    with rc_context(STYLE):
        figure = Figure()
        axes = [figure.add_axes((0, 0, 1, 1), label=f"panel {number}") for number in range(len(panels))]
        remarks = [_draw_panel(ax, panel, style, line_width) for ax, panel in zip(axes, panels, strict=True)]
        lines = max(len(remark.splitlines()) for remark in remarks)  # the same room everywhere keeps panels in line
        layout = Layout.of(panels, [*entries.values()], caption, lines, bool(y_label))
        figure.set_size_inches(layout.width, layout.height)
        for number, (ax, remark) in enumerate(zip(axes, remarks, strict=True)):
            ax.set_position(layout.axes(number))
            ax.set_title(layout.titles[number], loc="left", y=1.0, pad=6 + 72 * REMARK_LINE * lines)
            ax.annotate(remark, (0, 1), xytext=(0, 4), textcoords="offset points", xycoords="axes fraction", **GREY)
            # Labels at set places: matplotlib would measure the ticks of every panel to find them.
            ax.xaxis.set_label_coords(0.5, -X_LABEL_DEPTH / layout.axes_height)
            ax.yaxis.set_label_coords(-Y_LABEL_DEPTH / layout.axes_width, 0.5)
            if layout.is_first_of_row(number):
                ax.set_ylabel(y_label)
        figure.legend(
            handles=[
                Line2D([], [], color=style[label][0], linestyle=style[label][1], linewidth=2, label=text)
                for label, text in entries.items()
            ],
            loc="upper left",
            bbox_to_anchor=(0, 1),
            alignment="left",
            frameon=False,
            title=title,
            title_fontproperties={"size": 13, "weight": "bold"},
            ncols=layout.legend_columns,
        )
        figure.supxlabel(layout.caption, x=EDGE / layout.width, y=EDGE / layout.height, ha="left", va="bottom", **GREY)
    return figure


def spread(places: Sequence[float], heights: Sequence[float]) -> np.ndarray:
    """Move labels apart along an axis from 0 to 1 so that none covers another.

    Args:
        places: ``(N,)`` wanted centres, ascending.
        heights: ``(N,)`` room that each one takes.

    Returns:
        ``(N,)`` centres in the same order, together as near to the wanted ones as the room allows (least squares).
    """
    from scipy.optimize import isotonic_regression

    places, heights = np.asarray(places, dtype=np.float64), np.asarray(heights, dtype=np.float64)
    if not len(places):
        return places
    # Centres that touch are these offsets plus one number, so labels are apart where that number does not fall.
    offsets = np.concatenate([[0.0], np.cumsum((heights[:-1] + heights[1:]) / 2)])
    start = isotonic_regression(places - offsets).x
    return np.maximum(np.minimum(start, 1 - heights[-1] / 2 - offsets[-1]), heights[0] / 2) + offsets


def value_range(curves: Sequence[Curve]) -> tuple[float, float]:
    """Smallest and largest number that curves and their intervals reach; of at least one curve."""
    values = np.concatenate([part for curve in curves for part in (curve.mean, curve.low, curve.high)])
    return float(np.nanmin(values)), float(np.nanmax(values))


def _draw_panel(ax: "Axes", panel: Panel, style: Mapping[str, tuple[str, str]], line_width: float) -> str:
    """Draw all but the title; returns what is to be remarked below it."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    remarks = list(panel.missing)
    for curve in panel.curves:
        colour, dash = style[curve.group]
        marker = "o" if len(curve.env_step) <= 30 else ""
        ax.plot(curve.env_step, curve.mean, dash, color=colour, linewidth=line_width, marker=marker, markersize=3)
        if np.isfinite(curve.low).any():
            ax.fill_between(curve.env_step, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
    for curve in panel.faint:
        ax.plot(curve.env_step, curve.mean, "-", color=style[curve.group][0], **FAINT)
    if panel.has_zero_line:
        ax.axhline(0.0, color="0.45", linewidth=0.8, zorder=1)
    ax.set_xlabel("env steps per game")
    if curves := [*panel.curves, *panel.faint]:
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        ax.set_xlim(0, 1.02 * max(curve.env_step[-1] for curve in curves))
        beyond = _set_y_axis(ax, panel)
        remarks += [f"off the scale: {', '.join(beyond)}"] if beyond else []
    else:
        ax.text(0.5, 0.5, "nothing to draw yet", transform=ax.transAxes, ha="center", **GREY)
        ax.set(xticks=[], yticks=[])
    return textwrap.fill("; ".join(remarks), REMARK_WIDTH)


def _set_y_axis(ax: "Axes", panel: Panel) -> list[str]:
    """Fit the axis to the curves and draw the reference lines that are near enough; the others' names are returned."""
    low, high = panel.limits or value_range([*panel.curves, *panel.faint])
    random = panel.references.get(RANDOM, low)  # what all else is measured by is always drawn
    low, high = min(low, random), max(high, random)
    if panel.log_scale and low > 0 and high > LOG_RATIO * low:
        ax.set_yscale("log")
        return []
    room = STRETCH * max(high - low, abs(high) * 0.1, 1e-6)
    drawn = {label: y for label, y in panel.references.items() if high - room <= y <= low + room}
    low, high = min(low, *drawn.values(), high), max(low, *drawn.values(), high)
    if low == high == 0:
        high = 1.0
    margin = 0.06 * (high - low) or abs(high) * 0.1
    ax.yaxis.set_major_formatter(_written_out)
    ax.set_ylim(low - margin, high + margin)
    _draw_references(ax, drawn)
    return [f"{label} {y:,.4g}" for label, y in panel.references.items() if label not in drawn]


def _written_out(value: float, _: int) -> str:
    """A tick's whole number: matplotlib would put a common factor where the title is."""
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


def _draw_references(ax: "Axes", references: Mapping[str, float]) -> None:
    bottom, top = ax.get_ylim()
    lines = sorted(references.items(), key=lambda item: item[1])
    texts = ["\n".join(wrap_reference(label)) for label, _ in lines]
    heights = [LINE_SHARE * len(text.splitlines()) for text in texts]
    ends = [(y - bottom) / (top - bottom) for _, y in lines]
    for (label, y), text, end, place in zip(lines, texts, ends, spread(ends, heights), strict=True):
        ax.axhline(y, color="0.45", linewidth=1.2, linestyle="--" if label == RANDOM else ":", label=label, zorder=1)
        ax.plot([1.0, 1.03], [end, place], transform=ax.transAxes, color="0.6", linewidth=0.7, clip_on=False)
        ax.text(1.04, place, text, transform=ax.transAxes, va="center", linespacing=1.0, **GREY)
