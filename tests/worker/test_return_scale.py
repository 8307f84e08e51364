"""Scales of returns against discounted sums written down step by step."""

import json

import numpy as np
import pytest
import torch

from lzero.envs.multitask import EnvStep
from lzero.worker.return_scale import ReturnScale
from tests.policy.unizero_cases import make_config, make_windows

DISCOUNT, TASK_ID, NUM_TASKS = 0.9, np.array([0, 0, 2, 3]), 4


def play(steps: int, seed: int = 0) -> list[EnvStep]:
    """Rewards of three scales, with deaths, lost lives, time limits and reset rows; task 3 has none."""
    rng, stream, reset = np.random.default_rng(seed), [], np.ones(len(TASK_ID), bool)
    for _ in range(steps):
        reward = rng.normal(size=len(TASK_ID)) * (100, 100, 0.01, 0) * ~reset
        terminated = (rng.random(len(TASK_ID)) < 0.1) & ~reset
        over = ((rng.random(len(TASK_ID)) < 0.05) | (terminated & (rng.random(4) < 0.5))) & ~reset
        truncated = over & ~terminated
        frame = np.zeros((len(TASK_ID), 1))
        stream.append(EnvStep(frame, reward, reward, terminated, truncated, over, reset))
        reset = over
    return stream


def discounted(stream: list[EnvStep], env: int) -> list[float]:
    """After every action, what has been earned since the last end, older rewards discounted."""
    sums, total = [], 0.0
    for step in stream:
        if step.reset[env]:
            total = 0.0
            continue
        total = DISCOUNT * total + step.reward[env]
        sums.append(total)
        if step.terminated[env] or step.episode_over[env]:
            total = 0.0
    return sums


def counted(stream: list[EnvStep], task_id: np.ndarray = TASK_ID) -> ReturnScale:
    scale = ReturnScale(task_id, NUM_TASKS, DISCOUNT)
    for step in stream:
        scale.add(step)
    return scale


def test_scales_are_deviations_of_discounted_rewards():
    stream = play(300)
    scale = counted(stream)
    np.testing.assert_array_equal(scale.by_task(), 1.0)  # nothing is taken in yet
    scale.take_in(scale.take())
    assert not scale.take().any()
    expected = np.std(discounted(stream, 0) + discounted(stream, 1))
    assert scale.by_task()[0] == pytest.approx(expected) and expected > 100
    assert scale.by_task()[1:].tolist() == [1.0, 1.0, 1.0]  # not seen, tiny, none
    assert scale.by_env().tolist() == [expected, expected, 1.0, 1.0]


def test_what_ranks_have_counted_adds_up():
    stream, parts = play(200), []
    whole = counted(stream)
    for rows in ([0, 3], [1, 2]):
        part = [EnvStep(*(getattr(s, name)[rows] for name in vars(s))) for s in stream]
        parts.append(counted(part, TASK_ID[rows]).take())
    np.testing.assert_allclose(np.sum(parts, axis=0), whole.take(), rtol=1e-12)


def test_a_checkpoint_keeps_every_bit():
    scale, restored = counted(play(50)), ReturnScale(TASK_ID, NUM_TASKS, DISCOUNT)
    scale.take_in(scale.take())
    restored.set_totals(json.loads(json.dumps(scale.totals())))
    restored.load(scale.state())
    for step in play(9, seed=7):
        scale.add(step)
        restored.add(step)
    for each in (scale, restored):
        each.take_in(each.take())
    np.testing.assert_array_equal(restored.by_task(), scale.by_task())


def test_rewards_of_windows_are_divided_by_the_scale_of_their_game():
    windows = make_windows(make_config())
    scale = ReturnScale(np.array([0, 1, 2]), 3, DISCOUNT)
    scale._sums[:] = [[4, 4, 4], [0, 0, 0], [4 * 9, 4 * 100, 1]]
    found = scale.applied_to(windows)
    for row, task in enumerate(windows.task_id.tolist()):
        torch.testing.assert_close(found.reward[row], windows.reward[row] / (3, 10, 1)[task])
    assert found.observation is windows.observation
