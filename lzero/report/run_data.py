"""Runs as they lie on disk, and which of them are seeds of one experiment."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lzero import checks, tags
from lzero.analysis.expert_analysis import ANALYSIS_FILE, ExpertAnalysis
from lzero.config import nearest
from lzero.config_fields import (
    FIELDS_NEWER_THAN_RUNS,
    FIELDS_ONCE_IN_EVERY_CONFIG,
    NOT_LEARNING,
    flatten,
    is_one_of,
)
from lzero.earlier_tags import translated
from lzero.environment import Attempt, read_attempts
from lzero.logging import METRICS_FILE, read_metrics
from lzero.report.progress import shown
from lzero.run_paths import CONFIG_FILE, metrics_file

Key = TypeVar("Key")
Value = TypeVar("Value")
Task = tuple[str, str]
"""Domain and game."""
NEEDED_FIELDS = ("exp_name", "env.domain", "env.games")
EVALUATION_PREFIX = "eval_"
SEED_SUFFIX = re.compile(r"[_.-](s|seed)[_-]?\d+$", re.IGNORECASE)
SHOWN_FIELDS = 3  # config fields that a label may hold
NAME_RUNS = "name folders runs/{exp_name}"
ANALYSE = "python -m lzero.entry.analyse_experts"
ABSENT = "absent"  # how a label writes a field that an older run does not have


class RunDataError(ValueError):
    """A folder holds no run that can be read, or runs cannot be compared as asked."""


@dataclass(frozen=True)
class Series:
    """One logged number over training."""

    env_step: np.ndarray  # (N,) env steps per game, of a game's number its own, increasing
    value: np.ndarray  # (N,)

    def __len__(self) -> int:
        return len(self.env_step)


@dataclass(frozen=True)
class RunData:
    """A run as it lies on disk; what was logged as no number is NaN."""

    path: Path  # its folder
    fields: Mapping[str, Any]  # its config, flat: dotted path to value
    scalars: Mapping[str, Series]  # every logged number by tag, as logged
    # Every logged array by tag and env step, in the order of logging: several updates may measure
    # at one env step.
    arrays: Mapping[str, Mapping[int, Sequence[np.ndarray]]]
    # Env steps by game at the last line; empty where games have the same number of environments.
    game_env_steps: Mapping[str, int] = field(default_factory=dict)
    # Updates done, by the env step of each line; empty where lines do not tell.
    updates: Mapping[int, int] = field(default_factory=dict)
    # What ``lzero.entry.analyse_experts`` found in one of its checkpoints; None where nobody asked.
    expert_analysis: ExpertAnalysis | None = None
    # ``(L, 3)`` env steps, updates and wall time [s] of every line; those that do not tell are left out.
    times: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    # Where and with what it was trained, oldest first; empty of older runs.
    attempts: Sequence[Attempt] = ()
    # What :mod:`lzero.report.noise` has pooled, by the part of training: several tables ask for it.
    pooled: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        """Env steps per game at the last logged number, of the game with the fewest environments; 0
        where there is none."""
        if self.game_env_steps:
            return min(self.game_env_steps.values())
        return max((series.env_step[-1] for series in self.scalars.values()), default=0.0)

    def own_steps(self, game: str, env_steps: float) -> float:
        """Env steps of ``game`` when the one with the fewest environments has taken ``env_steps``."""
        if not self.game_env_steps:
            return env_steps
        return env_steps * self.game_env_steps[game] / self.env_steps

    def updates_by(self, env_steps: float) -> int:
        """Updates done by an env step of the game with the fewest environments, as last logged; 0
        where that is not known."""
        return max((count for step, count in self.updates.items() if step <= env_steps), default=0)

    def tags(self, prefix: str) -> list[str]:
        """Tags that begin with ``prefix`` and have a number, sorted."""
        return sorted(tag for tag in self._clean if tag.startswith(prefix))

    def series(self, tag: str) -> Series:
        """Numbers logged under ``tag``, one per env step; empty where there is none.

        Of several at one env step it is the mean; of evaluations the last, which replaces others.
        """
        return self._clean.get(tag, Series(np.empty(0), np.empty(0)))

    def not_numbers(self, tag: str) -> int:
        """How often NaN or an infinity was logged under ``tag``."""
        return int(np.isnan(self.scalars[tag].value).sum()) if tag in self.scalars else 0

    def episode_scores(self, game: str, env_step: float) -> np.ndarray:
        """``(E,)`` scores of an evaluation's episodes; empty where they were not logged."""
        by_step = self.arrays.get(tags.of_game(tags.EVAL_SCORES, game), {})
        scores = by_step.get(int(env_step), [np.empty(0)])[-1].ravel()
        return scores[np.isfinite(scores)]

    @cached_property
    def _clean(self) -> dict[str, Series]:
        """Numbers of every tag that has any."""
        clean = {}
        for tag, series in self.scalars.items():
            if np.isfinite(series.value).any():
                clean[tag] = one_per_step(series, takes_last=tag.startswith(EVALUATION_PREFIX))
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
        """Its games, in the order of task ids."""
        return self.runs[0].games

    @property
    def tasks(self) -> list[Task]:
        """Its games with their domain."""
        return [(self.domain, game) for game in self.games]

    def series(self, tag: str) -> dict[str, Series]:
        """Numbers logged under ``tag`` by the name of the run, without runs that have none."""
        return {run.name: run.series(tag) for run in self.runs if len(run.series(tag))}


