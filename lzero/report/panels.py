"""Panels of curves, made of a study: what each picture shows."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from lzero import tags
from lzero.report import curves as logged
from lzero.report.aggregates import performance_profile, profile_band
from lzero.report.comparison import STRATIFIED, compare, thresholds
from lzero.report.components import EXPERT, HEADLINE, ROUTED, SHARED, Component
from lzero.report.figures import Panel, value_range
from lzero.report.run_data import Task, gather
from lzero.report.statistics import OVER_EPISODES, RANDOM, Curve
from lzero.report.study import Study
from lzero.report.turns import changes, common_turns

NUM_EXPERTS = "model.moe.num_experts"
CONTINUAL_STEPS = "env steps of all games, in turns"
MIXED_STEPS = "env steps per game; in turns: of all games"
PARTS = {
    "moe_layer": "whole feed-forward",
    SHARED: "shared expert",
    ROUTED: "routed experts, mean",
    EXPERT: "routed experts, mean",  # drawn thin, in the colour of their mean
}
"""Of a feed-forward with experts, as a legend calls them."""
MEANINGS = {
    tags.SELECTION_ENTROPY: "entropy of selection [nats]",
    tags.EFFECTIVE_EXPERTS: "effective number of experts",
    tags.SELECTION_SHIFT: "total variation since the last log",
    tags.MUTUAL_INFORMATION: "mutual information of game and expert [nats]",
    tags.JENSEN_SHANNON: "Jensen–Shannon [nats]",
    tags.TOTAL_VARIATION: "total variation",
    tags.WASSERSTEIN: "Wasserstein",
    tags.USAGE_ENTROPY: "entropy of usage [nats]",
    tags.DEAD_EXPERTS: "experts that none chose",
    tags.LOAD_IMBALANCE: "most used against mean",
}


def meaning(metric: str) -> str:
    """A number of the expert selection in words, without its window."""
    return next(text for name, text in MEANINGS.items() if name in metric)


def random_reward_rate(study: Study, task: Task) -> Mapping[str, float]:
    """Reward per 1,000 env steps of the runs' own random warm-up; empty where no run had one."""
    rates: list[float] = []
    for group in study.groups:
        for run in group.runs if task in group.tasks else ():
            rate = run.series(tags.of_game(tags.COLLECT_REWARD, task[1]))
            until = run.own_steps(task[1], run.fields.get("train.random_steps", 0))
            is_random = rate.env_step <= until
            rates += rate.value[is_random].tolist()
    return {RANDOM: sum(rates) / len(rates)} if rates else {}


def game_panels(study: Study, metric: str, lacking: str) -> list[Panel]:
    """A panel for each game; none if no run has logged ``metric`` (a tag without the game).

    Reference lines are the scores that the game's domain knows; of a reward rate, that of random
    actions. A group without the metric is said to have what ``lacking`` says.
    """
    if not study.find_curves(metric):
        return []
    panels = []
    for task, references in study.references.items():
        if metric == tags.COLLECT_REWARD:
            references = random_reward_rate(study, task)
        curves = study.find_curves(metric, task)
        missing = list(_missing(study, task, curves, lacking))
        panels.append(Panel(study.task_title(task), curves, references, missing))
    return panels


def tag_panels(study: Study, prefix: str, *, log_scale: bool = True) -> list[Panel]:
    """A panel for each tag that begins with ``prefix``, sorted; ``all`` comes first."""
    titled = []
    for curve in study.curves:
        if curve.metric.startswith(prefix):
            title = curve.metric.removeprefix(prefix)
            if curve.game:
                title += f"/{study.task_title((curve.domain, curve.game))}"
            titled.append((title, curve))
    panels = []
    for title, curves in gather(titled).items():
        panels.append(Panel(title, curves, log_scale=log_scale))
    return sorted(panels, key=_place_of_title)


def health_panels(study: Study) -> list[Panel]:
    """Panels of the health of learning; what is predicted and what comes of it share one, and stand
    first.
    """
    panels = tag_panels(study, tags.HEALTH)
    realised = {panel.title: panel for panel in panels if tags.REALISED in panel.title}
    together, others = [], []
    for panel in panels:
        twin = realised.get(panel.title.replace(tags.PREDICTED, tags.REALISED))
        if tags.PREDICTED in panel.title and twin:
            title = panel.title.replace(tags.PREDICTED, ": predicted, realised")
            together.append(replace(panel, title=title, dotted=twin.curves, log_scale=False))
            del realised[twin.title]
        elif tags.REALISED not in panel.title:
            others.append(panel)
    return [*together, *realised.values(), *others]


