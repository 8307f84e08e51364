"""Where the frames of a replay ring lie: in memory, or in a file for rings that are larger; and how much room there is."""

import mmap
import os
import tempfile
from pathlib import Path

import numpy as np

from lzero import checks

CGROUPS = Path("/sys/fs/cgroup")
MEMORY = Path("/proc/meminfo")
GIBIBYTE = 2**30


def frames_on_disk(shape: tuple[int, ...], dtype: np.dtype, directory: Path) -> np.ndarray:
    """Zeros in a file without a name, which goes with the process.

    All of the file is reserved at once: a disk that filled up later would kill the process.

    Args:
        shape: of the array.
        dtype: of its entries.
        directory: on the disk to use; made if it is missing.

    Raises:
        ValueError: if a length is below 1.
        OSError: if the disk has not enough room.
    """
    shape = checks.sizes("shape", shape)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory) as file:
        os.posix_fallocate(file.fileno(), 0, size)
        mapped = mmap.mmap(file.fileno(), size)
    mapped.madvise(mmap.MADV_RANDOM)  # windows are drawn anywhere: what follows is not read ahead
    return np.frombuffer(mapped, dtype).reshape(shape)


def available_memory() -> int:
    """Bytes that this process can still take: of the machine, and of the container (control group, version 2) it is in."""
    lines = dict(line.split(":", 1) for line in MEMORY.read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    own = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    for group in (CGROUPS / own, *(CGROUPS / own).parents):
        if group.is_relative_to(CGROUPS):
            available = min(available, _left_in(group))
    return available


def _left_in(group: Path) -> int:
    """Bytes until a control group's limit, pages of files not counted: they are given up when memory is short."""
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # the topmost group has no limit, other systems have no groups
        return 2**63
    return 2**63 if limit == "max" else max(0, int(limit) - used + int(stat.get("file", 0)))
