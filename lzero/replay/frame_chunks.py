"""Frames of a replay ring in files that never change, so that the next checkpoint links them
instead of writing them again.

Shape legend: R = rings, L = ring length; the frame of absolute step t stands in slot ``t % L``.
"""

import re
import secrets
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

CHUNK_NAME = re.compile(r"frames-(\d{12})-[0-9a-f]{8}-\w+\.safetensors")


@dataclass(frozen=True)
class Shard:
    """Rings that a buffer has saved, and which rings of the buffer that loads them they are.

    Attributes:
        directory: where they are.
        own: rings of the buffer that loads.
        theirs: the same ones of the buffer that has saved.
        lost: names of frame files that cannot be read.
    """

    directory: Path
    own: Sequence[int]
    theirs: Sequence[int]
    lost: Collection[str] = ()


class FrameChunks:
    """Files of ``chunk_steps`` absolute steps each; remembers those to which no frame will be
    added.
    """

    def __init__(self, chunk_steps: int) -> None:
        self.chunk_steps = chunk_steps
        self._full: dict[int, str] = {}  # file of every full chunk

    def save(
        self,
        frames: np.ndarray,
        oldest: int,
        head: int,
        directory: Path,
        suffix: str,
        previous: Path | None,
    ) -> list[str]:
        """Write or link the live frames; names carry a random token, so equal names mean equal
        content.

        Args:
            frames: the ring ``(R, L, …)``.
            oldest, head: absolute steps of the oldest live row and behind the newest.
            directory: where to write.
            suffix: ends the stem of every file.
            previous: directory of an earlier checkpoint, whose full files are hard-linked.

        Returns:
            Names of the files, oldest first.
        """
        names = []
        for chunk in range(oldest // self.chunk_steps, -(-head // self.chunk_steps)):
            name = self._full.get(chunk)
            if name is None or previous is None or not _link(previous / name, directory / name):
                first, stop = (
                    max(oldest, chunk * self.chunk_steps),
                    min(head, (chunk + 1) * self.chunk_steps),
                )
                name = f"frames-{first:012d}-{secrets.token_hex(4)}-{suffix}.safetensors"
                rows = frames.take(np.arange(first, stop) % frames.shape[1], axis=1)
                save_file({"frames": rows}, directory / name, metadata={"first_step": str(first)})
            names.append(name)
        self._remember(names, oldest, head)
        return names

    def load(
        self, frames: np.ndarray, oldest: int, head: int, shard: Shard, names: list[str]
    ) -> list[tuple[int, int]]:
        """Read live frames into rings of ``frames (R, L, …)``.

        Args:
            frames, oldest, head: as in :meth:`save`.
            shard: which rings.
            names: their files, oldest first.

        Returns:
            Spans (first, stop) of absolute steps whose frames are lost.

        Raises:
            ValueError: if the files are not those of these steps.
        """
        matches = [CHUNK_NAME.fullmatch(name) for name in names]
        starts = [int(match[1]) for match in matches if match is not None]
        bounds = [*starts, head]
        fits = len(starts) == len(names) and sorted(set(bounds)) == bounds
        if not fits or min(bounds) > oldest:
            raise ValueError(f"frames of steps {oldest} to {head} are not in files {names}")
        holes = []
        for name, first, stop in zip(names, starts, bounds[1:], strict=True):
            if name in shard.lost:
                holes.append((first, stop))
                continue
            with safe_open(shard.directory / name, framework="numpy") as file:
                rows = file.get_tensor("frames")
            expected = (stop - first, *frames.shape[2:])
            fits = rows.shape[1:] == expected and len(rows) > max(shard.theirs)
            if not fits or rows.dtype != frames.dtype:
                raise ValueError(
                    f"{name} holds {rows.dtype} {rows.shape}, expected {frames.dtype} (R, *{expected})"
                )
            slots = np.arange(first, stop) % frames.shape[1]
            for ring, ring_then in zip(shard.own, shard.theirs, strict=True):
                frames[ring, slots] = rows[ring_then]
        if holes:  # linked files of these must not be taken over
            self.forget()
        else:
            self._remember(names, oldest, head)
        return holes

    def forget(self) -> None:
        """Take over no file from an earlier checkpoint."""
        self._full = {}

    def _remember(self, names: list[str], oldest: int, head: int) -> None:
        first_chunk, full = oldest // self.chunk_steps, head // self.chunk_steps
        self._full = {chunk: name for chunk, name in enumerate(names, first_chunk) if chunk < full}


def _link(source: Path, target: Path) -> bool:
    """Hard-link, or copy where the file system refuses; False if there is no source."""
    if not source.exists():
        return False
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
    return True
