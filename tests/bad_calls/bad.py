"""A call with bad input, and what its error must say."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Bad:
    """A call of a public function that must be refused there.

    Attributes:
        call: makes the call; takes an empty folder if it takes anything.
        says: pattern that the one-line message matches: the argument with its value or shape.
        error: what is raised.
    """

    call: Callable[..., object]
    says: str
    error: type[BaseException] | tuple[type[BaseException], ...] = ValueError
