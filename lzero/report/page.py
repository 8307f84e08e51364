"""The report as one HTML page: pictures within it, no other files, no scripts."""

import base64
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from math import isnan
from typing import Any

from lzero.report.analysis_tables import ALL_LAYERS, conflict_rows, expert_rows
from lzero.report.components import HEADLINE
from lzero.report.experts import meaning
from lzero.report.page_style import STYLE
from lzero.report.pictures import LEVEL, Drawn, Picture, Section
from lzero.report.run_data import ABSENT, differing_fields
from lzero.report.study import Study
from lzero.report.tables import final_rows, interval, number

Row = Sequence[str]
RUNS, FINAL, NOTES = "Runs", "Final evaluation", "What is missing and must be known"


def page(study: Study, drawn: Sequence[tuple[Picture, Drawn]], notes: Sequence[str]) -> str:
    """The whole page; the same study gives the same page.

    Args:
        study: what is reported.
        drawn: pictures in the order of their sections.
        notes: sentences on what is missing.
    """
    title = f"{' against '.join(group.label for group in study.groups)}: report"
    sections = {
        RUNS: [*_runs(study)],
        FINAL: [_final(study)],
        **{section: [*_tables(section, study), *_pictures(section, drawn)] for section in Section},
        NOTES: [_list(notes) if notes else "<p>Nothing is missing.</p>"],
    }
    sections = {name: parts for name, parts in sections.items() if parts}
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head>",
            f"<body><header><h1>{escape(title)}</h1>{_summary(study)}</header>",
            _contents(sections, drawn),
            "<main>",
            *(
                f'<section id="{_id(name)}"><h2>{name}</h2>{"".join(parts)}</section>'
                for name, parts in sections.items()
            ),
            "</main></body></html>\n",
        ]
    )


def table(head: Row, rows: Iterable[Row], *, texts: int = 1, caption: str = "") -> str:
    """A table of escaped cells; the first ``texts`` columns hold words, the others numbers."""
    align = [' class="text"' if column < texts else "" for column in range(len(head))]
    cells = ["".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(align, row, strict=True)) for row in rows]
    names = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(align, head, strict=True))
    note = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f'<div class="table"><table>{note}<thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'


def _summary(study: Study) -> str:
    runs = sum(len(group.runs) for group in study.groups)
    games = ", ".join(study.task_title(task) for task in study.tasks)
    groups = f"{len(study.groups)} experiments" if len(study.groups) > 1 else "one experiment"
    return f"<p>{runs} run{'s' if runs > 1 else ''} of {groups} on {escape(games)}.</p>"


def _contents(sections: Mapping[str, Any], drawn: Sequence[tuple[Picture, Drawn]]) -> str:
    entries = []
    for name in sections:
        inner = "".join(f"<li>{_link(p.name, p.title)}</li>" for p, _ in drawn if p.section == name)
        entries.append(f"<li>{_link(_id(name), name)}{f'<ul>{inner}</ul>' if inner else ''}</li>")
    return f'<nav aria-label="Contents"><ul>{"".join(entries)}</ul></nav>'


def _runs(study: Study) -> Iterator[str]:
    rows = [
        (group.label, run.name, f"{run.env_steps:,.0f}", _value(run.fields, "train.max_env_steps"))
        for group in study.groups
        for run in group.runs
    ]
    yield table(("experiment", "run", "env steps per game", "asked for"), rows, texts=2)
    differing = differing_fields(study.groups)
    if differing:
        values = [[name, *(_value(group.fields, name) for group in study.groups)] for name in differing]
        head = ("config", *(group.label for group in study.groups))
        yield table(head, values, texts=len(head), caption="In what the experiments differ")
    for group in study.groups:
        fields = [(name, _value(group.fields, name)) for name in sorted(group.fields)]
        inner = table(("config", "value"), fields, texts=2)
        name = escape(group.label)
        yield f"<details><summary>Config of {name}, as far as its runs share it</summary>{inner}</details>"


