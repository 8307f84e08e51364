"""``metrics.jsonl``: everything that a run says in numbers, a line each time. The record that reports read and other logs are
mended by.
"""

import gzip
import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lzero import checks
from lzero.run_paths import METRICS_FILE
from lzero.sinks.sink import History, Moment


class MetricsFile:
    """The record of a run; appends to what is there.

    A killed process loses at most one line; a torn line is removed when the file is opened again.

    Args:
        directory: of the run.
    """

    _file: TextIO

    def __init__(self, directory: Path) -> None:
        self._path = directory / METRICS_FILE
        self._open()

    def write(
        self,
        moment: Moment,
        metrics: Mapping[str, float],
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Add a line; NaN and infinities become ``null``."""
        line: dict[str, Any] = {
            "env_step": moment.env_step,
            "train_iter": moment.train_iter,
            "wall_time": moment.wall_time,
            "metrics": {
                tag: float(value) if math.isfinite(value) else None
                for tag, value in metrics.items()
            },
        }
        if moment.games_differ:
            line["game_env_steps"] = dict(moment.own)
        if arrays is not None:
            line["arrays"] = {tag: _as_lists(array) for tag, array in arrays.items()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")

    def history(self, last: Moment) -> History:
        """What stays of the record when the run goes on from ``last``."""
        kept = []
        since = math.inf
        for line in read_metrics(self._path):
            if line["train_iter"] <= last.train_iter and line["env_step"] <= last.env_step:
                kept.append(line)
            else:
                since = min(since, line["wall_time"])
        return History(last, since, kept)

    def truncate(self, history: History) -> None:
        """Keep the lines of ``history`` alone."""
        self._file.close()
        kept = self._path.with_suffix(".kept")
        with kept.open("w", encoding="utf-8") as file:
            for line in history.lines:
                file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        kept.replace(self._path)
        self._open()

    def flush(self) -> None:
        """Force what was logged onto the disk: a checkpoint counts on it."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> None:
        if self._path.exists():
            content = self._path.read_bytes()
            os.truncate(self._path, content.rfind(b"\n") + 1)
        self._file = self._path.open("a", encoding="utf-8", buffering=1)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of a ``metrics.jsonl``, or of one that gzip has compressed (``.gz``), oldest first, without an unfinished last one.

    Returns:
        Dictionaries with ``env_step``, ``train_iter``, ``wall_time`` (seconds since 1970),
        ``metrics``, in lines of :meth:`RunLogger.arrays` also ``arrays``, and where games have
        different numbers of environments ``game_env_steps``, by game.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no plain file (a pipe would be read for ever), another line is no JSON, with its number, or what
            was compressed is damaged.
    """
    path = checks.path("path", path)
    if path.exists() and not path.is_file():
        raise ValueError(f"path={path} is no plain file")
    lines = []
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        try:
            for number, line in enumerate(file, start=1):
                if not line.endswith("\n"):
                    break
                try:
                    lines.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise ValueError(f"{path}, line {number} is no JSON: {error}") from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    return lines


def _as_lists(array: np.ndarray) -> list:
    array = np.asarray(array, float)
    numbers = array.astype(object)
    numbers[~np.isfinite(array)] = None
    return numbers.tolist()
