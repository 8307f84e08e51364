"""Atomic checkpoints without pickle.

A checkpoint is a directory ``step_000123``::

    state.json            counters, config hash, format version
    {group}.safetensors   one file per group of named tensors: model, target, optimizer
    rank_{r}/state.json   what each rank needs for itself, such as its random number generators
    rank_{r}/…            any files of that rank, such as its replay

It is written under a hidden name and renamed when all of it is on the disk, so whatever is called
``step_…`` is complete; for the same reason directories are hidden before they are deleted. Several
machines need a shared file system.
"""

import base64
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lzero.device import in_memory_order_of
from lzero.distributed import Distributed

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
CHECKPOINT_NAME = re.compile(r"step_(\d{6,})")
STATE_FILE = "state.json"
UNFINISHED, REPLACED, DELETED = (
    ".unfinished_",
    ".replaced_",
    ".deleted_",
)  # prefixes of hidden directories

WriteRankFiles = Callable[[Path, Path | None], None]


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or does not fit what it is loaded into."""


class CheckpointManager:
    """Writes the checkpoints of a run and deletes old ones. A process that only reads needs no
    manager.

    Constructing and saving are collective: every rank does both. The constructor clears away what a
    killed write left behind.

    Args:
        directory: directory of the checkpoints, ``runs/{exp_name}/checkpoints``; made when it is
            missing.
        keep: number of newest checkpoints that stay, at least 1.
        distributed: place of this process in the run.

    Raises:
        ValueError: if ``keep`` is less than 1.
    """

    def __init__(
        self, directory: Path, keep: int = 2, distributed: Distributed | None = None
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}: at least 1 checkpoint must stay")
        self.directory = Path(directory)
        self._keep = keep
        self._distributed = distributed or Distributed()
        if self._distributed.is_main:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._clear_hidden()
        self._distributed.barrier()

    def latest(self) -> Path | None:
        """Newest checkpoint, ``None`` where there is none."""
        checkpoints = list_checkpoints(self.directory)
        return checkpoints[-1] if checkpoints else None

    def save(
        self,
        train_iter: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        *,
        rank_state: Mapping[str, Any] | None = None,
        write_rank_files: WriteRankFiles | None = None,
    ) -> Path:
        """Write one checkpoint; it replaces an earlier one of the same ``train_iter``.

        Args:
            train_iter: updates done so far; names the checkpoint.
            tensors: groups of named tensors, read on rank 0 only; those that share memory are
                written each.
            state: JSON values of the whole run, read on rank 0 only.
            rank_state: JSON values of this rank.
            write_rank_files: called on every rank with its directory and the previous checkpoint,
                from which unchanged files may be hard-linked.

        Returns:
            Path of the checkpoint.

        Raises:
            CheckpointError: if a checkpoint with more updates exists: it belongs to another run.
        """
        previous = self.latest()
        if previous is not None and _train_iter(previous) > train_iter:
            raise CheckpointError(
                f"cannot save train_iter={train_iter}: {previous} is ahead of it and may belong to "
                "another "
                "run; choose another exp_name, resume from that checkpoint, or delete it"
            )
        final = self.directory / f"step_{train_iter:06d}"
        unfinished = self.directory / f"{UNFINISHED}{final.name}"
        if self._distributed.is_main:
            self._clear_hidden()
            unfinished.mkdir()
        self._distributed.barrier()

        own_directory = unfinished / f"rank_{self._distributed.rank}"
        own_directory.mkdir()
        _write_state(own_directory, rank_state or {})
        if write_rank_files is not None:
            write_rank_files(own_directory, previous)
        _flush_to_disk(own_directory)
        self._distributed.barrier()

        if self._distributed.is_main:
            for group, members in tensors.items():
                save_file(_without_shared_memory(members), unfinished / f"{group}.safetensors")
            _write_state(unfinished, state)
            _flush_to_disk(unfinished)
            self._publish(unfinished, final)
            for old in list_checkpoints(self.directory)[: -self._keep]:
                shutil.rmtree(old.rename(self.directory / f"{DELETED}{old.name}"))
        self._distributed.barrier()
        return final

    def _publish(self, unfinished: Path, final: Path) -> None:
        replaced = self.directory / f"{REPLACED}{final.name}"
        if final.exists():
            final.rename(replaced)
        unfinished.rename(final)
        _fsync(self.directory)
        if replaced.exists():
            shutil.rmtree(replaced)

    def _clear_hidden(self) -> None:
        """Remove leftovers of a killed write; a checkpoint that was being replaced gets its name
        back.
        """
        for replaced in self.directory.glob(f"{REPLACED}*"):
            original = self.directory / replaced.name.removeprefix(REPLACED)
            if not original.exists():
                replaced.rename(original)
        for prefix in (UNFINISHED, REPLACED, DELETED):
            for leftover in self.directory.glob(f"{prefix}*"):
                shutil.rmtree(leftover)


def list_checkpoints(directory: Path) -> list[Path]:
    """Checkpoints in a directory, by number of updates; none where it does not exist."""
    if not directory.is_dir():
        return []
    found = [
        path
        for path in directory.iterdir()
        if CHECKPOINT_NAME.fullmatch(path.name) and path.is_dir()
    ]
    return sorted(found, key=_train_iter)


def load_tensors(path: Path, name: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """One group of tensors of the checkpoint ``path``.

    Raises:
        CheckpointError: if the checkpoint or the group is missing or damaged.
    """
    file = Path(path) / f"{name}.safetensors"
    if not file.is_file():
        raise _unreadable(path, f"{file.name} is missing")
    try:
        return load_file(file, device=str(device))
    except SafetensorError as error:
        raise _unreadable(path, f"{file.name} is damaged ({error})") from error


def load_state(path: Path, rank: int | None = None) -> dict[str, Any]:
    """State of the whole run in the checkpoint ``path``, or that of one rank.

    Raises:
        CheckpointError: if the checkpoint or the rank is missing or damaged, or of another format
            version.
    """
    name = STATE_FILE if rank is None else f"rank_{rank}/{STATE_FILE}"
    file = Path(path) / name
    if not file.is_file():
        raise _unreadable(path, f"{name} is missing")
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # no UTF-8 or no JSON
        raise _unreadable(path, f"{name} is damaged ({error})") from error
    version = state.pop("format_version", None) if isinstance(state, dict) else None
    if version != FORMAT_VERSION:
        raise _unreadable(
            path, f"{name} has format version {version}, this program reads {FORMAT_VERSION}"
        )
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
        CheckpointError: if a tensor belongs to no parameter or has another shape.
    """
    optimized = _optimized(optimizer, named_parameters)
    indices = {name: index for index, (name, _) in enumerate(optimized)}
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, value in tensors.items():
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


