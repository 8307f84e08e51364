"""Programs side by side, each on one thread and with a log of its own: what sweeps and benchmarks train with."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lzero import checks

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SHELL_STATUS = 128  # exit status by which shells know a signal, less its number
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
SHOWN_NAMES = 3  # of programs under way, beside the bar
TAIL_BYTES = 4_096  # of a log, in which its last line is looked for


class JobsStoppedError(KeyboardInterrupt):
    """Somebody asked to stop; all programs have ended.

    Attributes:
        status: exit status of a process that the signal ends.
    """

    def __init__(self, number: int) -> None:
        super().__init__("stopped")
        self.status = SHELL_STATUS + number


@dataclass(frozen=True)
class Job:
    """A program that is to be run."""

    name: str
    command: tuple[str, ...]
    log: Path
    """File to which its output is appended; its folder is made."""


@dataclass(frozen=True)
class Ended:
    """A program that has ended."""

    job: Job
    status: int
    """0 for success, negative for the number of a signal."""
    wall_seconds: float
    cpu_seconds: float

    @property
    def last_line(self) -> str:
        """Of its log; where one says what was wrong, that one."""
        with self.job.log.open("rb") as file:
            file.seek(max(0, os.path.getsize(self.job.log) - TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
        lines = [line.strip() for line in lines if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or [""])[-1]


def run_jobs(
    jobs: Sequence[Job],
    side_by_side: int,
    *,
    title: str = "runs",
    on_end: Callable[[Ended], None] = lambda ended: None,
) -> list[Ended]:
    """Run all programs, ``side_by_side`` at a time, with a progress bar; one that fails does not stop the others.

    Ctrl-C and SIGTERM are passed on to the programs once each, so that they can end in good order, and no other begins.

    Args:
        jobs: in the order in which they begin.
        side_by_side: programs at a time.
        title: beside the bar.
        on_end: called in this thread when one has ended.

    Returns:
        How each has ended, in the order of ``jobs``.

    Raises:
        TypeError: if ``side_by_side`` is no whole number.
        ValueError: if it is below 1.
        JobsStoppedError: after a signal, when all have ended.
    """
    checks.count("side_by_side", side_by_side)
    under_way = _UnderWay()
    ended: dict[str, Ended] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[names]}"),
    )
    with (
        _passed_on(under_way),
        Progress(*columns) as progress,
        ThreadPoolExecutor(side_by_side) as pool,
    ):
        bar = progress.add_task(title, total=len(jobs), names="")
        futures = [pool.submit(under_way.run, job) for job in jobs]
        for future in as_completed(futures):
            result = future.result()
            if result is not None:
                ended[result.job.name] = result
                on_end(result)
            progress.update(bar, advance=1, names=under_way.names())
    if under_way.signal is not None:
        raise JobsStoppedError(under_way.signal)
    return [ended[job.name] for job in jobs]


class _UnderWay:
    """Programs that run now."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.RLock()  # a signal may come while this thread has it

    def run(self, job: Job) -> Ended | None:
        """Run one to its end; None if nothing is to begin any more."""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        with job.log.open("a") as log:
            with self._lock:
                if self.signal is not None:
                    return None
                # a session of its own: Ctrl-C of the terminal comes from here, once
                process = subprocess.Popen(
                    job.command,
                    env=os.environ | ONE_THREAD,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                self._processes[job.name] = process
            _, status, usage = os.wait4(process.pid, 0)
        with self._lock:
            process.returncode = os.waitstatus_to_exitcode(status)
            del self._processes[job.name]
        seconds = usage.ru_utime + usage.ru_stime
        return Ended(job, process.returncode, time.monotonic() - start, seconds)

    def names(self) -> str:
        """A few of those that run."""
        with self._lock:
            names = list(self._processes)
        return ", ".join(names[:SHOWN_NAMES]) + (" …" if len(names) > SHOWN_NAMES else "")

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Pass a signal on."""
        with self._lock:
            self.signal = number
            for process in self._processes.values():
                try:
                    os.kill(process.pid, signal.SIGTERM)
                except ProcessLookupError:
                    pass  # it has ended, and its thread is about to say so


@contextmanager
def _passed_on(under_way: _UnderWay) -> Iterator[None]:
    """Signals go to the programs; outside of the main thread, where Python allows no handlers, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup's wish is kept
            before[number] = signal.signal(number, under_way.stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
