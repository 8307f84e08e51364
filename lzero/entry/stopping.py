"""Stopping a run in good order: Ctrl-C, or the signal by which schedulers end a job."""

import logging
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_KEY_PRESS = 2.0  # seconds: torchrun passes on to its processes the Ctrl-C that the terminal has sent them already


class StoppedError(KeyboardInterrupt):
    """Somebody asked the run to stop; its checkpoint is written."""


class StopRequest:
    """A context in which Ctrl-C and SIGTERM ask for a stop instead of ending the process where it stands.

    An exception in the middle of anything would leave half a round behind. A second Ctrl-C ends the process at once. Outside
    of the main thread, where Python allows no handlers, nothing changes.

    Args:
        clock: seconds; replaced in tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.asked = False
        self._clock, self._first = clock, 0.0
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

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            if number == signal.SIGINT and self._clock() - self._first > ONE_KEY_PRESS:
                raise KeyboardInterrupt
            return
        self.asked, self._first = True, self._clock()
        logger.info(
            "stopping after this round, with a checkpoint; Ctrl-C once more stops at once and saves nothing"
        )
