"""TensorBoard's event files, from which a resumed run takes what was logged behind its checkpoint.

A file is a row of records: eight bytes with the length of an event, their checksum, the event, and
its checksum. Events lie in the order in which they were logged.
"""

import os
import struct
from collections.abc import Callable
from pathlib import Path

HEADER = struct.Struct("<QI")
CHECKSUM = struct.Struct("<I")


def forget_events(directory: Path, is_forgotten: Callable[[str, int, float], bool]) -> None:
    """Cut each file behind its last event that stays, and remove files in which none does.

    Cut off is also what a killed process left unfinished. Only what is cut off is read.

    Args:
        directory: of the files; there need not be any.
        is_forgotten: of an event by its tag, step and wall time (seconds since 1970).
    """
    for path in sorted(directory.glob("events.out.tfevents.*")):
        end = _end_of_last_kept(path, is_forgotten)
        if end == 0:
            path.unlink()
        elif end < path.stat().st_size:
            os.truncate(path, end)


def _end_of_last_kept(path: Path, is_forgotten: Callable[[str, int, float], bool]) -> int:
    # imported on first use: they take longer to import than everything else here
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    with path.open("rb") as file:
        for start, length in reversed(_records(path)):
            file.seek(start)
            data, checksum = file.read(length), file.read(CHECKSUM.size)
            if checksum != CHECKSUM.pack(masked_crc32c(data)):
                continue
            event = Event.FromString(data)
            for value in event.summary.value:  # none where a file or an attempt begins
                if not is_forgotten(value.tag, event.step, event.wall_time):
                    return start + length + CHECKSUM.size
    return 0


def _records(path: Path) -> list[tuple[int, int]]:
    """Where each whole record's event begins, and its length."""
    size, found = path.stat().st_size, []
    with path.open("rb") as file:
        start = HEADER.size
        while len(header := file.read(HEADER.size)) == HEADER.size:
            length, _ = HEADER.unpack(header)
            end = start + length + CHECKSUM.size
            if end > size:
                break
            found.append((start, length))
            file.seek(end)
            start = end + HEADER.size
    return found
