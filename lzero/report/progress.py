"""How far a long command is: a bar in a terminal, log lines elsewhere, nothing for a moment."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import rich
from rich.progress import track

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
INTERVAL = 5.0  # seconds between two log lines


def shown(
    items: Sequence[Item], what: str, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Item]:
    """The items, one after the other, while a bar or log lines tell how many of the work ``what``
    are done; ``clock`` gives seconds.
    """
    console = rich.get_console()
    if console.is_terminal:
        yield from track(items, what, console=console, transient=True)
        return
    last = clock()
    for number, item in enumerate(items):
        if clock() - last >= INTERVAL:
            logger.info("%s: %d of %d", what, number, len(items))
            last = clock()
        yield item
