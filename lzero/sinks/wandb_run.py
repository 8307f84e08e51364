"""A run of Weights & Biases; an optional package, imported when it is asked for.

What the environment says of project, entity and mode counts (``WANDB_PROJECT``, ``WANDB_ENTITY``, ``WANDB_MODE=offline``).
"""

import os
import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from lzero.sinks.sink import History, Moment, Sink, SinkError

ID_FILE = "wandb_run_id.txt"
PROJECT = "lzero"  # where WANDB_PROJECT says nothing
ID_BYTES = 4  # eight letters, as the package's own; unique within a project is enough
STEP = "env_step"  # the x-axis of all curves


class WandbRun(Sink):
    """The same run of Weights & Biases whenever the run goes on: its id is kept in the run's folder.

    Weights & Biases cannot forget: what was logged after the checkpoint from which a run goes on stays there, and the curves
    fold back at that place.

    Args:
        directory: of the run; its name is the run's name.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def scalars(self, moment: Moment, metrics: Mapping[str, float]) -> None:
        """A row for each number of env steps at which some of the numbers stand."""
        in_order = sorted(metrics, key=moment.step_of)
        for step, of_step in groupby(in_order, moment.step_of):
            row: dict[str, float] = {tag: float(metrics[tag]) for tag in of_step}
            self._run.log(row | {STEP: step, "train_iter": moment.train_iter})

    def image(self, moment: Moment, tag: str, picture: np.ndarray) -> None:
        """A picture among the media."""
        from wandb import Image

        self._run.log({tag: Image(picture.transpose(1, 2, 0)), STEP: moment.env_step})

    def video(self, moment: Moment, tag: str, file: Path) -> None:
        """A film among the media."""
        from wandb import Video

        self._run.log({tag: Video(str(file), format="mp4"), STEP: moment.env_step})

    def hyperparameters(
        self, moment: Moment, values: Mapping[str, bool | float | str], scores: Sequence[str]
    ) -> None:
        """The run's config; a run that goes on may have changed it."""
        self._run.config.update(dict(values), allow_val_change=True)

    def truncate(self, history: History) -> None:
        """Begin another run where this one begins anew; else nothing can be forgotten."""
        if not history.lines:
            (self._directory / ID_FILE).unlink(missing_ok=True)

    def close(self) -> None:
        """End the run, if it has begun."""
        if "_run" in self.__dict__:
            self._run.finish()

    @cached_property
    def _run(self) -> Any:
        import wandb

        file = self._directory / ID_FILE
        if not file.exists():
            file.write_text(secrets.token_hex(ID_BYTES) + "\n", encoding="utf-8")
        try:
            run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=self._directory.name,
                id=file.read_text(encoding="utf-8").strip(),
                resume="allow",
                dir=self._directory,
                settings=wandb.Settings(console="off"),  # the run's own lines are in its log
            )
        except wandb.errors.Error as error:
            what = "type wandb login, or set WANDB_MODE=offline"
            raise SinkError(f"train.loggers: wandb cannot begin ({error}); {what}") from error
        run.define_metric("*", step_metric=STEP)
        return run
