"""Panels of curves, made of a study: what each picture shows."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from lzero import tags
from lzero.report.components import EXPERT, HEADLINE, ROUTED, SHARED, Component
from lzero.report.curves import (
    DIVERGENCES,
    DRAWN_WINDOWS,
    LOADS,
    divergence_tags,
    entropy_metric,
    load_tags,
)
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

    Args:
        study: what is reported.
        metric: tag without the game.
        lacking: what a group without the metric is said to lack.
        references: lines of one game by label.
    """
    panels = []
    for task in study.tasks:
        curves = study.find_curves(metric, task)
        missing = [*_groups_without(study, task, curves, lacking), *_seeds_without(study, curves)]
        panels.append(Panel(study.task_title(task), curves, references(study, task), missing))
    return panels if any(panel.curves for panel in panels) else []


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
    has_pairs = any(len(group.games) > 2 for group in study.groups)
    return conflict_panels(study, "avg") if has_pairs else []


def expert_panels(study: Study) -> list[Panel]:
    """For each group a row of layers: whole feed-forward, shared expert, and routed experts."""
    by_component = _curves_by_component(study, HEADLINE)
    layers = [component.layer for component in by_component if component.kind in (SHARED, ROUTED)]
    panels: list[Panel] = []
    for group in study.groups:
        row = []
        for layer in dict.fromkeys(layers):
            shown, faint = {}, []
            for component, curves in by_component.items():
                for curve in curves if component.layer == layer else ():
                    if curve.group == group.label and component.kind == EXPERT:
                        faint.append(replace(curve, group=PARTS[ROUTED]))
                    elif curve.group == group.label and component.kind in PARTS:
                        shown[component.kind] = replace(curve, group=PARTS[component.kind])
            if SHARED in shown or ROUTED in shown:
                curves = [shown[kind] for kind in PARTS if kind in shown]
                title = f"{group.label}, layer {layer}"
                row.append(Panel(title, curves, faint=faint, has_zero_line=True))
        panels += _as_row(row)
    return _on_one_scale(panels)


def entropy_panels(study: Study) -> list[Panel]:
    """A panel for each game, a row for each window."""
    panels: list[Panel] = []
    for window in DRAWN_WINDOWS:
        row = []
        for task in study.tasks:
            curves = study.find_curves(entropy_metric(window), task)
            if curves:
                uniform = _uniform_entropies(study, curves)
                top = max([*uniform.values(), *[float(curve.mean.max()) for curve in curves]])
                title = f"{study.task_title(task)}, {window}"
                row.append(Panel(title, curves, uniform, limits=(0.0, top)))
        panels += _as_row(row)
    return panels


def divergence_panels(study: Study) -> list[Panel]:
    """A panel for each measure of how far the games are apart, a row for each window."""
    return _window_rows(study, DIVERGENCES, divergence_tags)


def load_panels(study: Study) -> list[Panel]:
    """A panel for each measure of how the experts are loaded, a row for each window."""
    return _window_rows(study, LOADS, load_tags)


def group_legend(study: Study, panels: Sequence[Panel]) -> dict[str, str | None]:
    """Remarks on the groups for a legend; None for those that have and miss nothing in panels."""
    legend: dict[str, str | None] = {}
    for group in study.groups:
        ways, is_missed = set(), False
        for panel in panels:
            ways |= {curve.interval for curve in panel.curves if curve.group == group.label}
            is_missed |= any(text.startswith(f"{group.label}: ") for text in panel.missing)
        seeds = f"{len(group.runs)} seed{'s' if len(group.runs) > 1 else ''}"
        remark = f"{seeds}, band over episodes" if OVER_EPISODES in ways else seeds
        legend[group.label] = remark if ways or is_missed else None
    return legend


def expert_legend(_: Study, panels: Sequence[Panel]) -> dict[str, str | None]:
    """The parts of a feed-forward that are drawn."""
    drawn = {curve.group for panel in panels for curve in panel.curves}
    return {name: "" if name in drawn else None for name in PARTS.values()}


def _groups_without(
    study: Study, task: Task, curves: Sequence[Curve], lacking: str
) -> Iterator[str]:
    domain, game = task
    drawn = [curve.group for curve in curves]
    for group in study.groups:
        if group.domain == domain and game in group.games and group.label not in drawn:
            yield f"{group.label}: {lacking}"


def _seeds_without(study: Study, curves: Sequence[Curve]) -> Iterator[str]:
    for curve in curves:
        [group] = [group for group in study.groups if group.label == curve.group]
        if len(curve.seeds) < len(group.runs):
            yield f"{group.label}: {len(curve.seeds)} of {len(group.runs)} seeds"


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
    curves = [curve for panel in panels for curve in (*panel.curves, *panel.faint)]
    if not curves:
        return []
    low, high = value_range(curves)
    return [replace(panel, limits=(min(low, 0.0), max(high, 0.0))) for panel in panels]


def _window_rows(
    study: Study, names: Sequence[str], tags_of: Callable[[str], list[str]]
) -> list[Panel]:
    panels: list[Panel] = []
    for window in DRAWN_WINDOWS:
        row = []
        for name, tag in zip(names, tags_of(window), strict=True):
            curves = study.find_curves(tag)
            if curves:
                row.append(Panel(f"{MEANINGS[name]}, {window}", curves))
        panels += _as_row(row)
    return panels


def _uniform_entropies(study: Study, curves: Sequence[Curve]) -> dict[str, float]:
    """Entropy of a game that uses all experts alike, for every number of experts in the curves."""
    drawn = [curve.group for curve in curves]
    uniform = {}
    for group in study.groups:
        count = group.fields.get(NUM_EXPERTS)
        if group.label in drawn and isinstance(count, int) and count > 1:
            uniform[f"all {count} alike"] = math.log(count)
    return uniform


def _as_row(panels: Sequence[Panel]) -> list[Panel]:
    return [replace(panel, starts_row=number == 0) for number, panel in enumerate(panels)]


def _place_of_title(panel: Panel) -> tuple[bool, list[tuple[int, str]]]:
    """``all`` first, ``layer10`` behind ``layer9``."""
    parts = []
    for part in re.split(r"(\d+)", panel.title):
        parts.append((int(part), "") if part.isdigit() else (-1, part))
    return panel.title != "all", parts
