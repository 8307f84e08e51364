"""Process group of a run.

Every collective is called by all ranks in the same order. A run of one process needs no process
group: the collectives then return at once.
"""

import datetime
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from lzero import checks

BUCKET_BYTES = 64 * 2**20  # large enough to hide a collective's latency, small beside the model
ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


# What gloo's errors name when another process is gone; all else is a mistake of the caller.
LOST = ("gloo/transport", "Timed out", "timeout")
MOST_PROCESSES = 2**20
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class LaunchError(ValueError):
    """Processes were started in a number or a way that does not fit."""


class RankLostError(RuntimeError):
    """Another process of the run has ended, or does not answer."""


# Ranks that do not exist would wait for ever.
announced = partial(checks.announced, error=LaunchError)


@contextmanager
def losing_a_rank_is_an_error() -> Iterator[None]:
    """Collectives under way that cannot be ended, because another process is gone, end with an error that says so.

    Raises:
        RankLostError: in their stead.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo's own class: errors of this project may quote a path that holds such a word
        is_gloos = type(error) is RuntimeError and any(sign in str(error) for sign in LOST)
        if not (is_gloos or isinstance(error, distributed.DistError)):
            raise
        raise RankLostError(
            "another process of this run has ended or does not answer; the same command continues from the newest "
            f"checkpoint, under torch.distributed.run --max-restarts=1 by itself ({str(error).splitlines()[0]})"
        ) from error


@contextmanager
def _signals_end_the_process() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the process where it stands: while it waits in C++ no handler of Python's would be called."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Distributed:
    """Place of this process among all processes of the run; ValueError for a rank that is not there.

    Attributes:
        rank: number of this process, 0 ≤ rank < world_size.
        world_size: number of processes.
        local_rank: number of this process on its machine.
        local_world_size: number of processes on this machine.
        backend: ``gloo`` or ``nccl``; ``None`` where there is one process and no process group.
        cpu_group: for numbers of the CPU; ``None`` where the one group is good for them.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    backend: str | None = None
    cpu_group: distributed.ProcessGroup | None = None

    def __post_init__(self) -> None:
        checks.count("world_size", self.world_size)
        checks.count("rank", self.rank, 0, self.world_size - 1)

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes and speaks."""
        return self.rank == 0

    @property
    def threads(self) -> int:
        """Threads of this process: its share of the cores that this machine lends to the run, at
        least 1.

        A run of one process started by hand takes no more than ``OMP_NUM_THREADS``; torchrun sets
        that variable to 1 for everybody, so there it says nothing.
        """
        share = max(1, len(os.sched_getaffinity(0)) // self.local_world_size)
        wanted = os.environ.get("OMP_NUM_THREADS", "")
        asked = wanted.isdigit() and int(wanted) > 0 and "TORCHELASTIC_RUN_ID" not in os.environ
        return min(share, int(wanted)) if asked else share

    def all_reduce_sum_(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over ranks in place.

        Args:
            tensor: same shape and dtype on every rank; on the GPU for nccl.

        Returns:
            The same tensor.
        """
        if self.world_size > 1:
            distributed.all_reduce(tensor)
        return tensor

    @torch.no_grad()
    def all_reduce_gradients_(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum ``.grad`` over ranks in place.

        A missing gradient counts as zero, and exists afterwards on every rank, also where there is
        one rank only: an optimizer treats zero and missing gradients differently. Gradients travel
        in flat buckets whose borders depend on the parameters alone, so all ranks run the same collectives.

        Args:
            parameters: the same parameters in the same order on every rank; those that require no
                gradient are passed over.
        """
        # without repeats: a parameter listed twice in different buckets would be summed twice
        gradients: list[Tensor] = []
        for parameter in dict.fromkeys(parameters):
            if not parameter.requires_grad:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        if self.world_size == 1:
            return
        for bucket in _buckets(gradients, BUCKET_BYTES):
            flat = _joined(bucket)
            distributed.all_reduce(flat)
            _copy_back(flat, bucket)

    @torch.no_grad()
    def broadcast_parameters_(self, module: nn.Module) -> None:
        """Overwrite parameters and buffers of ``module`` on every rank with those of rank 0."""
        if self.world_size == 1:
            return
        for bucket in _buckets([*module.parameters(), *module.buffers()], BUCKET_BYTES):
            flat = _joined(bucket)
            # as bytes: gloo cannot send every dtype
            distributed.broadcast(flat.view(torch.uint8), src=0)
            _copy_back(flat, bucket)

    def all_gather_array(self, array: np.ndarray) -> list[np.ndarray]:
        """Collect small arrays.

        Args:
            array: numbers or booleans, of the same shape and dtype on every rank.

        Returns:
            One array per rank, in the order of ranks.
        """
        checks.instance("array", array, np.ndarray, "a numpy array")
        if self.world_size == 1:
            return [array.copy()]
        device = (
            torch.device("cuda", self.local_rank) if self.backend == "nccl" else torch.device("cpu")
        )
        # as bytes: gloo cannot send every dtype
        local = torch.from_numpy(np.frombuffer(array.tobytes(), dtype=np.uint8).copy()).to(device)
        gathered = [torch.empty_like(local) for _ in range(self.world_size)]
        distributed.all_gather(gathered, local)
        return [tensor.cpu().numpy().view(array.dtype).reshape(array.shape) for tensor in gathered]

    def any(self, answer: bool) -> bool:
        """Whether any rank says yes, the same on all; a matter of CPUs alone, so that no accelerator is waited for."""
        if self.world_size == 1:
            return answer
        flag = torch.tensor([int(answer)])
        distributed.all_reduce(flag, op=distributed.ReduceOp.MAX, group=self.cpu_group)
        return bool(flag.item())

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            distributed.barrier()

    def shutdown(self) -> None:
        """Leave the process group; no collective may follow."""
        if self.backend is not None:
            distributed.destroy_process_group()


def local_rank_from_environment() -> int:
    """Number of this process on its machine as torchrun announces it; 0 without torchrun."""
    return announced("LOCAL_RANK", 0, MOST_PROCESSES)


def init_distributed(
    device: torch.device | str, timeout: datetime.timedelta = datetime.timedelta(hours=1)
) -> Distributed:
    """Join the process group that torchrun describes in the environment, and take a share of the
    cores.

    Without torchrun, or with one process, there is no process group. The number of torch threads is
    set in either case: torchrun's ``OMP_NUM_THREADS=1`` would leave cores idle, torch's default
    would let the ranks of a machine fight for them.

    Args:
        device: device of this process; ``cpu`` means gloo, ``cuda`` means nccl.
        timeout: how long a rank waits in a collective for the others; must cover the longest
            evaluation.

    Raises:
        ValueError: if it is another device.
        LaunchError: if the environment names more than one process but not how to reach the others,
            or a number in it is out of range.
    """
    if str(device).partition(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"device={str(device)!r}: allowed are 'cpu' and 'cuda'")
    device = torch.device(device)
    world_size = announced("WORLD_SIZE", 1, MOST_PROCESSES)
    if world_size == 1:
        place = Distributed()
    else:
        missing = [name for name in ENVIRONMENT if name not in os.environ]
        if missing:
            raise LaunchError(
                f"WORLD_SIZE={world_size}, but {', '.join(missing)} not set in the environment: start the "
                "processes with python -m torch.distributed.run --nproc_per_node=N, or unset WORLD_SIZE"
            )
        rank = announced("RANK", 0, world_size - 1)
        local_world_size = announced("LOCAL_WORLD_SIZE", 1, world_size)
        local_rank = announced("LOCAL_RANK", 0, local_world_size - 1)
        announced("MASTER_PORT", 0, 2**16 - 1)
        backend = "nccl" if device.type == "cuda" else "gloo"
        place = Distributed(rank, world_size, local_rank, local_world_size, backend)
        if device.type == "cuda":
            device = torch.device("cuda", local_rank)
            torch.cuda.set_device(device)
        with _signals_end_the_process():
            distributed.init_process_group(
                backend,
                store=_store(timeout),
                rank=rank,
                world_size=world_size,
                timeout=timeout,
                device_id=device if device.type == "cuda" else None,
            )
            if backend != "gloo":
                cpu_group = distributed.new_group(backend="gloo", timeout=timeout)
                place = replace(place, cpu_group=cpu_group)
    torch.set_num_threads(place.threads)
    return place


def _store(timeout: datetime.timedelta) -> distributed.Store:
    """Where ranks find each other; after a restart by torchrun another place than before.

    Its agent keeps one store for all attempts, in which the addresses of the dead ranks still stand. Agents of several
    machines count attempts each for itself, so there nothing can be told apart.
    """
    store, _, _ = next(rendezvous("env://", timeout=timeout))
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        return store
    return distributed.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)


def split_evenly(total: int, parts: int) -> tuple[int, ...]:
    """Split ``total`` into ``parts`` numbers that differ by at most one, larger ones first; ValueError where
    there is less than nothing to split, or no part.
    """
    total, parts = checks.count("total", total, 0), checks.count("parts", parts)
    smaller, larger_ones = divmod(total, parts)
    return (smaller + 1,) * larger_ones + (smaller,) * (parts - larger_ones)


def _buckets(tensors: Sequence[Tensor], limit: int) -> Iterator[list[Tensor]]:
    """Group tensors of one dtype into buckets of at most ``limit`` bytes; a larger tensor has its
    own.
    """
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for group in by_dtype.values():
        bucket: list[Tensor] = []
        size = 0
        for tensor in group:
            if bucket and size + tensor.nbytes > limit:
                yield bucket
                bucket, size = [], 0
            bucket.append(tensor)
            size += tensor.nbytes
        yield bucket


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """The numbers of several tensors of one dtype, one after another."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _copy_back(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Write the consecutive parts of a flat bucket back to the tensors that it was made of."""
    parts = flat.split(list(map(Tensor.numel, tensors)))
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))
