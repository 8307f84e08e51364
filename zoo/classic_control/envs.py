"""Factories of classic control environments, an example of a domain that is not Atari."""

from __future__ import annotations

import functools

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from lzero import checks

TIME_LIMIT = {"CartPole-v1": 500, "Acrobot-v1": 500, "MountainCar-v0": 200}
"""The problems' own time limits in env steps."""


def make_classic_control_vector_env(
    name: str, num_envs: int, *, max_episode_steps: int | None = None
) -> VectorEnv:
    """Environments of one problem: observations ``(n, F)`` float32, autoreset NEXT_STEP.

    Args:
        name: one of :data:`TIME_LIMIT`.
        num_envs: n.
        max_episode_steps: time limit in env steps; None for the problem's own.

    Raises:
        ValueError: if the name is unknown, or a number is below 1.
    """
    if name not in TIME_LIMIT:
        raise ValueError(f"name={name!r} is unknown; allowed are {', '.join(TIME_LIMIT)}")
    checks.count("num_envs", num_envs)
    limit = TIME_LIMIT[name] if max_episode_steps is None else max_episode_steps
    checks.count("max_episode_steps", limit)
    if name == "CartPole-v1":
        return make_cartpole_vector_env(num_envs, max_episode_steps=limit)
    make_one = functools.partial(
        gymnasium.make, name, max_episode_steps=limit, disable_env_checker=True
    )
    return SyncVectorEnv([make_one] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)


def make_cartpole_vector_env(num_envs: int, *, max_episode_steps: int = 500) -> VectorEnv:
    """CartPole-v1 with all poles in one numpy computation: observations ``(n, 4)`` float32, 2
    actions."""
    return gymnasium.make_vec(
        "CartPole-v1",
        num_envs,
        vectorization_mode="vector_entry_point",
        max_episode_steps=max_episode_steps,
    )