def _final(study: Study) -> str:
    found = list(final_rows(study))
    rows = []
    for task, references in study.references.items():
        for row in (row for row in found if (row["domain"], row["game"]) == task):
            ends = interval(row["low"], row["high"])
            counts = (number(row["ratio_to_random"]), str(row["num_seeds"]), row["env_step"].replace(" ", ", "))
            rows.append((study.task_title(task), row["group"], number(row["mean"]), ends, *counts))
        rows += [(study.task_title(task), label, number(score), *[""] * 4) for label, score in references.items()]
    intervals = "; ".join(dict.fromkeys(row["interval"] for row in found))
    head = ("game", "experiment or known score", "return", "interval", "× random", "seeds", "env steps per game")
    return table(
        head, rows, texts=2, caption=f"Mean over seeds of the last evaluation. {LEVEL} intervals: {intervals}."
    )


def _pictures(section: str, drawn: Sequence[tuple[Picture, Drawn]]) -> Iterator[str]:
    for picture, content in ((picture, content) for picture, content in drawn if picture.section == section):
        width, height = struct.unpack(">II", content.png[16:24])
        data = base64.b64encode(content.png).decode("ascii")
        text = f"{escape(content.text)} " if content.text else ""
        yield (
            f'<figure id="{picture.name}"><img src="data:image/png;base64,{data}" width="{width}" height="{height}" '
            f'alt="{escape(picture.title)}"><figcaption>{text}<code>{picture.name}.png</code></figcaption></figure>'
        )


def _tables(section: str, study: Study) -> Iterator[str]:
    if section == Section.CONFLICT:
        yield from _conflict_tables([row for row in conflict_rows(study) if row["measure"] == HEADLINE])
    if section == Section.EXPERTS:
        yield from _expert_table([row for row in expert_rows(study) if "/short" in row["metric"]])


def _conflict_tables(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The headline's numbers; those of single layers folded away where there are means over layers."""
    if not rows:
        return
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        ends = "" if isnan(row["low"]) else f" ({row['low']:z.3f} … {row['high']:z.3f})"
        cell = "–" if isnan(row["mean"]) else f"{row['mean']:z.3f}{ends}"
        cells.setdefault(row["component"], {})[row["group"]] = cell
    groups = list(dict.fromkeys(row["group"] for row in rows))
    lines = {name: [name, *(found.get(group, "") for group in groups)] for name, found in cells.items()}
    folded = [name for name in lines if "/layer" in name and f"{name.partition('/')[0]}/{ALL_LAYERS}" in lines]
    yield table(
        ("component", *groups),
        [line for name, line in lines.items() if name not in folded],
        caption=f"Largest conflict between two games in the last fifth of training, mean over seeds ({LEVEL} bootstrap "
        "interval over seeds). More in conflict_final.csv.",
    )
    if folded:
        inner = table(("component", *groups), [lines[name] for name in folded])
        yield f"<details><summary>Every layer by itself</summary>{inner}</details>"


def _expert_table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    yield table(
        ("experiment", "short window", "game", "first fifth", "last fifth", "change", "interval of the change"),
        (
            [
                *(row["group"], meaning(row["metric"]), row["game"] or "all"),
                *(number(row[name]) for name in ("first_fifth", "last_fifth", "change")),
                interval(row["change_low"], row["change_high"]),
            ]
            for row in rows
        ),
        texts=3,
        caption=f"Expert selection in the first and the last fifth of training, mean over layers and seeds ({LEVEL} "
        "bootstrap interval over seeds). More in expert_final.csv.",
    )


def _list(texts: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def _value(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, ABSENT)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if type(value) is int else str(value)


def _link(target: str, text: str) -> str:
    return f'<a href="#{target}">{escape(text)}</a>'


def _id(name: str) -> str:
    return f"section-{name.lower().replace(' ', '-')}"  # pictures have ids too
