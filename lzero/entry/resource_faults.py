"""A disk or memory that is full, a folder that is gone or closed: said in one line, wherever a run meets it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lzero.checkpoint import free_space, list_checkpoints
from lzero.entry.checkpointing import RunError

NO_MEMORY = "allocate memory"  # in what torch raises for CPUs
EVENT_WRITER = "_AsyncWriterThread"  # of TensorBoard; what it raises, its owner raises again


@contextmanager
def resource_faults_are_run_errors(run_dir: Path) -> Iterator[None]:
    """What files and memory of a run raise becomes an error that says what to do.

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
        text = f"{error} ({free_space(run_dir)})"
        raise _run_error(text, "mend that", run_dir) from error
    except (MemoryError, RuntimeError) as error:
        is_torchs = type(error) is RuntimeError and NO_MEMORY in str(error)
        if not (is_torchs or isinstance(error, MemoryError | torch.OutOfMemoryError)):
            raise
        less = "take less of policy.batch_size, env.num_envs, model or policy.replay.capacity, or --policy.replay.on-disk"
        raise _run_error(f"out of memory: {error}".splitlines()[0], less, run_dir) from error
    finally:
        threading.excepthook = previous


def _run_error(problem: str, remedy: str, run_dir: Path) -> RunError:
    checkpoints = list_checkpoints(run_dir / "checkpoints")
    newest = checkpoints[-1] if checkpoints else "none"
    return RunError(
        f"cannot go on: {problem}; the newest whole checkpoint is {newest}: {remedy} and start the same command again"
    )
