"""Experiments against each other at the end of training, over all games that they share.

Shape legend: S = seeds, G = games.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from lzero.report import aggregates
from lzero.report.run_data import Group
from lzero.report.scale import Scale, common_scale, common_tasks, final_scores
from lzero.report.study import Study
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

    @property
    def games(self) -> str:
        """In the order of the scores."""
        return " ".join(game for _, game in self.scale.tasks)


def compare(study: Study) -> tuple[Comparison | None, list[str]]:
    """The comparison, if there is one, and what must be known of it or why there is none.

    Compared are experiments of two seeds or more, over the games that all of them have; runs count
    that have a final score of every game. Only studies with PPO have it: reports of UniZero alone
    stay what they were.
    """
    if len(study.groups) < 2 or not study.has_ppo:
        return None, []
    groups = [group for group in study.groups if len(group.runs) > 1]
    notes = []
    single = ", ".join(group.label for group in study.groups if len(group.runs) < 2)
    if single:
        notes.append(f"not compared over games: {single}, of which one seed says nothing of others")
    tasks = common_tasks(groups) if len(groups) > 1 else []
    if not tasks:
        needed = "it needs two experiments of two seeds or more that have a game in common"
        notes.append(f"no comparison over games: {needed}")
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


def aggregate_rows(study: Study) -> Iterator[Row]:
    """Aggregates over games and seeds, under ``AGGREGATE_COLUMNS``.

    The optimality gap only where 1 is something to reach.
    """
    comparison, _ = compare(study)
    if comparison is None:
        return
    for label, scores in comparison.scores.items():
        ends = aggregates.aggregate_intervals(scores)
        whole = aggregates.aggregate_intervals(scores, whole_runs=True)
        for name, value in aggregates.aggregate(scores).items():
            if name == aggregates.GAP and not comparison.scale.has_target:
                continue
            yield {
                **{"group": label, "seeds": " ".join(comparison.seeds[label])},
                **{"games": comparison.games, "scale": comparison.scale.name},
                **{"aggregate": name, "value": float(value)},
                **_both_ends(ends[name], whole[name]),
                **{"num_seeds": scores.shape[0], "num_games": scores.shape[1]},
                "interval": STRATIFIED,
            }


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
