"""Signals at any moment of a real command: it ends soon, says so, and goes on as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lzero
from lzero.checkpoint import list_checkpoints
from lzero.logging import read_metrics
from tests.reliability.runs import assert_same_future

ROOT = Path(lzero.__file__).parents[1]
SCRIPT = "zoo/catch/config/catch_unizero_multitask_segment_ddp_config_moe.py"
OPTIONS = (
    "both --env.num-envs 4 --env.num-eval-envs 2 --policy.search.num-simulations 4 --policy.search.num-eval-simulations 4 "
    "--train.max-env-steps 960 --train.checkpoint-interval 400 --train.eval-interval 480 --train.eval-episodes 8 "
    "--train.log-interval 7 --train.no-video"
).split()
SECONDS = 10.0
"""In which a run has to end (issue: for preset ``cpu``); the test's machine may be busy with other tests."""


def command(directory: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        SCRIPT,
        *OPTIONS,
        "--output-dir",
        str(directory),
        "--exp-name",
        "run",
        *more,
    ]


def run(directory: Path, *more: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(directory, *more),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def stopped(
    directory: Path, number: signal.Signals, moment: str, *more: str
) -> tuple[int, float, str]:
    """Start the command, send a signal at a moment; exit status, seconds until the end, and what was said."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command(directory, *more),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        wait_for(directory / "run", moment, process)
        start = time.monotonic()
        process.send_signal(number)
        said, _ = process.communicate(timeout=120)
        return process.returncode, time.monotonic() - start, said


def wait_for(run_dir: Path, moment: str, process: subprocess.Popen) -> None:
    """Until a line of the metrics has a tag that begins with ``moment``."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        metrics = run_dir / "metrics.jsonl"
        if metrics.exists() and f'"{moment}' in metrics.read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"no {moment} in {run_dir}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("undisturbed")
    result = run(directory)
    assert result.returncode == 0, result.stdout + result.stderr
    return directory / "run"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(tmp_path, undisturbed, number, status):
    for moment in ("collect_reward", "learn/", "eval_return"):
        code, seconds, said = stopped(tmp_path, number, moment)
        assert code == status and seconds < SECONDS, (code, seconds, said)
        assert "Traceback" not in said and "the same command continues" in said
    result = run(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "continues bit for bit" in result.stdout + result.stderr
    assert_same_future(tmp_path / "run", undisturbed)


def test_an_evaluation_is_given_up_and_made_up_for(tmp_path, undisturbed):
    """One of thousands of episodes would take minutes."""
    long = ("--train.eval-episodes", "20000")
    with subprocess.Popen(
        command(tmp_path, *long),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        metrics, end = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
        while not (metrics.exists() and '"env_step": 480' in metrics.read_text()):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.02)
        time.sleep(2.0)
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 143 and time.monotonic() - start < SECONDS, said
    assert "stopped at 480 of 960" in said
    assert run(tmp_path).returncode == 0
    assert_same_future(tmp_path / "run", undisturbed)
    rows = [
        [
            line["env_step"]
            for line in read_metrics(run_dir / "metrics.jsonl")
            if "eval_return/Catch" in line["metrics"]
        ]
        for run_dir in (tmp_path / "run", undisturbed)
    ]
    assert rows[0] == rows[1] == [480, 960]


def test_a_second_signal_ends_a_run_at_once(tmp_path):
    with subprocess.Popen(
        command(tmp_path), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        wait_for(tmp_path / "run", "learn/", process)
        os.kill(process.pid, signal.SIGSTOP)  # both signals wait for it
        for number in (signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
        os.kill(process.pid, signal.SIGCONT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGTERM, -signal.SIGINT), said
    assert "Traceback" not in said


def test_a_signal_before_training_ends_the_program(tmp_path):
    """While it reads a checkpoint, plays again and builds what it needs, there is nothing to save."""
    assert run(tmp_path).returncode == 0
    checkpoints = list_checkpoints(tmp_path / "run" / "checkpoints")
    with subprocess.Popen(
        command(tmp_path), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        time.sleep(1.5)  # it imports for some seconds
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert process.returncode in (143, -signal.SIGTERM) and time.monotonic() - start < SECONDS, said
    assert "Traceback" not in said
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == checkpoints
