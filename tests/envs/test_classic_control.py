"""Classic control through the multi-task env: padded features and actions, time limits."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.classic_control.envs import (
    CLASSIC_CONTROL,
    make_classic_control_multitask_env,
    make_classic_control_vector_env,
)


def test_pads_features_and_actions() -> None:
    env = make_classic_control_multitask_env(list(CLASSIC_CONTROL), [4, 2, 9], 2)
    assert env.num_envs == 6 and env.num_envs_per_task == (2, 2, 2)
    assert env.task_id.tolist() == [4, 4, 2, 2, 9, 9] and env.task_id.dtype == np.int64
    assert env.observation_shape == (6,) and env.observation_dtype == np.float32
    assert env.legal_actions.tolist() == [[True, True, False]] * 2 + [[True, True, True]] * 4
    env.reset(0)
    observation = env.step(np.zeros(6, np.int64)).observation
    assert observation.dtype == np.float32
    for rows, features in zip(env.rows, (4, 6, 2), strict=True):
        assert observation[rows, :features].all() and not observation[rows, features:].any()


def test_padding_to_a_larger_common_shape() -> None:
    env = make_classic_control_multitask_env(["CartPole-v1"], [0], 2, num_actions=5, observation_shape=(8,))
    assert env.legal_actions.tolist() == [[True] * 2 + [False] * 3] * 2
    assert env.reset(0).observation.shape == (2, 8)


@pytest.mark.parametrize("name", CLASSIC_CONTROL)
def test_classic_control_time_limit_truncates(name: str) -> None:
    """At the limit truncated, not terminated; the next row only resets; the same seed repeats the stream."""
    limit = 5
    envs = [make_classic_control_multitask_env([name], [0], 3, max_episode_steps=limit) for _ in range(2)]
    for step in (env.reset(3) for env in envs):
        assert step.reset.all()
    for time in range(1, limit + 4):
        step, repeated = (env.step(np.full(3, time % 2)) for env in envs)
        np.testing.assert_array_equal(step.observation, repeated.observation)
        assert not step.terminated.any()
        assert (step.truncated == (time == limit)).all() and (step.episode_over == step.truncated).all()
        assert (step.reset == (time == limit + 1)).all()
        assert (step.raw_reward != 0).tolist() == (~step.reset).tolist()
    for env in envs:
        env.close()


def test_refuses_an_unknown_problem() -> None:
    with pytest.raises(ValueError, match=r"'Pendulum-v1'.*CartPole-v1"):
        make_classic_control_vector_env("Pendulum-v1", 2)
