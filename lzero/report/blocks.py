"""What a page is made of: tables, pictures, lists and films, before they are HTML."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Block:
    """Something that stands by itself on the page; the template asks for its kind."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Table(Block):
    """A table of texts as they are; the template escapes them."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Iterable[Sequence[str]]
    texts: int = field(default=1, kw_only=True)  # first columns that hold words, not numbers
    caption: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(map(tuple, self.rows)))


@dataclass(frozen=True)
class Folded(Block):
    """A table behind a line that opens it."""

    kind: ClassVar[str] = "folded"
    summary: str
    table: Table


@dataclass(frozen=True)
class Figure(Block):
    """A picture and how to read it."""

    kind: ClassVar[str] = "figure"
    name: str  # its file without the ending
    title: str
    source: str  # a data URI
    width: int  # pixels
    height: int
    text: str = ""


@dataclass(frozen=True)
class Film(Block):
    """A video of an episode."""

    kind: ClassVar[str] = "film"
    title: str
    source: str  # a data URI, or a path from the page


@dataclass(frozen=True)
class Items(Block):
    """A list of sentences."""

    kind: ClassVar[str] = "items"
    texts: Sequence[str]


@dataclass(frozen=True)
class Paragraph(Block):
    """A sentence or two."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class Link:
    """An entry of the contents."""

    target: str  # id of a part of the page
    text: str


@dataclass(frozen=True)
class Part:
    """A section of the page."""

    title: str
    blocks: Sequence[Block]
    links: Sequence[Link] = ()  # to its pictures

    @property
    def target(self) -> str:
        """Its id; pictures have ids too."""
        return f"section-{self.title.lower().replace(' ', '-')}"


@dataclass(frozen=True)
class Page:
    """All of it."""

    title: str
    summary: str
    headline: Sequence[str]  # sentences at the top
    parts: Sequence[Part]
    style: str  # CSS
