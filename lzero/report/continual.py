"""What continual runs forget, and what games do for each other: tables made of evaluations.

Shape legend: T = turns, G = games.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import nan

import numpy as np

from lzero import tags
from lzero.analysis import continual as measures
from lzero.report.last_part import over_seeds
from lzero.report.run_data import Group, Series, Task, gather
from lzero.report.scale import Scale, common_scale
from lzero.report.statistics import RANDOM
from lzero.report.study import Study, rows_once_per_study
from lzero.report.tables import Row
from lzero.report.turns import Turn, common_turns, is_continual

CONTINUAL_COLUMNS = (
    *("group", "seeds", "domain", "game", "measure", "score", "turns", "before"),
    *("mean", "low", "high", "num_seeds", "interval"),
)
FORGETTING, BACKWARD, FORWARD = "forgetting", "backward_transfer", "forward_transfer"
MEASURES = {
    FORGETTING: "forgetting (best − final)",
    BACKWARD: "backward transfer",
    FORWARD: "forward transfer",
}
"""By name, as pictures and pages call them."""
RETURN = "return"
# What the scores before training are.
EVALUATED = "evaluation before training"
RANDOM_POLICY = "random policy"


@dataclass(frozen=True)
class Finished:
    """Turns that all seeds of a group have behind them."""

    turns: list[Turn]
    planned: int  # turns of a whole run

    def played(self, group: Group) -> list[int]:
        """Number of the game of every turn."""
        return [group.games.index(turn.game) for turn in self.turns]


def continual_groups(study: Study) -> list[Group]:
    """Groups whose games come one after another."""
    return [group for group in study.groups if is_continual(group.runs[0].fields)]


def finished_turns(group: Group) -> Finished | None:
    """Turns of a continual group that all seeds have played to the end; None where they differ."""
    planned = common_turns(group)
    if planned is None:
        return None
    reached = min(run.env_steps for run in group.runs)
    return Finished([turn for turn in planned if turn.end <= reached], len(planned))


@rows_once_per_study
def continual_rows(study: Study) -> Iterator[Row]:
    """Forgetting and transfer of every game and, on a common scale, over games; columns
    ``CONTINUAL_COLUMNS``.

    All are made of the last evaluation of each turn, seed by seed. Only groups whose games come one
    after another have rows, one for every measure of which a seed has a number.
    """
    groups = continual_groups(study)
    for group in groups:
        finished = finished_turns(group)
        if finished is None or not finished.turns:
            continue
        same = [other for other in groups if other.tasks == group.tasks]
        scale = common_scale(study, same, group.tasks)
        parts = [(RETURN, None), (scale.name, scale if scale.tasks else None)]
        for name, of_scale in parts:
            if name == RETURN or of_scale is not None:
                yield from _rows(study, group, finished, name, of_scale)


def continual_notes(study: Study) -> Iterator[str]:
    """What must be known of continual groups, a sentence for each reason."""
    groups = continual_groups(study)
    found = []
    for group in groups:
        same = [other for other in groups if other.tasks == group.tasks]
        yield from common_scale(study, same, group.tasks).notes
        for what in _of_group(study, group):
            found.append((what, group.label))
    for what, labels in gather(found).items():
        yield f"{', '.join(labels)}: {what}"


def _of_group(study: Study, group: Group) -> Iterator[str]:
    steps = "env steps are those of all games together, which take turns"
    finished = finished_turns(group)
    if finished is None:
        yield f"{steps}; no turns shown, because its seeds differ in them"
        return
    yield steps
    if len(finished.turns) < finished.planned:
        played = f"{len(finished.turns)} of {finished.planned} turns"
        yield f"forgetting and transfer after {played}, which all seeds have behind them"
    lacking = _without_evaluation(group, finished)
    if lacking:
        what = "their scores are not known, and no measure that needs them"
        yield f"no evaluation in {', '.join(lacking)}: {what}"
    if finished.turns and not _evaluated_before(group):
        stands = "a random policy's score stands for it in forward transfer"
        if not all(RANDOM in study.references[task] for task in group.tasks):
            stands = "no forward transfer of games without a known score of a random policy"
        yield f"no evaluation before training: {stands}"


def _rows(
    study: Study, group: Group, finished: Finished, name: str, scale: Scale | None
) -> Iterator[Row]:
    """Of raw returns where ``scale`` is None, which have no mean over games."""
    tasks = list(group.tasks if scale is None else scale.tasks)
    played = finished.played(group)
    is_evaluated = _evaluated_before(group)
    found: dict[tuple[Task, str], dict[str, float]] = {}
    for run in group.runs:
        curves = {}
        for task in tasks:
            tag = tags.of_game(tags.EVAL_RETURN, task[1])
            curves[task] = run.series(tag) if scale is None else scale.series(run, task)
        by_measure = run_measures(
            _table(group, finished, curves), played, _before(study, group, curves, scale)
        )
        for measure, values in by_measure.items():
            on_scale = []
            for task in tasks:
                value = float(values[group.tasks.index(task)])
                found.setdefault((task, measure), {})[run.name] = value
                on_scale.append(value)
            if scale is not None:
                known = [value for value in on_scale if not np.isnan(value)]
                average = float(np.mean(known)) if known else nan
                found.setdefault((("", ""), measure), {})[run.name] = average
    for task in (*tasks, ("", "")):
        for measure in MEASURES:
            row = over_seeds(found.get((task, measure), {}))
            if row["num_seeds"]:
                before = EVALUATED if is_evaluated else RANDOM_POLICY
                yield {
                    **{"group": group.label, "domain": group.domain, "game": task[1]},
                    **{"measure": measure, "score": name, "turns": len(finished.turns)},
                    **{"before": before if measure == FORWARD else "", **row},
                }


def run_measures(
    scores: np.ndarray, played: list[int], before: np.ndarray
) -> Mapping[str, np.ndarray]:
    """Every measure ``(G,)`` of one run, from scores ``(T, G)`` and those before training ``(G,)``."""
    return {
        FORGETTING: measures.forgetting(scores).per_game,
        BACKWARD: measures.backward_transfer(scores, played).per_game,
        FORWARD: measures.forward_transfer(scores, played, before).per_game,
    }


def _table(group: Group, finished: Finished, curves: Mapping[Task, Series]) -> np.ndarray:
    """Scores ``(T, G)`` at the ends of turns; NaN columns for games without a curve."""
    ends = [turn.end for turn in finished.turns]
    scores = np.full((len(ends), len(group.games)), np.nan)
    for column, task in enumerate(group.tasks):
        if task in curves:
            scores[:, column] = measures.at_turn_ends(
                curves[task].env_step, curves[task].value, ends
            )
    return scores


def _before(
    study: Study, group: Group, curves: Mapping[Task, Series], scale: Scale | None
) -> np.ndarray:
    """Scores ``(G,)`` before training: evaluations at 0 env steps, else of a random policy."""
    before = np.full(len(group.games), np.nan)
    is_evaluated = _evaluated_before(group)
    for column, task in enumerate(group.tasks):
        if task not in curves:
            continue
        if is_evaluated:
            before[column] = curves[task].value[0]
        elif scale is None:
            before[column] = study.references[task].get(RANDOM, nan)
        else:
            before[column] = scale.random.get(task, nan)
    return before


def _evaluated_before(group: Group) -> bool:
    """Whether every seed has an evaluation of every game at 0 env steps."""
    for run in group.runs:
        for game in group.games:
            steps = run.series(tags.of_game(tags.EVAL_RETURN, game)).env_step
            if not len(steps) or steps[0] > 0:
                return False
    return True


def _without_evaluation(group: Group, finished: Finished) -> list[str]:
    """Turns in which a seed lacks an evaluation of a game."""
    lacking = np.zeros(len(finished.turns), dtype=bool)
    for run in group.runs:
        curves = {}
        for task in group.tasks:
            curves[task] = run.series(tags.of_game(tags.EVAL_RETURN, task[1]))
        lacking |= np.isnan(_table(group, finished, curves)).any(axis=1)
    return [f"turn {turn + 1} ({finished.turns[turn].game})" for turn in np.flatnonzero(lacking)]
