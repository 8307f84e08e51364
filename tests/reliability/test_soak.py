"""A long run takes no more memory, files and threads at its end than at its beginning, and is as fast."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import lzero
from lzero.logging import read_metrics

ROOT = Path(lzero.__file__).parents[1]
MINUTES = float(os.environ.get("LZERO_SOAK_MINUTES", "0.4"))
"""``make soak`` takes half an hour."""
COMMAND = (
    "zoo/minatar/config/minatar_unizero_multitask_segment_ddp_config_moe.py breakout --env.num-envs 8 --policy.batch-size 8 "
    "--policy.replay.capacity 800 --policy.replay-ratio 0.1 --train.max-env-steps 1000000000 --train.random-steps 0 "
    "--train.eval-interval 20000 --train.eval-episodes 8 --train.checkpoint-interval 2000 --train.log-interval 20 "
    "--env.max-episode-steps 100 "  # episodes grow with what is learned, and evaluations with them
    "--train.moe-log-interval 40 --policy.gradient-conflict-interval 40 --train.no-video --exp-name soak"
).split()
IS_LONG = MINUTES >= 10
WARM_UP = 0.1 if IS_LONG else 0.3  # share of the time in which rings fill and functions compile
MEMORY = 1.05  # as much at the end as at the beginning, and allocators keep a little
SLOWEST = 0.95 if IS_LONG else 0.7  # of the pace at the beginning; seconds tell less
WINDOW = 60.0 if IS_LONG else 3.0  # seconds over which a pace is measured


@dataclass
class Look:
    """What a process has taken at a moment."""

    seconds: float
    cpu_seconds: float
    resident: int
    handles: int
    threads: int
    env_step: int


def look(pid: int, metrics: Path, start: float) -> Look:
    process = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])  # user and system time
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - 20_000))
        lines = file.read().splitlines()[1:]
    whole = [line for line in lines if line.endswith(b"}")]
    return Look(
        time.monotonic() - start,
        ticks / os.sysconf("SC_CLK_TCK"),
        int(status["VmRSS"].split()[0]),
        len(list((process / "fd").iterdir())),
        int(status["Threads"]),
        json.loads(whole[-1])["env_step"] if whole else 0,
    )


def pace(looks: list[Look]) -> float:
    """Env steps per second of the processor, in the fastest window: neighbours on a machine take turns."""
    best, start = 0.0, 0
    for end in range(len(looks)):
        if looks[end].seconds - looks[start].seconds >= WINDOW:
            steps = looks[end].env_step - looks[start].env_step
            best = max(best, steps / (looks[end].cpu_seconds - looks[start].cpu_seconds))
            start += (end - start) // 2  # windows overlap by half
    return best


def test_a_long_run_stays_as_it_is(tmp_path):
    metrics = tmp_path / "soak" / "metrics.jsonl"
    with subprocess.Popen(
        [sys.executable, *COMMAND, "--output-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            while not (metrics.exists() and metrics.stat().st_size):
                assert process.poll() is None
                time.sleep(0.1)
            start, looks = time.monotonic(), []
            while time.monotonic() - start < 60 * MINUTES:
                looks.append(look(process.pid, metrics, start))
                time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 143
        finally:
            process.kill()
    looks = [one for one in looks if one.seconds > WARM_UP * 60 * MINUTES]
    third = len(looks) // 3
    first, last = looks[:third], looks[-third:]
    found = {
        "memory": np.median([one.resident for one in last])
        / np.median([one.resident for one in first]),
        "handles": max(one.handles for one in last) - max(one.handles for one in first),
        "threads": max(one.threads for one in last) - max(one.threads for one in first),
        "pace": pace(last) / pace(first),
        "env steps": looks[-1].env_step,
    }
    print(f"{MINUTES:g} minutes: {found}")  # noqa: T201
    assert found["memory"] <= MEMORY, found
    assert found["handles"] <= 0 and found["threads"] <= 0, found
    assert found["pace"] >= SLOWEST, found
    assert read_metrics(metrics)[-1]["env_step"] > 1000
