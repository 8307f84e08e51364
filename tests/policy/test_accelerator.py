"""Runs ``accelerator_cases.py`` in a process of its own: a device must be known before the first backward pass of a process."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_updates_and_searches_stay_on_an_accelerator():
    cases = ROOT / "tests/policy/accelerator_cases.py"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
        str(cases),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
