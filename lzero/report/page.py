"""The report as one HTML page: pictures within it, no scripts; videos lie beside it unless they are embedded."""

import base64
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lzero.report.analysis_tables import conflict_rows, expert_rows, is_one_of_several_layers
from lzero.report.blocks import (
    Block,
    Figure,
    Film,
    Folded,
    Items,
    Link,
    Page,
    Paragraph,
    Part,
    Table,
)
from lzero.report.components import HEADLINE
from lzero.report.difference_tables import conflict_difference_table, expert_difference_table
from lzero.report.headline import headline_sentences
from lzero.report.noise import noise_tables
from lzero.report.page_tables import (
    comparison_tables,
    continual_table,
    expert_analysis_tables,
    headline_table,
)
from lzero.report.panels import meaning
from lzero.report.pictures import Drawn, Picture, Section
from lzero.report.resources import resource_tables
from lzero.report.run_data import ABSENT, RunData, differing_fields
from lzero.report.statistics import LEVEL
from lzero.report.study import Study
from lzero.report.tables import final_cells, final_intervals, interval, number
from lzero.report.turns import clock_steps, is_continual
from lzero.report.windows import shown_window

if TYPE_CHECKING:
    from jinja2 import Template

STYLE_FILE = Path(__file__).with_name("page.css")
TEMPLATE_FILE = Path(__file__).with_name("page.html.jinja")
RUNS, FINAL, NOTES = "Runs", "Final evaluation", "What is missing and must be known"
RESOURCES, VIDEOS = "What it took, and where it ran", "Videos"
MOST_IN_TITLE = 3  # experiments: more names are no title
SIGNS = (
    "Differences are written A − B everywhere: positive where the first experiment has more. "
    "Intervals and verdicts are of that difference."
)


def page(
    study: Study,
    drawn: Sequence[tuple[Picture, Drawn]],
    notes: Sequence[str],
    films: Sequence[Film] = (),
) -> str:
    """The whole page of a study, its pictures, notes and videos; always the same for the same
    arguments.
    """
    runs = sum(len(group.runs) for group in study.groups)
    games = ", ".join(map(study.task_title, study.tasks))
    groups = f"{len(study.groups)} experiments" if len(study.groups) > 1 else "one experiment"
    signs = [SIGNS] if len(study.groups) > 1 else []
    return rendered(
        Page(
            f"{_title(study.labels)}: report",
            f"{runs} run{'s' if runs > 1 else ''} of {groups} on {games}.",
            [*headline_sentences(study), *signs],
            list(_parts(study, drawn, notes, films)),
            STYLE_FILE.read_text(encoding="utf-8"),
        )
    )


def _title(labels: Sequence[str]) -> str:
    """Of a few experiments their names."""
    return (
        " against ".join(labels) if len(labels) <= MOST_IN_TITLE else f"{len(labels)} experiments"
    )


def rendered(page: Page) -> str:
    """HTML of a page, with everything escaped."""
    return _template().render(page=page)


@cache
def _template() -> "Template":
    from jinja2 import Environment  # takes longer to import than the help may take

    environment = Environment(autoescape=True, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE_FILE.read_text(encoding="utf-8"))


def _parts(
    study: Study,
    drawn: Sequence[tuple[Picture, Drawn]],
    notes: Sequence[str],
    films: Sequence[Film],
) -> Iterator[Part]:
    """Sections that have something to show, from above."""
    blocks: dict[str, list[Block]] = {Section.COMPARISON: [*headline_table(study)]}
    blocks[Section.COMPARISON] += comparison_tables(study)
    blocks |= {FINAL: _final(study), RUNS: _runs(study)}
    for section in Section:
        blocks.setdefault(section, [])
    blocks[Section.CONTINUAL] += continual_table(study)
    blocks[Section.CONFLICT] += conflict_difference_table(study)
    blocks[Section.CONFLICT] += [*_conflict_tables(study), *noise_tables(study)]
    blocks[Section.EXPERTS] += [*expert_difference_table(study), *_expert_table(study)]
    blocks[Section.EXPERTS] += expert_analysis_tables(study)
    links: dict[str, list[Link]] = {}
    for picture, content in drawn:
        blocks[picture.section].append(_figure(picture, content))
        links.setdefault(picture.section, []).append(Link(picture.name, picture.title))
    blocks[VIDEOS] = list(films)
    blocks[RESOURCES] = list(resource_tables(study))
    blocks[NOTES] = [Items(notes) if notes else Paragraph("Nothing is missing.")]
    for name, of_part in blocks.items():
        if of_part:
            yield Part(name, of_part, links.get(name, []))


