"""Collecting: all environments of all tasks of a rank act together, every step goes to the replay
ring.

Shape legend: N = environments, A = actions.
"""

from dataclasses import dataclass

import numpy as np

from lzero import checks
from lzero.envs.multitask import EnvStep, MultiTaskVectorEnv
from lzero.logging import PhaseTimer
from lzero.replay.buffer import ReplayBuffer
from lzero.worker.actor import Actor, Decision
from lzero.worker.health import HealthMonitor
from lzero.worker.return_scale import ReturnScale

NUM_SUMS = 5  # that a round is summed up in


@dataclass(frozen=True)
class Episodes:
    """Episodes that ended, one entry each.

    Attributes:
        env: number of the environment ``(E,)``.
        task_id: ``(E,)`` int64.
        score: sum of the game's own rewards ``(E,)``.
        length: env steps ``(E,)``.
    """

    env: np.ndarray
    task_id: np.ndarray
    score: np.ndarray
    length: np.ndarray


@dataclass(frozen=True)
class Collected:
    """What one round of collecting brought.

    Attributes:
        episodes: that ended, step by step.
        reward: sum of the game's own rewards by environment ``(N,)``.
        steps: env steps by environment, without those that only reset ``(N,)``.
    """

    episodes: list[Episodes]
    reward: np.ndarray
    steps: np.ndarray

    def sums(self, task_id: np.ndarray, num_tasks: int) -> np.ndarray:
        """Per task ``(5, T)``: reward, env steps, and of the ended episodes score, length and
        number.

        Args:
            task_id: of the N environments.
            num_tasks: T.

        Raises:
            ValueError: if a task is none of them.
        """
        checks.tasks("task_id", task_id, num_tasks)
        sums = np.zeros((NUM_SUMS, num_tasks))
        np.add.at(sums[0], task_id, self.reward)
        np.add.at(sums[1], task_id, self.steps)
        for ended in self.episodes:
            np.add.at(sums[2], ended.task_id, ended.score)
            np.add.at(sums[3], ended.task_id, ended.length)
            np.add.at(sums[4], ended.task_id, 1.0)
        return sums


class EpisodeCounter:
    """Adds up score and length of the episode that each of N environments is in."""

    def __init__(self, task_id: np.ndarray) -> None:
        self.task_id = task_id
        self.score = np.zeros(len(task_id))
        self.length = np.zeros(len(task_id), np.int64)

    def state(self) -> dict[str, np.ndarray]:
        """What :meth:`load` goes on from."""
        return {"score": self.score, "length": self.length}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Go on in the episodes of :meth:`state`."""
        self.score[:], self.length[:] = state["score"], state["length"]

    def add(self, step: EnvStep) -> Episodes:
        """Count a step; the episodes that ended with it."""
        self.score += step.raw_reward
        self.length += ~step.reset
        over = np.flatnonzero(step.episode_over)
        episodes = Episodes(over, self.task_id[over], self.score[over], self.length[over])
        self.score[over] = 0.0
        self.length[over] = 0
        return episodes


class Collector:
    """Plays all training environments of a rank, once it was told where to :meth:`begin` or :meth:`restore`.

    Args:
        env: the environments.
        actor: chooses actions for all of them.
        replay: receives every step.
        timer: takes the phase times ``search`` and ``env``.
        health: watches the steps that are searched; None watches nothing.
        return_scale: watches rewards, and is what the network's are divided by; None where they are not.
    """

    def __init__(
        self,
        env: MultiTaskVectorEnv,
        actor: Actor,
        replay: ReplayBuffer,
        timer: PhaseTimer,
        health: HealthMonitor | None = None,
        return_scale: ReturnScale | None = None,
    ) -> None:
        self.env, self.actor, self.replay, self.timer = env, actor, replay, timer
        self.health, self.return_scale = health, return_scale
        self.counter = EpisodeCounter(env.task_id)
        self.observation = np.zeros((env.num_envs, *env.observation_shape))

    def begin(self, seed: int) -> None:
        """Begin an episode in every environment."""
        self.observation = self.env.reset(seed).observation

    def state(self) -> dict[str, np.ndarray] | None:
        """Where environments, episodes, contexts and sums are; None if an environment cannot say it."""
        env = self.env.state()
        if env is None:
            return None
        parts = {"env": env, "episode": self.counter.state(), "context": self.actor.context.state()}
        if self.health is not None:
            parts["health"] = self.health.state()
        if self.return_scale is not None:
            parts["return_scale"] = self.return_scale.state()
        return {
            f"{part}/{name}": array for part, held in parts.items() for name, array in held.items()
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Be where :meth:`state` was taken; the replay and the generators are not part of it.

        Raises:
            NotTheSameError: if the environments do not come back to where they were; they must begin anew then.
        """
        parts: dict[str, dict[str, np.ndarray]] = {}
        for full_name, array in state.items():
            part, _, name = full_name.partition("/")
            parts.setdefault(part, {})[name] = array
        self.observation = self.env.restore(parts["env"])
        self.counter.load(parts["episode"])
        self.actor.context.load(parts["context"])
        if self.health is not None:
            self.health.load(parts["health"])
        if self.return_scale is not None:
            self.return_scale.load(parts["return_scale"])

    def collect(self, num_steps: int, *, random: bool = False) -> Collected:
        """Play ``num_steps`` steps in every environment, at random or by search.

        Raises:
            ValueError: if ``num_steps`` is negative.
        """
        checks.count("num_steps", num_steps, 0)
        collected = Collected(
            [], np.zeros(self.env.num_envs), np.zeros(self.env.num_envs, np.int64)
        )
        for _ in range(num_steps):
            step = self._step(random)
            collected.episodes.append(self.counter.add(step))
            collected.reward[:] += step.raw_reward
            collected.steps[:] += ~step.reset
        return collected

    def _step(self, random: bool) -> EnvStep:
        with self.timer("search"):
            decision = self.actor.act_randomly() if random else self.actor.act(self.observation)
        with self.timer("env"):
            step = self.env.step(decision.action)
        self._store(decision, step)
        if self.health is not None and not random:
            scale = None if self.return_scale is None else self.return_scale.by_env()
            self.health.add(decision, step, scale)
        if self.return_scale is not None:
            self.return_scale.add(step)
        # A cleared context is the start of an episode: after an end, and after the row that only
        # reset.
        self.actor.forget(step.terminated | step.episode_over | step.reset)
        self.observation = step.observation
        return step

    def _store(self, decision: Decision, step: EnvStep) -> None:
        self.replay.append(
            observation=self.observation,
            action=decision.action,
            reward=step.reward,
            terminated=step.terminated,
            truncated=step.truncated,
            reset=step.reset,
            visits=decision.policy,
            root_value=decision.value,
        )
