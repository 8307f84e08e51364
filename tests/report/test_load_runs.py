"""Runs read in Python, as docs/research.md shows it."""

import re
from pathlib import Path

import pytest

import lzero
from lzero.report import RunDataError, load_runs
from tests.report.logged_runs import lines_of, write_run

PAGE = Path(lzero.__file__).parents[1] / "docs" / "research.md"


def test_the_recipe_prints_the_last_loss_of_every_seed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed, offset in enumerate((0.0, 20.0)):
        write_run(Path(f"runs/moe_s{seed}"), lines_of(offset))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    [block] = [block for block in blocks if "load_runs" in block]
    exec(block, {})
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("moe runs/moe_s0 ") and first.endswith(" 200.0 3.0")
    assert second.startswith("moe runs/moe_s1 ") and second.endswith(" 200.0 23.0")


def test_runs_come_in_the_order_of_their_folders_named_as_text_or_path(tmp_path):
    folders = [write_run(tmp_path / name, lines_of(0.0)) for name in ("b", "a")]
    assert [run.path for run in load_runs([str(folders[0]), folders[1]])] == folders
    with pytest.raises(RunDataError, match="does not exist"):
        load_runs([*folders, tmp_path / "c"])
