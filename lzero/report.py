"""Figures and tables of one or many runs: ``python -m lzero.report RUN [RUN …]``.

python -m lzero.report runs/breakout_s0 runs/breakout_s1
python -m lzero.report runs/moe_s* runs/dense_s* --out reports/moe_against_dense

Runs whose configs are equal apart from names, lengths and rhythms (``NOT_LEARNING`` in ``lzero/reporting/run_data.py``)
are seeds of one experiment. What a run does not have is named in the log, in the figures and in ``notes.txt``, and
never made up.
"""

import csv
import logging
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import rich
import tyro
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from lzero.logging import setup_logging
from lzero.reporting.figures import Panel, draw
from lzero.reporting.run_data import Group, RunDataError
from lzero.reporting.statistics import CONFIDENCE, MAX_BINS, OVER_EPISODES, RANDOM, RESAMPLES, Curve
from lzero.reporting.study import Study, build_study

logger = logging.getLogger(__name__)

LEVEL = f"{100 * CONFIDENCE:.0f} %"
BAND = (
    f"Line: mean over seeds. Band: {LEVEL} percentile bootstrap interval over seeds ({RESAMPLES} resamples; too narrow "
    "with few seeds)"
)
CURVE_COLUMNS = (
    *("group", "seeds", "domain", "game", "metric"),
    *("env_step", "mean", "low", "high", "num_seeds", "interval"),
)
SMOOTH = (
    f"A point is a mean over {100 / MAX_BINS:.0f} % or more of the env steps, or a logged value where there are few."
)
LINES = "Dashed: random policy. Dotted: published and other scores."
RANGE = "Shown are the env steps that all seeds of a group cover."


@dataclass(frozen=True)
class ReportCommand:
    """Draw the curves of runs, seeds of one experiment together, and write their final scores."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN …]")]
    """Folders of runs, e.g. runs/atari_cpu_moe."""
    out: Path | None = None
    """Folder of the report; the first run's own ``report`` if not given."""
    labels: tuple[str, ...] = ()
    """Names of the groups, in the order of their first runs; made from the runs' names if not given."""
    ignore: tuple[str, ...] = ()
    """Config fields or sections, e.g. ``device``, in which seeds of one experiment may differ too."""


@dataclass(frozen=True)
class Picture:
    """One figure of the report.

    Attributes:
        name: its file without the ending.
        title: what it shows.
        y_label: of its panels, with the unit.
        caption: how its numbers were made.
        panels: makes its panels; none if the runs have nothing to show there.
        lacking: what is missing if there are none.
        line_width: of its curves, in points.
    """

    name: str
    title: str
    y_label: str
    caption: str
    panels: Callable[[Study], list[Panel]]
    lacking: str
    line_width: float = 1.8


def game_panels(study: Study, metric: str, lacking: str) -> list[Panel]:
    """A panel for each game, with the domain's reference lines; none if no run has logged ``metric``.

    Args:
        study: what is reported.
        metric: tag without the game.
        lacking: what a group without the metric is said to lack.
    """
    panels = []
    for task in study.tasks:
        curves = [curve for curve in study.curves if (*task, metric) == (curve.domain, curve.game, curve.metric)]
        seeds = {curve.group: len(curve.seeds) for curve in curves}
        players = [group for group in study.groups if group.domain == task[0] and task[1] in group.games]
        missing = [f"{group.label}: {lacking}" for group in players if group.label not in seeds]
        missing += [
            f"{group.label}: {seeds[group.label]} of {len(group.runs)} seeds"
            for group in players
            if 0 < seeds.get(group.label, 0) < len(group.runs)
        ]
        panels.append(Panel(study.task_title(task), curves, study.references[task], missing))
    return panels if any(panel.curves for panel in panels) else []


def tag_panels(study: Study, prefix: str) -> list[Panel]:
    """A panel for each tag that begins with ``prefix``, sorted."""
    panels: defaultdict[str, list[Curve]] = defaultdict(list)
    for curve in (curve for curve in study.curves if curve.metric.startswith(prefix)):
        game = study.task_title((curve.domain, curve.game)) if curve.game else ""
        panels["/".join(filter(None, (curve.metric.removeprefix(prefix), game)))].append(curve)
    return [Panel(title, panels[title], log_scale=True) for title in sorted(panels)]


