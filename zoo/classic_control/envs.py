"""Factories of classic control environments, an example of a domain that is not Atari."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from lzero.envs import MultiTaskVectorEnv, TaskEnv

CLASSIC_CONTROL = {"CartPole-v1": 500, "Acrobot-v1": 500, "MountainCar-v0": 200}
"""Time limit in env steps by name. Features 4 / 6 / 2, actions 2 / 3 / 3."""


def make_classic_control_vector_env(name: str, num_envs: int, *, max_episode_steps: int | None = None) -> VectorEnv:
    """Environments of one problem: observations ``(n, F)`` float32, autoreset NEXT_STEP.

    Args:
        name: one of :data:`CLASSIC_CONTROL`.
        num_envs: n.
        max_episode_steps: time limit in env steps; None for the problem's own.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in CLASSIC_CONTROL:
        raise ValueError(f"name={name!r} is unknown; allowed are {', '.join(CLASSIC_CONTROL)}")
    limit = CLASSIC_CONTROL[name] if max_episode_steps is None else max_episode_steps
    if name == "CartPole-v1":
        return make_cartpole_vector_env(num_envs, max_episode_steps=limit)
    make_one = functools.partial(gymnasium.make, name, max_episode_steps=limit, disable_env_checker=True)
    return SyncVectorEnv([make_one] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)


def make_cartpole_vector_env(num_envs: int, *, max_episode_steps: int = 500) -> VectorEnv:
    """CartPole-v1 with all poles in one numpy computation: observations ``(n, 4)`` float32, 2 actions."""
    return gymnasium.make_vec(
        "CartPole-v1",
        num_envs,
        vectorization_mode="vector_entry_point",
        max_episode_steps=max_episode_steps,
    )


def make_classic_control_multitask_env(
    names: Sequence[str],
    task_ids: Sequence[int],
    num_envs_per_task: int,
    *,
    max_episode_steps: int | None = None,
    num_actions: int | None = None,
    observation_shape: tuple[int, ...] | None = None,
) -> MultiTaskVectorEnv:
    """Several problems as one batch, features and actions padded to the largest.

    Args:
        names: from :data:`CLASSIC_CONTROL`.
        task_ids: identity of each problem in the whole run.
        num_envs_per_task: n.
        max_episode_steps: time limit in env steps; None for each problem's own.
        num_actions, observation_shape: as in :class:`~lzero.envs.MultiTaskVectorEnv`.

    Raises:
        ValueError: for an unknown name, or lengths that differ.
    """
    return MultiTaskVectorEnv(
        [
            TaskEnv(
                make_classic_control_vector_env(name, num_envs_per_task, max_episode_steps=max_episode_steps),
                task_id=task_id,
                name=name,
                layout="vector",
            )
            for name, task_id in zip(names, task_ids, strict=True)
        ],
        num_actions=num_actions,
        observation_shape=observation_shape,
    )
