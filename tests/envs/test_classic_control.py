"""Classic control through the multi-task env: padded features and actions, time limits."""

from __future__ import annotations

import numpy as np
import pytest

from lzero.config import EnvConfig
from lzero.envs import MultiTaskVectorEnv
from zoo.classic_control.domain import CLASSIC_CONTROL
from zoo.classic_control.envs import TIME_LIMIT, make_classic_control_vector_env

NAMES = list(CLASSIC_CONTROL.games)


def make(tasks: list[int], count: int, limit: int = 500) -> MultiTaskVectorEnv:
    config = EnvConfig(max_episode_steps=limit, clip_reward=False)
    counts = [count] * len(tasks)
    return CLASSIC_CONTROL.make(
        config, NAMES, tasks, counts, env_offsets=[0] * len(tasks), training=True, num_threads=1
    )


def test_pads_features_and_actions() -> None:
    env = make([0, 1, 2], 2)
    assert env.num_envs == 6 and env.num_envs_per_task == (2, 2, 2)
    assert env.task_id.tolist() == [0, 0, 1, 1, 2, 2] and env.task_id.dtype == np.int64
    assert env.observation_shape == (6,) and env.observation_dtype == np.float32
    assert env.legal_actions.tolist() == [[True, True, False]] * 2 + [[True, True, True]] * 4
    env.reset(0)
    observation = env.step(np.zeros(6, np.int64)).observation
    assert observation.dtype == np.float32
    for rows, features in zip(env.rows, (4, 6, 2), strict=True):
        assert observation[rows, :features].all() and not observation[rows, features:].any()


def test_a_rank_with_one_task_has_the_shapes_of_all() -> None:
    env = make([0], 2)
    assert env.legal_actions.tolist() == [[True, True, False]] * 2
    assert env.reset(0).observation.shape == (2, 6)


@pytest.mark.parametrize("name", TIME_LIMIT)
def test_classic_control_time_limit_truncates(name: str) -> None:
    """At the limit truncated, not terminated; the next row only resets; the same seed repeats the
    stream.
    """
    limit = 5
    envs = [make([NAMES.index(name)], 3, limit) for _ in range(2)]
    for step in (env.reset(3) for env in envs):
        assert step.reset.all()
    for time in range(1, limit + 4):
        step, repeated = (env.step(np.full(3, time % 2)) for env in envs)
        np.testing.assert_array_equal(step.observation, repeated.observation)
        assert not step.terminated.any()
        assert (step.truncated == (time == limit)).all() and (
            step.episode_over == step.truncated
        ).all()
        assert (step.reset == (time == limit + 1)).all()
        assert (step.raw_reward != 0).tolist() == (~step.reset).tolist()
    for env in envs:
        env.close()


def test_reference_scores_are_the_ends_of_the_common_scale() -> None:
    for name in NAMES:
        scores = CLASSIC_CONTROL.reference_scores(name)
        assert {
            label: CLASSIC_CONTROL.normalised_score(name, score) for label, score in scores.items()
        } == {
            "random": 0.0,
            "solved": 1.0,
        }


def test_refuses_an_unknown_problem() -> None:
    with pytest.raises(ValueError, match=r"'Pendulum-v1'.*CartPole-v1"):
        make_classic_control_vector_env("Pendulum-v1", 2)
