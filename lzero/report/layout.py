"""Where the panels of a figure are, in inches, so that texts have room without being measured.

matplotlib's own layout engines measure every tick label of every panel several times, which takes longer than to draw.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

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
FEW = 9  # panels, up to which a row takes three of them; four of more


class Placed(Protocol):
    """What a layout asks of a panel."""

    @property
    def title(self) -> str:
        """Its name, which is wrapped to its width."""

    @property
    def references(self) -> Mapping[str, float]:
        """Lines that are labelled to the right of the panel."""

    @property
    def starts_row(self) -> bool:
        """Whether the panel is the first of its row."""


def arrange(panels: Sequence[Placed]) -> list[tuple[int, int]]:
    """Row and column of every panel, at most four in a row."""
    most = 3 if len(panels) <= FEW and not any(panel.starts_row for panel in panels) else 4
    places: list[tuple[int, int]] = []
    row, column = 0, 0
    for panel in panels:
        if places and (panel.starts_row or column == most):
            row, column = row + 1, 0
        places.append((row, column))
        column += 1
    return places


@dataclass(frozen=True)
class Layout:
    """A figure's sizes in inches.

    Attributes:
        width: of the figure.
        height: of the figure.
        axes_width: of every panel without its labels.
        axes_height: of every panel without its labels.
        legend_columns: entries of the legend side by side.
        caption: in lines that fit.
        titles: of the panels, in lines that fit.
    """

    width: float
    height: float
    axes_width: float
    axes_height: float
    legend_columns: int
    caption: str
    titles: tuple[str, ...]
    _places: tuple[tuple[int, int], ...]
    _panel: tuple[float, float]
    _first: tuple[float, float]  # from the figure's left and top to the axes of the first panel

    @classmethod
    def of(
        cls, panels: Sequence[Placed], entries: Sequence[str], caption: str, remark_lines: int, has_y_label: bool
    ) -> Self:
        """Room for panels, for a legend of ``entries``, and for as many lines of remarks above each panel."""
        places = tuple(arrange(panels))
        rows, columns = (max(place[axis] for place in places) + 1 for axis in (0, 1))
        labels = [line for panel in panels for label in panel.references for line in wrap_reference(label)]
        right = RIGHT + max((SMALL_LETTER * len(label) + 0.15 for label in labels), default=0.0)
        panel_width, panel_height = PANEL_SIZES.get(columns, PANEL_SIZE)
        titles = [textwrap.wrap(panel.title, int(panel_width / TITLE_LETTER)) for panel in panels]
        title_lines = max(map(len, titles))
        above = TITLE + TITLE_LINE * (title_lines - 1) + REMARK_LINE * remark_lines
        panel_height += above - TITLE
        left = EDGE + Y_LABEL * has_y_label
        width = left + columns * panel_width + EDGE
        entry = LEGEND_HANDLE + LETTER * max(map(len, entries), default=0)
        legend_columns = max(1, min(len(entries), int(width / entry)))
        header = EDGE + LEGEND_TITLE + LEGEND_LINE * math.ceil(len(entries) / legend_columns)
        lines = textwrap.wrap(caption, int((width - 2 * EDGE) / SMALL_LETTER))
        return cls(
            width=width,
            height=header + rows * panel_height + CAPTION_LINE * (len(lines) + 0.5) + 2 * EDGE,
            axes_width=panel_width - TICKS_LEFT - right,
            axes_height=panel_height - above - TICKS_BELOW,
            legend_columns=legend_columns,
            caption="\n".join(lines),
            titles=tuple("\n".join(title) for title in titles),
            _places=places,
            _panel=(panel_width, panel_height),
            _first=(left + TICKS_LEFT, header + above),
        )

    def axes(self, number: int) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a panel's axes, as shares of the figure."""
        row, column = self._places[number]
        left = self._first[0] + column * self._panel[0]
        bottom = self.height - self._first[1] - row * self._panel[1] - self.axes_height
        return left / self.width, bottom / self.height, self.axes_width / self.width, self.axes_height / self.height

    def is_first_of_row(self, number: int) -> bool:
        """Whether a panel has none to its left."""
        return self._places[number][1] == 0


def wrap_reference(label: str) -> list[str]:
    """Lines of a reference line's label."""
    return textwrap.wrap(label, REFERENCE_WIDTH)
