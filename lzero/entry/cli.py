"""Command line of the zoo's scripts: a preset first, then overrides of any field of the schema."""

import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import ValidationError

from lzero.checkpoint import CheckpointError
from lzero.config import ExperimentConfig, nearest
from lzero.entry.run import RunError
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
        logger.warning("%s; the same command continues from the newest checkpoint", stopped or "stopped at once")
        sys.exit(INTERRUPTED)
    logger.info("finished: %s", result.run_dir)
    tensorboard = shutil.which("tensorboard") or Path(sys.executable).parent / "tensorboard"
    logger.info("look at it: %s --logdir %s", _shell_path(tensorboard), _shell_path(result.run_dir / "tb"))
    return result


def parse(presets: Presets, default: str, argv: Sequence[str]) -> CommandLine:
    """Read the command line; ends the program with a message if it is not valid."""
    if not argv or argv[0] not in {*presets, "--help", "-h"}:
        if argv and not argv[0].startswith("-"):
            sys.exit(f"error: unknown preset {argv[0]!r}; {nearest(argv[0], list(presets))}")
        argv = [default, *argv]
    commands = {name: (text, CommandLine(config)) for name, (text, config) in presets.items()}
    try:
        command = tyro.extras.overridable_config_cli(commands, args=argv)
    except ValidationError as error:  # of the whole config; tyro reports those of its sections itself
        sys.exit(f"error: {_in_one_line(error)}")
    if not command.game_overrides:
        return command
    try:
        return CommandLine(with_overrides(command.config, command.game_overrides), command.seed, command.resume)
    except ValidationError as error:
        sys.exit(f"error: --game-overrides: {_in_one_line(error)}")
    except ValueError as error:
        sys.exit(f"error: --game-overrides: {error}")


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
    for problem in error.errors():
        field = ".".join(map(str, problem["loc"]))
        if problem["type"] == "value_error":  # raised by the schema itself, which names the value
            complaints.append(": ".join(filter(None, (field, str(problem["ctx"]["error"])))))
        else:
            complaints.append(f"{field}={problem['input']!r}: {problem['msg']}")
    return "; ".join(complaints)


def _shell_path(path: Path | str) -> str:
    text = os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else str(path)
    return f"'{text}'" if " " in text else text
