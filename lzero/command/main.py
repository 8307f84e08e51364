"""``lzero COMMAND …``: the table of commands. What a command needs is imported when it is asked for."""

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from lzero.config_hints import nearest

HELP = ("--help", "-h", "help")


@dataclass(frozen=True)
class Command:
    """A command of the table."""

    about: str
    usage: str
    module: str
    """Where its ``main(argv)`` is."""


COMMANDS = {
    "train": Command(
        "train: a domain and a preset, or a file, then any field",
        "lzero train DOMAIN [PRESET] [--policy.batch-size 64 …]",
        "lzero.command.train",
    ),
    "eval": Command(
        "play with a checkpoint: scores, and a film of each game",
        "lzero eval RUN [--episodes 20]",
        "lzero.entry.eval_unizero_multitask",
    ),
    "report": Command(
        "curves and tables of one or many runs, in one page",
        "lzero report RUN [RUN …] [--out FOLDER]",
        "lzero.report.command",
    ),
    "experts": Command(
        "what a checkpoint's experts tell of the game, and what is lost without each",
        "lzero experts RUN",
        "lzero.entry.analyse_experts",
    ),
    "export": Command(
        "a checkpoint in a form for other programs",
        "lzero export RUN",
        "lzero.entry.export",
    ),
    "sweep": Command(
        "a grid of settings and seeds from a file, side by side, and their report",
        "lzero sweep FILE.yaml [--dry-run]",
        "lzero.command.sweep",
    ),
    "list": Command(
        "domains with their presets and games",
        "lzero list [DOMAIN]",
        "lzero.command.listing",
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run what the first argument names; ``argv`` None takes the program's arguments."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in HELP:
        sys.stdout.write(help_text())
        return
    if words[0] == "--version":
        sys.stdout.write(f"lzero {importlib.import_module('lzero').__version__}\n")
        return
    name, *rest = words
    if name not in COMMANDS:
        sys.exit(f"error: unknown command {name!r}; {nearest(name, list(COMMANDS))} (lzero --help)")
    module = COMMANDS[name].module
    try:
        command = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        sys.exit(f"error: lzero {name} is not part of this installation ({module} is missing)")
    try:
        command.main(rest)
    except KeyboardInterrupt:
        sys.exit(130)  # as shells know Ctrl-C
    except BrokenPipeError:  # whoever reads, as head does, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered


def help_text() -> str:
    """All commands, a line each."""
    width = max(map(len, COMMANDS))
    lines = ["usage: lzero COMMAND …", ""]
    for name, command in COMMANDS.items():
        lines += [f"  {name:{width}}  {command.about}", f"  {'':{width}}  {command.usage}"]
    lines += [
        "",
        "lzero COMMAND --help says more. Start with: lzero train catch-moe",
        "",
    ]
    return "\n".join(lines)
