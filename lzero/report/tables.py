"""Tables of a report: points of all curves, final scores, and files of comma-separated values."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from lzero.report.statistics import LEVEL, RANDOM
from lzero.report.study import Study

CURVE_COLUMNS = (
    *("group", "seeds", "domain", "game", "metric"),
    *("env_step", "mean", "low", "high", "num_seeds", "interval"),
)
FINAL_COLUMNS = (
    *("group", "seeds", "domain", "game", "env_step", "mean", "low", "high", "num_seeds"),
    *("episodes", "interval", "random", "ratio_to_random", "above_random", "published"),
)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""With which spreadsheets begin to compute what a cell says, or skip to what does (OWASP)."""
LARGE, HUGE = 1e3, 1e9  # between which numbers are easier to read without an exponent
Row = dict[str, Any]
Cells = tuple[str, ...]


def curve_rows(study: Study) -> Iterator[Row]:
    """Every point of every curve, under ``CURVE_COLUMNS``; NaN where something is not known."""
    for curve in study.curves:
        names = (curve.group, " ".join(curve.seeds), curve.domain, curve.game, curve.metric)
        for point in zip(curve.env_step, curve.mean, curve.low, curve.high, strict=True):
            values = (*names, *map(float, point), len(curve.seeds), curve.interval)
            yield dict(zip(CURVE_COLUMNS, values, strict=True))


def final_rows(study: Study) -> Iterator[Row]:
    """Final scores beside the known ones, at least ``FINAL_COLUMNS``; NaN where not known."""
    for final in study.finals:
        references = dict(study.references[final.domain, final.game])
        random = references.pop(RANDOM, nan)
        lead = final.low - random
        yield vars(final) | {
            "seeds": " ".join(final.seeds),
            "env_step": " ".join(map(str, sorted(set(final.env_steps)))),
            "num_seeds": len(final.seeds),
            "random": random,
            "ratio_to_random": final.mean / random if random > 0 else nan,
            "above_random": "" if isnan(lead) else "yes" if lead > 0 else "no",
            "published": "; ".join(f"{label} {score:g}" for label, score in references.items()),
        }


def final_cells(study: Study) -> Iterator[tuple[str, list[Cells], list[Cells]]]:
    """Final scores for a reader: title of each game, cells of its groups and of known scores."""
    rows = list(final_rows(study))
    for task, references in study.references.items():
        groups: list[Cells] = []
        for row in rows:
            if (row["domain"], row["game"]) == task:
                ends = interval(row["low"], row["high"])
                counts = (str(row["num_seeds"]), row["env_step"].replace(" ", ", "))
                ratio = number(row["ratio_to_random"])
                groups.append((row["group"], number(row["mean"]), ends, ratio, *counts))
        known: list[Cells] = []
        for label, score in references.items():
            known.append((label, number(score)))
        yield study.task_title(task), groups, known


def final_intervals(study: Study) -> str:
    """How the intervals of the final scores were made."""
    ways = dict.fromkeys(final.interval for final in study.finals)
    return f"{LEVEL} intervals: {'; '.join(ways)}"


def final_table(study: Study) -> Table:
    """Final scores for a terminal: a section for each game, its groups above its known scores."""
    title = "final evaluation, mean over seeds"
    table = Table(title=title, box=SIMPLE, title_justify="left", caption_justify="left")
    table.caption = final_intervals(study)
    table.add_column("", overflow="fold")
    for column in ("return", "interval", "x random", "seeds", "env steps"):
        table.add_column(column, justify="right", no_wrap=True)
    for game, groups, known in final_cells(study):
        table.add_section()
        table.add_row(Text(game, style="bold"))
        for label, *numbers in groups:
            table.add_row(Text(label), *numbers)
        for label, score in known:
            table.add_row(Text(label), score, style="dim")
    return table


def number(value: float) -> str:
    """Four digits for a reader, whole numbers from 1,000 on; a dash for what is not known."""
    if isnan(value):
        return "–"
    is_large = LARGE <= abs(value) < HUGE
    return f"{value:,.0f}" if is_large else f"{value:.4g}"


def interval(low: float, high: float) -> str:
    """Both ends for a reader; a dash for what is not known."""
    return "–" if isnan(low) else f"{number(low)} … {number(high)}"


def difference_label(first: str, second: str) -> str:
    """What a difference of two experiments is called: that of the first and the second, A − B."""
    return f"{first} − {second}"


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """The columns of the rows; an unknown number becomes an empty cell.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row[column]) for column in columns])


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA_STARTS) else value
    return "" if isinstance(value, float) and isnan(value) else value
