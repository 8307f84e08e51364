"""Which runs lack an analysis, and why: a sentence for each reason, not one for each number."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lzero.report.components import CONFLICT, EXPERTS, HEADLINE, Component
from lzero.report.last_part import SHARE, with_numbers
from lzero.report.run_data import Group, RunData


@dataclass(frozen=True)
class Analysis:
    """A kind of numbers that a run may have.

    Attributes:
        what: its name.
        prefix: of its tags.
        no_number: what it means where one of them is no number.
        why_not: why a group cannot have it, by its config; None if it could.
    """

    what: str
    prefix: str
    no_number: str
    why_not: Callable[[Group], str | None]


def no_conflict(group: Group) -> str | None:
    """Why there is no gradient conflict."""
    if len(group.games) < 2:
        return "one game has no other to be in conflict with"
    if any(run.fields.get("policy.gradient_conflict_interval") == 0 for run in group.runs):
        return "switched off (policy.gradient_conflict_interval is 0)"
    return None


def no_experts(group: Group) -> str | None:
    """Why there is no expert selection."""
    if group.fields.get("model.moe.enabled") is False:
        return "the feed-forward is a dense MLP (model.moe.enabled is false)"
    if group.fields.get("model.moe.num_experts") == 0:
        return "there are no routed experts (model.moe.num_experts is 0)"
    if any(run.fields.get("train.moe_log_interval") == 0 for run in group.runs):
        return "switched off (train.moe_log_interval is 0)"
    return None


ANALYSES = (
    Analysis("gradient conflict", CONFLICT, "fewer than two games had a gradient there", no_conflict),
    Analysis("expert selection", EXPERTS, "there was nothing to count", no_experts),
    Analysis("plasticity numbers", "plasticity/", "there was nothing to measure", lambda _: None),
)
PREFIXES = tuple(analysis.prefix for analysis in ANALYSES)


def analysis_notes(groups: Sequence[Group]) -> Iterator[str]:
    """What the groups lack of each analysis; an analysis that no run has, and any could, is not mentioned."""
    for analysis in ANALYSES:
        has_it = {run.name: bool(run.tags(analysis.prefix)) for group in groups for run in group.runs}
        lacking: defaultdict[str, list[str]] = defaultdict(list)
        for group in groups:
            names = [run.name for run in group.runs if not has_it[run.name]]
            if len(names) == len(group.runs) and (reason := analysis.why_not(group)):
                lacking[reason].append(group.label)
            elif names and any(has_it.values()):
                lacking[f"none logged ({analysis.prefix}…)"] += names
        yield from (f"no {analysis.what} of {', '.join(names)}: {reason}" for reason, names in lacking.items())
        for group in groups:
            if where := ", ".join(_not_numbers(group.runs, analysis.prefix)):
                why = f"left out where it was no number, because {analysis.no_number}"
                yield f"{group.label}: {analysis.what} {why}: {where}"
            yield from _cut_short(analysis, group)


def _cut_short(analysis: Analysis, group: Group) -> Iterator[str]:
    """Whether a seed that ended early decides what the end of training is."""
    runs = sorted(with_numbers(group.runs, analysis.prefix), key=lambda run: run.env_steps)
    if runs and runs[0].env_steps < (1 - SHARE) * runs[-1].env_steps:
        yield (
            f"{group.label}: tables and matrices of {analysis.what} end at {runs[0].env_steps:,.0f} env steps, where "
            f"{runs[0].name} ends; {runs[-1].name} has {runs[-1].env_steps:,.0f}"
        )


def _not_numbers(runs: Sequence[RunData], prefix: str) -> Iterator[str]:
    """For each kind of number how many there are and how many of them are none; of a conflict its headline alone."""
    bad: defaultdict[str, int] = defaultdict(int)
    total: defaultdict[str, int] = defaultdict(int)
    for run in runs:
        for tag, series in run.scalars.items():
            if tag.startswith(f"{prefix}{HEADLINE}_" if prefix == CONFLICT else prefix):
                kind = _kind(tag)
                bad[kind] += run.not_numbers(tag)
                total[kind] += len(series)
    yield from (f"{kind} {bad[kind]} of {total[kind]}" for kind in sorted(bad) if bad[kind])


def _kind(tag: str) -> str:
    if tag.startswith(CONFLICT):
        return Component.parse(tag.removeprefix(f"{CONFLICT}{HEADLINE}_")).kind
    name, _, _ = tag.partition("/layer")
    return name.rpartition("/")[2]