def read_runs(paths: Iterable[Path | str]) -> list[RunData]:
    """Read the folders of runs, each file once.

    Configs are not checked against today's schema: older runs, and those whose domain is not
    installed here, can be read too.

    Raises:
        TypeError: if ``paths`` is a single one.
        RunDataError: if a folder holds no run or a broken one; with what to type instead.
    """
    if isinstance(paths, str | Path):
        raise TypeError(
            f"paths={str(paths)!r}: allowed is a list of folders; write [{str(paths)!r}]"
        )
    return list(map(read_run, shown(list(map(Path, paths)), "reading")))


def read_run(path: Path) -> RunData:
    """One run of :func:`read_runs`."""
    config, metrics = path / CONFIG_FILE, metrics_file(path)
    if not (config.is_file() and metrics.is_file()):
        raise RunDataError(_no_run(path))
    try:
        written = json.loads(config.read_text(encoding="utf-8"))
        # for seeds of one experiment from before and after domains owned their settings
        fields = FIELDS_ONCE_IN_EVERY_CONFIG | dict(flatten(written))
    except (ValueError, AttributeError) as error:
        raise RunDataError(f"{config} is no config of an experiment: {error}") from error
    for name, (beside, value) in FIELDS_NEWER_THAN_RUNS.items():
        if beside in fields:  # experiments of other algorithms have no such section
            fields.setdefault(name, value)
    lacking = ", ".join(name for name in NEEDED_FIELDS if name not in fields)
    if lacking:
        raise RunDataError(f"{config} has no {lacking}; it is no config of an experiment")
    try:
        lines = read_metrics(metrics)
    except ValueError as error:
        raise RunDataError(str(error)) from error
    try:
        run = _from_lines(path, fields, lines)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunDataError(f"{metrics} cannot be understood ({error!r})") from error
    try:
        attempts = read_attempts(path)
    except ValueError as error:
        raise RunDataError(str(error)) from error
    return replace(run, expert_analysis=_expert_analysis(run), attempts=attempts)


def _expert_analysis(run: RunData) -> ExpertAnalysis | None:
    file = run.path / ANALYSIS_FILE
    if not file.is_file():
        return None
    try:
        analysis = ExpertAnalysis.read(file)
    except (OSError, ValueError) as error:
        what = f"delete it, or make it again: {ANALYSE} {run.path}"
        raise RunDataError(f"{file} cannot be read: {error}; {what}") from error
    if analysis.games != run.games:
        raise RunDataError(
            f"{file} is of {', '.join(analysis.games)}, the run of {', '.join(run.games)}"
        )
    return analysis


def group_runs(runs: Sequence[RunData], ignore: Sequence[str] = ()) -> tuple[Group, ...]:
    """Bring the seeds of each experiment together, in the order of their first runs.

    ``ignore`` are further config fields, or sections, in which seeds of one experiment may differ.
    Groups are labelled by what their runs' names share, without a seed's suffix (``_s0``,
    ``-seed1``); where several would share that, the config fields in which they differ are added.

    Raises:
        RunDataError: if a run is named twice, or ``ignore`` names no field.
    """
    _check_runs(runs, ignore)
    configs, members = {}, []
    for run in runs:
        fields = dict(run.fields)
        for name in run.fields:
            if is_one_of(name, (*NOT_LEARNING, *ignore)):
                del fields[name]
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
    differing: set[str] = set()
    for one, other in pairwise(groups):
        differing |= one.fields.keys() ^ other.fields.keys()
        for name in one.fields.keys() & other.fields.keys():
            if json.dumps(one.fields[name]) != json.dumps(other.fields[name]):
                differing.add(name)
    return sorted(differing)


