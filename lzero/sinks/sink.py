"""What a place for numbers is, and what it is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lzero import tags


class SinkError(RuntimeError):
    """A place for numbers cannot be opened; says what to type instead."""


@dataclass(frozen=True)
class Moment:
    """When something was logged.

    Attributes:
        env_step: env steps of the run's clock, those of the game with the fewest environments.
        train_iter: updates.
        wall_time: seconds since 1970.
        own: env steps by game; empty where games are not known.
    """

    env_step: int
    train_iter: int
    wall_time: float
    own: Mapping[str, int]

    @property
    def games_differ(self) -> bool:
        """Whether games have different numbers of environments, and so of env steps."""
        return len(set(self.own.values())) > 1

    def step_of(self, tag: str) -> int:
        """Where a number stands: a game's at the game's own env steps, all others at the clock's."""
        return self.own.get(tags.game_of(tag, self.own), self.env_step)


@dataclass(frozen=True)
class History:
    """What stays of a log when a run goes on from a checkpoint; of nothing where there was none.

    Attributes:
        last: the checkpoint's moment.
        since: wall time of the first thing that is forgotten; infinite where nothing is.
        lines: of ``metrics.jsonl``, those that stay.
    """

    last: Moment
    since: float
    lines: Sequence[Mapping[str, Any]]

    def is_forgotten(self, tag: str, step: int, wall_time: float) -> bool:
        """Whether something that was logged under ``tag`` did not happen."""
        # several updates may be logged at one env step, some before the checkpoint
        last = self.last.step_of(tag)
        return step > last or (step == last and wall_time >= self.since)


class Sink:
    """A place for what a run says; does nothing with what it has no use for.

    Every method may raise what it likes: a run goes on without the sink. Tags are those of ``metrics.jsonl``.
    """

    def scalars(self, moment: Moment, metrics: Mapping[str, float]) -> None:
        """Numbers by tag, NaN and infinities among them."""

    def image(self, moment: Moment, tag: str, picture: np.ndarray) -> None:
        """A picture ``(3, H, W)`` uint8."""

    def text(self, moment: Moment, tag: str, text: str) -> None:
        """A text in Markdown."""

    def video(self, moment: Moment, tag: str, file: Path) -> None:
        """A film, mp4."""

    def hyperparameters(
        self, moment: Moment, values: Mapping[str, bool | float | str], scores: Sequence[str]
    ) -> None:
        """What the run was started with, and the tags of the numbers by which it is compared with others."""

    def finish(self, moment: Moment) -> None:
        """The run has come to its end; what was logged last are its results."""

    def truncate(self, history: History) -> None:
        """Forget what is not part of ``history``; comes before anything else."""

    def flush(self) -> None:
        """Write out what is buffered."""

    def close(self) -> None:
        """Write out what is buffered, and close; nothing comes after it."""
