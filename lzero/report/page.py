"""The report as one HTML page: pictures within it, no other files, no scripts."""

import base64
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from math import isnan
from pathlib import Path
from typing import Any

from lzero.report.analysis_tables import ALL_LAYERS, conflict_rows, expert_rows
from lzero.report.components import HEADLINE
from lzero.report.panels import MEANINGS
from lzero.report.pictures import Drawn, Picture, Section
from lzero.report.run_data import ABSENT, differing_fields
from lzero.report.statistics import LEVEL
from lzero.report.study import Study
from lzero.report.tables import final_cells, final_intervals, interval, number

STYLE_FILE = Path(__file__).with_name("page.css")
RUNS, FINAL, NOTES = "Runs", "Final evaluation", "What is missing and must be known"


def page(study: Study, drawn: Sequence[tuple[Picture, Drawn]], notes: Sequence[str]) -> str:
    """The whole page; the same study gives the same page.

    Args:
        study: what is reported.
        drawn: pictures in the order of their sections.
        notes: sentences on what is missing.
    """
    title = escape(f"{' against '.join(group.label for group in study.groups)}: report")
    sections = {RUNS: "".join(_runs(study)), FINAL: _final(study)}
    tables = {Section.CONFLICT: _conflict_tables(study), Section.EXPERTS: _expert_table(study)}
    for section in Section:
        sections[section] = "".join((*tables.get(section, ()), *_pictures(section, drawn)))
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    sections[NOTES] = f"<ul>{items}</ul>" if notes else "<p>Nothing is missing.</p>"
    entries, parts = [], []
    for name, content in sections.items():
        if content:
            entries.append(_entry(name, drawn))
            parts.append(f'<section id="{_id(name)}"><h2>{name}</h2>{content}</section>\n')
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
{STYLE_FILE.read_text(encoding="utf-8")}</style></head>
<body><header><h1>{title}</h1>{_summary(study)}</header>
<nav aria-label="Contents"><ul>{"".join(entries)}</ul></nav>
<main>
{"".join(parts)}</main></body></html>
"""


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1, caption: str = ""
) -> str:
    """A table of escaped cells; the first ``texts`` columns hold words, the others numbers."""
    body = "".join(f"<tr>{_cells('td', row, texts)}</tr>" for row in rows)
    note = f"<caption>{escape(caption)}</caption>" if caption else ""
    names = f"<thead><tr>{_cells('th', head, texts)}</tr></thead>"
    return f'<div class="table"><table>{note}{names}<tbody>{body}</tbody></table></div>'


def _cells(tag: str, texts: Sequence[str], words: int) -> str:
    cells = ""
    for column, text in enumerate(texts):
        kind = ' class="text"' if column < words else ""
        cells += f"<{tag}{kind}>{escape(text)}</{tag}>"
    return cells


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _summary(study: Study) -> str:
    runs = sum(len(group.runs) for group in study.groups)
    games = ", ".join(study.task_title(task) for task in study.tasks)
    groups = f"{len(study.groups)} experiments" if len(study.groups) > 1 else "one experiment"
    return f"<p>{runs} run{'s' if runs > 1 else ''} of {groups} on {escape(games)}.</p>"


def _entry(section: str, drawn: Sequence[tuple[Picture, Drawn]]) -> str:
    """A section and its pictures in the contents."""
    inner = ""
    for picture, _ in drawn:
        if picture.section == section:
            inner += f"<li>{_link(picture.name, picture.title)}</li>"
    return f"<li>{_link(_id(section), section)}{f'<ul>{inner}</ul>' if inner else ''}</li>"


def _runs(study: Study) -> Iterator[str]:
    rows = []
    for group in study.groups:
        for run in group.runs:
            asked = _value(run.fields, "train.max_env_steps")
            rows.append((group.label, run.name, f"{run.env_steps:,.0f}", asked))
    yield table(("experiment", "run", "env steps per game", "asked for"), rows, texts=2)
    differing = differing_fields(study.groups)
    if differing:
        head = ["config", *[group.label for group in study.groups]]
        values = []
        for name in differing:
            values.append([name, *[_value(group.fields, name) for group in study.groups]])
        yield table(head, values, texts=len(head), caption="In what the experiments differ")
    for group in study.groups:
        fields = [(name, _value(group.fields, name)) for name in sorted(group.fields)]
        inner = table(("config", "value"), fields, texts=2)
        yield _details(f"Config of {group.label}, as far as its runs share it", inner)


def _final(study: Study) -> str:
    rows: list[Sequence[str]] = []
    for game, groups, known in final_cells(study):
        rows += [(game, *cells) for cells in groups]
        rows += [(game, *cells, *[""] * 4) for cells in known]
    head = ("return", "interval", "× random", "seeds", "env steps per game")
    caption = f"Mean over seeds of the last evaluation. {final_intervals(study)}."
    return table(("game", "experiment or known score", *head), rows, texts=2, caption=caption)


def _pictures(section: str, drawn: Sequence[tuple[Picture, Drawn]]) -> Iterator[str]:
    for picture, content in drawn:
        if picture.section == section:
            width, height = struct.unpack(">II", content.png[16:24])
            data = base64.b64encode(content.png).decode("ascii")
            text = f"{escape(content.text)} " if content.text else ""
            yield (
                f'<figure id="{picture.name}"><img src="data:image/png;base64,{data}" '
                f'width="{width}" height="{height}" alt="{escape(picture.title)}">'
                f"<figcaption>{text}<code>{picture.name}.png</code></figcaption></figure>"
            )


def _conflict_tables(study: Study) -> Iterator[str]:
    """The headline's numbers; single layers are folded away where there are means over layers."""
    cells: dict[str, dict[str, str]] = {}
    groups: dict[str, str] = {}
    for row in conflict_rows(study):
        if row["measure"] == HEADLINE:
            ends = "" if isnan(row["low"]) else f" ({row['low']:z.3f} … {row['high']:z.3f})"
            cell = "–" if isnan(row["mean"]) else f"{row['mean']:z.3f}{ends}"
            cells.setdefault(row["component"], {})[row["group"]] = cell
            groups[row["group"]] = ""
    lines: list[Sequence[str]] = []
    folded: list[Sequence[str]] = []
    for component, found in cells.items():
        kind, _, layer = component.partition("/layer")
        is_folded = layer and f"{kind.partition('/')[0]}/{ALL_LAYERS}" in cells
        (folded if is_folded else lines).append((component, *(groups | found).values()))
    if lines:
        yield table(
            ("component", *groups),
            lines,
            caption="Largest conflict between two games in the last fifth of training, mean over "
            f"seeds ({LEVEL} bootstrap interval over seeds). More in conflict_final.csv.",
        )
    if folded:
        yield _details("Every layer by itself", table(("component", *groups), folded))


def _expert_table(study: Study) -> Iterator[str]:
    rows = []
    for row in expert_rows(study):
        if "/short" in row["metric"]:
            [meaning] = [text for name, text in MEANINGS.items() if row["metric"].endswith(name)]
            parts = [number(row[name]) for name in ("first_fifth", "last_fifth", "change")]
            ends = interval(row["change_low"], row["change_high"])
            rows.append((row["group"], meaning, row["game"] or "all", *parts, ends))
    if rows:
        head = ("first fifth", "last fifth", "change", "interval of the change")
        yield table(
            ("experiment", "short window", "game", *head),
            rows,
            texts=3,
            caption="Expert selection in the first and the last fifth of training, mean over "
            f"layers and seeds ({LEVEL} bootstrap interval over seeds). More in expert_final.csv.",
        )


def _value(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, ABSENT)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if type(value) is int else str(value)


def _link(target: str, text: str) -> str:
    return f'<a href="#{target}">{escape(text)}</a>'


def _id(name: str) -> str:
    return f"section-{name.lower().replace(' ', '-')}"  # pictures have ids too
