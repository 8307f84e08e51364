"""One process at a time writes a run's folder."""

import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

LOCK_FILE = "lock"

_HELD: set[Path] = set()  # by this process, to which the system grants every lock again


class LockedError(RuntimeError):
    """Another process writes the folder."""


class FolderLock:
    """A lock on a folder that ends with its process, however that ends.

    It is a POSIX record lock: between machines it holds on network file systems that pass locks on (NFS 4, NFS 3 with lockd),
    and not on those that do not (``nolock``, most user-space ones).

    Args:
        folder: made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._file: TextIO | None = None

    def acquire(self) -> None:
        """Take it.

        Raises:
            LockedError: if another run has it, naming its process.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.folder.resolve() in _HELD:
            raise LockedError(f"{self.folder} is being written by another run of this process")
        file = (self.folder / LOCK_FILE).open("a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read(200).strip() or "another process"
            file.close()
            raise LockedError(
                f"{self.folder} is being written by {owner}; wait for its end, stop it, or choose another exp_name"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._file = file
        _HELD.add(self.folder.resolve())

    def release(self) -> None:
        """Give it back, if it was taken."""
        if self._file is not None:
            self._file.close()
            self._file = None
            _HELD.discard(self.folder.resolve())