PICTURES = (
    Picture(
        "returns",
        "Evaluation return",
        "return per episode",
        f"{BAND}; with one seed over the episodes of each evaluation if their scores were logged, else none. {RANGE} "
        f"Between its evaluations a seed is interpolated linearly. {LINES}",
        lambda study: game_panels(study, "eval_return", "no evaluation to show"),
        "no run has an evaluation yet",
    ),
    Picture(
        "collect_returns",
        "Return while collecting (search with exploration)",
        "return per episode",
        f"{BAND}; with one seed none. {SMOOTH} {RANGE} {LINES}",
        lambda study: game_panels(study, "collect_return", "no finished episode to show"),
        "no run has finished an episode while collecting",
        line_width=1.1,
    ),
    Picture(
        "learning",
        "Loss terms and gradient norm",
        "value of one update",
        f"{BAND}; with one seed none. Means over games; loss is the weighted sum of the other terms, which are not "
        f"weighted. {SMOOTH} {RANGE}",
        lambda study: tag_panels(study, "learn/"),
        "no run has logged an update (learn/…)",
    ),
    Picture(
        "health",
        "Health of learning",
        "",
        f"{BAND}; with one seed none. {SMOOTH} {RANGE}",
        lambda study: tag_panels(study, "health/"),
        "no run has logged health/… numbers",
    ),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; ``argv`` None takes the program's arguments."""
    command = tyro.cli(ReportCommand, prog="python -m lzero.report", args=argv)
    setup_logging(is_main=True)
    try:
        study = build_study(command.runs, labels=command.labels, ignore=command.ignore)
    except RunDataError as error:
        sys.exit(f"error: {error}")
    folder = command.out or command.runs[0] / "report"
    files = write_report(study, folder)
    rich.get_console().print(final_table(study))
    logger.info("wrote %s: %s", folder, ", ".join(files))


def write_report(study: Study, folder: Path) -> list[str]:
    """Write all figures and tables; a figure of an earlier report that now has nothing to show is removed.

    Returns:
        Names of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    notes, files = list(study.notes), []
    for picture in PICTURES:
        path = folder / f"{picture.name}.png"
        panels = picture.panels(study)
        if panels:
            groups = {group.label: _legend_remark(group, panels) for group in study.groups}
            texts = {"title": picture.title, "y_label": picture.y_label, "caption": picture.caption}
            draw(panels, groups, **texts, line_width=picture.line_width).savefig(path)
            files.append(path.name)
        else:
            path.unlink(missing_ok=True)
            notes.append(f"{path.name} is not drawn: {picture.lacking}")
    _write_csv(folder / "curves.csv", CURVE_COLUMNS, curve_rows(study))
    finals = list(final_rows(study))
    _write_csv(folder / "final.csv", list(finals[0]), finals)
    (folder / "notes.txt").write_text("".join(f"{note}\n" for note in notes), encoding="utf-8")
    for note in notes:
        logger.warning("%s", note)
    return [*files, "curves.csv", "final.csv", "notes.txt"]


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
                ends = "–" if math.isnan(row["low"]) else f"{row['low']:.4g} … {row['high']:.4g}"
                counts = (_cell(row["ratio_to_random"]), str(row["num_seeds"]), row["env_step"].replace(" ", ", "))
                table.add_row(Text(row["group"]), _cell(row["mean"]), ends, *counts)
        for label, score in references.items():
            table.add_row(Text(label), _cell(score), style="dim")
    return table


def _legend_remark(group: Group, panels: Sequence[Panel]) -> str:
    seeds = f"{len(group.runs)} seed{'s' if len(group.runs) > 1 else ''}"
    intervals = {curve.interval for panel in panels for curve in panel.curves if curve.group == group.label}
    return f"{seeds}, band over episodes" if OVER_EPISODES in intervals else seeds


def _cell(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """An unknown number becomes an empty cell."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            unknown = {name: "" for name, value in row.items() if isinstance(value, float) and math.isnan(value)}
            writer.writerow(row | unknown)


if __name__ == "__main__":
    main()
