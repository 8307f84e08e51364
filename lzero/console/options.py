"""Options of the command line before they are read: one that does not exist is explained by the whole schema, a value that
cannot be read by what to type.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel

from lzero.config_hints import said, spelled, value_hint, what_is_meant, whole_number
from lzero.config_sections import experiments
from lzero.console.complaints import choices_of

YES = frozenset({"true", "1", "yes", "on", "y", "t"})
NO = frozenset({"false", "0", "no", "off", "n", "f"})


class OptionError(ValueError):
    """An option does not exist, or cannot have its value."""


@dataclass(frozen=True)
class Option:
    """What sets a field."""

    path: str  # of the field, dotted
    kind: Any  # its annotation


def option(path: str) -> str:
    """How a field is set: ``--policy.batch-size`` of ``policy.batch_size``."""
    return f"--{path.replace('_', '-')}"


def negated(path: str) -> str:
    """How a switch is set to false: ``--train.no-video`` of ``train.video``."""
    section, dot, name = path.rpartition(".")
    return option(f"{section}{dot}no_{name}")


def options_of(config: BaseModel, others: Mapping[str, Any]) -> dict[str, Option]:
    """Options of all fields of ``config``, by how they are written, and of ``others``, name to type."""
    found = {}
    for path, kind in (*leaves(config), *others.items()):
        found[option(path)] = Option(path, kind)
        if kind is bool:
            found[negated(path)] = Option(path, kind)
    return found


def leaves(config: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and annotation of every field that is no section."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.annotation


def check_options(argv: Sequence[str], config: BaseModel, others: Mapping[str, Any]) -> None:
    """Refuse the first option that does not exist, or whose value is of another form.

    Args:
        argv: everything behind the preset.
        config: the preset.
        others: options beside its fields, name to type.

    Raises:
        OptionError: with what to type instead.
    """
    known = options_of(config, others)
    for place, word in enumerate(argv):
        if not word.startswith("--") or len(word) == 2:
            continue
        name, equals, value = word.partition("=")
        found = known.get(name.replace("_", "-"))
        if found is None:
            if name == "--help":
                continue
            raise OptionError(f"unrecognized option {name}; {_which_option(name, config, known)}")
        if not equals:
            if place + 1 == len(argv) or argv[place + 1].startswith("--"):
                continue
            value = argv[place + 1]
        _check_value(name, found, value, is_glued=bool(equals))


def _which_option(name: str, config: BaseModel, known: Mapping[str, Option]) -> str:
    """What somebody meant who wrote an option that there is not."""
    path = name.removeprefix("--").replace("-", "_")
    place, _, key = path.rpartition(".")
    section: BaseModel | None = config
    for part in filter(None, place.split(".")):
        section = getattr(section, part, None) if isinstance(section, BaseModel) else None
    if isinstance(section, BaseModel) and isinstance(getattr(section, key, None), BaseModel):
        inside = [written for written in known if written.startswith(f"{name}.")]
        return f"it is a group of options: {', '.join(inside[:3])} …"
    kind = type(section if isinstance(section, BaseModel) else config)
    schemas = list(experiments()) if kind is not type(config) else [type(config)]
    meant = what_is_meant(key.removeprefix("no_"), kind, schemas, place)
    if meant.own:
        field = f"{place}.{meant.own}" if place else meant.own
        return f"did you mean {_with_switch(field, key, known)}?"
    spelling = {}
    for field in meant.paths:
        spelling[field] = _with_switch(field, key, known)
    sentence = said(key.replace("_", "-"), spelled(meant, spelling))
    if sentence:
        return sentence
    return "PRESET --help lists all options"


def _with_switch(path: str, key: str, known: Mapping[str, Option]) -> str:
    """How a field is set, or a switch set to false where the mistyped ``key`` was meant to do that."""
    off = negated(path)
    return off if key.startswith("no_") and off in known else option(path)


def _check_value(name: str, found: Option, value: str, *, is_glued: bool) -> None:
    """Refuse a value whose right form can be named.

    Raises:
        OptionError: with it.
    """
    kind = found.kind
    if kind is bool:
        lowered = value.lower()
        if lowered in YES | NO or is_glued:
            wanted = lowered not in NO
            if name == negated(found.path):
                wanted = not wanted
            right = option(found.path) if wanted else negated(found.path)
            raise OptionError(f"{name} {value}: a switch has no value; write {right}")
    elif _is_number(kind, int):
        whole = whole_number(value)
        if whole is not None and not _is_whole(value):
            raise OptionError(f"{name} {value}: allowed are whole numbers; write {whole}")
    elif _is_number(kind, float) and not _is_float(value):
        hint = value_hint("float_parsing", value)
        raise OptionError(f"{name} {value}: allowed are numbers; {hint}")
    elif choices_of(kind) and kind not in (str, Any) and _is_choice(kind):
        allowed = choices_of(kind)
        if value not in allowed:
            hint = value_hint("literal_error", value, allowed)
            text = f"{name} {value}: allowed are {', '.join(allowed)}"
            raise OptionError(f"{text}; {hint}" if hint else text)


def _is_number(kind: Any, wanted: type) -> bool:
    """Whether an annotation is a number of this type and nothing else."""
    return kind is wanted or (get_args(kind)[:1] == (wanted,) and hasattr(kind, "__metadata__"))


def _is_choice(kind: Any) -> bool:
    return all(isinstance(choice, str) for choice in get_args(kind))


def _is_whole(value: str) -> bool:
    try:
        int(value)
    except ValueError:
        return False
    return True


def _is_float(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
