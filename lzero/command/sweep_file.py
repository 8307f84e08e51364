"""The file of a sweep: what all runs share, a grid of fields, seeds; and the experiments that come of it."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt, ValidationError

from lzero.config import Experiment, Section
from lzero.config_hints import key_hint, said, what_is_meant
from lzero.config_sections import experiments
from lzero.console.complaints import in_one_line
from lzero.console.config_files import (
    ConfigFileError,
    experiment_of,
    read_config_file,
    read_mapping,
)
from lzero.console.domains import UnknownDomainError, find_domain
from lzero.console.options import leaves

SIGNS = ".-+"  # of numbers, which tell values apart
NAMED_BY_THE_SWEEP = {
    "exp_name": "runs are named after the grid",
    "output_dir": "it stands beside set and grid: output_dir: runs/NAME",
    "seed": "seeds stand beside set and grid: seeds: [0, 1, 2]",
}


class SweepFile(Section):
    """What a sweep's file may say."""

    base: str = ""
    """Domain and preset, as for ``lzero train``: ``catch-moe both``; a domain alone takes its default."""
    config: Path | None = None
    """A file of an experiment, or a run, in place of ``base``; relative to the sweep's file."""
    output_dir: Path
    """Folder of all runs."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """A run of every cell of the grid for each."""
    jobs: PositiveInt = 1
    """Runs side by side, each on one thread."""
    set: dict[str, Any] = {}
    """Fields of all runs, by dotted path."""
    grid: dict[str, list[Any]] = {}
    """Fields by dotted path, each with its values; every combination is run."""


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep."""

    config: Experiment
    seed: int
    changes: Mapping[str, Any]
    """Its cell of the grid, by dotted path."""

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.config.exp_name


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep; those of a seed stand together, so that something of everything is done early."""

    output_dir: Path
    jobs: int
    runs: tuple[SweepRun, ...]


def read_sweep(file: Path, allow_domains: Collection[str] = ()) -> Sweep:
    """The sweep that a file describes, each of its experiments checked.

    Raises:
        ConfigFileError: if something is wrong, in one line that names file, key and what to write.
    """
    try:
        asked = SweepFile.model_validate(read_mapping(file))
    except ValidationError as error:
        hint = (
            "; fields of the experiment go under set: or grid:"
            if "unknown key" in str(error)
            else ""
        )
        raise ConfigFileError(f"{file}: {in_one_line(error)}{hint}") from error
    _check_numbers(asked, file)
    base = _base(asked, file, allow_domains)
    known = dict(leaves(base))
    for place, path in (
        *(("set", path) for path in asked.set),
        *(("grid", path) for path in asked.grid),
    ):
        _check_field(path, place, base, known, file)
    for path, values in asked.grid.items():
        if not values:
            raise ConfigFileError(f"{file}: grid: {path} has no values; write a list: [1, 2]")
        if path in asked.set:
            raise ConfigFileError(f"{file}: {path} is in set and in grid; write it once")
    short = short_names(list(asked.grid))
    runs = []
    for seed in asked.seeds:
        for chosen in itertools.product(*asked.grid.values()):
            cell = dict(zip(asked.grid, chosen, strict=True))
            parts = [f"{short[path]}_{value}" for path, value in cell.items()]
            name = f"{slug(' '.join(parts) or base.exp_name, SIGNS)}_s{seed}"
            data = base.model_dump(mode="json")
            data |= {"exp_name": name, "output_dir": str(asked.output_dir)}
            for path, value in (asked.set | cell).items():
                _put(data, path, value)
            where = f"{file}: run {name}" if asked.grid else str(file)
            runs.append(SweepRun(experiment_of(data, where, allow_domains), seed, cell))
    doubled = [name for name, times in Counter(run.name for run in runs).items() if times > 1]
    if doubled:
        raise ConfigFileError(
            f"{file}: several runs would be called {doubled[0]}; write each value once"
        )
    return Sweep(asked.output_dir, asked.jobs, tuple(runs))


def slug(name: str, kept: str = ".") -> str:
    """``name`` as part of a folder's name: letters, digits and what is ``kept``; all else is one underscore."""
    return "_".join("".join(c if c.isalnum() or c in kept else " " for c in name).split())


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """For every dotted path its last names, as many as tell it from the others."""
    found = {}
    for path in paths:
        parts = path.split(".")
        for length in range(1, len(parts) + 1):
            end = ".".join(parts[-length:])
            if sum(f".{other}".endswith(f".{end}") for other in paths) == 1:
                break
        found[path] = end
    return found


def _check_numbers(asked: SweepFile, file: Path) -> None:
    for seed in asked.seeds:
        if seed < 0:
            raise ConfigFileError(f"{file}: seeds: {seed}: write whole numbers from 0 on")
    doubled = [seed for seed, times in Counter(asked.seeds).items() if times > 1]
    if doubled:
        raise ConfigFileError(f"{file}: seeds: {doubled[0]} is there twice; write it once")


def _base(asked: SweepFile, file: Path, allow_domains: Collection[str]) -> Experiment:
    """The experiment that all runs begin with."""
    if bool(asked.base) == (asked.config is not None):
        raise ConfigFileError(
            f"{file}: write either base: DOMAIN PRESET, such as catch-moe both, or config: FILE"
        )
    if asked.config is not None:
        return read_config_file(file.parent / asked.config, allow_domains).config
    domain, *rest = asked.base.split()
    try:
        row = find_domain(domain)
    except UnknownDomainError as error:
        raise ConfigFileError(f"{file}: base: {error}") from error
    presets = row.load_presets()
    default = row.default_preset()
    preset = " ".join(rest) or (default if isinstance(default, str) else default())
    if preset not in presets:
        raise ConfigFileError(
            f"{file}: base: {domain} has no preset {preset!r}; its presets are {', '.join(presets)}"
        )
    return presets[preset][1]


def _check_field(
    path: str, place: str, base: Experiment, known: Mapping[str, Any], file: Path
) -> None:
    """Refuse a path that is no field, with the one that may be meant."""
    if path in NAMED_BY_THE_SWEEP:
        raise ConfigFileError(f"{file}: {place}: {path}: {NAMED_BY_THE_SWEEP[path]}")
    if path in known:
        return
    inside = [field for field in known if field.startswith(f"{path}.")]
    if inside:
        raise ConfigFileError(
            f"{file}: {place}: {path} is a section; name fields, such as {inside[0]}"
        )
    section: Any = base
    *parts, key = path.split(".")
    for part in parts:
        section = getattr(section, part, None)
    kind = type(section) if isinstance(section, Section) else type(base)
    schemas = [type(base)] if kind is type(base) else list(experiments())
    meant = what_is_meant(key, kind, schemas, ".".join(parts))
    if meant.own:
        hint = f"did you mean {'.'.join([*parts, meant.own]) if kind is not type(base) else meant.own}?"
    else:
        hint = said(key, meant) or key_hint(key, kind, schemas)
    raise ConfigFileError(f"{file}: {place}: unknown field {path!r}; {hint}")


def _put(data: dict[str, Any], path: str, value: Any) -> None:
    """Set a leaf of a nested mapping."""
    *sections, name = path.split(".")
    for section in sections:
        data = data[section]
    data[name] = value


def described(run: SweepRun) -> Iterator[str]:
    """Its cell, field by field."""
    for path, value in run.changes.items():
        yield f"{path}={value}"
