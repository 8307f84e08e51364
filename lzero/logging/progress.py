"""The progress of a run on a terminal, or as log lines."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Self

import rich
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn
from rich.table import Table
from rich.text import Text

from lzero.logging.clocks import LEAST_SECONDS

logger = logging.getLogger(__name__)

RATE_WINDOW = 30  # updates of the display over which env steps per second are averaged


class TrainingProgress:
    """Progress of a run: a bar with phase times and last returns below it, or a log line now and
    then.

    The bar needs a terminal; without one (a log file, a CI page) the same facts are logged now and
    then.

    Args:
        total_env_steps: environment steps of the whole run.
        is_main: whether this process shows anything.
        initial_env_step: environment steps that a resumed run starts from.
        interval: seconds between two log lines.
        console: where to draw; rich's own by default, which log records share.
        clock: seconds; replaced in tests.
    """

    def __init__(
        self,
        total_env_steps: int,
        *,
        is_main: bool,
        initial_env_step: int = 0,
        interval: float = 10.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total_env_steps
        self._interval = interval
        self._clock = clock
        self._history = deque([(clock(), initial_env_step)], maxlen=RATE_WINDOW)
        self._next_line = -math.inf
        self._last_line = ""
        self._console = console or rich.get_console()
        has_bar = is_main and self._console.is_terminal
        self._shows_lines = is_main and not has_bar
        self._live = Live(console=self._console, refresh_per_second=4) if has_bar else None
        self._bar = Progress(BarColumn(bar_width=None), TaskProgressColumn(), expand=True)
        self._task = self._bar.add_task("", total=total_env_steps, completed=initial_env_step)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        if self._last_line:
            logger.info("%s", self._last_line)

    def update(
        self,
        env_step: int,
        train_iter: int,
        phase_times: Mapping[str, float],
        returns: Mapping[str, float],
        reward_rates: Mapping[str, float],
    ) -> None:
        """Show where the run is.

        Args:
            env_step: environment steps so far.
            train_iter: updates so far.
            phase_times: seconds per phase of the last loop, as :meth:`PhaseTimer.pop` gives them.
            returns: last return per game.
            reward_rates: reward per 1,000 env steps per game; there is one long before an episode
                ends.
        """
        if self._live is None and not self._shows_lines:
            return
        self._history.append((self._clock(), env_step))
        rows = {
            "run": self._counters(env_step, train_iter),
            "reward per 1,000 steps": list(
                map("{} {:,.1f}".format, reward_rates.keys(), reward_rates.values())
            ),
            "return": list(map("{} {:,.1f}".format, returns.keys(), returns.values())),
            "time": [
                f"{name.removeprefix('time/')} {seconds:.2f} s"
                for name, seconds in phase_times.items()
            ],
        }
        if self._live is not None:
            self._bar.update(self._task, completed=env_step)
            self._live.update(Group(self._bar, _table(rows)))
            return
        self._last_line = " | ".join(
            f"{title}: {', '.join(cells)}" for title, cells in rows.items() if cells
        )
        if self._clock() >= self._next_line:
            logger.info("%s", self._last_line)
            self._next_line = self._clock() + self._interval
            self._last_line = ""

    def show(self, renderable: RenderableType) -> None:
        """Print something of rich's, such as a table of scores; it stays above the bar."""
        if self._live is not None or self._shows_lines:
            self._console.print(renderable)

    def _counters(self, env_step: int, train_iter: int) -> list[str]:
        (first_time, first_step), (last_time, last_step) = self._history[0], self._history[-1]
        rate = (last_step - first_step) / max(last_time - first_time, LEAST_SECONDS)
        return [
            f"{env_step:,}/{self._total:,} env steps",
            f"{train_iter:,} updates",
            f"{rate:,.1f} env steps/s",
            f"{_duration((self._total - env_step) / rate) if rate > 0 else '?'} left",
        ]


def _table(rows: Mapping[str, list[str]]) -> Table:
    """Rows of cells under a dim title each; a row takes as many lines as the terminal needs."""
    table = Table.grid(padding=(0, 2))
    for title, cells in rows.items():
        if cells:
            table.add_row(Text(title, style="dim"), Columns(cells, padding=(0, 3)))
    return table


def _duration(seconds: float) -> str:
    """``h:mm:ss`` of a number of seconds; negative ones count as none."""
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
