"""An agent in one file: equal contents are equal bytes, and nothing but what was written is ever read."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as bytes_of_tensors

from lzero.checkpoint import export_file
from lzero.checkpoint.export_file import (
    AGENT_FILE,
    CARD_FILE,
    CONFIG_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    SCORES_FILE,
    AgentRecord,
    ExportError,
    read_export,
    write_export,
)

AGENT = AgentRecord(
    checkpoint="step_000007",
    train_iter=7,
    env_steps=70,
    seed=3,
    world_size=1,
    observation_shape=(2, 8, 5),
    legal_actions=[[True, False]],
    return_scale=None,
    versions={"torch": "2"},
)
TENSORS = {"w": torch.arange(6.0).reshape(2, 3), "flag": torch.tensor([True])}
FLIPS = 60  # of bytes anywhere in a file of some 2,000


def files() -> dict[str, bytes]:
    return {
        CARD_FILE: b"# A card",
        AGENT_FILE: AGENT.model_dump_json().encode(),
        CONFIG_FILE: b'{"exp_name": "tiny"}',
        SCORES_FILE: b'{"scores": {}}',
        MODEL_FILE: bytes_of_tensors(TENSORS),
    }


@pytest.fixture
def export(tmp_path) -> Path:
    write_export(tmp_path / "agent.zip", files())
    return tmp_path / "agent.zip"


def rewritten(path: Path, changes: dict[str, bytes | None], compression: int = 0) -> Path:
    """A copy whose entries differ and whose manifest does not; None takes one out."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    other = path.with_name("forged.zip")
    with zipfile.ZipFile(other, "w", compression) as archive:
        for name, data in (content | changes).items():
            if data is not None:
                archive.writestr(name, data)
    return other


def test_what_is_written_is_read(export):
    found = read_export(export)
    assert found.agent == AGENT and found.config == {"exp_name": "tiny"}
    assert found.card == "# A card" and found.scores == {"scores": {}}
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in TENSORS.items())


def test_equal_contents_are_equal_bytes(export):
    again = export.with_name("again.zip")
    digest = write_export(again, files())
    assert again.read_bytes() == export.read_bytes()
    assert digest != write_export(again, files() | {CARD_FILE: b"# Another"}, force=True)


def test_a_file_is_replaced_only_if_asked_and_only_by_a_whole_one(export, monkeypatch):
    before = export.read_bytes()
    with pytest.raises(ExportError, match="exists; .*--force"):
        write_export(export, files() | {CARD_FILE: b"# Another"})

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(export_file.os, "fsync", full)
    with pytest.raises(ExportError, match="No space left"):
        write_export(export, files() | {CARD_FILE: b"# Another"}, force=True)
    assert export.read_bytes() == before
    assert [path.name for path in export.parent.iterdir()] == [export.name]


def test_a_flipped_byte_is_found_or_means_nothing(export):
    """What a zip says of time stamps and the like may change; no content may."""
    whole, wanted = export.read_bytes(), read_export(export)
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(len(whole), size=FLIPS):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        export.write_bytes(damaged)
        try:
            found = read_export(export)
        except ExportError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert (found.agent, found.config, found.card) == (
                wanted.agent,
                wanted.config,
                wanted.card,
            )
            assert torch.equal(found.tensors["w"], TENSORS["w"])
    assert refused > FLIPS / 2
    for length in range(0, len(whole), 97):
        export.write_bytes(whole[:length])
        with pytest.raises(ExportError):
            read_export(export)


def manifest_with(path: Path, **changes: object) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return json.dumps(json.loads(archive.read(MANIFEST_FILE)) | changes).encode()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({MODEL_FILE: bytes_of_tensors({"w": torch.zeros(2, 3)})}, "model.safetensors has"),
        ({CONFIG_FILE: b'{"exp_name": "tinx"}'}, "SHA-256 of config.json differs"),
        ({"../outside.txt": b"x"}, "'../outside.txt' is no plain name"),
        ({"/etc/passwd": b"x"}, "is no plain name"),
        ({"folder/file": b"x"}, "is no plain name"),
        ({"more.bin": b"x"}, "more.bin is missing in manifest.json"),
        ({SCORES_FILE: None}, "scores.json is missing in the zip"),
        ({MANIFEST_FILE: None}, "manifest.json is missing"),
        ({MANIFEST_FILE: b"[]"}, "manifest.json holds no names"),
        ({MANIFEST_FILE: b"{" * 9}, "manifest.json is no JSON"),
        ({f"more_{number}": b"" for number in range(20)}, "has 26 files"),
    ],
)
def test_other_files_than_were_written_are_refused(export, changes, says):
    with pytest.raises(ExportError, match=says):
        read_export(rewritten(export, changes))


def test_other_arrangements_are_refused(export):
    newer = rewritten(export, {MANIFEST_FILE: manifest_with(export, format_version=2)})
    with pytest.raises(ExportError, match="has format version 2, this program reads 1"):
        read_export(newer)
    other = rewritten(export, {MANIFEST_FILE: manifest_with(export, format="a pickle")})
    with pytest.raises(ExportError, match="manifest.json: format"):
        read_export(other)
    agent = json.loads(AGENT.model_dump_json()) | {"train_iter": -1}
    forged = export.with_name("other.zip")
    write_export(forged, files() | {AGENT_FILE: json.dumps(agent).encode()})
    with pytest.raises(ExportError, match="agent.json: train_iter"):
        read_export(forged)
    write_export(forged, files() | {MODEL_FILE: b"no tensors"}, force=True)
    with pytest.raises(ExportError, match="tensors cannot be read"):
        read_export(forged)


def test_nothing_grows_while_it_is_read(export):
    """A megabyte of zeros takes a kilobyte of a compressed zip; sizes that are not true are found before they are read."""
    bomb = rewritten(export, {MODEL_FILE: bytes(2**20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ExportError, match="is compressed or encrypted"):
        read_export(bomb)
    data = bytearray(export.read_bytes())
    central = data.rindex(b"PK\x01\x02")  # of the last entry; sizes are 20 and 24 bytes behind it
    data[central + 20 : central + 28] = (2**31).to_bytes(4, "little") * 2
    export.write_bytes(data)
    with pytest.raises(ExportError, match="2,147,483,648 bytes, more than there are"):
        read_export(export)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr(CARD_FILE, b"one")
        archive.writestr(CARD_FILE, b"two")
    with pytest.raises(ExportError, match="README.md is there twice"):
        read_export(bomb)
