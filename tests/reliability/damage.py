"""Ways to damage a checkpoint: what disks, copies, hands and attackers do to files."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

Damage = Callable[[Path, Path, np.random.Generator], None]
"""(checkpoint, an older one of the same run, generator)."""


def files_of(checkpoint: Path) -> list[Path]:
    """All files of a checkpoint."""
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def pick(checkpoint: Path, rng: np.random.Generator) -> Path:
    """One of them, alone: hard links to it in other checkpoints are cut."""
    files = files_of(checkpoint)
    file = files[rng.integers(len(files))]
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    return file


def resign(checkpoint: Path, file: Path) -> None:
    """Let the manifest say what a file now is."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"][str(file.relative_to(checkpoint))] = {
        "bytes": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def truncated(checkpoint: Path, older: Path, rng: np.random.Generator) -> None:
    file = pick(checkpoint, rng)
    content = file.read_bytes()
    file.write_bytes(content[: rng.integers(len(content))])


def longer(checkpoint: Path, older: Path, rng: np.random.Generator) -> None:
    with pick(checkpoint, rng).open("ab") as file:
        file.write(rng.bytes(int(rng.integers(1, 100))))


def bit_flipped(checkpoint: Path, older: Path, rng: np.random.Generator) -> None:
    file = pick(checkpoint, rng)
    content = bytearray(file.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    file.write_bytes(content)


def zeros(checkpoint: Path, older: Path, rng: np.random.Generator) -> None:
    """A block that was never written."""
    file = pick(checkpoint, rng)
    content = bytearray(file.read_bytes())
    start = int(rng.integers(len(content)))
    length = min(len(content) - start, 512)
    content[start : start + length] = bytes(length)
    if bytes(content) == file.read_bytes():  # it was zero: all of it then
        content[:] = bytes(len(content))
    file.write_bytes(content)


def missing(checkpoint: Path, older: Path, rng: np.random.Generator) -> None:
    pick(checkpoint, rng).unlink()


def mixed(checkpoint: Path, older: Path, rng: np.random.Generator) -> None:
    """A file of the older checkpoint."""
    common = [
        file
        for file in files_of(checkpoint)
        if (older / file.relative_to(checkpoint)).is_file()
        and (older / file.relative_to(checkpoint)).read_bytes() != file.read_bytes()
    ]
    file = common[rng.integers(len(common))]
    file.unlink()
    shutil.copyfile(older / file.relative_to(checkpoint), file)


def swapped(checkpoint: Path, older: Path, rng: np.random.Generator) -> None:
    """Two files under each other's names."""
    files = files_of(checkpoint)
    one, other = (files[i] for i in rng.choice(len(files), 2, replace=False))
    contents = one.read_bytes(), other.read_bytes()
    for file, content in zip((one, other), reversed(contents), strict=True):
        file.unlink()
        file.write_bytes(content)


def linked(checkpoint: Path, older: Path, rng: np.random.Generator) -> None:
    """A symbolic link to the same content elsewhere."""
    file = pick(checkpoint, rng)
    elsewhere = checkpoint.parent / f"elsewhere_{file.name}"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


def a_folder(checkpoint: Path, older: Path, rng: np.random.Generator) -> None:
    file = pick(checkpoint, rng)
    file.unlink()
    file.mkdir()


def a_pipe(checkpoint: Path, older: Path, rng: np.random.Generator) -> None:
    """Whoever opens it waits for ever."""
    file = pick(checkpoint, rng)
    file.unlink()
    os.mkfifo(file)


HOSTILE_JSON = (
    "",
    "null",
    "[]",
    "7",
    '{"a": 1e999}',
    "[" * 100_000,
    "\ud800".encode("utf-8", "surrogatepass"),
)


def hostile_manifest(checkpoint: Path, older: Path, rng: np.random.Generator) -> None:
    """JSON of another kind, a field of another type, or a name that leads out of the folder."""
    file = checkpoint / "manifest.json"
    manifest = json.loads(file.read_text())
    choice = int(rng.integers(4))
    if choice == 0:
        text = HOSTILE_JSON[rng.integers(len(HOSTILE_JSON))]
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return
    if choice == 1:
        names = sorted(set(manifest) - {"score", "written"})  # other numbers are as good there
        manifest[names[rng.integers(len(names))]] = [None, [], {"x": 1}, -5, "nan", 1e308][
            rng.integers(6)
        ]
    elif choice == 2:
        name = ["../state.json", "/etc/passwd", "rank_0/../../x", ".hidden", "a\n"][rng.integers(5)]
        manifest["files"][name] = manifest["files"]["state.json"]
    else:
        del manifest["files"][sorted(manifest["files"])[rng.integers(len(manifest["files"]))]]
    file.write_text(json.dumps(manifest))


def forged(checkpoint: Path, older: Path, rng: np.random.Generator) -> None:
    """Hostile content under a manifest that agrees with it."""
    files = [
        file
        for file in files_of(checkpoint)
        if file.name != "manifest.json" and not file.name.startswith("frames-")
    ]
    file = files[rng.integers(len(files))]
    content = file.read_bytes()
    file.unlink()
    if file.suffix == ".json":
        text = HOSTILE_JSON[rng.integers(len(HOSTILE_JSON))]
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    else:  # a safetensors header that promises too much, or none
        headers = (
            b"\xff" * 8,
            (2**40).to_bytes(8, "little"),
            (2).to_bytes(8, "little") + b"[]",
            (2).to_bytes(8, "little") + b"{}",
            content[:8] + bytes(len(content) - 8),
        )
        file.write_bytes(headers[rng.integers(len(headers))])
    resign(checkpoint, file)


DAMAGES: dict[str, Damage] = {
    damage.__name__: damage
    for damage in (
        truncated,
        longer,
        bit_flipped,
        zeros,
        missing,
        mixed,
        swapped,
        linked,
        a_folder,
        a_pipe,
        hostile_manifest,
        forged,
    )
}
