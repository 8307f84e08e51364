"""UniZero's run on one rank: what it works with, how it collects into its replay, and when it learns from it."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lzero.config import ExperimentConfig
from lzero.entry import faults
from lzero.entry.build import build
from lzero.entry.callbacks import Callback
from lzero.entry.checkpointing import Resume
from lzero.entry.life import RunLife
from lzero.entry.profiled import watch
from lzero.entry.replay_files import load_replay, ranks_with_replay
from lzero.entry.stopping import StopRequest
from lzero.envs.multitask import MultiTaskVectorEnv
from lzero.policy.metrics import LearnResult
from lzero.policy.unizero_multitask import UniZeroMTPolicy
from lzero.replay.augmentation import with_random_shifts
from lzero.replay.windows import ReplayWindows
from lzero.worker.actor import Actor
from lzero.worker.collector import NUM_SUMS, Collector
from lzero.worker.health import HealthMonitor
from lzero.worker.return_scale import ReturnScale


class Run(RunLife):
    """One experiment under way on this rank; a context manager that closes what it opened.

    Args:
        config: the experiment.
        seed: of everything random.
        max_env_steps: env steps at which training ends, for the progress display.
        resume: ``auto``, ``never``, or the checkpoint to continue from.
        stop: who may ask the run to stop; None for nobody.
        callbacks: of the user.

    Raises:
        RunError: if the folder holds another experiment, one that must not be resumed, or the machine lacks something.
    """

    config: ExperimentConfig
    policy: UniZeroMTPolicy
    rank_files: ClassVar[tuple[str, ...]] = ("replay-rank.safetensors",)

    def __init__(
        self,
        config: ExperimentConfig,
        *,
        seed: int,
        max_env_steps: int,
        resume: Resume,
        stop: StopRequest | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        parts = build(config, seed)
        super().__init__(
            config,
            parts.foundation,
            seed=seed,
            max_env_steps=max_env_steps,
            stop=stop,
            callbacks=callbacks,
        )
        self.policy, self.replay, self.rngs = parts.policy, parts.replay, parts.rngs
        self.profilers = parts.profilers
        share = self.share
        self.batch_sizes = dict(zip(share.task_ids, share.batch_sizes, strict=True))
        self.collected_steps = 0  # of each environment in this round
        self.collected = np.zeros((NUM_SUMS, config.num_tasks))
        self.learning_since: int | None = None
        self.warned: set[str] = set()  # games whose returns do not fit
        self.return_scale = None
        discount = config.policy.discount
        if config.policy.scale_returns:
            self.return_scale = ReturnScale(self.env.task_id, config.num_tasks, discount)

        self.health = HealthMonitor(self.env.task_id, config.num_tasks, discount)
        self.collector = Collector(
            self.env,
            Actor(self.policy, self.env.task_id, self.env.legal_actions, self.rngs["act"]),
            self.replay,
            self.timer,
            self.health,
            self.return_scale,
        )
        self._open(resume)

    def begin(self, seed: int) -> None:
        """Begin an episode in every environment; what was played last does not go on."""
        self.replay.cut()
        self.collector.begin(seed)

    def player(self, env: MultiTaskVectorEnv) -> Actor:
        """The policy, searching without noise."""
        return Actor(self.policy, env.task_id, env.legal_actions, None)

    def watch(self) -> None:
        """Profile the update and collecting, if profilers are on."""
        watch(self.profilers, self.policy, self.collector)

    def counters(self) -> dict[str, Any]:
        """What the whole run has counted, for JSON; the same on all ranks."""
        return super().counters() | {
            "collected_steps": self.collected_steps,
            "learning_since": self.learning_since,
            "return_scale": None if self.return_scale is None else self.return_scale.totals(),
        }

    def load_counters(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`counters`."""
        super().load_counters(state)
        self.collected_steps = state["collected_steps"]
        self.learning_since = state["learning_since"]
        if self.return_scale is not None and state["return_scale"] is not None:
            self.return_scale.set_totals(state["return_scale"])

    def rank_state(self) -> dict[str, Any]:
        """Sums of the round under way."""
        return {"collected": self.collected.tolist()}

    def playing(self) -> dict[str, np.ndarray] | None:
        """Where environments, episodes and contexts are; None if an environment cannot say it."""
        return self.collector.state()

    def play_on(self, playing: dict[str, np.ndarray]) -> None:
        """Be where :meth:`playing` was taken; raises NotTheSameError where that is not possible."""
        self.collector.restore(playing)

    def write_rank_files(self, directory: Path, previous: Path | None) -> None:
        """Write the replay of this rank."""
        before = None if previous is None else previous / directory.name
        self.replay.save(directory, suffix="rank", previous=before)

    def load_rank(
        self,
        checkpoint: Path,
        state: Mapping[str, Any],
        own: Mapping[str, Any] | None,
        lost: Collection[str],
    ) -> None:
        """Take over sums and replay, also those of another number of processes."""
        load_replay(self, checkpoint, state, own, lost)

    def ranks_to_read(self, world_size: int) -> list[int]:
        """Ranks of a checkpoint of so many processes whose replay this one goes on with.

        Raises:
            ValueError: if it cannot be theirs: their environments were others.
        """
        return sorted(ranks_with_replay(self, world_size))

    @property
    def max_skipped_updates(self) -> int:
        """Updates in a row that may be no numbers."""
        return self.config.policy.optimiser.max_skipped_updates

    @property
    def is_warming_up(self) -> bool:
        """Whether environments still act at random."""
        return self.env_steps < self.config.train.random_steps

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
        """Say if the last update of a round was skipped, and stop where too many were, as
        :meth:`~lzero.entry.life.RunLife.stop_if_broken`.
        """
        self.stop_if_broken(result, lambda file: faults.save_windows(windows, file))
