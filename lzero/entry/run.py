"""A run's life on one rank: what it works with, its counters, when it learns, evaluates, saves, and how it closes."""

import logging
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np

from lzero import tags
from lzero.analysis.drawing_budget import DrawingBudget
from lzero.checkpoint import CheckpointManager, read_manifest
from lzero.config import ExperimentConfig
from lzero.entry import faults
from lzero.entry.build import Parts, build
from lzero.entry.checkpointing import Resume, RunError, env_seed, restore, save
from lzero.entry.evaluation import GameEvaluator
from lzero.entry.lock import FolderLock, LockedError
from lzero.entry.metrics import log
from lzero.entry.profiled import watch
from lzero.entry.stopping import AskedToStopError, StopRequest
from lzero.logging import PhaseTimer, RateMeter, RunLogger, TrainingProgress
from lzero.policy.metrics import LearnResult
from lzero.policy.state import is_finite
from lzero.replay.augmentation import with_random_shifts
from lzero.replay.buffer import ReplayWindows
from lzero.worker.actor import Actor
from lzero.worker.collector import NUM_SUMS, Collector
from lzero.worker.health import HealthMonitor
from lzero.worker.return_scale import ReturnScale
from lzero.worker.reward_rate import RewardRate
from lzero.worker.score_table import ScoreTable

logger = logging.getLogger(__name__)

# Of a run's time that the pictures of one subject may take; numbers are always logged.
DRAWING_SHARE = 0.02

Stage = Literal["collect", "learn", "evaluate"]


