"""Runs as they lie on disk, and which of them are seeds of one experiment."""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lzero import tags
from lzero.config import nearest
from lzero.config_fields import FIELDS_ONCE_IN_EVERY_CONFIG, NOT_LEARNING, flatten, is_one_of
from lzero.logging import METRICS_FILE, read_metrics
from lzero.report.progress import shown

Key = TypeVar("Key")
Value = TypeVar("Value")
CONFIG_FILE = "config.json"
NEEDED_FIELDS = ("exp_name", "env.domain", "env.games")
EVALUATION_PREFIX = "eval_"
SEED_SUFFIX = re.compile(r"[_.-](s|seed)[_-]?\d+$", re.IGNORECASE)
SHOWN_FIELDS = 3  # config fields that a label may hold
ABSENT = "absent"  # how a label writes a field that an older run does not have


class RunDataError(ValueError):
    """A folder holds no run that can be read, or runs cannot be compared as asked."""


@dataclass(frozen=True)
class Series:
    """One logged number over training."""

    env_step: np.ndarray  # (N,) env steps per game, increasing
    value: np.ndarray  # (N,)

    def __len__(self) -> int:
        return len(self.env_step)


@dataclass(frozen=True)
class RunData:
    """A run as it lies on disk.

    Attributes:
        path: its folder.
        fields: its config, flat: dotted path to value.
        scalars: every logged number by tag, as logged; NaN where it was none.
        arrays: every logged array by tag and env step, in the order of logging; NaN where an entry
            was none. Several updates may measure at one env step.
    """

    path: Path
    fields: Mapping[str, Any]
    scalars: Mapping[str, Series]
    arrays: Mapping[str, Mapping[int, Sequence[np.ndarray]]]

    @property
    def name(self) -> str:
        """Its folder as typed; unlike ``exp_name`` no two runs of a report share it."""
        return str(self.path)

    @property
    def domain(self) -> str:
        """Import path of its domain."""
        return self.fields["env.domain"]

    @property
    def games(self) -> tuple[str, ...]:
        """Its games, in the order of task ids."""
        return tuple(self.fields["env.games"])

    @property
    def env_steps(self) -> float:
        """Env steps per game at the last logged number; 0 where there is none."""
        return max((series.env_step[-1] for series in self.scalars.values()), default=0.0)

    def tags(self, prefix: str) -> tuple[str, ...]:
        """Tags that begin with ``prefix`` and have a number, sorted."""
        found = [
            tag for tag, series in self._clean.items() if tag.startswith(prefix) and len(series)
        ]
        return tuple(sorted(found))

    def series(self, tag: str) -> Series:
        """Numbers logged under ``tag`` with one value per env step; empty where there is none.

        Of several values at one env step the mean is taken; of evaluations the last, which
        replaces the others.
        """
        return self._clean.get(tag, Series(np.empty(0), np.empty(0)))

    def not_numbers(self, tag: str) -> int:
        """How often NaN or an infinity was logged under ``tag``."""
        return int(np.isnan(self.scalars[tag].value).sum()) if tag in self.scalars else 0

    def episode_scores(self, game: str, env_step: float) -> np.ndarray:
        """``(E,)`` scores of an evaluation's episodes; empty where they were not logged."""
        by_step = self.arrays.get(tags.of_game(tags.EVAL_SCORES, game), {})
        *_, scores = by_step.get(int(env_step), [np.empty(0)])
        scores = scores.ravel()
        return scores[np.isfinite(scores)]

    @cached_property
    def _clean(self) -> dict[str, Series]:
        clean = {}
        for tag, series in self.scalars.items():
            clean[tag] = _one_per_step(series, takes_last=tag.startswith(EVALUATION_PREFIX))
        return clean


