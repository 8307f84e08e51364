"""Figures of numbers with intervals, one below the other: a dot and a whisker for each group."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lzero.report.figures import COLOURS, DPI, GREY, LEGEND, MARKERS, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches.
PANEL_WIDTHS = {1: 6.0, 2: 4.6, 3: 3.7}  # by panels in a row
PANEL_WIDTH, LINE_HEIGHT = 3.0, 0.24  # of more panels; of a dot and its whisker
BETWEEN_NAMES = 0.16  # further room between the dots of two names
LETTER = 0.085  # mean width
ABOVE, BELOW, EDGE, GAP = 0.34, 0.55, 0.12, 0.3
LEGEND_LINE = 0.22
CAPTION_LINE, CAPTION_LETTER = 0.16, 0.067
LEAST_WIDTH, LEAST_LEFT = 7.6, 0.35  # a figure; room for half a tick's label


@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    panel: str  # title of its panel
    name: str  # of its line, e.g. a game
    group: str  # label of the group, which gives the colour
    value: float
    low: float  # NaN where there is no interval
    high: float
    unit: str = ""  # of its axis


def draw_forest(
    estimates: Sequence[Estimate],
    groups: Sequence[str],
    *,
    title: str,
    caption: str,
    zero_line: bool,
    margin: float | None = None,
) -> "Figure":
    """A figure with a panel beside the other for each panel of the (at least one) estimates.

    Args:
        estimates: in the order of panels, and of names from above.
        groups: labels in the order of the colours.
        title: of the figure.
        caption: how the numbers were made.
        zero_line: whether 0 is marked, and in view.
        margin: marked on both sides of 0.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    panels = list(dict.fromkeys(estimate.panel for estimate in estimates))
    names = list(dict.fromkeys(estimate.name for estimate in estimates))
    shown = [label for label in groups if any(one.group == label for one in estimates)]
    block = LINE_HEIGHT * len(shown) + BETWEEN_NAMES  # height of a name
    left = max(LEAST_LEFT, EDGE + LETTER * max(map(len, names)) + 0.1)
    panel_width = PANEL_WIDTHS.get(len(panels), PANEL_WIDTH)
    width = max(LEAST_WIDTH, left + len(panels) * (panel_width + GAP))
    panel_width = (width - left - EDGE) / len(panels) - GAP
    text = textwrap.fill(caption, int((width - 2 * EDGE) / CAPTION_LETTER))
    footer = CAPTION_LINE * (len(text.splitlines()) + 0.5) + EDGE
    columns = max(1, min(len(shown), int(width / (0.7 + LETTER * max(map(len, shown))))))
    header = 0.4 + LEGEND_LINE * -(-len(shown) // columns) + ABOVE
    body = block * len(names)
    height = header + body + BELOW + footer
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI)
        for column, panel in enumerate(panels):
            x = left + column * (panel_width + GAP)
            place = (x / width, (footer + BELOW) / height, panel_width / width, body / height)
            ax = figure.add_axes(place, label=panel)
            of_panel = [one for one in estimates if one.panel == panel]
            _draw_panel(ax, of_panel, names, shown, groups, block)
            ax.set_title(panel, loc="left")
            if zero_line:
                ax.axvline(0.0, color="0.45", linewidth=0.8, zorder=1)
            for end in () if margin is None else (-margin, margin):
                ax.axvline(end, color="0.45", linewidth=0.8, linestyle=":", zorder=1)
            if column:
                ax.set_yticklabels([])
        handles = []
        for label in shown:
            color, marker = look_of(label, groups)
            handles.append(Line2D([], [], color=color, marker=marker, linewidth=1.6))
        # matplotlib would leave out a text that begins with an underscore
        entries = [f"entry {number}" for number in range(len(shown))]
        legend = figure.legend(handles, entries, title=title, ncols=columns, **LEGEND)
        for written, label in zip(legend.get_texts(), shown, strict=True):
            written.set_text(label)
        at = {"x": EDGE / width, "y": EDGE / height, "ha": "left", "va": "bottom"}
        figure.supxlabel(text, **at, **GREY)
    return figure


def look_of(label: str, groups: Sequence[str]) -> tuple[str, str]:
    """Colour, as in the figures of curves, and marker, which stands for their dashes."""
    place = groups.index(label)
    return COLOURS[place % len(COLOURS)], MARKERS[place // len(COLOURS) % len(MARKERS)]


def _draw_panel(
    ax: "Axes",
    estimates: Sequence[Estimate],
    names: Sequence[str],
    shown: Sequence[str],
    groups: Sequence[str],
    block: float,
) -> None:
    """Dots from above in the order of names, and within a name in that of the groups."""
    from matplotlib.ticker import MaxNLocator

    centers: Mapping[str, float] = {name: -block * (n + 0.5) for n, name in enumerate(names)}
    for one in estimates:
        offset = LINE_HEIGHT * ((len(shown) - 1) / 2 - shown.index(one.group))
        y = centers[one.name] + offset
        color, marker = look_of(one.group, groups)
        if np.isfinite(one.low):
            ax.plot([one.low, one.high], [y, y], color=color, linewidth=1.8, solid_capstyle="butt")
        ax.plot([one.value], [y], marker, color=color, markersize=5)
    for name in names[1:]:
        ax.axhline(centers[name] + block / 2, color="0.85", linewidth=0.6, zorder=0.5)
    ax.set_ylim(-block * len(names), 0)
    ax.set_yticks([centers[name] for name in names], names)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")
    ax.margins(x=0.08)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    ax.set_xlabel(", ".join(dict.fromkeys(one.unit for one in estimates if one.unit)))
