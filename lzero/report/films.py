"""Videos of runs on the page: paths to their files, or the files themselves."""

import base64
import os
from pathlib import Path
from urllib.parse import quote

from lzero.report.blocks import Film
from lzero.report.study import Study

VIDEOS = "videos"  # folder of a run
MOST_EMBEDDED = 20 * 2**20  # bytes of all videos together: mail servers refuse larger pages


def films(study: Study, folder: Path, *, embed: bool) -> tuple[list[Film], list[str]]:
    """Every video of the study's runs, and what must be known of them.

    Args:
        study: whose runs have them.
        folder: in which the page will lie.
        embed: put the files into the page, the first ones up to ``MOST_EMBEDDED`` bytes; else the
            page names where they are, seen from its folder.
    """
    found, linked = [], []
    left = MOST_EMBEDDED
    for group in study.groups:
        for run in group.runs:
            for file in sorted((run.path / VIDEOS).glob("*.mp4")):
                size = file.stat().st_size
                if embed and size <= left:
                    left -= size
                    data = base64.b64encode(file.read_bytes()).decode("ascii")
                    source = f"data:video/mp4;base64,{data}"
                else:
                    source = quote(Path(os.path.relpath(file, folder)).as_posix())
                    linked.append(file.name)
                found.append(Film(f"{file.stem}, {run.name}", source))
    notes = []
    if linked and embed:
        limit = f"{MOST_EMBEDDED // 2**20} MiB of videos go into a page"
        notes.append(f"{', '.join(linked)}: not in the page but linked, at most {limit}")
    elif linked:
        what = "are linked, not in the page: send their folders too, or use --embed-videos"
        notes.append(f"{len(linked)} video(s) {what}")
    return found, notes
