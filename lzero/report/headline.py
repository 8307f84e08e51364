"""Who is ahead, by how much, and how sure that is: every pair of experiments that share games.

The number compared is, of every run, the interquartile mean of its final scores over the games that
both experiments play: a single game with large scores does not decide it. The verdict is Student's:
bootstraps of a handful of seeds are too narrow. Differences are first − second.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import isnan, nan

import numpy as np

from lzero.report import aggregates
from lzero.report.comparison import Compared, aggregate_rows, compared_pair
from lzero.report.paired import pair_seeds
from lzero.report.statistics import CONFIDENCE, LEVEL
from lzero.report.student import (
    CANNOT_TELL,
    Difference,
    holm,
    paired_difference,
    unpaired_difference,
)
from lzero.report.study import Study, rows_once_per_study
from lzero.report.tables import Row, interval, number

HEADLINE_COLUMNS = (
    *("first", "second", "games", "num_games", "scale", "first_iqm", "second_iqm"),
    *("difference", "low", "high", "p_value", "p_holm", "detectable", "interval"),
    *("bootstrap_low", "bootstrap_high", "probability", "probability_low", "probability_high"),
    *("seeds", "num_first", "num_second", "verdict"),
)
AHEAD = "ahead"
MOST_NAMES = 6  # games or seeds that a sentence names; more are counted
MOST_SENTENCES = 5  # about pairs at the top of the page; all are in the table
FILE = "headline.csv"


@rows_once_per_study
def headline_rows(study: Study) -> Iterator[Row]:
    """Every pair of experiments with a game in common and final scores, under
    ``HEADLINE_COLUMNS``; who leads stands first.
    """
    rows = []
    for first, second in combinations(study.groups, 2):
        compared = compared_pair(study, first, second)
        if compared is not None:
            rows.append(_row(compared))
    p_values = holm(np.array([row["p_value"] for row in rows], float))
    for row, p_holm in zip(rows, p_values.tolist(), strict=True):
        row["p_holm"] = p_holm
        is_told = not isnan(row["low"]) and row["low"] > 0 and p_holm < 1 - CONFIDENCE
        row["verdict"] = f"{row['first']} {AHEAD}" if is_told else CANNOT_TELL
        yield row


def headline_sentences(study: Study) -> list[str]:
    """What the top of the page says."""
    rows = headline_rows(study)
    if not rows:
        return _without_a_pair(study)
    told = [row for row in rows if row["verdict"] != CANNOT_TELL]
    others = [row for row in rows if row["verdict"] == CANNOT_TELL]
    sentences = [_told(row) for row in told] + [_not_told(row, len(rows)) for row in others]
    if len(sentences) > MOST_SENTENCES:
        hidden = len(sentences) - MOST_SENTENCES
        sentences = [*sentences[:MOST_SENTENCES], f"{hidden} more pairs: see the table below."]
    return sentences


def named(names: Sequence[str], what: str) -> str:
    """A few names, or how many there are."""
    if len(names) > MOST_NAMES:
        return f"{len(names)} {what}s"
    return f"{what}{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _row(compared: Compared) -> Row:
    """Without the adjustment and the verdict; the leading experiment is the first."""
    difference, seeds = _difference(compared)
    if difference.mean < 0:
        compared = compared.turned()
        difference, seeds = _difference(compared)
    ours, theirs = compared.scores
    ends = chances = (nan, nan)
    if min(len(ours), len(theirs)) > 1:
        ends = aggregates.difference_interval(ours, theirs)
        chances = aggregates.improvement_interval(ours, theirs)
    return {
        **{"first": compared.labels[0], "second": compared.labels[1]},
        **{"games": " ".join(compared.games), "num_games": len(compared.games)},
        **{"scale": compared.scale.name},
        **{"first_iqm": difference.first, "second_iqm": difference.second},
        **{"difference": difference.mean, "low": difference.low, "high": difference.high},
        **{"p_value": difference.p_value, "detectable": difference.detectable},
        **{"interval": difference.interval},
        **{"bootstrap_low": ends[0], "bootstrap_high": ends[1]},
        "probability": aggregates.probability_of_improvement(ours, theirs),
        **{"probability_low": chances[0], "probability_high": chances[1]},
        **{"seeds": seeds, "num_first": difference.num_first, "num_second": difference.num_second},
    }


def _difference(compared: Compared) -> tuple[Difference, str]:
    """Seed by seed where both have them, and which seeds those are."""
    ours, theirs = compared.by_run(aggregates.IQM)
    pairs, _ = pair_seeds(*compared.groups)
    both = {}
    for seed, (one, other) in pairs.items():
        if one.name in ours and other.name in theirs:
            both[str(seed)] = (ours[one.name], theirs[other.name])
    if len(both) == len(ours) == len(theirs):
        first, second = np.array([*both.values()], float).T
        return paired_difference(first, second), " ".join(both)
    values = (np.array([*part.values()], float) for part in (ours, theirs))
    return unpaired_difference(*values), " ".join((*ours, *theirs))


def _told(row: Row) -> str:
    return (
        f"{row['first']} is ahead of {row['second']} by {number(row['difference'])} "
        f"on the scale “{row['scale']}” ({LEVEL} interval {interval(row['low'], row['high'])}; {_of_what(row)})."
    )


def _not_told(row: Row, pairs: int) -> str:
    start = f"Cannot tell whether {row['first']} or {row['second']} is ahead:"
    measured = f"{row['first']} − {row['second']} = {number(row['difference'])}"
    what = f"scale “{row['scale']}”, {_of_what(row)}"
    if isnan(row["low"]):
        reason = row["interval"].removeprefix("none: ")
        return f"{start} {measured}, without an interval ({reason}; {what})."
    ends = f"{LEVEL} interval {interval(row['low'], row['high'])}"
    if row["low"] > 0:
        why = f"which excludes 0, as one of {pairs} comparisons may by chance (p after Holm {number(row['p_holm'])})"
    else:
        why = f"which contains 0; so many seeds would show {number(row['detectable'])} in four of five studies"
    return f"{start} {measured}, {ends}, {why} ({what})."


def _of_what(row: Row) -> str:
    games = named(row["games"].split(" "), "game")
    iqm = f"IQM over {games}" if row["num_games"] > 1 else games
    if row["seeds"].replace(" ", "").isdigit() and row["num_first"] == row["num_second"]:
        return f"{iqm}; {named(row['seeds'].split(' '), 'seed')} of each"
    return f"{iqm}; {row['num_first']} and {row['num_second']} seeds"


def _without_a_pair(study: Study) -> list[str]:
    """One experiment, or several that share no game or have no scores."""
    sentences = []
    for row in aggregate_rows(study):
        if row["aggregate"] == aggregates.IQM:
            ends = (
                ""
                if isnan(row["low"])
                else f" ({LEVEL} interval {interval(row['low'], row['high'])})"
            )
            games = named(row["games"].split(" "), "game")
            seeds = f"{row['num_seeds']} seed{'s' if row['num_seeds'] > 1 else ''}"
            sentences.append(
                f"{row['group']}: {number(row['value'])} on the scale “{row['scale']}”{ends}, IQM over {games}, {seeds}."
            )
    if len(study.groups) == 1:
        return [*sentences, "One experiment: there is nothing to be ahead of."]
    why = "no two experiments have final scores of a common game"
    return [*sentences[:MOST_SENTENCES], f"Who is ahead cannot be told: {why}."]
