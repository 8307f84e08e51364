"""The page: one file that needs no other, with everything escaped."""

import re
import struct
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from lzero.report.blocks import Film, Page, Part, Table
from lzero.report.page import page, rendered
from lzero.report.pictures import PICTURES, Drawn
from lzero.report.run_data import Group, RunData, Series
from lzero.report.statistics import OVER_SEEDS, FinalScore
from lzero.report.study import Study

VOID = {"meta", "img", "br"}


class Tags(HTMLParser):
    """Checks that elements are closed in order, and collects them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    tags.close()
    assert tags.open == []
    return tags


def png(width: int, height: int) -> bytes:
    """A white picture."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\xff" * width) * height)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def study_of(*labels: str) -> Study:
    groups = []
    for label in labels:
        fields = {
            "exp_name": label,
            "env.domain": "nowhere:N",
            "env.games": ["A<b>"],
            "device": label,
            "x.sizes": [1, 2],
        }
        runs = tuple(
            RunData(
                Path(f"{label}_s{n}"),
                fields,
                {"learn/loss": Series(np.array([4000.0]), np.zeros(1))},
                {},
            )
            for n in (0, 1)
        )
        groups.append(
            Group(
                label, runs, {name: value for name, value in fields.items() if name != "exp_name"}
            )
        )
    finals = tuple(
        FinalScore(
            label,
            ("s0", "s1"),
            "nowhere:N",
            "A<b>",
            (4000, 3900),
            12.345678,
            11.0,
            np.nan,
            0,
            OVER_SEEDS,
        )
        for label in labels
    )
    return Study(tuple(groups), (), finals, {("nowhere:N", "A<b>"): {"random": 2.0}}, ())


def test_the_page_is_one_whole_file():
    drawn = [(PICTURES[0], Drawn(png(30, 20), "read & learn"))]
    html = page(study_of("one", "two"), drawn, ["<b> is missing"])
    tags = parsed(html)
    assert html == page(study_of("one", "two"), drawn, ["<b> is missing"])
    names = [tag for tag, _ in tags.seen]
    assert not {"script", "link", "iframe"} & set(names) and "http" not in html.replace(
        "https://", "http"
    )
    [image] = [attributes for tag, attributes in tags.seen if tag == "img"]
    assert image["src"].startswith("data:image/png;base64,") and (
        image["width"],
        image["height"],
    ) == ("30", "20")
    assert image["alt"] == "Evaluation return"
    assert not re.search(r"url\(|@import|src=\"(?!data:)", html)
    ids = [attributes["id"] for _, attributes in tags.seen if "id" in attributes]
    links = [attributes["href"] for tag, attributes in tags.seen if tag == "a"]
    assert len(set(ids)) == len(ids) and {f"#{name}" for name in ids} == set(links), (
        "the contents name every part"
    )
    assert "prefers-color-scheme: dark" in html
    text = " ".join(tags.text)
    assert (
        "<b> is missing" in text and "A<b>" in text and "read & learn" in text and "<b>" not in html
    )
    assert "read &amp; learn" in html


def test_the_page_says_what_ran():
    text = " ".join(parsed(page(study_of("one", "two"), [], [])).text)
    for words in (
        "one against two",
        "one_s0",
        "two_s1",
        "4,000",
        "4 runs of 2 experiments",
        "12.35",
        "random",
    ):
        assert words in text, words
    assert "In what the experiments differ" in text and "device one two" in " ".join(text.split())
    assert "x.sizes 1, 2" in " ".join(text.split()), "all else is in the folded config"
    assert "Nothing is missing" in text
    alone = " ".join(parsed(page(study_of("one"), [], [])).text)
    assert "one experiment" in alone and "differ" not in alone


def test_sections_without_content_are_left_out():
    text = " ".join(parsed(page(study_of("one"), [], [])).text)
    assert "Gradient conflict" not in text and "Plasticity" not in text and "Returns" not in text
    picture = replace(PICTURES[0])
    assert "Returns" in " ".join(
        parsed(page(study_of("one"), [(picture, Drawn(png(1, 1), ""))], [])).text
    )


def test_cells_are_escaped():
    table = Table(("name", "x"), [("<i>", "1")], caption="a & b")
    html = rendered(Page("t", "s", ["<u>"], [Part("p", [table])], "css"))
    assert "&lt;u&gt;" in html and "<u>" not in html
    assert (
        "&lt;i&gt;" in html
        and "a &amp; b" in html
        and 'class="text">name' in html
        and "<td>1</td>" in html
    )


def test_conflict_is_told_in_a_table_with_single_layers_folded_away():
    study = study_of("one", "two")
    groups = []
    for group in study.groups:
        runs = []
        for n, run in enumerate(group.runs):
            logged = {
                f"gradient_conflict/max_{name}": 0.1 + n
                for name in ("encoder", "moe_layer/layer0", "moe_layer/layer1")
            }
            logged |= {
                "gradient_conflict/avg_encoder": 0.7,
                "gradient_conflict/max_router/layer0": np.nan,
            }
            series = {
                tag: Series(np.array([4000.0]), np.array([value])) for tag, value in logged.items()
            }
            runs.append(replace(run, scalars=series))
        groups.append(replace(group, runs=tuple(runs)))
    html = page(replace(study, groups=tuple(groups)), [], [])
    shown, folded = re.search(
        r"Gradient conflict</h2>(.*?)<details>(.*?)</details>", html, re.DOTALL
    ).groups()
    compared, shown = shown.split("More in conflict_differences.csv")[1].split("</table>", 1)
    lines = re.findall(r"<tr>(<td.*?)</tr>", compared)
    line = re.findall(r"<td.*?>(.*?)</td>", lines[0])
    assert line == ["largest conflict", "encoder", "0", "–", "cannot tell", "–", "–", "2"]
    assert "one − two" in html and len(lines) == 3, "single layers are in the file"
    rows = re.findall(r"<tr><td.*?</tr>", shown)
    cells = [re.findall(r"<td.*?>(.*?)</td>", row) for row in rows]
    assert cells[0] == [
        "encoder",
        "0.600 (0.100 … 1.100)",
        "0.600 (0.100 … 1.100)",
    ]
    assert [row[0] for row in cells] == ["encoder", "moe_layer/all_layers", "router/layer0"]
    assert cells[2][1:] == ["–", "–"] and "0.700" not in html
    assert re.findall(r"<td class=\"text\">(.*?)</td>", folded) == [
        "moe_layer/layer0",
        "moe_layer/layer1",
    ]


def test_videos_are_on_the_page():
    html = page(study_of("one"), [], [], [Film("Krull, <one>", "../v/a%20b.mp4")])
    [video] = [attributes for tag, attributes in parsed(html).seen if tag == "video"]
    assert video["src"] == "../v/a%20b.mp4" and "Krull, &lt;one&gt;" in html
