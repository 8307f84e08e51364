"""``metrics.csv``: a line for each number, as ``pandas.read_csv`` likes it.

Long rather than wide: a wide file would need a column for each of thousands of tags, and all of it written again whenever a
new one comes. ``frame.pivot_table(index="env_step", columns="tag", values="value")`` makes it wide.
"""

import csv
import math
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TextIO

from lzero import tags
from lzero.sinks.sink import History, Moment, Sink

CSV_FILE = "metrics.csv"
COLUMNS = ("tag", "game", "env_step", "train_iter", "wall_time", "value")
"""``env_step`` is a game's own where games have different numbers of environments; ``game`` is empty for numbers of no single
game, ``value`` for what is no number."""
Row = tuple[str, str, int, int, float, float | str]


class CsvFile(Sink):
    """All numbers of a run in one table.

    It is made again of ``metrics.jsonl`` whenever a run goes on, so it lacks nothing, also where it was not asked for at first
    or could not be written for a while.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / CSV_FILE

    def scalars(self, moment: Moment, metrics: Mapping[str, float]) -> None:
        """A line for each number."""
        csv.writer(self._file).writerows(_rows(moment, metrics))

    def truncate(self, history: History) -> None:
        """Write the table of what stays."""
        unfinished = self._path.with_suffix(".unfinished")
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for line in history.lines:
                clock = line["env_step"]
                own = line.get("game_env_steps") or dict.fromkeys(history.last.own, clock)
                moment = Moment(clock, line["train_iter"], line["wall_time"], own)
                writer.writerows(_rows(moment, line["metrics"]))
        os.replace(unfinished, self._path)

    def flush(self) -> None:
        """Write out what is buffered."""
        self._file.flush()

    def close(self) -> None:
        """Close the file, if anything was written."""
        if "_file" in self.__dict__:
            self._file.close()

    @cached_property
    def _file(self) -> TextIO:
        is_new = not self._path.exists()
        file = self._path.open("a", encoding="utf-8", newline="", buffering=1)
        if is_new:
            csv.writer(file).writerow(COLUMNS)
        return file


def _rows(moment: Moment, metrics: Mapping[str, float | None]) -> Iterator[Row]:
    for tag, value in metrics.items():
        yield (
            tag,
            tags.game_of(tag, moment.own) or tags.selecting_game(tag, moment.own),
            moment.step_of(tag),
            moment.train_iter,
            moment.wall_time,
            float(value) if value is not None and math.isfinite(value) else "",
        )
