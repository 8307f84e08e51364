"""What PPO learns from: the steps of a round, how much better than expected they went, and the updates' shares of them.

Shape legend: S = steps of a round, N = environments of this rank, n = environments of a task on all ranks, T = tasks of the
run, M = updates of a round, R = rows of an update on this rank.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lzero import checks
from lzero.config_ppo import PPOConfig
from lzero.distributed import Distributed

SMALLEST_SPREAD = 1e-8  # of advantages: where all are equal there is nothing to standardise


@dataclass(frozen=True)
class Rollout:
    """Steps of all environments of a rank, in the order in which they were played.

    Attributes:
        observation: before each action ``(S, N, *shape)``.
        action: ``(S, N)`` int64.
        log_prob: of the action when it was drawn ``(S, N)``.
        value: that the critic gave each observation, and the one after the last step ``(S + 1, N)``.
        reward: ``(S, N)``.
        terminated: no value beyond this step ``(S, N)`` bool.
        truncated: cut by a time limit: the value of the next observation counts, but no reward behind it ``(S, N)`` bool.
        acted: False where the step only began an episode, and its action was ignored ``(S, N)`` bool.
        task_id: of the environments ``(N,)`` int64.
        env_number: of the environments among all of their task, on all ranks ``(N,)`` int64.
    """

    observation: Tensor
    action: Tensor
    log_prob: Tensor
    value: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    acted: Tensor
    task_id: Tensor
    env_number: Tensor

    @property
    def num_steps(self) -> int:
        """S."""
        return self.action.shape[0]

    @property
    def num_envs(self) -> int:
        """N."""
        return self.action.shape[1]


def advantages(
    reward: Tensor,
    value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    discount: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimates ``(S, N)``.

    With δ_t = r_t + γ V_{t+1} − V_t, where V_{t+1} is 0 after a death, A_t = δ_t + γλ A_{t+1}; the sum ends with an episode,
    by death or by a time limit.

    Args:
        reward: ``(S, N)``.
        value: of the observations before the steps and after the last one ``(S + 1, N)``.
        terminated: ``(S, N)`` bool.
        truncated: ``(S, N)`` bool.
        discount: γ.
        gae_lambda: λ.

    Raises:
        TypeError: if something is no tensor, or ends of episodes are no booleans.
        ValueError: if shapes differ, or γ or λ is not between 0 and 1.

    Source: Schulman et al. (arXiv 1506.02438), eq. 16.
    """
    for name, tensor in (("reward", reward), ("value", value)):
        checks.instance(name, tensor, Tensor, "a tensor")
    checks.shape("reward", reward, None, None)
    checks.flags("terminated", terminated)
    checks.flags("truncated", truncated)
    checks.number("discount", discount, 0.0, 1.0)
    checks.number("gae_lambda", gae_lambda, 0.0, 1.0)
    steps, envs = reward.shape
    checks.shape("value", value, steps + 1, envs)
    checks.shape("terminated", terminated, steps, envs)
    checks.shape("truncated", truncated, steps, envs)
    delta = reward + discount * value[1:] * ~terminated - value[:-1]
    goes_on = discount * gae_lambda * (~(terminated | truncated)).to(reward.dtype)
    found = torch.empty_like(delta)
    later = torch.zeros_like(delta[0])
    for t in reversed(range(steps)):
        later = delta[t] + goes_on[t] * later
        found[t] = later
    return found


