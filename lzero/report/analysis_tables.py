"""What the analyses came to: conflict in the last fifth of training, expert selection also before.

Both tables are made of rows whose keys are the columns; NaN where something is not known.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lzero import tags
from lzero.report.components import (
    EXPERT,
    ROUTED,
    SHARED,
    SHARED_MINUS_ROUTED,
    WORST,
    Component,
    components,
)
from lzero.report.curves import selection_numbers
from lzero.report.last_part import (
    Part,
    difference,
    mean_or_nan,
    only_numbers,
    over_seeds,
    with_numbers,
)
from lzero.report.run_data import Group, RunData, gather
from lzero.report.study import Study

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


def conflict_rows(study: Study) -> Iterator[dict[str, Any]]:
    """Conflict of every component in the last fifth of training, under ``CONFLICT_COLUMNS``.

    Beside what the runs logged there are, for each layer, the mean and the worst of the routed
    experts and the shared expert minus that mean, seed by seed; and means over layers. With exactly
    two groups, rows of the first minus the second follow, over the env steps both have reached.
    """
    for measure in tags.CONFLICT_MEASURES:
        for group in study.groups:
            part = Part.last(with_numbers(group.runs, tags.CONFLICT))
            seeds = {run.name: seed_values(run, measure, part) for run in group.runs}
            for component in dict.fromkeys(_names(seeds.values())):
                conflict = {}
                shares = []
                for name, values in seeds.items():
                    if component in values:
                        conflict[name], share = values[component]
                        shares.append(share)
                row = over_seeds(conflict) | {"measured": mean_or_nan(shares)}
                yield _where(group.label, component, measure, part) | row
        if len(study.groups) == 2:
            yield from _difference_rows(*study.groups, measure)


def expert_rows(study: Study) -> Iterator[dict[str, Any]]:
    """Expert selection in the first and the last fifth of training, under ``EXPERT_COLUMNS``.

    Means over layers. Rows without a game are of all games; of the entropy, the mean over games.
    """
    for group in study.groups:
        runs = with_numbers(group.runs, tags.EXPERTS)
        parts = (Part.first(runs), Part.last(runs))
        for metric, game, logged in selection_numbers(group):
            row = _change_row(*[_means(group, logged, part) for part in parts])
            if row["num_seeds"]:
                where = {"group": group.label, "metric": metric, "game": game}
                yield where | {"env_step_to": parts[1].end} | row


def seed_values(run: RunData, measure: str, part: Part) -> dict[str, Measured]:
    """Conflict of one seed in one part of training, by the name of the component, sorted."""
    values: dict[Component, Measured] = {}
    experts: dict[int | None, list[Measured]] = {}
    for component in components([run], measure):
        tag = tags.conflict(measure, component.name)
        value = (part.mean(run, tag), part.share_of_numbers(run, tag))
        if component.kind == EXPERT:
            experts.setdefault(component.layer, []).append(value)
        else:
            values[component] = value
    for layer, of_layer in experts.items():
        conflict, shares = zip(*of_layer, strict=True)
        routed, share = mean_or_nan(conflict), mean_or_nan(shares)
        values[Component(ROUTED, layer)] = (routed, share)
        worst = max(only_numbers(conflict), default=math.nan)
        values[Component(WORST, layer)] = (worst, share)
        shared = values.get(Component(SHARED, layer))
        if shared:
            values[Component(SHARED_MINUS_ROUTED, layer)] = (shared[0] - routed, share)
    return _with_means_over_layers(values)


def _with_means_over_layers(values: Mapping[Component, Measured]) -> dict[str, Measured]:
    kinds = gather((component.kind, component) for component in values)
    by_name = {}
    for kind in sorted(kinds, key=lambda kind: Component(kind).place):
        if len(kinds[kind]) > 1:
            conflict, shares = zip(*[values[component] for component in kinds[kind]], strict=True)
            by_name[f"{kind}/{ALL_LAYERS}"] = (mean_or_nan(conflict), mean_or_nan(shares))
        for component in kinds[kind]:
            by_name[component.name] = values[component]
    return by_name


def _difference_rows(first: Group, second: Group, measure: str) -> Iterator[dict[str, Any]]:
    runs = (*first.runs, *second.runs)
    part = Part.last(with_numbers(runs, tags.CONFLICT))
    one = [seed_values(run, measure, part) for run in first.runs]
    other = [seed_values(run, measure, part) for run in second.runs]
    for component in dict.fromkeys(_names(one)):
        if component in _names(other):
            row = difference(_conflict_of(component, one), _conflict_of(component, other))
            row |= {"seeds": " ".join(run.name for run in runs), "measured": math.nan}
            group = f"{first.label} minus {second.label}"
            yield _where(group, component, measure, part) | row


def _change_row(first: Mapping[str, float], last: Mapping[str, float]) -> dict[str, Any]:
    """Of the seeds with a number in both parts; where none has, of those with one in the last."""
    changes = {name: last[name] - first[name] for name in last}
    change = over_seeds(changes)
    compared = changes if change["num_seeds"] else last
    known = [name for name, value in compared.items() if not math.isnan(value)]
    return {
        "seeds": " ".join(known),
        "first_fifth": mean_or_nan(first[name] for name in known),
        "last_fifth": mean_or_nan(last[name] for name in known),
        **{"change": change["mean"], "change_low": change["low"], "change_high": change["high"]},
        **{"num_seeds": len(known), "interval": change["interval"]},
    }


def _where(group: str, component: str, measure: str, part: Part) -> dict[str, Any]:
    place = {"group": group, "component": component, "measure": measure}
    return place | {"env_step_from": part.start, "env_step_to": part.end}


def _names(seeds: Iterable[Mapping[str, Measured]]) -> list[str]:
    return [name for values in seeds for name in values]


def _conflict_of(component: str, seeds: Sequence[Mapping[str, Measured]]) -> list[float]:
    return [values[component][0] for values in seeds if component in values]


def _means(group: Group, logged: Sequence[str], part: Part) -> dict[str, float]:
    """By seed the mean of some numbers in a part of training."""
    means = {}
    for run in group.runs:
        means[run.name] = mean_or_nan([part.mean(run, tag) for tag in logged])
    return means
