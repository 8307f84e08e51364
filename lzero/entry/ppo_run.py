"""PPO's run on one rank: which games are played when, rounds of steps, and what an update learns from.

A run is left between rounds, which take seconds: what a round has collected is not part of a checkpoint.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save_file

from lzero.config_ppo import PPOExperiment
from lzero.entry.build import generators, lacks_are_run_errors, lay_foundation, make_env
from lzero.entry.callbacks import Callback
from lzero.entry.checkpointing import Resume
from lzero.entry.life import RunLife
from lzero.entry.shards import RankShare, assign_tasks
from lzero.entry.stopping import StopRequest
from lzero.envs.multitask import MultiTaskVectorEnv
from lzero.policy.ppo_moe import PPOPolicy
from lzero.policy.ppo_result import PPOResult
from lzero.policy.rollout import Rollout, shuffled_rows
from lzero.profiling import Profilers
from lzero.worker.rollouts import PolicyPlayer, RolloutCollector, random_observations

PROBE_SEED = 0  # the same observations in all runs of the same games
PROBE_STEPS = 30  # random steps after which they are taken: enough for objects to be everywhere


class PPORun(RunLife):
    """One PPO experiment under way on this rank; arguments as of :class:`~lzero.entry.run.Run`.

    Attributes:
        turns: what plays, by task: all games together under None, or each by itself.
        probe: observations of random play, and their tasks, the same on every rank.
    """

    config: PPOExperiment
    policy: PPOPolicy
    shared_rngs: ClassVar[tuple[str, ...]] = ("shuffle",)

    @lacks_are_run_errors()
    def __init__(
        self,
        config: PPOExperiment,
        *,
        seed: int,
        max_env_steps: int,
        resume: Resume,
        stop: StopRequest | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        # every rank needs a step of each of its tasks in every update
        foundation = lay_foundation(config, [config.env.num_envs] * config.num_tasks)
        super().__init__(
            config,
            foundation,
            seed=seed,
            max_env_steps=max_env_steps,
            stop=stop,
            callbacks=callbacks,
        )
        self.profilers = Profilers(config.policy.profile, config.run_dir, is_main=self.dist.is_main)
        torch.manual_seed(seed)  # the same parameters on every rank
        self.policy = PPOPolicy(config, self.env.observation_shape, self.legal_actions, self.dist)
        self.rngs = generators(("act", "shuffle"), seed, self.dist.rank, self.shared_rngs)
        self.shares: dict[int | None, RankShare] = {None: self.share}
        self.turns: dict[int | None, RolloutCollector] = {}
        if not config.is_continual:
            self.turns[None] = self._collector(self.env)
        else:
            self.env.close()
            for task in range(config.num_tasks):
                envs = [config.env.envs_of(config.env.games[task])]
                own = assign_tasks(1, envs, envs, self.dist.world_size)[self.dist.rank]
                share = RankShare((task,), own.num_envs, own.batch_sizes, own.env_offset)
                self.shares[task] = share
                self.turns[task] = self._collector(make_env(config, share, self.dist.threads))
        self.probe = self._probe()
        self._open(resume)

    def _collector(self, env: MultiTaskVectorEnv) -> RolloutCollector:
        return RolloutCollector(env, self.policy, self.rngs["act"], self.timer)

    def _probe(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Observations ``(B, *shape)`` of random play, equally many of each task, and their tasks ``(B,)``."""
        number = max(1, self.config.policy.probe_observations // self.config.num_tasks)
        tasks = tuple(range(self.config.num_tasks))
        share = RankShare(tasks, (number,) * len(tasks), (), (0,) * len(tasks))
        env = make_env(self.config, share, self.dist.threads)
        try:
            observation = random_observations(env, PROBE_STEPS, PROBE_SEED)
        finally:
            env.close()
        device = self.policy.device
        # channels first in memory, as rounds have them
        seen = torch.from_numpy(np.ascontiguousarray(observation)).to(device)
        return seen, torch.as_tensor(env.task_id, device=device)

    @property
    def task(self) -> int | None:
        """Whose turn it is; None for all tasks at once."""
        return self.config.game_at(self.env_steps)

    def collect(self) -> tuple[Rollout, np.ndarray]:
        """Play a round.

        Returns:
            Its steps, and sums over the environments of this rank, as :meth:`Collected.sums` has them.
        """
        collector = self.turns[self.task]
        rollout, collected = collector.collect(self.config.train.collect_steps)
        return rollout, collected.sums(collector.env.task_id, self.config.num_tasks)

    def learn(self, rollout: Rollout) -> PPOResult:
        """All updates of the round; its env steps count from here on."""
        task, config = self.task, self.config
        own = {}
        share = self.shares[task]
        pairs = zip(self.turns[task].env.rows, share.task_ids, share.env_offset, strict=True)
        for columns, task_id, first in pairs:
            own[task_id if task is None else 0] = (columns, first)
        rows = shuffled_rows(
            config.policy,
            config.train.collect_steps,
            config.env.num_envs,
            own,
            config.num_tasks if task is None else 1,
            self.rngs["shuffle"],
        )
        self.policy.set_progress(min(1.0, self.env_steps / config.clock_steps))
        result = self.policy.learn(rollout, rows)
        self.before = self.env_steps
        self.env_steps += config.train.collect_steps * config.env.fewest_envs()
        return result

    def check_finite(self, result: PPOResult, rollout: Rollout) -> None:
        """As :meth:`~lzero.entry.life.RunLife.stop_if_broken`."""

        def save_rollout(file: Path) -> Path:
            file.parent.mkdir(parents=True, exist_ok=True)
            steps = {part.name: getattr(rollout, part.name) for part in fields(rollout)}
            save_file({name: tensor.contiguous() for name, tensor in steps.items()}, file)
            return file

        self.stop_if_broken(result, save_rollout)

    def of_all_games(self, env_steps: int) -> int:
        """Env steps of all games together, when the clock says ``env_steps``."""
        return env_steps if self.config.is_continual else super().of_all_games(env_steps)

    def begin(self, seed: int) -> None:
        """Begin an episode in every environment."""
        for collector in self.turns.values():
            collector.begin(seed)

    def player(self, env: MultiTaskVectorEnv) -> PolicyPlayer:
        """The policy; its draws depend on the seed and the env steps alone."""
        rng = np.random.default_rng([self.seed, self.env_steps, self.dist.rank])
        greedy = self.config.policy.greedy_evaluation
        return PolicyPlayer(self.policy, env.task_id, None if greedy else rng)

    def watch(self) -> None:
        """Profile the updates and collecting, if profilers are on."""
        self.profilers.watch(self.policy, "learn", is_update=True)
        for collector in self.turns.values():
            self.profilers.watch(collector, "collect")

    def playing(self) -> dict[str, np.ndarray] | None:
        """Where the environments of all turns are; None if one cannot say it."""
        found: dict[str, np.ndarray] = {}
        for turn, collector in enumerate(self.turns.values()):
            state = collector.state()
            if state is None:
                return None
            found |= {f"{turn}/{name}": array for name, array in state.items()}
        return found

    def play_on(self, playing: dict[str, np.ndarray]) -> None:
        """Be where :meth:`playing` was taken; raises NotTheSameError where that is not possible."""
        for turn, collector in enumerate(self.turns.values()):
            prefix = f"{turn}/"
            own = {
                name.removeprefix(prefix): array
                for name, array in playing.items()
                if name.startswith(prefix)
            }
            collector.restore(own)

    def write_rank_files(self, directory: Path, previous: Path | None) -> None:
        """A round that is over leaves nothing behind."""

    def load_rank(
        self,
        checkpoint: Path,
        state: Mapping[str, Any],
        own: Mapping[str, Any] | None,
        lost: Collection[str],
    ) -> None:
        """A round that is over has left nothing behind."""

    @property
    def max_skipped_updates(self) -> int:
        """Updates in a row that may be no numbers."""
        return self.config.policy.optimiser.max_skipped_updates

    def close(self) -> None:
        """Close all environments."""
        for collector in self.turns.values():
            collector.env.close()
