"""A disk that fills up, for real: a small file system of its own; where none may be mounted, a limit on the length of files."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import lzero
from tests.reliability.runs import assert_same_future

ROOT = Path(lzero.__file__).parents[1]
COMMAND = (
    "zoo/catch/config/catch_unizero_multitask_segment_ddp_config_moe.py both --env.num-envs 4 --env.num-eval-envs 2 "
    "--policy.search.num-simulations 2 --policy.search.num-eval-simulations 2 --train.max-env-steps 320 "
    "--train.checkpoint-interval 80 --train.eval-episodes 2 --train.log-interval 1 --train.moe-log-interval 10 "
    "--policy.gradient-conflict-interval 10 --train.no-video --exp-name run"
)
CAN_MOUNT = (
    subprocess.run(
        ["unshare", "-rm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True
    ).returncode
    == 0
)
IN_A_FULL_FILE_SYSTEM = """
mount -t tmpfs -o size={size} tmpfs {place}
{python} {command} --output-dir {place} > {said} 2>&1
echo "status $?" >> {said}
ls -A {place}/run/checkpoints >> {said}
mount -o remount,size=1g {place}
{python} {command} --output-dir {place} > {said}.again 2>&1 || exit 3
cp -r {place}/run {kept}
"""


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, *COMMAND.split(), "--output-dir", str(directory)]
    result = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stderr
    return directory / "run"


def check_said(said: str) -> None:
    """One line, and what to do."""
    assert "Traceback" not in said, said
    [line] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "free there); the newest whole checkpoint is" in line
    assert "start the same command again" in line
    assert ".unfinished" not in said, "it would keep the disk full"


@pytest.mark.skipif(not CAN_MOUNT, reason="this machine lets nobody mount a file system")
@pytest.mark.parametrize("size", ["100k", "2500k", "5m"])  # while logging, saving, logging later
def test_a_full_file_system(tmp_path, undisturbed, size):
    (tmp_path / "small").mkdir()
    script = IN_A_FULL_FILE_SYSTEM.format(
        size=size,
        place=tmp_path / "small",
        python=sys.executable,
        command=COMMAND,
        said=tmp_path / "said",
        kept=tmp_path / "run",
    )
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    said = (tmp_path / "said").read_text()
    assert result.returncode == 0, said + result.stderr
    assert "No space left on device" in said and "status 1" in said
    check_said(said)
    assert_same_future(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("limit", [20_000, 400_000], ids=["curves", "parameters"])
def test_files_that_may_not_grow(tmp_path, undisturbed, limit):
    """As by a quota."""
    command = [sys.executable, *COMMAND.split(), "--output-dir", str(tmp_path)]

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    result = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        preexec_fn=limit_files,
    )
    assert result.returncode == 1
    assert "File too large" in result.stderr
    check_said(result.stdout + result.stderr)
    if limit == 20_000:  # what is there does no harm
        again = subprocess.run(
            command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200
        )
        assert again.returncode == 0, again.stderr
        assert_same_future(tmp_path / "run", undisturbed)


def test_a_folder_that_is_gone(tmp_path):
    """And one that must not be written: both before anything is done."""
    (tmp_path / "file").write_text("no folder")
    command = [sys.executable, *COMMAND.split(), "--output-dir", str(tmp_path / "file")]
    result = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "error: cannot go on: " in result.stderr and "Not a directory" in result.stderr
