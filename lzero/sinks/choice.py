"""Which places there are for numbers, by the names that ``train.loggers`` takes."""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from lzero.sinks.csv_file import CsvFile
from lzero.sinks.sink import Sink
from lzero.sinks.tensorboard_events import TensorBoardEvents
from lzero.sinks.wandb_run import WandbRun

LOGGERS: Mapping[str, Callable[[Path], Sink]] = {
    "tensorboard": TensorBoardEvents,
    "csv": CsvFile,
    "wandb": WandbRun,
}
"""By name: what is made of the folder of a run."""
PACKAGES = {"wandb": "pip install wandb (or pip install -e .[wandb])"}
"""Packages that not everybody has, and how to get them."""


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers that are unknown or not installed.

    Raises:
        ValueError: if a name is unknown.
        ImportError: if its package is missing; with the command that installs it.
    """
    for name in names:
        if name not in LOGGERS:
            raise ValueError(f"train.loggers: {name!r}: allowed are {', '.join(LOGGERS)}")
        if name in PACKAGES and find_spec(name) is None:
            raise ImportError(
                f"train.loggers: {name} is not installed; type {PACKAGES[name]}, or leave {name} out"
            )


def make_sinks(names: Sequence[str], directory: Path) -> dict[str, Sink]:
    """Places for the numbers of the run in ``directory``, by name; nothing is opened yet.

    Raises:
        As :func:`check_loggers`.
    """
    check_loggers(names)
    return {name: LOGGERS[name](directory) for name in names}
