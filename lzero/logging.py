"""What a run says: curves (JSONL and TensorBoard), phase times, log lines and the progress display.

Only rank 0 speaks; on the other ranks everything here does nothing. x-axes are env steps per game: a
game's numbers stand at its own, all others at those of the game with the fewest environments, which
are called ``env_step`` here.
"""

import json
import logging
import math
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

import numpy as np
import rich
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskProgressColumn
from rich.table import Table
from rich.text import Text

from lzero import checks, tags
from lzero.event_files import forget_events
from lzero.run_paths import METRICS_FILE

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

RATE_WINDOW = 30  # updates of the display over which env steps per second are averaged
LEAST_SECONDS = 1e-9  # a clock that has not moved between two looks must not divide by zero


def setup_logging(is_main: bool, packages: tuple[str, ...] = ("lzero", "zoo")) -> None:
    """Show log records: this project's from INFO on rank 0, all else from WARNING.

    Rich draws them in a terminal; elsewhere each record is one plain line, which rich would wrap. A
    program that has configured the root logger already keeps its handlers.
    """
    console = rich.get_console()
    if console.is_terminal:
        handler: logging.Handler = RichHandler(
            console=console, show_path=False, log_time_format="[%X]"
        )
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(console.file)
        handler.setFormatter(
            logging.Formatter("[%(asctime)s] %(levelname)s %(message)s", "%H:%M:%S")
        )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for package in packages:
        logging.getLogger(package).setLevel(logging.INFO if is_main else logging.WARNING)


