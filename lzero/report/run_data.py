"""What runs left behind: their configs and curves, and which of them are seeds of one experiment."""

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lzero.config import nearest
from lzero.config_fields import FIELDS_ONCE_IN_EVERY_CONFIG, NOT_LEARNING, flatten, is_one_of
from lzero.logging import METRICS_FILE, read_metrics

CONFIG_FILE = "config.json"
EVALUATION_PREFIX = "eval_"
SEED_SUFFIX = re.compile(r"[_.-](s|seed)[_-]?\d+$", re.IGNORECASE)
SHOWN_FIELDS = 3  # config fields that a label may hold
ABSENT = "absent"  # how a label writes a field that an older run does not have


class RunDataError(ValueError):
    """A folder holds no run that can be read, or runs cannot be compared as asked."""


@dataclass(frozen=True)
class Series:
    """One logged number over training.

    Attributes:
        env_step: ``(N,)`` env steps per game, increasing.
        value: ``(N,)``.
    """

    env_step: np.ndarray
    value: np.ndarray

    def __len__(self) -> int:
        return len(self.env_step)


@dataclass(frozen=True)
class RunData:
    """A run as it lies on disk.

    Attributes:
        path: its folder.
        fields: its config, flat: dotted path to value.
        scalars: every logged number by tag, as logged; NaN where it was none.
        arrays: every logged array by tag and env step, in the order of logging; NaN where an entry was none. Several updates
            may measure at one env step.
    """

    path: Path
    fields: Mapping[str, Any]
    scalars: Mapping[str, Series]
    arrays: Mapping[str, Mapping[int, Sequence[np.ndarray]]]

    @property
    def name(self) -> str:
        """Its folder as a reader would type it; unlike ``exp_name`` no two runs of a report share it."""
        return str(self.path)

    @property
    def exp_name(self) -> str:
        """Name of the experiment in its config."""
        return self.fields["exp_name"]

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
        return tuple(sorted(tag for tag in self.scalars if tag.startswith(prefix) and len(self.series(tag))))

    def series(self, tag: str) -> Series:
        """Numbers logged under ``tag`` with one value per env step; empty where there is none.

        Of several values at one env step the mean is taken; of evaluations the last, which replaces the others.
        """
        return self._clean.get(tag, Series(np.empty(0), np.empty(0)))

    def not_numbers(self, tag: str) -> int:
        """How often NaN or an infinity was logged under ``tag``."""
        return int(np.isnan(self.scalars[tag].value).sum()) if tag in self.scalars else 0

    def episode_scores(self, game: str, env_step: float) -> np.ndarray:
        """``(E,)`` scores of the episodes of the evaluation of ``game`` at ``env_step``; empty where not logged."""
        *_, scores = self.arrays.get(f"eval_scores/{game}", {}).get(int(env_step), [np.empty(0)])
        scores = scores.ravel()
        return scores[np.isfinite(scores)]

    @cached_property
    def _clean(self) -> dict[str, Series]:
        return {tag: _one_per_step(series, tag.startswith(EVALUATION_PREFIX)) for tag, series in self.scalars.items()}


@dataclass(frozen=True)
class Group:
    """Runs of one experiment that differ in their seed alone.

    Attributes:
        label: what figures call it; no two groups share it.
        runs: one per seed.
        fields: the flat config that all of them share.
    """

    label: str
    runs: tuple[RunData, ...]
    fields: Mapping[str, Any]

    @property
    def domain(self) -> str:
        """Import path of its domain."""
        return self.runs[0].domain

    @property
    def games(self) -> tuple[str, ...]:
        """Its games."""
        return self.runs[0].games


def read_run(path: Path) -> RunData:
    """Read a run's folder.

    The config is taken as it was written and not checked against today's schema: older runs, and those whose domain is
    not installed here, can be read too.

    Raises:
        RunDataError: if the folder holds no run, or a file of it cannot be understood; with what to type instead.
    """
    path = Path(path)
    missing = [name for name in (CONFIG_FILE, METRICS_FILE) if not (path / name).is_file()]
    if missing:
        raise RunDataError(_no_run(path, missing))
    try:
        written = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
        # for seeds of one experiment that were started before and after domains owned their settings
        fields = FIELDS_ONCE_IN_EVERY_CONFIG | dict(flatten(written))
    except (ValueError, AttributeError) as error:
        raise RunDataError(f"{path / CONFIG_FILE} is no config of an experiment: {error}") from error
    lacking = [name for name in ("exp_name", "env.domain", "env.games") if name not in fields]
    if lacking:
        raise RunDataError(f"{path / CONFIG_FILE} has no {', '.join(lacking)}; it is no config of an experiment")
    try:
        lines = read_metrics(path / METRICS_FILE)
    except ValueError as error:
        raise RunDataError(str(error)) from error
    try:
        scalars, arrays = _read_lines(lines)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunDataError(f"{path / METRICS_FILE} cannot be understood ({error!r})") from error
    return RunData(path, fields, scalars, arrays)


