"""Atomic checkpoints without pickle.

A checkpoint is a directory ``step_000123``::

    manifest.json         size and SHA-256 of every file; see :mod:`lzero.checkpoint.manifest`
    state.json            counters and config of the run
    {group}.safetensors   one file per group of named tensors: model, target, optimizer
    rank_{r}/state.json   what each rank needs for itself, such as its random number generators
    rank_{r}/…            any files of that rank, such as its replay

It is written under a hidden name and renamed when all of it is on the disk, so whatever is called
``step_…`` was complete; for the same reason directories are hidden before they are deleted. Several
machines need a shared file system.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from lzero import checks
from lzero.checkpoint.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    CheckpointError,
    FileEntry,
    Manifest,
    config_sha256,
    entries_of,
    read_manifest,
    versions,
)
from lzero.checkpoint.tensors import STATE_FILE
from lzero.distributed import Distributed
from lzero.run_paths import list_checkpoints, train_iter_of

logger = logging.getLogger(__name__)

UNFINISHED, REPLACED, DELETED = (
    ".unfinished_",
    ".replaced_",
    ".deleted_",
)  # prefixes of hidden directories
DAMAGED = "damaged_"  # prefix of a checkpoint that was passed over
LEFT = "left_"  # prefix of a checkpoint behind the one that a run was made to go on from
ENTRIES_FILE = "entries.json"  # of a rank, until the manifest takes them in
SECONDS_PER_HOUR = 3600.0

WriteRankFiles = Callable[[Path, Path | None], None]


class CheckpointManager:
    """Writes the checkpoints of a run and deletes old ones. A process that only reads needs no
    manager.

    Constructing and saving are collective: every rank does both. The constructor clears away what a
    killed write left behind.

    Args:
        directory: directory of the checkpoints, ``runs/{exp_name}/checkpoints``; made when it is
            missing.
        keep: number of newest checkpoints that stay, at least 1. The one with the best score stays too.
        keep_every_hours: of the others, one stays for so many hours of the run; 0 for none.
        distributed: place of this process in the run.

    Raises:
        TypeError: if ``directory`` is no path, or a number is none.
        ValueError: if ``keep`` is less than 1, or ``keep_every_hours`` is negative.
    """

    def __init__(
        self,
        directory: Path,
        keep: int = 2,
        keep_every_hours: float = 0.0,
        distributed: Distributed | None = None,
    ) -> None:
        checks.count("keep", keep)
        checks.number("keep_every_hours", keep_every_hours, 0.0)
        self.directory = checks.path("directory", directory)
        self._keep, self._keep_every_hours = keep, keep_every_hours
        self._distributed = distributed or Distributed()
        if self._distributed.is_main:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._clear_hidden()
        self._distributed.barrier()

    def latest(self) -> Path | None:
        """Newest checkpoint, ``None`` where there is none."""
        checkpoints = list_checkpoints(self.directory)
        return checkpoints[-1] if checkpoints else None

    def put_aside(self, checkpoint: Path, prefix: str) -> None:
        """Rename a checkpoint, so that nothing takes it for one; collective."""
        if self._distributed.is_main:
            aside = self.directory / f"{prefix}{checkpoint.name}"
            if aside.exists():
                shutil.rmtree(aside)
            checkpoint.rename(aside)
        self._distributed.barrier()

    def save(
        self,
        train_iter: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        *,
        rank_state: Mapping[str, Any] | None = None,
        write_rank_files: WriteRankFiles | None = None,
        exact: bool = False,
        score: float | None = None,
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
            exact: whether all ranks can bring their environments back to where they are.
            score: of an evaluation of these parameters; higher is better.

        Returns:
            Path of the checkpoint.

        Raises:
            TypeError: if a state is no JSON.
            ValueError: if ``train_iter`` is negative, or ``score`` is no number.
            CheckpointError: on all ranks, if a checkpoint with more updates exists, which belongs to another run, or if a
                rank cannot write, for want of space or of the folder. Earlier checkpoints stay as they are.
        """
        checks.count("train_iter", train_iter, 0)
        checks.json_values("state", state)
        checks.json_values("rank_state", rank_state)
        if score is not None:
            checks.number("score", score)
        previous = self.latest()
        if previous is not None and train_iter_of(previous) > train_iter:
            raise CheckpointError(
                f"cannot save train_iter={train_iter}: {previous} is ahead of it and may belong to "
                "another "
                "run; choose another exp_name, resume from that checkpoint, or delete it"
            )
        final = self.directory / f"step_{train_iter:06d}"
        unfinished = self.directory / f"{UNFINISHED}{final.name}"
        with self._all_or_none(final, previous):
            if self._distributed.is_main:
                self._clear_hidden()
                unfinished.mkdir()
        with self._all_or_none(final, previous):
            own = unfinished / f"rank_{self._distributed.rank}"
            own.mkdir()
            _write_json(own / STATE_FILE, rank_state or {})
            if write_rank_files is not None:
                write_rank_files(own, previous)
            _write_entries(own, previous)
            _flush_to_disk(own)
        with self._all_or_none(final, previous):
            if self._distributed.is_main:
                for group, members in tensors.items():
                    save_file(_without_shared_memory(members), unfinished / f"{group}.safetensors")
                _write_json(unfinished / STATE_FILE, state)
                _write_manifest(
                    unfinished,
                    train_iter=train_iter,
                    world_size=self._distributed.world_size,
                    exact=exact,
                    score=score,
                    config=state.get("config", {}),
                )
                _flush_to_disk(unfinished)
                self._publish(unfinished, final)
                self._prune()
        return final

    @contextmanager
    def _all_or_none(self, final: Path, previous: Path | None) -> Iterator[None]:
        """A step of writing that all ranks take, or none goes on behind it."""
        problem: Exception | None = None
        try:
            yield
        except (OSError, SafetensorError) as error:
            problem = error
        answers = self._distributed.all_gather_array(np.array([problem is not None]))
        failed = [rank for rank, answer in enumerate(answers) if answer.any()]
        if not failed:
            return
        if self._distributed.is_main:  # what was written of it takes room that may be short
            shutil.rmtree(self.directory / f"{UNFINISHED}{final.name}", ignore_errors=True)
        text = str(problem) if problem else f"rank {failed[0]} could not write"
        raise CheckpointError(
            f"cannot write {final}: {text} ({free_space(self.directory)}); the newest whole checkpoint is "
            f"{previous or 'none'}: make room and start the same command again"
        ) from problem

    def _prune(self) -> None:
        """Delete what need not stay."""
        checkpoints = list_checkpoints(self.directory)
        stay, scores, last = set(checkpoints[-self._keep :]), {}, -float("inf")
        for checkpoint in checkpoints:
            try:
                manifest = read_manifest(checkpoint)
            except CheckpointError:
                continue  # of an earlier version, or damaged: it goes when it is old
            if manifest.score is not None:
                scores[checkpoint] = manifest.score
            hours = manifest.written / SECONDS_PER_HOUR
            if self._keep_every_hours and hours >= last + self._keep_every_hours:
                stay.add(checkpoint)
                last = hours
        if scores:
            stay.add(max(scores, key=lambda checkpoint: scores[checkpoint]))
        for old in checkpoints:
            if old not in stay:
                shutil.rmtree(old.rename(self.directory / f"{DELETED}{old.name}"))

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


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _write_entries(own: Path, previous: Path | None) -> None:
    """Write down what the files of a rank's folder are, for the manifest."""
    known: dict[str, FileEntry] = {}
    if previous is not None:
        try:
            files = read_manifest(previous).files
        except CheckpointError:
            files = {}
        for name, entry in files.items():
            folder, _, file = name.rpartition("/")
            if folder == own.name:
                known[file] = entry
    before = None if previous is None else previous / own.name
    entries = entries_of(own, known, before)
    _write_json(own / ENTRIES_FILE, {name: entry.model_dump() for name, entry in entries.items()})


def _write_manifest(
    unfinished: Path,
    *,
    train_iter: int,
    world_size: int,
    exact: bool,
    score: float | None,
    config: Mapping[str, Any],
) -> None:
    files = entries_of(unfinished, {}, None)
    for rank in range(world_size):
        folder = unfinished / f"rank_{rank}"
        entries = json.loads((folder / ENTRIES_FILE).read_text())
        for name, entry in entries.items():
            files[f"{folder.name}/{name}"] = FileEntry(**entry)
        (folder / ENTRIES_FILE).unlink()
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        train_iter=train_iter,
        world_size=world_size,
        exact=exact,
        score=score,
        written=time.time(),
        config_sha256=config_sha256(config),
        versions=versions(),
        files=files,
    )
    _write_json(unfinished / MANIFEST_FILE, manifest.model_dump())


def free_space(directory: Path) -> str:
    """How much room there is, in words."""
    try:
        return f"{shutil.disk_usage(directory).free / 2**20:,.0f} MiB are free there"
    except OSError:
        return "its folder is gone"


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
