"""What runs took, where they ran and with what: throughput, hardware, versions, commands."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from math import isnan, nan

import numpy as np

from lzero.environment import ENVIRONMENT_FILE, Attempt
from lzero.report.blocks import Table
from lzero.report.run_data import RunData
from lzero.report.study import Study, rows_once_per_study
from lzero.report.tables import Row, number
from lzero.report.turns import is_continual

RESOURCE_COLUMNS = (
    *("group", "run", "env_steps", "updates", "log_seconds", "env_steps_per_second"),
    *("updates_per_second", "wall_seconds", "cpu_seconds", "attempts"),
)
ENVIRONMENT_COLUMNS = (
    *("group", "run", "started", "env_step", "train_iter", "seed", "processes", "device"),
    *("processor", "cores", "memory_gib", "system", "python", "versions", "commit", "is_changed"),
    *("command", "wall_seconds", "cpu_seconds"),
)
PAUSE = 600.0  # seconds without a line, from which on a run is taken to have stood still
NOT_RECORDED = f"not recorded: the run is older than {ENVIRONMENT_FILE}"
SHOWN_PACKAGES = ("lzero", "torch")  # on the page; all are in environment.csv
SHORT_COMMIT = 10  # letters of a commit that tell it from all others


@rows_once_per_study
def resource_rows(study: Study) -> Iterator[Row]:
    """What every run took, under ``RESOURCE_COLUMNS``; NaN where it was not recorded."""
    for group in study.groups:
        for run in group.runs:
            first, last, seconds = _logged(run)
            steps = env_steps_of_all_games(run)
            share = 1 - first[0] / last[0] if last[0] else nan  # of them, between the two lines
            wall, cpu = nan, nan
            if run.attempts and all(attempt.end for attempt in run.attempts):
                wall = sum(one.end.wall_seconds for one in run.attempts if one.end)
                cpu = sum(one.end.cpu_seconds for one in run.attempts if one.end)
            yield {
                **{"group": group.label, "run": run.name, "env_steps": steps},
                **{"updates": int(last[1]), "log_seconds": seconds},
                "env_steps_per_second": steps * share / seconds if seconds else nan,
                "updates_per_second": (last[1] - first[1]) / seconds if seconds else nan,
                **{"wall_seconds": wall, "cpu_seconds": cpu, "attempts": len(run.attempts)},
            }


@rows_once_per_study
def environment_rows(study: Study) -> Iterator[Row]:
    """Every attempt that came forward, under ``ENVIRONMENT_COLUMNS``; of a run without any, its
    names and nothing else.
    """
    for group in study.groups:
        for run in group.runs:
            names = {"group": group.label, "run": run.name}
            if not run.attempts:
                yield dict.fromkeys(ENVIRONMENT_COLUMNS, "") | names
            for attempt in filter(_came_forward, run.attempts):
                start, end = attempt.start, attempt.end
                started = datetime.fromtimestamp(start.wall_time, UTC)
                versions = [f"{name}={what}" for name, what in start.versions.items()]
                yield {
                    **names,
                    **vars(start),
                    **{"started": f"{started:%Y-%m-%d %H:%M:%S}", "versions": " ".join(versions)},
                    "wall_seconds": end.wall_seconds if end else nan,
                    "cpu_seconds": end.cpu_seconds if end else nan,
                }


def env_steps_of_all_games(run: RunData) -> float:
    """Env steps that a run has taken in all its games together."""
    if run.game_env_steps:
        return float(sum(run.game_env_steps.values()))
    return run.env_steps * (1 if is_continual(run.fields) else len(run.games))


def resource_tables(study: Study) -> list[Table]:
    """What runs took, and where and with what they ran."""
    lines = []
    for row in resource_rows(study):
        rates = (number(row["env_steps_per_second"]), number(row["updates_per_second"]))
        times = (duration(row[name]) for name in ("log_seconds", "wall_seconds", "cpu_seconds"))
        counts = (f"{row['env_steps']:,.0f}", f"{row['updates']:,}")
        lines.append((row["group"], row["run"], *counts, *rates, *times))
    head = (
        *("experiment", "run", "env steps, all games", "updates", "env steps/s", "updates/s"),
        *("time of the log", "wall time", "CPU time"),
    )
    caption = (
        "Rates are over the time from the first line of the log to the last, evaluations included, "
        f"without pauses of more than {PAUSE / 60:.0f} minutes. Wall and CPU time (all cores, of "
        "the first process and what it started) are those of all attempts, where each has written "
        "down its end. Compare times only of runs that had a machine to themselves."
    )
    found = [Table(head, lines, texts=2, caption=caption)]
    where = []
    for row in environment_rows(study):
        if not row["started"]:
            where.append((row["run"], NOT_RECORDED, *[""] * 6))
            continue
        commit = row["commit"][:SHORT_COMMIT] or "no repository"
        code = f"{commit}, changed" if row["is_changed"] else commit
        machine = (
            f"{row['processor']}, {row['cores']} core(s), {row['memory_gib']:.0f} GiB, "
            f"{row['device']}, {row['processes']} process(es)"
        )
        known = dict(pair.split("=", 1) for pair in row["versions"].split(" ") if pair)
        programs = f"Python {row['python']}"
        for name in SHOWN_PACKAGES:
            programs += f", {name} {known[name]}" if name in known else ""
        start = f"{row['env_step']:,}"
        cells = (machine, row["started"], start, str(row["seed"]), programs, code, row["command"])
        where.append((row["run"], *cells))
    columns = (
        *("run", "machine", "started (UTC)", "from env step", "seed", "versions", "code"),
        "command",
    )
    caption = (
        f"Every start of every run, as its {ENVIRONMENT_FILE} has it; a run may go on elsewhere. "
        "Changed: files of the repository were not those of the commit. All versions are in "
        "environment.csv."
    )
    found.append(Table(columns, where, texts=len(columns), caption=caption))
    return found


def duration(seconds: float) -> str:
    """``h:mm:ss`` for a reader; a dash for what is not known."""
    return "–" if isnan(seconds) else str(timedelta(seconds=round(seconds)))


def _came_forward(attempt: Attempt) -> bool:
    """Not where a finished run was started once more."""
    start, end = attempt.start, attempt.end
    return end is None or (end.env_step, end.train_iter) != (start.env_step, start.train_iter)


def _logged(run: RunData) -> tuple[Sequence[float], Sequence[float], float]:
    """Env steps and updates of the first and the last line, and seconds between them without
    pauses.
    """
    if not len(run.times):
        return (0.0, 0.0), (0.0, 0.0), 0.0
    gaps = np.diff(run.times[:, 2])
    seconds = float(gaps[(gaps > 0) & (gaps <= PAUSE)].sum())
    return run.times[0, :2].tolist(), run.times[-1, :2].tolist(), seconds
