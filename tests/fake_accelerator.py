"""An accelerator without hardware: fake tensors on a device of its own.

Fake tensors have shapes, dtypes and a device, but no numbers. So an operation on tensors of two devices raises, and so does
whatever would make the host wait for a number. CUDA itself cannot be imitated where torch is built without it.

What is not seen: precision (autocast is unknown to such a device), kernels, streams.
"""

from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils import backend_registration

NAME = "fakegpu"
WAITS = DataDependentOutputException
"""What is raised where the host would wait for a number of the device."""

M = TypeVar("M", bound=nn.Module)


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """``torch.autocast(…, enabled=False)`` asks."""
        return [torch.bfloat16]


@cache
def fake_accelerator() -> torch.device:
    """The device; registered in this process when it is first asked for."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    return torch.device(NAME, 0)


def fake_mode() -> FakeTensorMode:
    """Context in which new tensors are fake; ordinary ones that are used become so."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def moved(tensor: Tensor) -> Tensor:
    """A fake tensor on the device like ``tensor``."""
    device = fake_accelerator()
    like = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return nn.Parameter(like, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else like


def move_(module: M) -> M:
    """Replace all parameters and buffers by fake ones on the device; within :func:`fake_mode`."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = moved(tensor)
    return module
