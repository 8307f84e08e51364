"""Where to compute, how precisely, and how tensors lie in memory: device, precision and threads of
a run.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16")
CPU_INFO = Path("/proc/cpuinfo")
CUDA_CAPABILITY_WITH_BF16 = (8, 0)  # Ampere: the first generation with bf16 matrix units
SMALL_UPDATE = (
    7e6  # multiplications of tokens and encoder below which a second thread gains nothing
)
LARGEST_FP32_ERROR = 1e-5  # of a product, relative: fp32 has 2e-7, numbers rounded to bf16 2e-3


class DeviceError(RuntimeError):
    """The machine lacks what a run is to compute on."""


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """Device of one process.

    Args:
        name: ``auto`` (CUDA where there is a GPU, else CPU), ``cpu`` or ``cuda``.
        local_rank: number of this process on its machine; process i takes GPU i.

    Returns:
        ``cpu``, or ``cuda`` with its index.

    Raises:
        ValueError: if ``name`` is none of the three.
        DeviceError: if CUDA is asked for but missing, or the machine has fewer GPUs than processes.
    """
    if name not in DEVICES:
        raise ValueError(f"device={name!r}: allowed are {', '.join(DEVICES)}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise DeviceError(
            f"device='cuda', but torch {torch.__version__} sees no CUDA GPU: "
            "write device=auto or device=cpu, or install a CUDA build of torch on a machine with a "
            "GPU"
        )
    if name == "cpu" or not available:
        return torch.device("cpu")
    gpus = torch.cuda.device_count()
    if local_rank >= gpus:
        raise DeviceError(
            f"device={name!r}: process {local_rank} of this machine finds only {gpus} GPU(s): "
            f"start at most {gpus} processes per machine (--nproc_per_node={gpus}), or write "
            "device=cpu"
        )
    return torch.device("cuda", local_rank)


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Number format of matrix products and convolutions.

    ``auto`` takes bf16 only where the processor or GPU has bf16 matrix units. Elsewhere bf16 is
    emulated: on a processor with AVX2 alone it is several times slower than fp32.

    Args:
        name: ``auto``, ``fp32`` or ``bf16``; the last is obeyed everywhere, with a warning where it
            is slow.
        device: device of the run.

    Returns:
        ``torch.bfloat16`` or ``torch.float32``.

    Raises:
        ValueError: if ``name`` is none of the three.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision={name!r}: allowed are {', '.join(PRECISIONS)}")
    suited = has_bf16_matrix_units(device)
    if name == "bf16" and not suited:
        _warn_slow_bf16(device.type)
    return torch.bfloat16 if name == "bf16" or (name == "auto" and suited) else torch.float32


def has_bf16_matrix_units(device: torch.device) -> bool:
    """Whether bf16 matrix products run in hardware: AMX tiles on a CPU, compute capability ≥ 8.0 on
    CUDA.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= CUDA_CAPABILITY_WITH_BF16
    # the kernel's list is the same for every torch version and leaves out units that it keeps from
    # programs
    return CPU_INFO.is_file() and "amx_bf16" in CPU_INFO.read_text(encoding="utf-8").split()


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Context in which the model's forward runs: torch's autocast for bf16, nothing at all for
    fp32.
    """
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


@functools.cache
def _warn_slow_bf16(device_type: str) -> None:
    """Log the warning; cached, so that it is written once per process and device type."""
    logger.warning(
        "precision=bf16, but this %s has no bf16 matrix units: expect it to be slower than "
        "precision=fp32",
        device_type,
    )


@contextmanager
def tuned_for(work: float, device: torch.device) -> Iterator[None]:
    """Threads and matrix products that suit an update for a while.

    Args:
        work: multiplications of a pass through the tokens, and 16 for each number of an observation.
        device: where it runs.
    """
    # a second CPU thread costs more to wake than a small update computes, and small products gain nothing by oneDNN
    is_small = device.type == "cpu" and work < SMALL_UPDATE
    with (
        torch_threads(1 if is_small else None),
        nullcontext() if is_small else fast_products(device),
    ):
        yield


@contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """Let oneDNN multiply fp32 matrices for a while, where that is faster and as exact.

    torch asks MKL, which takes its AVX2 kernels on AMD's processors; oneDNN's use all of AVX-512, and products of some
    hundred rows take less than half the time (``benchmarks/products.py``). Attention as one fused call gets slow by it:
    :func:`~lzero.nn.attention.attend` does without on CPUs.
    """
    if device.type != "cpu" or not onednn_is_better():
        yield
        return
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch's stubs lack it
    before = products.fp32_precision
    # the only way to ask for oneDNN: it may round to bf16, but does not on processors without matrix units
    products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before


@functools.cache
def onednn_is_better() -> bool:
    """Whether fp32 products of oneDNN are faster than those of MKL here, and as exact; that is tried out once."""
    if not CPU_INFO.is_file():
        return False
    known = CPU_INFO.read_text(encoding="utf-8")
    suited = "AuthenticAMD" in known and "avx512f" in known and "amx_bf16" not in known
    if not (suited and torch.backends.mkldnn.is_available()):
        return False
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch's stubs lack it
    before = products.fp32_precision
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 128, 128, generator=generator)
    exact = a.double() @ b.double()
    products.fp32_precision = "bf16"
    try:
        error = ((a @ b).double() - exact).norm() / exact.norm()
    finally:
        products.fp32_precision = before
    return bool(error < LARGEST_FP32_ERROR)


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch use ``count`` CPU threads for a while; None leaves their number as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(
    function: Callable[[Item], Result], items: Sequence[Item], device: torch.device
) -> list[Result]:
    """What ``function`` returns for every item, in order; on CPUs as many at a time as torch has threads, each on one.

    Small pieces of work gain little from a second thread inside every operation, and lose what it costs to wake it.

    Args:
        function: called from several threads at a time, each begins with torch's defaults: gradients on, no autocast.
        items: what it is called with.
        device: where it computes; on CUDA one after another, as kernels queue up by themselves.
    """
    threads = min(torch.get_num_threads(), len(items))
    if device.type != "cpu" or threads < 2:
        return [function(item) for item in items]
    # torch's threads begin with the number of threads that was set last
    with torch_threads(1), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def in_memory_order_of(parameter: Tensor, tensor: Tensor) -> Tensor:
    """``tensor``, or a copy of it, whose numbers lie in memory as those of ``parameter``, which has
    its shape.

    Fused optimizers walk through memory and never ask for strides. A gradient or moment of a
    ``channels_last`` weight that lies in the order of its axes would move other weights than its
    own, without an error.
    """
    if tensor.stride() == parameter.stride():
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
