"""Where the time of a run goes: seconds per phase, env steps and updates per second."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LEAST_SECONDS = 1e-9  # a clock that has not moved between two looks must not divide by zero


class PhaseTimer:
    """Seconds spent per phase: ``with timer("collect"): …``.

    Phases may nest; an outer phase includes its inner ones. Costs two clock reads per phase.
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[f"time/{phase}"] += time.perf_counter() - start

    def pop(self) -> dict[str, float]:
        """Seconds per phase since the last call, as ``time/{phase}``; starts again from zero."""
        seconds = dict(self._seconds)
        self._seconds.clear()
        return seconds


class RateMeter:
    """Env steps and updates per second of wall time between two looks, all other work included.

    Args:
        env_steps: env steps of all games so far.
        updates: updates so far.
        clock: seconds; replaced in tests.
    """

    def __init__(
        self, env_steps: int, updates: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._last = (clock(), env_steps, updates)

    def pop(self, env_steps: int, updates: int) -> dict[str, float]:
        """``rate/env_steps_per_second`` and ``rate/updates_per_second`` since the last call."""
        now = self._clock()
        then, steps_then, updates_then = self._last
        self._last = (now, env_steps, updates)
        seconds = max(now - then, LEAST_SECONDS)
        return {
            "rate/env_steps_per_second": (env_steps - steps_then) / seconds,
            "rate/updates_per_second": (updates - updates_then) / seconds,
        }
