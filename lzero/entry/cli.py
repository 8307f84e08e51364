"""Command line of the zoo's scripts: a preset first, then overrides of any field of the schema."""

import io
import logging
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import BaseModel, ValidationError

from lzero import checks
from lzero.checkpoint import CheckpointError
from lzero.config import Experiment, ExperimentConfig, nearest
from lzero.config_ppo import PPOExperiment
from lzero.distributed import RankLostError
from lzero.entry.checkpointing import RunError
from lzero.entry.result import SEEDS, TrainResult
from lzero.entry.stopping import SHELL_STATUS, StoppedError
from lzero.entry.train_ppo_moe import train_ppo_moe
from lzero.entry.train_unizero_multitask_segment_ddp import train_unizero_multitask_segment_ddp
from lzero.envs.domain import E, read_experiment
from lzero.envs.multitask import EnvironmentFaultError

logger = logging.getLogger(__name__)

Presets = Mapping[str, tuple[str, Experiment]]


@dataclass(frozen=True)
class CommandLine:
    """What a training script is asked to do."""

    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    """The experiment."""
    seed: int = 0
    """Seed of parameters, environments, search and sampling."""
    resume: Annotated[str, tyro.conf.arg(metavar="auto|never|PATH")] = "auto"
    """auto continues from the newest checkpoint of the run, if there is one; never refuses to; the path of a checkpoint
    continues from it: an earlier one of this run, or another run's from which this one branches off."""
    game_overrides: tuple[str, ...] = ()
    """Per-game exceptions as ``Game.field=value``, e.g. ``Pong.batch_size=16
    MsPacman.clip_reward=false``; fields: max_episode_steps, clip_reward, num_envs, batch_size."""


@dataclass(frozen=True)
class PPOCommandLine(CommandLine):
    """What a training script of PPO is asked to do."""

    config: Annotated[PPOExperiment, tyro.conf.arg(name="")]  # type: ignore[assignment]
    """The experiment."""


def main(presets: Presets, default: str, argv: Sequence[str] | None = None) -> TrainResult:
    """Train what the command line asks for.

    Args:
        presets: name to (a line of help, config).
        default: preset taken when the first argument names none.
        argv: arguments; None takes the program's.
    """
    try:
        command = parse(presets, default, sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        sys.exit(SHELL_STATUS + signal.SIGINT)
    try:
        if isinstance(command, PPOCommandLine):
            result = train_ppo_moe(command.config, seed=command.seed, resume=command.resume)
        else:
            result = train_unizero_multitask_segment_ddp(
                command.config, seed=command.seed, resume=command.resume
            )
    except (
        RunError,
        CheckpointError,
        EnvironmentFaultError,
        FloatingPointError,
        RankLostError,
    ) as error:
        sys.exit(f"error: {error}")
    except StoppedError as stopped:
        logger.info("%s; the same command continues from the newest checkpoint", stopped)
        sys.exit(stopped.status)
    logger.info("finished: %s", result.run_dir)
    tensorboard = "tensorboard"
    if not shutil.which(tensorboard):
        tensorboard = _shell_path(Path(sys.executable).parent / "tensorboard")
    logger.info("look at it: %s --logdir %s", tensorboard, _shell_path(result.run_dir / "tb"))
    return result


def parse(presets: Presets, default: str, argv: Sequence[str]) -> CommandLine:
    """Read the command line; ends the program with a message if it is not valid.

    Raises:
        ValueError: if ``default`` is no preset.
    """
    if default not in presets:
        raise ValueError(f"default={default!r}: allowed are {', '.join(presets)}")
    if not argv or argv[0] not in {*presets, "--help", "-h"}:
        if argv and not argv[0].startswith("-"):
            sys.exit(f"error: unknown preset {argv[0]!r}; {nearest(argv[0], list(presets))}")
        argv = [default, *argv]
    try:  # presets first: only with its domain's section does the help of one show its settings
        presets = {
            name: (text, read_experiment(type(config), config))
            for name, (text, config) in presets.items()
        }
        command = _read(presets, default, argv)
        config = read_experiment(type(command.config), command.config)
    except ValidationError as error:
        sys.exit(f"error: {_in_one_line(error, presets)}")
    if not 0 <= command.seed < SEEDS:
        sys.exit(f"error: --seed {command.seed}: use a number from 0 to 2^63 - 1")
    if command.game_overrides:
        try:
            config = with_overrides(config, command.game_overrides)
        except ValidationError as error:
            sys.exit(f"error: --game-overrides: {_in_one_line(error, presets)}")
        except ValueError as error:
            sys.exit(f"error: --game-overrides: {error}")
    return type(command)(config, command.seed, command.resume)


def _read(presets: Presets, default: str, argv: Sequence[str]) -> CommandLine:
    """Preset and fields; tyro explains what it cannot read, and prints the help.

    Raises:
        ValidationError: if the schema refuses it.
    """
    commands = {}
    for name, (text, config) in presets.items():
        about = f"{text} (the default here)" if name == default else text
        commands[name] = (about, _command_line(config))
    read = partial(
        tyro.extras.overridable_config_cli,
        commands,
        args=argv,
        description="Train: a preset first, then any of its fields. "
        "PRESET --help lists all fields with their units.",
    )
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return read()
    except (SystemExit, ValidationError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ValidationError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise cause from None
    return read()


def _command_line(config: Experiment) -> CommandLine:
    """A preset as the command line that asks for it and nothing else.

    Raises:
        TypeError: for an experiment that no script trains.
    """
    if isinstance(config, PPOExperiment):
        return PPOCommandLine(config)
    if isinstance(config, ExperimentConfig):
        return CommandLine(config)
    raise TypeError(f"{type(config).__name__}: no training script knows such experiments")


def with_overrides(config: E, overrides: Sequence[str]) -> E:
    """Config with per-game exceptions of the form ``Game.field=value``.

    Raises:
        TypeError: if they are no list of texts.
        ValueError: if one has another form, or names an unknown game or field.
    """
    checks.names("overrides", overrides)
    data = config.model_dump()
    for override in overrides:
        path, equals, value = override.partition("=")
        game, dot, field = path.rpartition(".")  # a gymnasium id may have dots itself
        if not (equals and dot):
            raise ValueError(
                f"{override!r} is not of the form Game.field=value, e.g. Pong.batch_size=16"
            )
        data["env"]["overrides"].setdefault(game, {})[field.replace("-", "_")] = value
    return read_experiment(type(config), data)


def _in_one_line(error: ValidationError, presets: Presets) -> str:
    """Field, value and reason of everything that is wrong."""
    section: tuple[str, ...] = ()  # a section that was made alone does not know where it belongs
    for _, config in presets.values():
        section = dict(_sections(config)).get(error.title, section)
    complaints = []
    for problem in error.errors():
        field = ".".join(map(str, (*section, *problem["loc"])))
        if problem["type"] == "value_error":  # raised by the schema itself, which names the value
            said = str(problem["ctx"]["error"])
            says_where = problem["loc"] == () or said.startswith(field)
            complaints.append(said if says_where else f"{field}: {said}")
        else:
            complaints.append(f"{field}={problem['input']!r}: {problem['msg']}")
    return "; ".join(complaints)


def _sections(
    config: BaseModel, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names of a config's classes and where they are in it."""
    yield type(config).__name__, path
    for name, value in config:
        if isinstance(value, BaseModel):
            yield from _sections(value, (*path, name))


def _shell_path(path: Path) -> str:
    text = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    return f"'{text}'" if " " in text else text