@dataclass(frozen=True)
class Group:
    """Runs of one experiment that differ in their seed alone."""

    label: str  # what figures call it; no two groups share it
    runs: tuple[RunData, ...]  # one per seed
    fields: Mapping[str, Any]  # the flat config that all of them share

    @property
    def domain(self) -> str:
        """Import path of its domain."""
        return self.runs[0].domain

    @property
    def games(self) -> tuple[str, ...]:
        """Its games."""
        return self.runs[0].games

    def series(self, tag: str) -> dict[str, Series]:
        """Numbers logged under ``tag`` by the name of the run, without runs that have none."""
        found = {}
        for run in self.runs:
            series = run.series(tag)
            if len(series):
                found[run.name] = series
        return found


def load_runs(paths: Iterable[Path | str]) -> tuple[RunData, ...]:
    """Read the folders of runs, each file once.

    Configs are taken as they were written and not checked against today's schema: older runs, and
    those whose domain is not installed here, can be read too.

    Raises:
        RunDataError: if a folder holds no run, or a file of it cannot be understood; with what to
            type instead.
    """
    return tuple(map(read_run, shown([Path(path) for path in paths], "reading")))


def read_run(path: Path) -> RunData:
    """One run of :func:`load_runs`."""
    missing = [name for name in (CONFIG_FILE, METRICS_FILE) if not (path / name).is_file()]
    if missing:
        raise RunDataError(_no_run(path, missing))
    config, metrics = path / CONFIG_FILE, path / METRICS_FILE
    try:
        written = json.loads(config.read_text(encoding="utf-8"))
        # for seeds of one experiment from before and after domains owned their settings
        fields = FIELDS_ONCE_IN_EVERY_CONFIG | dict(flatten(written))
    except (ValueError, AttributeError) as error:
        raise RunDataError(f"{config} is no config of an experiment: {error}") from error
    lacking = [name for name in NEEDED_FIELDS if name not in fields]
    if lacking:
        raise RunDataError(
            f"{config} has no {', '.join(lacking)}; it is no config of an experiment"
        )
    try:
        lines = read_metrics(metrics)
    except ValueError as error:
        raise RunDataError(str(error)) from error
    try:
        return RunData(path, fields, *_read_lines(lines))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunDataError(f"{metrics} cannot be understood ({error!r})") from error


def group_runs(runs: Sequence[RunData], ignore: Sequence[str] = ()) -> tuple[Group, ...]:
    """Bring the seeds of each experiment together, in the order of their first runs.

    Args:
        runs: what was read.
        ignore: further config fields, or sections, in which seeds of one experiment may differ.

    Returns:
        Groups labelled by what their runs' names share, without a seed's suffix (``_s0``,
        ``-seed1``). Where that is the same for several groups, the config fields in which these
        differ are added.

    Raises:
        RunDataError: if a run is named twice, or ``ignore`` names no field.
    """
    _check_named_once([run.path.resolve() for run in runs])
    _check_ignored(ignore, sorted(set().union(*[run.fields for run in runs])))
    configs = {}
    members = []
    for run in runs:
        fields = {}
        for name, value in run.fields.items():
            if not is_one_of(name, (*NOT_LEARNING, *ignore)):
                fields[name] = value
        key = json.dumps(fields, sort_keys=True)
        configs[key] = fields
        members.append((key, run))
    groups = []
    for key, seeds in gather(members).items():
        label = common_name([run.fields["exp_name"] for run in seeds])
        groups.append(Group(label, tuple(seeds), configs[key]))
    return tuple(_tell_apart(groups))


