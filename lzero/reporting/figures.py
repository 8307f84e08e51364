"""Pictures of a report: panels of curves with their intervals and reference lines.

matplotlib is loaded when something is drawn. Figures are objects of their own: pyplot, its global state and its windows
are not used.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lzero.reporting.statistics import RANDOM, Curve

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
    """

    title: str
    curves: Sequence[Curve]
    references: Mapping[str, float] = field(default_factory=dict)
    missing: Sequence[str] = ()
    log_scale: bool = False


def draw(
    panels: Sequence[Panel],
    groups: Mapping[str, str],
    *,
    title: str,
    y_label: str,
    caption: str,
    line_width: float = 1.8,
) -> "Figure":
    """One figure of many panels with a common legend.

    Args:
        panels: at least one.
        groups: remark for the legend by label of a group, e.g. ``3 seeds``; their order gives the colours.
        title: of the figure.
        y_label: of every panel, with the unit.
        caption: how the numbers were made.
        line_width: of the curves, in points.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = min(len(panels), 3 if len(panels) <= 9 else 4)
    rows = math.ceil(len(panels) / columns)
    width, height = {1: (8.0, 3.8), 2: (5.8, 3.4)}.get(columns, (4.7, 3.1))
    style = {
        label: (COLOURS[n % len(COLOURS)], DASHES[n // len(COLOURS) % len(DASHES)]) for n, label in enumerate(groups)
    }
    with rc_context(STYLE):
        figure = Figure(figsize=(width * columns, height * rows + 1.4 + 0.25 * len(groups)), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.1)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        remarks = [_draw_panel(ax, panel, style, line_width) for panel, ax in zip(panels, axes, strict=False)]
        lines = max(len(remark.splitlines()) for remark in remarks)  # the same room everywhere keeps panels in line
        for panel, ax, remark in zip(panels, axes, remarks, strict=False):
            ax.set_title(panel.title, loc="left", pad=6 + 11 * lines)
            ax.annotate(remark, (0, 1), xytext=(0, 4), textcoords="offset points", xycoords="axes fraction", **GREY)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        for ax in axes[::columns]:
            ax.set_ylabel(y_label)
        handles = [
            Line2D([], [], color=colour, linestyle=dash, linewidth=2, label=f"{label}, {groups[label]}")
            for label, (colour, dash) in style.items()
        ]
        longest = max(len(handle.get_label()) for handle in handles)
        figure.legend(
            handles=handles,
            loc="outside upper left",
            alignment="left",
            frameon=False,
            title=title,
            title_fontproperties={"size": 13, "weight": "bold"},
            ncols=max(1, min(len(handles), int(width * columns * 9 / longest))),
        )
        figure.supxlabel(textwrap.fill(caption, int(width * columns * 15)), x=0.01, ha="left", **GREY)
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
    ax.set_xlabel("env steps per game")
    if panel.curves:
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        ax.set_xlim(0, 1.02 * max(curve.env_step[-1] for curve in panel.curves))
        beyond = _set_y_axis(ax, panel)
        remarks += [f"off the scale: {', '.join(beyond)}"] if beyond else []
    else:
        ax.text(0.5, 0.5, "nothing to draw yet", transform=ax.transAxes, ha="center", **GREY)
        ax.set(xticks=[], yticks=[])
    return textwrap.fill("; ".join(remarks), 62)


def _set_y_axis(ax: "Axes", panel: Panel) -> list[str]:
    """Fit the axis to the curves and draw the reference lines that are near enough; the others' names are returned."""
    values = np.concatenate([part for curve in panel.curves for part in (curve.mean, curve.low, curve.high)])
    low, high = np.nanmin(values), np.nanmax(values)
    random = panel.references.get(RANDOM, low)  # what all else is measured by is always drawn
    low, high = min(low, random), max(high, random)
    if panel.log_scale and low > 0 and high > LOG_RATIO * low:
        ax.set_yscale("log")
        return []
    room = STRETCH * max(high - low, abs(high) * 0.1, 1e-6)
    drawn = {label: y for label, y in panel.references.items() if high - room <= y <= low + room}
    low, high = min(low, *drawn.values(), high), max(low, *drawn.values(), high)
    margin = 0.06 * (high - low) or max(abs(high) * 0.1, 0.1)
    ax.set_ylim(low - margin, high + margin)
    _draw_references(ax, drawn)
    return [f"{label} {y:,.4g}" for label, y in panel.references.items() if label not in drawn]


def _draw_references(ax: "Axes", references: Mapping[str, float]) -> None:
    bottom, top = ax.get_ylim()
    lines = sorted(references.items(), key=lambda item: item[1])
    texts = [textwrap.fill(label, 18) for label, _ in lines]
    heights = [LINE_SHARE * len(text.splitlines()) for text in texts]
    ends = [(y - bottom) / (top - bottom) for _, y in lines]
    for (label, y), text, end, place in zip(lines, texts, ends, spread(ends, heights), strict=True):
        ax.axhline(y, color="0.45", linewidth=1.2, linestyle="--" if label == RANDOM else ":", label=label, zorder=1)
        ax.plot([1.0, 1.03], [end, place], transform=ax.transAxes, color="0.6", linewidth=0.7, clip_on=False)
        ax.text(1.04, place, text, transform=ax.transAxes, va="center", linespacing=1.0, **GREY)
