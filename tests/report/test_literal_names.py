"""Names of any letters are shown as they are typed: on the page, in pictures, in tables."""

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.mathtext import MathTextParser
from matplotlib.text import Text

from lzero.report import load_runs
from lzero.report.command import write_report
from lzero.report.study import build_study
from tests.report.logged_runs import read_csv

LABELS = ("=1+1 & lr_$LR_$SEED", '_<b>"a$b$c"</b>')
GAMES = ("Ba$$in", '@<i>"{x}/y')
FORMULAS = ("=", "+", "-", "@")


class Words(HTMLParser):
    """Text and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def write_strange(folder: Path, name: str, width: int, seed: int) -> Path:
    """A run whose config is of no domain that is installed here; games share their name with nothing."""
    run = folder / f"run{width}_s{seed}"
    (run / "videos").mkdir(parents=True)
    (run / "videos" / "a $b$ <c>.mp4").write_bytes(b"film")
    fields = {
        "exp_name": name,
        "env": {"domain": "nowhere:N", "games": list(GAMES)},
        "width": width,
    }
    (run / "config.json").write_text(json.dumps(fields))
    lines = []
    for step in range(1, 5):
        metrics = {"learn/loss": 5.0 - step + seed / 10}
        for number, game in enumerate(GAMES):
            metrics[f"eval_return/{game}"] = step * width + seed + number
            metrics[f"health/value_predicted/{game}"] = 0.1 * step
            metrics[f"health/value_realised/{game}"] = 0.2 * step
            metrics["gradient_conflict/max_encoder"] = 0.1 * step * seed
        arrays = {"gradient_conflict_matrix/encoder": [[1.0, -0.2], [-0.2, 1.0]]}
        line = {"env_step": 10 * step, "train_iter": step, "wall_time": float(step)}
        lines.append(json.dumps(line | {"metrics": metrics, "arrays": arrays}) + "\n")
    (run / "metrics.jsonl").write_text("".join(lines))
    return run


def test_names_are_literal_in_every_output(tmp_path, monkeypatch):
    def no_mathematics(*_: object, **__: object) -> None:
        raise AssertionError("a name was taken for mathematics")

    drawn: set[str] = set()
    draw = Text.draw

    def noted(self: Text, *arguments: object, **options: object) -> None:
        drawn.add(self.get_text())
        draw(self, *arguments, **options)

    monkeypatch.setattr(MathTextParser, "parse", no_mathematics)
    monkeypatch.setattr(Text, "draw", noted)
    runs = []
    for width, name in enumerate(LABELS, start=1):
        runs += [write_strange(tmp_path, name, width, seed) for seed in (0, 1, 2)]
    study = build_study(runs)
    assert study.labels == list(LABELS)
    out = tmp_path / "out"
    files = write_report(study, out, embed_videos=True)
    assert {"conflict.png", "conflict_matrices.png", "aggregates.png", "profiles.png"} <= set(files)
    for name in (*LABELS, *GAMES):
        assert any(name in text for text in drawn), f"{name} is in no picture"
    html = (out / "index.html").read_text(encoding="utf-8")
    page = Words()
    page.feed(html)
    text = " ".join(page.words)
    for name in (*LABELS, *GAMES, "a $b$ <c>"):
        assert name in text, f"{name} is not on the page"
    assert not {"b", "i", "c"} & page.tags and html.count("data:video/mp4;base64") == 6
    for path in out.glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.reader(file):
                for cell in row:
                    assert not cell.startswith(FORMULAS) or is_number(cell), (path.name, cell)
    groups = {row["group"].removeprefix("'") for row in read_csv(out / "curves.csv")}
    assert groups == set(LABELS)
    notes = (out / "notes.txt").read_text(encoding="utf-8")
    assert GAMES[0] in notes and GAMES[1] in notes
    table = load_runs(runs)
    assert set(table.experiment) == set(LABELS) and set(table.game) == {"", *GAMES}


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_videos_are_linked_from_the_folder_of_the_page(tmp_path):
    run = write_strange(tmp_path / "runs", "a", 1, 0)
    write_report(build_study([run]), tmp_path / "reports" / "one")
    html = (tmp_path / "reports" / "one" / "index.html").read_text(encoding="utf-8")
    assert 'src="../../runs/run1_s0/videos/a%20%24b%24%20%3Cc%3E.mp4"' in html
    assert "1 video(s) are linked" in html


def test_too_many_videos_for_a_page_are_linked(tmp_path, monkeypatch):
    monkeypatch.setattr("lzero.report.films.MOST_EMBEDDED", 5)  # bytes: one of two
    runs = [write_strange(tmp_path, "a", 1, seed) for seed in (0, 1)]
    from lzero.report.films import films

    found, notes = films(build_study(runs), tmp_path, embed=True)
    assert [film.source.startswith("data:") for film in found] == [True, False]
    assert "not in the page but linked" in notes[0]


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a", "@a", "\ta", "\ra"])
def test_a_cell_is_no_formula(tmp_path, text):
    from lzero.report.tables import write_csv

    write_csv(tmp_path / "t.csv", ["name", "x"], [{"name": text, "x": -1.5}])
    [row] = read_csv(tmp_path / "t.csv")
    assert row == {"name": f"'{text}", "x": "-1.5"}
