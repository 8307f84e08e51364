"""``lzero sweep FILE.yaml``: a grid of settings and seeds, trained side by side, and the report of all of it.

The same command again continues: finished runs are left alone, interrupted ones go on.
"""

import itertools
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lzero.command.jobs import Ended, Job, JobsStoppedError, run_jobs
from lzero.command.sweep_file import Sweep, SweepRun, described, read_sweep
from lzero.config import Experiment
from lzero.config_fields import NOT_LEARNING, differences, is_one_of
from lzero.config_ppo import PPOExperiment
from lzero.console.config_files import ConfigFileError, written
from lzero.logging import setup_logging
from lzero.run_paths import CHECKPOINTS, CONFIG_FILE, is_run, list_checkpoints

logger = logging.getLogger(__name__)

EXPERIMENT_FILE = "experiment.json"  # in a run's folder: what the sweep asks for
RESULT_FILE = "result.json"  # a run writes it at its end
LOG_FILE = "log.txt"
REPORT = "report"


@dataclass(frozen=True)
class SweepCommand:
    """Train every combination of a grid with every seed, side by side, and report on all runs.

    docs/command_line.md has the file's format. The same command again continues.
    """

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.yaml")]
    """The sweep."""
    dry_run: bool = False
    """Say what would be run, and run nothing."""
    jobs: int | None = None
    """Runs side by side, each on one thread; the file's number if not given."""
    allow_domain: tuple[str, ...] = ()
    """Domains outside of lzero and zoo, as ``module:ATTRIBUTE``, whose code may run because the file names them."""


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; ``argv`` None takes the program's arguments."""
    command = tyro.cli(SweepCommand, prog="lzero sweep", args=argv)
    if command.jobs is not None and command.jobs < 1:
        sys.exit(f"error: --jobs {command.jobs}: allowed are whole numbers from 1 on")
    try:
        sweep = read_sweep(command.file, command.allow_domain)
    except ConfigFileError as error:
        sys.exit(f"error: {error}")
    if command.dry_run:
        sys.stdout.write(plan(sweep, command.allow_domain))
        return
    try:
        failed = train(sweep, command.jobs or sweep.jobs, command.allow_domain)
    except OSError as error:
        sys.exit(f"error: {sweep.output_dir} cannot be written: {error}")
    runs = [str(run.config.run_dir) for run in sweep.runs if is_run(run.config.run_dir)]
    if runs:
        from lzero.report.command import main as report  # figures, which training does without

        domains = [word for path in command.allow_domain for word in ("--allow-domain", path)]
        report([*runs, "--out", str(sweep.output_dir / REPORT), *domains])
    if failed:
        sys.exit(f"error: {failed} of {len(sweep.runs)} runs failed; the same command tries again")


def plan(sweep: Sweep, allow_domains: Sequence[str] = ()) -> str:
    """What would be run, in lines: name, what becomes of it, its cell; and the command of each."""
    width = max(len(run.name) for run in sweep.runs)
    lines = [f"{len(sweep.runs)} runs in {sweep.output_dir}, {sweep.jobs} side by side:", ""]
    for run in sweep.runs:
        lines.append(f"{run.name:{width}}  {state(run):11}  {' '.join(described(run))}".rstrip())
    lines += ["", "each of them as", ""]
    lines += [shlex.join(training_command(sweep.runs[0], allow_domains)), ""]
    return "\n".join(lines)


def train(sweep: Sweep, side_by_side: int, allow_domains: Sequence[str] = ()) -> int:
    """Train all runs that are not finished; how many failed. Ends the program when somebody asks it to stop."""
    setup_logging(is_main=True)
    jobs = []
    for run in sweep.runs:
        if state(run) == "finished":
            continue
        folder = run.config.run_dir
        folder.mkdir(parents=True, exist_ok=True)
        text = written(run.config, run.seed, "json")
        (folder / EXPERIMENT_FILE).write_text(text, encoding="utf-8")
        command = training_command(run, allow_domains)
        jobs.append(Job(run.name, tuple(command), folder / LOG_FILE))
    finished = len(sweep.runs) - len(jobs)
    if finished:
        logger.info("%d of %d runs are finished", finished, len(sweep.runs))

    done = itertools.count(1)

    def say(ended: Ended) -> None:
        of_all = f"{next(done)} of {len(jobs)}"
        if ended.status == 0:
            took = ended.wall_seconds / 60
            logger.info("run %s is finished (%s, %.1f minutes)", ended.job.name, of_all, took)
        else:
            line = "run %s ended with status %d: %s; see %s"
            logger.error(line, ended.job.name, ended.status, ended.last_line, ended.job.log)

    try:
        ended = run_jobs(jobs, side_by_side, on_end=say)
    except JobsStoppedError as stopped:
        logger.info("stopped; the same command continues")
        sys.exit(stopped.status)
    return sum(one.status != 0 for one in ended)


def training_command(run: SweepRun, allow_domains: Sequence[str] = ()) -> list[str]:
    """The program that trains a run."""
    file = run.config.run_dir / EXPERIMENT_FILE
    command = [sys.executable, "-m", "lzero", "train", "--config", str(file)]
    return [*command, *(word for path in allow_domains for word in ("--allow-domain", path))]


def state(run: SweepRun) -> str:
    """``new``, ``interrupted`` or ``finished``.

    A run of other settings is not finished: whoever trains it is told which they are.
    """
    folder = run.config.run_dir
    try:
        result = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        before = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        is_done = result["env_steps"] >= _length(run.config)
    except (OSError, ValueError, LookupError, TypeError):
        is_done = False
    if is_done:
        changed = differences(before, run.config.model_dump(mode="json"))
        if all(is_one_of(name, NOT_LEARNING) for name in changed):
            return "finished"
    has_begun = list_checkpoints(folder / CHECKPOINTS)
    return "interrupted" if has_begun else "new"


def _length(config: Experiment) -> int:
    """Env steps after which a run is finished."""
    return config.clock_steps if isinstance(config, PPOExperiment) else config.train.max_env_steps
