"""What is missing among runs, and what must be known of them: a sentence for each reason."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np

from lzero import tags
from lzero.config_fields import EARLIER_CONFIG
from lzero.report.components import HEADLINE, Component
from lzero.report.last_part import SHARE, with_numbers
from lzero.report.run_data import SHOWN_FIELDS, Group, RunData, differing_fields, gather
from lzero.report.statistics import FinalScore, common_range
from lzero.report.turns import is_continual, is_ppo
from lzero.report.windows import window_notes


@dataclass(frozen=True)
class Analysis:
    """A kind of numbers that a run may have."""

    what: str  # its name
    prefix: str  # of its tags
    no_number: str  # what it means where one of them is no number
    interval: str = ""  # config field that is 0 where the analysis is switched off

    def why_not(self, group: Group) -> str | None:
        """Why a group cannot have it, by its config; None if it could."""
        if self.prefix == tags.CONFLICT and len(group.games) < 2:
            return "one game has no other to be in conflict with"
        if self.prefix == tags.CONFLICT and is_continual(group.runs[0].fields):
            return "games come one after another, no update has two of them"
        if self.prefix == tags.EXPERTS and group.fields.get("model.architecture") == "baseline":
            return "there is no mixture (model.architecture is baseline)"
        if self.prefix == tags.EXPERTS and group.fields.get("model.moe.enabled") is False:
            return "the feed-forward is a dense MLP (model.moe.enabled is false)"
        if self.prefix == tags.EXPERTS and group.fields.get("model.moe.num_experts") == 0:
            return "there are no routed experts (model.moe.num_experts is 0)"
        for run in group.runs:
            if run.fields.get(self.interval) == 0:
                return f"switched off ({self.interval} is 0)"
        return None


ANALYSES = (
    Analysis(
        *("gradient conflict", tags.CONFLICT, "fewer than two games had a gradient there"),
        "policy.gradient_conflict_interval",
    ),
    Analysis(
        *("expert selection", tags.EXPERTS, "there was nothing to count"), "train.moe_log_interval"
    ),
    Analysis("plasticity numbers", tags.PLASTICITY, "there was nothing to measure"),
)


def study_notes(groups: Sequence[Group], finals: Sequence[FinalScore]) -> Iterator[str]:
    """All sentences on groups and their final scores."""
    missing = []
    for group in groups:
        for run in group.runs:
            for what in chain(_not_there_yet(run), _not_complete(run)):
                missing.append((what, run.name))
    for what, names in gather(missing).items():
        yield f"{what}: {', '.join(names)}"
    yield from analysis_notes(groups)
    for group in groups:
        for one, other in combinations(group.runs, 2):
            if _same_numbers(one, other):
                what = "logged the same losses: they are one seed twice, not two seeds"
                yield f"{one.name} and {other.name} {what}"
        yield from _unequal_lengths(group)
        yield from _unequal_evaluations(group.label, finals)
    differing = differing_fields(groups)
    if len(differing) > SHOWN_FIELDS:
        yield f"the groups differ in {', '.join(differing)}"


def analysis_notes(groups: Sequence[Group]) -> Iterator[str]:
    """What groups lack of each analysis; one that no run has, and any could, is not mentioned."""
    for analysis in ANALYSES:
        for reason, names in gather(_lacking(analysis, groups)).items():
            yield f"no {analysis.what} of {', '.join(names)}: {reason}"
        for group in groups:
            where = ", ".join(_not_numbers(group.runs, analysis))
            if where:
                why = f"left out where it was no number, because {analysis.no_number}"
                yield f"{group.label}: {analysis.what} {why}: {where}"
            yield from _cut_short(analysis, group)
    for group in groups:
        yield from window_notes(group)


def _not_there_yet(run: RunData) -> Iterator[str]:
    if any(run.path.glob(f"{EARLIER_CONFIG}*.json")):
        kept = f"config.json holds the last ones ({EARLIER_CONFIG}….json)"
        yield f"settings were changed on the way, {kept}"
    episode = "finished episode while collecting"
    for kind, metric in (("evaluation", tags.EVAL_RETURN), (episode, tags.COLLECT_RETURN)):
        games = [game for game in run.games if not len(run.series(tags.of_game(metric, game)))]
        if games:
            yield f"no {kind} yet of {', '.join(games)} ({metric}/…)"
    for kind, prefix in (("update", tags.LEARN), ("health numbers", tags.HEALTH)):
        if not run.tags(prefix) and not (prefix == tags.HEALTH and is_ppo(run.fields)):
            yield f"no {kind} yet ({prefix}…)"


def _not_complete(run: RunData) -> Iterator[str]:
    games: dict[str, None] = {}
    for game in run.games:
        for step in run.series(tags.of_game(tags.EVAL_RETURN, game)).env_step:
            if not len(run.episode_scores(game, step)):
                games[game] = None
    if games:
        without = f"without the scores of their episodes ({tags.EVAL_SCORES}/…)"
        yield f"evaluations of {', '.join(games)} {without}"
    for tag in run.scalars:
        count = run.not_numbers(tag)
        if count and not tag.startswith((tags.CONFLICT, tags.EXPERTS, tags.PLASTICITY)):
            yield f"{tag} was no number {count} time(s), which are left out"


def _lacking(analysis: Analysis, groups: Sequence[Group]) -> Iterator[tuple[str, str]]:
    """Why, and which group or run has no such numbers."""
    is_anywhere = any(with_numbers(group.runs, analysis.prefix) for group in groups)
    for group in groups:
        names = [run.name for run in group.runs if not run.tags(analysis.prefix)]
        reason = analysis.why_not(group)
        if reason and len(names) == len(group.runs):
            yield reason, group.label
        elif is_anywhere:
            for name in names:
                yield f"none logged ({analysis.prefix}…)", name


def _not_numbers(runs: Sequence[RunData], analysis: Analysis) -> Iterator[str]:
    """For each kind of number how many there are and how many of them are none."""
    is_conflict = analysis.prefix == tags.CONFLICT
    prefix = tags.conflict(HEADLINE, "") if is_conflict else analysis.prefix
    bad, total = Counter[str](), Counter[str]()
    for run in runs:
        for tag, series in run.scalars.items():
            if tag.startswith(prefix):
                name = tag.removeprefix(prefix)
                if is_conflict:
                    kind = Component.parse(name).kind
                elif analysis.prefix == tags.EXPERTS:
                    kind = tags.selection_quantity(tag)
                else:
                    kind = name.partition("/layer")[0].rpartition("/")[2]
                bad[kind] += run.not_numbers(tag)
                total[kind] += len(series)
    for kind, count in sorted((+bad).items()):
        yield f"{kind} {count} of {total[kind]}"


def _cut_short(analysis: Analysis, group: Group) -> Iterator[str]:
    """Whether a seed that ended early decides what the end of training is."""
    runs = sorted(with_numbers(group.runs, analysis.prefix), key=lambda run: run.env_steps)
    if runs and runs[0].env_steps < (1 - SHARE) * runs[-1].env_steps:
        where = f"{runs[0].env_steps:,.0f} env steps, where {runs[0].name} ends"
        longest = f"{runs[-1].name} has {runs[-1].env_steps:,.0f}"
        yield f"{group.label}: tables and matrices of {analysis.what} end at {where}; {longest}"


def _unequal_lengths(group: Group) -> Iterator[str]:
    ends = []
    for game in group.games:
        series = list(group.series(tags.of_game(tags.EVAL_RETURN, game)).values())
        if len({one.env_step[-1] for one in series}) > 1:
            start, end = common_range(series)
            if start <= end:
                ends.append((f"up to {end:,.0f}", game))
            else:
                why = "its seeds have no env steps of evaluations in common"
                yield f"{group.label}: {game} not shown, {why}"
    for until, games in gather(ends).items():
        shown = f"shown {until} env steps per game, the shortest run's end"
        yield f"{group.label}: {', '.join(games)} {shown}"


def _unequal_evaluations(label: str, finals: Sequence[FinalScore]) -> Iterator[str]:
    of_steps = gather((final.env_steps, final.game) for final in finals if final.group == label)
    for steps, games in of_steps.items():
        if len(set(steps)) > 1:
            where = ", ".join(map("{:,}".format, steps))
            made = f"were made at {where} env steps per game"
            yield f"{label}: final evaluations of {', '.join(games)} {made}"


def _same_numbers(one: RunData, other: RunData) -> bool:
    """Whether two runs logged the same losses as far as both have come: no two seeds do."""
    logged = one.tags(tags.LEARN)
    if not logged or logged != other.tags(tags.LEARN):
        return False
    for tag in logged:
        first, second = one.series(tag).value, other.series(tag).value
        if not np.array_equal(first[: len(second)], second[: len(first)]):
            return False
    return True
