"""Advantages against the definition of λ-returns, and the shares of a round that updates learn from."""

import numpy as np
import pytest
import torch

from lzero.config_ppo import PPOConfig
from lzero.distributed import Distributed
from lzero.policy.rollout import Rollout, advantages, minibatches_of, shuffled_rows

STEPS, ENVS, GAMMA = 12, 7, 0.9


def by_definition(reward, value, terminated, truncated, lam):
    """λ-returns as the weighted mean of n-step returns (Sutton and Barto, eq. 12.3), minus the value, one by one."""
    found = np.zeros(reward.shape)
    steps, envs = reward.shape
    for env in range(envs):
        for t in range(steps):
            returns, total = [], 0.0
            for k in range(t, steps):
                total += GAMMA ** (k - t) * reward[k, env]
                behind = 0.0 if terminated[k, env] else GAMMA ** (k - t + 1) * value[k + 1, env]
                returns.append(total + behind)
                if terminated[k, env] or truncated[k, env]:
                    break
            weights = [(1 - lam) * lam**n for n in range(len(returns))]
            weights[-1] = lam ** (len(returns) - 1)  # what is left of 1
            found[t, env] = np.dot(weights, returns) - value[t, env]
    return found


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_advantages_are_lambda_returns_minus_values(lam):
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(STEPS, ENVS)), rng.normal(size=(STEPS + 1, ENVS))
    terminated = rng.random((STEPS, ENVS)) < 0.15
    truncated = (rng.random((STEPS, ENVS)) < 0.15) & ~terminated
    assert terminated.any() and truncated.any()
    found = advantages(
        *map(torch.from_numpy, (reward, value, terminated, truncated)),
        discount=GAMMA,
        gae_lambda=lam,
    )
    np.testing.assert_allclose(
        found.numpy(), by_definition(reward, value, terminated, truncated, lam), atol=1e-12
    )


def test_a_value_short_of_a_step_is_refused():
    zeros = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="value has shape"):
        advantages(zeros, zeros, zeros > 0, zeros > 0, discount=0.9, gae_lambda=0.9)


CONFIG = PPOConfig(epochs=2, minibatches=4)


def test_every_epoch_learns_from_every_step_once_and_updates_from_equally_many_of_each_task():
    own = {0: (slice(0, 4), 0), 1: (slice(4, 8), 0)}
    rows = shuffled_rows(CONFIG, STEPS, 4, own, 2, np.random.default_rng(0))
    assert rows.shape == (8, 2 * STEPS)
    for epoch in rows.reshape(2, -1):
        assert sorted(epoch) == list(range(STEPS * 8))
    assert (np.sort(rows[0]) != np.sort(rows[4])).any(), "epochs are shuffled anew"
    for update in rows:
        assert np.bincount(update % 8 // 4).tolist() == [STEPS, STEPS]


@pytest.mark.parametrize(
    "ranks",
    [
        [{0: (slice(0, 4), 0)}, {1: (slice(0, 4), 0)}],  # a task each
        [{0: (slice(0, 2), 0), 1: (slice(2, 4), 0)}, {0: (slice(0, 2), 2), 1: (slice(2, 4), 2)}],
    ],
)
def test_ranks_share_out_the_updates_of_one_process(ranks):
    alone = shuffled_rows(
        CONFIG, STEPS, 4, {0: (slice(0, 4), 0), 1: (slice(4, 8), 0)}, 2, np.random.default_rng(0)
    )
    parts = [shuffled_rows(CONFIG, STEPS, 4, own, 2, np.random.default_rng(0)) for own in ranks]
    for own, rows in zip(ranks, parts, strict=True):
        for place, (columns, first) in own.items():
            width = sum(part.stop - part.start for part, _ in own.values())
            for update, all_rows in zip(rows, alone, strict=True):
                mine = {
                    (row // width, row % width - columns.start + first)
                    for row in update[update >= 0]
                    if columns.start <= row % width < columns.stop
                }
                whole = {(row // 8, row % 8 - 4 * place) for row in all_rows}
                assert mine == {
                    (step, env)
                    for step, env in whole
                    if first <= env < first + columns.stop - columns.start
                }


def rollout_of(rng: np.random.Generator, task_id: list[int]) -> Rollout:
    shape = STEPS, len(task_id)
    terminated = torch.from_numpy(rng.random(shape) < 0.1)
    return Rollout(
        observation=torch.from_numpy(rng.normal(size=(*shape, 5)).astype(np.float32)),
        action=torch.from_numpy(rng.integers(0, 3, shape)),
        log_prob=torch.full(shape, -np.log(3.0), dtype=torch.float32),
        value=torch.from_numpy(rng.normal(size=(STEPS + 1, len(task_id))).astype(np.float32)),
        reward=torch.from_numpy((10 * rng.normal(size=shape)).astype(np.float32)),
        terminated=terminated,
        truncated=torch.zeros(shape, dtype=torch.bool),
        acted=torch.from_numpy(rng.random(shape) < 0.9),
        task_id=torch.tensor(task_id),
        env_number=torch.tensor([task_id[:env].count(task) for env, task in enumerate(task_id)]),
    )


@pytest.mark.parametrize("kind", ["game", "all", "raw"])
def test_advantages_are_standardised_over_the_steps_that_acted(kind):
    rng = np.random.default_rng(1)
    rollout = rollout_of(rng, [0, 0, 2, 2])
    config = PPOConfig(epochs=1, minibatches=2, advantages=kind)
    own = {0: (slice(0, 2), 0), 1: (slice(2, 4), 0)}
    rows = shuffled_rows(config, STEPS, 2, own, 2, rng)
    for batch in minibatches_of(rollout, rows, config, 3, Distributed()):
        assert batch.is_played.tolist() == [True, False, True]
        assert batch.weight.sum() == pytest.approx(1.0)
        assert batch.share == 1.0
        acted = batch.weight > 0
        for task in (0, 2):
            own_steps = acted & (batch.task_id == task)
            assert batch.weight[own_steps].sum() == pytest.approx(0.5)
            if kind == "game":
                a = batch.advantage[own_steps]
                assert a.mean() == pytest.approx(0.0, abs=1e-5)
                assert a.square().mean() == pytest.approx(1.0, abs=1e-4)
        if kind == "all":
            a = batch.advantage[acted]
            assert a.mean() == pytest.approx(0.0, abs=1e-5)
            assert a.square().mean() == pytest.approx(1.0, abs=1e-4)
        if kind == "raw":
            torch.testing.assert_close(batch.advantage, batch.target - batch.value)
