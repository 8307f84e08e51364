"""What the schema refuses, in one line: field, value, reason, and what to write instead."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from lzero import checks
from lzero.config_hints import value_hint


def in_one_line(error: ValidationError, configs: Sequence[BaseModel] = ()) -> str:
    """Field, value and reason of everything that is wrong.

    Args:
        error: of any section.
        configs: experiments that have the section that was made alone, which does not know where it belongs.
    """
    section: tuple[str, ...] = ()
    for config in configs:
        section = dict(_sections(config)).get(error.title, section)
    complaints = []
    for problem in error.errors():
        field = ".".join(map(str, (*section, *problem["loc"])))
        if problem["type"] == "value_error":  # raised by the schema itself, which names the value
            said = str(problem["ctx"]["error"])
            says_where = problem["loc"] == () or said.startswith(field)
            complaints.append(said if says_where else f"{field}: {said}")
            continue
        complaint = f"{field}={_shown(problem['input'])}: {problem['msg']}"
        hint = value_hint(problem["type"], problem["input"], _choices(problem.get("ctx", {})))
        complaints.append(f"{complaint}; {hint}" if hint else complaint)
    return "; ".join(complaints)


def choices_of(annotation: Any) -> tuple[str, ...]:
    """Texts that a ``Literal`` allows, wherever it is in an annotation."""
    found: list[str] = []
    for inner in get_args(annotation):
        found += [inner] if isinstance(inner, str) else choices_of(inner)
    return tuple(found)


def _shown(value: object) -> str:
    """A value as it was written; of whole sections the beginning."""
    return checks.shown(value) if isinstance(value, dict | list | tuple) else repr(value)


def _choices(context: Mapping[str, Any]) -> list[str]:
    """Of pydantic's words about a choice, ``'auto', 'cpu' or 'cuda'``, what may be chosen."""
    words = str(context.get("expected", "")).replace(" or ", ", ").split(", ")
    return [word.strip("'") for word in words if word]


def _sections(
    config: BaseModel, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names of a config's classes and where they are in it."""
    yield type(config).__name__, path
    for name, value in config:
        if isinstance(value, BaseModel):
            yield from _sections(value, (*path, name))
