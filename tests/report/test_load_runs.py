"""Runs read in Python, as docs/research.md shows it."""

import json
import re
from pathlib import Path

import pytest

import lzero
from lzero import tags
from lzero.environment import AttemptLog, here
from lzero.report import RunDataError, load_runs, read_runs
from lzero.report.long_table import LONG_COLUMNS
from tests.report.logged_runs import lines_of, write_run

PAGE = Path(lzero.__file__).parents[1] / "docs" / "research.md"


def test_the_recipe_prints_the_last_loss_of_every_seed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed, offset in enumerate((0.0, 20.0)):
        write_run(Path(f"runs/moe_s{seed}"), lines_of(offset))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    [block] = [block for block in blocks if "read_runs(" in block]
    exec(block, {})
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("moe runs/moe_s0 ") and first.endswith(" 200.0 3.0")
    assert second.startswith("moe runs/moe_s1 ") and second.endswith(" 200.0 23.0")


def test_runs_come_in_the_order_of_their_folders_named_as_text_or_path(tmp_path):
    folders = [write_run(tmp_path / name, lines_of(0.0)) for name in ("b", "a")]
    assert [run.path for run in read_runs([str(folders[0]), folders[1]])] == folders
    with pytest.raises(RunDataError, match="does not exist"):
        read_runs([*folders, tmp_path / "c"])


def test_every_logged_number_is_a_row_of_the_table(tmp_path):
    folders = [
        write_run(tmp_path / name, lines_of(offset))
        for name, offset in (("a_s0", 0.0), ("a_s7", 1.0))
    ]
    AttemptLog(folders[1], here(11, 0, 0, 1, "cpu"))
    with (folders[1] / "metrics.jsonl").open("a") as file:
        own = {"CartPole-v1": 900, "Acrobot-v1": 450}
        metrics = {"collect_return/CartPole-v1": None, "gradient_conflict/max_encoder": 0.5}
        line = {"env_step": 450, "train_iter": 9, "wall_time": 12.5, "metrics": metrics}
        file.write(json.dumps(line | {"game_env_steps": own}) + "\n")
    table = load_runs(folders)
    assert tuple(table) == LONG_COLUMNS
    logged = 0
    for folder in folders:
        for text in (folder / "metrics.jsonl").read_text().splitlines():
            line = json.loads(text)
            logged += len(line["metrics"]) + sum(map(len, line.get("arrays", {}).values()))
    assert len(table) == logged
    assert set(table.experiment) == {"a"} and table.groupby(
        "run", observed=True
    ).seed.first().tolist() == [0, 11]
    scores = table[(table.tag == tags.EVAL_SCORES) & (table.game == "Acrobot-v1")]
    first = scores[(scores.run == str(folders[0])) & (scores.env_step == 200)]
    assert first.value.tolist() == [210.0, 214.0] and first.episode.tolist() == [0, 1]
    last = table[table.env_step >= 450]
    assert last.env_step.tolist() == [900, 450] and last.game.tolist() == ["CartPole-v1", ""]
    assert last.tag.tolist() == ["collect_return", "gradient_conflict/max_encoder"]
    assert last.value.isna().tolist() == [True, False] and last.episode.isna().all()
    assert (last.train_iter == 9).all() and (last.wall_time == 12.5).all()
    means = (
        table[table.tag == tags.EVAL_RETURN]
        .groupby(["game", "env_step"], observed=True)
        .value.mean()
    )
    assert means["CartPole-v1", 100] == 102.5


def test_a_table_of_runs_without_numbers_has_its_columns(tmp_path):
    table = load_runs([write_run(tmp_path / "empty", [])])
    assert tuple(table) == LONG_COLUMNS and not len(table)


def test_the_recipe_for_pandas_draws_the_returns(tmp_path, monkeypatch, capsys):
    import seaborn

    drawn = []
    monkeypatch.setattr(seaborn, "relplot", lambda data, **axes: drawn.append((data, axes)))
    monkeypatch.chdir(tmp_path)
    for seed, offset in enumerate((0.0, 20.0)):
        write_run(Path(f"runs/moe_s{seed}"), lines_of(offset))
    page = (PAGE.parent / "report.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(block, {})
    assert "112.0" in capsys.readouterr().out, "102 and 122 of CartPole at 100 env steps"
    [(data, axes)] = drawn
    assert {name for name in axes.values() if name != "line"} <= set(data) and len(data) == 8
