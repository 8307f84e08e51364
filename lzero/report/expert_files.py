"""Analyses of checkpoints' experts that lie in the folders of runs: numbers, and whether seeds agree.

The analyses themselves are made by ``python -m lzero.entry.analyse_experts``. Experts are numbered as
it happens, so nothing here is a mean over seeds but what does not depend on numbers.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import isnan, nan

import numpy as np

from lzero.analysis.expert_analysis import (
    ANALYSIS_FILE,
    ROUTED,
    SHARED,
    TOTAL,
    ExpertAnalysis,
    expert_name,
)
from lzero.analysis.specialisation import NullTest, match_experts, matching_null
from lzero.report.forest import Estimate
from lzero.report.last_part import Part
from lzero.report.matrices import Block, Matrix
from lzero.report.run_data import ANALYSE, Group, RunData
from lzero.report.study import Study, rows_once_per_study
from lzero.report.tables import Row
from lzero.report.turns import is_ppo

ANALYSIS_COLUMNS = (
    *("group", "seed", "checkpoint", "env_step", "layer", "part", "game", "quantity"),
    *("value", "low", "high", "null_mean", "null_low", "null_high", "p_value"),
)
MATCHING_COLUMNS = (
    *("group", "first", "second", "layer", "num_games", "similarity"),
    *("null_mean", "null_high", "p_value", "experts"),
)
INFORMATION, SHARE_OF_LARGEST = "mutual_information", "mutual_information_share"
ENTROPY, EFFECTIVE, SELECTIONS = "entropy", "effective_experts", "share_of_selections"
RETURN_CHANGE = "return_change"
MATCHINGS = 500  # namings of the games at random behind a p-value
MATCHING_SEED = 0  # a report can be repeated
ALL, SHARED_TITLE = "all", "shared"  # columns of a picture beside the experts' numbers


def analysed(group: Group) -> list[tuple[RunData, ExpertAnalysis]]:
    """Runs of a group that have an analysis."""
    found = []
    for run in group.runs:
        if run.expert_analysis is not None:
            found.append((run, run.expert_analysis))
    return found


def can_be_analysed(study: Study) -> bool:
    """Whether any group has what an analysis looks at."""
    return any(map(_has_routed_experts, study.groups))


def _has_routed_experts(group: Group) -> bool:
    fields = group.fields
    enabled, experts = fields.get("model.moe.enabled"), fields.get("model.moe.num_experts")
    return bool(enabled and experts) and not is_ppo(fields)


def analysis_notes(study: Study) -> Iterator[str]:
    """Runs that lack an analysis which others have, and analyses of an earlier checkpoint than the last."""
    if not any(map(analysed, study.groups)):
        return  # then the pictures say so
    for group in study.groups:
        if not _has_routed_experts(group):
            continue
        for run in group.runs:
            analysis = run.expert_analysis
            if analysis is None:
                yield f"{run.name} has no {ANALYSIS_FILE}: type {ANALYSE} {run.name}"
            elif analysis.env_steps < run.env_steps:
                when = f"{analysis.env_steps:,} of {run.env_steps:,.0f} env steps per game"
                yield f"{run.name}: its experts were analysed after {when} ({analysis.checkpoint})"


@rows_once_per_study
def analysis_rows(study: Study) -> Iterator[Row]:
    """Every number of every analysis, under ``ANALYSIS_COLUMNS``; NaN where nothing is known."""
    for group in study.groups:
        for run, analysis in analysed(group):
            unknown: Row = dict.fromkeys(ANALYSIS_COLUMNS, nan)
            where = {"group": group.label, "seed": run.name, "checkpoint": analysis.checkpoint}
            where = unknown | {"env_step": analysis.env_steps, "part": "", "game": ""} | where
            for row in (*_selection_rows(analysis), *_change_rows(analysis)):
                yield where | row


def _selection_rows(analysis: ExpertAnalysis) -> Iterator[Row]:
    for number, layer in analysis.layers.items():
        place: Row = {"layer": number}
        yield place | {"quantity": INFORMATION} | _tested(layer.information, ())
        yield place | {"quantity": SHARE_OF_LARGEST, "value": layer.share_of_largest}
        effective = layer.effective_experts.tolist()
        for task, game in enumerate(analysis.games):
            of_game = place | {"game": game}
            yield of_game | {"quantity": ENTROPY} | _tested(layer.entropy, task)
            yield of_game | {"quantity": EFFECTIVE, "value": effective[task]}
            shares = layer.counts[task] / layer.counts[task].sum()
            for expert, share in enumerate(shares.tolist()):
                part = {"part": expert_name(expert), "quantity": SELECTIONS, "value": share}
                yield of_game | part


def _change_rows(analysis: ExpertAnalysis) -> Iterator[Row]:
    for ablation in analysis.ablations:
        for task, game in enumerate(analysis.games):
            place = {"layer": ablation.layer, "part": ablation.part, "game": game}
            for number, term in enumerate(analysis.terms):
                ends = ablation.loss[:, number, task].tolist()
                change = dict(zip(("value", "low", "high"), ends, strict=True))
                yield place | {"quantity": f"loss_change_{term}"} | change
            if ablation.returns is not None:
                ends = ablation.returns[:, task].tolist()
                change = dict(zip(("value", "low", "high"), ends, strict=True))
                yield place | {"quantity": RETURN_CHANGE} | change


def _tested(test: NullTest, place: int | tuple[()]) -> Row:
    """A test of single numbers, or that of one of several."""
    low, _, high = np.moveaxis(test.quantiles, 0, -1)[place].tolist()
    return {
        "value": float(test.observed[place]),
        "null_mean": float(test.mean[place]),
        **{"null_low": low, "null_high": high},
        "p_value": float(test.p_value[place]),
    }


@rows_once_per_study
def matching_rows(study: Study) -> Iterator[Row]:
    """How alike two seeds use their experts after these are paired, under ``MATCHING_COLUMNS``: every pair of seeds of a
    group, layer by layer.
    """
    for group in study.groups:
        for (one, first), (other, second) in combinations(analysed(group), 2):
            for layer in first.layers:
                counts = first.layers[layer].counts, second.layers[layer].counts
                rng = np.random.default_rng(MATCHING_SEED)
                test = matching_null(*counts, permutations=MATCHINGS, rng=rng)
                experts = match_experts(*counts).permutation.tolist()
                yield {
                    **{"group": group.label, "first": one.name, "second": other.name},
                    **{"layer": layer, "num_games": len(first.games)},
                    "similarity": float(test.observed),
                    "null_mean": float(test.mean),
                    "null_high": float(test.quantiles[-1]),
                    "p_value": float(test.p_value),
                    "experts": " ".join(map(str, experts)),
                }


def information_estimates(study: Study) -> list[Estimate]:
    """Mutual information of every analysed run and layer, with the range of chance as its ends."""
    found = []
    for group in study.groups:
        for run, analysis in analysed(group):
            for number, layer in analysis.layers.items():
                test = layer.information
                if isnan(test.observed):
                    continue  # of one game there is nothing to tell
                low, _, high = test.quantiles.tolist()
                place = (f"layer {number}", run.path.name, group.label)
                found.append(Estimate(*place, float(test.observed), low, high, "nats"))
    return found


def ablation_blocks(study: Study) -> list[Block]:
    """Change of the total loss without each expert, games × experts, of one seed of each group."""
    matrices = []
    for group in study.groups:
        for run, analysis in analysed(group)[:1]:
            for number in analysis.layers:
                title = ", ".join((group.label, run.path.name, f"layer {number}"))
                names, columns = _total_changes(analysis, number)
                games = tuple(map(study.task_title, group.tasks))
                part = Part(analysis.env_steps, analysis.env_steps)
                place = (title, group.label, (run.name,), ANALYSIS_FILE, games, names)
                matrices.append(Matrix(*place, np.stack(columns, axis=1), part))
    return [Block("Change of the total loss", matrices)] if matrices else []


def _total_changes(
    analysis: ExpertAnalysis, layer: int
) -> tuple[tuple[str, ...], Sequence[np.ndarray]]:
    """What was off in a layer, in the words of a picture, and the changes of all games ``(T,)`` for each."""
    names, columns = [], []
    titles = {ROUTED: ALL, SHARED: SHARED_TITLE}
    for ablation in analysis.ablations:
        if ablation.layer == layer:
            names.append(titles.get(ablation.part, ablation.part.rpartition("_")[2]))
            columns.append(ablation.loss[0, analysis.terms.index(TOTAL)])
    return tuple(names), columns
