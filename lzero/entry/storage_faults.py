"""A disk that is full, or a folder that is gone or closed: said in one line, wherever a run meets it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lzero.checkpoint import free_space, list_checkpoints
from lzero.entry.checkpointing import RunError

EVENT_WRITER = "_AsyncWriterThread"  # of TensorBoard; what it raises, its owner raises again


@contextmanager
def storage_faults_are_run_errors(run_dir: Path) -> Iterator[None]:
    """What files of a run raise becomes an error that says what to do.

    Raises:
        RunError: in its stead.
    """
    previous = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        is_known = type(arguments.thread).__name__ == EVENT_WRITER
        if not (is_known and isinstance(arguments.exc_value, OSError)):
            previous(arguments)

    threading.excepthook = hook
    try:
        yield
    except OSError as error:
        checkpoints = list_checkpoints(run_dir / "checkpoints")
        raise RunError(
            f"cannot go on: {error} ({free_space(run_dir)}); the newest whole checkpoint is "
            f"{checkpoints[-1] if checkpoints else 'none'}: mend that and start the same command again"
        ) from error
    finally:
        threading.excepthook = previous
