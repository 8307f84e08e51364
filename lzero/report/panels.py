"""Panels of curves, made of a study: what each picture shows."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from lzero import tags
from lzero.report import curves as logged
from lzero.report.components import EXPERT, HEADLINE, ROUTED, SHARED, Component
from lzero.report.figures import Panel, value_range
from lzero.report.run_data import gather
from lzero.report.statistics import OVER_EPISODES, RANDOM, Curve
from lzero.report.study import Study, Task

NUM_EXPERTS = "model.moe.num_experts"
PARTS = {
    "moe_layer": "whole feed-forward",
    SHARED: "shared expert",
    ROUTED: "routed experts, mean",
}
"""Of a feed-forward with experts, as a legend calls them."""
MEANINGS = {
    tags.SELECTION_ENTROPY: "entropy of selection [nats]",
    tags.JENSEN_SHANNON: "Jensen–Shannon [nats]",
    tags.TOTAL_VARIATION: "total variation",
    tags.WASSERSTEIN: "Wasserstein",
    tags.USAGE_ENTROPY: "entropy of usage [nats]",
    tags.DEAD_EXPERTS: "experts that none chose",
    tags.LOAD_IMBALANCE: "most used against mean",
}
"""Numbers of the expert selection in words, without their window."""

References = Callable[[Study, Task], Mapping[str, float]]


def known_scores(study: Study, task: Task) -> Mapping[str, float]:
    """Scores of a game that its domain knows, by label."""
    return study.references[task]


def random_reward_rate(study: Study, task: Task) -> Mapping[str, float]:
    """Reward per 1,000 env steps of the runs' own random warm-up; empty where no run had one."""
    domain, game = task
    rates: list[float] = []
    for group in study.groups:
        for run in group.runs if group.domain == domain else ():
            rate = run.series(tags.of_game(tags.COLLECT_REWARD, game))
            is_random = rate.env_step <= run.fields.get("train.random_steps", 0)
            rates += rate.value[is_random].tolist()
    return {RANDOM: sum(rates) / len(rates)} if rates else {}


def game_panels(
    study: Study, metric: str, lacking: str, references: References = known_scores
) -> list[Panel]:
    """A panel for each game, with reference lines; none if no run has logged ``metric``.

    A group without the metric (a tag without the game) is said to have what ``lacking`` says.
    """
    panels = []
    is_logged = False
    for task in study.tasks:
        curves = study.find_curves(metric, task)
        is_logged |= bool(curves)
        missing = list(_missing(study, task, curves, lacking))
        panels.append(Panel(study.task_title(task), curves, references(study, task), missing))
    return panels if is_logged else []


def tag_panels(study: Study, prefix: str, *, log_scale: bool = True) -> list[Panel]:
    """A panel for each tag that begins with ``prefix``, sorted; ``all`` comes first."""
    titled = []
    for curve in study.curves:
        if curve.metric.startswith(prefix):
            title = curve.metric.removeprefix(prefix)
            if curve.game:
                game = study.task_title((curve.domain, curve.game))
                title = f"{title}/{game}" if title else game
            titled.append((title, curve))
    panels = []
    for title, curves in gather(titled).items():
        panels.append(Panel(title, curves, log_scale=log_scale))
    return sorted(panels, key=_place_of_title)


def conflict_panels(study: Study, measure: str) -> list[Panel]:
    """A panel for each component but the experts, a row for each kind of them, on one scale."""
    panels = []
    last = None
    for component, curves in _curves_by_component(study, measure).items():
        if component.kind not in (EXPERT, ROUTED, SHARED):
            row = component.kind if component.layer is not None else ""
            panels.append(
                Panel(component.title, curves, has_zero_line=True, starts_row=row != last)
            )
            last = row
    return _on_one_scale(panels)


def average_panels(study: Study) -> list[Panel]:
    """Panels of the mean conflict; none if no group has more than one pair of games."""
    most_games = max(len(group.games) for group in study.groups)
    return conflict_panels(study, "avg") if most_games > 2 else []


def expert_panels(study: Study) -> list[Panel]:
    """For each group a row of layers: whole feed-forward, shared expert, and routed experts."""
    found = []
    for component, curves in _curves_by_component(study, HEADLINE).items():
        for curve in curves:
            found.append(((curve.group, component.layer), (component.kind, curve)))
    by_layer = gather(found)
    panels: list[Panel] = []
    for group in study.groups:
        row: list[Panel] = []
        for (label, layer), parts in by_layer.items():
            if label == group.label:
                row += _expert_panel(f"{label}, layer {layer}", parts, starts_row=not row)
        panels += row
    return _on_one_scale(panels)


def _expert_panel(title: str, parts: Sequence[tuple[str, Curve]], starts_row: bool) -> list[Panel]:
    """Curves of a layer by their kind, in the order of components; none without experts."""
    shown, faint = {}, []
    for kind, curve in parts:
        if kind == EXPERT:
            faint.append(replace(curve, group=PARTS[ROUTED]))
        elif kind in PARTS:
            shown[kind] = replace(curve, group=PARTS[kind])
    if SHARED not in shown and ROUTED not in shown:
        return []
    curves = list(shown.values())
    return [Panel(title, curves, faint=faint, has_zero_line=True, starts_row=starts_row)]


