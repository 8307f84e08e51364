"""Domains by the names that the command knows: the table is the zoo's, and is imported when it is asked for."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lzero.config import nearest
from lzero.console.command_line import Default, Presets
from lzero.envs.domain import load_domain

TABLE = "zoo.domains"  # module with the rows; the library itself knows no domain


class UnknownDomainError(ValueError):
    """A name is that of no domain."""


@dataclass(frozen=True)
class Row:
    """A domain that can be trained by name, with one algorithm and one kind of network."""

    name: str
    """What is typed."""
    about: str
    """One line: games, algorithm, blocks."""
    presets: str
    """``module:function`` that makes its presets, name to (a line of help, config)."""
    arguments: Mapping[str, Any]
    """Keyword arguments of that function."""
    default: str
    """Preset that is taken where none is named, or ``module:function`` that finds it out."""
    domain: str
    """Import path ``module:ATTRIBUTE`` of the domain, which knows the games."""

    def load_presets(self) -> Presets:
        """Its presets."""
        return _attribute(self.presets)(**self.arguments)

    def default_preset(self) -> Default:
        """Name of its default preset, or the function that finds it out, which may import torch."""
        return _attribute(self.default) if ":" in self.default else self.default

    def games(self) -> tuple[str, ...]:
        """Names of its games."""
        return load_domain(self.domain).games


Domains = tuple[Row, ...]


def domains() -> dict[str, Row]:
    """All rows of the table by name."""
    rows: Domains = importlib.import_module(TABLE).ROWS
    return {row.name: row for row in rows}


def find_domain(name: str) -> Row:
    """The row of a name.

    Raises:
        UnknownDomainError: if there is none, with the nearest.
    """
    rows = domains()
    if name not in rows:
        raise UnknownDomainError(f"unknown domain {name!r}; {nearest(name, list(rows))}")
    return rows[name]


def _attribute(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)
