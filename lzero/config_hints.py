"""What somebody meant who wrote a key or a value that the schema does not have.

A wrong key may be one of its own section, of any other, or of LightZero (:mod:`lzero.lightzero_keys`); the schema itself is
given, nothing here knows an experiment.
"""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from pydantic import BaseModel

from lzero.lightzero_keys import LIGHTZERO_KEYS

OWN_ALIKE = (
    0.8  # likeness from which a field of the key's own section is meant, whatever others are called
)
ALIKE = 0.75  # likeness of two names of which one was mistyped: two letters of eight
OWN_REMOTE = 0.6  # likeness at which a field of its own section is better than a list of them all
SUFFIXES = {"k": 10**3, "m": 10**6, "b": 10**9}  # of numbers as people say them


def nearest(name: str, choices: Sequence[str]) -> str:
    """The valid choice that looks most like ``name``, as a sentence for an error message."""
    lowered = {choice.lower(): choice for choice in choices}
    match = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.4)
    return (
        f"did you mean {lowered[match[0]]!r}?" if match else f"valid: {', '.join(sorted(choices))}"
    )


@dataclass(frozen=True)
class Meant:
    """What a wrong key may mean; nothing of it is set where it resembles nothing."""

    own: str = ""
    """A field of its own section."""
    paths: tuple[str, ...] = ()
    """Fields anywhere, as dotted paths."""
    is_exact: bool = False
    """Whether the fields at ``paths`` have just that name, or LightZero's key is known."""
    note: str = ""
    """Of a known key what else is to be said; without a path, why there is no such field."""


def what_is_meant(
    key: str, section: type[BaseModel], experiments: Sequence[type[BaseModel]], place: str = ""
) -> Meant:
    """What ``key``, which is no field of ``section``, may mean.

    Args:
        key: as it was written.
        section: where it was written.
        experiments: schemas in which fields are looked for; those that have the section, if there are any.
        place: dotted path of the section as it was written; of several fields of one name those in a place like it are meant.
    """
    name = key.strip().lower().replace("-", "_")
    holders = [schema for schema in experiments if _holds(schema, section)] or list(experiments)
    by_name: dict[str, list[str]] = {}
    for schema in holders:
        for path in schema_paths(schema, section):
            known = by_name.setdefault(path.rpartition(".")[2], [])
            if path not in known:
                known.append(path)
    own, likeness = _most_alike(name, section.model_fields)
    if name in LIGHTZERO_KEYS:
        path, note = LIGHTZERO_KEYS[name]
        if own and path.rpartition(".")[2] == own and likeness >= OWN_REMOTE:
            return Meant(own=own)
        if path and path not in by_name.get(path.rpartition(".")[2], ()):
            return _elsewhere(path, note, holders)
        return Meant(paths=(path,) if path else (), is_exact=True, note=note)
    if likeness >= OWN_ALIKE:
        return Meant(own=own)
    other, of_other = _most_alike(name, by_name)
    if of_other >= ALIKE and of_other > likeness:
        paths = tuple(by_name[other])
        inside = tuple(path for path in paths if place and f".{path}".endswith(f".{place}.{other}"))
        return Meant(paths=inside or paths, is_exact=other == name)
    return Meant(own=own) if likeness >= OWN_REMOTE else Meant()


def _elsewhere(path: str, note: str, holders: Sequence[type[BaseModel]]) -> Meant:
    """Of a key whose field these experiments lack."""
    if path.startswith("env."):  # a domain's own setting, where that domain is not loaded
        return Meant(paths=(path,), is_exact=True, note=note)
    names = ", ".join(holder.__name__ for holder in holders)
    return Meant(is_exact=True, note=f"it is {path} of other experiments, {names} has none")


