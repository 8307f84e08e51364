"""Bad input is refused at the public function, in one line that names the argument: nothing comes
from inside, nothing goes on in silence, nothing hangs."""

import importlib
import re
import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

import lzero
from tests.bad_calls.bad import Bad

ROOT = Path(lzero.__file__).parents[1]
ROOMS = [
    importlib.import_module(f"tests.bad_calls.{path.stem}")
    for path in sorted((Path(__file__).parent / "bad_calls").glob("of_*.py"))
]
CASES: dict[str, Bad] = {name: case for room in ROOMS for name, case in room.CASES.items()}


def made(bad: Bad, folder: Path) -> object:
    """Make the call."""
    return bad.call(folder) if bad.call.__code__.co_argcount else bad.call()


def is_clear(bad: Bad, error: BaseException) -> bool:
    """Whether an error was raised by this project and says what the case asks for."""
    if not isinstance(error, bad.error) or not re.search(bad.says, str(error)):
        return False
    # Pydantic's errors have a paragraph for each field; a missing file is found where it is opened.
    if isinstance(error, ValidationError | FileNotFoundError | FileExistsError):
        return True
    place = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    is_ours = any(place.is_relative_to(ROOT / package) for package in ("lzero", "zoo"))
    return is_ours and "\n" not in str(error)


def test_no_name_is_taken_twice():
    assert len(CASES) == sum(len(room.CASES) for room in ROOMS)
    assert len(CASES) >= 300


@pytest.mark.timeout(120)  # the first call of a tree compiles it
@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_with_its_name(name, tmp_path):
    bad = CASES[name]
    with pytest.raises(BaseException) as caught:  # noqa: B017, PT011 (looked at below)
        made(bad, tmp_path)
    assert is_clear(bad, caught.value), repr(caught.value)
