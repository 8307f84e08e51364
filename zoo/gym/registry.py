"""What gymnasium's registry knows of an id, and what is said where it cannot be used."""

import difflib
import importlib
import sys

import gymnasium
from gymnasium.envs.registration import EnvSpec

from lzero import checks

ALE_ENTRY_POINT = "ale_py.env:AtariEnv"


def registered_ids() -> tuple[str, ...]:
    """Every id that is registered now, the Atari games of ale_py among them."""
    importlib.import_module("ale_py")  # registers them
    return tuple(sorted(gymnasium.registry))


def spec_of(game: str) -> EnvSpec:
    """What is registered under an id; of ``module:id`` the module is imported first, which registers it.

    Raises:
        TypeError: if it is no text.
        ValueError: if the module cannot be imported, or the id is not registered; the nearest ones.
    """
    checks.instance("game", game, str, "an id")
    module, colon, name = game.rpartition(":")
    known = registered_ids()
    if colon:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a stranger's module raises
            raise ValueError(
                f"env.games: the module of game {game!r} cannot be imported ({in_one_line(error)}); write module:id, "
                "and run from a place where the module is importable"
            ) from error
    if name in gymnasium.registry:
        return gymnasium.registry[name]
    lowered = {one.lower(): one for one in (*known, *gymnasium.registry)}
    matches = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.6)
    nearest = ", ".join(repr(lowered[match]) for match in matches)
    hint = f"did you mean {nearest}?" if nearest else "no id is like it."
    raise ValueError(
        f"env.games: game {game!r} is not registered with gymnasium; {hint} Where importing a module "
        f"registers it, write module:id, e.g. 'my_package:{name}'"
    )


def reward_threshold(game: str) -> float | None:
    """The return that counts as solved, by what is registered now; None where nothing says it. Imports nothing."""
    spec = gymnasium.registry.get(game.rpartition(":")[2])
    return None if spec is None else spec.reward_threshold


def is_ale(spec: EnvSpec) -> bool:
    """Whether it is a game of the Arcade Learning Environment, which has a vector env of its own."""
    return spec.entry_point == ALE_ENTRY_POINT


def quiet_ale() -> None:
    """Let the emulator speak of errors alone."""
    from ale_py import ALEInterface, LoggerMode

    ALEInterface.setLoggerMode(LoggerMode.Error)


def in_one_line(error: BaseException) -> str:
    """Kind and words of an error."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def why_not_made(error: BaseException) -> str:
    """An error that making an environment has raised, in one line, with what to install if a package is missing."""
    said = in_one_line(error)
    if "box2d" in said.lower():
        return f"{said}; pip install gymnasium[box2d], or pip install -e .[gym]"
    if isinstance(error, ModuleNotFoundError) and error.name not in sys.modules:
        return f"{said}; install the package that has it"
    return said
