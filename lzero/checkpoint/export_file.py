"""An agent in one file: a zip of named files, with a manifest of their sizes and SHA-256.

::

    manifest.json       size and SHA-256 of every other file, and the version of this arrangement
    README.md           the model card
    agent.json          counters, shapes, versions: :class:`AgentRecord`
    config.json         the experiment
    scores.json         the last evaluation; left out where there was none
    model.safetensors   parameters and buffers of the online network

Nothing is compressed: weights would shrink by a sixth at most, no entry can be larger than the zip itself, and the bytes do not
depend on the version of a compressor. All time stamps are the same, so equal contents are equal bytes. No pickle anywhere.
"""

import hashlib
import json
import os
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of_bytes
from torch import Tensor

from lzero import checks
from lzero.checkpoint.manifest import LARGEST_JSON, MANIFEST_FILE, CheckpointError, FileEntry

EXPORT_FORMAT_VERSION = 1
EXPORT_FORMAT = "lzero export"
CARD_FILE, AGENT_FILE, CONFIG_FILE = "README.md", "agent.json", "config.json"
SCORES_FILE, MODEL_FILE = "scores.json", "model.safetensors"
NEEDED = (CARD_FILE, AGENT_FILE, CONFIG_FILE, MODEL_FILE)
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")  # no folder, no drive, nothing hidden
MOST_FILES = 16  # ours have six; a forged directory of millions is not walked through
EARLIEST = (1980, 1, 1, 0, 0, 0)  # a zip knows no time before it
ORDINARY_FILE = 0o100644 << 16  # of Unix, in the upper half of a zip's attributes
UNIX = 3
ENCRYPTED = 0x1  # bit of a zip entry's flags
ZIP_ERRORS = (
    *(zipfile.BadZipFile, EOFError, LookupError, NotImplementedError, OSError, OverflowError),
    *(RuntimeError, ValueError, struct.error),
)
"""What the standard library raises for zips that are damaged, or of kinds that it does not read."""


class ExportError(CheckpointError):
    """A file is no export, is damaged, or does not fit this program."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ExportManifest(_Strict):
    """Contents of the zip's ``manifest.json``."""

    format: Literal["lzero export"]
    format_version: int
    """Of the arrangement of files: :data:`EXPORT_FORMAT_VERSION`."""
    files: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")], FileEntry] = (
        Field(max_length=MOST_FILES)
    )
    """All files but the manifest itself."""


class AgentRecord(_Strict):
    """Contents of ``agent.json``: what a policy needs beside its config and its tensors, and where it comes from."""

    checkpoint: str = Field(max_length=200)
    """Name of the checkpoint that was exported."""
    train_iter: NonNegativeInt
    """Updates."""
    env_steps: NonNegativeInt
    """Env steps per game; of the one with the fewest environments."""
    seed: NonNegativeInt
    """Of the training."""
    world_size: PositiveInt
    """Processes that trained it."""
    observation_shape: tuple[PositiveInt, ...] = Field(min_length=1, max_length=4)
    """Padded over games."""
    legal_actions: list[list[bool]]
    """``(T, A)``."""
    return_scale: list[list[Annotated[float, Field(allow_inf_nan=False)]]] | None
    """Sums behind the scale of each game's returns ``(3, T)``; None where rewards are not scaled."""
    versions: dict[str, str]
    """With which it was trained, by name, and ``lzero (export)``, with which it was exported."""


@dataclass(frozen=True)
class Export:
    """What an export holds, all of it verified.

    Attributes:
        path: of the zip.
        agent: counters and shapes.
        config: the experiment, as JSON values.
        scores: of the last evaluation, as JSON values; None where there is none.
        card: the model card, Markdown.
        tensors: of the online network, by name.
    """

    path: Path
    agent: AgentRecord
    config: dict[str, Any]
    scores: dict[str, Any] | None
    card: str
    tensors: dict[str, Tensor]


def write_export(path: Path, files: Mapping[str, bytes], *, force: bool = False) -> str:
    """Write a zip of ``files``, whole or not at all; the same files always give the same bytes.

    Args:
        path: of the zip; its folder must exist.
        files: content by name, :data:`NEEDED` among them.
        force: whether a file that is there may be replaced.

    Returns:
        Hexadecimal SHA-256 of the zip.

    Raises:
        TypeError: if ``path`` is no path.
        ValueError: for a name that is not plain, or if a needed file is missing.
        ExportError: if the file exists, or cannot be written.
    """
    path = checks.path("path", path)
    for name in files:
        if not PLAIN_NAME.fullmatch(name) or name == MANIFEST_FILE:
            raise ValueError(
                f"files: {name!r} is no plain name; use letters, digits, '_', '.', '-'"
            )
    lacking = [name for name in NEEDED if name not in files]
    if lacking:
        raise ValueError(f"files: {', '.join(lacking)} is missing")
    if path.is_dir():
        raise ExportError(f"{path} is a folder; name a file, e.g. {path / 'agent.zip'}")
    if path.exists() and not force:
        raise ExportError(f"{path} exists; name another file, or replace it with --force")
    entries = {}
    for name, content in files.items():
        entries[name] = FileEntry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    manifest = ExportManifest(
        format=EXPORT_FORMAT, format_version=EXPORT_FORMAT_VERSION, files=entries
    )
    text = json.dumps(manifest.model_dump(), indent=1, sort_keys=True) + "\n"
    unfinished = path.with_name(f".unfinished_{path.name}")
    try:
        with unfinished.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, content in [(MANIFEST_FILE, text.encode()), *files.items()]:
                    archive.writestr(_entry(name), content)
            file.flush()
            os.fsync(file.fileno())
        with unfinished.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        unfinished.replace(path)
        _fsync_folder(path.parent)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise ExportError(f"cannot write {path}: {error.strerror or error}") from error
    return digest


