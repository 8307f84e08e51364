"""Two real processes under torchrun, one of which dies: both are started again and end as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import lzero
from tests.reliability.runs import assert_same_future

ROOT = Path(lzero.__file__).parents[1]
SCRIPT = "zoo/catch/config/catch_unizero_multitask_segment_ddp_config_moe.py"
OPTIONS = (
    "both --env.num-envs 4 --env.num-eval-envs 2 --policy.search.num-simulations 4 --policy.search.num-eval-simulations 4 "
    "--train.max-env-steps 320 --train.checkpoint-interval 80 --train.eval-episodes 4 "
    "--train.log-interval 7 --train.no-video --train.no-pictures --exp-name run"
).split()
DIES_FIRST = f"""
import os, runpy, signal, sys
if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    os.kill(os.getpid(), signal.SIGKILL)
sys.argv[0] = {SCRIPT!r}
runpy.run_path({SCRIPT!r}, run_name="__main__")
"""
"""A rank that ends before it has met the other one."""
SECONDS = 60.0
"""A survivor once waited longer than this before anything was started again."""


@contextmanager
def launched(script: str, directory: Path, restarts: int) -> Iterator[subprocess.Popen]:
    """torchrun with two ranks; none is left behind."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    options = (f"--max-restarts={restarts}", script, *OPTIONS, "--output-dir", str(directory))
    with subprocess.Popen(
        [sys.executable, *launcher, *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def children(process: subprocess.Popen) -> dict[str, int]:
    """Process ids of torchrun's processes by rank."""
    found = {}
    for pid in map(
        int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found |= {
            value.decode().removeprefix("RANK="): pid
            for value in variables
            if value.startswith(b"RANK=")
        }
    return found


def wait_for_updates(run_dir: Path, process: subprocess.Popen) -> None:
    """Until it has learned something and has a checkpoint."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if (
            list(run_dir.glob("checkpoints/step_*"))
            and '"learn/' in (run_dir / "metrics.jsonl").read_text()
        ):
            return
        time.sleep(0.02)
    raise AssertionError(f"no updates in {run_dir}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("undisturbed")
    with launched(SCRIPT, directory, 0) as process:
        said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return directory / "run"


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_killed_rank_is_started_again_from_the_checkpoint(tmp_path, undisturbed, rank):
    with launched(SCRIPT, tmp_path, 1) as process:
        wait_for_updates(tmp_path / "run", process)
        os.kill(children(process)[rank], signal.SIGKILL)
        said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert "continues bit for bit" in said and "Traceback" not in said
    assert_same_future(tmp_path / "run", undisturbed)


def test_a_rank_that_dies_before_it_has_met_the_others_is_started_again(tmp_path, undisturbed):
    script = tmp_path / "dies_first.py"
    script.write_text(DIES_FIRST)
    start = time.monotonic()
    with launched(str(script), tmp_path, 1) as process:
        said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert time.monotonic() - start < SECONDS and "Traceback" not in said
    assert_same_future(tmp_path / "run", undisturbed)


def test_without_a_restart_the_survivor_says_what_has_happened(tmp_path):
    with launched(SCRIPT, tmp_path, 0) as process:
        wait_for_updates(tmp_path / "run", process)
        os.kill(children(process)["1"], signal.SIGKILL)
        said, _ = process.communicate(timeout=200)
    assert process.returncode != 0
    ours = said.partition("torch.distributed.elastic.multiprocessing.errors.ChildFailedError")[0]
    assert "error: another process of this run has ended" in ours, said
    assert "[rank0]" not in said, "a traceback of ours"