def rng_state(generators: Mapping[str, np.random.Generator]) -> dict[str, Any]:
    """Random state of this process as JSON values: torch's CPU and, where in use, CUDA generator;
    numpy's.
    """
    of_numpy = {}
    for name, generator in generators.items():  # the state of some bit generators holds arrays
        of_numpy[name] = json.loads(
            json.dumps(generator.bit_generator.state, default=np.ndarray.tolist)
        )
    return {
        "torch_cpu": _encode(torch.get_rng_state()),
        "torch_cuda": _encode(torch.cuda.get_rng_state()) if torch.cuda.is_initialized() else None,
        "numpy": of_numpy,
    }


def set_rng_state(state: Mapping[str, Any], generators: Mapping[str, np.random.Generator]) -> None:
    """Continue the random streams of :func:`rng_state`; numpy generators are set in place.

    Raises:
        CheckpointError: if the names of the numpy generators differ.
    """
    if state["numpy"].keys() != generators.keys():
        raise CheckpointError(
            f"random generators {sorted(generators)} expected, the checkpoint has "
            f"{sorted(state['numpy'])}"
        )
    for name, generator in generators.items():
        generator.bit_generator.state = state["numpy"][name]
    torch.set_rng_state(_decode(state["torch_cpu"]))
    if state["torch_cuda"] is None:
        return
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(_decode(state["torch_cuda"]))
    else:
        logger.warning(
            "the checkpoint was written on CUDA: its CUDA random stream does not continue on this "
            "device"
        )


def _train_iter(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


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


def _without_shared_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors of which no two share storage, as safetensors asks for."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return separate


def _write_state(directory: Path, state: Mapping[str, Any]) -> None:
    text = json.dumps({"format_version": FORMAT_VERSION, **state}, indent=1)
    (directory / STATE_FILE).write_text(text, encoding="utf-8")


def _flush_to_disk(directory: Path) -> None:
    """Force all files below a directory, and the directory entries themselves, onto the disk."""
    for root, _, files in os.walk(directory):
        for file in files:
            _fsync(Path(root) / file)
        _fsync(Path(root))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unreadable(path: Path, problem: str) -> CheckpointError:
    """The error for a checkpoint that cannot be read, with the checkpoints that exist near its
    path.
    """
    path = Path(path)
    problem = problem if path.is_dir() else "no such directory"
    nearby: list[Path] = []
    for place in (path, path / "checkpoints", path.parent):
        nearby += list_checkpoints(place)
    existing = ", ".join(map(str, nearby)) or "none"
    return CheckpointError(f"checkpoint {path}: {problem}; existing checkpoints: {existing}")


def _encode(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode("ascii")


def _decode(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype=np.uint8).copy())
