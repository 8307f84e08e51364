"""Playing with a policy that learns from its own actions alone: rounds of steps in all environments, and evaluation.

Shape legend: S = steps of a round, N = environments.
"""

import numpy as np
import torch

from lzero.envs.multitask import MultiTaskVectorEnv
from lzero.logging import PhaseTimer
from lzero.policy.ppo_moe import PPOPolicy
from lzero.policy.ppo_result import Acted
from lzero.policy.rollout import Rollout
from lzero.worker.collector import Collected, EpisodeCounter


class RolloutCollector:
    """Plays environments with a policy, once it was told where to :meth:`begin` or :meth:`restore`.

    Args:
        env: the environments.
        policy: draws actions for all of them.
        rng: what it draws with.
        timer: takes the phase times ``act`` and ``env``.
    """

    def __init__(
        self,
        env: MultiTaskVectorEnv,
        policy: PPOPolicy,
        rng: np.random.Generator,
        timer: PhaseTimer,
    ) -> None:
        self.env, self.policy, self.rng, self.timer = env, policy, rng, timer
        self.task_id = torch.as_tensor(env.task_id, device=policy.device)
        self.env_number = torch.as_tensor(env.env_number, device=policy.device)
        self.counter = EpisodeCounter(env.task_id)
        self.observation = np.zeros((env.num_envs, *env.observation_shape))

    def begin(self, seed: int) -> None:
        """Begin an episode in every environment."""
        self.observation = self.env.reset(seed).observation
        self.counter = EpisodeCounter(self.env.task_id)

    def state(self) -> dict[str, np.ndarray] | None:
        """Where environments and episodes are; None if an environment cannot say it."""
        env = self.env.state()
        if env is None:
            return None
        held = {f"env/{name}": array for name, array in env.items()}
        return held | {f"episode/{name}": array for name, array in self.counter.state().items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Be where :meth:`state` was taken.

        Raises:
            NotTheSameError: if the environments do not come back to where they were; they must begin anew then.
        """
        parts: dict[str, dict[str, np.ndarray]] = {"env": {}, "episode": {}}
        for full_name, array in state.items():
            part, _, name = full_name.partition("/")
            parts[part][name] = array
        self.observation = self.env.restore(parts["env"])
        self.counter.load(parts["episode"])

    def collect(self, num_steps: int) -> tuple[Rollout, Collected]:
        """Play ``num_steps`` steps in every environment."""
        num_envs, device = self.env.num_envs, self.policy.device
        seen = torch.from_numpy(np.empty((), self.observation.dtype)).dtype
        # channels first in memory: flattened once here, not again in every pass of every epoch
        observation = torch.empty(
            num_steps, num_envs, *self.env.observation_shape, dtype=seen, device=device
        )
        action = torch.empty(num_steps, num_envs, dtype=torch.int64, device=device)
        log_prob = torch.empty(num_steps, num_envs, device=device)
        value = torch.empty(num_steps + 1, num_envs, device=device)
        reward = np.empty((num_steps, num_envs), np.float32)
        terminated, truncated, acted = np.empty((3, num_steps, num_envs), np.bool_)
        collected = Collected([], np.zeros(num_envs), np.zeros(num_envs, np.int64))
        for t in range(num_steps):
            with self.timer("act"):
                observation[t] = torch.from_numpy(self.observation)
                chosen = self.policy.act(observation[t], self.task_id, self.rng)
            with self.timer("env"):
                step = self.env.step(chosen.action)
            action[t] = torch.from_numpy(chosen.action)
            log_prob[t], value[t] = chosen.log_prob, chosen.value
            reward[t], terminated[t], truncated[t] = step.reward, step.terminated, step.truncated
            acted[t] = ~step.reset
            collected.episodes.append(self.counter.add(step))
            collected.reward[:] += step.raw_reward
            collected.steps[:] += ~step.reset
            self.observation = step.observation
        with self.timer("act"):
            after = torch.from_numpy(self.observation)
            value[num_steps] = self.policy.act(after, self.task_id, None).value
        rollout = Rollout(
            observation=observation,
            action=action,
            log_prob=log_prob,
            value=value,
            reward=torch.as_tensor(reward, device=device),
            terminated=torch.as_tensor(terminated, device=device),
            truncated=torch.as_tensor(truncated, device=device),
            acted=torch.as_tensor(acted, device=device),
            task_id=self.task_id,
            env_number=self.env_number,
        )
        return rollout, collected


class PolicyPlayer:
    """Plays an evaluation.

    Args:
        policy: who plays.
        task_id: of the environments ``(N,)``.
        rng: draws actions from the policy; None takes the likeliest.
    """

    def __init__(
        self, policy: PPOPolicy, task_id: np.ndarray, rng: np.random.Generator | None
    ) -> None:
        self.policy, self.rng = policy, rng
        self.task_id = torch.as_tensor(task_id, device=policy.device)

    def act(self, observation: np.ndarray) -> Acted:
        """Choose an action for every observation ``(N, *shape)``."""
        return self.policy.act(torch.from_numpy(observation), self.task_id, self.rng)

    def forget(self, ended: np.ndarray) -> None:
        """There is no memory."""


def random_observations(env: MultiTaskVectorEnv, steps: int, seed: int) -> np.ndarray:
    """What every environment shows after so many random ``steps``, ``(N, *shape)``."""
    rng = np.random.default_rng(seed)
    observation = env.reset(seed).observation
    for _ in range(steps):
        # the largest of noisy scores is a uniform draw among the legal actions
        scores = np.where(env.legal_actions, rng.random(env.legal_actions.shape), -1.0)
        observation = env.step(scores.argmax(axis=1)).observation
    return observation
