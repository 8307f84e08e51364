"""SIGKILL at any moment, again and again: the run ends as if nothing had happened, bit for bit."""

import logging
import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lzero.checkpoint import list_checkpoints
from lzero.entry import train_unizero_multitask_segment_ddp
from lzero.logging import read_metrics
from tests.entry.run_cases import curves
from tests.reliability.runs import assert_same_future, run_settings

logger = logging.getLogger(__name__)

KILLS = int(os.environ.get("LZERO_KILLS", "12"))
"""``make soak`` kills hundreds of times."""
CHANGES = {
    "train.max_env_steps": 140 * KILLS,
    "train.checkpoint_interval": 20,
    "train.eval_interval": 400,
    "train.keep_checkpoints": 3,
    "policy.gradient_conflict_interval": 0,
    "train.moe_log_interval": 0,
}


def training(directory: Path, domain: str) -> None:
    """The whole run; what a process does that may be killed."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    train_unizero_multitask_segment_ddp(run_settings(directory, domain, CHANGES), seed=3)


def start(directory: Path, domain: str) -> multiprocessing.Process:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "lzero.policy", "pytest", "scipy"])
    process = context.Process(target=partial(training, directory, domain))
    process.start()
    return process


def lines(run_dir: Path) -> list[str]:
    metrics = run_dir / "metrics.jsonl"
    return metrics.read_text().splitlines() if metrics.exists() else []


@pytest.mark.parametrize("domain", ["catch", "minatar"])
def test_killed_again_and_again(tmp_path, domain):
    process = start(tmp_path / "undisturbed", domain)
    process.join(300)
    assert process.exitcode == 0
    times = [
        line["wall_time"] for line in read_metrics(tmp_path / "undisturbed/tiny/metrics.jsonl")
    ]
    training_seconds = times[-1] - times[0]

    rng, killed, during_a_save = np.random.default_rng(5), 0, 0
    run_dir = tmp_path / "killed" / "tiny"
    while True:
        process = start(tmp_path / "killed", domain)
        if killed < KILLS // 2:
            before = len(lines(run_dir))
            while process.exitcode is None and len(lines(run_dir)) <= before:
                time.sleep(0.005)  # it builds what it needs
            process.join(rng.uniform(0.0, 0.3) * training_seconds)
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
            process.join()
            during_a_save += bool(list((run_dir / "checkpoints").glob(".unfinished*")))
        else:
            process.join(300)
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:
            break
    logger.info("%s: killed %d times, %d of them during a save", domain, killed, during_a_save)
    assert killed >= min(KILLS // 2, 3)
    assert_same_future(run_dir, tmp_path / "undisturbed" / "tiny")
    assert curves(run_dir) == curves(tmp_path / "undisturbed" / "tiny")
    assert len(list_checkpoints(run_dir / "checkpoints")) in (3, 4)
