"""What a run is, for whoever looks at its log: the command, versions, the config, and the scores it is compared by."""

import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Self

from lzero import tags
from lzero.config import Experiment
from lzero.config_fields import NOT_LEARNING, NOT_THERE, flatten, is_one_of
from lzero.entry.checkpointing import RunError
from lzero.envs.domain import load_domain
from lzero.logging import RunLogger
from lzero.sinks import SinkError

if TYPE_CHECKING:
    from lzero.entry.life import RunLife

PACKAGES = ("lzero", "torch", "numpy", "gymnasium", "ale-py", "minatar")
"""Of which the log says the versions, where they are installed: what numerics and games depend on."""
PIPE = "\\|"  # how a cell of a Markdown table has it


@dataclass(frozen=True)
class About:
    """What a run's log begins with.

    Attributes:
        texts: Markdown by tag.
        values: fields that decide what is learned and are not the schema's defaults, by dotted path, and the seed: all
            hundred of them would hide the few by which runs differ.
        scores: tags by which runs are compared.
    """

    texts: Mapping[str, str]
    values: Mapping[str, bool | float | str]
    scores: tuple[str, ...]

    @classmethod
    def of(cls, config: Experiment, seed: int, processes: int) -> Self:
        """Of an experiment that is started with ``seed`` in so many processes."""
        fields = dict(flatten(config.model_dump(mode="json")))
        defaults = dict(flatten(type(config)().model_dump(mode="json")))
        values: dict[str, bool | float | str] = {"seed": seed}
        for name, value in fields.items():
            is_default = value == defaults.get(name, NOT_THERE)
            if not (is_default or is_one_of(name, NOT_LEARNING)):
                values[name] = value if isinstance(value, bool | int | float) else _cell(value)
        run = {
            "experiment": config.exp_name,
            "kind": type(config).__name__,
            "games": ", ".join(config.env.games),
            "domain": config.env.domain,
            "seed": seed,
            "processes": processes,
            "machine": f"{platform.machine()}, {platform.system()}",
            **_versions(),
        }
        # below the table: a line without a break would leave the other column no room
        command = f"\n\n```\n{shlex.join(sys.orig_argv)}\n```\n"
        texts = {
            "about/run": _table("run", run) + command,
            "about/settings": _table("field", fields),
        }
        return cls(texts, values, _scores(config))


def open_log(run: "RunLife", *, resumed: bool) -> RunLogger:
    """The log of a run that has just begun or goes on, without what did not happen."""
    config = run.config
    log = RunLogger(
        config.run_dir,
        is_main=run.dist.is_main,
        game_env_steps=config.env.game_env_steps,
        loggers=config.train.loggers,
    )
    # what an attempt logged after its last checkpoint, or before its first, did not happen
    last = (run.policy.train_iter, run.env_steps) if resumed else (-1, -1)
    log.truncate_after(*last)
    return log


def begin_log(run: "RunLife") -> None:
    """Say in the log what the run is; collective.

    Raises:
        RunError: on all ranks, if a place of ``train.loggers`` cannot be opened.
    """
    problem = None
    about = About.of(run.config, run.seed, run.dist.world_size)
    try:
        run.logger.begin(about.values, about.scores, about.texts, run.env_steps)
    except SinkError as error:
        problem = str(error)
    if run.dist.any(problem is not None):
        raise RunError(problem or "train.loggers: rank 0 cannot open one of them")


def _versions() -> dict[str, str]:
    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # not everybody has every domain
            continue
    return versions


def _scores(config: Experiment) -> tuple[str, ...]:
    games = config.env.games
    scores = [tags.of_game(tags.EVAL_RETURN, game) for game in games]
    domain = load_domain(config.env.domain)
    if any(domain.normalised_score(game, 0.0) is not None for game in games):
        scores += [f"{tags.EVAL_AGGREGATE}{name}" for name in ("mean", "median", "iqm")]
    return tuple(scores)


def _table(title: str, rows: Mapping[str, Any]) -> str:
    """A Markdown table of two columns."""
    lines = [f"| {title} | value |", "|---|---|"]
    for name, value in rows.items():
        lines.append(f"| {name} | {_cell(value).replace('|', PIPE)} |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)
