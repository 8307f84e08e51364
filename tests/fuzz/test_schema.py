"""Whatever stands in a config, a manifest or on the command line: it is understood, or refused in words."""

import contextlib
import io
import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lzero.checkpoint import CheckpointError, read_manifest
from lzero.checkpoint.manifest import MANIFEST_FILE, Manifest
from lzero.config import ExperimentConfig
from lzero.entry.cli import parse
from lzero.envs.domain import with_domain_settings
from zoo.catch.config.presets import presets

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../x", "nan", "1e999", "auto", "zoo.catch.domain:CATCH", "os:system"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
CATCH = presets(moe=True)["both"][1].model_dump(mode="json")
MANIFEST = Manifest(
    format_version=2,
    train_iter=7,
    world_size=2,
    exact=True,
    score=0.5,
    written=1.7e9,
    config_sha256="0" * 64,
    versions={"torch": "2.13.0"},
    files={
        "state.json": {"bytes": 10, "sha256": "a" * 64},
        "rank_0/state.json": {"bytes": 0, "sha256": "b" * 64},
    },
).model_dump()


def paths(value: object, path: tuple = ()) -> list[tuple]:
    """Of all places in nested dicts and lists."""
    found = [path]
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            found += paths(inner, (*path, key))
    return found


def changed(value: object, path: tuple, new: object) -> object:
    """A copy with another value at a place."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


@given(st.sampled_from(paths(CATCH)), JSON)
def test_any_value_of_any_field_is_taken_or_refused(path, value):
    try:
        config = with_domain_settings(changed(CATCH, path, value))
    except (ValidationError, ImportError, ValueError) as error:
        assert str(error)
        return
    again = with_domain_settings(json.loads(config.model_dump_json()))
    assert again == config or "nan" in config.model_dump_json().lower()


@given(JSON)
def test_any_json_is_a_config_or_refused(value):
    try:
        ExperimentConfig.model_validate(value)
    except ValidationError as error:
        assert str(error)


FIELDS = [".".join(map(str, path)) for path in paths(CATCH) if path and isinstance(path[-1], str)]
WORDS = st.sampled_from(FIELDS).map("--{}".format) | st.text(string.printable, max_size=10)


@given(st.lists(WORDS, max_size=4))
def test_any_command_line_is_understood_or_explained(words):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            command = parse(presets(moe=True), "both", words)
        except SystemExit as end:
            explained = said.getvalue() + str(end.code)
            assert explained and "Traceback" not in explained
            return
    assert isinstance(command.config, ExperimentConfig)


@given(st.sampled_from(paths(MANIFEST)), JSON)
def test_a_manifest_is_valid_or_refused(tmp_path_factory, path, value):
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / MANIFEST_FILE).write_text(json.dumps(changed(MANIFEST, path, value)))
    try:
        manifest = read_manifest(folder)
    except CheckpointError as error:
        assert str(folder) in str(error) and "\n" not in str(error)
        return
    for name in manifest.files:
        assert (folder / name).resolve().is_relative_to(folder.resolve())


@given(st.binary(max_size=200))
def test_bytes_are_no_manifest(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(CheckpointError):
        read_manifest(folder)
