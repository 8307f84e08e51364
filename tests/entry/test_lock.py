"""One run at a time writes a folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lzero.config import ExperimentConfig
from lzero.entry import train_unizero_multitask_segment_ddp
from lzero.entry.checkpointing import RunError
from lzero.entry.lock import FolderLock, LockedError
from lzero.entry.run import Run
from tests.entry.run_cases import settings

HOLD = """
import sys, time
from lzero.entry.lock import FolderLock
lock = FolderLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_ends_with_its_process(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(
            LockedError, match=f"is being written by process {process.pid} on .*exp_name"
        ):
            FolderLock(tmp_path).acquire()
        process.send_signal(signal.SIGKILL)
        process.wait()
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert f"process {os.getpid()}" in (tmp_path / "lock").read_text()
    lock.release()
    lock.release()


def test_a_second_run_is_refused_and_the_first_goes_on(tmp_path):
    config = ExperimentConfig.model_validate(settings(tmp_path))
    with Run(config, seed=3, max_env_steps=120, resume=True):
        with pytest.raises(RunError, match="being written by another run of this process"):
            train_unizero_multitask_segment_ddp(settings(tmp_path), seed=3)
    result = train_unizero_multitask_segment_ddp(settings(tmp_path), seed=3)
    assert result.env_steps == 120


def test_a_refused_run_holds_no_lock(tmp_path):
    train_unizero_multitask_segment_ddp(settings(tmp_path), seed=3, max_env_step=40)
    with pytest.raises(RunError, match="seed"):
        train_unizero_multitask_segment_ddp(settings(tmp_path), seed=4)
    train_unizero_multitask_segment_ddp(settings(tmp_path), seed=3, max_env_step=60)


def test_two_commands_at_once(tmp_path):
    """The second one says in one line who writes the folder; the first one ends well."""
    root = Path(__file__).parents[2]
    command = [
        sys.executable,
        "zoo/catch/config/catch_unizero_multitask_segment_ddp_config_moe.py",
        *"both --env.num-envs 4 --env.num-eval-envs 2 --train.max-env-steps 640 --train.eval-episodes 2".split(),
        *"--policy.search.num-simulations 2 --policy.search.num-eval-simulations 2 --train.no-video".split(),
        *("--output-dir", str(tmp_path), "--exp-name", "same"),
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": root}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes == [0, 1], said
    [refused] = [text for text, process in zip(said, processes, strict=True) if process.returncode]
    assert (
        refused.strip()
        .splitlines()[-1]
        .startswith(f"error: {tmp_path}/same is being written by process")
    )
    assert "Traceback" not in "".join(said)
    assert len(list((tmp_path / "same" / "tb").iterdir())) == 1
