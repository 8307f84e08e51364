"""Gradient conflict between the games over training: pictures of every component and of the experts."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from lzero.report.components import EXPERT, HEADLINE, ROUTED, Component, tag_of
from lzero.report.figures import Panel, value_range
from lzero.report.pictures import SECTION_LACKING, SEEDS, CurvePicture, Section
from lzero.report.statistics import Curve
from lzero.report.study import Study

PARTS = {"moe_layer": "whole feed-forward", "shared_expert": "shared expert", ROUTED: "routed experts, mean"}
"""What the comparison of experts draws, as its legend calls it."""
SCORE = (
    "The conflict of two games is the negative cosine of their gradients: 1 where they pull in opposite directions, 0 "
    "where they do not meet, below 0 where they agree."
)


def conflict_panels(study: Study, measure: str) -> list[Panel]:
    """A panel for each component but the single experts, a row for each kind of them, all on one scale."""
    by_component = _curves_by_component(study, measure)
    shown = [c for c in by_component if c.kind not in (EXPERT, ROUTED, "shared_expert")]
    if not shown:
        return []
    limits = _limits([curve for component in shown for curve in by_component[component]])
    panels = []
    for _, kinds in groupby(shown, key=lambda component: component.kind if component.layer is not None else ""):
        for number, component in enumerate(kinds):
            starts = number == 0
            curves = by_component[component]
            panels.append(Panel(component.title, curves, limits=limits, has_zero_line=True, starts_row=starts))
    return panels


def average_panels(study: Study) -> list[Panel]:
    """Panels of the mean conflict; none if no group has more than one pair of games."""
    return conflict_panels(study, "avg") if any(len(group.games) > 2 for group in study.groups) else []


def expert_panels(study: Study) -> list[Panel]:
    """For each group with experts a row of layers: whole feed-forward, shared expert, and routed experts."""
    by_component = _curves_by_component(study, HEADLINE)
    layers = dict.fromkeys(component.layer for component in by_component if component.kind in ("shared_expert", ROUTED))
    panels = []
    for group in study.groups:
        starts_row = True
        for layer in layers:
            of_layer = [
                (component, curve)
                for component, curves in by_component.items()
                for curve in curves
                if component.layer == layer and curve.group == group.label
            ]
            curves = {PARTS[c.kind]: replace(curve, group=PARTS[c.kind]) for c, curve in of_layer if c.kind in PARTS}
            if curves.keys() <= {PARTS["moe_layer"]}:
                continue
            faint = [replace(curve, group=PARTS[ROUTED]) for c, curve in of_layer if c.kind == EXPERT]
            shown = [curves[name] for name in PARTS.values() if name in curves]
            title = f"{group.label}, layer {layer}"
            panels.append(Panel(title, shown, faint=faint, has_zero_line=True, starts_row=starts_row))
            starts_row = False
    drawn = [curve for panel in panels for curve in (*panel.curves, *panel.faint)]
    return [replace(panel, limits=_limits(drawn)) for panel in panels]


def expert_legend(study: Study, panels: Sequence[Panel]) -> Mapping[str, str | None]:
    """The parts of a feed-forward that are drawn."""
    drawn = {curve.group for panel in panels for curve in panel.curves}
    return {name: "" if name in drawn else None for name in PARTS.values()}


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """What curves reach, and 0."""
    low, high = value_range(curves)
    return min(low, 0.0), max(high, 0.0)


def _curves_by_component(study: Study, measure: str) -> dict[Component, list[Curve]]:
    """In the order of components."""
    prefix = tag_of(measure, Component(""))
    found: defaultdict[Component, list[Curve]] = defaultdict(list)
    for curve in study.curves:
        if curve.metric.startswith(prefix):
            found[Component.parse(curve.metric.removeprefix(prefix))].append(curve)
    return {component: found[component] for component in sorted(found, key=lambda component: component.place)}


CONFLICT_PICTURES = (
    CurvePicture(
        "conflict",
        "Largest conflict between any two games (maximum negative cosine)",
        Section.CONFLICT,
        "conflict",
        SEEDS,
        lambda study: conflict_panels(study, "max"),
        SECTION_LACKING[Section.CONFLICT],
        f"{SCORE} Shown is the pair of games in the strongest conflict. All panels have one scale.",
    ),
    CurvePicture(
        "conflict_average",
        "Mean conflict over all pairs of games",
        Section.CONFLICT,
        "conflict",
        SEEDS,
        average_panels,
        "two games are one pair, whose conflict is in conflict.png",
        "Negative: on the whole the games agree.",
    ),
    CurvePicture(
        "conflict_rate",
        "Share of pairs of games in conflict",
        Section.CONFLICT,
        "share of pairs",
        SEEDS,
        lambda study: conflict_panels(study, "rate"),
        SECTION_LACKING[Section.CONFLICT],
        "Pairs whose gradients have a negative cosine. Gradients that have nothing to do with each other give about one "
        "half.",
    ),
)
EXPERT_CONFLICT = CurvePicture(
    "conflict_experts",
    "Largest conflict: shared expert, routed experts, whole feed-forward",
    Section.CONFLICT,
    "conflict",
    f"{SEEDS} Thin: each routed expert of one seed; experts have no order that seeds share, so the mean over seeds is "
    "one of the mean over experts.",
    expert_panels,
    "no run has measured gradient conflict of experts (gradient_conflict/max_shared_expert/…, …_expert_{e}/…)",
    "A routed expert that fewer than two games used has no conflict to measure: such moments are left out, not "
    "counted as peace. conflict_final.csv tells how often there was a number.",
    legend=expert_legend,
)
