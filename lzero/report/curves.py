"""Which logged numbers become curves of a report."""

from collections.abc import Iterator

from lzero import tags
from lzero.report.components import EXPERT, HEADLINE, ROUTED, Component, components, routed_series
from lzero.report.run_data import Group, gather
from lzero.report.statistics import Curve, build_curves, mean_curve

PREFIXES = (
    *(tags.EVAL_RETURN, tags.EVAL_NORMALISED, tags.EVAL_AGGREGATE),
    *(tags.COLLECT_RETURN, tags.COLLECT_REWARD, tags.LEARN, tags.HEALTH),
    *(tags.DORMANT_RATIO, tags.ROUTER_ENTROPY, tags.WEIGHT_NORM, tags.GRADIENT_NORM),
    *(tags.CONFLICT_SHARE, tags.CONFLICT_NORM_SHARE, tags.CONFLICT_MATCHED),
    *(tags.EFFECTIVE_RANK, tags.NTK_RANK, tags.GRADIENT_SIMILARITY, tags.GAME_ROUTER_ENTROPY),
)
DRAWN_WINDOWS = ("immediate", "short")  # over training; longer ones change too slowly
GAME_QUANTITIES = (tags.SELECTION_ENTROPY, tags.EFFECTIVE_EXPERTS, tags.SELECTION_SHIFT)
"""How a single game selects its experts."""


def all_curves(group: Group) -> list[Curve]:
    """Every curve of a group that a report has."""
    curves: list[Curve | None] = []
    for prefix in PREFIXES:
        for curve in build_curves(group, prefix):
            if f"{EXPERT}_" not in curve.metric:  # experts of two seeds share only their number
                curves.append(curve)
    for measure in tags.CONFLICT_MEASURES:
        curves += conflict_curves(group, measure)
    for metric, game, logged in selection_numbers(group):
        if game or metric == logged[0]:
            curves.append(mean_curve(group, metric, group.series(logged[0]), game))
    return list(filter(None, curves))


def conflict_curves(group: Group, measure: str) -> Iterator[Curve | None]:
    """Curves of a group's conflict: of components, of the mean over routed experts, of each expert.

    The last are those of one seed, because experts have no order that seeds share.
    """
    experts = []
    for component in components(group.runs, measure):
        if component.kind == EXPERT:
            experts.append((component.layer, component))
        else:
            tag = tags.conflict(measure, component.name)
            yield mean_curve(group, tag, group.series(tag))
    for layer, of_layer in gather(experts).items():
        series = {}
        for run in group.runs:
            routed = routed_series(run, measure, of_layer)
            if len(routed):
                series[run.name] = routed
        yield mean_curve(group, tags.conflict(measure, Component(ROUTED, layer).name), series)
        if series and measure == HEADLINE:
            seed = next(iter(series))
            for expert in of_layer:
                tag = tags.conflict(measure, expert.name)
                known = group.series(tag)
                yield mean_curve(group, tag, {seed: known[seed]} if seed in known else {})


def selection_numbers(group: Group) -> Iterator[tuple[str, str, list[str]]]:
    """How a group's games select experts: metric, game, and the tags whose mean it is.

    Without a game it is of all games together; of what each game has of its own, the mean over games.
    """
    for window in DRAWN_WINDOWS:
        for quantity in GAME_QUANTITIES:
            of_game = {}
            for game in group.games:
                of_game[game] = tags.task_selection(game, window, quantity)
            yield game_metric(window, quantity), "", list(of_game.values())
            for game, tag in of_game.items():
                yield game_metric(window, quantity), game, [tag]
        tags_of = (*divergence_tags(window), *information_tags(window), *load_tags(window))
        for tag in tags_of:
            yield tag, "", [tag]


def game_metric(window: str, quantity: str) -> str:
    """What this report calls one of :data:`GAME_QUANTITIES`, whichever game it is of."""
    return tags.selection(window, quantity)


def divergence_tags(window: str) -> Iterator[str]:
    """Tags of how far the tasks are apart in the experts that they select, means over pairs."""
    for name in (tags.JENSEN_SHANNON, tags.TOTAL_VARIATION, tags.WASSERSTEIN):
        yield tags.divergence(window, "avg", name)


def information_tags(window: str) -> Iterator[str]:
    """Tags of what a selection tells of its task."""
    yield tags.expert_load(window, tags.MUTUAL_INFORMATION)


def load_tags(window: str) -> Iterator[str]:
    """Tags of how evenly the experts are used by all tasks together."""
    for name in (tags.USAGE_ENTROPY, tags.DEAD_EXPERTS, tags.LOAD_IMBALANCE):
        yield tags.expert_load(window, name)