def common_name(names: Sequence[str]) -> str:
    """What names share, without a seed's suffix; the first name if they share nothing.

    Raises:
        ValueError: if there are none.
    """
    checks.names("names", names)
    if not names:
        raise ValueError(f"names={names}: at least one is needed")
    stems = [SEED_SUFFIX.sub("", name) for name in names]
    prefix = os.path.commonprefix(stems)
    if any(stem[len(prefix) :][:1].isdecimal() for stem in stems):
        prefix = prefix.rstrip("0123456789")  # it ended within a number
    if prefix not in stems:
        prefix = prefix.rstrip("_.- ")
    return prefix or stems[0]


def _no_run(path: Path) -> str:
    command = "python -m lzero.report"
    if path.is_file():
        return f"{path} is a file; name the folder of its run: {command} {path.parent}"
    if not path.is_dir():
        return f"{path} does not exist; name the folders of runs, e.g. {command} runs/atari_cpu_moe"
    missing = [name for name in (CONFIG_FILE, METRICS_FILE) if not (path / name).is_file()]
    inside = sorted(str(file.parent) for file in path.glob(f"*/{CONFIG_FILE}"))
    hint = f"runs in it: type {command} {' '.join(inside)}" if inside else NAME_RUNS
    return f"{path} is no run: {' and '.join(missing)} missing; {hint}"


def _from_lines(path: Path, fields: Mapping[str, Any], lines: Sequence[dict[str, Any]]) -> RunData:
    points, entries, times = [], [], []
    own: Mapping[str, int] = {}
    updates: dict[int, int] = {}
    games = fields["env.games"]
    for line in lines:
        clock, own = int(line["env_step"]), line.get("game_env_steps", {})
        if "train_iter" in line:
            updates[clock] = int(line["train_iter"])
            if "wall_time" in line:
                times.append((clock, line["train_iter"], line["wall_time"]))
        for written, value in line["metrics"].items():
            tag = translated(written, games)
            step = own.get(tags.game_of(tag, own), clock)
            points.append((tag, (step, value)))
        for written, array in line.get("arrays", {}).items():
            tag = translated(written, games)
            step = own.get(tags.game_of(tag, own), clock)
            entries.append((tag, (step, np.array(array, dtype=np.float64))))
    scalars = {}
    for tag, values in gather(points).items():
        scalars[tag] = Series(*np.array(values, dtype=np.float64).T)  # None becomes NaN
    arrays = {}
    for tag, logged in gather(entries).items():
        arrays[tag] = gather(logged)
    rows = np.array(times, dtype=np.float64).reshape(-1, 3)
    return RunData(path, fields, scalars, arrays, own, updates=updates, times=rows)


def one_per_step(series: Series, *, takes_last: bool) -> Series:
    """The numbers of a series in the order of env steps: of each the last one, or the mean."""
    known = np.isfinite(series.value)
    step, value = series.env_step[known], series.value[known]
    steps, inverse, count = np.unique(step, return_inverse=True, return_counts=True)
    if takes_last:
        last = np.zeros(len(steps), dtype=np.intp)
        np.maximum.at(last, inverse, np.arange(len(step)))
        return Series(steps, value[last])
    return Series(steps, np.bincount(inverse, value, minlength=len(steps)) / count)


def _check_runs(runs: Sequence[RunData], ignore: Sequence[str]) -> None:
    counts: Counter[str] = Counter()
    known: set[str] = set()
    for run in runs:
        counts[str(run.path.resolve())] += 1
        known |= run.fields.keys()
    twice = ", ".join(sorted(path for path, count in counts.items() if count > 1))
    if twice:
        raise RunDataError(f"{twice}: named more than once; each run is one seed, name it once")
    for wanted in ignore:
        if not any(is_one_of(name, (wanted,)) for name in known):
            hint = nearest(wanted, sorted(known))
            raise RunDataError(f"ignore: no run has a config field {wanted!r}; {hint}")


def _tell_apart(groups: Sequence[Group]) -> Iterator[Group]:
    """Groups of one name get the config fields in which they differ behind it."""
    by_label = gather((group.label, group) for group in groups)
    for group in groups:
        twins = by_label[group.label]
        differing = differing_fields(twins)
        parts = []
        for name in differing[:SHOWN_FIELDS]:
            short = ".".join(name.split(".")[-2:])
            parts.append(f"{short}={group.fields.get(name, ABSENT)}")
        hidden = len(differing) - len(parts)
        if hidden:  # what is shown may be the same for two of them: count too
            parts = [f"no. {twins.index(group) + 1}", *parts, f"{hidden} more"]
        yield replace(group, label=f"{group.label} ({', '.join(parts)})") if parts else group
