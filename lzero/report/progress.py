"""How far a long command is: a bar in a terminal, log lines elsewhere, nothing for a moment."""

import logging
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import TypeVar

import rich
from rich.progress import track

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
INTERVAL = 5.0  # seconds between two log lines


def shown(items: Sequence[Item], what: str) -> Iterator[Item]:
    """The items one after the other, while a bar or log lines tell how many of ``what`` are done."""
    console = rich.get_console()
    if console.is_terminal:
        yield from track(items, what, console=console, transient=True)
        return
    last = monotonic()
    for number, item in enumerate(items):
        if monotonic() - last >= INTERVAL:
            logger.info("%s: %d of %d", what, number, len(items))
            last = monotonic()
        yield item
