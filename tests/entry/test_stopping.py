"""Ctrl-C and SIGTERM: on a real command, on two ranks, and twice."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import lzero
from lzero.checkpoint import list_checkpoints, load_state
from lzero.entry import train_unizero_multitask_segment_ddp
from lzero.entry.run import Run
from lzero.entry.stopping import (
    LAUNCHER,
    ONE_KEY_PRESS,
    SIGNALS,
    StoppedError,
    StopRequest,
)
from tests.entry.run_cases import settings
from tests.ranks import run_ranks

ROOT = Path(lzero.__file__).parents[1]
SCRIPT = "zoo/catch/config/catch_unizero_multitask_segment_ddp_config_moe.py"
SHORT = (
    *(
        "--train.max-env-steps",
        "4000",
        "--train.random-steps",
        "100",
        "--train.eval-interval",
        "100000",
    ),
    *("--train.checkpoint-interval", "100000", "--train.log-interval", "1", "--train.no-video"),
)
SECONDS = 60


def test_ctrl_c_ends_a_run_in_good_order_and_the_same_command_continues_it(tmp_path):
    command = [
        sys.executable,
        SCRIPT,
        *SHORT,
        "--output-dir",
        str(tmp_path),
        "--exp-name",
        "stopped",
    ]
    run_dir = tmp_path / "stopped"
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        metrics, end = run_dir / "metrics.jsonl", time.monotonic() + SECONDS
        while (
            not (metrics.exists() and "learn/loss" in metrics.read_text())
            and time.monotonic() < end
        ):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, said
    assert "Traceback" not in said and "the same command continues" in said
    [checkpoint] = list_checkpoints(run_dir / "checkpoints")
    steps = load_state(checkpoint)["env_steps"]
    assert f"stopped at {steps:,} of 4,000 env steps per game" in said
    more = [*command, "--train.max-env-steps", str(steps + 16), "--train.eval-episodes", "1"]
    again = subprocess.run(more, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert (
        again.returncode == 0 and f"at {steps:,} env steps per game" in again.stdout + again.stderr
    )


def stopping(directory: Path) -> tuple[int, str]:
    """Rank 1 alone is told to stop after 40 env steps."""
    updates_due = Run.updates_due

    def counting(run: Run) -> int:
        if run.env_steps >= 40 and run.dist.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return updates_due(run)

    Run.updates_due = counting
    try:
        train_unizero_multitask_segment_ddp(
            settings(directory, {"train.checkpoint_interval": 1000})
        )
    except StoppedError as stopped:
        newest = list_checkpoints(directory / "tiny" / "checkpoints")[-1]
        return load_state(newest)["env_steps"], str(stopped)
    return -1, "not stopped"


def test_all_ranks_stop_where_one_is_asked_to(tmp_path):
    first, second = run_ranks(partial(stopping, tmp_path), 2, tmp_path)
    assert first == second and 0 < first[0] < 120, first
    assert first[1] == f"stopped at {first[0]} of 120 env steps per game"


def test_a_second_signal_ends_the_process_at_once(monkeypatch):
    before = [signal.getsignal(number) for number in SIGNALS]
    killed: list[int] = []
    monkeypatch.delenv(LAUNCHER, raising=False)
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(number))
    for first, second in ((signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)):
        with StopRequest() as stop:
            stop.training_begins()
            assert not stop.asked
            signal.raise_signal(first)
            assert stop.asked and not killed
            signal.raise_signal(second)
            assert killed.pop() == second and signal.getsignal(second) == signal.SIG_DFL
            assert stop.stopped("").status == 128 + first
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_what_a_launcher_passes_on_is_no_second_signal(monkeypatch):
    """A terminal sends Ctrl-C to all processes; torchrun then sends its own what it got."""
    killed: list[int] = []
    monkeypatch.setenv(LAUNCHER, "none")
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(number))
    now = [10.0]
    with StopRequest(lambda: now[0]) as stop:
        stop.training_begins()
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
        assert stop.asked and not killed
        now[0] += ONE_KEY_PRESS + 1
        signal.raise_signal(signal.SIGTERM)
        assert killed == [signal.SIGTERM]


def test_before_training_a_signal_ends_it_where_it_stands():
    with StopRequest(), pytest.raises(StoppedError, match="before training began") as stopped:
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.status == 143
