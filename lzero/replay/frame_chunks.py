"""Frames of a replay ring in files that never change, so that the next checkpoint links them
instead of writing them again.

Shape legend: R = rings, L = ring length; the frame of absolute step t stands in slot ``t % L``.
"""

import secrets
import shutil
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


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
        self, frames: np.ndarray, oldest: int, head: int, directory: Path, names: list[str]
    ) -> None:
        """Read the live frames of ``names`` into the ring ``frames (R, L, …)``; the other arguments
        as in :meth:`save`.
        """
        for name in names:
            with safe_open(directory / name, framework="numpy") as file:
                first, rows = int(file.metadata()["first_step"]), file.get_tensor("frames")
            steps = np.arange(max(first, oldest), first + rows.shape[1])
            frames[:, steps % frames.shape[1]] = rows[:, steps - first]
        self._remember(names, oldest, head)

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
