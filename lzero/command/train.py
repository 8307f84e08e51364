"""``lzero train DOMAIN [PRESET] …``: the zoo's training scripts under one name."""

import sys
from collections.abc import Sequence

from lzero.console.command_line import parse
from lzero.console.domains import UnknownDomainError, domains, find_domain

USAGE = """usage: lzero train DOMAIN [PRESET] [--FIELD VALUE …]
       lzero train --config FILE|RUN [--FIELD VALUE …]

"""
MORE = """
lzero list                          presets and games of every domain
lzero train DOMAIN --help           presets of a domain
lzero train DOMAIN PRESET --help    every field, with its unit
lzero train … --print-config        prints the experiment as a file for --config, and trains nothing
python -m torch.distributed.run --nproc_per_node=2 -m lzero train DOMAIN …    several processes
"""


def main(argv: Sequence[str]) -> None:
    """Train what the arguments ask for."""
    words = list(argv)
    if not words or words[0] in ("--help", "-h"):
        sys.stdout.write(help_text())
        sys.exit(0 if words else 2)
    if words[0].startswith("-"):
        if not any(word.partition("=")[0] == "--config" for word in words):
            names = ", ".join(domains())
            sys.exit(f"error: name a domain first ({names}), or --config FILE")
        command = parse({}, "", words)
    else:
        try:
            row = find_domain(words[0])
        except UnknownDomainError as error:
            sys.exit(f"error: {error}; lzero list shows them")
        command = parse(row.load_presets(), row.default_preset(), words[1:])
    from lzero.entry.cli import train  # torch, which help does without

    train(command)


def help_text() -> str:
    """Usage and all domains, a line each."""
    rows = domains()
    width = max(map(len, rows))
    lines = [f"  {name:{width}}  {row.about}" for name, row in rows.items()]
    return f"{USAGE}domains:\n" + "\n".join(lines) + f"\n{MORE}"
