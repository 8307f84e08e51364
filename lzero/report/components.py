"""Where gradients were compared, by the names under which the runs logged it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from lzero.report.run_data import RunData, Series

CONFLICT = "gradient_conflict/"
EXPERTS = "MOE_"
HEADLINE = "max"
MEASURES = (HEADLINE, "avg", "rate")
"""Of the pairs of games: the largest conflict, the mean, and the share of pairs that are in conflict."""
EXPERT = "expert"
ROUTED = "routed_experts"
"""What this report calls the mean over the routed experts of a layer, which no run logs."""
ORDER = ("encoder", "encoder_parameters", "transformer", "before_moe", "moe_layer", "shared_expert", ROUTED, "router")
MEANING = {
    "encoder": "its output",
    "before_moe": "feed-forward input",
    "moe_layer": "its parameters",
}
PATTERN = re.compile(r"(?:expert_(?P<expert>\d+)|(?P<kind>.+?))(?:/layer(?P<layer>\d+))?")


@dataclass(frozen=True)
class Component:
    """A place in the network at which the gradients of the games are compared.

    Attributes:
        kind: its name without number and layer; ``expert`` for routed experts.
        layer: number of the block; None for what is outside of the blocks.
        expert: number of the routed expert.
    """

    kind: str
    layer: int | None = None
    expert: int | None = None

    @classmethod
    def parse(cls, name: str) -> Self:
        """From the name in a tag, e.g. ``expert_3/layer0``.

        Raises:
            ValueError: if the name is empty.
        """
        found = PATTERN.fullmatch(name)
        if found is None:
            raise ValueError(f"name={name!r} of a component must not be empty")
        layer, expert = (int(found[key]) if found[key] else None for key in ("layer", "expert"))
        return cls(found["kind"] or EXPERT, layer, expert)

    @property
    def name(self) -> str:
        """As in a tag."""
        kind = self.kind if self.expert is None else f"{self.kind}_{self.expert}"
        return kind if self.layer is None else f"{kind}/layer{self.layer}"

    @property
    def title(self) -> str:
        """Its name and what that means."""
        return f"{self.name} ({MEANING[self.kind]})" if self.kind in MEANING else self.name

    @property
    def place(self) -> tuple[int, str, int, int]:
        """Sorts components: from the encoder through the feed-forward to the router, others behind."""
        order = ORDER.index(self.kind) if self.kind in ORDER else len(ORDER)
        return order, self.kind, self.layer or 0, self.expert or 0


def components(runs: Iterable[RunData], measure: str) -> list[Component]:
    """Components for which any of the runs logged the conflict, even if it never was a number, sorted."""
    prefix = f"{CONFLICT}{measure}_"
    names = {tag.removeprefix(prefix) for run in runs for tag in run.scalars if tag.startswith(prefix)}
    return sorted((Component.parse(name) for name in names), key=lambda component: component.place)


def tag_of(measure: str, component: Component) -> str:
    """Tag of a component's conflict."""
    return f"{CONFLICT}{measure}_{component.name}"


def routed_series(run: RunData, measure: str, experts: Iterable[Component]) -> Series:
    """Mean over routed experts of their conflict, at every env step over those that had a number there.

    Experts have no order that two seeds share, so a mean over seeds is one of this mean, not of the third expert.
    """
    series = [run.series(tag_of(measure, expert)) for expert in experts]
    steps, inverse = np.unique(np.concatenate([one.env_step for one in series]), return_inverse=True)
    values = np.concatenate([one.value for one in series])
    return Series(steps, np.bincount(inverse, values, len(steps)) / np.bincount(inverse, minlength=len(steps)))
