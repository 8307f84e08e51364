"""What runs have logged as one long table: a row for each number, made for pandas and seaborn."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lzero import tags
from lzero.logging import read_metrics
from lzero.report.paired import SEED
from lzero.report.run_data import RunData, group_runs, read_runs
from lzero.run_paths import metrics_file

if TYPE_CHECKING:
    from pandas import DataFrame

LONG_COLUMNS = (
    *("run", "experiment", "seed", "tag", "game", "episode"),
    *("env_step", "train_iter", "wall_time", "value"),
)
TYPES = {
    **dict.fromkeys(("run", "experiment", "tag", "game"), "category"),  # the same few texts
    **dict.fromkeys(("seed", "episode"), "Int64"),  # whole numbers that may be unknown
    **dict.fromkeys(("env_step", "train_iter"), "int64"),
    **dict.fromkeys(("wall_time", "value"), "float64"),
}


def load_runs(paths: Iterable[Path | str], *, ignore: Sequence[str] = ()) -> "DataFrame":
    """Every number that runs have logged, in the order of logging, one a row.

    ====================  =================================================================
    ``run``               folder as typed
    ``experiment``        label of the runs that are seeds of one experiment
    ``seed``              of the run; the number at the end of its folder where it is older
                          than ``environment.jsonl``; missing where that has none either
    ``tag``               as in :mod:`lzero.tags`, without the game
    ``game``              the number's game; empty where it is of none alone
    ``episode``           of :data:`lzero.tags.EVAL_SCORES`, a row for each episode of an
                          evaluation, its number from 0; else missing
    ``env_step``          env steps: of a game's number its own, else of the game with the
                          fewest environments
    ``train_iter``        updates
    ``wall_time``         seconds since 1970
    ``value``             NaN where it was no number
    ====================  =================================================================

    Matrices are not in it; :func:`~lzero.report.run_data.read_runs` has them.

    Args:
        paths: folders of runs.
        ignore: config fields in which seeds of one experiment may differ, as of ``--ignore``.

    Raises:
        TypeError: if ``paths`` is a single one.
        RunDataError: if a folder holds no run or a broken one, one is named twice, or ``ignore``
            names no field.
    """
    import pandas

    runs = read_runs(paths)
    label = {run.name: group.label for group in group_runs(runs, ignore) for run in group.runs}
    columns: dict[str, list[Any]] = {name: [] for name in LONG_COLUMNS}
    for run in runs:
        seed = seed_of(run)
        for point in _points(run):
            row = (run.name, label[run.name], seed, *point)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    return pandas.DataFrame(columns).astype(TYPES)


def seed_of(run: RunData) -> int | None:
    """With which a run was started; else the number at the end of its folder, else None."""
    if run.attempts:
        return run.attempts[-1].start.seed
    found = SEED.search(run.path.name)
    return int(found[0]) if found else None


def _points(run: RunData) -> Iterator[tuple[Any, ...]]:
    """The columns from ``tag`` on."""
    for line in read_metrics(metrics_file(run.path)):
        clock, own = line["env_step"], line.get("game_env_steps", {})
        when = (line.get("train_iter", 0), line.get("wall_time"))
        for tag, value in line["metrics"].items():
            name, game = _split(tag, run.games)
            yield name, game, None, own.get(game, clock), *when, value
        for tag, array in line.get("arrays", {}).items():
            name, game = _split(tag, run.games)
            if name == tags.EVAL_SCORES:
                for episode, value in enumerate(array):
                    yield name, game, episode, own.get(game, clock), *when, value


def _split(tag: str, games: Iterable[str]) -> tuple[str, str]:
    """A tag without its game, and the game; of none alone the tag itself."""
    game = tags.game_of(tag, games)
    return (tag.removesuffix(f"/{game}"), game) if game else (tag, "")
