"""Stopping a run in good order: Ctrl-C, or the signal by which schedulers end a job."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from lzero.distributed import SIGNALS

logger = logging.getLogger(__name__)

LAUNCHER = "TORCHELASTIC_RUN_ID"  # in the environment of processes that torchrun started
# Seconds: torchrun passes on to its processes the Ctrl-C that the terminal has sent them already.
ONE_KEY_PRESS = 2.0
SHELL_STATUS = 128  # exit status by which shells know a signal, less its number


class StoppedError(KeyboardInterrupt):
    """Somebody asked the run to stop.

    Attributes:
        status: exit status of a process that the signal ends: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.status = SHELL_STATUS + number


class AskedToStopError(Exception):
    """Raised where a run can be left and continued, once somebody has asked it to stop."""


class StopRequest:
    """A context in which Ctrl-C and SIGTERM ask for a stop instead of ending the process where it stands.

    Until training has begun nothing is lost by ending there: a signal raises :class:`StoppedError`. From then on an
    exception in the middle of anything would leave half a step behind, so the run asks between its steps. A second signal
    ends the process at once. Outside of the main thread, where Python allows no handlers, nothing changes.

    Args:
        clock: seconds; replaced in tests.

    Attributes:
        number: of the signal, None as long as nobody has asked.
        early: why a callback wants the run to be finished before its time; None if none does.
        failure: what a callback has raised.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.number: int | None = None
        self.early: str | None = None
        self.failure: Exception | None = None
        self._clock, self._first = clock, 0.0
        self._started = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def asked(self) -> bool:
        """Whether somebody wants the run to stop: a signal, or a callback."""
        return self.number is not None or self.early is not None or self.failure is not None

    def training_begins(self) -> None:
        """From now on the run asks for itself."""
        self._started = True

    def stopped(self, message: str) -> StoppedError:
        """The error with which the run ends; on a rank that was not asked itself, as after SIGTERM."""
        return StoppedError(message, self.number or signal.SIGTERM)

    def training_is_over(self) -> None:
        """An early end is granted; signals and failures still count."""
        self.early = None

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            if LAUNCHER in os.environ and self._clock() - self._first <= ONE_KEY_PRESS:
                return
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.number, self._first = number, self._clock()
        if not self._started:
            raise self.stopped("stopped before training began")
        logger.info("stopping, with a checkpoint; once more stops at once and saves nothing")
