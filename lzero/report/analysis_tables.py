"""What the analyses came to: conflict in the last part of training, and expert selection then and in the beginning."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lzero.report.components import (
    CONFLICT,
    EXPERT,
    EXPERTS,
    MEASURES,
    ORDER,
    ROUTED,
    Component,
    components,
    tag_of,
)
from lzero.report.curves import ENTROPY, WINDOWS, divergence_tags, entropy_tag, load_tags
from lzero.report.last_part import Part, difference, mean_or_nan, over_seeds, with_numbers
from lzero.report.run_data import Group, RunData
from lzero.report.study import Study

CONFLICT_COLUMNS = (
    *("group", "seeds", "component", "measure", "env_step_from", "env_step_to"),
    *("mean", "low", "high", "num_seeds", "measured", "interval"),
)
EXPERT_COLUMNS = (
    *("group", "seeds", "metric", "game", "env_step_to", "first_fifth", "last_fifth"),
    *("change", "change_low", "change_high", "num_seeds", "interval"),
)
WORST = "worst_routed_expert"
SHARED_MINUS_ROUTED = "shared_expert_minus_routed_experts"
ALL_LAYERS = "all_layers"
KINDS = (*ORDER[: ORDER.index(ROUTED) + 1], WORST, SHARED_MINUS_ROUTED, *ORDER[ORDER.index(ROUTED) + 1 :])

Values = Mapping[str, tuple[float, float]]
"""By name of a component its conflict, and the share of the measurements that gave a number."""


def conflict_rows(study: Study) -> Iterator[dict[str, Any]]:
    """Conflict of every component in the last fifth of training, under ``CONFLICT_COLUMNS``.

    Beside what the runs logged there are, for each layer, the mean and the worst of the routed experts and the shared
    expert minus that mean, seed by seed; and means over layers. With exactly two groups, rows of the first minus the
    second follow, over the env steps that both have reached.
    """
    for measure in MEASURES:
        for group in study.groups:
            part = Part.last(with_numbers(group.runs, CONFLICT))
            by_seed = {run.name: seed_values(run, measure, part) for run in group.runs}
            for component in _names(by_seed.values()):
                known = {name: values[component] for name, values in by_seed.items() if component in values}
                yield {
                    **_where(group.label, component, measure, part),
                    **over_seeds({name: value for name, (value, _) in known.items()}),
                    "measured": mean_or_nan(measured for _, measured in known.values()),
                }
        if len(study.groups) == 2:
            yield from _difference_rows(study.groups, measure)


def expert_rows(study: Study) -> Iterator[dict[str, Any]]:
    """Expert selection in the first and the last fifth of training, under ``EXPERT_COLUMNS``; means over layers.

    Rows without a game are of all games together; of the entropy, the mean over games.
    """
    for group in study.groups:
        seeds = with_numbers(group.runs, EXPERTS)
        parts = (Part.first(seeds), Part.last(seeds))
        for window in WINDOWS:
            entropy = [entropy_tag(task, window) for task in range(len(group.games))]
            tags = {("", f"MOE_Details/{window}/{ENTROPY}"): entropy}
            tags |= {
                (game, f"MOE_Details/{window}/{ENTROPY}"): [tag] for game, tag in zip(group.games, entropy, strict=True)
            }
            tags |= {("", tag): [tag] for tag in (*divergence_tags(window), *load_tags(window))}
            for (game, metric), summed in tags.items():
                first, last = ({run.name: _mean_of(run, summed, part) for run in group.runs} for part in parts)
                row = _change_row(first, last)
                if row["num_seeds"]:
                    yield {"group": group.label, "metric": metric, "game": game, "env_step_to": parts[1].end} | row


def seed_values(run: RunData, measure: str, part: Part) -> Values:
    """Conflict of one seed in one part of training, by component, sorted."""
    layers: defaultdict[str, dict[int | None, tuple[float, float]]] = defaultdict(dict)
    experts: defaultdict[int | None, list[tuple[float, float]]] = defaultdict(list)
    for component in components([run], measure):
        tag = tag_of(measure, component)
        value = (part.mean(run, tag), part.share_of_numbers(run, tag))
        if component.kind == EXPERT:
            experts[component.layer].append(value)
        else:
            layers[component.kind][component.layer] = value
    for layer, values in experts.items():
        conflict, measured = zip(*values, strict=True)
        layers[ROUTED][layer] = (mean_or_nan(conflict), mean_or_nan(measured))
        known = [value for value in conflict if not math.isnan(value)]
        layers[WORST][layer] = (max(known, default=math.nan), mean_or_nan(measured))
        if layer in layers["shared_expert"]:
            shared, _ = layers["shared_expert"][layer]
            layers[SHARED_MINUS_ROUTED][layer] = (shared - layers[ROUTED][layer][0], mean_or_nan(measured))
    names = {}
    for kind in sorted(layers, key=lambda kind: (KINDS.index(kind) if kind in KINDS else len(KINDS), kind)):
        if len(layers[kind]) > 1:
            names[f"{kind}/{ALL_LAYERS}"] = tuple(
                mean_or_nan(values) for values in zip(*layers[kind].values(), strict=True)
            )
        names |= {Component(kind, layer).name: value for layer, value in layers[kind].items()}
    return names


def _difference_rows(groups: Sequence[Group], measure: str) -> Iterator[dict[str, Any]]:
    part = Part.last(with_numbers((run for group in groups for run in group.runs), CONFLICT))
    first, second = ([seed_values(run, measure, part) for run in group.runs] for group in groups)
    for component in _names(first):
        if component in _names(second):
            values = [[seed[component][0] for seed in seeds if component in seed] for seeds in (first, second)]
            yield {
                **_where(f"{groups[0].label} minus {groups[1].label}", component, measure, part),
                **difference(*values),
                "seeds": " ".join(run.name for group in groups for run in group.runs),
                "measured": math.nan,
            }


def _change_row(first: Mapping[str, float], last: Mapping[str, float]) -> dict[str, Any]:
    """Of the seeds that have a number in both parts; where none has, of those that have one in the last."""
    changes = {name: last[name] - first[name] for name in last}
    compared = [name for name, change in changes.items() if not math.isnan(change)]
    known = compared or [name for name, value in last.items() if not math.isnan(value)]
    change = over_seeds(changes)
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


def _names(seeds: Iterable[Values]) -> list[str]:
    """Components of any of the seeds, in the order of the first that has each."""
    return list(dict.fromkeys(name for values in seeds for name in values))


def _mean_of(run: RunData, tags: Sequence[str], part: Part) -> float:
    return mean_or_nan(part.mean(run, tag) for tag in tags)
