"""The report as one HTML page: pictures within it, no other files, no scripts."""

import base64
import struct
from collections.abc import Mapping, Sequence
from html import escape
from math import isnan, nan
from pathlib import Path
from typing import Any

from lzero.report.analysis_tables import conflict_rows, expert_rows, is_one_of_several_layers
from lzero.report.components import HEADLINE
from lzero.report.difference_tables import conflict_difference_table, expert_difference_table
from lzero.report.noise import noise_tables
from lzero.report.page_tables import (
    comparison_tables,
    continual_table,
    expert_analysis_tables,
    table,
)
from lzero.report.panels import meaning
from lzero.report.pictures import Drawn, Picture, Section
from lzero.report.run_data import ABSENT, RunData, differing_fields
from lzero.report.statistics import LEVEL
from lzero.report.study import Study
from lzero.report.tables import final_cells, final_intervals, interval, number
from lzero.report.turns import clock_steps, is_continual
from lzero.report.windows import shown_window

STYLE_FILE = Path(__file__).with_name("page.css")
RUNS, FINAL, NOTES = "Runs", "Final evaluation", "What is missing and must be known"


def page(study: Study, drawn: Sequence[tuple[Picture, Drawn]], notes: Sequence[str]) -> str:
    """The whole page of a study, its pictures and notes; always the same for the same arguments."""
    title = escape(f"{' against '.join(study.labels)}: report")
    sections: dict[str, str] = {RUNS: _runs(study), FINAL: _final(study)}
    sections.update(dict.fromkeys(Section, ""))
    sections[Section.COMPARISON] += comparison_tables(study)
    sections[Section.CONTINUAL] += continual_table(study)
    sections[Section.CONFLICT] += conflict_difference_table(study)
    sections[Section.CONFLICT] += _conflict_tables(study) + noise_tables(study)
    sections[Section.EXPERTS] += expert_difference_table(study) + _expert_table(study)
    sections[Section.EXPERTS] += expert_analysis_tables(study)
    links = dict.fromkeys(sections, "")
    for picture, content in drawn:
        sections[picture.section] += _figure(picture, content)
        links[picture.section] += f"<li>{_link(picture.name, picture.title)}</li>"
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    sections[NOTES] = f"<ul>{items}</ul>" if notes else "<p>Nothing is missing.</p>"
    contents, parts = "", ""
    for name, html in sections.items():
        if html:
            target = f"section-{name.lower().replace(' ', '-')}"  # pictures have ids too
            inner = f"<ul>{links[name]}</ul>" if links.get(name) else ""
            contents += f"<li>{_link(target, name)}{inner}</li>"
            parts += f'<section id="{target}"><h2>{name}</h2>{html}</section>\n'
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
{STYLE_FILE.read_text(encoding="utf-8")}</style></head>
<body><header><h1>{title}</h1>{_summary(study)}</header>
<nav aria-label="Contents"><ul>{contents}</ul></nav>
<main>
{parts}</main></body></html>
"""


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _summary(study: Study) -> str:
    runs = 0
    for group in study.groups:
        runs += len(group.runs)
    games = ", ".join(map(study.task_title, study.tasks))
    groups = f"{len(study.groups)} experiments" if len(study.groups) > 1 else "one experiment"
    return f"<p>{runs} run{'s' if runs > 1 else ''} of {groups} on {escape(games)}.</p>"


def _runs(study: Study) -> str:
    rows = []
    for group in study.groups:
        for run in group.runs:
            asked = _value(run.fields, "train.max_env_steps")
            if is_continual(run.fields):
                asked = f"{clock_steps(run.fields):,} of all games"
            rows.append((group.label, run.name, f"{run.env_steps:,.0f}", asked))
    html = table(("experiment", "run", "env steps per game", "asked for"), rows, texts=2)
    differing = differing_fields(study.groups)
    if differing:
        head = ("config", *study.labels)
        values = []
        for name in differing:
            values.append([name, *[_value(group.fields, name) for group in study.groups]])
        html += table(head, values, texts=len(head), caption="In what the experiments differ")
    for group in study.groups:
        fields = [(name, _value(group.fields, name)) for name in sorted(group.fields)]
        inner = table(("config", "value"), fields, texts=2)
        html += _details(f"Config of {group.label}, as far as its runs share it", inner)
    return html


def _final(study: Study) -> str:
    rows: list[Sequence[str]] = []
    for game, groups, known in final_cells(study):
        for cells in (*groups, *known):
            rows.append((game, *cells, *[""] * (6 - len(cells))))
    head = ("return", "interval", "× random", "seeds", "env steps per game")
    caption = f"Mean over seeds of the last evaluation. {final_intervals(study)}."
    return table(("game", "experiment or known score", *head), rows, texts=2, caption=caption)


def _figure(picture: Picture, content: Drawn) -> str:
    width, height = struct.unpack(">II", content.png[16:24])
    data = base64.b64encode(content.png).decode("ascii")
    text = f"{escape(content.text)} " if content.text else ""
    return (
        f'<figure id="{picture.name}"><img src="data:image/png;base64,{data}" '
        f'width="{width}" height="{height}" alt="{escape(picture.title)}">'
        f"<figcaption>{text}<code>{picture.name}.png</code></figcaption></figure>"
    )


def _conflict_tables(study: Study) -> str:
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
        return ""
    lines: list[Sequence[str]] = []
    folded: list[Sequence[str]] = []
    for component, found in cells.items():
        is_folded = is_one_of_several_layers(component, cells)
        (folded if is_folded else lines).append((component, *(groups | found).values()))
    caption = (
        "Largest conflict between two games in the last fifth of training, mean over seeds "
        f"({LEVEL} bootstrap interval over seeds); behind it the mean to be expected of unrelated "
        "gradients, and the number of pairs. Compare components of equally many pairs only; the "
        "difference between shared and routed experts is of the same pairs. More in "
        "conflict_final.csv."
    )
    html = table(("component", *groups), lines, caption=caption)
    if folded:
        html += _details("Every layer by itself", table(("component", *groups), folded))
    return html


def _expert_table(study: Study) -> str:
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
    return table(head, rows, texts=3, caption=caption) if rows else ""


def _value(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, ABSENT)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if type(value) is int else str(value)


def _link(target: str, text: str) -> str:
    return f'<a href="#{target}">{escape(text)}</a>'
