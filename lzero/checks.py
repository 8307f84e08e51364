"""What public functions ask of their arguments, in one form: name, value or shape, what is allowed.

Nothing here looks at the numbers of a tensor, which may lie on an accelerator; :func:`finite` is
for arrays on the host.
"""

import json
import math
import operator
import os
import reprlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def shown(value: object) -> str:
    """A value in one short line: of arrays and tensors the shape."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"{type(value).__name__} of shape {tuple(shape)}"
    return " ".join(reprlib.repr(value).split())


def count(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """``value`` as a whole number.

    Raises:
        TypeError: if it is none.
        ValueError: if it is less than ``least`` or more than ``most``.
    """
    allowed = f"allowed are whole numbers from {least}"
    allowed += " on" if most is None else f" to {most}"
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={shown(value)}: {allowed}") from None
    if number < least or (most is not None and number > most):
        raise ValueError(f"{name}={number}: {allowed}")
    return number


def number(
    name: str, value: Any, least: float = -math.inf, most: float = math.inf, *, above: bool = False
) -> float:
    """``value`` as a finite number from ``least`` (not itself where ``above``) to ``most``.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is another one.
    """
    allowed = "allowed are finite numbers"
    if least > -math.inf:
        allowed += f" above {least:g}" if above else f" from {least:g} on"
    if most < math.inf:
        allowed += f" up to {most:g}"
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise TypeError(f"{name}={shown(value)}: {allowed}")
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}={shown(value)}: {allowed}") from None
    is_low = found <= least if above else found < least
    if is_low or found > most or not math.isfinite(found):
        raise ValueError(f"{name}={value}: {allowed}")
    return found


def path(name: str, value: Any) -> Path:
    """``value`` as a path.

    Raises:
        TypeError: if it is none.
    """
    instance(name, value, (str, os.PathLike), "a path")
    return Path(value)


def sizes(name: str, value: Any) -> tuple[int, ...]:
    """``value`` as lengths of axes, at least one.

    Raises:
        TypeError: if it is no sequence of whole numbers.
        ValueError: if it is empty, or a length is below 1.
    """
    instance(name, value, Sequence, "a tuple of whole numbers from 1 on")
    if not len(value):
        raise ValueError(f"{name}={value}: allowed is a tuple of whole numbers from 1 on")
    for axis, length in enumerate(value):
        try:
            count(f"{name}[{axis}]", length)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}={shown(value)}: {error}") from None
    return tuple(map(int, value))


def instance(name: str, value: object, kind: type | tuple[type, ...], allowed: str) -> None:
    """Refuse a value of another type.

    Raises:
        TypeError: saying what is ``allowed``.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name}={shown(value)}: allowed is {allowed}")


def generator(name: str, value: object) -> None:
    """Refuse what draws no random numbers, such as a seed.

    Raises:
        TypeError: saying how one is made.
    """
    allowed = "a numpy Generator, as np.random.default_rng(seed) makes one"
    instance(name, value, np.random.Generator, allowed)


def shape(name: str, array: Any, *axes: int | None) -> None:
    """Refuse an array or tensor of another shape; None stands for any length.

    Raises:
        TypeError: if it has no shape.
        ValueError: if it has another one.
    """
    found = getattr(array, "shape", None)
    if isinstance(found, tuple) and len(found) == len(axes):
        for length, axis in zip(found, axes, strict=True):
            if axis is not None and length != axis:
                break
        else:
            return
    expected = ", ".join("any" if axis is None else str(axis) for axis in axes)
    expected = f"({expected},)" if len(axes) == 1 else f"({expected})"
    if not isinstance(found, tuple):
        raise TypeError(f"{name}={shown(array)}: allowed is an array of shape {expected}")
    raise ValueError(f"{name} has shape {tuple(found)}: allowed is {expected}")


def flags(name: str, array: Any) -> None:
    """Refuse an array or tensor that is not of booleans.

    Raises:
        TypeError: with its dtype.
    """
    dtype = str(getattr(array, "dtype", "no dtype")).removeprefix("torch.")
    if dtype != "bool":
        raise TypeError(f"{name}={shown(array)} of {dtype}: allowed are booleans")


