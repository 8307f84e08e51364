"""Health of acting against sums over whole episodes, written down step by step."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import entropy

from lzero.envs.multitask import EnvStep
from lzero.worker.actor import Decision
from lzero.worker.health import HealthMonitor, HealthSums

DISCOUNT, ACTIONS, GAMES = 0.9, 4, ("First", "Second", "Third")
TASK_ID = np.array([0, 0, 2])
STEPS = 60


def play(rng: np.random.Generator) -> list[tuple[Decision, EnvStep]]:
    """A stream of steps with deaths, lost lives, time limits and reset rows."""
    stream, over = [], np.ones(len(TASK_ID), bool)
    for _ in range(STEPS):
        policy, prior = rng.dirichlet(np.ones(ACTIONS), (2, len(TASK_ID))).astype(np.float32)
        policy[0] = [1, 0, 0, 0]
        reset = over
        terminated = (rng.random(len(TASK_ID)) < 0.15) & ~reset
        truncated = (rng.random(len(TASK_ID)) < 0.05) & ~reset & ~terminated
        over = (
            terminated & (rng.random(len(TASK_ID)) < 0.6)
        ) | truncated  # the other deaths are lost lives
        value, reward, predicted = rng.normal(size=(3, len(TASK_ID))).astype(np.float32)
        reward[reset | (rng.random(len(TASK_ID)) < 0.3)] = 0.0
        value += 0.5 * reward
        predicted += reward
        decision = Decision(
            np.zeros(len(TASK_ID), np.int64), policy, value, prior, value, predicted
        )
        stream.append(
            (
                decision,
                EnvStep(
                    np.zeros((len(TASK_ID), 1)), reward, reward, terminated, truncated, over, reset
                ),
            )
        )
    return stream


def segments(stream: list, env: int) -> list[list[tuple[float, float]]]:
    """(value, reward) pairs of every segment of an environment that ended with a death."""
    finished, current = [], []
    for decision, step in stream:
        if step.reset[env]:
            current = []
            continue
        current.append((float(decision.network_value[env]), float(step.reward[env])))
        if step.terminated[env]:
            finished.append(current)
        if step.terminated[env] or step.episode_over[env]:
            current = []
    return finished


def test_values_are_compared_with_the_returns_that_followed():
    stream = play(np.random.default_rng(0))
    health = HealthMonitor(TASK_ID, len(GAMES), DISCOUNT)
    for decision, step in stream:
        health.add(decision, step)
    metrics = health.take().metrics(GAMES)
    for task in (0, 2):
        values, returns = [], []
        for env in np.flatnonzero(TASK_ID == task):
            for segment in segments(stream, env):
                rewards = [reward for _, reward in segment]
                values += [value for value, _ in segment]
                returns += [
                    sum(DISCOUNT**k * r for k, r in enumerate(rewards[start:]))
                    for start in range(len(rewards))
                ]
        assert len(values) > 10
        assert metrics[f"health/value_predicted/{GAMES[task]}"] == pytest.approx(
            np.mean(values), rel=1e-5
        )
        assert metrics[f"health/value_realised/{GAMES[task]}"] == pytest.approx(
            np.mean(returns), rel=1e-5
        )
        assert metrics[f"health/value_correlation/{GAMES[task]}"] == pytest.approx(
            np.corrcoef(values, returns)[0, 1], rel=1e-5
        )
    assert not [tag for tag in metrics if tag.endswith("/Second")]


def test_means_per_step_leave_out_rows_that_only_reset():
    stream = play(np.random.default_rng(1))
    health = HealthMonitor(TASK_ID, len(GAMES), DISCOUNT)
    for decision, step in stream:
        health.add(decision, step)
    metrics = health.take().metrics(GAMES)
    rows = [(decision, step, 2) for decision, step in stream if not step.reset[2]]
    expected = {
        "search_kl": [entropy(d.policy[e], d.prior[e]) for d, _, e in rows],
        "search_entropy": [entropy(d.policy[e]) for d, _, e in rows],
        "prior_entropy": [entropy(d.prior[e]) for d, _, e in rows],
        "reward_predicted": [d.reward[e] for d, _, e in rows],
        "reward_realised": [s.reward[e] for _, s, e in rows],
        "reward_error": [abs(d.reward[e] - s.reward[e]) for d, s, e in rows],
    }
    for name, values in expected.items():
        assert metrics[f"health/{name}/Third"] == pytest.approx(np.mean(values), rel=1e-4), name
    predicted, realised = (
        np.array(expected[name]) for name in ("reward_predicted", "reward_realised")
    )
    assert metrics["health/reward_correlation/Third"] == pytest.approx(
        np.corrcoef(predicted, realised)[0, 1], rel=1e-4
    )
    right = [p * r > 0 and abs(p) > 0.5 for p, r in zip(predicted, realised, strict=True)]
    assert 0 < sum(right) < min((realised != 0).sum(), (abs(predicted) > 0.5).sum())
    assert metrics["health/reward_recall/Third"] == sum(right) / (realised != 0).sum()
    assert metrics["health/reward_precision/Third"] == sum(right) / (abs(predicted) > 0.5).sum()


def test_what_never_varies_has_no_correlation_and_no_reward_no_recall():
    health = HealthMonitor(TASK_ID, len(GAMES), DISCOUNT)
    for decision, step in play(np.random.default_rng(4)):
        same, nothing = np.full(len(TASK_ID), 0.1, np.float32), np.zeros(len(TASK_ID), np.float32)
        health.add(
            replace(decision, network_value=same, reward=same), replace(step, reward=nothing)
        )
    metrics = health.take().metrics(GAMES)
    assert metrics["health/reward_predicted/First"] == pytest.approx(0.1)
    for name in ("reward_recall", "reward_precision", "reward_correlation", "value_correlation"):
        assert f"health/{name}/First" not in metrics


def test_sums_add_up_over_ranks_and_start_again_when_taken():
    stream = play(np.random.default_rng(2))
    whole, first, second = (
        HealthMonitor(TASK_ID[rows], len(GAMES), DISCOUNT) for rows in (slice(None), [0], [1, 2])
    )
    for decision, step in stream:
        whole.add(decision, step)
        for part, rows in ((first, [0]), (second, [1, 2])):
            part.add(
                Decision(
                    *(getattr(decision, name)[rows] for name in Decision.__dataclass_fields__)
                ),
                EnvStep(*(getattr(step, name)[rows] for name in EnvStep.__dataclass_fields__)),
            )
    together = HealthSums(*(first.take().stack() + second.take().stack()))
    np.testing.assert_allclose(together.stack(), whole.take().stack(), rtol=1e-9)
    assert whole.take().metrics(GAMES) == {}


def test_predictions_in_units_of_a_scale_are_compared_in_the_games_own():
    plain, scaled = (HealthMonitor(TASK_ID, len(GAMES), DISCOUNT) for _ in range(2))
    scale = np.array([2.0, 2.0, 8.0])
    for decision, step in play(np.random.default_rng(5)):
        plain.add(decision, step)
        small = replace(
            decision, reward=decision.reward / scale, network_value=decision.network_value / scale
        )
        scaled.add(small, step, scale)
    np.testing.assert_allclose(scaled.take().stack(), plain.take().stack(), rtol=1e-6)


def test_a_prior_that_has_become_zero_gives_a_finite_number():
    decision, step = play(np.random.default_rng(3))[5]
    prior = np.tile(np.array([0.0, 0.0, 0.0, 1.0], np.float32), (len(TASK_ID), 1))
    broken = Decision(
        decision.action, decision.policy, decision.value, prior, decision.value, decision.reward
    )
    health = HealthMonitor(TASK_ID, len(GAMES), DISCOUNT)
    health.add(broken, step)
    assert np.isfinite(health.take().stack()).all()
