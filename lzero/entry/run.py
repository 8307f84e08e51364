"""Everything a training loop works with: built from a config, restored from a checkpoint, logged, closed."""

import json
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from lzero.analysis.aggregation import AggregationError
from lzero.analysis.conflict_log import log_gradient_conflicts
from lzero.analysis.drawing_budget import DrawingBudget
from lzero.analysis.expert_log import log_expert_selection
from lzero.checkpoint import (
    CheckpointManager,
    load_optimizer_state_,
    load_state,
    load_tensors,
    optimizer_state_to_tensors,
    rng_state,
    set_rng_state,
)
from lzero.config import ExperimentConfig, load_domain
from lzero.config_fields import EARLIER_CONFIG
from lzero.device import resolve_device
from lzero.distributed import RankShare, assign_tasks, init_distributed, local_rank_from_environment
from lzero.entry.evaluation import Examination
from lzero.entry.profiled import watch
from lzero.entry.resuming import RunError, check_resumable, described
from lzero.logging import PhaseTimer, RateMeter, RunLogger, TrainingProgress, setup_logging
from lzero.policy.unizero_multitask import LearnResult, UniZeroMTPolicy
from lzero.profiling import Profilers
from lzero.replay.buffer import PriorityConfig, ReplayBuffer, ReplayWindows
from lzero.worker.actor import Actor
from lzero.worker.collector import Collected, Collector
from lzero.worker.reward_rate import RewardRate
from lzero.worker.score_table import ScoreTable
from lzero.worker.vitals import Vitals, VitalSums

logger = logging.getLogger(__name__)

DRAWING_SHARE = 0.02  # of a run's time that the pictures of one subject may take; numbers are always logged