class RunLogger:
    """Curves of a run: ``metrics.jsonl`` and TensorBoard's ``tb/``; appends to what is there.

    A killed process loses at most one JSONL line; a torn line is removed when the file is opened
    again.

    Args:
        directory: directory of the run, ``runs/{exp_name}``.
        is_main: whether this process writes; elsewhere every method returns at once.
        game_env_steps: env steps by game at an ``env_step``; None where games have the same.
    """

    _metrics: TextIO  # rank 0 only

    def __init__(
        self,
        directory: Path,
        *,
        is_main: bool,
        game_env_steps: Callable[[int], Mapping[str, int]] | None = None,
    ) -> None:
        self._directory = Path(directory)
        self._is_main = is_main
        self._game_env_steps = game_env_steps
        self._purge_step: int | None = None
        if is_main:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._open_metrics()

    def scalars(self, metrics: Mapping[str, float], env_step: int, train_iter: int) -> None:
        """Log numbers.

        Args:
            metrics: values by tag; NaN and infinities become ``null`` in the JSONL file.
            env_step: env steps per game so far; the x-axis.
            train_iter: updates so far.

        Raises:
            TypeError: if a value is no number, or ``env_step`` no whole one.
        """
        if not self._is_main:
            return
        checks.mapping("metrics", metrics, "numbers by tag")
        finite: dict[str, float | None] = {}
        for tag, value in metrics.items():
            if isinstance(value, str) or not hasattr(value, "__float__"):
                raise TypeError(f"metrics[{tag!r}]={checks.shown(value)}: allowed is a number")
            finite[tag] = float(value) if math.isfinite(value) else None
        self._write_line(env_step, train_iter, finite)
        own = self._own_steps(env_step)
        for tag, value in metrics.items():
            step = own.get(tags.game_of(tag, own), env_step)
            self._tensorboard.add_scalar(tag, float(value), step)

    def arrays(self, arrays: Mapping[str, np.ndarray], env_step: int, train_iter: int) -> None:
        """Log whole arrays, such as the scores of an evaluation's episodes, to the JSONL file
        alone.

        Args:
            arrays: by tag; NaN and infinities become ``null``.
            env_step: env steps per game so far.
            train_iter: updates so far.
        """
        if self._is_main:
            self._write_line(
                env_step, train_iter, {}, {tag: _as_lists(array) for tag, array in arrays.items()}
            )

    def add_image(self, tag: str, array: np.ndarray, env_step: int) -> None:
        """Log a picture ``(3, H, W)`` uint8; ValueError for another shape."""
        if self._is_main:
            checks.shape("array", array, 3, None, None)
            self._tensorboard.add_image(tag, array, env_step, dataformats="CHW")

    def text(self, tag: str, text: str, env_step: int) -> None:
        """Log a text; TensorBoard shows it as Markdown."""
        if self._is_main:
            self._tensorboard.add_text(tag, text, env_step)

    def truncate_after(self, train_iter: int, env_step: int) -> None:
        """Forget what was logged after a checkpoint, so that the curves of a resumed run never fold
        back.

        Call it before anything else is logged.

        Args:
            train_iter: updates at the checkpoint.
            env_step: environment steps at the checkpoint.

        Raises:
            RuntimeError: if TensorBoard's file is open already.
        """
        if not self._is_main:
            return
        if "_tensorboard" in self.__dict__:
            raise RuntimeError("truncate_after must come before anything is logged")
        self._metrics.close()
        path = self._directory / METRICS_FILE
        kept = path.with_suffix(".kept")
        since = math.inf  # seconds since 1970 of the first line that is forgotten
        with kept.open("w", encoding="utf-8") as file:
            for line in read_metrics(path):
                if line["train_iter"] <= train_iter and line["env_step"] <= env_step:
                    file.write(json.dumps(line) + "\n")
                else:
                    since = min(since, line["wall_time"])
            file.flush()
            os.fsync(file.fileno())
        self._forget_events(env_step, since)
        kept.replace(path)
        self._open_metrics()

    def _forget_events(self, env_step: int, since: float) -> None:
        """TensorBoard's part of :meth:`truncate_after`."""
        own = self._own_steps(env_step)

        def is_forgotten(tag: str, step: int, wall_time: float) -> bool:
            # several updates may be logged at one env step, some before the checkpoint
            last = own.get(tags.game_of(tag, own), env_step)
            return step > last or (step == last and wall_time >= since)

        forget_events(self._directory / "tb", is_forgotten)
        # for a TensorBoard that has read them already
        self._purge_step = max([env_step, *own.values()]) + 1

    def flush(self) -> None:
        """Force what was logged onto the disk: a checkpoint counts on it."""
        if not self._is_main:
            return
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        if "_tensorboard" in self.__dict__:
            self._tensorboard.flush()

    def close(self) -> None:
        """Write out what is buffered and close the files."""
        if not self._is_main:
            return
        self._metrics.close()
        if "_tensorboard" in self.__dict__:
            self._tensorboard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _own_steps(self, env_step: int) -> Mapping[str, int]:
        """Env steps by game; empty where all games have the same."""
        own = {} if self._game_env_steps is None else self._game_env_steps(env_step)
        return own if len(set(own.values())) > 1 else {}

    def _write_line(
        self,
        env_step: int,
        train_iter: int,
        metrics: dict[str, float | None],
        arrays: dict[str, list] | None = None,
    ) -> None:
        checks.count("env_step", env_step, 0)
        line = {
            "env_step": env_step,
            "train_iter": train_iter,
            "wall_time": time.time(),
            "metrics": metrics,
        }
        own = self._own_steps(env_step)
        if own:
            line["game_env_steps"] = own
        if arrays is not None:
            line["arrays"] = arrays
        self._metrics.write(json.dumps(line, allow_nan=False) + "\n")

    def _open_metrics(self) -> None:
        path = self._directory / METRICS_FILE
        if path.exists():
            content = path.read_bytes()
            os.truncate(path, content.rfind(b"\n") + 1)
        self._metrics = path.open("a", encoding="utf-8", buffering=1)

    @cached_property
    def _tensorboard(self) -> "SummaryWriter":
        # imported on first use: it takes longer to import than everything else here
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(
            str(self._directory / "tb"), purge_step=self._purge_step, flush_secs=30
        )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of a ``metrics.jsonl``, oldest first, without an unfinished last one.

    Returns:
        Dictionaries with ``env_step``, ``train_iter``, ``wall_time`` (seconds since 1970),
        ``metrics``, in lines of :meth:`RunLogger.arrays` also ``arrays``, and where games have
        different numbers of environments ``game_env_steps``, by game.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no plain file (a pipe would be read for ever), or another line is no
            JSON, with its number.
    """
    path = checks.path("path", path)
    if path.exists() and not path.is_file():
        raise ValueError(f"path={path} is no plain file")
    lines = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                break
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number} is no JSON: {error}") from error
    return lines


def _as_lists(array: np.ndarray) -> list:
    array = np.asarray(array, float)
    numbers = array.astype(object)
    numbers[~np.isfinite(array)] = None
    return numbers.tolist()


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
