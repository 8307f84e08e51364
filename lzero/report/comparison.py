"""Experiments against each other at the end of training, over all games that they share.

Shape legend: S = seeds, G = games.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from lzero.report import aggregates
from lzero.report.run_data import Group
from lzero.report.scale import Scale, common_scale, common_tasks, final_scores
from lzero.report.statistics import ONE_SEED
from lzero.report.study import Study, once_per_study, rows_once_per_study
from lzero.report.tables import Row

AGGREGATE_COLUMNS = (
    *("group", "seeds", "games", "scale", "aggregate", "value", "low", "high"),
    *("low_whole_runs", "high_whole_runs", "num_seeds", "num_games", "interval"),
)
IMPROVEMENT_COLUMNS = (
    *("first", "second", "game", "scale", "probability", "low", "high"),
    *("low_whole_runs", "high_whole_runs", "num_seeds", "interval"),
)
STRATIFIED = "bootstrap over seeds, for every game by itself"
TITLES = {
    aggregates.MEAN: "mean",
    aggregates.MEDIAN: "median",
    aggregates.IQM: "IQM",
    aggregates.GAP: "optimality gap",
}
"""Of the aggregates, for a reader."""
MAX_THRESHOLDS = 401  # a figure has about twice as many pixels
EDGE = 0.02  # of the range of scores, by which thresholds reach beyond it


@dataclass(frozen=True)
class Comparison:
    """Final scores of the experiments that can be compared."""

    scale: Scale
    groups: tuple[Group, ...]
    scores: Mapping[str, np.ndarray]  # (S, G) by label; games in the order of scale.tasks
    seeds: Mapping[str, tuple[str, ...]]  # names of the runs, by label


@once_per_study
def compare(study: Study) -> tuple[Comparison | None, list[str]]:
    """The comparison, if there is one, and what must be known of it or why there is none.

    Compared are experiments of two seeds or more, over the games that all of them have; runs count
    that have a final score of every game.
    """
    if len(study.groups) < 2:
        return None, []
    groups = [group for group in study.groups if len(group.runs) > 1]
    notes = []
    single = ", ".join(group.label for group in study.groups if len(group.runs) < 2)
    if single:
        notes.append(f"not compared over games: {single}, of which one seed says nothing of others")
    tasks = common_tasks(groups) if len(groups) > 1 else []
    if not tasks:
        needed = "it needs two experiments of two seeds or more, and a game that all of them play"
        notes.append(f"no comparison of all experiments over games: {needed}")
        return None, notes
    elsewhere = [task for task in study.tasks if task not in tasks]
    if elsewhere:
        titles = ", ".join(map(study.task_title, elsewhere))
        notes.append(f"not compared: {titles}, which not every experiment has")
    scale = common_scale(study, groups, tasks)
    scores, seeds = {}, {}
    for group in groups:
        names, table = score_table(group, scale)
        if len(names) < len(group.runs):
            left_out = ", ".join(run.name for run in group.runs if run.name not in names)
            notes.append(f"not compared: {left_out}, without a final score of every game")
        if len(names) > 1 and table.size:
            scores[group.label], seeds[group.label] = table, tuple(names)
    kept = tuple(group for group in groups if group.label in scores)
    if len(kept) < 2:
        reason = "fewer than two experiments have two seeds with final scores"
        notes.append(f"no comparison over games: {reason}")
        return None, [*scale.notes, *notes]
    if not scale.has_target:
        notes.append(f"no optimality gap: 1 of the scale {scale.name} is nothing known to reach")
    return Comparison(scale, kept, scores, seeds), [*scale.notes, *notes]


@dataclass(frozen=True)
class Compared:
    """Final scores of two experiments over the games that both play."""

    groups: tuple[Group, Group]
    scale: Scale
    names: tuple[list[str], list[str]]  # of the runs with a score of every game
    scores: tuple[np.ndarray, np.ndarray]  # (S, G) and (S', G)

    @property
    def labels(self) -> tuple[str, str]:
        """Of the experiments."""
        return self.groups[0].label, self.groups[1].label

    @property
    def games(self) -> list[str]:
        """In the order of the scores."""
        return [game for _, game in self.scale.tasks]

    def by_run(self, name: str) -> tuple[dict[str, float], dict[str, float]]:
        """An aggregate over the games of every run, by its name."""
        ours, theirs = (
            aggregate_by_run(*part, name) for part in zip(self.names, self.scores, strict=True)
        )
        return ours, theirs

    def turned(self) -> "Compared":
        """The second experiment first."""
        return Compared(self.groups[::-1], self.scale, self.names[::-1], self.scores[::-1])


def compared_pair(study: Study, first: Group, second: Group) -> Compared | None:
    """Two experiments over the games that both have; None without a final score of each."""
    scale = pair_scale(study, first, second)
    if scale is None or not scale.tasks:
        return None
    names, scores = zip(*(score_table(group, scale) for group in (first, second)), strict=True)
    return Compared((first, second), scale, names, scores) if all(names) else None


def pair_scale(study: Study, first: Group, second: Group) -> Scale | None:
    """The scale of two experiments: that of the whole comparison where both are in it; None without
    a game in common.
    """
    comparison, _ = compare(study)
    if comparison and {first.label, second.label} <= comparison.scores.keys():
        return comparison.scale
    tasks = common_tasks((first, second))
    return common_scale(study, (first, second), tasks) if tasks else None


def aggregate_by_run(names: Sequence[str], scores: np.ndarray, name: str) -> dict[str, float]:
    """An aggregate over the games of every run with ``scores (S, G)``, by its name."""
    values = {}
    for run, of_games in zip(names, scores, strict=True):
        values[run] = float(aggregates.aggregate(of_games[None])[name])  # one seed, all games
    return values


def score_table(group: Group, scale: Scale) -> tuple[list[str], np.ndarray]:
    """Names of the runs that have a final score of every game, and the scores ``(S, G)``."""
    by_game = []
    for task in scale.tasks:
        series = {run.name: scale.series(run, task) for run in group.runs}
        by_game.append(final_scores(group, series))
    names = [run.name for run in group.runs if all(run.name in finals for finals in by_game)]
    table = np.empty((len(names), len(by_game)))
    for column, finals in enumerate(by_game):
        for row, name in enumerate(names):
            table[row, column] = finals[name]
    return names, table


@rows_once_per_study
def aggregate_rows(study: Study) -> Iterator[Row]:
    """Aggregates over games and seeds, under ``AGGREGATE_COLUMNS``.

    Over the games that all experiments share where they can be compared; else of each over its own,
    if its domain has a scale. The optimality gap only where 1 is something to reach.
    """
    comparison, _ = compare(study)
    if comparison is not None:
        for label, scores in comparison.scores.items():
            yield from _aggregates_of(label, comparison.seeds[label], scores, comparison.scale)
        return
    for group in study.groups:
        scale = common_scale(study, [group], group.tasks)
        names, scores = score_table(group, scale)
        if scale.ends is None and names:  # min-max of one experiment says nothing
            yield from _aggregates_of(group.label, names, scores, scale)


def _aggregates_of(
    label: str, seeds: Sequence[str], scores: np.ndarray, scale: Scale
) -> Iterator[Row]:
    unknown = dict.fromkeys(TITLES, (np.nan, np.nan))
    ends = whole = unknown
    if len(seeds) > 1:
        ends = aggregates.aggregate_intervals(scores)
        whole = aggregates.aggregate_intervals(scores, whole_runs=True)
    for name, value in aggregates.aggregate(scores).items():
        if name == aggregates.GAP and not scale.has_target:
            continue
        yield {
            **{"group": label, "seeds": " ".join(seeds)},
            **{"games": " ".join(game for _, game in scale.tasks), "scale": scale.name},
            **{"aggregate": name, "value": float(value)},
            **_both_ends(ends[name], whole[name]),
            **{"num_seeds": scores.shape[0], "num_games": scores.shape[1]},
            "interval": STRATIFIED if len(seeds) > 1 else ONE_SEED,
        }


@rows_once_per_study
def improvement_rows(study: Study) -> Iterator[Row]:
    """Probability of improvement for every pair, under ``IMPROVEMENT_COLUMNS``.

    Rows without a game are of all games; those of games follow.
    """
    comparison, _ = compare(study)
    if comparison is None:
        return
    for first, second in combinations(comparison.scores, 2):
        one, other = comparison.scores[first], comparison.scores[second]
        parts = [("", one, other)]
        for column, (_, game) in enumerate(comparison.scale.tasks):
            parts.append((game, one[:, [column]], other[:, [column]]))
        for game, ours, theirs in parts:
            ends = aggregates.improvement_interval(ours, theirs)
            whole = aggregates.improvement_interval(ours, theirs, whole_runs=True)
            yield {
                **{"first": first, "second": second, "game": game, "scale": comparison.scale.name},
                "probability": aggregates.probability_of_improvement(ours, theirs),
                **_both_ends(ends, whole),
                **{"num_seeds": len(ours) + len(theirs), "interval": STRATIFIED},
            }


def thresholds(comparison: Comparison) -> np.ndarray:
    """Scores at which the profiles are drawn, from below all to above all of them.

    Every score there is, between which profiles do not change; a grid where there are too many.
    """
    every = np.concatenate([scores.ravel() for scores in comparison.scores.values()])
    low, high = every.min(), every.max()
    edge = EDGE * (high - low) or EDGE
    places = np.unique(np.concatenate([[low - edge], every, [high + edge]]))
    if len(places) > MAX_THRESHOLDS:
        return np.linspace(low - edge, high + edge, MAX_THRESHOLDS)
    return places


def _both_ends(ends: aggregates.Interval, whole: aggregates.Interval) -> dict[str, float]:
    names = ("low", "high", "low_whole_runs", "high_whole_runs")
    return dict(zip(names, (*ends, *whole), strict=True))
