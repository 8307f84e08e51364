"""Where and with what a run was trained: a line in its folder for every start, and one for every end.

A run may go on elsewhere, so lines are appended. An attempt that was killed has no end.
"""

import json
import logging
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from lzero import checks

if TYPE_CHECKING:  # reports read what is written here, and help must come at once
    import torch

logger = logging.getLogger(__name__)

ENVIRONMENT_FILE = "environment.jsonl"
CPU_INFO = Path("/proc/cpuinfo")  # Linux writes the processor's name there
PACKAGES = ("lzero", "torch", "numpy", "gymnasium", "ale-py", "numba", "scipy", "safetensors")
"""Whose versions can change what a run computes."""
GIT_SECONDS = 10.0  # a repository on a slow network drive must not hold a run up
START, END = "start", "end"
Seconds = Annotated[float, Field(ge=0, le=1e11)]  # since 1970: up to the year 5138


@dataclass(frozen=True)
class Start:
    """One start of a run."""

    wall_time: Seconds  # since 1970
    env_step: int  # env steps per game from which it goes on
    train_iter: int  # updates from which it goes on
    seed: int
    command: str  # as a shell takes it
    processes: int
    device: str  # ``cpu`` or the name of the GPU
    processor: str
    cores: int  # that this process may use
    memory_gib: float  # of the machine
    system: str
    python: str
    versions: dict[str, str]  # by package; those that are not installed are left out
    commit: str = ""  # of the repository that the code lies in; empty where it lies in none
    is_changed: bool = False  # whether files of that repository differed from the commit


@dataclass(frozen=True)
class End:
    """How far an attempt came, and what it took."""

    wall_time: Seconds  # since 1970
    env_step: int  # env steps per game
    train_iter: int  # updates
    wall_seconds: float  # from the start
    cpu_seconds: float  # of the first process and of the ones that it started, on all cores


@dataclass(frozen=True)
class Attempt:
    """A start, and its end if it had one."""

    start: Start
    end: End | None = None


def here(seed: int, env_step: int, train_iter: int, processes: int, device: str) -> Start:
    """This machine and this program as they are now.

    Args:
        seed: of the run.
        env_step: env steps per game behind it.
        train_iter: updates behind it.
        processes: that train together.
        device: ``cpu`` or the name of the GPU.

    Raises:
        TypeError: if a number is none.
        ValueError: if one is negative, or there is no process.
    """
    commit, is_changed = code_state(Path(__file__).parents[1])
    return Start(
        wall_time=time.time(),
        env_step=checks.count("env_step", env_step, 0),
        train_iter=checks.count("train_iter", train_iter, 0),
        seed=checks.count("seed", seed, 0),
        command=shlex.join(sys.orig_argv),
        processes=checks.count("processes", processes),
        device=device,
        processor=_processor(),
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions=dict(_versions()),
        commit=commit,
        is_changed=is_changed,
    )


def device_name(device: "torch.device") -> str:
    """``cpu``, or what the GPU calls itself."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def code_state(root: Path) -> tuple[str, bool]:
    """Commit of the repository at ``root``, and whether its files differ from it; empty without one."""
    if not (root / ".git").exists():  # one further up is not this code's
        return "", False
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return commit, bool(changed)


# Lines may come from elsewhere; fields that a later version has added are passed over.
STARTS, ENDS = TypeAdapter(Start), TypeAdapter(End)


class AttemptLog:
    """Writes the attempt under way down in the folder of its run: the start at once.

    Args:
        folder: of the run.
        start: as :func:`here` gives it.

    Raises:
        OSError: if the file cannot be written.
    """

    def __init__(self, folder: Path, start: Start) -> None:
        self._folder, self._start = folder, start
        self._cpu_before = cpu_seconds()
        _append(folder, {START: asdict(start)})

    def end(self, env_step: int, train_iter: int) -> None:
        """Write down how far it came, in env steps per game and updates."""
        now = time.time()
        took = (now - self._start.wall_time, cpu_seconds() - self._cpu_before)
        try:
            _append(self._folder, {END: asdict(End(now, env_step, train_iter, *took))})
        except OSError as error:  # a full disk has ended the run: that error is the one to be seen
            logger.warning("the end of this attempt could not be written down: %s", error)


def cpu_seconds() -> float:
    """CPU time that this process has taken so far, with those that it started and that have ended."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    return total


def read_attempts(folder: Path) -> list[Attempt]:
    """Attempts of a run, oldest first; none of a run from before they were written down.

    Raises:
        TypeError: if ``folder`` is no path.
        ValueError: if the file cannot be understood, with its line.
    """
    file = checks.path("folder", folder) / ENVIRONMENT_FILE
    if not file.is_file():
        return []
    found: list[Attempt] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break  # killed while it wrote
        try:
            written: dict[str, Any] = json.loads(line)
            if START in written:
                found.append(Attempt(STARTS.validate_python(written[START])))
            else:
                found[-1] = replace(found[-1], end=ENDS.validate_python(written[END]))
        except (ValueError, TypeError, LookupError) as error:
            reason = repr(error)
            if isinstance(error, ValidationError):  # whose text has many lines
                first = error.errors()[0]
                reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            hint = "delete the line: it is read by reports alone"
            raise ValueError(
                f"{file}, line {number} is no start or end ({reason}); {hint}"
            ) from error
    return found


def _append(folder: Path, line: dict[str, Any]) -> None:
    file = folder / ENVIRONMENT_FILE
    if file.exists():
        content = file.read_bytes()
        os.truncate(file, content.rfind(b"\n") + 1)  # a torn line of a killed process
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(line) + "\n")


def _processor() -> str:
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue


def _git(root: Path, *arguments: str) -> str:
    """What git answers; empty where it is not there or does not know."""
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]  # writes nothing
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