def entropy_panels(study: Study) -> list[Panel]:
    """A panel for each game, a row for each window."""
    panels: list[Panel] = []
    for window in logged.DRAWN_WINDOWS:
        row: list[Panel] = []
        for task in study.tasks:
            curves = study.find_curves(logged.entropy_metric(window), task)
            if curves:
                uniform = _uniform_entropies(study, curves)
                top = max([*uniform.values(), float(max(curve.mean.max() for curve in curves))])
                title = f"{study.task_title(task)}, {window}"
                limits = (0.0, top)
                row.append(Panel(title, curves, uniform, limits=limits, starts_row=not row))
        panels += row
    return panels


def divergence_panels(study: Study) -> list[Panel]:
    """A panel for each measure of how far the games are apart, a row for each window."""
    return _window_rows(study, logged.DIVERGENCES, logged.divergence_tags)


def load_panels(study: Study) -> list[Panel]:
    """A panel for each measure of how the experts are loaded, a row for each window."""
    return _window_rows(study, logged.LOADS, logged.load_tags)


def group_legend(study: Study, panels: Sequence[Panel]) -> dict[str, str | None]:
    """Remarks on the groups for a legend; None for those that have and miss nothing in panels."""
    ways: dict[str, set[str]] = {}
    missed = ""
    for panel in panels:
        missed += "\n".join(["", *panel.missing])
        for curve in panel.curves:
            ways.setdefault(curve.group, set()).add(curve.interval)
    legend: dict[str, str | None] = {}
    for group in study.groups:
        remark = f"{len(group.runs)} seed{'s' if len(group.runs) > 1 else ''}"
        if OVER_EPISODES in ways.get(group.label, ()):
            remark += ", band over episodes"
        is_there = group.label in ways or f"\n{group.label}: " in missed
        legend[group.label] = remark if is_there else None
    return legend


def expert_legend(_: Study, panels: Sequence[Panel]) -> dict[str, str | None]:
    """The parts of a feed-forward that are drawn."""
    legend: dict[str, str | None] = dict.fromkeys(PARTS.values())
    for panel in panels:
        for curve in panel.curves:
            legend[curve.group] = ""
    return legend


def _missing(study: Study, task: Task, curves: Sequence[Curve], lacking: str) -> Iterator[str]:
    """Groups without a curve, then those in whose curves seeds are missing."""
    domain, game = task
    seeds = {curve.group: len(curve.seeds) for curve in curves}
    for group in study.groups:
        if group.domain == domain and game in group.games and group.label not in seeds:
            yield f"{group.label}: {lacking}"
    for group in study.groups:
        if seeds.get(group.label, len(group.runs)) < len(group.runs):
            yield f"{group.label}: {seeds[group.label]} of {len(group.runs)} seeds"


def _curves_by_component(study: Study, measure: str) -> dict[Component, list[Curve]]:
    """In the order of components."""
    prefix = tags.conflict(measure, "")
    found = []
    for curve in study.curves:
        if curve.metric.startswith(prefix):
            found.append((Component.parse(curve.metric.removeprefix(prefix)), curve))
    return gather(sorted(found, key=lambda pair: pair[0].place))


def _on_one_scale(panels: Sequence[Panel]) -> list[Panel]:
    """Panels whose y-axes show what any of their curves reaches, and 0."""
    low = high = 0.0
    for panel in panels:
        smallest, largest = value_range([*panel.curves, *panel.faint])
        low, high = min(low, smallest), max(high, largest)
    return [replace(panel, limits=(low, high)) for panel in panels]


def _window_rows(
    study: Study, names: Sequence[str], tags_of: Callable[[str], list[str]]
) -> list[Panel]:
    panels: list[Panel] = []
    for window in logged.DRAWN_WINDOWS:
        row: list[Panel] = []
        for name, tag in zip(names, tags_of(window), strict=True):
            curves = study.find_curves(tag)
            if curves:
                row.append(Panel(f"{MEANINGS[name]}, {window}", curves, starts_row=not row))
        panels += row
    return panels


def _uniform_entropies(study: Study, curves: Sequence[Curve]) -> dict[str, float]:
    """Entropy of a game that uses all experts alike, for every number of experts in the curves."""
    uniform = {}
    for curve in curves:
        count = study.group(curve.group).fields.get(NUM_EXPERTS)
        if isinstance(count, int) and count > 1:
            uniform[f"all {count} alike"] = math.log(count)
    return uniform


def _place_of_title(panel: Panel) -> tuple[bool, list[tuple[int, str]]]:
    """``all`` first, ``layer10`` behind ``layer9``."""
    parts = []
    for part in re.split(r"(\d+)", panel.title):
        parts.append((int(part), "") if part.isdigit() else (-1, part))
    return panel.title != "all", parts
