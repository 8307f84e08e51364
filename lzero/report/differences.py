"""Two experiments against each other at the end of training: gradient conflict and expert selection.

Seed by seed where both have runs of the same seeds, with Student's intervals; what is equal within a
margin that was stated beforehand, and what so few seeds cannot tell, is said as such. That two
intervals overlap says neither that something is equal nor that it differs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan, nan

import numpy as np

from lzero import tags
from lzero.report import noise
from lzero.report.analysis_tables import (
    by_component,
    conflicts,
    is_one_of_several_layers,
    selection_values,
    with_means_over_layers,
)
from lzero.report.components import HEADLINE
from lzero.report.curves import game_metric
from lzero.report.last_part import Part, with_numbers
from lzero.report.paired import Pairs, pair_seeds
from lzero.report.run_data import Group, RunData
from lzero.report.statistics import CONFIDENCE, LEVEL
from lzero.report.student import (
    LESS,
    MIN_SEEDS,
    MORE,
    Difference,
    holm,
    paired_difference,
    unpaired_difference,
)
from lzero.report.study import Study, once_per_study
from lzero.report.tables import Row, difference_label
from lzero.report.windows import shown_window

COMPARED_COLUMNS = (
    *("first_mean", "second_mean", "difference", "low", "high", "low_90", "high_90"),
    *("p_value", "p_holm", "margin", "verdict", "detectable"),
    *("num_first", "num_second", "seeds", "interval"),
)
CONFLICT_DIFFERENCE_COLUMNS = (
    *("first", "second", "component", "measure", "family", "env_step_from", "env_step_to"),
    *COMPARED_COLUMNS,
)
EXPERT_DIFFERENCE_COLUMNS = (
    *("first", "second", "metric", "game", "part", "family", "env_step_to"),
    *COMPARED_COLUMNS,
)
CONFLICT_FILE, EXPERT_FILE = "conflict_differences.csv", "expert_differences.csv"
LAST_FIFTH, CHANGE = "last_fifth", "change"
# Families of comparisons, for each of which p-values are adjusted by themselves.
HEADLINES = "headline"  # few, and chosen before anything was measured: what the page shows
OTHERS = "other"
CONDITIONS = "condition"  # says whether the others can be compared, and is not tested
HEADLINE_MEASURES = (HEADLINE, noise.DENOISED)
CONDITION_MEASURES = ("null", "pairs")
IN_COSINES = (HEADLINE, "avg", "reliability", noise.DENOISED, noise.RELIABILITY)
"""Measures to which the margin applies; the others are shares, counts and ratios."""

Values = Mapping[tuple[str, str], Mapping[str, float]]
"""Numbers by measure and component, and by the name of the run."""


@dataclass(frozen=True)
class TwoGroups:
    """Two experiments, with those of their runs that are compared."""

    first: Group
    second: Group
    pairs: Pairs  # runs of the same seed; empty where they are not compared seed by seed
    why_not: str  # seed by seed
    left_out: tuple[str, ...]  # names of runs whose seed the other experiment lacks

    @property
    def label(self) -> str:
        """Of the difference."""
        return difference_label(self.first.label, self.second.label)

    @property
    def runs(self) -> tuple[RunData, ...]:
        """Of both."""
        return (*self.first.runs, *self.second.runs)


def two_groups(study: Study, prefix: str) -> TwoGroups | None:
    """The runs that have a number whose tag begins with ``prefix``; None unless there are exactly
    two experiments and both have such runs.
    """
    if len(study.groups) != 2:
        return None
    groups = []
    for group in study.groups:
        runs = tuple(with_numbers(group.runs, prefix))
        if not runs:
            return None
        groups.append(replace(group, runs=runs))
    first, second = groups
    pairs, why_not = pair_seeds(first, second)
    if not pairs:
        return TwoGroups(first, second, {}, why_not, ())
    ours = tuple(run for run, _ in pairs.values())
    theirs = tuple(run for _, run in pairs.values())
    compared = {run.name for run in (*ours, *theirs)}
    names = [run.name for run in (*first.runs, *second.runs)]
    left_out = tuple(name for name in names if name not in compared)
    return TwoGroups(replace(first, runs=ours), replace(second, runs=theirs), pairs, "", left_out)


@once_per_study
def conflict_differences(study: Study) -> list[Row]:
    """Difference of the conflict in the last fifth of training, under
    ``CONFLICT_DIFFERENCE_COLUMNS``; empty without two experiments that have any.

    Of every component that both have: all measures that runs log, and what their measurements come
    to when pooled, see :func:`lzero.report.noise.seed_numbers`.
    """
    compared = two_groups(study, tags.CONFLICT)
    if compared is None:
        return []
    part = Part.last(compared.runs)
    others = _conflict_values(compared.second.runs, part)
    known = {component for _, component in others}
    rows = []
    for (measure, component), values in _conflict_values(compared.first.runs, part).items():
        if (measure, component) not in others:
            continue
        family, margin = OTHERS, nan
        if measure in CONDITION_MEASURES:
            family = CONDITIONS
        elif measure in HEADLINE_MEASURES and not is_one_of_several_layers(component, known):
            family = HEADLINES
        if measure in IN_COSINES and study.margin is not None:
            margin = study.margin
        row: Row = {"first": compared.first.label, "second": compared.second.label}
        row |= {"component": component, "measure": measure, "family": family}
        row |= {"env_step_from": part.start, "env_step_to": part.end}
        rows.append(row | _compare(compared, values, others[measure, component], margin))
    return _adjusted(rows)


@once_per_study
def expert_differences(study: Study) -> list[Row]:
    """Difference of the expert selection, under ``EXPERT_DIFFERENCE_COLUMNS``: in the last fifth of
    training, and of the changes from the first to the last fifth.

    Means over layers. Nothing has a margin here: nats, experts and shares are no cosines.
    """
    compared = two_groups(study, tags.EXPERTS)
    if compared is None:
        return []
    first, last = Part.first(compared.runs), Part.last(compared.runs)
    others = selection_values(compared.second, first, last)
    headlines = headline_metrics(shown_window(compared.runs))
    rows = []
    for (metric, game), ours in selection_values(compared.first, first, last).items():
        if (metric, game) not in others:
            continue
        theirs = others[metric, game]
        row: Row = {"first": compared.first.label, "second": compared.second.label}
        row |= {"metric": metric, "game": game, "env_step_to": last.end}
        row["family"] = HEADLINES if metric in headlines and not game else OTHERS
        for part, values, other in (
            (LAST_FIFTH, ours[1], theirs[1]),
            (CHANGE, _changes(*ours), _changes(*theirs)),
        ):
            found = _compare(compared, values, other, nan)
            if not isnan(found["difference"]):
                rows.append(row | {"part": part} | found)
    return _adjusted(rows)


def headline_metrics(window: str) -> tuple[str, ...]:
    """Of the expert selection in a window: how certain it is, and how far games are apart in it."""
    return (
        game_metric(window, tags.SELECTION_ENTROPY),
        tags.divergence(window, "avg", tags.JENSEN_SHANNON),
        tags.expert_load(window, tags.MUTUAL_INFORMATION),
    )


def difference_notes(study: Study) -> Iterator[str]:
    """How two experiments were compared, and how many differences are to be expected by chance."""
    kinds: tuple[tuple[str, str, Callable[[Study], list[Row]], str], ...] = (
        ("gradient conflict", tags.CONFLICT, conflict_differences, CONFLICT_FILE),
        ("expert selection", tags.EXPERTS, expert_differences, EXPERT_FILE),
    )
    for kind, prefix, make_rows, file in kinds:
        compared, rows = two_groups(study, prefix), make_rows(study)
        if compared is None or not rows:
            continue
        what = f"{kind} of {compared.label}"
        if compared.why_not:
            yield f"{what} is not compared seed by seed: {compared.why_not}"
        if compared.left_out:
            why = "whose seeds the other experiment lacks"
            yield f"{what} is compared without {', '.join(compared.left_out)}, {why}"
        tested = _tested(rows)
        if not tested:
            yield f"{what} has no interval: {MIN_SEEDS} seeds of each are needed"
            continue
        headlines = sum(row["family"] == HEADLINES for row in tested)
        found = sum(row["verdict"].startswith((LESS, MORE)) for row in tested)
        kept = sum(row["p_holm"] < 1 - CONFIDENCE for row in tested)
        many = f"{len(tested)} comparisons, {headlines} of them headline"
        chance = (
            f"{(1 - CONFIDENCE) * len(tested):.2g} of the {LEVEL} intervals exclude 0 by chance"
        )
        kept_too = f"{kept} have a p_holm below {1 - CONFIDENCE:.2g} ({file})"
        yield f"{what}: {many}; where nothing differs, about {chance}; here {found} do, {kept_too}"


def _conflict_values(runs: Sequence[RunData], part: Part) -> Values:
    values: dict[tuple[str, str], dict[str, float]] = {}
    for measure in tags.CONFLICT_MEASURES:
        for component, seeds in by_component(runs, measure, part).items():
            values[measure, component] = conflicts(seeds)
    for run in runs:
        for measure, of_components in noise.seed_numbers(run, part).items():
            numbers = {component: (value, nan) for component, value in of_components.items()}
            for component, (value, _) in with_means_over_layers(numbers).items():
                values.setdefault((measure, component), {})[run.name] = value
    return values


def _changes(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {name: value - before[name] for name, value in after.items()}


def _compare(
    compared: TwoGroups, first: Mapping[str, float], second: Mapping[str, float], margin: float
) -> Row:
    """``COMPARED_COLUMNS`` without the adjustment, from values by the name of the run; seeds without
    a number do not count.
    """
    seeds = []
    if compared.pairs:
        ours, theirs = [], []
        for seed, (one, other) in compared.pairs.items():
            values = first.get(one.name, nan), second.get(other.name, nan)
            if not any(map(isnan, values)):
                seeds.append(str(seed))
                ours.append(values[0])
                theirs.append(values[1])
        found = paired_difference(np.array(ours, float), np.array(theirs, float))
    else:
        groups = []
        for by_run in (first, second):
            known = {name: value for name, value in by_run.items() if not isnan(value)}
            seeds += known
            groups.append(np.array([*known.values()], float))
        found = unpaired_difference(*groups)
    return _row(found, margin) | {"seeds": " ".join(seeds)}


def _row(found: Difference, margin: float) -> Row:
    return {
        **{"first_mean": found.first, "second_mean": found.second, "difference": found.mean},
        **{"low": found.low, "high": found.high},
        **{"low_90": found.low_90, "high_90": found.high_90},
        **{"p_value": found.p_value, "p_holm": nan},
        **{"margin": margin, "verdict": found.verdict(margin), "detectable": found.detectable},
        **{"num_first": found.num_first, "num_second": found.num_second},
        "interval": found.interval,
    }


def _tested(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["family"] != CONDITIONS and not isnan(row["p_value"])]


def _adjusted(rows: list[Row]) -> list[Row]:
    """The rows, with the p-values of each family adjusted."""
    for family in (HEADLINES, OTHERS):
        of_family = [row for row in _tested(rows) if row["family"] == family]
        p_values = holm(np.array([row["p_value"] for row in of_family], float))
        for row, p_value in zip(of_family, p_values.tolist(), strict=True):
            row["p_holm"] = p_value
    return rows
