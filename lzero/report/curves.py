"""Which logged numbers become curves of a report."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from lzero.report.components import (
    EXPERT,
    HEADLINE,
    MEASURES,
    ROUTED,
    Component,
    components,
    routed_series,
    tag_of,
)
from lzero.report.run_data import Group, Series
from lzero.report.statistics import Curve, build_curves, mean_curve

PREFIXES = (
    *("eval_return/", "eval_normalised/", "eval_aggregate/", "collect_return/", "collect_reward/", "learn/", "health/"),
    *(
        "plasticity/dormant_ratio/",
        "plasticity/router_entropy/",
        "plasticity/weight_norm/",
        "plasticity/gradient_norm/",
    ),
)
WINDOWS = {"immediate": 100, "short": 1_000}
"""Windows of the expert selection that are drawn over training, in updates; longer ones change too slowly."""
ENTROPY = "ExpertSelectionEntropy"
DIVERGENCES = ("JS_Divergence", "TV_Distance", "Wasserstein_Distance")
LOADS = ("ExpertUsageEntropy", "DeadExperts", "LoadImbalance")


def all_curves(group: Group) -> Iterator[Curve]:
    """Every curve of a group that a report has."""
    for prefix in PREFIXES:
        yield from (curve for curve in build_curves(group, prefix) if f"{EXPERT}_" not in curve.metric)
    yield from conflict_curves(group)
    yield from expert_curves(group)


def conflict_curves(group: Group) -> Iterator[Curve]:
    """Curves of a group's conflict: of every component, of the mean over routed experts, and of each routed expert.

    The last are those of one seed, because experts have no order that seeds share.
    """
    for measure in MEASURES:
        everywhere = components(group.runs, measure)
        for component in (component for component in everywhere if component.kind != EXPERT):
            tag = tag_of(measure, component)
            yield from _known(mean_curve(group, tag, _series(group, tag)))
        for layer, experts in _experts_by_layer(everywhere).items():
            tag = tag_of(measure, Component(ROUTED, layer))
            series = {run.name: routed_series(run, measure, experts) for run in group.runs}
            yield from _known(mean_curve(group, tag, series))
            one_seed = next((name for name, one in series.items() if len(one)), None)
            for tag in (tag_of(measure, expert) for expert in experts if measure == HEADLINE and one_seed):
                yield from _known(mean_curve(group, tag, {one_seed: _series(group, tag)[one_seed]}))


def expert_curves(group: Group) -> Iterator[Curve]:
    """Curves of how a group's games select experts, means over layers."""
    for window in WINDOWS:
        for task, game in enumerate(group.games):
            series = _series(group, entropy_tag(task, window))
            yield from _known(mean_curve(group, f"MOE_Details/{window}/{ENTROPY}", series, game))
        for tag in (*divergence_tags(window), *load_tags(window)):
            yield from _known(mean_curve(group, tag, _series(group, tag)))


def entropy_tag(task: int, window: str) -> str:
    """Tag of the entropy with which a task selects its experts."""
    return f"MOE_Details/Task{task}_{window}/{ENTROPY}"


def divergence_tags(window: str) -> list[str]:
    """Tags of how far the tasks are apart in the experts that they select, means over pairs."""
    return [f"MOE_Divergence/{window}_Avg{name}" for name in DIVERGENCES]


def load_tags(window: str) -> list[str]:
    """Tags of how evenly the experts are used by all tasks together."""
    return [f"MOE_Global/{window}/{name}" for name in LOADS]


def _series(group: Group, tag: str) -> Mapping[str, Series]:
    return {run.name: run.series(tag) for run in group.runs}


def _experts_by_layer(everywhere: Sequence[Component]) -> dict[int | None, list[Component]]:
    layers: defaultdict[int | None, list[Component]] = defaultdict(list)
    for component in (component for component in everywhere if component.kind == EXPERT):
        layers[component.layer].append(component)
    return dict(layers)


def _known(curve: Curve | None) -> list[Curve]:
    return [] if curve is None else [curve]
