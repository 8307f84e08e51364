"""What a path means that somebody typed for a run: its folder, anything inside it, a checkpoint, or a folder of runs.

::

    runs/x                     config.json, metrics.jsonl
    runs/x/checkpoints/step_…  its checkpoints

Links are followed. Nothing here reads a file, and nothing imports torch.
"""

import difflib
import re
from pathlib import Path

from lzero import checks

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
CHECKPOINT_NAME = re.compile(r"step_(\d{6,18})")
MODEL_FILE = "model.safetensors"
DEEPEST_FILE = 4  # folders between a run and what lies in it: checkpoints/step_…/rank_0/FILE
DEEPEST_RUN = (
    3  # folders below the named one in which runs are looked for, as in runs/{suite}/{run}
)
SHOWN_RUNS = 5  # runs that an error names


class RunPathError(ValueError):
    """A path leads to no run, or to several where one is needed."""


class SeveralRunsError(RunPathError):
    """A path leads to several runs where one is needed."""


def list_checkpoints(directory: Path) -> list[Path]:
    """Checkpoints in a directory, by number of updates; none where it does not exist."""
    directory = checks.path("directory", directory)
    if not directory.is_dir():
        return []
    found = [
        path
        for path in directory.iterdir()
        if CHECKPOINT_NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]
    return sorted(found, key=train_iter_of)


def train_iter_of(path: Path) -> int:
    """Updates in the name of a checkpoint.

    Raises:
        TypeError: if ``path`` is no Path.
        ValueError: if it has another name.
    """
    checks.instance("path", path, Path, "a Path")
    match = CHECKPOINT_NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"path={path}: a checkpoint's name is step_ and six digits or more")
    return int(match[1])


def metrics_file(folder: Path) -> Path:
    """The curves of a run: as it writes them, or compressed by gzip afterwards where only that is there."""
    plain, compressed = folder / METRICS_FILE, folder / f"{METRICS_FILE}.gz"
    return compressed if compressed.is_file() and not plain.exists() else plain


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's own: it has a config and curves, or checkpoints."""
    has_curves = (folder / CONFIG_FILE).is_file() and metrics_file(folder).is_file()
    return has_curves or bool(list_checkpoints(folder / CHECKPOINTS))


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint."""
    return (folder / MODEL_FILE).is_file()


def find_runs(path: Path | str) -> list[Path]:
    """Runs that ``path`` means: the one it is, or lies in; otherwise all below it, in the order of their names.

    Raises:
        TypeError: if it is no path.
        RunPathError: if it does not exist, or there are none.
    """
    path = _existing(path)
    own = _run_around(path)
    if own is not None:
        return [own]
    runs = _runs_below(path) if path.is_dir() else []
    if not runs:
        raise RunPathError(
            f"{path} is no run and holds none: a run's folder, runs/{{exp_name}}, has {CONFIG_FILE} with {METRICS_FILE}, or "
            f"{CHECKPOINTS}/step_…"
        )
    return runs


def find_run(path: Path | str) -> Path:
    """The one run that ``path`` means.

    Raises:
        TypeError: if it is no path.
        RunPathError: if it does not exist, or there is none or several.
    """
    runs = find_runs(path)
    if len(runs) > 1:
        names = ", ".join(map(str, runs[:SHOWN_RUNS]))
        more = f" and {len(runs) - SHOWN_RUNS} more" if len(runs) > SHOWN_RUNS else ""
        raise SeveralRunsError(f"{path} holds {len(runs)} runs; name one of them: {names}{more}")
    return runs[0]


def find_checkpoint(path: Path | str) -> Path:
    """The checkpoint that ``path`` means: itself, the one that it lies in, or the newest of the run or folder.

    Raises:
        TypeError: if it is no path.
        RunPathError: if it does not exist, or there is none, or several runs; nothing is ever taken in its stead.
    """
    path = _existing(path)
    if path.is_dir():
        for directory in (path / CHECKPOINTS, path):
            checkpoints = list_checkpoints(directory)
            if checkpoints:
                return checkpoints[-1]
    for folder in _around(path):
        if is_checkpoint(folder):
            return folder
    try:
        run = find_run(path)
    except SeveralRunsError:
        raise
    except RunPathError:
        run = path
    checkpoints = list_checkpoints(run / CHECKPOINTS)
    if not checkpoints:
        raise RunPathError(
            f"{path} holds no checkpoint; expected {run}/{CHECKPOINTS}/step_… or a step_… folder itself"
        )
    return checkpoints[-1]


def _existing(path: Path | str) -> Path:
    """Refuses a place that is not there, with the name beside it that is most like it."""
    path = checks.path("path", path)
    try:
        if path.exists():
            return path
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    except (OSError, ValueError) as error:  # a name that no file can have, or a closed folder
        raise RunPathError(f"{checks.shown(str(path))} cannot be read: {error}") from error
    close = difflib.get_close_matches(path.name, beside, n=1)
    hint = "name a run's folder, e.g. runs/atari_cpu_moe, or one of its checkpoints"
    if close:
        hint = f"did you mean {path.parent / close[0]}?"
    typed = str(path) if str(path).isprintable() else repr(str(path))
    raise RunPathError(f"{typed} does not exist; {hint}")


def _around(path: Path) -> list[Path]:
    """A path and the folders that it may lie in, from within; the path as it was typed, the others without links."""
    return [path, *path.resolve().parents[:DEEPEST_FILE]]


def _run_around(path: Path) -> Path | None:
    for folder in _around(path):
        if folder.is_dir() and is_run(folder):
            return folder
    return None


def _runs_below(folder: Path, depth: int = DEEPEST_RUN) -> list[Path]:
    found = []
    for below in sorted(folder.iterdir()):
        if below.name.startswith(".") or not below.is_dir():
            continue
        if is_run(below):
            found.append(below)
        elif depth > 1:
            found += _runs_below(below, depth - 1)
    return found
