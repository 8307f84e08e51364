"""Experiments in files: JSON or YAML, by hand or a run's own; read whole or refused in one line, and written."""

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]
from pydantic import ValidationError

from lzero import checks
from lzero.config import Experiment, ExperimentConfig
from lzero.config_ppo import PPOExperiment
from lzero.console.complaints import in_one_line
from lzero.envs.domain import check_trusted, read_experiment
from lzero.run_paths import (
    CHECKPOINTS,
    CONFIG_FILE,
    RunPathError,
    find_run,
    list_checkpoints,
)

SEED = "seed"
"""Key beside the experiment's own; the other thing that reproduces a run."""
STATE_FILE = "state.json"  # of a checkpoint; it holds the run's seed
LARGEST_FILE = 4 * 2**20  # bytes; configs have some kilobytes
LARGEST_SEED = 2**63 - 1
ALGORITHMS: dict[str, type[Experiment]] = {"unizero": ExperimentConfig, "ppo": PPOExperiment}
"""Kinds of experiments by what a file calls ``algorithm``; one without is UniZero's."""


class ConfigFileError(ValueError):
    """A file is no experiment; says which file, which key and what to write."""


@dataclass(frozen=True)
class WrittenExperiment:
    """An experiment as a file has it; without ``seed`` where the file names none."""

    config: Experiment
    seed: int | None


def read_config_file(path: Path | str, allow_domains: Collection[str] = ()) -> WrittenExperiment:
    """The experiment of a file, or of a run: its folder, anything inside it, or its ``config.json``.

    A run's seed is that of its newest checkpoint.

    Args:
        path: JSON or YAML of the schema's form, with ``seed`` beside if it is to be fixed; what is left out has its default.
        allow_domains: import paths of domains outside of this project whose code may run.

    Raises:
        TypeError: if it is no path.
        ConfigFileError: if it cannot be read, is no experiment, or names a domain that is not trusted.
    """
    path = checks.path("path", path)
    file = path
    if path.is_dir():
        try:
            file = find_run(path) / CONFIG_FILE
        except RunPathError as error:
            raise ConfigFileError(str(error)) from error
    data = read_mapping(file)
    seed = data.pop(SEED, None)
    if seed is None:
        seed = _seed_of_run(file.parent)
    elif isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise ConfigFileError(
            f"{file}: seed={checks.shown(seed)}: write a whole number from 0 to 2^63 - 1"
        )
    return WrittenExperiment(experiment_of(data, str(file), allow_domains), seed)


def experiment_of(
    data: Mapping[str, Any], where: str, allow_domains: Collection[str] = ()
) -> Experiment:
    """The experiment that a nested mapping describes.

    Args:
        data: as of :func:`read_config_file`, without the seed.
        where: what errors begin with.
        allow_domains: as there.

    Raises:
        ConfigFileError: if it is none, or names a domain that is not trusted.
    """
    data = dict(data)
    algorithm = data.get("algorithm", "unizero")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        allowed = ", ".join(ALGORITHMS)
        raise ConfigFileError(
            f"{where}: algorithm={checks.shown(algorithm)}: allowed are {allowed}"
        )
    if algorithm == "unizero":
        data.pop("algorithm", None)
    env = data.get("env")
    domain = env.get("domain") if isinstance(env, Mapping) else None
    try:
        if isinstance(domain, str):
            games = env.get("games", ()) if isinstance(env, Mapping) else ()
            named = [game for game in games if isinstance(game, str)]
            check_trusted(domain, allow_domains, named)
        return read_experiment(ALGORITHMS[algorithm], data)
    except ValidationError as error:
        raise ConfigFileError(f"{where}: {in_one_line(error)}") from error
    except (ImportError, ValueError) as error:
        raise ConfigFileError(f"{where}: {error}") from error


def read_mapping(file: Path) -> dict[str, Any]:
    """Keys and values of a JSON or YAML file.

    Raises:
        ConfigFileError: if it cannot be read, is neither, or names a key twice.
    """
    try:
        if not file.exists():
            raise ConfigFileError(f"{file} does not exist{_beside(file)}")
        if not file.is_file():
            raise ConfigFileError(f"{file} is no plain file")
        if file.stat().st_size > LARGEST_FILE:
            raise ConfigFileError(f"{file} is larger than a config can be")
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigFileError):
            raise
        raise ConfigFileError(f"{checks.shown(str(file))} cannot be read: {error}") from error
    try:
        if file.suffix.lower() == ".json":
            data = json.loads(text, object_pairs_hook=_unique)
        else:
            data = yaml.load(text, Loader=_Loader)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ConfigFileError(f"{file}, {where}: no JSON: {error.msg}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}, line {mark.line + 1}" if mark is not None else str(file)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigFileError(f"{where}: no YAML: {problem}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigFileError(f"{file}: {error}") from error
    if not isinstance(data, dict):
        raise ConfigFileError(
            f"{file} is no experiment: write keys and values, such as policy: {{batch_size: 32}}"
        )
    return data


def written(config: Experiment, seed: int, form: Literal["json", "yaml"]) -> str:
    """An experiment and its seed as a file that :func:`read_config_file` reads."""
    data = {SEED: seed} | config.model_dump(mode="json")
    if form == "json":
        return json.dumps(data, indent=2) + "\n"
    return yaml.safe_dump(data, sort_keys=False, default_flow_style=None, allow_unicode=True)


def _seed_of_run(run: Path) -> int | None:
    """Seed of the newest checkpoint in a run's folder; None where there is none."""
    for checkpoint in reversed(list_checkpoints(run / CHECKPOINTS)):
        try:
            seed = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))[SEED]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            continue  # damaged: an earlier one says the same
        if isinstance(seed, int):
            return seed
    return None


def _beside(file: Path) -> str:
    """The file beside a missing one whose name is most like it, as a question."""
    names = [other.name for other in file.parent.iterdir()] if file.parent.is_dir() else []
    close = difflib.get_close_matches(file.name, names, n=1)
    return f"; did you mean {file.parent / close[0]}?" if close else ""


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping that has no key twice: the first value would be lost without a word."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} is there twice; write it once")
        found[key] = value
    return found


class _Loader(yaml.SafeLoader):
    """YAML's plain values; a key that is there twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key!r} is there twice; write it once",
                    problem_mark=key_node.start_mark,
                )
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep)
