"""Collecting: all environments of all tasks of a rank act together, every step goes to the replay ring.

Shape legend: N = environments, A = actions.
"""

from dataclasses import dataclass

import numpy as np

from lzero.envs.multitask import EnvStep, MultiTaskVectorEnv
from lzero.logging import PhaseTimer
from lzero.mcts.replay_buffer import ReplayBuffer
from lzero.policy.actor import Actor, Decision
from lzero.worker.vitals import Vitals


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


class EpisodeCounter:
    """Adds up score and length of the episode that each of N environments is in."""

    def __init__(self, task_id: np.ndarray) -> None:
        self.task_id = task_id
        self.score = np.zeros(len(task_id))
        self.length = np.zeros(len(task_id), np.int64)

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
    """Plays all training environments of a rank.

    Args:
        env: the environments.
        actor: chooses actions for all of them.
        replay: receives every step.
        seed: of the environments.
        timer: takes the phase times ``search`` and ``env``.
        vitals: watches the steps that are searched; None watches nothing.
    """

    def __init__(
        self,
        env: MultiTaskVectorEnv,
        actor: Actor,
        replay: ReplayBuffer,
        seed: int,
        timer: PhaseTimer,
        vitals: Vitals | None = None,
    ) -> None:
        self.env, self.actor, self.replay, self.timer, self.vitals = env, actor, replay, timer, vitals
        self.counter = EpisodeCounter(env.task_id)
        self.observation = env.reset(seed).observation

    def collect(self, num_steps: int, *, random: bool = False) -> list[Episodes]:
        """Play ``num_steps`` steps in every environment, at random or by search.

        Returns:
            The episodes that ended on the way.
        """
        return [self._step(random) for _ in range(num_steps)]

    def _step(self, random: bool) -> Episodes:
        with self.timer("search"):
            decision = self.actor.act_randomly() if random else self.actor.act(self.observation)
        with self.timer("env"):
            step = self.env.step(decision.action)
        self._store(decision, step)
        if self.vitals is not None and not random:
            self.vitals.add(decision, step)
        # A cleared context is the start of an episode: after an end, and after the row that only reset.
        self.actor.forget(step.terminated | step.episode_over | step.reset)
        self.observation = step.observation
        return self.counter.add(step)

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