class Run:
    """One experiment under way on this rank; a context manager that closes what it opened.

    Args:
        config: the experiment.
        seed: of everything random.
        max_env_steps: env steps per game at which training ends, for the progress display.
        resume: continue from the newest checkpoint.

    Raises:
        RunError: if the folder holds another experiment, or one that must not be resumed.
    """

    def __init__(self, config: ExperimentConfig, *, seed: int, max_env_steps: int, resume: bool) -> None:
        self.config, self.seed, self.max_env_steps = config, seed, max_env_steps
        try:
            self.dist = init_distributed(resolve_device(config.device, local_rank_from_environment()))
            share = self._assign_tasks()
        except (RuntimeError, ValueError) as error:  # a missing GPU, too many processes: what to type instead is in it
            raise RunError(str(error)) from error
        setup_logging(self.dist.is_main)
        games = config.env.games
        self.share, self.batch_sizes = share, dict(zip(share.task_ids, share.batch_sizes, strict=True))
        self.rngs = {
            name: np.random.default_rng([seed, self.dist.rank, stream]) for stream, name in enumerate(("act", "replay"))
        }
        self.timer = PhaseTimer()
        self.checkpoints = CheckpointManager(config.run_dir / "checkpoints", config.train.keep_checkpoints, self.dist)
        self._check_folder(resume)
        self.logger = RunLogger(config.run_dir, is_main=self.dist.is_main)
        try:
            self.profilers = Profilers(config.policy.profile, config.run_dir, is_main=self.dist.is_main)
        except ImportError as error:  # an optional package: what to install is in the message
            raise RunError(str(error)) from error
        self.env_steps = 0
        self.learning_since: int | None = None
        self.last_returns: dict[str, float] = {}
        self.reward_rate = RewardRate(games)
        self.drawing = {subject: DrawingBudget(DRAWING_SHARE) for subject in ("conflict", "experts")}

        try:
            self.env = load_domain(config.env.domain).make(
                config.env,
                games,
                share.task_ids,
                share.num_envs,
                env_offsets=share.env_offset,
                training=True,
                num_threads=self.dist.threads,
            )
        except ImportError as error:  # an optional package: what to install is in the message
            raise RunError(str(error)) from error
        torch.manual_seed(seed)
        try:
            self.policy = UniZeroMTPolicy(config, self.env.observation_shape, self._legal_actions(), self.dist)
        except AggregationError as error:  # an optional package
            raise RunError(str(error)) from error
        torch.manual_seed(seed + self.dist.rank)
        replay = config.policy.replay
        self.replay = ReplayBuffer(
            self.env.task_id,
            config.ring_length(),
            self.env.observation_shape,
            self.env.observation_dtype,
            self.env.num_actions,
            config.policy.window,
            priority=PriorityConfig(replay.alpha, replay.beta) if replay.prioritised else None,
        )
        checkpoint = self.checkpoints.latest()
        if checkpoint is not None:
            self._restore(checkpoint)
        else:
            self.logger.truncate_after(-1, -1)  # an attempt may have died before its first checkpoint
        if self.dist.is_main:  # only now: a run that is refused stays as it was
            (config.run_dir / "config.json").write_text(config.model_dump_json(indent=2) + "\n")
        self.collector = Collector(
            self.env,
            Actor(self.policy, self.env.task_id, self.env.legal_actions, self.rngs["act"]),
            self.replay,
            env_seed(seed, self.env_steps),
            self.timer,
            Vitals(self.env.task_id, config.num_tasks, config.policy.discount),
        )
        self.rates = RateMeter(self.env_steps * config.num_tasks, self.policy.train_iter)
        watch(self.profilers, self.policy, self.collector)
        self.examination = Examination(config, self.policy, self.dist, share)
        self.progress = TrainingProgress(
            max_env_steps * config.num_tasks,
            is_main=self.dist.is_main,
            initial_env_step=self.env_steps * config.num_tasks,
        )

    def __enter__(self) -> Self:
        self.progress.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        with ExitStack() as closing:  # the last first, and all of them even if one fails
            for close in (self.dist.shutdown, self.examination.close, self.env.close, self.logger.close):
                closing.callback(close)
            closing.callback(self.profilers.__exit__, *exception)
            closing.callback(self.progress.__exit__, *exception)

    @property
    def is_warming_up(self) -> bool:
        """Whether environments still act at random."""
        return self.env_steps < self.config.train.random_steps

    def crossed(self, interval: int, before: int) -> bool:
        """Whether the env steps have passed a multiple of ``interval`` since they were ``before``."""
        return self.env_steps // interval > before // interval

    def any_rank(self, answer: bool) -> bool:
        """Whether any rank says yes, the same on all; collective."""
        return bool(np.any(self.dist.all_gather_array(np.array([answer]))))

    def count_collected(self, collected: Collected) -> None:
        """Advance the env steps by one round of collecting; log its reward and the episodes that ended in it."""
        self.env_steps += len(collected.episodes) * self.config.env.num_envs
        sums = collected.sums(self.env.task_id, self.config.num_tasks)
        reward, steps, score, length, count = np.sum(self.dist.all_gather_array(sums), axis=0)
        self.reward_rate.add(reward, steps)
        metrics = {f"collect_reward/{game}": rate for game, rate in self.reward_rate.by_game().items()}
        for task in np.flatnonzero(count):
            game = self.config.env.games[task]
            self.last_returns[game] = score[task] / count[task]
            metrics |= {
                f"collect_return/{game}": score[task] / count[task],
                f"collect_length/{game}": length[task] / count[task],
            }
        self._log(metrics)

    def updates_due(self) -> int:
        """Updates that the replay ratio asks for by now: a function of env steps alone."""
        ready = self.dist.all_gather_array(np.array([self.replay.can_sample and not self.is_warming_up]))
        if not np.all(ready):
            return 0
        if self.learning_since is None:
            self.learning_since = self.env_steps - self.config.train.collect_steps * self.config.env.num_envs
        due = self.config.policy.replay_ratio * (self.env_steps - self.learning_since)
        return max(0, int(due) - self.policy.train_iter)

    def log_update(self, result: LearnResult, windows: ReplayWindows) -> None:
        """Log what is due after an update."""
        train, games, now = self.config.train, self.config.env.games, (self.env_steps, self.policy.train_iter)
        if self.policy.train_iter % train.log_interval == 0:
            self._log_metrics(result, windows)
        if result.grams:
            how = {"is_main": self.dist.is_main, "drawing": self.drawing["conflict"]}
            with self.timer("analyse"):
                conflicts = self.policy.conflicts(result)
            log_gradient_conflicts(self.logger, conflicts, games, *now, **how)
        if train.moe_log_interval and self.policy.train_iter % train.moe_log_interval == 0:
            how = {"is_main": self.dist.is_main, "drawing": self.drawing["experts"]}
            with self.timer("analyse"):
                selection = self.policy.expert_selection()
            log_expert_selection(self.logger, selection, games, *now, **how)

    def _log_metrics(self, result: LearnResult, windows: ReplayWindows) -> None:
        """Numbers of an update, and the health of what it works with."""
        metrics = self.policy.scalars(result)
        metrics["replay/age"] = windows.age.float().mean().item()
        metrics |= {"health/target_lag": self.policy.target_lag(), **self._latent_health(windows), **self._vitals()}
        with self.timer("analyse"):
            metrics |= self.policy.plasticity(windows, result)
        metrics |= self.rates.pop(self.env_steps * self.config.num_tasks, self.policy.train_iter)
        self._log(metrics)

    def check_finite(self, result: LearnResult) -> None:
        """Stop before a broken network acts or reaches a checkpoint; for the last update of a round.

        Raises:
            FloatingPointError: if its loss or gradient norm is not a number; both are the same on all ranks.
        """
        loss, grad_norm = result.task_losses.mean().item(), result.grad_norm.item()
        if not np.isfinite([loss, grad_norm]).all():
            raise FloatingPointError(
                f"the loss is {loss} and the gradient norm {grad_norm} after {self.policy.train_iter} updates; lower "
                "policy.optimiser.learning_rate or use precision=fp32, then resume from the last checkpoint"
            )

    def log_progress(self) -> None:
        """Log phase times and refresh the progress display."""
        times = self.timer.pop()
        self._log(times)
        self.progress.update(
            self.env_steps * self.config.num_tasks,
            self.policy.train_iter,
            times,
            self.last_returns,
            self.reward_rate.by_game(),
        )

    def evaluate(self, *, video: bool = False) -> ScoreTable:
        """Evaluate all games and log the table; with ``video`` also film one episode of each."""
        directory = self.config.run_dir / "videos" if video else None
        table = self.examination.run([self.seed, self.env_steps], self.config.train.eval_episodes, directory)
        self._log(table.metrics())
        scores = {f"eval_scores/{game}": scores for game, scores in table.scores.items()}
        self.logger.arrays(scores, self.env_steps, self.policy.train_iter)
        if self.dist.is_main:
            self.progress.show(table.render(f"evaluation at {self.env_steps:,} env steps per game"))
        return table

    def save(self) -> Path:
        """Write a checkpoint."""
        policy = self.policy
        named_parameters = list(policy.model.named_parameters())
        return self.checkpoints.save(
            policy.train_iter,
            policy.tensors() | {"optimizer": optimizer_state_to_tensors(policy.optimiser, named_parameters)},
            {
                "env_steps": self.env_steps,
                "train_iter": policy.train_iter,
                "learning_since": self.learning_since,
                "last_returns": self.last_returns,
                "reward_rate": self.reward_rate.state(),
                "world_size": self.dist.world_size,
                "seed": self.seed,
                "config": self.config.model_dump(mode="json"),
                "observation_shape": self.env.observation_shape,
                "legal_actions": self._legal_actions().tolist(),
            },
            rank_state={"rng": rng_state(self.rngs)},
            write_rank_files=self._write_replay,
        )

    def _write_replay(self, directory: Path, previous: Path | None) -> None:
        before = None if previous is None else previous / directory.name
        self.replay.save(directory, suffix="rank", previous=before)

    def _restore(self, checkpoint: Path) -> None:
        state = load_state(checkpoint)
        changed = check_resumable(
            state,
            self.config,
            seed=self.seed,
            world_size=self.dist.world_size,
            max_env_steps=self.max_env_steps,
            checkpoint=checkpoint,
        )
        self.env_steps, self.learning_since = state["env_steps"], state["learning_since"]
        self.last_returns = state["last_returns"]
        if "reward_rate" in state:  # not in checkpoints of earlier versions
            self.reward_rate.load(state["reward_rate"])
        self.policy.load_tensors(lambda name: load_tensors(checkpoint, name, self.policy.device))
        self.policy.train_iter = state["train_iter"]
        load_optimizer_state_(
            self.policy.optimiser,
            list(self.policy.model.named_parameters()),
            load_tensors(checkpoint, "optimizer", self.policy.device),
        )
        set_rng_state(load_state(checkpoint, self.dist.rank)["rng"], self.rngs)
        self.replay.load(checkpoint / f"rank_{self.dist.rank}", suffix="rank")
        self.replay.cut()
        self.logger.truncate_after(self.policy.train_iter, self.env_steps)
        if self.dist.is_main:
            logger.info("resuming from %s at %s env steps per game", checkpoint, f"{self.env_steps:,}")
            if self.env_steps >= self.max_env_steps:
                logger.info("nothing is left to train: the run is evaluated again; more train.max_env_steps continue it")
            record = self.config.run_dir / f"{EARLIER_CONFIG}{self.env_steps}.json"
            record.unlink(missing_ok=True)  # of an attempt that died before its first checkpoint
            if changed:
                record.write_text(json.dumps(state["config"], indent=2) + "\n", encoding="utf-8")
                logger.warning("from here on with other settings: %s; the earlier ones are in %s", described(changed), record)

    def _assign_tasks(self) -> RankShare:
        """The tasks of this rank, and its part of each one's environments and batch."""
        config, games = self.config, self.config.env.games
        return assign_tasks(
            len(games),
            [config.env.envs_of(game) for game in games],
            [config.batch_size_of(game) for game in games],
            self.dist.world_size,
        )[self.dist.rank]

    def _check_folder(self, resume: bool) -> None:
        if not resume and self.checkpoints.latest() is not None:
            raise RunError(
                f"{self.config.run_dir} holds checkpoints of an earlier run and resume=False; choose another exp_name, "
                "delete the folder, or resume"
            )

    def _legal_actions(self) -> np.ndarray:
        """``(T, A)`` bool over all tasks of the run, also those of other ranks."""
        mine = np.zeros((self.config.num_tasks, self.env.num_actions), dtype=bool)
        mine[self.env.task_id] = self.env.legal_actions
        return np.logical_or.reduce(self.dist.all_gather_array(mine))

    def _latent_health(self, windows: ReplayWindows) -> dict[str, float]:
        """Health of the latents of all games, each from the ranks that hold it."""
        ranks = np.stack(self.dist.all_gather_array(self.policy.latent_health(windows)))
        seen = ~np.isnan(ranks)
        values = np.where(seen, ranks, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
        return {
            f"health/{name}/{game}": values[row, task]
            for row, name in enumerate(("effective_rank", "latent_norm"))
            for task, game in enumerate(self.config.env.games)
            if seen[:, row, task].any()
        }

    def _vitals(self) -> dict[str, float]:
        """Vital signs of acting since the last call, over all ranks."""
        mine = self.collector.vitals.take().stack()
        return VitalSums(*np.sum(self.dist.all_gather_array(mine), axis=0)).metrics(self.config.env.games)

    def _log(self, metrics: dict[str, float]) -> None:
        if metrics:
            self.logger.scalars(metrics, self.env_steps, self.policy.train_iter)


def env_seed(seed: int, env_steps: int) -> int:
    """Seed of the training environments; a resumed run does not play its first episodes again."""
    return int(np.random.SeedSequence((seed, env_steps)).generate_state(1)[0])