def share_panels(study: Study) -> list[Panel]:
    """What the shared expert and the router have of their layer's negative products, then of its squared norms."""
    panels = []
    for prefix, whole in (
        (tags.CONFLICT_SHARE, "negative products"),
        (tags.CONFLICT_NORM_SHARE, "squared norms"),
    ):
        for panel in tag_panels(study, prefix, log_scale=False):
            panels.append(replace(panel, title=f"{panel.title}, of {whole}", limits=(0.0, 1.0)))
    return panels


def conflict_panels(study: Study, measure: str) -> list[Panel]:
    """A panel for each component but the experts, a row for each kind of them, on one scale."""
    panels = []
    for component, curves in _curves_by_component(study, measure).items():
        if component.kind not in (EXPERT, ROUTED, SHARED):
            row = component.kind if component.layer is not None else ""
            panels.append(Panel(component.title, curves, has_zero_line=True, row=row))
    return _on_one_scale(panels)


def average_panels(study: Study) -> list[Panel]:
    """Panels of the mean conflict; none if no group has more than one pair of games."""
    most_games = max(len(group.games) for group in study.groups)
    return conflict_panels(study, "avg") if most_games > 2 else []


def expert_panels(study: Study) -> list[Panel]:
    """For each group a row of layers: whole feed-forward, shared expert, and routed experts."""
    found = []
    for component, curves in _curves_by_component(study, HEADLINE).items():
        if component.kind in PARTS:
            for curve in curves:
                part = (component.kind, replace(curve, group=PARTS[component.kind]))
                found.append(((curve.group, component.layer), part))
    panels = []
    rows = sorted(gather(found).items(), key=lambda item: study.labels.index(item[0][0]))
    for (label, layer), parts in rows:
        by_kind = gather(parts)
        faint = by_kind.pop(EXPERT, [])
        if SHARED in by_kind or ROUTED in by_kind:
            shown = list(chain.from_iterable(by_kind.values()))
            title = f"{label}, layer {layer}"
            panels.append(Panel(title, shown, faint=faint, has_zero_line=True, row=label))
    return _on_one_scale(panels)


def entropy_panels(study: Study) -> list[Panel]:
    """A panel for each game, a row for each window."""
    panels = []
    for panel in selection_panels(study, tags.SELECTION_ENTROPY):
        uniform = {}
        for number in _numbers_of_experts(study, panel.curves):
            uniform[f"all {number} alike"] = math.log(number)
        top = max([*uniform.values(), *(float(curve.mean.max()) for curve in panel.curves)])
        panels.append(replace(panel, references=uniform, limits=(0.0, top)))
    return panels


def number_panels(study: Study) -> list[Panel]:
    """Panels of the effective number of experts, from 1 to that of all."""
    panels = []
    for panel in selection_panels(study, tags.EFFECTIVE_EXPERTS):
        most: dict[str, float] = {}
        for number in _numbers_of_experts(study, panel.curves):
            most[f"all {number}"] = number
        top = max([*most.values(), *(float(curve.mean.max()) for curve in panel.curves)])
        panels.append(replace(panel, references=most, limits=(1.0, top)))
    return panels


def selection_panels(study: Study, quantity: str) -> list[Panel]:
    """A panel for each game, a row for each window, of how games select their experts."""
    panels = []
    for window in logged.DRAWN_WINDOWS:
        for task in study.tasks:
            curves = study.find_curves(logged.game_metric(window, quantity), task)
            if curves:
                panels.append(Panel(f"{study.task_title(task)}, {window}", curves, row=window))
    return panels


def window_panels(study: Study, tags_of: Callable[[str], Iterable[str]]) -> list[Panel]:
    """A panel for each of the tags that ``tags_of`` gives for a window, a row for each window."""
    panels = []
    for window in logged.DRAWN_WINDOWS:
        for tag in tags_of(window):
            curves = study.find_curves(tag)
            if curves:
                panels.append(Panel(f"{meaning(tag)}, {window}", curves, row=window))
    return panels


def group_legend(study: Study, panels: Sequence[Panel]) -> dict[str, str | None]:
    """Remarks on the groups for a legend; None for those that have and miss nothing in panels."""
    ways: dict[str, set[str]] = {}
    for panel in panels:
        for remark in panel.missing:
            ways.setdefault(remark.rpartition(": ")[0], set())
        for curve in panel.curves:
            ways.setdefault(curve.group, set()).add(curve.interval)
    legend: dict[str, str | None] = dict.fromkeys(study.labels)
    for group in study.groups:
        if group.label in ways:
            remark = f"{len(group.runs)} seed{'s' if len(group.runs) > 1 else ''}"
            over_episodes = OVER_EPISODES in ways[group.label]
            legend[group.label] = f"{remark}, band over episodes" if over_episodes else remark
    return legend


