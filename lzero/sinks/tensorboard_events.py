"""TensorBoard's event files, in ``tb/``: families of tags stand in the order of :func:`lzero.tags.numbered`."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lzero import tags
from lzero.event_files import forget_events
from lzero.sinks.sink import History, Moment, Sink

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tb"
FLUSH_SECONDS = 30  # between two writes of what is buffered: nobody looks more often


class TensorBoardEvents(Sink):
    """Event files of a run.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / FOLDER
        self._purge_step: int | None = None
        self._hyperparameters: dict[str, float | str] = {}

    def scalars(self, moment: Moment, metrics: Mapping[str, float]) -> None:
        """A point of each curve."""
        for tag, value in metrics.items():
            self._writer.add_scalar(tags.numbered(tag), float(value), moment.step_of(tag))

    def image(self, moment: Moment, tag: str, picture: np.ndarray) -> None:
        """A picture under IMAGES."""
        self._writer.add_image(tags.numbered(tag), picture, moment.env_step, dataformats="CHW")

    def text(self, moment: Moment, tag: str, text: str) -> None:
        """A text under TEXT."""
        self._writer.add_text(tags.numbered(tag), text, moment.env_step)

    def hyperparameters(
        self, moment: Moment, values: Mapping[str, bool | float | str], scores: Sequence[str]
    ) -> None:
        """A row under HPARAMS, whose scores are the last points of the curves themselves.

        ``SummaryWriter.add_hparams`` would write a run of its own beside this one, with a copy of each score.
        """
        # torch would show True as 1
        self._hyperparameters = {
            name: str(value) if isinstance(value, bool) else value for name, value in values.items()
        }
        experiment, start, _ = self._hparams(scores)
        for summary in (experiment, start):
            self._add(summary, moment)

    def finish(self, moment: Moment) -> None:
        """Its row under HPARAMS says that the run was finished."""
        if self._hyperparameters:
            _, _, end = self._hparams(())
            self._add(end, moment)

    def _add(self, summary: object, moment: Moment) -> None:
        events: Any = (
            self._writer.file_writer
        )  # typed as None, which it is before its first use alone
        events.add_summary(summary, moment.env_step)

    def _hparams(self, scores: Sequence[str]) -> tuple:
        from torch.utils.tensorboard.summary import hparams

        return hparams(self._hyperparameters, dict.fromkeys(map(tags.numbered, scores), 0.0))

    def truncate(self, history: History) -> None:
        """Cut off what is forgotten, and tell a TensorBoard that has read it already."""

        def is_forgotten(tag: str, step: int, wall_time: float) -> bool:
            return history.is_forgotten(tags.plain(tag), step, wall_time)

        forget_events(self._directory, is_forgotten)
        self._purge_step = max([history.last.env_step, *history.last.own.values()]) + 1

    def flush(self) -> None:
        """Write out what is buffered."""
        if "_writer" in self.__dict__:
            self._writer.flush()

    def close(self) -> None:
        """Close the file, if anything was written."""
        if "_writer" in self.__dict__:
            self._writer.close()

    @cached_property
    def _writer(self) -> "SummaryWriter":
        # imported on first use: it takes longer to import than everything else here
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(
            str(self._directory), purge_step=self._purge_step, flush_secs=FLUSH_SECONDS
        )