class Run:
    """One experiment under way on this rank; a context manager that closes what it opened.

    Args:
        config: the experiment.
        seed: of everything random.
        max_env_steps: env steps at which training ends, for the progress display.
        resume: ``auto``, ``never``, or the checkpoint to continue from.
        stop: who may ask the run to stop; None for nobody.

    Attributes:
        env_steps: of the game with the fewest environments: what a run is measured in. Others have taken more, see
            ``EnvConfig.game_env_steps``.
        stage: of the round under way: ``collect``, ``learn`` or ``evaluate``.
        before: env steps when the round began.

    Raises:
        RunError: if the folder holds another experiment, one that must not be resumed, or the machine lacks something.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        *,
        seed: int,
        max_env_steps: int,
        resume: Resume,
        stop: StopRequest | None = None,
    ) -> None:
        self.config, self.seed, self.max_env_steps = config, seed, max_env_steps
        self._stop = stop or StopRequest()
        parts = build(config, seed)
        self.dist, self.env, self.legal_actions = parts.dist, parts.env, parts.legal_actions
        self.policy, self.replay, self.rngs = parts.policy, parts.replay, parts.rngs
        self.share = parts.share
        self.batch_sizes = dict(zip(parts.share.task_ids, parts.share.batch_sizes, strict=True))
        self.env_steps = 0
        self.before = 0
        self.stage: Stage = "collect"
        self.collected_steps = 0  # of each environment in this round
        self.collected = np.zeros((NUM_SUMS, config.num_tasks))
        self.learning_since: int | None = None
        self.last_returns: dict[str, float] = {}
        self.warned: set[str] = set()  # games whose returns do not fit
        self.checkpoint_size: dict[str, float] = {}  # of the newest one, until it is logged
        self._score: tuple[int, float] | None = None  # env steps and score of the last evaluation
        self.reward_rate = RewardRate(config.env.games)
        self.return_scale = None
        discount = config.policy.discount
        if config.policy.scale_returns:
            self.return_scale = ReturnScale(self.env.task_id, config.num_tasks, discount)

        self.timer = PhaseTimer()
        self.health = HealthMonitor(self.env.task_id, config.num_tasks, discount)
        self.collector = Collector(
            self.env,
            Actor(self.policy, self.env.task_id, self.env.legal_actions, self.rngs["act"]),
            self.replay,
            self.timer,
            self.health,
            self.return_scale,
        )

        self._lock = FolderLock(config.run_dir)
        self._take_lock()
        try:
            self._open_folder(parts, resume=resume)
        except BaseException:
            self._lock.release()
            raise

    def _open_folder(self, parts: Parts, *, resume: Resume) -> None:
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
            self.collector.begin(env_seed(self.seed, self.env_steps))
        self.logger = RunLogger(
            config.run_dir, is_main=is_main, game_env_steps=config.env.game_env_steps
        )
        # what an attempt logged after its last checkpoint, or before its first, did not happen
        last = (self.policy.train_iter, self.env_steps) if resumed else (-1, -1)
        self.logger.truncate_after(*last)
        if is_main:  # only now: a run that is refused stays as it was
            (config.run_dir / "config.json").write_text(config.model_dump_json(indent=2) + "\n")

        self.rates = RateMeter(self.of_all_games(self.env_steps), self.policy.train_iter)
        self.drawing = {name: DrawingBudget(DRAWING_SHARE) for name in ("conflict", "experts")}
        self.profilers = parts.profilers
        watch(self.profilers, self.policy, self.collector)
        self.evaluator = GameEvaluator(config, self.policy, self.dist, parts.share, self._stop)
        self.progress = TrainingProgress(
            self.of_all_games(self.max_env_steps),
            is_main=is_main,
            initial_env_step=self.of_all_games(self.env_steps),
        )

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
                self.env.close,
                self.logger.close,
            ):
                closing.callback(close)
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

    @property
    def is_warming_up(self) -> bool:
        """Whether environments still act at random."""
        return self.env_steps < self.config.train.random_steps

    def crossed(self, interval: int) -> bool:
        """Whether this round has passed a multiple of ``interval`` env steps."""
        return self.env_steps // interval > self.before // interval

    def stop_if_asked(self) -> None:
        """Leave the round if any rank was asked to; collective.

        Raises:
            AskedToStopError: if so.
        """
        if self.dist.any(self._stop.asked):
            raise AskedToStopError

    def collect(self) -> np.ndarray:
        """Play what is left of the round in all environments; collective.

        Returns:
            Sums of the round over the environments of this rank, as :meth:`Collected.sums` has them.
        """
        config = self.config
        while self.collected_steps < config.train.collect_steps:
            self.stop_if_asked()
            step = self.collector.collect(1, random=self.is_warming_up)
            self.collected += step.sums(self.env.task_id, config.num_tasks)
            self.collected_steps += 1
        self.before = self.env_steps
        self.env_steps += config.train.collect_steps * config.env.fewest_envs()
        if self.return_scale is not None:
            sums = self.dist.all_gather_array(self.return_scale.take())
            self.return_scale.take_in(np.sum(sums, axis=0))
        collected, self.collected = self.collected, np.zeros_like(self.collected)
        self.collected_steps = 0
        return collected

    def sample(self) -> ReplayWindows:
        """Windows to learn from, changed as the config asks."""
        windows = self.replay.sample(self.batch_sizes, self.rngs["replay"])
        windows = with_random_shifts(windows, self.config.policy.shift_pixels, self.rngs["replay"])
        return windows if self.return_scale is None else self.return_scale.applied_to(windows)

    def updates_due(self) -> int:
        """Updates that the replay ratio asks for by now: a function of env steps alone."""
        if self.dist.any(self.is_warming_up or not self.replay.can_sample):
            return 0
        if self.learning_since is None:
            self.learning_since = self.before
        due = self.config.policy.replay_ratio * (self.env_steps - self.learning_since)
        return max(0, int(due) - self.policy.train_iter)

    def prioritise(self, windows: ReplayWindows, result: LearnResult) -> None:
        """Let windows be drawn again by how wrong their values were, where that is the way of sampling."""
        if not self.config.policy.replay.prioritised:
            return
        error = result.value_error.cpu().numpy()
        known = np.isfinite(error)
        self.replay.update_priorities(windows.index[known], error[known])

    def check_finite(self, result: LearnResult, windows: ReplayWindows) -> None:
        """Say if the last update of a round was skipped, and stop where too many were.

        Raises:
            FloatingPointError: if ``optimiser.max_skipped_updates`` in a row were; the same on all ranks. The windows are
                saved beside the checkpoints.
        """
        in_a_row = int(self.policy.skipped_in_a_row.item())
        if in_a_row == 0:
            return
        what = faults.described(self.policy, result, self.config.env.games)
        if in_a_row < self.config.policy.optimiser.max_skipped_updates:
            logger.warning(
                "%d update(s) skipped, the last one at %d: %s",
                in_a_row,
                self.policy.train_iter,
                what,
            )
            return
        name = f"update_{self.policy.train_iter:06d}_rank_{self.dist.rank}.safetensors"
        file = faults.save_windows(windows, self.config.run_dir / "faults" / name)
        raise FloatingPointError(
            f"{in_a_row} updates in a row were no numbers, the last one at {self.policy.train_iter}: {what}; its windows are "
            f"in {file}. Lower policy.optimiser.learning_rate or use precision=fp32, then resume from the last checkpoint"
        )

    def evaluate(self, *, video: bool = False) -> ScoreTable:
        """Evaluate all games and log the table; with ``video`` also film one episode of each."""
        directory = self.config.run_dir / "videos" if video else None
        table = self.evaluator.run(
            [self.seed, self.env_steps], self.config.train.eval_episodes, directory
        )
        log(self, table.metrics())
        self._score = (self.env_steps, table.score())
        scores = {
            tags.of_game(tags.EVAL_SCORES, game): scores for game, scores in table.scores.items()
        }
        self.logger.arrays(scores, self.env_steps, self.policy.train_iter)
        if self.dist.is_main:
            self.progress.show(table.render(f"evaluation at {self.env_steps:,} env steps per game"))
        return table

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
        return path