def _entry(name: str) -> zipfile.ZipInfo:
    """An entry that is the same on every machine and at every time."""
    entry = zipfile.ZipInfo(name, EARLIEST)
    entry.create_system, entry.external_attr = UNIX, ORDINARY_FILE
    return entry


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_export(path: Path | str) -> Export:
    """All of an export, if it is what was written; nothing is unpacked onto the disk.

    Raises:
        TypeError: if ``path`` is no path.
        ExportError: if there is no file, it is no export or of another format version, has names that are not plain, files that
            the manifest does not name, or others than the manifest says.
    """
    path = checks.path("path", path)
    if not path.is_file():
        raise ExportError(f"{path} is no file; name a zip that the export command has written")
    files = _verified_files(path)
    record = _parsed(path, AGENT_FILE, files[AGENT_FILE], AgentRecord)
    config = _json_object(path, CONFIG_FILE, files[CONFIG_FILE])
    scores = None
    if SCORES_FILE in files:
        scores = _json_object(path, SCORES_FILE, files[SCORES_FILE])
    try:
        card = files[CARD_FILE].decode()
        tensors = tensors_of_bytes(files[MODEL_FILE])
    except (SafetensorError, ValueError) as error:
        raise _damaged(path, f"its card or its tensors cannot be read ({error})") from error
    return Export(path, record, config, scores, card, tensors)


def _verified_files(path: Path) -> dict[str, bytes]:
    """Content of every file by name, as the manifest says it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _plain_entries(path, archive)
            files = {}
            for name, entry in entries.items():
                files[name] = archive.read(entry)
    except ZIP_ERRORS as error:
        raise _damaged(path, f"it is no readable zip ({error})") from error
    data = _json_object(path, MANIFEST_FILE, files.pop(MANIFEST_FILE))
    if data.get("format") == EXPORT_FORMAT and data.get("format_version") != EXPORT_FORMAT_VERSION:
        raise ExportError(
            f"{path} has format version {checks.shown(data.get('format_version'))}, this program reads "
            f"{EXPORT_FORMAT_VERSION}: load it with the version of lzero that wrote it"
        )
    manifest = _parsed(path, MANIFEST_FILE, json.dumps(data).encode(), ExportManifest)
    for name in manifest.files.keys() ^ files.keys():
        where = "the zip" if name in manifest.files else MANIFEST_FILE
        raise _damaged(path, f"{name} is missing in {where}")
    for name in NEEDED:
        if name not in files:
            raise _damaged(path, f"{name} is missing")
    for name, written in manifest.files.items():
        content = files[name]
        if len(content) != written.bytes:
            raise _damaged(
                path, f"{name} has {len(content):,} bytes, {written.bytes:,} were written"
            )
        if hashlib.sha256(content).hexdigest() != written.sha256:
            raise _damaged(path, f"the SHA-256 of {name} differs")
    return files


def _plain_entries(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Entries by name, none of which can be larger in memory than on the disk."""
    entries = archive.infolist()
    if len(entries) > MOST_FILES + 1:
        raise _damaged(path, f"it has {len(entries):,} files; an export has at most {MOST_FILES}")
    found: dict[str, zipfile.ZipInfo] = {}
    left = path.stat().st_size
    for entry in entries:
        name = entry.filename
        if not PLAIN_NAME.fullmatch(name):
            raise _damaged(path, f"{checks.shown(name)} is no plain name")
        if name in found:
            raise _damaged(path, f"{name} is there twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & ENCRYPTED:
            raise _damaged(path, f"{name} is compressed or encrypted; exports are neither")
        left -= entry.file_size
        if left < 0 or entry.file_size != entry.compress_size:
            raise _damaged(
                path, f"{name} says it has {entry.file_size:,} bytes, more than there are"
            )
        found[name] = entry
    if MANIFEST_FILE not in found:
        raise _damaged(path, f"{MANIFEST_FILE} is missing")
    return found


M = TypeVar("M", bound=BaseModel)


def _parsed(path: Path, name: str, content: bytes, kind: type[M]) -> M:
    """A JSON file as a record."""
    try:
        return kind.model_validate(_json_object(path, name, content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _damaged(path, f"{name}: {place}: {first['msg']}") from error


def _json_object(path: Path, name: str, content: bytes) -> dict[str, Any]:
    """A JSON file as its names and values."""
    if len(content) > LARGEST_JSON:
        raise _damaged(path, f"{name} is too large")
    try:
        data = json.loads(content.decode())
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or a hostile one
        raise _damaged(path, f"{name} is no JSON ({error})") from error
    if not isinstance(data, dict):
        raise _damaged(path, f"{name} holds no names")
    return data


def _damaged(path: Path, problem: str) -> ExportError:
    """The error for a file that cannot be used, in one line whatever stands in the file."""
    return ExportError(" ".join(f"{path} is no export, or a damaged one: {problem}".split()))
