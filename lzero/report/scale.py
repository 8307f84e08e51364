"""One scale for the scores of several games: that of their domains, or min-max of these runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import numpy as np

from lzero import tags
from lzero.report.run_data import Group, RunData, Series, Task
from lzero.report.statistics import RANDOM, last_common
from lzero.report.study import Study

MIN_MAX = "min-max"


@dataclass(frozen=True)
class Scale:
    """What makes scores of games comparable."""

    name: str  # what the domains call it, or MIN_MAX
    tasks: tuple[Task, ...]  # games that are on it
    # Returns that are 0 and 1, of every task; None where the runs logged the domains' own scores.
    ends: Mapping[Task, tuple[float, float]] | None = None
    random: Mapping[Task, float] = field(default_factory=dict)  # scores of a random policy
    notes: tuple[str, ...] = ()  # why it is this one, one sentence each

    @property
    def has_target(self) -> bool:
        """Whether 1 is something to reach: not with min-max, nor where it is what random is."""
        if self.ends is not None:
            return False
        return all(self.random.get(task, np.inf) < 1 for task in self.tasks)

    def series(self, run: RunData, task: Task) -> Series:
        """A run's evaluations of one of the tasks on the scale; empty where there are none."""
        if self.ends is None:
            return run.series(tags.of_game(tags.EVAL_NORMALISED, task[1]))
        low, high = self.ends[task]
        logged = run.series(tags.of_game(tags.EVAL_RETURN, task[1]))
        return Series(logged.env_step, (logged.value - low) / (high - low))


def common_tasks(groups: Iterable[Group]) -> list[Task]:
    """Games that every group has, in the order of the first."""
    first, *others = groups
    return [task for task in first.tasks if all(task in other.tasks for other in others)]


def common_scale(study: Study, groups: Sequence[Group], tasks: Sequence[Task]) -> Scale:
    """The scale on which ``groups`` are compared over ``tasks``, which all of them have.

    The domains' where every run logged its scores of every game. Else min-max: 0 is the score of a
    random policy where the domain knows it, or the lowest final score of any run; 1 is the best
    mean over seeds of any group. Games in which no group is better than 0 are then on no scale.
    """
    lacking = []
    for task in tasks:
        tag = tags.of_game(tags.EVAL_NORMALISED, task[1])
        if not all(len(run.series(tag)) for group in groups for run in group.runs):
            lacking.append(study.task_title(task))
    if not lacking:
        names: dict[str, None] = {}
        random = {}
        for domain, game in tasks:
            scale = study.scales.get(domain)
            names[scale.name if scale else "normalised"] = None
            if scale and game in scale.random:
                random[domain, game] = scale.random[game]
        return Scale("; ".join(names), tuple(tasks), None, random)
    ends, random, bare = {}, {}, []
    for task in tasks:
        low, high = _ends(study, groups, task)
        if isfinite(high - low) and high > low:
            ends[task] = (low, high)
            if RANDOM in study.references[task]:
                random[task] = 0.0
        else:
            bare.append(study.task_title(task))
    why = f"not every run has logged {tags.EVAL_NORMALISED}/… of {', '.join(lacking)}"
    zero = "a random policy's, or the lowest final score of a run where that is not known"
    notes = [
        f"scores of games are compared on a min-max scale, because {why}: 0 is {zero}; 1 is the "
        "best mean over seeds of an experiment"
    ]
    if bare:
        reason = "no experiment ended above 0 of the min-max scale"
        notes.append(f"left out of what is compared over games: {', '.join(bare)}: {reason}")
    return Scale(MIN_MAX, tuple(ends), ends, random, tuple(notes))


def final_scores(group: Group, series: Mapping[str, Series]) -> dict[str, float]:
    """The last score of every run up to the env step that all have reached, by the run's name.

    ``series`` are a game's evaluations by the name of the run, empty ones allowed.
    """
    known = {run.name: series[run.name] for run in group.runs if len(series[run.name])}
    return {name: value for name, (_, value) in last_common(known).items()}


def final_returns(group: Group, game: str) -> dict[str, float]:
    """Final returns of a game by the name of the run, those of ``final.csv``."""
    last = last_common(group.series(tags.of_game(tags.EVAL_RETURN, game)))
    return {name: value for name, (_, value) in last.items()}


def _ends(study: Study, groups: Sequence[Group], task: Task) -> tuple[float, float]:
    """Returns that are 0 and 1; NaN without a final score."""
    lowest, best = np.inf, -np.inf
    for group in groups:
        finals = [*final_returns(group, task[1]).values()]
        if finals:
            lowest, best = min(lowest, *finals), max(best, float(np.mean(finals)))
    return study.references[task].get(RANDOM, lowest), best