def integers(name: str, array: Any) -> np.ndarray:
    """Whole numbers on the host as an array; an empty one may have any dtype.

    Raises:
        TypeError: if they are none.
    """
    try:
        found = np.asarray(array)
    except (TypeError, ValueError):
        found = np.empty(1, object)
    if found.size and found.dtype.kind not in "iu":
        raise TypeError(f"{name}={shown(array)} of {found.dtype}: allowed are whole numbers")
    return found


def tasks(name: str, array: Any, num_tasks: int) -> np.ndarray:
    """Tasks ``(N,)`` on the host, each from 0 to ``num_tasks`` − 1.

    Raises:
        TypeError: if they are no whole numbers.
        ValueError: if there are other axes, or one is another.
    """
    found = integers(name, array)
    shape(name, found, None)
    if found.size and (found.min() < 0 or found.max() >= num_tasks):
        span = f"{found.min()} to {found.max()}"
        raise ValueError(f"{name} spans {span}: allowed are 0 to {num_tasks - 1}")
    return found


def finite(name: str, array: np.ndarray) -> None:
    """Refuse NaN and infinities in an array on the host.

    Raises:
        ValueError: with the first of them and its place.
    """
    is_number = np.isfinite(array)
    if not is_number.all():
        place = np.unravel_index(int(is_number.argmin()), is_number.shape)
        where = ", ".join(map(str, place))
        raise ValueError(f"{name}[{where}]={np.asarray(array)[place]}: allowed are finite numbers")


def names(name: str, value: Any, number_of_names: int | None = None) -> None:
    """Refuse what is no sequence of strings; a string alone is none.

    Raises:
        TypeError: if it is none.
        ValueError: if there are not ``number_of_names``.
    """
    is_sequence = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_sequence or not all(isinstance(one, str) for one in value):
        raise TypeError(f"{name}={shown(value)}: allowed is a list of names")
    if number_of_names is not None and len(value) != number_of_names:
        raise ValueError(
            f"{name}={shown(value)} are {len(value)} names: {number_of_names} are needed"
        )


def mapping(name: str, value: object, allowed: str) -> None:
    """Refuse what has no items by key.

    Raises:
        TypeError: saying what is ``allowed``.
    """
    instance(name, value, Mapping, f"a mapping of {allowed}")


def json_values(name: str, value: Any) -> None:
    """Refuse what JSON cannot hold.

    Raises:
        TypeError: with the reason.
    """
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is no JSON: {error}") from None


def announced(name: str, least: int, most: int, *, error: type[Exception] = ValueError) -> int:
    """A whole number in the environment, as torchrun writes some; ``least`` where it is not set.

    Raises:
        error: if it is another.
    """
    written = os.environ.get(name, str(least))
    if not written.isdecimal() or not least <= int(written) <= most:
        allowed = f"allowed are whole numbers from {least} to {most}"
        raise error(f"{name}={written} in the environment: {allowed}")
    return int(written)


TRUSTED = ("lzero.", "zoo.")
"""Packages whose domains are loaded because a run that somebody else has written names them."""


def check_trusted(path: str, allowed: Collection[str] = (), games: Sequence[str] = ()) -> None:
    """Refuse a domain that a run's folder names, unless it is of this project or ``allowed`` by name: importing it would run
    code that whoever wrote the folder has chosen. So would the module of a game that is named ``module:id``.

    Raises:
        ValueError: with what to type to allow it.
    """
    if not path.startswith(TRUSTED) and path not in allowed:
        raise ValueError(
            f"env.domain={path!r} is not part of lzero; if you trust its code, allow it with --allow-domain {path}"
        )
    for game in games:
        module, colon, _ = game.partition(":")
        if colon and not f"{module}.".startswith(TRUSTED) and module not in allowed:
            raise ValueError(
                f"env.games: the module of {game!r} is not part of lzero; if you trust its code, allow it with "
                f"--allow-domain {module}"
            )