def group_runs(runs: Sequence[RunData], ignore: Sequence[str] = ()) -> tuple[Group, ...]:
    """Bring the seeds of each experiment together, in the order of their first runs.

    Args:
        runs: what was read.
        ignore: further config fields, or sections, in which seeds of one experiment may differ.

    Returns:
        Groups labelled by what their runs' names share, without a seed's suffix (``_s0``, ``-seed1``). Where that is
        the same for several groups, the config fields in which these differ are added.

    Raises:
        RunDataError: if a run is named twice, or ``ignore`` names no field.
    """
    paths = [run.path.resolve() for run in runs]
    twice = sorted({str(path) for path in paths if paths.count(path) > 1})
    if twice:
        raise RunDataError(f"{', '.join(twice)}: named more than once; each run is one seed, name it once")
    _check_ignored(ignore, sorted({field for run in runs for field in run.fields}))
    members: defaultdict[str, list[RunData]] = defaultdict(list)
    shared = {}
    for run in runs:
        fields = {name: value for name, value in run.fields.items() if not is_one_of(name, (*NOT_LEARNING, *ignore))}
        key = json.dumps(fields, sort_keys=True)
        members[key].append(run)
        shared[key] = fields
    groups = [
        Group(common_name([run.exp_name for run in group]), tuple(group), shared[key]) for key, group in members.items()
    ]
    return tuple(_tell_apart(groups))


def differing_fields(groups: Sequence[Group]) -> list[str]:
    """Config fields in which any two of the groups differ, sorted, without those that may differ within a group."""
    names = sorted({name for group in groups for name in group.fields})
    return [name for name in names if len({json.dumps(group.fields.get(name, ABSENT)) for group in groups}) > 1]


def common_name(names: Sequence[str]) -> str:
    """What the names of an experiment's runs share, without a seed's suffix; the first name if they share nothing."""
    stems = [SEED_SUFFIX.sub("", name) for name in names]
    prefix = os.path.commonprefix(stems)
    if any(re.match(r"\d", stem[len(prefix) :]) for stem in stems):
        prefix = prefix.rstrip("0123456789")  # it ended within a number
    if prefix not in stems:
        prefix = prefix.rstrip("_.- ")
    return prefix or stems[0]


def _no_run(path: Path, missing: Sequence[str]) -> str:
    if path.is_file():
        return f"{path} is a file; name the folder of its run: python -m lzero.report {path.parent}"
    if not path.is_dir():
        return f"{path} does not exist; name the folders of runs, e.g. python -m lzero.report runs/atari_cpu_moe"
    inside = sorted(str(file.parent) for file in path.glob(f"*/{CONFIG_FILE}"))
    hint = f"runs in it: type python -m lzero.report {' '.join(inside)}" if inside else "name folders runs/{exp_name}"
    return f"{path} is no run: {' and '.join(missing)} missing; {hint}"


def _read_lines(lines: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Series], dict[str, dict[int, list[np.ndarray]]]]:
    points: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    arrays: defaultdict[str, dict[int, list[np.ndarray]]] = defaultdict(dict)
    for line in lines:
        step = int(line["env_step"])
        for tag, value in line["metrics"].items():
            points[tag].append((step, math.nan if value is None else value))
        for tag, array in line.get("arrays", {}).items():
            arrays[tag].setdefault(step, []).append(np.array(array, dtype=np.float64))
    columns = {tag: np.array(values, dtype=np.float64) for tag, values in points.items()}
    return {tag: Series(values[:, 0], values[:, 1]) for tag, values in columns.items()}, dict(arrays)


def _one_per_step(series: Series, is_evaluation: bool) -> Series:
    known = np.isfinite(series.value)
    step, value = series.env_step[known], series.value[known]
    steps, inverse, count = np.unique(step, return_inverse=True, return_counts=True)
    if is_evaluation:
        last = np.zeros(len(steps), dtype=np.intp)
        np.maximum.at(last, inverse, np.arange(len(step)))
        return Series(steps, value[last])
    return Series(steps, np.bincount(inverse, value, minlength=len(steps)) / count)


def _check_ignored(ignore: Sequence[str], known: list[str]) -> None:
    for field in ignore:
        if not any(is_one_of(name, (field,)) for name in known):
            raise RunDataError(f"ignore: no run has a config field {field!r}; {nearest(field, known)}")


def _tell_apart(groups: Sequence[Group]) -> Iterator[Group]:
    for group in groups:
        twins = [other for other in groups if other.label == group.label]
        differing = differing_fields(twins) if len(twins) > 1 else []
        shown = differing[: SHOWN_FIELDS if len(differing) > SHOWN_FIELDS else None]
        parts = [f"{_short(name)}={group.fields.get(name, ABSENT)}" for name in shown]
        if len(differing) > len(shown):  # what is shown may be the same for two of them: count too
            parts = [f"no. {twins.index(group) + 1}", *parts, f"{len(differing) - len(shown)} more"]
        yield Group(f"{group.label} ({', '.join(parts)})" if parts else group.label, group.runs, group.fields)


def _short(name: str) -> str:
    return ".".join(name.split(".")[-2:])
