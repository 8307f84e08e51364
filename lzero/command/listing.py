"""``lzero list [DOMAIN]``: domains, their presets and their games."""

import sys
import textwrap
from collections.abc import Iterator, Sequence

from lzero.console.domains import Row, UnknownDomainError, domains, find_domain

WIDTH = 118  # columns
SHOWN_GAMES = 6  # of a domain among others
HELP = """usage: lzero list [DOMAIN]

Domains with what they are, their presets with a line each, and their games. One domain alone shows all of its games.
"""


def main(argv: Sequence[str]) -> None:
    """List all domains, or those that are named."""
    if any(word in ("--help", "-h") for word in argv):
        sys.stdout.write(HELP)
        return
    try:
        rows = [find_domain(name) for name in argv] or list(domains().values())
    except UnknownDomainError as error:
        sys.exit(f"error: {error}")
    for row in rows:
        sys.stdout.write("\n".join([*_lines(row, shows_all=bool(argv)), "", ""]))


def _lines(row: Row, *, shows_all: bool) -> Iterator[str]:
    yield f"{row.name}: {row.about}"
    default = row.default if ":" not in row.default else ""
    presets = row.load_presets()
    width = max(map(len, presets))
    for name, (about, _) in presets.items():
        marked = f"{about} (the default)" if name == default else about
        yield f"    {name:{width}}  {marked}"
    games = row.games()
    shown = games if shows_all else games[:SHOWN_GAMES]
    more = "" if len(shown) == len(games) else f", … (all: lzero list {row.name})"
    text = f"{len(games)} games: {', '.join(shown)}{more}"
    yield textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="        ")
