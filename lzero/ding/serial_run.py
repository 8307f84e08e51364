"""A run of DI-engine's serial pipeline: rounds of collecting, learning and evaluating, and what is logged of them."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from ding.envs import BaseEnvManager
from ding.worker import BaseLearner, InteractionSerialEvaluator
from easydict import EasyDict

from lzero import tags
from lzero.analysis.conflict_log import log_gradient_conflicts
from lzero.analysis.drawing_budget import DrawingBudget, PictureSchedule
from lzero.analysis.expert_log import log_expert_selection
from lzero.config import ExperimentConfig
from lzero.ding.collector import ManagedCollector
from lzero.ding.policy import UniZeroMultitaskPolicy
from lzero.entry.build import Parts
from lzero.entry.life import DRAWING_SHARE
from lzero.envs.domain import load_domain
from lzero.logging import PhaseTimer, RunLogger, TrainingProgress
from lzero.policy.metrics import LearnResult, health_metrics, plasticity_metrics, update_metrics
from lzero.replay.augmentation import with_random_shifts
from lzero.replay.windows import ReplayWindows
from lzero.worker.return_scale import ReturnScale
from lzero.worker.reward_rate import RewardRate
from lzero.worker.score_table import ScoreTable

BEST_CHECKPOINT = "ckpt_best.pth.tar"
"""DI-engine's name of the checkpoint with the best evaluation."""


