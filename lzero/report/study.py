"""A study: groups of runs with their curves, final scores and reference scores, and what is missing among them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from lzero.config_fields import EARLIER_CONFIG
from lzero.report.analysis_notes import PREFIXES, analysis_notes
from lzero.report.curves import all_curves
from lzero.report.progress import shown
from lzero.report.run_data import (
    SHOWN_FIELDS,
    Group,
    RunData,
    RunDataError,
    differing_fields,
    group_runs,
    read_run,
)
from lzero.report.statistics import Curve, FinalScore, common_range, final_score


@dataclass(frozen=True)
class Study:
    """All that a report tells.

    Attributes:
        groups: experiments, in the order of their first runs.
        curves: of all groups.
        finals: final score of each group and game.
        references: by domain and game: raw score by label, as the domain names them.
        notes: what is missing or must be known, one sentence each.
    """

    groups: tuple[Group, ...]
    curves: tuple[Curve, ...]
    finals: tuple[FinalScore, ...]
    references: Mapping[tuple[str, str], Mapping[str, float]]
    notes: tuple[str, ...]

    @property
    def tasks(self) -> tuple[tuple[str, str], ...]:
        """Domain and game of every task, in the order in which the groups name them."""
        return _tasks(self.groups)

    def task_title(self, task: tuple[str, str]) -> str:
        """The game, with its domain where another domain has a game of this name."""
        domain, game = task
        is_shared = [name for _, name in self.tasks].count(game) > 1
        return f"{game} ({domain.partition(':')[2].lower()})" if is_shared else game


def build_study(paths: Sequence[Path], *, labels: Sequence[str] = (), ignore: Sequence[str] = ()) -> Study:
    """Read runs and compute everything that a report shows of them.

    Args:
        paths: folders of runs.
        labels: names of the groups in the order of their first runs; empty makes them from the runs' names.
        ignore: further config fields or sections in which seeds of one experiment may differ.

    Raises:
        RunDataError: if there is no run, one cannot be read, or the labels do not fit.
    """
    if not paths:
        raise RunDataError("no run named; type python -m lzero.report runs/NAME [runs/NAME …]")
    groups = _relabel(group_runs([read_run(path) for path in shown(paths, "reading")], ignore), labels)
    references, notes = reference_scores(_tasks(groups))
    finals = tuple(final_score(group, game) for group in groups for game in group.games)
    return Study(
        groups=groups,
        curves=tuple(curve for group in shown(groups, "curves") for curve in all_curves(group)),
        finals=finals,
        references=references,
        notes=(*_notes(groups, finals), *notes),
    )


def reference_scores(
    tasks: Sequence[tuple[str, str]],
) -> tuple[dict[tuple[str, str], Mapping[str, float]], list[str]]:
    """Reference scores of tasks (domain, game) as their domains give them, and a sentence for each that has none."""
    from lzero.envs.domain import (
        load_domain,  # gymnasium with it, which nothing else of a report needs
    )

    found: dict[tuple[str, str], Mapping[str, float]] = dict.fromkeys(tasks, {})
    notes = []
    for path in dict.fromkeys(domain for domain, _ in tasks):
        games = [game for domain, game in tasks if domain == path]
        try:
            domain = load_domain(path)
        except ValueError as error:
            notes.append(f"no reference lines of {', '.join(games)}: {error}")
            continue
        if not hasattr(domain, "reference_scores"):
            notes.append(f"no reference lines of {', '.join(games)}: {path} has no reference_scores(game)")
            continue
        found |= {(path, game): dict(domain.reference_scores(game)) for game in games}
        bare = [game for game in games if not found[path, game]]
        if bare:
            notes.append(f"no reference lines of {', '.join(bare)}: {path} names no reference scores")
    return found, notes


def missing_inputs(run: RunData) -> Iterator[str]:
    """What a report would show of a run if it were there, and what must be known of it."""
    if any(run.path.glob(f"{EARLIER_CONFIG}*.json")):
        yield f"settings were changed on the way, config.json holds the last ones ({EARLIER_CONFIG}….json)"
    for kind, metric in (("evaluation", "eval_return"), ("finished episode while collecting", "collect_return")):
        games = [game for game in run.games if not len(run.series(f"{metric}/{game}"))]
        if games:
            yield f"no {kind} yet of {', '.join(games)} ({metric}/…)"
    for kind, prefix in (("update", "learn/"), ("health numbers", "health/")):
        if not run.tags(prefix):
            yield f"no {kind} yet ({prefix}…)"
    games = [
        game
        for game in run.games
        if any(not len(run.episode_scores(game, step)) for step in run.series(f"eval_return/{game}").env_step)
    ]
    if games:
        yield f"evaluations of {', '.join(games)} without the scores of their episodes (eval_scores/…)"
    for tag in (tag for tag in run.scalars if not tag.startswith(PREFIXES)):
        if count := run.not_numbers(tag):
            yield f"{tag} was no number {count} time(s), which are left out"


def _tasks(groups: Sequence[Group]) -> tuple[tuple[str, str], ...]:
    return tuple(dict.fromkeys((group.domain, game) for group in groups for game in group.games))


def _relabel(groups: tuple[Group, ...], labels: Sequence[str]) -> tuple[Group, ...]:
    if not labels:
        return groups
    if len(labels) != len(groups) or len(set(labels)) < len(labels):
        made = ", ".join(f"{group.label!r} ({len(group.runs)} run(s))" for group in groups)
        raise RunDataError(f"labels={list(labels)}: one each, all different, is needed for the groups {made}")
    return tuple(replace(group, label=label) for group, label in zip(groups, labels, strict=True))


def _notes(groups: Sequence[Group], finals: Sequence[FinalScore]) -> Iterator[str]:
    missing: defaultdict[str, list[str]] = defaultdict(list)
    for run in (run for group in groups for run in group.runs):
        for what in missing_inputs(run):
            missing[what].append(run.name)
    yield from (f"{what}: {', '.join(names)}" for what, names in missing.items())
    yield from analysis_notes(groups)
    for group in groups:
        for one, other in combinations(group.runs, 2):
            if _same_numbers(one, other):
                yield f"{one.name} and {other.name} logged the same losses: they are one seed twice, not two seeds"
        yield from _unequal_lengths(group, [final for final in finals if final.group == group.label])
    differing = differing_fields(groups) if len(groups) > 1 else []
    if len(differing) > SHOWN_FIELDS:
        yield f"the groups differ in {', '.join(differing)}"


def _unequal_lengths(group: Group, finals: Sequence[FinalScore]) -> Iterator[str]:
    games: defaultdict[float, list[str]] = defaultdict(list)
    for game in group.games:
        series = [series for run in group.runs if len(series := run.series(f"eval_return/{game}"))]
        if len({one.env_step[-1] for one in series}) > 1:
            start, end = common_range(series)
            if start > end:
                yield f"{group.label}: {game} not shown, its seeds have no env steps of evaluations in common"
            else:
                games[end].append(game)
    for end, names in games.items():
        yield f"{group.label}: {', '.join(names)} shown up to {end:,.0f} env steps per game, the shortest run's end"
    evaluated: defaultdict[tuple[int, ...], list[str]] = defaultdict(list)
    for final in finals:
        evaluated[final.env_steps].append(final.game)
    for steps, names in evaluated.items():
        if len(set(steps)) > 1:
            where = ", ".join(f"{step:,}" for step in steps)
            yield f"{group.label}: final evaluations of {', '.join(names)} were made at {where} env steps per game"


def _same_numbers(one: RunData, other: RunData) -> bool:
    """Whether two runs logged the same losses as far as both have come: no two seeds do."""
    tags = one.tags("learn/")
    if not tags or tags != other.tags("learn/"):
        return False
    pairs = [(one.series(tag).value, other.series(tag).value) for tag in tags]
    return all(np.array_equal(a[: len(b)], b[: len(a)]) for a, b in pairs)
