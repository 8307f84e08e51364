"""Updates that are no numbers: whose they are, and what was learned from."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from safetensors.torch import save_file
from torch import Tensor

from lzero.policy.state import TrainedPolicy
from lzero.replay.windows import ReplayWindows

SaveInput = Callable[[Path], Path]
"""Writes what an update was learned from to a file, and names it."""


class Update(Protocol):
    """What is asked of the result of an update that is no number."""

    @property
    def task_losses(self) -> Tensor:
        """Loss of each task ``(T,)``."""

    @property
    def gradient_norms(self) -> Tensor:
        """Of every trained parameter ``(P,)``, in the order of ``model.parameters()``."""


def described(policy: TrainedPolicy, result: Update, games: Sequence[str]) -> str:
    """Whose loss and which parameter's gradient are no numbers; waits for the device."""
    broken = (~result.task_losses.isfinite()).nonzero().flatten().tolist()
    said = (
        [f"the loss of {', '.join(games[task] for task in broken)} is no number"] if broken else []
    )
    without = (~result.gradient_norms.isfinite()).nonzero().flatten().tolist()
    if without:
        names = [
            name for name, parameter in policy.model.named_parameters() if parameter.requires_grad
        ]
        said.append(
            f"the gradient of {names[without[0]]} is no number (and of {len(without) - 1} others of {len(names)} parameters)"
        )
    return " and ".join(said) or "the gradient's norm is no number"


def save_windows(windows: ReplayWindows, file: Path) -> Path:
    """Write what an update learned from, each field of it a tensor."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for field in dataclasses.fields(windows):
        tensors[field.name] = getattr(windows, field.name).contiguous()
    save_file(tensors, file)
    return file
