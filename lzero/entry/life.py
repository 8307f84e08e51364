"""A run's life on one rank, whatever it learns with: its counters, folder, lock and checkpoints, when it evaluates, and how it
closes.

The run of an algorithm (``run.py``, ``ppo_run.py``) adds how it collects and learns, and what a checkpoint keeps of that.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

import numpy as np

from lzero import environment, tags
from lzero.analysis.drawing_budget import DrawingBudget, PictureSchedule
from lzero.checkpoint import CheckpointManager, read_manifest
from lzero.config import Experiment
from lzero.entry import faults
from lzero.entry.about import begin_log, open_log
from lzero.entry.build import Foundation
from lzero.entry.callbacks import Callback, Callbacks
from lzero.entry.checkpointing import Resume, RunError, env_seed, restore, save
from lzero.entry.evaluation import GameEvaluator
from lzero.entry.lock import FolderLock, LockedError
from lzero.entry.stopping import AskedToStopError, StopRequest
from lzero.envs.multitask import MultiTaskVectorEnv
from lzero.logging import PhaseTimer, RateMeter, TrainingProgress
from lzero.policy.state import TrainedPolicy, is_finite
from lzero.profiling import Profilers
from lzero.worker.evaluator import Player
from lzero.worker.reward_rate import RewardRate
from lzero.worker.score_table import ScoreTable

logger = logging.getLogger(__name__)

# Of a run's time that the pictures of one subject may take, those aside that are always drawn; numbers are always logged.
DRAWING_SHARE = 0.02

Stage = Literal["collect", "learn", "evaluate"]


class RunLife(ABC):
    """One experiment under way on this rank; a context manager that closes what it opened.

    Args:
        config: the experiment.
        foundation: process group, and environments.
        seed: of everything random.
        max_env_steps: env steps at which training ends, for the progress display.
        stop: who may ask the run to stop; None for nobody.
        callbacks: of the user.

    Attributes:
        stop_request: who may ask the run to stop.
        callbacks: of the user.
        policy: what is trained.
        rngs: generators by name.
        env_steps: of the game with the fewest environments: what a run is measured in. Others have taken more, see
            ``EnvConfig.game_env_steps``.
        stage: of the round under way: ``collect``, ``learn`` or ``evaluate``.
        before: env steps when the round began.
        measured: env steps of the last measurement by subject, ``conflict`` and ``experts``.
        drawing: when measurements of a subject are drawn.
    """

    config: Experiment
    policy: TrainedPolicy
    rngs: dict[str, np.random.Generator]
    profilers: Profilers
    rank_files: ClassVar[tuple[str, ...]] = ()
    """Files of a rank without which no checkpoint can be used."""
    shared_rngs: ClassVar[tuple[str, ...]] = ()
    """Generators that draw the same on all ranks."""

    def __init__(
        self,
        config: Experiment,
        foundation: Foundation,
        *,
        seed: int,
        max_env_steps: int,
        stop: StopRequest | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.config, self.seed, self.max_env_steps = config, seed, max_env_steps
        self.stop_request = stop or StopRequest()
        self.callbacks = Callbacks(self, callbacks)
        self.dist, self.share = foundation.dist, foundation.share
        self.env, self.legal_actions = foundation.env, foundation.legal_actions
        self.env_steps = 0
        self.before = 0
        # before any step only an evaluation can be under way
        self.stage: Stage = "evaluate" if config.train.eval_at_start else "collect"
        self.measured: dict[str, int] = {}
        self.last_returns: dict[str, float] = {}
        self.checkpoint_size: dict[str, float] = {}  # of the newest one, until it is logged
        self._score: tuple[int, float] | None = None  # env steps and score of the last evaluation
        self.reward_rate = RewardRate(config.env.games)
        self.timer = PhaseTimer()
        self._attempt: environment.AttemptLog | None = None  # rank 0's

    def _open(self, resume: Resume) -> None:
        """Take the folder, and go on from what it holds, or begin; the last thing that a subclass does in ``__init__``.

        Raises:
            RunError: if the folder holds another experiment, one that must not be resumed, or another process writes it.
        """
        self._lock = FolderLock(self.config.run_dir)
        self._take_lock()
        try:
            self._open_folder(resume)
        except BaseException:
            self._lock.release()
            raise

    def _open_folder(self, resume: Resume) -> None:
        """Go on from what the folder holds, or begin; from here on it is written."""
        config, is_main = self.config, self.dist.is_main
        self.checkpoints = CheckpointManager(
            config.run_dir / "checkpoints",
            config.train.keep_checkpoints,
            config.train.keep_checkpoint_hours,
            self.dist,
        )
        resumed = restore(self, resume)
        if not resumed:
            self.begin(env_seed(self.seed, self.env_steps))
        self.logger = open_log(self, resumed=resumed)
        if is_main:  # only now: a run that is refused stays as it was
            (config.run_dir / "config.json").write_text(config.model_dump_json(indent=2) + "\n")
            start = environment.here(
                *(self.seed, self.env_steps, self.policy.train_iter, self.dist.world_size),
                environment.device_name(self.policy.device),
            )
            self._attempt = environment.AttemptLog(config.run_dir, start)
        begin_log(self)

        self.rates = RateMeter(self.of_all_games(self.env_steps), self.policy.train_iter)
        self.drawing = {}
        # a csv file takes none
        wanted = config.train.pictures and bool({*config.train.loggers} - {"csv"})
        for subject in ("conflict", "experts"):
            # a run that was stopped has drawn its last measurement, and may go on at the same env steps
            drawn_step = self.measured.get(subject)
            budget = DrawingBudget(DRAWING_SHARE)
            self.drawing[subject] = PictureSchedule(budget, drawn_step, wanted=wanted)
        self.watch()
        self.evaluator = GameEvaluator(
            config, self.player, self.dist, self.share, self.stop_request, config.run_dir
        )
        self.progress = TrainingProgress(
            self.of_all_games(self.max_env_steps),
            is_main=is_main,
            initial_env_step=self.of_all_games(self.env_steps),
        )

    @abstractmethod
    def begin(self, seed: int) -> None:
        """Begin an episode in every environment."""

    def close(self) -> None:
        """Close the environments that collect."""
        self.env.close()

    @abstractmethod
    def player(self, env: MultiTaskVectorEnv) -> Player:
        """Who plays evaluation environments: the policy, without exploring."""

    @abstractmethod
    def watch(self) -> None:
        """Tell the profilers what learns and what collects."""

    def counters(self) -> dict[str, Any]:
        """What the whole run has counted, for JSON; the same on all ranks."""
        return {
            "env_steps": self.env_steps,
            "before": self.before,
            "stage": self.stage,
            "measured": self.measured,
            "last_returns": self.last_returns,
            "reward_rate": self.reward_rate.state(),
        }

    def load_counters(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`counters`."""
        self.env_steps, self.before, self.stage = (
            state["env_steps"],
            state["before"],
            state["stage"],
        )
        self.measured = dict(state.get("measured", {}))  # earlier checkpoints do not say it
        self.last_returns = state["last_returns"]
        self.reward_rate.load(state["reward_rate"])

    def rank_state(self) -> dict[str, Any]:
        """What this rank has counted by itself, for JSON."""
        return {}

    @abstractmethod
    def playing(self) -> dict[str, np.ndarray] | None:
        """Where environments and their episodes are; None if an environment cannot say it."""

    @abstractmethod
    def play_on(self, playing: dict[str, np.ndarray]) -> None:
        """Be where :meth:`playing` was taken.

        Raises:
            NotTheSameError: if the environments do not come back to where they were; they must begin anew then.
        """

    @abstractmethod
    def write_rank_files(self, directory: Path, previous: Path | None) -> None:
        """Write what is too large for JSON into this rank's folder of a checkpoint."""

    @abstractmethod
    def load_rank(
        self,
        checkpoint: Path,
        state: Mapping[str, Any],
        own: Mapping[str, Any] | None,
        lost: Collection[str],
    ) -> None:
        """Go on from :meth:`rank_state` and :meth:`write_rank_files`.

        Args:
            checkpoint: which one.
            state: of the whole run, with the number of its processes, ``world_size``.
            own: what this rank has written; None if the number was another.
            lost: damaged frame files of the ranks to read, with their folders.
        """

    def ranks_to_read(self, world_size: int) -> list[int]:
        """Ranks of a checkpoint of so many processes whose files this one needs."""
        return [self.dist.rank] if world_size == self.dist.world_size else []

    def __enter__(self) -> Self:
        self.progress.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with ExitStack() as closing:  # the last first, and all of them even if one fails
            for close in (
                self._lock.release,
                self.dist.shutdown,
                self.evaluator.close,
                self.close,
                self.logger.close,
            ):
                closing.callback(close)
            if self._attempt is not None:
                closing.callback(self._attempt.end, self.env_steps, self.policy.train_iter)
            closing.callback(self.profilers.__exit__, kind, error, traceback)
            closing.callback(self.progress.__exit__, kind, error, traceback)

    def _take_lock(self) -> None:
        """Be the only run that writes the folder; collective.

        Raises:
            RunError: on all ranks, if another process writes it.
        """
        problem = None
        if self.dist.is_main:
            try:
                self._lock.acquire()
            except LockedError as error:
                problem = str(error)
        if self.dist.any(problem is not None):
            raise RunError(problem or f"{self.config.run_dir} is being written by another run")

    def of_all_games(self, env_steps: int) -> int:
        """Env steps of all games together, when the one with the fewest environments has taken ``env_steps``."""
        return sum(self.config.env.game_env_steps(env_steps).values())

    def crossed(self, interval: int) -> bool:
        """Whether this round has passed a multiple of ``interval`` env steps."""
        return self.env_steps // interval > self.before // interval

    def stop_if_asked(self) -> None:
        """Leave the round if any rank was asked to; collective.

        Raises:
            AskedToStopError: if so.
        """
        if self.dist.any(self.stop_request.asked):
            raise AskedToStopError

    def stop_if_broken(self, result: faults.Update, save_input: faults.SaveInput) -> None:
        """Say if the last update of a round was skipped, and stop where too many were.

        Args:
            result: of that update.
            save_input: writes what it was learned from.

        Raises:
            FloatingPointError: if ``optimiser.max_skipped_updates`` in a row were; the same on all ranks. What the last one
                was learned from is saved beside the checkpoints.
        """
        in_a_row = int(self.policy.skipped_in_a_row.item())
        if in_a_row == 0:
            return
        what = faults.described(self.policy, result, self.config.env.games)
        if in_a_row < self.max_skipped_updates:
            logger.warning(
                "%d update(s) skipped, the last one at %d: %s",
                in_a_row,
                self.policy.train_iter,
                what,
            )
            return
        name = f"update_{self.policy.train_iter:06d}_rank_{self.dist.rank}.safetensors"
        file = save_input(self.config.run_dir / "faults" / name)
        raise FloatingPointError(
            f"{in_a_row} updates in a row were no numbers, the last one at {self.policy.train_iter}: {what}; what it was "
            f"learned from is in {file}. Lower policy.optimiser.learning_rate or use precision=fp32, then resume from the "
            "last checkpoint"
        )

    @property
    @abstractmethod
    def max_skipped_updates(self) -> int:
        """Updates in a row that may be no numbers."""

    def end_round(self, limit: int) -> None:
        """Evaluate and save where it is time, or ``limit`` env steps are reached.

        Raises:
            AskedToStopError: in an evaluation.
        """
        train = self.config.train
        is_time = self.crossed(train.eval_interval) or self.env_steps == 0
        evaluated = is_time and self.env_steps < limit
        if evaluated:
            with self.timer("evaluate"):
                self.evaluate()
        self.stage = "collect"
        if evaluated or self.crossed(train.checkpoint_interval) or self.env_steps >= limit:
            with self.timer("checkpoint"):
                self.save()

    def evaluate(self, *, video: bool = False) -> ScoreTable:
        """Evaluate all games, log the table and draw the last measurements; with ``video`` also film one episode of each."""
        directory = self.config.run_dir / "videos" if video else None
        table = self.evaluator.run(
            [self.seed, self.env_steps], self.config.train.eval_episodes, directory
        )
        self.log(table.metrics())
        self._score = (self.env_steps, table.score())
        scores = {
            tags.of_game(tags.EVAL_SCORES, game): scores for game, scores in table.scores.items()
        }
        self.logger.arrays(scores, self.env_steps, self.policy.train_iter)
        if self.dist.is_main:
            self.progress.show(table.render(f"evaluation at {self.env_steps:,} env steps per game"))
        self.draw_latest()
        if directory is not None and self.dist.is_main:
            for file in sorted(directory.glob("*.mp4")):
                self.logger.video(f"video/{file.stem}", file, self.env_steps)
        self.callbacks.on_evaluation(table)
        return table

    def draw_latest(self) -> None:
        """Draw each subject's last measurement, unless it has been; rank 0 alone has any."""
        with self.timer("log"):
            for drawing in self.drawing.values():
                drawing.draw_latest()

    def log(self, metrics: Mapping[str, float]) -> None:
        """Write numbers at the run's env steps and updates."""
        self.callbacks.add(metrics)
        if metrics:
            self.logger.scalars(metrics, self.env_steps, self.policy.train_iter)

    def score_at(self, env_steps: int) -> float | None:
        """Score of the evaluation at ``env_steps``; None if there was none."""
        if self._score is None or self._score[0] != env_steps:
            return None
        return self._score[1]

    def save(self) -> Path:
        """Write a checkpoint, unless the last update was no number: what it would hold may be of no use.

        Raises:
            FloatingPointError: if parameters are no numbers; the checkpoints before stay.
        """
        newest = self.checkpoints.latest()
        if newest is not None and self.policy.skipped_in_a_row.item() > 0:
            logger.warning(
                "no checkpoint is written while updates are no numbers; the newest is %s", newest
            )
            return newest
        if not is_finite(self.policy):
            raise FloatingPointError(
                f"parameters are no numbers after {self.policy.train_iter} updates and are not saved; the newest checkpoint is "
                f"{newest or 'none'}: lower policy.optimiser.learning_rate or use precision=fp32"
            )
        self.logger.flush()
        path = save(self)
        files = read_manifest(path).files.values()
        self.checkpoint_size = {"checkpoint/mebibytes": sum(file.bytes for file in files) / 2**20}
        self.callbacks.on_checkpoint(path)
        return path
