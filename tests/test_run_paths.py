"""Whatever somebody types for a run means that run, or is refused in words."""

import os
from pathlib import Path

import pytest

from lzero.run_paths import (
    RunPathError,
    SeveralRunsError,
    find_checkpoint,
    find_run,
    find_runs,
    is_run,
)


def make_run(folder: Path, steps: tuple[int, ...] = (5, 20)) -> Path:
    """A run as far as paths are concerned."""
    (folder / "tb").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "metrics.jsonl").touch()
    for step in steps:
        checkpoint = folder / "checkpoints" / f"step_{step:06d}"
        (checkpoint / "rank_0").mkdir(parents=True)
        (checkpoint / "model.safetensors").touch()
        (checkpoint / "rank_0" / "state.json").touch()
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A run whose folder has a blank, typed from beside it."""
    make_run(tmp_path / "my runs" / "x y")
    monkeypatch.chdir(tmp_path / "my runs")
    return tmp_path / "my runs" / "x y"


def same(found: Path, wanted: Path) -> bool:
    return os.path.realpath(found) == os.path.realpath(wanted)


INSIDE = ("", "config.json", "metrics.jsonl", "tb", "checkpoints", "checkpoints/")
OLDER = "checkpoints/step_000005"


@pytest.mark.parametrize("typed", ["x y", "x y/", "./x y", "../my runs/x y"])
@pytest.mark.parametrize("inside", INSIDE)
def test_anything_inside_a_run_means_it_and_its_newest_checkpoint(run, typed, inside):
    path = os.path.join(typed, inside) if inside else typed
    assert [same(found, run) for found in find_runs(path)] == [True]
    assert same(find_run(path), run)
    assert same(find_checkpoint(path), run / "checkpoints" / "step_000020")


@pytest.mark.parametrize("inside", ["", "/", "/rank_0", "/rank_0/state.json", "/model.safetensors"])
def test_anything_inside_a_checkpoint_means_that_checkpoint(run, inside):
    assert same(find_checkpoint(f"x y/{OLDER}{inside}"), run / OLDER)
    assert same(find_run(f"x y/{OLDER}{inside}"), run)


def test_links_are_followed(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "deep").symlink_to(run / OLDER / "rank_0")
    (tmp_path / "file").symlink_to(run / "config.json")
    assert same(find_checkpoint(tmp_path / "link" / "tb"), run / "checkpoints" / "step_000020")
    assert same(find_checkpoint(tmp_path / "deep"), run / OLDER)
    assert same(find_run(tmp_path / "file"), run)


def test_a_run_is_called_as_it_was_typed(run):
    assert find_run("x y") == Path("x y") and str(find_checkpoint("x y")).startswith("x y/")


def test_a_folder_of_runs_is_all_of_them_or_refused(run, tmp_path):
    other = make_run(run.parent / "suite" / "z")
    (run.parent / ".hidden").mkdir()
    assert find_runs(run.parent) == [other, run]
    for find in (find_run, find_checkpoint):
        with pytest.raises(SeveralRunsError, match="holds 2 runs; name one of them: .*z, .*x y"):
            find(run.parent)
    assert find_run(run.parent / "suite") == other
    assert find_checkpoint(run.parent / "suite").parent.parent == other


def test_nothing_is_taken_in_the_place_of_what_is_not_there(run):
    with pytest.raises(RunPathError, match=r"does not exist; did you mean .*step_000"):
        find_checkpoint(f"x y/{OLDER[:-1]}6")
    with pytest.raises(RunPathError, match=r"^x z does not exist; did you mean x y\?$"):
        find_runs("x z")
    bare = make_run(run.parent / "bare", steps=())
    assert is_run(bare)
    with pytest.raises(RunPathError, match="bare holds no checkpoint; expected bare/checkpoints"):
        find_checkpoint("bare")


def test_a_checkpoint_without_its_run(run, tmp_path):
    (run / OLDER).rename(tmp_path / "best")
    assert find_checkpoint(tmp_path / "best") == tmp_path / "best"
    with pytest.raises(RunPathError, match="is no run"):
        find_run(tmp_path / "best")
