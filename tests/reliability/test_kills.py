"""SIGKILL at any moment, again and again: the run ends as if nothing had happened, bit for bit."""

import logging
import multiprocessing
import os
import signal
import socket
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
from tests.reliability.runs import assert_same_future, assert_same_tensorboard, run_settings

logger = logging.getLogger(__name__)

KILLS = int(os.environ.get("LZERO_KILLS", "6"))
"""``make soak`` kills hundreds of times."""
SECONDS = max(300, 20 * KILLS)  # for the whole run; a machine may be busy with other things
CHANGES = {
    "train.max_env_steps": 480 + 60 * KILLS,
    "train.checkpoint_interval": 20,
    "train.eval_interval": 400,
    "train.keep_checkpoints": 3,
    "policy.gradient_conflict_interval": 0,
    "train.moe_log_interval": 0,
}


def training(directory: Path, domain: str, place: dict[str, str]) -> None:
    """The whole run; what a process does that may be killed."""
    os.environ |= {"OMP_NUM_THREADS": "1", **place}
    torch.set_num_threads(1)
    train_unizero_multitask_segment_ddp(run_settings(directory, domain, CHANGES), seed=3)


def start(directory: Path, domain: str, world_size: int) -> list[multiprocessing.Process]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "lzero.policy", "pytest", "scipy"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(world_size):
        place = {}
        if world_size > 1:
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
            place |= {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
            place["MASTER_ADDR"] = "127.0.0.1"
        ranks.append(context.Process(target=partial(training, directory, domain, place)))
        ranks[-1].start()
    return ranks


def end_as_torchrun_does(ranks: list[multiprocessing.Process], victim: int) -> None:
    """One is killed; the others are asked to end, and have to."""
    os.kill(ranks[victim].pid, signal.SIGKILL)
    for rank in ranks:
        if rank.exitcode is None:
            rank.terminate()
        rank.join(30)
        assert rank.exitcode is not None, "it waits for the killed one"


def logged(run_dir: Path) -> int:
    """Bytes of metrics, which grow as the run does."""
    metrics = run_dir / "metrics.jsonl"
    return metrics.stat().st_size if metrics.exists() else 0


@pytest.mark.parametrize(
    ("domain", "world_size", "share"),
    [("catch", 1, 2), ("minatar", 1, 2), ("catch", 2, 4)],
    ids=["catch", "minatar", "catch on 2 ranks"],
)
def test_killed_again_and_again(tmp_path, domain, world_size, share):
    """``share``: one in so many of the kills."""
    for process in start(tmp_path / "undisturbed", domain, world_size):
        process.join(SECONDS)
        assert process.exitcode == 0
    lines = read_metrics(tmp_path / "undisturbed/tiny/metrics.jsonl")
    pause = (lines[-1]["wall_time"] - lines[0]["wall_time"]) / len(lines)
    length = logged(tmp_path / "undisturbed" / "tiny")
    wanted = KILLS // share
    rng, killed, during_a_save = np.random.default_rng(5), 0, 0
    run_dir = tmp_path / "killed" / "tiny"
    while True:
        ranks = start(tmp_path / "killed", domain, world_size)
        if killed < wanted:
            # so that about as many fit into the run; every one gets further than the one before
            end = logged(run_dir) + rng.uniform(0.0, 2.0) * length / wanted
            while ranks[0].exitcode is None and logged(run_dir) <= end:
                time.sleep(0.002)
            ranks[0].join(rng.uniform(0.0, 2.0) * pause)
            if ranks[0].exitcode is None:
                end_as_torchrun_does(ranks, int(rng.integers(world_size)))
                killed += 1
            during_a_save += bool(list((run_dir / "checkpoints").glob(".unfinished*")))
        for process in ranks:
            process.join(SECONDS)
        if all(process.exitcode == 0 for process in ranks):
            break
        assert any(process.exitcode == -signal.SIGKILL for process in ranks)
    where = f"{domain} on {world_size} rank(s)"
    logger.info("%s: killed %d times, %d of them during a save", where, killed, during_a_save)
    assert killed >= wanted // 2
    assert_same_future(run_dir, tmp_path / "undisturbed" / "tiny")
    assert curves(run_dir) == curves(tmp_path / "undisturbed" / "tiny")
    assert_same_tensorboard(run_dir, tmp_path / "undisturbed" / "tiny")
    assert len(list_checkpoints(run_dir / "checkpoints")) in (3, 4)
