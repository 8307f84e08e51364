"""Where and with what a run was trained is kept in its folder."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from lzero.environment import (
    ENVIRONMENT_FILE,
    AttemptLog,
    code_state,
    device_name,
    here,
    read_attempts,
)


def test_attempts_are_read_as_they_were_written(tmp_path):
    assert read_attempts(tmp_path) == [], "older runs have none"
    first = here(3, 0, 0, 1, device_name(torch.device("cpu")))
    log = AttemptLog(tmp_path, first)
    assert [attempt.end for attempt in read_attempts(tmp_path)] == [None], "under way, or killed"
    sum(number * number for number in range(300_000))  # takes CPU time
    log.end(40, 7)
    with (tmp_path / ENVIRONMENT_FILE).open("a") as file:
        file.write('{"start": {"wall')  # killed while it wrote
    AttemptLog(tmp_path, replace(first, env_step=40, train_iter=7, processor="another"))
    one, other = read_attempts(tmp_path)
    assert one.start == first and (one.end.env_step, one.end.train_iter) == (40, 7)
    assert 0 < one.end.cpu_seconds < 60 and 0 < one.end.wall_seconds < 60
    assert other.start.processor == "another" and other.end is None


def test_a_start_names_this_machine_and_program():
    start = here(3, 10, 2, 4, "cpu")
    assert (start.seed, start.env_step, start.train_iter, start.processes) == (3, 10, 2, 4)
    assert start.versions["torch"].startswith(torch.__version__.partition("+")[0])
    assert start.python == platform.python_version() and 1 <= start.cores <= os.cpu_count()
    assert start.memory_gib > 0.1 and start.processor
    assert sys.orig_argv[-1] in start.command


def test_the_code_is_named_by_its_commit(tmp_path):
    assert code_state(tmp_path) == ("", False), "it lies in no repository"

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-m", "first")
    commit, is_changed = code_state(tmp_path)
    assert len(commit) == 40 and not is_changed
    (tmp_path / "notes.txt").write_text("not part of it")
    assert code_state(tmp_path) == (commit, False)
    (tmp_path / "code.py").write_text("2")
    assert code_state(tmp_path) == (commit, True)


def test_a_broken_line_is_named_and_later_fields_are_not(tmp_path):
    AttemptLog(tmp_path, here(0, 0, 0, 1, "cpu"))
    file = tmp_path / ENVIRONMENT_FILE
    written = json.loads(file.read_text())
    written["start"]["of_a_later_version"] = 1
    file.write_text(json.dumps(written) + "\n")
    assert len(read_attempts(tmp_path)) == 1
    written["start"]["wall_time"] = 1e300
    for line in (
        json.dumps(written),
        "{}",
        "no json",
        '{"start": {}}',
        '{"end": {"wall_time": 1}}',
    ):
        file.write_text(line + "\n")
        with pytest.raises(ValueError, match="line 1 is no start or end.*delete the line"):
            read_attempts(tmp_path)
