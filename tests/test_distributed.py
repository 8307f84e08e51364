"""The collectives run on two real gloo processes: this file is also the program that torchrun
starts.
"""

import os
import subprocess
import sys
from datetime import timedelta
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lzero import distributed as distributed_module
from lzero.distributed import (
    Distributed,
    LaunchError,
    init_distributed,
    local_rank_from_environment,
)

WORLD_SIZE = 2
RUN_TIMEOUT_SECONDS = 60
SMALL_BUCKET_BYTES = 100  # several buckets for the small module below


class Net(nn.Module):
    """Parameters of several dtypes and memory formats, a frozen one, and integer and boolean
    buffers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 5)
        self.conv = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
        self.low_precision = nn.Parameter(torch.randn(6).bfloat16())
        self.unused = nn.Parameter(torch.randn(4))
        self.frozen = nn.Parameter(torch.randn(2), requires_grad=False)
        self.scalar = nn.Parameter(torch.randn(()))
        self.register_buffer("count", torch.randint(100, (3,)))
        self.register_buffer("mask", torch.rand(9) > 0.5)


def set_gradients(net: Net, rank: int) -> None:
    """Gradients that differ between ranks; ``linear.bias`` has none on rank 1, ``unused`` none
    anywhere.
    """
    generator = torch.Generator().manual_seed(100 + rank)
    for name, parameter in net.named_parameters():
        if name in ("unused", "frozen") or (name == "linear.bias" and rank == 1):
            continue
        # small integers: their sums are exact in bf16 too
        parameter.grad = torch.randint(-20, 20, parameter.shape, generator=generator).to(
            parameter.dtype
        )


def worker(directory: Path) -> None:
    """What each rank does; the outcome goes to ``rank_{r}.pt``."""
    distributed_module.BUCKET_BYTES = SMALL_BUCKET_BYTES
    place = init_distributed("cpu", timeout=timedelta(seconds=RUN_TIMEOUT_SECONDS / 2))
    torch.manual_seed(place.rank)
    net = Net()
    place.broadcast_parameters_(net)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    set_gradients(net, place.rank)
    place.all_reduce_gradients_(chain(net.parameters(), net.parameters()))
    place.barrier()
    outcome = {
        "place": vars(place),
        "threads": (place.threads, torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]),
        "state": state,
        "gradients": {name: parameter.grad for name, parameter in net.named_parameters()},
        "sum": place.all_reduce_sum_(torch.full((3,), float(place.rank + 1))),
        "gathered": [
            torch.from_numpy(array)
            for array in place.all_gather_array(np.array([[place.rank, np.nan], [0.5, 2]]))
        ],
        "gathered_flags": [
            array.tolist()
            for array in place.all_gather_array(np.array([[place.rank == 0], [place.rank == 1]]))
        ],
        "gathered_scalar": [
            float(array) for array in place.all_gather_array(np.array(float(place.rank)))
        ],
    }
    torch.save(outcome, directory / f"rank_{place.rank}.pt")
    place.shutdown()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[dict]:
    directory = tmp_path_factory.mktemp("ranks")
    root = Path(distributed_module.__file__).parents[1]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={WORLD_SIZE}",
        ]
        + [str(Path(__file__)), str(directory)],
        env=environment | {"PYTHONPATH": str(root)},
        timeout=RUN_TIMEOUT_SECONDS,
        check=True,
    )
    return [torch.load(directory / f"rank_{rank}.pt") for rank in range(WORLD_SIZE)]


def test_torchrun_environment_is_understood(outcomes):
    for rank, outcome in enumerate(outcomes):
        assert outcome["place"] == vars(Distributed(rank, WORLD_SIZE, rank, WORLD_SIZE, "gloo"))


def test_ranks_share_the_cores_whatever_torchrun_says(outcomes):
    cores = len(os.sched_getaffinity(0))
    for outcome in outcomes:
        assert outcome["threads"] == (max(1, cores // WORLD_SIZE), max(1, cores // WORLD_SIZE), "1")


def test_broadcast_makes_every_rank_equal_to_rank_0(outcomes):
    torch.manual_seed(0)
    expected = Net().state_dict()
    for outcome in outcomes:
        assert outcome["state"].keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(outcome["state"][name], tensor), name


def test_gradients_are_summed_and_missing_ones_count_as_zero(outcomes):
    nets = [Net() for _ in range(WORLD_SIZE)]
    for rank, net in enumerate(nets):
        set_gradients(net, rank)
    for name, parameter in nets[0].named_parameters():
        gradients = [dict(net.named_parameters())[name].grad for net in nets]
        expected = sum(
            (gradient for gradient in gradients if gradient is not None),
            torch.zeros_like(parameter),
        )
        for outcome in outcomes:
            if name == "frozen":
                assert outcome["gradients"][name] is None
            else:
                assert torch.equal(outcome["gradients"][name], expected), name


def test_sum_and_gather(outcomes):
    for outcome in outcomes:
        assert outcome["sum"].tolist() == [3.0, 3.0, 3.0]
        assert outcome["gathered_scalar"] == [0.0, 1.0]
        assert outcome["gathered_flags"] == [[[True], [False]], [[False], [True]]]
        for rank, array in enumerate(outcome["gathered"]):
            np.testing.assert_array_equal(array.numpy(), [[rank, np.nan], [0.5, 2]])
            assert array.dtype == torch.float64


def test_one_process_has_no_group_and_collectives_change_nothing(monkeypatch):
    for name in distributed_module.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = torch.get_num_threads()
    place = init_distributed("cpu")
    try:
        assert place == Distributed() and place.is_main and place.backend is None
        assert torch.get_num_threads() == place.threads == len(os.sched_getaffinity(0))
        assert not torch.distributed.is_initialized()
        assert local_rank_from_environment() == 0
        net = Net()
        set_gradients(net, 0)
        before = net.linear.weight.grad.clone()
        place.all_reduce_gradients_(net.parameters())
        place.broadcast_parameters_(net)
        place.barrier()
        assert torch.equal(net.linear.weight.grad, before)
        assert (
            not net.unused.grad.any()
        )  # zero, not missing, as on several ranks: AdamW treats the two differently
        assert place.all_reduce_sum_(torch.ones(2)).tolist() == [1.0, 1.0]
        array = np.array([1.0])
        [copy] = place.all_gather_array(array)
        assert copy == array and copy is not array
        place.shutdown()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("wanted", "run_id", "threads"),
    [
        ("1", None, 1),
        ("3", None, 3),
        ("99", None, 4),
        ("", None, 4),
        ("0", None, 4),
        ("1", "torchrun", 4),
    ],
)
def test_a_process_started_by_hand_takes_no_more_threads_than_asked(
    monkeypatch, wanted, run_id, threads
):
    """Two runs side by side on two cores, each told to use one, must not fight for both."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if run_id is not None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)
    assert Distributed().threads == threads


def test_half_an_environment_is_refused(monkeypatch):
    for name in distributed_module.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(LaunchError, match="LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT"):
        init_distributed("cpu")


def test_buckets_keep_every_tensor_once_and_respect_the_limit():
    generator = np.random.default_rng(0)
    for _ in range(50):
        dtypes = [torch.float32, torch.bfloat16, torch.int64]
        tensors = [
            torch.zeros(int(size), dtype=dtypes[size % 3])
            for size in generator.integers(0, 60, generator.integers(30))
        ]
        buckets = list(distributed_module._buckets(tensors, limit=128))
        assert sorted(map(id, chain.from_iterable(buckets))) == sorted(map(id, tensors))
        for bucket in buckets:
            assert len({tensor.dtype for tensor in bucket}) == 1
            assert len(bucket) == 1 or sum(tensor.nbytes for tensor in bucket) <= 128


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
