"""Where gradients were compared, by the names under which the runs logged it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Self

import numpy as np

from lzero import tags
from lzero.report.run_data import RunData, Series, one_per_step

HEADLINE = tags.CONFLICT_MEASURES[0]
EXPERT = "expert"
SHARED = "shared_expert"
# What this report calls numbers of a layer's routed experts together, which no run logs.
ROUTED = "routed_experts"  # their mean
WORST = "worst_routed_expert"
SHARED_MINUS_ROUTED = "shared_expert_minus_routed_experts"
ORDER = (
    *("encoder", "encoder_parameters", "transformer", "before_moe", "moe_layer"),
    *(SHARED, ROUTED, WORST, SHARED_MINUS_ROUTED, "router"),
)
MEANING = {
    "encoder": "its output",
    "before_moe": "feed-forward input",
    "moe_layer": "its parameters",
}
PATTERN = re.compile(r"(?:expert_(?P<expert>\d+)|(?P<kind>.+?))(?:/layer(?P<layer>\d+))?")


@dataclass(frozen=True)
class Component:
    """A place in the network at which the gradients of the games are compared."""

    kind: str  # its name without number and layer; ``expert`` for routed experts
    layer: int | None = None  # number of the block; None outside of them
    expert: int | None = None  # number of the routed expert

    @classmethod
    def parse(cls, name: str) -> Self:
        """From the name in a tag, e.g. ``expert_3/layer0``.

        Raises:
            ValueError: if the name is empty.
        """
        found = PATTERN.fullmatch(name)
        if found is None:
            raise ValueError(f"name={name!r} of a component must not be empty")
        layer = None if found["layer"] is None else int(found["layer"])
        expert = None if found["expert"] is None else int(found["expert"])
        return cls(found["kind"] or EXPERT, layer, expert)

    @property
    def name(self) -> str:
        """As in a tag."""
        kind = self.kind if self.expert is None else f"{self.kind}_{self.expert}"
        return kind if self.layer is None else tags.of_layer(kind, self.layer)

    @property
    def title(self) -> str:
        """Its name and what that means."""
        return f"{self.name} ({MEANING[self.kind]})" if self.kind in MEANING else self.name

    @property
    def place(self) -> tuple[int, str, int, int]:
        """Sorts components: from the encoder to the router, others behind."""
        order = ORDER.index(self.kind) if self.kind in ORDER else len(ORDER)
        return order, self.kind, self.layer or 0, self.expert or 0


def components(runs: Iterable[RunData], measure: str) -> list[Component]:
    """Components for which any run logged the conflict, even if it never was a number, sorted."""
    prefix = tags.conflict(measure, "")
    found = set()
    for run in runs:
        for tag in run.scalars:
            if tag.startswith(prefix):
                found.add(Component.parse(tag.removeprefix(prefix)))
    return sorted(found, key=attrgetter("place"))


def routed_series(run: RunData, measure: str, experts: Iterable[Component]) -> Series:
    """Mean over routed experts of their conflict, at every env step over those with a number there.

    Experts have no order that two seeds share, so a mean over seeds is one of this mean, not of the
    third expert.
    """
    points = []
    for expert in experts:
        series = run.series(tags.conflict(measure, expert.name))
        points.append((series.env_step, series.value))
    return one_per_step(Series(*np.concatenate(points, axis=1)), takes_last=False)
