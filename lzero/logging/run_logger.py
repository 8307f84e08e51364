"""What a run says in numbers, pictures and texts, and the places that it is told to.

x-axes are env steps per game: a game's numbers stand at its own, all others at those of the game with the fewest
environments, which are called ``env_step`` here.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np

from lzero import checks
from lzero.sinks.choice import make_sinks
from lzero.sinks.jsonl import MetricsFile
from lzero.sinks.sink import Moment, Sink, SinkError

logger = logging.getLogger(__name__)


class RunLogger:
    """Curves of a run: ``metrics.jsonl``, and what else is asked for; appends to what is there.

    The record, ``metrics.jsonl``, must be written: what it raises ends the run. Any other place that fails is left alone from
    then on, with one warning: training of hours does not end because a network is gone.

    Args:
        directory: directory of the run, ``runs/{exp_name}``.
        is_main: whether this process writes; elsewhere every method returns at once.
        game_env_steps: env steps by game at an ``env_step``; None where games have the same.
        loggers: places besides the record, as ``train.loggers`` has them.

    Raises:
        ValueError: if a logger is unknown.
        ImportError: if the package of one is missing.
    """

    def __init__(
        self,
        directory: Path,
        *,
        is_main: bool,
        game_env_steps: Callable[[int], Mapping[str, int]] | None = None,
        loggers: Sequence[str] = ("tensorboard",),
    ) -> None:
        self._directory = Path(directory)
        self._is_main = is_main
        self._game_env_steps = game_env_steps
        self._has_logged = False
        self._sinks: dict[str, Sink] = {}
        if is_main:
            self._sinks = make_sinks(loggers, self._directory)
            self._directory.mkdir(parents=True, exist_ok=True)
            self._record = MetricsFile(self._directory)

    def begin(
        self,
        values: Mapping[str, bool | float | str],
        scores: Sequence[str],
        texts: Mapping[str, str],
        env_step: int,
    ) -> None:
        """Say what the run is, before anything else.

        Args:
            values: what it was started with, by name.
            scores: tags by which it is compared with other runs.
            texts: Markdown by tag.
            env_step: env steps per game so far.

        Raises:
            SinkError: if a place cannot be opened: nothing is lost yet, so this is said at once.
        """
        if not self._is_main:
            return
        moment = self._moment(env_step, 0)
        for name, sink in self._sinks.items():
            try:
                sink.hyperparameters(moment, values, scores)
                for tag, text in texts.items():
                    sink.text(moment, tag, text)
            except (SinkError, OSError):  # a full disk has words of its own
                raise
            except Exception as error:
                what = f"leave it out of --train.loggers ({type(error).__name__}: {error})"
                raise SinkError(f"train.loggers: {name} cannot be opened; {what}") from error

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
        for tag, value in metrics.items():
            if isinstance(value, str) or not hasattr(value, "__float__"):
                raise TypeError(f"metrics[{tag!r}]={checks.shown(value)}: allowed is a number")
        moment = self._moment(env_step, train_iter)
        self._record.write(moment, metrics)
        self._tell(lambda sink: sink.scalars(moment, metrics))

    def arrays(self, arrays: Mapping[str, np.ndarray], env_step: int, train_iter: int) -> None:
        """Log whole arrays, such as the scores of an evaluation's episodes, to the JSONL file
        alone.

        Args:
            arrays: by tag; NaN and infinities become ``null``.
            env_step: env steps per game so far.
            train_iter: updates so far.
        """
        if self._is_main:
            self._record.write(self._moment(env_step, train_iter), {}, arrays)

    def add_image(self, tag: str, array: np.ndarray, env_step: int) -> None:
        """Log a picture ``(3, H, W)`` uint8; ValueError for another shape."""
        if self._is_main:
            checks.shape("array", array, 3, None, None)
            moment = self._moment(env_step, 0)
            self._tell(lambda sink: sink.image(moment, tag, array))

    def text(self, tag: str, text: str, env_step: int) -> None:
        """Log a text; TensorBoard shows it as Markdown."""
        if self._is_main:
            moment = self._moment(env_step, 0)
            self._tell(lambda sink: sink.text(moment, tag, text))

    def video(self, tag: str, file: Path, env_step: int) -> None:
        """Log a film, mp4, to the places that show films."""
        if self._is_main:
            moment = self._moment(env_step, 0)
            self._tell(lambda sink: sink.video(moment, tag, file))

    def finish(self, env_step: int) -> None:
        """Say that the run has come to its end."""
        if self._is_main:
            moment = self._moment(env_step, 0)
            self._tell(lambda sink: sink.finish(moment))

    def truncate_after(self, train_iter: int, env_step: int) -> None:
        """Forget what was logged after a checkpoint, so that the curves of a resumed run never fold
        back.

        Call it before anything else is logged.

        Args:
            train_iter: updates at the checkpoint.
            env_step: environment steps at the checkpoint.

        Raises:
            RuntimeError: if something is logged already.
        """
        if not self._is_main:
            return
        if self._has_logged:
            raise RuntimeError("truncate_after must come before anything is logged")
        own = {} if self._game_env_steps is None else self._game_env_steps(env_step)
        history = self._record.history(Moment(env_step, train_iter, time.time(), own))
        self._tell(lambda sink: sink.truncate(history))
        self._record.truncate(history)  # the last: what it holds tells the others what to forget

    def flush(self) -> None:
        """Force the record onto the disk, and write out what others have buffered: a checkpoint counts on it."""
        if self._is_main:
            self._record.flush()
            self._tell(lambda sink: sink.flush())

    def close(self) -> None:
        """Write out what is buffered and close the files."""
        if self._is_main:
            self._tell(lambda sink: sink.close())
            self._record.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _moment(self, env_step: int, train_iter: int) -> Moment:
        checks.count("env_step", env_step, 0)
        self._has_logged = True
        own = {} if self._game_env_steps is None else self._game_env_steps(env_step)
        return Moment(env_step, train_iter, time.time(), own)

    def _tell(self, tell: Callable[[Sink], None]) -> None:
        """Tell every place; one that fails is left alone from now on."""
        for name, sink in list(self._sinks.items()):
            try:
                tell(sink)
            except Exception as error:  # of any package, with any error
                del self._sinks[name]
                with suppress(Exception):
                    sink.close()
                logger.warning(
                    "%s can be written no longer and is left alone (%s: %s); the run goes on, metrics.jsonl has everything, "
                    "and the same command begins with %s again",
                    *(name, type(error).__name__, error, name),
                )
