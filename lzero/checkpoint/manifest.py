"""What a checkpoint is made of, and whether it still is: ``manifest.json`` names every file with its size and SHA-256.

It is written last. Files that it does not name are never read, and nothing outside of the checkpoint's folder is: names are
plain, links are refused.
"""

import hashlib
import json
import os
import platform
import stat
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from lzero import checks
from lzero.run_paths import list_checkpoints

FORMAT_VERSION = 2
MANIFEST_FILE = "manifest.json"
LARGEST_JSON = (
    64 * 2**20
)  # bytes; the largest of ours has some kilobytes, and a hostile one must not fill memory
PACKAGES = ("torch", "numpy", "gymnasium", "ale-py", "minatar")
"""Whose version may decide whether a run goes on bit for bit."""


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or does not fit what it is loaded into."""


class FileEntry(BaseModel):
    """A file of a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bytes: NonNegativeInt
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


FileName = Annotated[
    str, Field(pattern=r"^(rank_\d{1,6}/)?[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=200)
]


class Manifest(BaseModel):
    """Contents of ``manifest.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format_version: int
    """Of the files' arrangement: :data:`FORMAT_VERSION`."""
    train_iter: NonNegativeInt
    """Updates done; names the checkpoint."""
    world_size: PositiveInt
    """Processes of the run, each with a folder ``rank_{r}``."""
    exact: bool
    """Whether environments can be brought back to where they were; otherwise episodes begin anew."""
    score: Annotated[float, Field(allow_inf_nan=False)] | None
    """Of an evaluation of these parameters, higher is better; None where there was none."""
    written: Annotated[float, Field(allow_inf_nan=False)]
    """When, in seconds since 1970."""
    config_sha256: str
    """Of the experiment's config as JSON with sorted keys."""
    versions: dict[str, str]
    """Of Python, this library and what decides numbers, by name."""
    files: dict[FileName, FileEntry]
    """By path within the checkpoint."""


def entries_of(
    directory: Path, unchanged_since: Mapping[str, FileEntry], previous: Path | None
) -> dict[str, FileEntry]:
    """Size and hash of all files of ``directory``, by name.

    Args:
        directory: of one rank, or of the checkpoint itself; folders in it are left out.
        unchanged_since: entries of the ``previous`` directory's files. What is one file with one of these keeps its entry: it
            is not read again, and damage that came meanwhile is not taken for its content.
        previous: that directory.
    """
    entries = {}
    for path in sorted(directory.iterdir()):
        if path.is_dir():
            continue
        known = unchanged_since.get(path.name)
        if known is not None and previous is not None and path.samefile(previous / path.name):
            entries[path.name] = known
        else:
            entries[path.name] = FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))
    return entries


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def config_sha256(config: Mapping[str, Any]) -> str:
    """Hexadecimal SHA-256 of a config as JSON with sorted keys; TypeError if it is no JSON."""
    checks.json_values("config", config)
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of :data:`PACKAGES` that are installed, by name."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest of the folder ``checkpoint``.

    Raises:
        CheckpointError: if there is none, it is damaged, or of another format.
    """
    data = read_json(checkpoint, MANIFEST_FILE)
    written = data.get("format_version") if isinstance(data, dict) else None
    if written != FORMAT_VERSION:
        raise unreadable(
            checkpoint,
            f"it has format version {written}, this program reads {FORMAT_VERSION}: start anew under another exp_name, or go "
            "on with the version of lzero that wrote it",
        )
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise unreadable(
            checkpoint, f"{MANIFEST_FILE} is damaged ({place}: {error.errors()[0]['msg']})"
        ) from error


def read_json(checkpoint: Path, name: str) -> Any:
    """A JSON file of a checkpoint, which is not compared with the manifest here.

    Raises:
        CheckpointError: if it is missing, no plain file, too large, or no JSON.
    """
    file = checkpoint / name
    problem = _problem_of_file(file, None)
    if problem is None and file.stat().st_size > LARGEST_JSON:
        problem = "is too large"
    if problem is not None:
        if name == MANIFEST_FILE and (checkpoint / "state.json").is_file():
            problem += ": it is of an earlier version of lzero, or was not written to its end"
        raise unreadable(checkpoint, f"{name} {problem}")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or a hostile one
        raise unreadable(checkpoint, f"{name} is damaged ({error})") from error


def checked_file(checkpoint: Path, name: str) -> Path:
    """The path of a file of a checkpoint whose content is what the manifest says.

    Raises:
        CheckpointError: if it is not, or the manifest does not name it.
    """
    manifest = read_manifest(checkpoint)
    if name not in manifest.files:
        raise unreadable(checkpoint, f"{name} is missing")
    problem = _problem_of_file(checkpoint / name, manifest.files[name])
    if problem is not None:
        raise unreadable(checkpoint, f"{name} {problem}")
    return checkpoint / name


def damaged_files(checkpoint: Path, ranks: Collection[int]) -> dict[str, str]:
    """What is wrong with the common files of a checkpoint and those of some ranks: problems by name, empty if all is well.

    Raises:
        CheckpointError: if the manifest itself cannot be read.
    """
    folders = {f"rank_{rank}" for rank in ranks}
    found = {}
    for name, entry in read_manifest(checkpoint).files.items():
        folder, is_in_one, _ = name.partition("/")
        if is_in_one and folder not in folders:
            continue
        problem = _problem_of_file(checkpoint / name, entry)
        if problem is not None:
            found[name] = problem
    return found


def unreadable(path: Path, problem: str) -> CheckpointError:
    """The error for a checkpoint that cannot be read, with the checkpoints that exist near its path."""
    path = Path(path)
    problem = problem if path.is_dir() else "no such directory"
    nearby: list[Path] = []
    for place in (path, path / "checkpoints", path.parent):
        nearby += list_checkpoints(place)
    existing = ", ".join(map(str, nearby)) or "none"
    return CheckpointError(f"checkpoint {path}: {problem}; existing checkpoints: {existing}")


def _problem_of_file(file: Path, entry: FileEntry | None) -> str | None:
    """What is wrong with a file; without ``entry`` any content is right."""
    try:
        status = os.lstat(file)
        if not stat.S_ISREG(status.st_mode):
            return "is no plain file"
        if entry is None:
            return None
        if status.st_size != entry.bytes:
            return f"is damaged ({status.st_size:,} bytes, {entry.bytes:,} were written)"
        return None if sha256_of(file) == entry.sha256 else "is damaged (its SHA-256 differs)"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:  # a bad sector
        return f"cannot be read ({error.strerror})"
