"""A sweep: its runs, what is left alone and what goes on, failures, stopping; training is a program of a moment."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from lzero.command import sweep
from lzero.command.jobs import Job, JobsStoppedError, run_jobs
from lzero.command.sweep_file import read_sweep, short_names
from lzero.console.config_files import read_config_file

FILE = """
base: catch-moe both
output_dir: {folder}
seeds: [0, 1]
jobs: 2
set: {{train.max_env_steps: 320, train.video: false}}
grid:
  policy.optimiser.learning_rate: [1e-3, 3e-4]
  policy.batch_size: [4, 8]
"""
# What a run leaves, as far as a sweep looks at it; fails for one of them.
TRAIN = """
import json, os, pathlib, sys
file = pathlib.Path(sys.argv[1])
config = json.loads(file.read_text())
print("training", os.environ["OMP_NUM_THREADS"])
if "3e-4_batch_size_8_s1" in str(file):
    sys.exit("error: it broke")
(file.parent / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "seed"}))
(file.parent / "metrics.jsonl").touch()
(file.parent / "result.json").write_text(json.dumps({"env_steps": config["train"]["max_env_steps"]}))
"""


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    """A sweep of eight runs, whose training is a program of a moment, and whose report is not drawn."""
    path = tmp_path / "sweep.yaml"
    path.write_text(FILE.format(folder=tmp_path / "runs"))

    def command(run, allow_domains=()) -> list[str]:
        return [sys.executable, "-S", "-c", TRAIN, str(run.config.run_dir / "experiment.json")]

    monkeypatch.setattr(sweep, "training_command", command)
    return path


@pytest.fixture
def reported(monkeypatch) -> list[list[str]]:
    """Arguments of the reports that were asked for."""
    asked: list[list[str]] = []
    monkeypatch.setattr("lzero.report.command.main", asked.append)
    return asked


def test_every_cell_is_run_with_every_seed(file, tmp_path):
    runs = read_sweep(file).runs
    assert len(runs) == 8 and [run.seed for run in runs] == [0] * 4 + [1] * 4
    assert runs[1].name == "learning_rate_1e-3_batch_size_8_s0"
    for run in runs:
        config = run.config
        rate, size = run.changes.values()
        assert (config.policy.optimiser.learning_rate, config.policy.batch_size) == (
            float(rate),
            size,
        )
        assert config.train.max_env_steps == 320 and not config.train.video
        assert config.run_dir == tmp_path / "runs" / run.name


def test_a_sweep_begins_with_a_file_too(file, tmp_path):
    first = read_sweep(file).runs[0].config
    (tmp_path / "base.json").write_text(first.model_dump_json())
    file.write_text(f"config: base.json\noutput_dir: {tmp_path}\nset: {{policy.batch_size: 2}}\n")
    [run] = read_sweep(file).runs
    assert run.config.policy.batch_size == 2 and run.name == f"{first.exp_name}_s0"
    assert run.config.policy.optimiser == first.policy.optimiser


def test_names_are_as_short_as_tells_them_apart():
    paths = ["model.dropout", "model.encoder.dropout", "policy.batch_size"]
    assert list(short_names(paths).values()) == ["model.dropout", "encoder.dropout", "batch_size"]


def test_a_dry_run_says_what_would_be_run_and_writes_nothing(file, tmp_path, capsys):
    sweep.main([str(file), "--dry-run"])
    said = capsys.readouterr().out
    assert said.count(" new ") == 8 and "policy.batch_size=8" in said
    assert not (tmp_path / "runs").exists()


def test_a_failing_run_stops_no_other_and_the_same_command_continues(
    file, tmp_path, reported, caplog, monkeypatch
):
    with pytest.raises(SystemExit, match="1 of 8 runs failed"):
        sweep.main([str(file)])
    broken = "learning_rate_3e-4_batch_size_8_s1"
    assert f"{broken} ended with status 1: error: it broke; see" in caplog.text
    states = {run.name: sweep.state(run) for run in read_sweep(file).runs}
    assert states.pop(broken) == "new" and set(states.values()) == {"finished"}
    assert (tmp_path / "runs" / broken / "log.txt").read_text().startswith("training 1\n")
    [asked] = reported
    assert asked[:-2] == [str(tmp_path / "runs" / name) for name in states]
    assert asked[-2:] == ["--out", str(tmp_path / "runs" / "report")]

    begun = []

    def ran(jobs, side_by_side, **_):
        begun.extend((job.name, side_by_side) for job in jobs)
        return []

    monkeypatch.setattr(sweep, "run_jobs", ran)
    sweep.main([str(file), "--jobs", "3"])
    assert begun == [(broken, 3)]


def test_a_place_that_cannot_be_written_is_one_line(file, tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(SystemExit, match="^error: .*runs cannot be written: "):
        sweep.main([str(file)])


def test_what_is_trained_is_in_the_runs_folder(file, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "run_jobs", lambda *_, **__: [])
    sweep.main([str(file)])
    for run in read_sweep(file).runs:
        found = read_config_file(run.config.run_dir / "experiment.json")
        assert (found.config, found.seed) == (run.config, run.seed)


def test_a_run_of_other_settings_or_fewer_steps_is_not_finished(file, tmp_path):
    run = read_sweep(file).runs[0]
    folder = run.config.run_dir
    folder.mkdir(parents=True)
    config = run.config.model_dump(mode="json")

    def left(steps: int) -> str:
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "result.json").write_text(json.dumps({"env_steps": steps}))
        return sweep.state(run)

    assert left(320) == "finished" and left(319) == "new"
    config["train"]["log_interval"] += 1
    assert left(320) == "finished"
    config["policy"]["discount"] = 0.5
    assert left(320) == "new"
    (folder / "checkpoints" / "step_000001").mkdir(parents=True)
    assert sweep.state(run) == "interrupted"


def test_a_signal_goes_to_the_programs_once_and_no_other_begins(tmp_path):
    """The first program waits for the signal and ends in good order; the second never begins."""
    wait = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); print(1, flush=True); signal.pause()"
    jobs = [
        Job(name, (sys.executable, "-S", "-c", wait), tmp_path / f"{name}.txt")
        for name in ("first", "second")
    ]

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if jobs[0].log.exists() and jobs[0].log.stat().st_size:
                break
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    ended = []
    with pytest.raises(JobsStoppedError) as stopped:
        run_jobs(jobs, 1, on_end=ended.append)
    thread.join()
    assert stopped.value.status == 130
    assert [(end.job.name, end.status) for end in ended] == [("first", 3)]
    assert not jobs[1].log.exists() or not jobs[1].log.stat().st_size
