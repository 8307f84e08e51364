"""How a run is asked for, and what it leaves behind when it is finished."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from lzero import checks
from lzero.entry.checkpointing import Resume
from lzero.entry.life import RunLife
from lzero.entry.stopping import AskedToStopError, StopRequest

logger = logging.getLogger(__name__)

RESULT_FILE = "result.json"
SEEDS = 2**63  # torch's generators take more, but each rank adds its number
R = TypeVar("R", bound=RunLife)


def check_call(seed: int, max_env_step: int | None, resume: Resume) -> None:
    """Refuse what no training can be called with.

    Raises:
        TypeError: if one is of another type.
        ValueError: if a number is out of range.
    """
    checks.count("seed", seed, 0, SEEDS - 1)
    if max_env_step is not None:
        checks.count("max_env_step", max_env_step)
    checks.instance("resume", resume, (bool, str, Path), "'auto', 'never' or a checkpoint's path")


@dataclass(frozen=True)
class TrainResult:
    """Where a finished run is and how well it plays.

    Attributes:
        run_dir: folder of the run.
        env_steps: env steps per game; of the one with the fewest environments.
        train_iter: updates.
        scores: mean score of the last evaluation by game.
        aggregates: mean, median and IQM of the normalised scores; empty where the domain has no common scale.
    """

    run_dir: Path
    env_steps: int
    train_iter: int
    scores: dict[str, float]
    aggregates: dict[str, float]


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
    if run.env_steps < run.max_env_steps or run.stage != "collect" or run.dist.any(not is_known):
        return None
    logger.info("the run is finished: nothing is left to train or to evaluate")
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
        run.draw_latest()  # last: whoever ends the process now loses pictures alone
        raise stop.stopped(f"stopped at {run.env_steps:,} of {limit:,} env steps {unit}") from None
    return _finish(run, stop)


def _finish(run: RunLife, stop: StopRequest) -> TrainResult:
    """The last evaluation of a run, and its result; collective.

    Raises:
        StoppedError: if it was asked to stop meanwhile.
    """
    try:
        table = run.evaluate(video=run.config.train.video)
    except AskedToStopError:
        run.draw_latest()
        raise stop.stopped("stopped in the last evaluation") from None
    result = TrainResult(
        run_dir=run.config.run_dir,
        env_steps=run.env_steps,
        train_iter=run.policy.train_iter,
        scores={game: float(values.mean()) for game, values in table.scores.items()},
        aggregates=table.aggregates(),
    )
    if run.dist.is_main:
        write_result(result)
    return result