def shuffled_rows(
    config: PPOConfig,
    steps: int,
    num_envs: int,
    own: Mapping[int, tuple[slice, int]],
    tasks: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Which steps every update of a round learns from: a share of each task's, all of them once in an epoch.

    Every rank draws the same order of all steps and keeps its own, so that the updates do not depend on their number.

    Args:
        config: epochs and minibatches.
        steps: S.
        num_envs: n.
        own: by place among the tasks that are played, the columns of this rank's environments, and the number of the first
            of them in the task.
        tasks: how many are played, on all ranks.
        rng: in the same state on all ranks.

    Returns:
        Rows of ``(S·N,)`` flattened steps ``(M, R')`` int64, −1 in the place of those of other ranks.
    """
    size = steps * num_envs // config.minibatches  # it divides them: the config sees to it
    order = rng.random((config.epochs, tasks, steps * num_envs)).argsort(axis=2)
    step, env = np.divmod(order, num_envs)
    width = sum(columns.stop - columns.start for columns, _ in own.values())
    rows = np.full(step.shape, -1)
    for place, (columns, first) in own.items():
        column = env[:, place] - first
        here = (column >= 0) & (column < columns.stop - columns.start)
        mine = step[:, place] * width + columns.start + column
        rows[:, place] = np.where(here, mine, -1)
    # (epochs, tasks, minibatches, size) to one line for each update
    parts = rows.reshape(config.epochs, tasks, config.minibatches, size).swapaxes(1, 2)
    return parts.reshape(config.epochs * config.minibatches, tasks * size)


@dataclass(frozen=True)
class Minibatch:
    """Rows of one update on this rank.

    Attributes:
        observation: ``(R, *shape)``.
        task_id: ``(R,)``.
        action, log_prob, value: ``(R,)``, as they were when the steps were played.
        advantage: ``(R,)``, standardised as the config says.
        target: of the value ``(R,)``.
        weight: of a row in the mean over tasks of the means over steps, those of other ranks included ``(R,)``; 0 where an
            action was ignored.
        is_played: tasks with steps on any rank ``(T,)`` bool.
        share: part of the update's rows that are this rank's, a scalar.
        share_of_task: of each task's rows ``(T,)``.
        is_second_half: row of every other environment of its task ``(R,)`` bool.
    """

    observation: Tensor
    task_id: Tensor
    action: Tensor
    log_prob: Tensor
    value: Tensor
    advantage: Tensor
    target: Tensor
    weight: Tensor
    is_played: Tensor
    share: Tensor
    share_of_task: Tensor
    is_second_half: Tensor


def minibatches_of(
    rollout: Rollout, rows: np.ndarray, config: PPOConfig, num_tasks: int, dist: Distributed
) -> Iterator[Minibatch]:
    """The rows of every update, with what is counted and standardised over those of all ranks.

    Args:
        rollout: of this rank.
        rows: of :func:`shuffled_rows`.
        config: how to standardise.
        num_tasks: T.
        dist: process group; collective, once.
    """
    device = rollout.action.device
    advantage = advantages(
        rollout.reward,
        rollout.value,
        rollout.terminated,
        rollout.truncated,
        discount=config.discount,
        gae_lambda=config.gae_lambda,
    ).flatten()
    value = rollout.value[:-1].flatten()
    observation = rollout.observation.flatten(0, 1)
    action, log_prob = rollout.action.flatten(), rollout.log_prob.flatten()
    acted = rollout.acted.flatten().float()
    task_id = rollout.task_id.repeat(rollout.num_steps)
    is_odd = (rollout.env_number % 2 == 1).repeat(rollout.num_steps)
    is_own = rows >= 0
    flat = torch.as_tensor(rows[is_own], device=device)
    own = flat.split(is_own.sum(axis=1).tolist())
    here, a = acted.index_select(0, flat), advantage.index_select(0, flat)
    cell = torch.as_tensor(np.nonzero(is_own)[0], device=device) * num_tasks + task_id[flat]
    sums = advantage.new_zeros(4, len(own) * num_tasks)  # steps, A, A², rows
    sums.index_add_(1, cell, torch.stack([here, here * a, here * a * a, torch.ones_like(a)]))
    mine = sums.view(4, len(own), num_tasks).transpose(0, 1).contiguous()
    everywhere = dist.all_reduce_sum_(mine.clone())
    for of_update, part, (steps, total, squares, count) in zip(own, mine, everywhere, strict=True):
        task = task_id.index_select(0, of_update)
        raw = a = advantage.index_select(0, of_update)
        before = value.index_select(0, of_update)
        if config.advantages != "raw":
            number = steps
            if config.advantages == "all":
                number, total, squares = (x.sum().expand_as(x) for x in (steps, total, squares))
            number = number.clamp_min(1.0)  # rows of a task may only begin episodes
            mean = total / number
            spread = (squares / number - mean.square()).clamp_min(0.0).sqrt()
            a = (a - mean[task]) / (spread[task] + SMALLEST_SPREAD)
        is_played = steps > 0
        yield Minibatch(
            observation=observation.index_select(0, of_update),
            task_id=task,
            action=action.index_select(0, of_update),
            log_prob=log_prob.index_select(0, of_update),
            value=before,
            advantage=a,
            target=raw + before,
            weight=acted.index_select(0, of_update)
            / (steps.clamp_min(1.0)[task] * is_played.sum()),
            is_played=is_played,
            share=part[3].sum() / count.sum(),
            share_of_task=part[3] / count.clamp_min(1.0),
            is_second_half=is_odd.index_select(0, of_update),
        )
