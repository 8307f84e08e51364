"""The training command, which the zoo's scripts call: what the command line asks for, trained."""

import logging
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lzero.checkpoint import CheckpointError
from lzero.console.command_line import (
    CommandLine,
    Default,
    PPOCommandLine,
    Presets,
    parse,
    with_overrides,
)
from lzero.distributed import RankLostError
from lzero.entry.checkpointing import RunError
from lzero.entry.result import TrainResult
from lzero.entry.stopping import SHELL_STATUS, StoppedError
from lzero.entry.train_ppo_moe import train_ppo_moe
from lzero.entry.train_unizero_multitask_segment_ddp import train_unizero_multitask_segment_ddp
from lzero.envs.answers import EnvironmentFaultError

__all__ = [
    "CommandLine",
    "PPOCommandLine",
    "Presets",
    "main",
    "parse",
    "train",
    "with_overrides",
]

logger = logging.getLogger(__name__)


def main(presets: Presets, default: Default, argv: Sequence[str] | None = None) -> TrainResult:
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
    return train(command)


def train(command: CommandLine) -> TrainResult:
    """Train what a command line has asked for; ends the program with a line where that cannot be."""
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


def _shell_path(path: Path) -> str:
    text = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    return f"'{text}'" if " " in text else text
