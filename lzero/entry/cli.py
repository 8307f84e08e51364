"""Command line of the zoo's scripts: a preset first, then overrides of any field of the schema."""

import io
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import BaseModel, ValidationError

from lzero.checkpoint import CheckpointError
from lzero.config import ExperimentConfig, nearest
from lzero.entry.checkpointing import RunError
from lzero.entry.train_unizero_multitask_segment_ddp import TrainResult, train_unizero_multitask_segment_ddp

logger = logging.getLogger(__name__)

INTERRUPTED = 130  # exit status by which shells know Ctrl-C

Presets = Mapping[str, tuple[str, ExperimentConfig]]


@dataclass(frozen=True)
class CommandLine:
    """What a training script is asked to do."""

    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    """The experiment."""
    seed: int = 0
    """Seed of parameters, environments, search and sampling."""
    resume: bool = True
    """Continue from the newest checkpoint of the run, if there is one."""
    game_overrides: tuple[str, ...] = ()
    """Per-game exceptions as ``Game.field=value``, e.g. ``Pong.batch_size=16 MsPacman.clip_reward=false``; fields:
    max_episode_steps, clip_reward, num_envs, batch_size."""


def main(presets: Presets, default: str, argv: Sequence[str] | None = None) -> TrainResult:
    """Train what the command line asks for.

    Args:
        presets: name to (a line of help, config).
        default: preset taken when the first argument names none.
        argv: arguments; None takes the program's.
    """
    command = parse(presets, default, sys.argv[1:] if argv is None else argv)
    try:
        result = train_unizero_multitask_segment_ddp(command.config, seed=command.seed, resume=command.resume)
    except (RunError, CheckpointError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stopped:
        logger.info("%s; the same command continues from the newest checkpoint", stopped or "stopped at once")
        sys.exit(INTERRUPTED)
    logger.info("finished: %s", result.run_dir)
    tensorboard = "tensorboard" if shutil.which("tensorboard") else _shell_path(Path(sys.executable).parent / "tensorboard")
    logger.info("look at it: %s --logdir %s", tensorboard, _shell_path(result.run_dir / "tb"))
    return result


def parse(presets: Presets, default: str, argv: Sequence[str]) -> CommandLine:
    """Read the command line; ends the program with a message if it is not valid."""
    if not argv or argv[0] not in {*presets, "--help", "-h"}:
        if argv and not argv[0].startswith("-"):
            sys.exit(f"error: unknown preset {argv[0]!r}; {nearest(argv[0], list(presets))}")
        argv = [default, *argv]
    command = _read(presets, default, argv)
    if not command.game_overrides:
        return command
    try:
        return CommandLine(with_overrides(command.config, command.game_overrides), command.seed, command.resume)
    except ValidationError as error:
        sys.exit(f"error: --game-overrides: {_in_one_line(error)}")
    except ValueError as error:
        sys.exit(f"error: --game-overrides: {error}")


def _read(presets: Presets, default: str, argv: Sequence[str]) -> CommandLine:
    """Preset and fields. What the schema refuses is said in its own words; tyro explains the rest, and the help."""
    about = {name: text + (" (the default here)" if name == default else "") for name, (text, _) in presets.items()}
    commands = {name: (about[name], CommandLine(config)) for name, (_, config) in presets.items()}
    read = partial(
        tyro.extras.overridable_config_cli,
        commands,
        args=argv,
        description="Train: a preset first, then any of its fields. PRESET --help lists all fields with their units.",
    )
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return read()
    except (SystemExit, ValidationError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ValidationError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            sys.exit(f"error: {_in_one_line(cause)}")
    return read()


def with_overrides(config: ExperimentConfig, overrides: Sequence[str]) -> ExperimentConfig:
    """Config with per-game exceptions of the form ``Game.field=value``.

    Raises:
        ValueError: if one has another form, or names an unknown game or field.
    """
    data = config.model_dump()
    for override in overrides:
        path, equals, value = override.partition("=")
        game, dot, field = path.partition(".")
        if not (equals and dot):
            raise ValueError(f"{override!r} is not of the form Game.field=value, e.g. Pong.batch_size=16")
        data["env"]["overrides"].setdefault(game, {})[field.replace("-", "_")] = value
    return ExperimentConfig.model_validate(data)


def _in_one_line(error: ValidationError) -> str:
    """Field, value and reason of everything that is wrong."""
    complaints = []
    section = dict(_sections(ExperimentConfig)).get(error.title, ())
    for problem in error.errors():
        field = ".".join(map(str, (*section, *problem["loc"])))
        if problem["type"] == "value_error":  # raised by the schema itself, which names the value
            whose = "" if problem["loc"] == () else field
            complaints.append(": ".join(filter(None, (whose, str(problem["ctx"]["error"])))))
        else:
            complaints.append(f"{field}={problem['input']!r}: {problem['msg']}")
    return "; ".join(complaints)


def _sections(schema: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names of the schema's classes and where they are in it."""
    yield schema.__name__, path
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _sections(field.annotation, (*path, name))


def _shell_path(path: Path) -> str:
    text = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    return f"'{text}'" if " " in text else text