def gather(pairs: Iterable[tuple[Key, Value]]) -> dict[Key, list[Value]]:
    """Values by key, both in the order in which they come."""
    found: dict[Key, list[Value]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def differing_fields(groups: Sequence[Group]) -> list[str]:
    """Config fields in which any two of the groups differ, sorted."""
    differing = []
    for name in sorted(set().union(*[group.fields for group in groups])):
        if len({json.dumps(group.fields.get(name, ABSENT)) for group in groups}) > 1:
            differing.append(name)
    return differing


def common_name(names: Sequence[str]) -> str:
    """What names share, without a seed's suffix; the first name if they share nothing."""
    stems = [SEED_SUFFIX.sub("", name) for name in names]
    prefix = os.path.commonprefix(stems)
    if any(stem[len(prefix) :][:1].isdecimal() for stem in stems):
        prefix = prefix.rstrip("0123456789")  # it ended within a number
    if prefix not in stems:
        prefix = prefix.rstrip("_.- ")
    return prefix or stems[0]


def _no_run(path: Path, missing: Sequence[str]) -> str:
    command = "python -m lzero.report"
    if path.is_file():
        return f"{path} is a file; name the folder of its run: {command} {path.parent}"
    if not path.is_dir():
        return f"{path} does not exist; name the folders of runs, e.g. {command} runs/atari_cpu_moe"
    inside = sorted(str(file.parent) for file in path.glob(f"*/{CONFIG_FILE}"))
    hint = f"runs in it: type {command} {' '.join(inside)}" if inside else ""
    absent = " and ".join(missing)
    return f"{path} is no run: {absent} missing; {hint or 'name folders runs/{exp_name}'}"


def _read_lines(
    lines: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Series], dict[str, dict[int, list[np.ndarray]]]]:
    """Scalars and arrays of a run."""
    points: dict[str, list[tuple[float, float]]] = {}
    arrays: dict[str, dict[int, list[np.ndarray]]] = {}
    for line in lines:
        step = int(line["env_step"])
        for tag, value in line["metrics"].items():
            points.setdefault(tag, []).append((step, math.nan if value is None else value))
        for tag, array in line.get("arrays", {}).items():
            by_step = arrays.setdefault(tag, {})
            by_step.setdefault(step, []).append(np.array(array, dtype=np.float64))
    scalars = {}
    for tag, values in points.items():
        columns = np.array(values, dtype=np.float64)
        scalars[tag] = Series(columns[:, 0], columns[:, 1])
    return scalars, arrays


def _one_per_step(series: Series, *, takes_last: bool) -> Series:
    known = np.isfinite(series.value)
    step, value = series.env_step[known], series.value[known]
    steps, inverse, count = np.unique(step, return_inverse=True, return_counts=True)
    if takes_last:
        last = np.zeros(len(steps), dtype=np.intp)
        np.maximum.at(last, inverse, np.arange(len(step)))
        return Series(steps, value[last])
    return Series(steps, np.bincount(inverse, value, minlength=len(steps)) / count)


def _check_named_once(paths: Sequence[Path]) -> None:
    twice = sorted({str(path) for path in paths if paths.count(path) > 1})
    if twice:
        raise RunDataError(
            f"{', '.join(twice)}: named more than once; each run is one seed, name it once"
        )


def _check_ignored(ignore: Sequence[str], known: list[str]) -> None:
    for field in ignore:
        if not any(is_one_of(name, (field,)) for name in known):
            raise RunDataError(
                f"ignore: no run has a config field {field!r}; {nearest(field, known)}"
            )


def _tell_apart(groups: Sequence[Group]) -> Iterator[Group]:
    """Groups of one name get the config fields in which they differ behind it."""
    for group in groups:
        twins = [other for other in groups if other.label == group.label]
        differing = differing_fields(twins)
        shown_fields = differing if len(differing) <= SHOWN_FIELDS else differing[:SHOWN_FIELDS]
        parts = []
        for name in shown_fields:
            short = ".".join(name.split(".")[-2:])
            parts.append(f"{short}={group.fields.get(name, ABSENT)}")
        hidden = len(differing) - len(parts)
        if hidden:  # what is shown may be the same for two of them: count too
            parts = [f"no. {twins.index(group) + 1}", *parts, f"{hidden} more"]
        yield replace(group, label=f"{group.label} ({', '.join(parts)})") if parts else group
