"""How a run is asked for, and what it leaves behind when it is finished."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from lzero import checks
from lzero.entry.callbacks import Callback
from lzero.entry.checkpointing import Resume, RunError
from lzero.entry.life import RunLife
from lzero.entry.stopping import AskedToStopError, StopRequest

logger = logging.getLogger(__name__)

RESULT_FILE = "result.json"
SEEDS = 2**63  # torch's generators take more, but each rank adds its number
R = TypeVar("R", bound=RunLife)


def check_call(
    seed: int, max_env_step: int | None, resume: Resume, callbacks: Sequence[Callback] = ()
) -> None:
    """Refuse what no training can be called with.

    Raises:
        TypeError: if one is of another type.
        ValueError: if a number is out of range.
    """
    checks.count("seed", seed, 0, SEEDS - 1)
    if max_env_step is not None:
        checks.count("max_env_step", max_env_step)
    checks.instance("resume", resume, (bool, str, Path), "'auto', 'never' or a checkpoint's path")
    checks.instance("callbacks", callbacks, (list, tuple), "a list of lzero.entry.Callback")
    for number, callback in enumerate(callbacks):
        what = "an object of a subclass of lzero.entry.Callback"
        checks.instance(f"callbacks[{number}]", callback, Callback, what)


@dataclass(frozen=True)
class TrainResult:
    """Where a finished run is and how well it plays.

    Attributes:
        run_dir: folder of the run.
        env_steps: env steps per game; of the one with the fewest environments.
        train_iter: updates.
        scores: mean score of the last evaluation by game.
        aggregates: mean, median and IQM of the normalised scores; empty where the domain has no common scale.
        stopped_early: why a callback has ended the run before its time; None where none has.
    """

    run_dir: Path
    env_steps: int
    train_iter: int
    scores: dict[str, float]
    aggregates: dict[str, float]
    stopped_early: str | None = None


def write_result(result: TrainResult) -> None:
    """Keep the result in the run's folder: the run is finished."""
    content = asdict(result)
    del content["run_dir"]  # the folder may be moved
    file = result.run_dir / RESULT_FILE
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(file)


def read_result(run: RunLife) -> TrainResult | None:
    """The result of a run that has nothing left to do; collective.

    None if there is something to train, to evaluate or to film, or the result cannot be read.
    """
    result = None
    try:
        content = json.loads((run.config.run_dir / RESULT_FILE).read_text(encoding="utf-8"))
        result = TrainResult(run_dir=run.config.run_dir, **content)
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    here = (run.env_steps, run.policy.train_iter)
    is_known = result is not None and (result.env_steps, result.train_iter) == here
    is_whole = run.env_steps >= run.max_env_steps and run.stage == "collect"
    # without callbacks a run that one of them has ended goes on
    is_early = bool(run.callbacks) and result is not None and result.stopped_early is not None
    if run.dist.any(not (is_known and (is_whole or is_early))):
        return None
    if is_whole:
        logger.info("the run is finished: nothing is left to train or to evaluate")
    else:
        what = "without callbacks the same call goes on, with them after deleting"
        logger.info("the run was stopped early; %s %s", what, run.config.run_dir / RESULT_FILE)
    return result


def train_to_end(
    run: R, stop: StopRequest, limit: int, one_round: Callable[[R, int], None], unit: str
) -> TrainResult:
    """Rounds until the env steps are used up, then the last evaluation; collective.

    Args:
        run: which has just been opened.
        stop: who may ask it to stop.
        limit: env steps.
        one_round: goes on in the round under way.
        unit: what the env steps are counted by, for the message.

    Raises:
        StoppedError: if it was asked to stop, with a checkpoint behind it.
        Exception: what a callback has raised, with a checkpoint behind it.
    """
    stop.training_begins()
    finished = read_result(run)
    if finished is not None:
        return finished
    try:
        while run.env_steps < limit or run.stage != "collect":
            one_round(run, limit)
    except AskedToStopError:
        run.save()
        early = _early(run, stop)
        if early is None:
            run.draw_latest()  # last: whoever ends the process now loses pictures alone
            run.callbacks.on_stop("signal")
            where = f"stopped at {run.env_steps:,} of {limit:,} env steps {unit}"
            raise stop.stopped(where) from None
        logger.info("stopped early at %s of %s env steps: %s", run.env_steps, limit, early)
        return _finish(run, stop, early)
    _stop_if_failed(run, stop)
    return _finish(run, stop)


def _early(run: RunLife, stop: StopRequest) -> str | None:
    """Why callbacks want the run to be finished; None if a signal wants it to stop; collective.

    Raises:
        Exception: what a callback has raised, on the ranks where it did; RunError on the others.
    """
    _stop_if_failed(run, stop)
    if run.dist.any(stop.number is not None):
        return None
    return stop.early or "a callback of another rank asked for it"


def _stop_if_failed(run: RunLife, stop: StopRequest) -> None:
    """End the run if a callback has failed; collective, with a checkpoint behind it."""
    if run.dist.any(stop.failure is not None):
        run.draw_latest()
        run.callbacks.on_stop("error")
        _raise_failure(stop)


def _raise_failure(stop: StopRequest) -> NoReturn:
    """What a callback has raised, or that one has on another rank."""
    if stop.failure is not None:
        raise stop.failure
    raise RunError("a callback has failed on another rank, which has said how")


def _finish(run: RunLife, stop: StopRequest, early: str | None = None) -> TrainResult:
    """The last evaluation of a run, and its result; collective.

    Raises:
        StoppedError: if it was asked to stop meanwhile.
        Exception: what a callback has raised; the result is written.
    """
    stop.training_is_over()
    try:
        table = run.evaluate(video=run.config.train.video)
    except AskedToStopError:
        run.draw_latest()
        run.callbacks.on_stop("signal")
        raise stop.stopped("stopped in the last evaluation") from None
    result = TrainResult(
        run_dir=run.config.run_dir,
        env_steps=run.env_steps,
        train_iter=run.policy.train_iter,
        scores={game: float(values.mean()) for game, values in table.scores.items()},
        aggregates=table.aggregates(),
        stopped_early=early,
    )
    run.logger.finish(run.env_steps)
    if run.dist.is_main:
        write_result(result)
    run.callbacks.on_stop("finished" if early is None else "stopped early")
    if run.dist.any(stop.failure is not None):
        _raise_failure(stop)
    return result
