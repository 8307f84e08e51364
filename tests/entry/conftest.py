"""One finished run for all tests of training."""

import shutil
from pathlib import Path

import pytest
import torch

from lzero.distributed import Distributed
from lzero.entry import TrainResult, train_unizero_multitask_segment_ddp
from tests.entry.run_cases import settings


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Runs in this process take one core: spinning threads on a busy machine would make seconds minutes."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distributed, "threads", 1)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> tuple[Path, TrainResult]:
    """Folder of all runs with one finished run in it, never to be written to, and what it returned."""
    output_dir = tmp_path_factory.mktemp("runs")
    return output_dir, train_unizero_multitask_segment_ddp(settings(output_dir), seed=3)


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of the finished run to go on with."""
    shutil.copytree(finished[0], tmp_path / "runs")
    return tmp_path / "runs"
