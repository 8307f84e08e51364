"""Whatever stands in a replay's files, hashes or not: it is loaded, or one of the errors is raised that a run translates."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from lzero.entry.checkpointing import READING_ERRORS
from tests.fuzz.test_schema import JSON, changed, paths
from tests.replay.buffer_cases import Stream, make

OPTIONS = {"shape": (2, 3, 3), "dtype": np.uint8, "chunk_steps": 16}
FILE = "replay-rank.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("replay")
    Stream(make(**OPTIONS)).append(55).buffer.save(directory, suffix="rank")
    return directory


def copied(saved: Path, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("copy")
    shutil.copytree(saved, directory, dirs_exist_ok=True)
    return directory


def load(directory: Path) -> None:
    """It is what it was, or an error that is expected."""
    buffer = make(**OPTIONS)
    try:
        buffer.load(directory, suffix="rank")
    except READING_ERRORS as error:
        assert str(error)
        return
    if buffer.can_sample:
        buffer.sample({3: 4, 5: 4}, np.random.default_rng(0))
    Stream(buffer).append(3)


@given(st.data())
def test_another_header(saved, tmp_path_factory, data):
    directory = copied(saved, tmp_path_factory)
    with safe_open(saved / FILE, framework="numpy") as file:
        header = json.loads(file.metadata()["header"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    header = changed(header, data.draw(st.sampled_from(paths(header))), data.draw(JSON))
    save_file(arrays, directory / FILE, metadata={"header": json.dumps(header)})
    load(directory)


@given(st.data())
def test_other_arrays(saved, tmp_path_factory, data):
    """Of another shape or dtype, or none."""
    directory = copied(saved, tmp_path_factory)
    name = data.draw(st.sampled_from(sorted(path.name for path in saved.iterdir())))
    with safe_open(saved / name, framework="numpy") as file:
        metadata = file.metadata()
        arrays = {key: file.get_tensor(key) for key in file.keys()}
    key = data.draw(st.sampled_from(sorted(arrays)))
    shape = data.draw(st.lists(st.integers(0, 60), max_size=4))
    dtype = data.draw(st.sampled_from(["uint8", "int64", "float16", "float64", "bool"]))
    del arrays[key]
    if data.draw(st.booleans()):
        arrays[key] = np.zeros(shape[:3], dtype)
    save_file(arrays, directory / name, metadata=metadata)
    load(directory)


@given(st.data())
def test_other_bytes(saved, tmp_path_factory, data):
    directory = copied(saved, tmp_path_factory)
    name = data.draw(st.sampled_from(sorted(path.name for path in saved.iterdir())))
    content = bytearray((saved / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, min(len(content), 600) - 1))
        content[start : start + 1] = data.draw(st.binary(max_size=4))
    (directory / name).write_bytes(content)
    load(directory)
