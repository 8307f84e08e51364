"""Tables of a report: points of all curves, final scores, and files of comma-separated values."""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from lzero.report.pictures import LEVEL
from lzero.report.statistics import RANDOM
from lzero.report.study import Study

CURVE_COLUMNS = (
    *("group", "seeds", "domain", "game", "metric"),
    *("env_step", "mean", "low", "high", "num_seeds", "interval"),
)


def curve_rows(study: Study) -> Iterator[dict[str, Any]]:
    """Every point of every curve, under ``CURVE_COLUMNS``; NaN where something is not known."""
    for curve in study.curves:
        names = (curve.group, " ".join(curve.seeds), curve.domain, curve.game, curve.metric)
        for point in zip(curve.env_step, curve.mean, curve.low, curve.high, strict=True):
            values = (*names, *map(float, point), len(curve.seeds), curve.interval)
            yield dict(zip(CURVE_COLUMNS, values, strict=True))


def final_rows(study: Study) -> Iterator[dict[str, Any]]:
    """Final score of every group and game beside the domain's reference scores; NaN where something is not known."""
    for final in study.finals:
        references = dict(study.references[final.domain, final.game])
        random = references.pop(RANDOM, math.nan)
        yield {
            "group": final.group,
            "seeds": " ".join(final.seeds),
            "domain": final.domain,
            "game": final.game,
            "env_step": " ".join(map(str, sorted(set(final.env_steps)))),
            "mean": final.mean,
            "low": final.low,
            "high": final.high,
            "num_seeds": len(final.seeds),
            "episodes": final.episodes,
            "interval": final.interval,
            "random": random,
            "ratio_to_random": final.mean / random if random > 0 else math.nan,
            "above_random": "" if math.isnan(final.low - random) else "yes" if final.low > random else "no",
            "published": "; ".join(f"{label} {score:g}" for label, score in references.items()),
        }


def final_table(study: Study) -> Table:
    """Final scores for a terminal: a section for each game, its groups above its reference scores."""
    rows = list(final_rows(study))
    table = Table(title="final evaluation, mean over seeds", box=SIMPLE, title_justify="left", caption_justify="left")
    table.caption = f"{LEVEL} intervals: {'; '.join(dict.fromkeys(row['interval'] for row in rows))}"
    table.add_column("", overflow="fold")
    for column in ("return", "interval", "x random", "seeds", "env steps"):
        table.add_column(column, justify="right", no_wrap=True)
    for task, references in study.references.items():
        table.add_section()
        table.add_row(Text(study.task_title(task), style="bold"))
        for row in rows:
            if (row["domain"], row["game"]) == task:
                counts = (number(row["ratio_to_random"]), str(row["num_seeds"]), row["env_step"].replace(" ", ", "))
                table.add_row(Text(row["group"]), number(row["mean"]), interval(row["low"], row["high"]), *counts)
        for label, score in references.items():
            table.add_row(Text(label), number(score), style="dim")
    return table


def number(value: float) -> str:
    """Four digits for a reader; a dash for what is not known."""
    return "–" if math.isnan(value) else f"{value:.4g}"


def interval(low: float, high: float) -> str:
    """Both ends for a reader; a dash for what is not known."""
    return "–" if math.isnan(low) else f"{low:.4g} … {high:.4g}"


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """An unknown number becomes an empty cell."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            unknown = {name: "" for name, value in row.items() if isinstance(value, float) and math.isnan(value)}
            writer.writerow(row | unknown)
