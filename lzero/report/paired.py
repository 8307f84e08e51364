"""Differences between two experiments, seed by seed: what the seeds share cancels out."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from lzero.report import aggregates
from lzero.report.comparison import aggregate_by_run, pair_scale, score_table
from lzero.report.run_data import Group, RunData, Task, gather
from lzero.report.scale import Scale, common_tasks, final_returns, final_scores
from lzero.report.statistics import OVER_SEEDS, bootstrap_mean
from lzero.report.student import student_interval
from lzero.report.study import Study, rows_once_per_study
from lzero.report.tables import Row

PAIRED_COLUMNS = (
    *("first", "second", "seeds", "domain", "game", "score", "difference", "low", "high"),
    *("t_low", "t_high", "num_seeds", "interval"),
)
RETURN = "return"
OVER_GAMES = (aggregates.MEAN, aggregates.IQM)  # of the scores of one run
SEED = re.compile(r"\d+$")
Pairs = dict[int, tuple[RunData, RunData]]
"""Runs of two experiments by their seed."""


@rows_once_per_study
def paired_rows(study: Study) -> Iterator[Row]:
    """Differences for every pair of experiments with two seeds in common, under ``PAIRED_COLUMNS``.

    First the mean and the interquartile mean over games of each run, then every game on the common
    scale and as returns. Beside the bootstrap interval over seeds stands Student's, which is wide
    enough with few seeds where differences are normal; with two seeds there is none.
    """
    for first, second in combinations(study.groups, 2):
        pairs, _ = pair_seeds(first, second)
        tasks = common_tasks((first, second))
        scale = pair_scale(study, first, second)
        if not pairs or scale is None:
            continue
        ours_and_theirs = (_of_runs(group, scale, tasks) for group in (first, second))
        both = zip(*ours_and_theirs, strict=True)
        for (where, ours), (_, theirs) in both:
            differences = {}
            for seed, (one, other) in pairs.items():
                if one.name in ours and other.name in theirs:
                    differences[seed] = ours[one.name] - theirs[other.name]
            if len(differences) > 1:
                yield {
                    **{"first": first.label, "second": second.label},
                    **dict(zip(("domain", "game", "score"), where, strict=True)),
                    **_difference(differences),
                }


def pair_seeds(first: Group, second: Group) -> tuple[Pairs, str]:
    """Runs of the same seed, and why there are none: at least two are needed.

    The seed is the number at the end of a run's folder.
    """
    numbers = []
    for group in (first, second):
        found: dict[int, RunData] = {}
        for run in group.runs:
            seed = SEED.search(run.path.name)
            if seed is None:
                return {}, f"{run.name} does not end with the number of its seed"
            if int(seed[0]) in found:
                twin = found[int(seed[0])]
                return {}, f"{twin.name} and {run.name} end with the same number"
            found[int(seed[0])] = run
        numbers.append(found)
    ours, theirs = numbers
    pairs = {seed: (ours[seed], theirs[seed]) for seed in sorted(ours) if seed in theirs}
    if len(pairs) < 2:
        return {}, "fewer than two seeds in common"
    return pairs, ""


def paired_notes(study: Study) -> Iterator[str]:
    """Which experiments are not compared seed by seed, a sentence for each reason."""
    reasons = []
    for first, second in combinations(study.groups, 2):
        _, reason = pair_seeds(first, second)
        if reason:
            reasons.append((reason, f"{first.label} and {second.label}"))
    for reason, names in gather(reasons).items():
        yield f"not compared seed by seed: {'; '.join(names)}: {reason}"


def _of_runs(
    group: Group, scale: Scale, tasks: Sequence[Task]
) -> Iterator[tuple[tuple[str, str, str], Mapping[str, float]]]:
    """Domain, game and name of a score, and its values by the name of the run."""
    names, table = score_table(group, scale)
    if scale.tasks:
        for name in OVER_GAMES:
            where = ("", "", f"{name} over games, {scale.name}")
            yield where, aggregate_by_run(names, table, name)
    for task in scale.tasks:
        series = {run.name: scale.series(run, task) for run in group.runs}
        yield (*task, scale.name), final_scores(group, series)
    for task in tasks:
        yield (*task, RETURN), final_returns(group, task[1])


def _difference(by_seed: Mapping[int, float]) -> Row:
    values = np.array([*by_seed.values()])
    low, high = map(float, bootstrap_mean(values))
    t_low, t_high = student_interval(values)
    return {
        "seeds": " ".join(map(str, by_seed)),
        **{"difference": float(values.mean()), "low": low, "high": high},
        **{"t_low": t_low, "t_high": t_high, "num_seeds": len(values), "interval": OVER_SEEDS},
    }
