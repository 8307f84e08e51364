"""What a machine refuses is said in one line; what is a mistake of the program stays one."""

import threading

import pytest
import torch

from lzero.distributed import losing_a_rank_is_an_error
from lzero.entry import train_unizero_multitask_segment_ddp
from lzero.entry.checkpointing import RunError
from lzero.entry.resource_faults import resource_faults_are_run_errors
from tests.reliability.runs import run_settings


def test_a_model_that_is_larger_than_memory(tmp_path):
    settings = run_settings(tmp_path, "catch", {"model.embed_dim": 2**22, "model.num_heads": 2})
    with pytest.raises(
        RunError,
        match=r"out of memory: .*allocate.*checkpoint is none: take less",
    ):
        train_unizero_multitask_segment_ddp(settings)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError("Unable to allocate 1. TiB"), "out of memory: Unable to allocate 1. TiB"),
        (torch.OutOfMemoryError("CUDA out of memory.\nmore"), "out of memory: CUDA out of memory.;"),
        (PermissionError(13, "Permission denied", "x"), r"Permission denied: 'x' \([0-9,]+ MiB are free"),
    ],
)  # fmt: skip
def test_faults_name_the_newest_checkpoint(tmp_path, error, message):
    (tmp_path / "checkpoints" / "step_000007").mkdir(parents=True)
    with (
        pytest.raises(RunError, match=f"cannot go on: .*{message}.*step_000007.*same command"),
        resource_faults_are_run_errors(tmp_path),
    ):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes do not fit"),
        RunError("runs/timeout holds another experiment"),
        RunError("runs/allocate memory holds another experiment"),
    ],
)
def test_other_errors_are_not_touched(tmp_path, error):
    """Also not those of this project that quote a path."""
    with (
        pytest.raises(RuntimeError) as raised,
        losing_a_rank_is_an_error(),
        resource_faults_are_run_errors(tmp_path),
    ):
        raise error
    assert raised.value is error


def test_errors_of_other_threads_are_still_reported(tmp_path, monkeypatch):
    reported = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    here = threading.excepthook

    class _AsyncWriterThread(threading.Thread):
        """Called as TensorBoard's, which raises what it meets again where it is used."""

    def fail() -> None:
        raise OSError("full")

    with resource_faults_are_run_errors(tmp_path):
        for kind in (threading.Thread, _AsyncWriterThread):
            thread = kind(target=fail)
            thread.start()
            thread.join()
    assert len(reported) == 1 and threading.excepthook is here
