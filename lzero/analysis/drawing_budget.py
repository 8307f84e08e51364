"""Optional work that must not slow a run down: which of its measurements are drawn."""

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
    def spending(self, *, always: bool = False) -> Iterator[bool]:
        """Whether the work may be done in this context, in any case where ``always``; if so its
        time counts.
        """
        granted, begin = always or self.granted, self._clock()
        try:
            yield granted
        finally:
            self._spent += granted * (self._clock() - begin)


class PictureSchedule:
    """When the measurements of one subject are drawn: the first at once, further ones while the
    budget lasts, the latest whenever :meth:`draw_latest` is called. No env step is drawn twice.

    Args:
        budget: how much time the pictures may take; what is drawn in any case counts too.
        drawn_step: env step of the last pictures, where a run goes on; None if there are none.
        wanted: whether anything is drawn at all.
    """

    def __init__(
        self, budget: DrawingBudget, drawn_step: int | None = None, *, wanted: bool = True
    ) -> None:
        checks.instance("budget", budget, DrawingBudget, "a DrawingBudget")
        self._budget, self._drawn_step, self._wanted = budget, drawn_step, wanted
        self._waiting: tuple[int, Callable[[], None]] | None = None  # the latest, if not drawn

    def offer(self, env_step: int, draw: Callable[[], None]) -> None:
        """Draw a measurement, or keep it, in the place of the one before, until it is wanted.

        Args:
            env_step: at which it was taken; the first one at an env step that is drawn stands for
                all that are taken there.
            draw: draws and logs it; called now, later or never.
        """
        if checks.count("env_step", env_step, 0) != self._drawn_step and self._wanted:
            self._waiting = (env_step, draw)
            self._draw(always=False)

    def draw_latest(self) -> None:
        """Draw the last measurement, unless that is done or there is none."""
        self._draw(always=True)

    def _draw(self, *, always: bool) -> None:
        if self._waiting is None:
            return
        with self._budget.spending(always=always) as granted:
            if granted:
                self._drawn_step, draw = self._waiting
                self._waiting = None
                draw()
