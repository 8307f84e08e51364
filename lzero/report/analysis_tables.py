"""What the analyses came to: conflict in the last fifth of training, expert selection also before.

What is not known is NaN.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from math import inf, isnan, nan

from lzero import tags
from lzero.report.components import (
    EXPERT,
    HEADLINE,
    ROUTED,
    SHARED,
    SHARED_MINUS_ROUTED,
    WORST,
    Component,
    components,
)
from lzero.report.curves import selection_numbers
from lzero.report.last_part import Part, difference, mean_or_nan, over_seeds, with_numbers
from lzero.report.run_data import Group, RunData, gather
from lzero.report.study import Study, rows_once_per_study
from lzero.report.tables import Row, difference_label

CONFLICT_COLUMNS = (
    *("group", "seeds", "component", "measure", "env_step_from", "env_step_to"),
    *("mean", "low", "high", "num_seeds", "measured", "interval"),
)
EXPERT_COLUMNS = (
    *("group", "seeds", "metric", "game", "env_step_to", "first_fifth", "last_fifth"),
    *("change", "change_low", "change_high", "num_seeds", "interval"),
)
ALL_LAYERS = "all_layers"

Measured = tuple[float, float]
"""A conflict, and the share of the measurements that gave a number."""
Seeds = dict[str, Measured]
"""By the name of the run."""


@rows_once_per_study
def conflict_rows(study: Study) -> Iterator[Row]:
    """Conflict of every component in the last fifth of training, under ``CONFLICT_COLUMNS``.

    Beside what the runs logged there are, for each layer, the mean and the worst of the routed
    experts and the shared expert minus the routed ones on the pairs of games that both have, seed by
    seed; and means over layers. With exactly
    two groups, rows of the first minus the second follow, over the env steps both have reached,
    each group's seeds resampled by themselves: what can be concluded from few seeds is in
    :mod:`lzero.report.differences`.
    """
    for measure in tags.CONFLICT_MEASURES:
        for group in study.groups:
            part = Part.last(with_numbers(group.runs, tags.CONFLICT))
            for component, seeds in by_component(group.runs, measure, part).items():
                measured = mean_or_nan(share for _, share in seeds.values())
                row = over_seeds(conflicts(seeds)) | {"measured": measured}
                yield _where(group.label, component, measure, part) | row
        if len(study.groups) == 2:
            yield from _difference_rows(*study.groups, measure)


@rows_once_per_study
def expert_rows(study: Study) -> Iterator[Row]:
    """Expert selection in the first and the last fifth of training, under ``EXPERT_COLUMNS``.

    Means over layers. Rows without a game are of all games; of the entropy, the mean over games.
    """
    for group in study.groups:
        runs = with_numbers(group.runs, tags.EXPERTS)
        first, last = Part.first(runs), Part.last(runs)
        for (metric, game), (before, after) in selection_values(group, first, last).items():
            row = _change_row(before, after)
            if row["num_seeds"]:
                where = {"group": group.label, "metric": metric, "game": game}
                yield where | {"env_step_to": last.end} | row


def selection_values(
    group: Group, first: Part, last: Part
) -> dict[tuple[str, str], tuple[dict[str, float], dict[str, float]]]:
    """Expert selection in two parts of training by the name of the run, by metric and game; NaN
    where a run has no number."""
    found = {}
    for metric, game, logged in selection_numbers(group):
        before = {run.name: first.mean(run, *logged) for run in group.runs}
        after = {run.name: last.mean(run, *logged) for run in group.runs}
        found[metric, game] = (before, after)
    return found


def is_one_of_several_layers(component: str, components: Container[str]) -> bool:
    """Whether it is a layer of a kind whose mean over layers is among ``components`` too."""
    kind, _, layer = component.partition("/layer")
    return bool(layer) and f"{kind}/{ALL_LAYERS}" in components


def seed_values(run: RunData, measure: str, part: Part) -> dict[str, Measured]:
    """Conflict of one seed in one part of training, by the name of the component, sorted."""
    values: dict[Component, Measured] = {}
    experts = []
    for component in components([run], measure):
        tag = tags.conflict(measure, component.name)
        value = (part.mean(run, tag), part.share_of_numbers(run, tag))
        if component.kind == EXPERT:
            experts.append((component.layer, value))
        else:
            values[component] = value
    for layer, of_layer in gather(experts).items():
        conflict, shares = zip(*of_layer, strict=True)
        routed, share = mean_or_nan(conflict), mean_or_nan(shares)
        values[Component(ROUTED, layer)] = (routed, share)
        if measure == HEADLINE:
            worst = max(conflict, key=lambda value: -inf if isnan(value) else value)
            values[Component(WORST, layer)] = (worst, share)
            # the largest of a routed expert's few pairs is smaller for that alone: the same pairs
            matched = []
            for kind in (SHARED, ROUTED):
                tag = f"{tags.CONFLICT_MATCHED}{Component(kind, layer).name}"
                matched.append(part.mean(run, tag))
            if run.tags(tags.CONFLICT_MATCHED):
                difference = matched[0] - matched[1]
                values[Component(SHARED_MINUS_ROUTED, layer)] = (difference, share)
    return with_means_over_layers(values)


def with_means_over_layers(values: Mapping[Component, Measured]) -> dict[str, Measured]:
    """By the name of the component, sorted; with the mean over layers of what several have."""
    kinds = gather((component.kind, component) for component in values)
    by_name = {}
    for kind in sorted(kinds, key=lambda kind: Component(kind).place):
        if len(kinds[kind]) > 1:
            conflict, shares = zip(*map(values.__getitem__, kinds[kind]), strict=True)
            by_name[f"{kind}/{ALL_LAYERS}"] = (mean_or_nan(conflict), mean_or_nan(shares))
        for component in kinds[kind]:
            by_name[component.name] = values[component]
    return by_name


def by_component(runs: Sequence[RunData], measure: str, part: Part) -> dict[str, Seeds]:
    """Conflict of all seeds in one part of training, by the name of the component."""
    found: dict[str, Seeds] = {}
    for run in runs:
        for component, value in seed_values(run, measure, part).items():
            found.setdefault(component, {})[run.name] = value
    return found


def conflicts(seeds: Seeds) -> dict[str, float]:
    """Without the shares of what was measured."""
    return {name: conflict for name, (conflict, _) in seeds.items()}


def _difference_rows(first: Group, second: Group, measure: str) -> Iterator[Row]:
    runs = (*first.runs, *second.runs)
    part = Part.last(with_numbers(runs, tags.CONFLICT))
    others = by_component(second.runs, measure, part)
    seeds = " ".join(run.name for run in runs)
    for component, values in by_component(first.runs, measure, part).items():
        if component in others:
            row = difference(conflicts(values).values(), conflicts(others[component]).values())
            where = _where(difference_label(first.label, second.label), component, measure, part)
            yield where | row | {"seeds": seeds, "measured": nan}


def _change_row(first: Mapping[str, float], last: Mapping[str, float]) -> Row:
    """Of the seeds with a number in both parts; where none has, of those with one in the last."""
    changes = {name: value - first[name] for name, value in last.items()}
    change = over_seeds(changes)
    counted = changes if change["num_seeds"] else last
    seeds = [name for name, value in counted.items() if not isnan(value)]
    return {
        "seeds": " ".join(seeds),
        "first_fifth": mean_or_nan(map(first.__getitem__, seeds)),
        "last_fifth": mean_or_nan(map(last.__getitem__, seeds)),
        **{"change": change["mean"], "change_low": change["low"], "change_high": change["high"]},
        **{"num_seeds": len(seeds), "interval": change["interval"]},
    }


def _where(group: str, component: str, measure: str, part: Part) -> Row:
    place = {"group": group, "component": component, "measure": measure}
    return place | {"env_step_from": part.start, "env_step_to": part.end}
