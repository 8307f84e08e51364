"""Command line of training: a preset or a file first, then overrides of any field of the schema."""

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import ValidationError

from lzero import checks
from lzero.config import Experiment, ExperimentConfig, nearest
from lzero.config_ppo import PPOExperiment
from lzero.console.complaints import in_one_line
from lzero.console.config_files import (
    LARGEST_SEED,
    ConfigFileError,
    read_config_file,
    written,
)
from lzero.console.options import OptionError, check_options
from lzero.envs.domain import E, read_experiment

Presets = Mapping[str, tuple[str, Experiment]]
Default = str | Callable[[], str]
"""Name of the preset that is taken where none is named, or what finds it out."""
Form = Literal["json", "yaml"]
FROM_FILE = "config"  # what the experiment of a file is called among presets


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
    config_file: Annotated[Path | None, tyro.conf.arg(name="config", metavar="FILE|RUN")] = None
    """Begin with the experiment of this file (JSON or YAML), or of a run, instead of a preset."""
    print_config: Annotated[Form | None, tyro.conf.arg(metavar="[json|yaml]")] = None
    """Print the experiment with everything that was asked for, as a file for ``--config``, and train nothing."""
    allow_domain: tuple[str, ...] = ()
    """With ``--config``: domains outside of lzero and zoo, as ``module:ATTRIBUTE``, whose code may run because the file names
    them."""


@dataclass(frozen=True)
class PPOCommandLine(CommandLine):
    """What a training script of PPO is asked to do."""

    config: Annotated[PPOExperiment, tyro.conf.arg(name="")]  # type: ignore[assignment]
    """The experiment."""


@dataclass(frozen=True)
class _Asked:
    """Options that are read before all others, and what is left of the arguments."""

    config_file: Path | None
    print_config: Form | None
    argv: list[str]


def parse(presets: Presets, default: Default, argv: Sequence[str]) -> CommandLine:
    """Read the command line; ends the program with a message if it is not valid, and after ``--help`` and ``--print-config``.

    Args:
        presets: name to (a line of help, config).
        default: preset taken when the first argument names none.
        argv: arguments.

    Raises:
        ValueError: if ``default`` is no preset.
    """
    asked = _take_first(argv)
    if asked.config_file is None and isinstance(default, str) and default not in presets:
        raise ValueError(f"default={default!r}: allowed are {', '.join(presets)}")
    argv, seed = asked.argv, 0
    if asked.config_file is not None:
        if argv and not argv[0].startswith("-"):
            sys.exit(f"error: {argv[0]!r}: write a preset or --config FILE, not both")
        try:
            found = read_config_file(asked.config_file, _allowed(argv))
        except ConfigFileError as error:
            sys.exit(f"error: --config {error}")
        presets = {FROM_FILE: (f"the experiment of {asked.config_file}", found.config)}
        default, seed = FROM_FILE, found.seed or 0
        argv = [FROM_FILE, *argv]
    if not argv or argv[0] not in {*presets, "--help", "-h"}:
        if argv and not argv[0].startswith("-"):
            sys.exit(f"error: unknown preset {argv[0]!r}; {nearest(argv[0], list(presets))}")
        default = default if isinstance(default, str) else default()
        argv = [default, *argv]
    try:  # presets first: only with its domain's section does the help of one show its settings
        presets = {
            name: (text, read_experiment(type(config), config))
            for name, (text, config) in presets.items()
        }
        if argv[0] in presets:
            check_options(argv[1:], presets[argv[0]][1], _beside_the_config())
        command = _read(presets, default, argv, seed)
        config = read_experiment(type(command.config), command.config)
    except OptionError as error:
        sys.exit(f"error: {error}")
    except ValidationError as error:
        sys.exit(f"error: {in_one_line(error, [config for _, config in presets.values()])}")
    if not 0 <= command.seed <= LARGEST_SEED:
        sys.exit(f"error: --seed {command.seed}: use a number from 0 to 2^63 - 1")
    if command.game_overrides:
        try:
            config = with_overrides(config, command.game_overrides)
        except ValidationError as error:
            sys.exit(f"error: --game-overrides: {in_one_line(error)}")
        except ValueError as error:
            sys.exit(f"error: --game-overrides: {error}")
    if asked.print_config is not None:
        sys.stdout.write(written(config, command.seed, asked.print_config))
        sys.exit(0)
    return type(command)(config, command.seed, command.resume)


def _take_first(argv: Sequence[str]) -> _Asked:
    """``--config`` decides what the other options begin with; ``--print-config`` may stand without a value."""
    rest: list[str] = []
    file, form = None, None
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name == "--config":
            if not equals:
                if not words or words[0].startswith("--"):
                    sys.exit("error: --config: name a file, or a run's folder")
                value = words.pop(0)
            file = Path(value)
        elif name in ("--print-config", "--print_config"):
            if not equals:
                value = words.pop(0) if words and words[0] in ("json", "yaml") else "json"
            if value not in ("json", "yaml"):
                sys.exit(f"error: --print-config {value}: allowed are json and yaml")
            form = value
        else:
            rest.append(word)
    return _Asked(file, form, rest)  # type: ignore[arg-type]  # one of the two forms


def _allowed(argv: Sequence[str]) -> list[str]:
    """Domains that the command line trusts: those behind ``--allow-domain``, and one that ``--env.domain`` names itself."""
    found: list[str] = []
    is_open = False
    for word in argv:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            is_open = name.replace("_", "-") in ("--allow-domain", "--env.domain")
            if is_open and equals:
                found.append(value)
        elif is_open:
            found.append(word)
    return found


def _beside_the_config() -> dict[str, Any]:
    """Options beside the experiment's fields, name to type."""
    found: dict[str, Any] = {"seed": int}
    for field in fields(CommandLine):
        if field.name not in ("config", "config_file"):
            found.setdefault(field.name, str)
    return found


def _read(presets: Presets, default: Default, argv: Sequence[str], seed: int) -> CommandLine:
    """Preset and fields; tyro explains what it cannot read, and prints the help.

    Raises:
        ValidationError: if the schema refuses it.
    """
    if argv[0] not in presets and not isinstance(default, str):
        default = default()  # for the list of presets, which says it
    commands = {}
    for name, (text, config) in presets.items():
        about = f"{text} (the default here)" if name == default else text
        commands[name] = (about, replace(_command_line(config), seed=seed))
    read = partial(
        tyro.extras.overridable_config_cli,
        commands,
        args=argv,
        description="Train: a preset or --config FILE first, then any field. "
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