def _runs(study: Study) -> list[Block]:
    rows = []
    for group in study.groups:
        for run in group.runs:
            asked = _value(run.fields, "train.max_env_steps")
            if is_continual(run.fields):
                asked = f"{clock_steps(run.fields):,} of all games"
            rows.append((group.label, run.name, f"{run.env_steps:,.0f}", asked))
    found: list[Block] = [
        Table(("experiment", "run", "env steps per game", "asked for"), rows, texts=2)
    ]
    differing = differing_fields(study.groups)
    if differing:
        head = ("config", *study.labels)
        values = []
        for name in differing:
            values.append([name, *[_value(group.fields, name) for group in study.groups]])
        caption = "In what the experiments differ"
        found.append(Table(head, values, texts=len(head), caption=caption))
    for group in study.groups:
        fields = [(name, _value(group.fields, name)) for name in sorted(group.fields)]
        inner = Table(("config", "value"), fields, texts=2)
        found.append(Folded(f"Config of {group.label}, as far as its runs share it", inner))
    return found


def _final(study: Study) -> list[Block]:
    rows: list[Sequence[str]] = []
    for game, groups, known in final_cells(study):
        for cells in (*groups, *known):
            rows.append((game, *cells, *[""] * (6 - len(cells))))
    head = ("return", "interval", "× random", "seeds", "env steps per game")
    caption = f"Mean over seeds of the last evaluation. {final_intervals(study)}."
    names = ("game", "experiment or known score")
    return [Table((*names, *head), rows, texts=2, caption=caption)]


def _figure(picture: Picture, content: Drawn) -> Figure:
    width, height = struct.unpack(">II", content.png[16:24])
    data = base64.b64encode(content.png).decode("ascii")
    source = f"data:image/png;base64,{data}"
    return Figure(picture.name, picture.title, source, width, height, content.text)


def _conflict_tables(study: Study) -> list[Block]:
    """The headline's numbers; single layers are folded away where there are means over layers."""
    cells: dict[str, dict[str, str]] = {}
    groups: dict[str, str] = {}
    by_measure: dict[tuple[str, str, str], float] = {}
    rows = [row for row in conflict_rows(study) if row["group"] in study.labels]
    for row in rows:
        by_measure[row["measure"], row["group"], row["component"]] = row["mean"]
    for row in rows:
        if row["measure"] == HEADLINE:
            ends = "" if isnan(row["low"]) else f" ({row['low']:z.3f} … {row['high']:z.3f})"
            cell = "–" if isnan(row["mean"]) else f"{row['mean']:z.3f}{ends}"
            where = (row["group"], row["component"])
            pairs, null = (by_measure.get((name, *where), nan) for name in ("pairs", "null"))
            if not isnan(null):  # the largest of many is large by chance
                cell += f"; chance {null:z.3f}, {pairs:.3g} pairs"
            cells.setdefault(row["component"], {})[row["group"]] = cell
            groups[row["group"]] = ""
    if not cells:
        return []
    lines: list[Sequence[str]] = []
    folded: list[Sequence[str]] = []
    for component, of_groups in cells.items():
        is_folded = is_one_of_several_layers(component, cells)
        (folded if is_folded else lines).append((component, *(groups | of_groups).values()))
    caption = (
        "Largest conflict between two games in the last fifth of training, mean over seeds "
        f"({LEVEL} bootstrap interval over seeds); behind it the mean to be expected of unrelated "
        "gradients, and the number of pairs. Compare components of equally many pairs only; the "
        "difference between shared and routed experts is of the same pairs. More in "
        "conflict_final.csv."
    )
    found: list[Block] = [Table(("component", *groups), lines, caption=caption)]
    if folded:
        found.append(Folded("Every layer by itself", Table(("component", *groups), folded)))
    return found


def _expert_table(study: Study) -> list[Block]:
    rows: list[Sequence[str]] = []
    runs: list[RunData] = []
    for group in study.groups:
        runs += group.runs
    window = shown_window(runs)
    for row in expert_rows(study):
        if f"/{window}" in row["metric"]:
            parts = map(number, (row["first_fifth"], row["last_fifth"], row["change"]))
            ends = interval(row["change_low"], row["change_high"])
            names = (row["group"], meaning(row["metric"]), row["game"] or "all")
            rows.append((*names, *parts, ends))
    caption = (
        "Expert selection in the first and the last fifth of training, mean over layers and seeds "
        f"({LEVEL} bootstrap interval over seeds). More in expert_final.csv."
    )
    parts_head = ("first fifth", "last fifth", "change", "interval of the change")
    head = ("experiment", f"{window} window", "game", *parts_head)
    return [Table(head, rows, texts=3, caption=caption)] if rows else []


def _value(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, ABSENT)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if type(value) is int else str(value)