def key_hint(
    key: str, section: type[BaseModel], experiments: Sequence[type[BaseModel]], place: str = ""
) -> str:
    """A sentence for an error message about a wrong key; arguments as of :func:`what_is_meant`."""
    meant = what_is_meant(key, section, experiments, place)
    if meant.own:
        return f"did you mean {meant.own!r}?"
    sentence = said(key, meant)
    return sentence or f"valid: {', '.join(sorted(section.model_fields))}"


def said(key: str, meant: Meant) -> str:
    """What is meant elsewhere as a sentence, with the paths as ``meant`` has them; empty for nothing."""
    places = " or ".join(meant.paths)
    if not meant.is_exact:
        return f"did you mean {places}?" if places else ""
    if not places:
        return f"there is no {key} here: {meant.note}"
    return f"{key} is {places} here" + (f" ({meant.note})" if meant.note else "")


def spelled(meant: Meant, spell: Mapping[str, str]) -> Meant:
    """``meant`` with its paths in another spelling, such as a command line's, where there is one."""
    return replace(meant, paths=tuple(spell.get(path, path) for path in meant.paths))


def schema_paths(
    schema: type[BaseModel], section: type[BaseModel] | None = None, prefix: str = ""
) -> Iterator[str]:
    """Dotted paths of all fields and sections; of a class that ``section`` extends, the fields of ``section``.

    An open section, such as the environments', has the fields of every class that is loaded and extends it.
    """
    for name, field in schema.model_fields.items():
        yield f"{prefix}{name}"
        inner = field.annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            continue
        if section is not None and section is not inner and issubclass(section, inner):
            yield from schema_paths(section, section, f"{prefix}{name}.")
            continue
        yield from schema_paths(inner, section, f"{prefix}{name}.")
        if inner.model_config.get("extra") == "allow":
            for extended in inner.__subclasses__():
                yield from schema_paths(extended, extended, f"{prefix}{name}.")


def _holds(schema: type[BaseModel], section: type[BaseModel]) -> bool:
    """Whether a schema has a section of this class, at any depth, or is it."""
    if issubclass(section, schema):
        return True
    for field in schema.model_fields.values():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel) and _holds(inner, section):
                return True
    return False


def _most_alike(name: str, choices: Mapping[str, Any]) -> tuple[str, float]:
    """The choice most like ``name`` and how alike it is, from 0 to 1; the same name first, then the first of equals."""
    best, likeness = "", 0.0
    for choice in choices:
        found = difflib.SequenceMatcher(None, choice, name).ratio()
        if found > likeness:
            best, likeness = choice, found
    return best, likeness


def value_hint(kind: str, value: Any, allowed: Sequence[str] = ()) -> str:
    """What to write instead of a value that the schema refuses; empty where pydantic's own words say it.

    Args:
        kind: type of pydantic's error, such as ``int_parsing``.
        value: as it was written.
        allowed: of a choice, what may be chosen.
    """
    if kind in ("int_parsing", "int_from_float", "int_type", "int_parsing_size"):
        whole = whole_number(value)
        return "write a whole number, such as 100" if whole is None else f"write {whole}"
    if kind in ("float_parsing", "float_type"):
        number = _number(value)
        return "write a number, such as 0.001" if number is None else f"write {number:g}"
    if kind in ("bool_parsing", "bool_type"):
        return "write true or false"
    if kind == "literal_error" and isinstance(value, str):
        close = difflib.get_close_matches(value.lower(), allowed, n=1)
        return f"did you mean {close[0]!r}?" if close else ""
    if kind in ("tuple_type", "list_type") and isinstance(value, str | int | float):
        return f"write a list: [{value}]"
    return ""


def whole_number(value: Any) -> int | None:
    """The whole number that a text or float such as ``1e6``, ``1,000`` or ``400k`` or 2.6 comes to; None where it is none."""
    number = _number(value)
    return None if number is None else round(number)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value).strip().lower().replace(",", "").replace("_", "")
    factor = SUFFIXES.get(text[-1:], 1)
    try:
        number = float(text if factor == 1 else text[:-1]) * factor
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