class SerialRun:
    """Trains a policy; a context manager that closes learner and logs.

    Args:
        cfg: compiled config.
        experiment: ours in it, with DI-engine's folder.
        parts: replay, generators and policy.
        policy: the policy that was made of them.
        collecting: manager of the environments that collect, seeded and not launched.
        evaluating: managers of those that evaluate, one for each game.
        limit: env steps per game after which training ends.
    """

    def __init__(
        self,
        cfg: EasyDict,
        experiment: ExperimentConfig,
        parts: Parts,
        policy: UniZeroMultitaskPolicy,
        collecting: BaseEnvManager,
        evaluating: Sequence[BaseEnvManager],
        limit: int,
    ) -> None:
        self.experiment, self.parts, self.policy, self.limit = experiment, parts, policy, limit
        self.timer = PhaseTimer()
        self.rates = RewardRate(experiment.env.games)
        self.last_returns: dict[str, float] = {}
        self.env_steps, self._best = 0, float("-inf")
        self._learning_since = self._first_update = -1  # env steps and updates then; -1: not yet
        self._resumes = bool(cfg.policy.learn.get("resume_training", False))
        self._closing = ExitStack()
        run_dir = Path(cfg.exp_name)
        self.logger = RunLogger(run_dir, is_main=True, game_env_steps=experiment.env.game_env_steps)
        self._closing.callback(self.logger.close)
        (run_dir / "config.json").write_text(experiment.model_dump_json(indent=2) + "\n")
        self._drawing = {}
        for subject in ("conflict", "experts"):
            self._drawing[subject] = PictureSchedule(
                DrawingBudget(DRAWING_SHARE), wanted=experiment.train.pictures
            )

        # dist_info: gradients are summed by lzero, so there is nothing for its learner to reduce
        self.learner = BaseLearner(
            cfg.policy.learn.learner, policy.learn_mode, dist_info=(0, 1), exp_name=cfg.exp_name
        )
        self._closing.callback(self.learner.close)
        self.evaluators = []
        for task, manager in enumerate(evaluating):
            self.evaluators.append(
                InteractionSerialEvaluator(
                    cfg.policy.eval.evaluator,
                    manager,
                    policy.eval_mode_of(task),
                    self.learner.tb_logger,
                    exp_name=cfg.exp_name,
                    instance_name=f"evaluator_{experiment.env.games[task]}",
                )
            )
        collecting.launch()
        replay, discount = parts.replay, experiment.policy.discount
        self._return_scale = None
        if experiment.policy.scale_returns:
            tasks = replay.task_id_of_ring
            self._return_scale = ReturnScale(tasks, experiment.num_tasks, discount)
        legal = parts.foundation.legal_actions[replay.task_id_of_ring]
        self.collector = ManagedCollector(
            collecting, policy.collect_mode, replay, legal, self._return_scale
        )
        self._progress = TrainingProgress(self._of_all_games(limit), is_main=True)

    def __enter__(self) -> Self:
        self._closing.enter_context(self._progress)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.close()

    def train(self, max_train_iter: int | None) -> None:
        """Rounds until the env steps or the updates are used up, or every game has reached ``env.stop_value``.

        Raises:
            FloatingPointError: if too many updates in a row were no numbers.
        """
        self.learner.call_hook("before_run")
        if self._resumes:
            self.env_steps = max(0, self.learner.collector_envstep)  # -1 where none was loaded
        train, stop = self.experiment.train, False
        while self.env_steps < self.limit and not stop and not self._is_used_up(max_train_iter):
            before = self.env_steps
            self._collect()
            self._learn(max_train_iter, before)
            crossed = self.env_steps // train.eval_interval > before // train.eval_interval
            if crossed and self.env_steps < self.limit:
                stop = self.evaluate()
            self._progress.update(
                self._of_all_games(self.env_steps),
                self.policy.core.train_iter,
                self.timer.pop(),
                self.last_returns,
                self.rates.by_game(),
            )
        self.evaluate()
        self.learner.call_hook("after_run")

    def evaluate(self) -> bool:
        """Evaluate all games, log the table, keep the best checkpoint; whether every game has reached the value to stop at."""
        scores, stop = {}, True
        games, domain = self.experiment.env.games, load_domain(self.experiment.env.domain)
        with self.timer("evaluate"):
            for game, evaluator in zip(games, self.evaluators, strict=True):
                reached, info = evaluator.eval(
                    None,
                    self.learner.train_iter,
                    self.env_steps,
                    n_episode=self.experiment.train.eval_episodes,
                )
                stop = stop and reached
                scores[game] = np.array(info["eval_episode_return"])
        table = ScoreTable.build(
            scores, domain.normalised_score, domain.score_scale, domain.reference_scores
        )
        self._log(table.metrics())
        arrays = {tags.of_game(tags.EVAL_SCORES, game): own for game, own in scores.items()}
        self.logger.arrays(arrays, self.env_steps, self.policy.core.train_iter)
        self._progress.show(table.render(f"evaluation at {self.env_steps:,} env steps per game"))
        for drawing in self._drawing.values():
            drawing.draw_latest()
        if table.score() > self._best:
            self._best = table.score()
            self.learner.save_checkpoint(BEST_CHECKPOINT)
        return stop

    def _is_used_up(self, max_train_iter: int | None) -> bool:
        return max_train_iter is not None and self.learner.train_iter >= max_train_iter

    def _of_all_games(self, env_steps: int) -> int:
        return sum(self.experiment.env.game_env_steps(env_steps).values())

    def _log(self, metrics: dict[str, float]) -> None:
        self.logger.scalars(metrics, self.env_steps, self.policy.core.train_iter)

    @property
    def _is_warming_up(self) -> bool:
        return self.env_steps < self.experiment.train.random_steps

    def _collect(self) -> None:
        """Play a round in all environments and log its rewards."""
        env, train = self.experiment.env, self.experiment.train
        with self.timer("collect"):
            collected = self.collector.collect(train.collect_steps, random=self._is_warming_up)
        self.env_steps += train.collect_steps * env.fewest_envs()
        self.learner.collector_envstep = self.env_steps
        if self._return_scale is not None:
            self._return_scale.take_in(self._return_scale.take())
        tasks = self.parts.replay.task_id_of_ring
        reward, steps, score, length, count = collected.sums(tasks, len(env.games))
        self.rates.add(reward, steps)
        metrics = {}
        for game, rate in self.rates.by_game().items():
            metrics[tags.of_game(tags.COLLECT_REWARD, game)] = rate
        for task in np.flatnonzero(count):
            game = env.games[task]
            self.last_returns[game] = score[task] / count[task]
            metrics[tags.of_game(tags.COLLECT_RETURN, game)] = self.last_returns[game]
            metrics[f"collect_length/{game}"] = length[task] / count[task]
        self._log(metrics)

    def _learn(self, max_train_iter: int | None, before: int) -> None:
        """The updates that the replay ratio asks for by now."""
        if self._is_warming_up or not self.parts.replay.can_sample:
            return
        if self._learning_since < 0:
            self._learning_since, self._first_update = before, self.policy.core.train_iter
        due = self.experiment.policy.replay_ratio * (self.env_steps - self._learning_since)
        end = self._first_update + int(due)
        while self.policy.core.train_iter < end and not self._is_used_up(max_train_iter):
            with self.timer("sample"):
                windows = self._sample()
            with self.timer("learn"):
                self.learner.train(windows, self.env_steps)
            result = self.policy.learn_mode.get_attribute("learn_result")
            self._prioritise(windows, result)
            with self.timer("log"):
                self._log_update(windows, result)
        self._check_finite()

    def _sample(self) -> ReplayWindows:
        """Windows to learn from, changed as the config asks."""
        rng, sizes = self.parts.rngs["replay"], self.policy.learn_mode.get_attribute("batch_size")
        windows = self.parts.replay.sample(sizes, rng)
        windows = with_random_shifts(windows, self.experiment.policy.shift_pixels, rng)
        return windows if self._return_scale is None else self._return_scale.applied_to(windows)

    def _prioritise(self, windows: ReplayWindows, result: LearnResult) -> None:
        if self.experiment.policy.replay.prioritised:
            error = result.value_error.cpu().numpy()
            known = np.isfinite(error)
            self.parts.replay.update_priorities(windows.index[known], error[known])

    def _check_finite(self) -> None:
        in_a_row = int(self.policy.core.skipped_in_a_row.item())
        if in_a_row >= self.experiment.policy.optimiser.max_skipped_updates:
            raise FloatingPointError(
                f"{in_a_row} updates in a row were no numbers: lower policy.lzero.policy.optimiser.learning_rate or use "
                "policy.lzero.precision='fp32'"
            )

    def _log_update(self, windows: ReplayWindows, result: LearnResult) -> None:
        """Log what is due after an update."""
        train, games, core = self.experiment.train, self.experiment.env.games, self.policy.core
        step, train_iter = self.env_steps, core.train_iter
        if train_iter % train.log_interval == 0:
            metrics = update_metrics(core, result) | health_metrics(core, windows)
            self._log(metrics | plasticity_metrics(core, windows, result))
        if result.measured is not None:
            log_gradient_conflicts(
                *(self.logger, result.conflicts(), games, step, train_iter),
                drawing=self._drawing["conflict"],
                limit=self.experiment.policy.conflict_color_limit,
            )
        if train.moe_log_interval and train_iter % train.moe_log_interval == 0:
            statistics = core.expert_statistics
            selection = statistics.reduced()
            log_expert_selection(
                *(self.logger, selection, games, step, train_iter),
                drawing=self._drawing["experts"],
                before=statistics.logged,
                draws_per_update=statistics.draws_per_update,
            )
            statistics.logged = selection
