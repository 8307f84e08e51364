"""How benchmarks train variants times seeds: finished runs are left alone and kept, failed ones are tried again."""

import json
import sys
from pathlib import Path

import pytest

from lzero.logging import read_metrics

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPT = """
import json, pathlib, sys
arguments = dict(zip(sys.argv[1:-1], sys.argv[2:]))
folder = pathlib.Path(arguments["--output-dir"], arguments["--exp-name"])
(folder / "config.json").write_text(json.dumps({"preset": sys.argv[1], "output_dir": arguments["--output-dir"]}))
line = {"env_step": 1, "train_iter": 0, "wall_time": 0.0}
line |= {"metrics": {"eval_return/A": float(arguments["--seed"]), "time/env": 1.0}, "arrays": {}}
other = line | {"metrics": {"time/env": 2.0}}
(folder / "metrics.jsonl").write_text(json.dumps(line) + "\\n" + json.dumps(other) + "\\n")
with (folder.parent / "began.txt").open("a") as file:
    file.write(folder.name + "\\n")
if "--fail" in sys.argv and not (folder.parent / "mended").exists():
    sys.exit("error: this one fails")
"""


@pytest.fixture
def grid(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("grid")
    del sys.modules["grid"]


def test_runs_are_trained_once_and_kept(grid, tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    good = grid.Variant("with, experts", str(script), "some")
    bad = grid.Variant("bad", str(script), "some", "--fail yes")
    runs, kept = tmp_path / "runs", tmp_path / "kept"
    everything = grid.Grid([good, bad], (0, 7), runs, kept, ("eval_",))
    with pytest.raises(SystemExit, match="2 of 4 runs failed; the same command tries again"):
        everything.train(2)
    said = capsys.readouterr().out
    assert "bad_s0 ended with 1: error: this one fails" in said
    assert grid.is_finished(everything.folder_of(good, 7))
    assert sorted(path.name for path in kept.iterdir()) == ["with_experts_s0", "with_experts_s7"]

    (runs / "mended").touch()
    everything.train(1)
    began = (runs / "began.txt").read_text().split()
    assert sorted(began) == ["bad_s0"] * 2 + ["bad_s7"] * 2 + ["with_experts_s0", "with_experts_s7"]
    for name in ("with_experts_s7", "bad_s7"):
        config = json.loads((kept / name / "config.json").read_text())
        assert config == {"preset": "some", "output_dir": "runs/runs"}
        (line,) = read_metrics(kept / name / "metrics.jsonl.gz")
        assert line["metrics"] == {"eval_return/A": 7.0}
        assert "s wall" in (kept / name / "finished.txt").read_text()


def test_what_was_trained_before_is_kept_too(grid, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    variant = grid.Variant("one", str(script), "some")
    grid.Grid([variant], (3,), tmp_path / "runs").train(1)
    later = grid.Grid([variant], (3,), tmp_path / "runs", tmp_path / "kept", ("eval_",))
    (tmp_path / "kept/one_s3").mkdir(parents=True)
    (tmp_path / "kept/one_s3/metrics.jsonl").write_text("as it was kept before\n")
    later.train(1)
    names = {path.name for path in (tmp_path / "kept/one_s3").iterdir()}
    assert names == {"config.json", "finished.txt", "metrics.jsonl.gz"}
    assert (tmp_path / "runs/began.txt").read_text().split() == ["one_s3"]
