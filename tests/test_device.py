import logging
import threading
from contextlib import nullcontext

import pytest
import torch

from lzero import device as device_module
from lzero.config import MoEConfig
from lzero.device import (
    autocast,
    fast_products,
    has_bf16_matrix_units,
    onednn_is_better,
    resolve_device,
    resolve_precision,
    side_by_side,
    torch_threads,
)
from lzero.nn.moe import MoELayer

CPU = torch.device("cpu")


@pytest.fixture
def gpus(monkeypatch):
    def pretend(count: int, capability: tuple[int, int] = (9, 0)) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    return pretend


@pytest.fixture
def cpu_flags(monkeypatch, tmp_path):
    def pretend(flags: str) -> None:
        path = tmp_path / "cpuinfo"
        path.write_text(f"model name\t: x\nflags\t\t: {flags}\n", encoding="utf-8")
        monkeypatch.setattr(device_module, "CPU_INFO", path)

    return pretend


def test_auto_takes_the_gpu_of_the_local_rank_where_there_is_one(gpus):
    gpus(2)
    assert resolve_device("auto", 1) == resolve_device("cuda", 1) == torch.device("cuda", 1)
    assert resolve_device("cpu", 1) == CPU
    gpus(0)
    assert resolve_device("auto", 1) == CPU


def test_missing_cuda_says_what_to_type(gpus):
    gpus(0)
    with pytest.raises(RuntimeError, match="device=auto or device=cpu"):
        resolve_device("cuda")


def test_more_processes_than_gpus_is_refused(gpus):
    gpus(2)
    with pytest.raises(RuntimeError, match="at most 2 processes"):
        resolve_device("auto", 2)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="device='gpu': allowed are auto, cpu, cuda"):
        resolve_device("gpu")
    with pytest.raises(ValueError, match="precision='fp16': allowed are auto, fp32, bf16"):
        resolve_precision("fp16", CPU)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("avx2 amx_bf16 amx_tile", torch.bfloat16),
        ("avx2 avx512_bf16", torch.float32),
        ("avx2", torch.float32),
    ],
)
def test_auto_precision_on_cpu_needs_amx(cpu_flags, flags, expected):
    cpu_flags(flags)
    assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("fp32", CPU) == torch.float32


def test_processor_that_cannot_be_asked_counts_as_unsuited(monkeypatch, tmp_path):
    monkeypatch.setattr(device_module, "CPU_INFO", tmp_path / "absent")
    assert not has_bf16_matrix_units(CPU)


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)]
)
def test_auto_precision_on_cuda_needs_ampere(gpus, capability, expected):
    gpus(1, capability)
    assert resolve_precision("auto", torch.device("cuda", 0)) == expected


def test_forced_bf16_on_an_unsuited_cpu_works_and_warns_once(cpu_flags, caplog):
    cpu_flags("avx2")
    device_module._warn_slow_bf16.cache_clear()
    with caplog.at_level(logging.WARNING, logger="lzero.device"):
        assert resolve_precision("bf16", CPU) == torch.bfloat16
        assert resolve_precision("bf16", CPU) == torch.bfloat16
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "slower than precision=fp32" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_sets_the_dtype_of_matrix_products(dtype):
    with autocast(CPU, dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_fast_products_are_fp32_and_go_when_they_are_left():
    onednn_is_better.cache_clear()
    products = torch.backends.mkldnn.matmul
    before = products.fp32_precision
    a, b = torch.randn(2, 320, 320, generator=torch.Generator().manual_seed(0))
    exact = a.double() @ b.double()
    with pytest.raises(KeyError), fast_products(CPU):
        assert (products.fp32_precision == "bf16") == onednn_is_better()
        assert ((a @ b).double() - exact).norm() < 1e-6 * exact.norm()
        raise KeyError
    assert products.fp32_precision == before
    with fast_products(torch.device("cuda")):
        assert products.fp32_precision == before


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_side_by_side_every_piece_has_one_thread(threads):
    all_there = threading.Barrier(threads, timeout=60)

    def piece(number: int) -> tuple[int, int]:
        all_there.wait()
        return number, torch.get_num_threads()

    with torch_threads(threads):
        found = side_by_side(piece, range(2 * threads), CPU)
        assert torch.get_num_threads() == threads
    assert found == [(number, 1) for number in range(2 * threads)]


def test_side_by_side_an_error_is_the_callers():
    with torch_threads(2):
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda number: 1 // number, [1, 0, 1], CPU)
        assert torch.get_num_threads() == 2


def test_on_cuda_pieces_come_one_after_another():
    with torch_threads(2):
        found = side_by_side(lambda _: threading.get_ident(), [0, 1], torch.device("cuda"))
    assert found == [threading.get_ident()] * 2


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("GenuineIntel", "avx2 avx512f", False),
        ("AuthenticAMD", "avx2", False),
        ("AuthenticAMD", "avx2 avx512f amx_bf16", False),
        ("AuthenticAMD", "avx2 avx512f avx512_bf16", True),
    ],
)
def test_onednn_multiplies_on_amd_with_avx512(cpu_flags, monkeypatch, vendor, flags, expected):
    """Where it is as exact: on this machine it is, whatever processor it pretends to be, unless it rounds to bf16."""
    cpu_flags(f"{vendor} {flags}")
    monkeypatch.setattr(device_module, "LARGEST_FP32_ERROR", 1.0)
    onednn_is_better.cache_clear()
    assert onednn_is_better() == (expected and torch.backends.mkldnn.is_available())
    monkeypatch.setattr(device_module, "LARGEST_FP32_ERROR", 0.0)
    onednn_is_better.cache_clear()
    assert not onednn_is_better()
    onednn_is_better.cache_clear()


@pytest.mark.parametrize("num_tokens", [6, 400])
def test_experts_are_the_same_by_fast_products(num_tokens, monkeypatch):
    """Few tokens take the padded path, many the segments, which stay with MKL."""
    monkeypatch.setattr(device_module, "onednn_is_better", lambda: True)
    torch.manual_seed(0)
    layer = MoELayer(MoEConfig(num_experts=4), 32, 2)
    x = torch.randn(num_tokens, 32)
    task_id = torch.arange(num_tokens) % 2
    found = []
    for context in (nullcontext(), fast_products(CPU)):
        with context:
            y, _ = layer(x, task_id)
            gradients = torch.autograd.grad(y.square().sum(), list(layer.parameters()))
        found.append([y, *gradients])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