def expert_legend(_: Study, panels: Sequence[Panel]) -> dict[str, str | None]:
    """The parts of a feed-forward that are drawn."""
    legend: dict[str, str | None] = dict.fromkeys(PARTS.values())
    for panel in panels:
        for curve in panel.curves:
            legend[curve.group] = ""
    return legend


def with_turns(study: Study, panels: Sequence[Panel]) -> list[Panel]:
    """Panels with lines where continual groups begin another game, and the game's turns shaded.

    The lines are grey where several groups of a panel, or all that are continual, have the same,
    else in a group's colour; shaded are the turns of a panel's own game, if all have the same.
    """
    found = {}
    for group in study.groups:
        turns = common_turns(group)
        if turns:
            found[group.label] = turns
    if not found:
        return list(panels)
    shown = []
    for panel in panels:
        labels = {curve.group for curve in panel.curves} & {*study.labels}
        if not labels and panel.row in found:  # its curves are parts of one group
            labels = {panel.row}
        continual = [label for label in study.labels if label in labels and label in found]
        if not continual:
            shown.append(panel)
            continue
        first = found[continual[0]]
        is_common = all(found[label] == first for label in continual)
        lines: dict[str, set[float]] = {}
        for label in continual:
            is_shared = sum(found[other] == found[label] for other in continual) > 1
            owner = "" if is_common or is_shared else label
            lines.setdefault(owner, set()).update(changes(found[label]))
        spans: list[tuple[float, float]] = []
        if is_common:
            games = {curve.game for curve in panel.curves}
            spans = [(turn.start, turn.end) for turn in first if games == {turn.game}]
        together = len(continual) < len(labels)
        x_label = MIXED_STEPS if together else CONTINUAL_STEPS
        places = {owner: sorted(starts) for owner, starts in lines.items()}
        shown.append(replace(panel, switches=places, spans=spans, x_label=x_label))
    return shown


def profile_panels(study: Study) -> list[Panel]:
    """Performance profiles of the experiments that are compared; none if there are none."""
    comparison, _ = compare(study)
    if comparison is None:
        return []
    places = thresholds(comparison)
    profiles = []
    for group in comparison.groups:
        scores = comparison.scores[group.label]
        band = profile_band(scores, places)
        seeds = comparison.seeds[group.label]
        share = performance_profile(scores, places)
        where = (group.label, seeds, "", "", "performance_profile")
        profiles.append(Curve(*where, places, share, *band, STRATIFIED))
    title = f"{len(comparison.scale.tasks)} game(s), all seeds"
    ends = (float(places[0]), float(places[-1]))
    score = f"score τ [{comparison.scale.name}]"
    return [Panel(title, profiles, limits=(0.0, 1.0), x_label=score, x_limits=ends, has_steps=True)]


def router_panels(study: Study) -> list[Panel]:
    """Entropy of every router, a panel for each game and a row for each mixture."""
    panels = []
    for panel in tag_panels(study, tags.GAME_ROUTER_ENTROPY, log_scale=False):
        panels.append(replace(panel, row=panel.curves[0].metric))
    return panels


def _missing(study: Study, task: Task, curves: Sequence[Curve], lacking: str) -> Iterator[str]:
    """Groups without a curve, then those in whose curves seeds are missing."""
    seeds = {curve.group: len(curve.seeds) for curve in curves}
    for group in study.groups:
        if task in group.tasks and group.label not in seeds:
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


def _numbers_of_experts(study: Study, curves: Sequence[Curve]) -> list[int]:
    """Those above 1 that the groups of curves have."""
    numbers: dict[int, None] = {}
    for curve in curves:
        count = study.groups[study.labels.index(curve.group)].fields.get(NUM_EXPERTS)
        if isinstance(count, int) and count > 1:
            numbers[count] = None
    return list(numbers)


def _place_of_title(panel: Panel) -> tuple[bool, list[tuple[int, str]]]:
    """``all`` first, ``layer10`` behind ``layer9``."""
    parts = []
    for part in re.split(r"(\d+)", panel.title):
        parts.append((int(part), "") if part.isdigit() else (-1, part))
    return panel.title != "all", parts
