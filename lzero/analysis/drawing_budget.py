"""Optional work that must not slow a run down."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lzero import checks


class DrawingBudget:
    """Grants optional work, such as pictures, while it has taken less than a share of the time; the
    first always.

    Args:
        share: of the wall time since it was made, 0 to 1.
        clock: seconds; replaced in tests.

    Raises:
        ValueError: if ``share`` is below 0 or above 1.
    """

    def __init__(self, share: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._share, self._clock = checks.number("share", share, 0.0, 1.0), clock
        self._start = clock()
        self._spent = 0.0

    @property
    def granted(self) -> bool:
        """Whether the work may be done now."""
        return self._spent <= self._share * (self._clock() - self._start)

    @contextmanager
    def spending(self) -> Iterator[bool]:
        """Whether the work may be done in this context; if so its time counts."""
        granted, begin = self.granted, self._clock()
        try:
            yield granted
        finally:
            self._spent += granted * (self._clock() - begin)
