"""Named tensors, states and optimizers: from a checkpoint's files and into them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_numpy_file
from safetensors.torch import load_file
from torch import Tensor, nn

from lzero import checks
from lzero.checkpoint.manifest import CheckpointError, checked_file, read_json, unreadable
from lzero.device import in_memory_order_of

STATE_FILE = "state.json"


def load_tensors(path: Path, name: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """One group of tensors of the checkpoint ``path``.

    Raises:
        CheckpointError: if the checkpoint or the group is missing or damaged.
    """
    file = checked_file(checks.path("path", path), f"{name}.safetensors")
    try:
        return load_file(file, device=str(device))
    except (SafetensorError, OSError) as error:
        raise unreadable(path, f"{file.name} is damaged ({error})") from error


def load_arrays(path: Path, name: str) -> dict[str, np.ndarray]:
    """Arrays of a ``.safetensors`` file of the checkpoint ``path``.

    Raises:
        CheckpointError: as :func:`load_tensors`.
    """
    file = checked_file(checks.path("path", path), name)
    try:
        return load_numpy_file(file)
    except (SafetensorError, OSError) as error:
        raise unreadable(path, f"{name} is damaged ({error})") from error


def load_state(path: Path, rank: int | None = None) -> dict[str, Any]:
    """State of the whole run in the checkpoint ``path``, or that of one rank.

    Raises:
        CheckpointError: if the checkpoint or the rank is missing or damaged, or of another format
            version.
    """
    path = checks.path("path", path)
    name = STATE_FILE if rank is None else f"rank_{rank}/{STATE_FILE}"
    checked_file(path, name)
    state = read_json(path, name)
    if not isinstance(state, dict):
        raise unreadable(path, f"{name} is damaged (it holds no names)")
    return state


def optimizer_state_to_tensors(
    optimizer: torch.optim.Optimizer, named_parameters: Iterable[tuple[str, nn.Parameter]]
) -> dict[str, Tensor]:
    """State of an optimizer as tensors called ``{key}/{parameter name}``, such as
    ``exp_avg/head.weight``.

    Parameters that were never updated have no entry. Learning rates and other settings are not part
    of it: they follow from the config and the counters.

    Raises:
        ValueError: if a parameter of the optimizer is not among ``named_parameters``.
    """
    tensors = {}
    for name, parameter in _optimized(optimizer, named_parameters):
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = value
    return tensors


def load_optimizer_state_(
    optimizer: torch.optim.Optimizer,
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    tensors: Mapping[str, Tensor],
) -> None:
    """Replace the state of an optimizer by what :func:`optimizer_state_to_tensors` gave.

    Raises:
        ValueError: if a parameter of the optimizer is not among ``named_parameters``.
        TypeError: if something is no tensor.
        CheckpointError: if a tensor belongs to no parameter or has another shape.
    """
    optimized = _optimized(optimizer, named_parameters)
    indices = {name: index for index, (name, _) in enumerate(optimized)}
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, value in tensors.items():
        checks.instance(full_name, value, Tensor, "a tensor")
        key, _, name = full_name.partition("/")
        if name not in indices:
            raise CheckpointError(
                f"optimizer state {full_name!r} belongs to no parameter of this model"
            )
        index = indices[name]
        parameter = optimized[index][1]
        if key != "step" and value.shape != parameter.shape:
            raise CheckpointError(
                f"optimizer state {full_name!r} has shape {tuple(value.shape)}, its parameter "
                f"{tuple(parameter.shape)}"
            )
        # a copy on the CPU: the file may be memory-mapped, and load_state_dict moves what belongs
        # on the GPU
        value = value.to("cpu", copy=True)
        state.setdefault(index, {})[key] = (
            value if key == "step" else in_memory_order_of(parameter, value)
        )
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _optimized(
    optimizer: torch.optim.Optimizer, named_parameters: Iterable[tuple[str, nn.Parameter]]
) -> list[tuple[str, nn.Parameter]]:
    """Parameters of the optimizer in its own order, with their names."""
    name_of = {parameter: name for name, parameter in named_parameters}
    named, unnamed = [], []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter in name_of:
                named.append((name_of[parameter], parameter))
            else:
                unnamed.append(tuple(parameter.shape))
    if unnamed:
        raise ValueError(
            f"named_parameters lacks {len(unnamed)} parameter(s) of the optimizer, of shapes "
            f"{unnamed}"
        )
    return named
