"""Callbacks: what a user's code is told while a run trains, and how it ends one before its time.

Every rank calls every callback in the same order: a callback may use collectives, and looks at ``event.is_main`` before it
writes or speaks. What one asks for on any rank is agreed by all ranks where the run next asks whether to stop: between two
steps of the environments, two updates, or two moves of an evaluation.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lzero import checks, tags

if TYPE_CHECKING:
    from lzero.entry.life import RunLife
    from lzero.policy.state import TrainedPolicy
    from lzero.worker.score_table import ScoreTable

logger = logging.getLogger(__name__)

Ending = Literal["finished", "stopped early", "signal", "error"]


@dataclass(frozen=True)
class Stop:
    """What a callback returns to finish the run: with a checkpoint, a last evaluation and its result.

    Attributes:
        reason: why, in words; ``result.json`` keeps it.
    """

    reason: str

    def __post_init__(self) -> None:
        checks.instance("reason", self.reason, str, "a text")


@dataclass(frozen=True)
class Event:
    """Where the run is.

    Attributes:
        env_step: env steps per game; of the game with the fewest environments.
        train_iter: updates.
        max_env_step: env steps per game at which training ends.
        games: in the order of task ids.
        run_dir: folder of the run.
        is_main: whether this is rank 0, the one that writes and speaks.
        policy: what is trained, to look at. Who changes it, leaves it in another mode or draws from torch's own generator
            changes what is learned, and a resumed run will differ.
    """

    env_step: int
    train_iter: int
    max_env_step: int
    games: tuple[str, ...]
    run_dir: Path
    is_main: bool
    policy: "TrainedPolicy"


@dataclass(frozen=True)
class RoundEvent(Event):
    """After a round of collecting and the updates behind it.

    Attributes:
        metrics: numbers that the round has logged, by tag; conflict and expert selection are in ``metrics.jsonl`` alone.
    """

    metrics: Mapping[str, float]


@dataclass(frozen=True)
class UpdateEvent(Event):
    """After an update; PPO's come once a round, after all its updates.

    Attributes:
        result: of the update (``LearnResult``, or ``PPOResult``): tensors on the device. Reading one waits for the device,
            which makes every update slower.
    """

    result: Any


@dataclass(frozen=True)
class EvaluationEvent(Event):
    """After an evaluation.

    Attributes:
        scores: mean score by game.
        episodes: scores of the episodes ``(E,)`` by game.
        metrics: what was logged of it, by tag: returns, normalised scores and their aggregates.
    """

    scores: Mapping[str, float]
    episodes: Mapping[str, np.ndarray]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class CheckpointEvent(Event):
    """After a checkpoint.

    Attributes:
        checkpoint: its folder; older ones are deleted as ``train.keep_checkpoints`` says.
    """

    checkpoint: Path


@dataclass(frozen=True)
class StopEvent(Event):
    """When the run ends, with everything written.

    Attributes:
        ending: ``finished``, ``stopped early`` by a callback, ``signal``, or ``error`` of a callback. Errors of the run
            itself, such as a full disk, call nobody.
    """

    ending: Ending


class Callback:
    """What a user's code is told; override what is of interest. Returning :class:`Stop` finishes the run.

    What a callback raises ends the run as a signal does, with a checkpoint; then it is raised. No callback is called any more
    but ``on_stop``.
    """

    def on_round(self, event: RoundEvent) -> Stop | None:
        """After a round of collecting and learning."""

    def on_update(self, event: UpdateEvent) -> Stop | None:
        """After an update."""

    def on_evaluation(self, event: EvaluationEvent) -> Stop | None:
        """After an evaluation, the last one included."""

    def on_checkpoint(self, event: CheckpointEvent) -> Stop | None:
        """After a checkpoint."""

    def on_stop(self, event: StopEvent) -> None:
        """When the run ends."""


class Callbacks:
    """The callbacks of a run; costs nothing where there are none.

    Args:
        run: the run.
        callbacks: in the order in which they are called.
    """

    def __init__(self, run: "RunLife", callbacks: Sequence[Callback]) -> None:
        self._run, self._callbacks = run, tuple(callbacks)
        self._logged: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def add(self, metrics: Mapping[str, float]) -> None:
        """Take note of numbers for the round's event."""
        if self._callbacks:
            self._logged |= metrics

    def on_round(self) -> None:
        """A round is over."""
        if self._callbacks:
            metrics, self._logged = MappingProxyType(self._logged), {}
            self._call("on_round", RoundEvent(**self._place(), metrics=metrics))

    def on_update(self, result: Any) -> None:
        """An update is done."""
        if self._callbacks:
            self._call("on_update", UpdateEvent(**self._place(), result=result))

    def on_evaluation(self, table: "ScoreTable") -> None:
        """An evaluation is done."""
        if self._callbacks:
            metrics = table.metrics()
            scores = {game: metrics[tags.of_game(tags.EVAL_RETURN, game)] for game in table.scores}
            event = EvaluationEvent(
                **self._place(),
                scores=MappingProxyType(scores),
                episodes=MappingProxyType(dict(table.scores)),
                metrics=MappingProxyType(metrics),
            )
            self._call("on_evaluation", event)

    def on_checkpoint(self, checkpoint: Path) -> None:
        """A checkpoint is written."""
        if self._callbacks:
            self._call("on_checkpoint", CheckpointEvent(**self._place(), checkpoint=checkpoint))

    def on_stop(self, ending: Ending) -> None:
        """The run ends."""
        if self._callbacks:
            self._call("on_stop", StopEvent(**self._place(), ending=ending))

    def _place(self) -> dict[str, Any]:
        run = self._run
        return {
            "env_step": run.env_steps,
            "train_iter": run.policy.train_iter,
            "max_env_step": run.max_env_steps,
            "games": run.config.env.games,
            "run_dir": run.config.run_dir,
            "is_main": run.dist.is_main,
            "policy": run.policy,
        }

    def _call(self, name: str, event: Event) -> None:
        """Call a method of all callbacks; what they ask for or raise is kept until the run can stop."""
        stop = self._run.stop_request
        for callback in self._callbacks:
            if stop.failure is not None and name != "on_stop":
                return
            try:
                answer = getattr(callback, name)(event)
                if answer is not None and not isinstance(answer, Stop):
                    who = f"{type(callback).__name__}.{name}"
                    raise TypeError(
                        f"{who} returned {checks.shown(answer)}: allowed are None and Stop"
                    )
            except Exception as error:  # any: it is raised again when a checkpoint is written
                if stop.failure is None:
                    stop.failure = error
                logger.exception("%s of a callback failed", name)
                continue
            if answer is not None and stop.early is None:
                stop.early = answer.reason
