"""PPO's updates: on ranks, measured, skipped, and against the formulas."""

from dataclasses import fields, replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from lzero.config_ppo import PPOExperiment
from lzero.distributed import init_distributed
from lzero.policy.ppo_moe import PPOPolicy
from lzero.policy.ppo_result import TERMS
from lzero.policy.rollout import Rollout, minibatches_of, shuffled_rows
from tests.policy.test_rollout import STEPS, rollout_of
from tests.ranks import run_ranks

MIXTURES = {
    "baseline": {},
    "big softmoe": {"architecture": "big", "mixture": {"routing": "softmoe"}},
    "all topk": {"architecture": "all", "mixture": {"routing": "topk", "entropy_weight": 0.1}},
    "middle hardcoded": {"architecture": "middle", "mixture": {"routing": "hardcoded"}},
    "middle adaptive, gradient seen": {
        "architecture": "middle",
        "mixture": {"routing": "adaptive", "router_gradient": True, "router_task_id": True},
    },
}


def experiment(model: dict | None = None, games: int = 2, **policy) -> PPOExperiment:
    names = tuple(f"game{index}" for index in range(games))
    return PPOExperiment.model_validate(
        {
            "env": {"games": names, "num_envs": 4},
            "model": {"mlp_hidden": (16, 16)} | (model or {}),
            "policy": {"epochs": 2, "minibatches": 4} | policy,
            "train": {"collect_steps": STEPS, "max_env_steps": 10_000},
            "device": "cpu",
        }
    )


def policy_of(config: PPOExperiment, dist=None) -> PPOPolicy:
    torch.manual_seed(0)
    legal = np.ones((config.num_tasks, 3), bool)
    return PPOPolicy(config, (5,), legal, dist)


PER_ENV = ("task_id", "env_number")


def columns_of(rollout: Rollout, columns: list[int]) -> Rollout:
    """The environments ``columns`` of a round."""
    parts = {}
    for part in fields(Rollout):
        tensor = getattr(rollout, part.name)
        parts[part.name] = tensor[columns] if part.name in PER_ENV else tensor[:, columns]
    return Rollout(**parts)


def learned(config: PPOExperiment, own, columns=None, dist=None, rounds: int = 2):
    """Parameters and what was measured after some rounds; by default with all environments."""
    policy = policy_of(config, dist)
    rng, shuffle = np.random.default_rng(0), np.random.default_rng(5)
    for _ in range(rounds):
        rollout = rollout_of(rng, [0] * 4 + [1] * 4 if config.num_tasks == 2 else [0] * 4)
        if columns is not None:
            rollout = columns_of(rollout, columns)
        rows = shuffled_rows(config.policy, STEPS, 4, own, config.num_tasks, shuffle)
        result = policy.learn(rollout, rows)
    return policy, result


ALONE = {0: (slice(0, 4), 0), 1: (slice(4, 8), 0)}


def worker(model: dict, shared: bool):
    """A task on each rank, or half of every task's environments."""
    dist = init_distributed("cpu")
    if shared:
        half = 2 * dist.rank
        own = {0: (slice(0, 2), half), 1: (slice(2, 4), half)}
        columns = [half, half + 1, half + 4, half + 5]
    else:
        own = {dist.rank: (slice(0, 4), 0)}
        columns = list(range(4 * dist.rank, 4 * dist.rank + 4))
    config = experiment(model, gradient_conflict_interval=8)
    policy, result = learned(config, own, columns, dist)
    dist.shutdown()
    return (
        policy.state_dict()["model"],
        result.task_means,
        result.measured.by_point,
        result.similarity,
    )


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("baseline", True),
        ("big softmoe", False),
        ("all topk", True),
        ("middle hardcoded", False),
        ("middle adaptive, gradient seen", True),
    ],
)
def test_two_ranks_take_the_same_steps_as_one(tmp_path, name, shared):
    config = experiment(MIXTURES[name], gradient_conflict_interval=8)
    alone, result = learned(config, ALONE)
    for model, means, grams, similarity in run_ranks(
        partial(worker, MIXTURES[name], shared), 2, tmp_path
    ):
        for key, tensor in alone.state_dict()["model"].items():
            torch.testing.assert_close(model[key], tensor, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(means, result.task_means, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(similarity, result.similarity, atol=1e-4, rtol=1e-3)
        expected = result.measured.by_point
        assert grams.keys() == expected.keys() and len(grams) > 2
        for point, gram in grams.items():
            torch.testing.assert_close(gram, expected[point], atol=1e-7, rtol=1e-3)


@pytest.mark.parametrize("name", MIXTURES)
def test_a_measuring_update_moves_parameters_as_a_plain_one_does(name):
    plain, _ = learned(experiment(MIXTURES[name], gradient_conflict_interval=0), ALONE)
    measuring, result = learned(experiment(MIXTURES[name], gradient_conflict_interval=1), ALONE)
    assert "actor" in result.conflicts()
    for key, tensor in plain.state_dict()["model"].items():
        torch.testing.assert_close(
            measuring.state_dict()["model"][key], tensor, atol=1e-6, rtol=1e-5
        )


def first_batch(policy: PPOPolicy, rollout: Rollout):
    rows = shuffled_rows(policy.config.policy, STEPS, 4, ALONE, 2, np.random.default_rng(5))
    return next(iter(minibatches_of(rollout, rows, policy.config.policy, 2, policy.dist))), rows


def test_gram_matrices_are_those_of_the_tasks_losses():
    config = experiment(gradient_conflict_interval=8, epochs=1, minibatches=1)
    policy, rollout = policy_of(config), rollout_of(np.random.default_rng(0), [0] * 4 + [1] * 4)
    batch, rows = first_batch(policy, rollout)
    gradients, halves = [], []
    for task, half in product((0, 1), (False, True)):
        of_task = batch.task_id == task
        own = of_task & (batch.is_second_half == half)
        halves.append(own)
        part = replace(
            batch,
            **{
                name: getattr(batch, name)[own]
                for name in ("task_id", "action", "log_prob", "value", "advantage", "target")
            },
        )
        logits, value, _ = policy.model(batch.observation[own], batch.task_id[own])
        terms = policy._terms(logits, value, part)
        loss = terms[0] + 0.5 * terms[1] - 0.01 * terms[2]
        acted = (batch.weight > 0).float()
        mean = (loss * acted[own]).sum() / acted[of_task].sum()
        parameters = list(policy.model.networks["actor"].parameters())
        parts = torch.autograd.grad(mean, parameters)
        gradients.append(torch.cat([part.flatten() for part in parts]).double())
    expected = torch.stack(gradients) @ torch.stack(gradients).T
    measured = policy.learn(rollout, rows).measured
    torch.testing.assert_close(measured.by_point["actor"], expected, rtol=1e-4, atol=1e-9)
    # every other environment is in the second half of its task's rows
    env = rollout.env_number.repeat(STEPS)[torch.from_numpy(rows[0])]
    assert torch.equal(batch.is_second_half, env % 2 == 1)
    counts = [int((batch.weight > 0)[own].sum()) for own in halves]
    assert measured.sizes.flatten().tolist() == counts and min(counts) > 0


def test_the_first_update_finds_the_policy_that_acted():
    """The ratio is 1 then: no divergence, nothing clipped, and the policy term is the mean advantage, 0."""
    config = experiment(epochs=1, minibatches=1)
    policy, rollout = policy_of(config), rollout_of(np.random.default_rng(0), [0] * 4 + [1] * 4)
    task_id = rollout.task_id.repeat(STEPS)
    with torch.no_grad():
        logits, _, _ = policy.model(rollout.observation.flatten(0, 1), task_id)
    log_probs = logits.log_softmax(dim=-1).gather(1, rollout.action.flatten()[:, None])
    rollout = replace(rollout, log_prob=log_probs.view(STEPS, 8))
    _, rows = first_batch(policy, rollout)
    means = dict(zip(TERMS, policy.learn(rollout, rows).task_means, strict=True))
    for name in ("policy", "kl", "clipped"):
        torch.testing.assert_close(means[name], torch.zeros(2), atol=1e-5, rtol=0)
    assert (means["entropy"] > 0.9 * np.log(3)).all()


def test_terms_are_those_of_the_paper_row_by_row():
    policy = policy_of(experiment(clip_value=True))
    batch, _ = first_batch(policy, rollout_of(np.random.default_rng(0), [0] * 4 + [1] * 4))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(len(batch.action), 3, generator=generator)
    value = torch.randn(len(batch.action), generator=generator)
    terms = policy._terms(logits, value, batch)
    for row in range(len(batch.action)):
        p = logits[row].double().softmax(0)
        ratio = (p[batch.action[row]].log() - batch.log_prob[row]).exp().item()
        a = batch.advantage[row].item()
        surrogate = min(ratio * a, min(max(ratio, 0.8), 1.2) * a)
        old, target = batch.value[row].item(), batch.target[row].item()
        near = old + min(max(value[row].item() - old, -0.2), 0.2)
        error = max((value[row].item() - target) ** 2, (near - target) ** 2)
        expected = [-surrogate, error / 2, -(p * p.log()).sum().item(), ratio - 1 - np.log(ratio)]
        np.testing.assert_allclose(terms[:4, row], expected, rtol=1e-4, atol=1e-5)
        assert terms[4, row] == float(abs(ratio - 1) > 0.2)


def test_an_update_that_is_no_number_changes_nothing():
    config = experiment(MIXTURES["big softmoe"])
    policy = policy_of(config)
    rollout = rollout_of(np.random.default_rng(0), [0] * 4 + [1] * 4)
    rollout.reward[:] = torch.nan
    before = {name: tensor.clone() for name, tensor in policy.state_dict()["model"].items()}
    _, rows = first_batch(policy, rollout)
    policy.learn(rollout, rows)
    assert policy.skipped == policy.skipped_in_a_row == 8
    after = policy.state_dict()
    for name, tensor in before.items():
        assert torch.equal(after["model"][name], tensor)
    assert not after["gradient"]["last"].any()


def test_only_legal_actions_are_drawn_and_their_probabilities_sum_to_one():
    config = experiment()
    legal = np.array([[True, False, True], [False, True, False]])
    policy = PPOPolicy(config, (5,), legal)
    observation = torch.randn(4000, 5)
    task_id = torch.arange(4000) % 2
    acted = policy.act(observation, task_id, np.random.default_rng(0))
    assert legal[task_id, acted.action].all()
    shares = np.bincount(acted.action[::2], minlength=3) / 2000
    np.testing.assert_allclose(shares, [0.5, 0, 0.5], atol=0.05)  # nearly uniform at first
    np.testing.assert_allclose(acted.log_prob[1::2], 0.0, atol=1e-6)
    greedy = policy.act(observation, task_id, None).action
    logits, _, _ = policy.model(observation, task_id)
    masked = logits.detach().numpy() + np.where(legal[task_id], 0, -np.inf)
    assert (greedy == masked.argmax(axis=1)).all()


def test_the_learning_rate_falls_to_nothing():
    policy = policy_of(experiment())
    policy.set_progress(0.25)
    assert policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.75 * 5e-3)
    policy.set_progress(1.0)
    assert policy.optimizer.param_groups[0]["lr"] == 0.0
    constant = policy_of(experiment(anneal=False))
    constant.set_progress(0.5)
    assert constant.optimizer.param_groups[0]["lr"] == 5e-3


def test_consecutive_gradients_are_compared():
    """By hand, from the gradients that are kept."""
    config = experiment(epochs=1, minibatches=1)
    policy, seen = policy_of(config), []
    rng = np.random.default_rng(0)
    for _ in range(2):
        rollout = rollout_of(rng, [0] * 4 + [1] * 4)
        _, rows = first_batch(policy, rollout)
        result = policy.learn(rollout, rows)
        seen.append(policy.last_gradient.double())
    assert result.similarity == pytest.approx(
        torch.nn.functional.cosine_similarity(*seen, dim=0).item(), abs=1e-6
    )
    assert result.grad_norm == pytest.approx(seen[1].norm().item(), rel=1e-5)


def test_a_state_that_was_loaded_goes_on_as_the_one_that_was_saved():
    config = experiment(MIXTURES["middle adaptive, gradient seen"])
    policy, _ = learned(config, ALONE)
    other = policy_of(config)
    other.load_state_dict(policy.state_dict())
    rollout = rollout_of(np.random.default_rng(9), [0] * 4 + [1] * 4)
    _, rows = first_batch(policy, rollout)
    for one in (policy, other):
        one.learn(rollout, rows)
    torch.testing.assert_close(policy.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_actions_that_are_not_legal_leave_the_gradient_a_number():
    """Their log-probability is minus infinity, and 0 times that would be no number in the entropy's gradient."""
    config = experiment()
    torch.manual_seed(0)
    legal = np.array([[True, True, False], [True, False, True]])
    policy = PPOPolicy(config, (5,), legal)
    rollout = rollout_of(np.random.default_rng(0), [0] * 4 + [1] * 4)
    action = torch.zeros_like(rollout.action)  # legal in both
    _, rows = first_batch(policy, rollout)
    result = policy.learn(replace(rollout, action=action), rows)
    assert policy.skipped == 0 and result.grad_norm > 0
    assert (result.task_means[TERMS.index("entropy")] < np.log(2) + 1e-6).all()


def test_a_task_of_which_no_step_counts_is_not_played():
    """As where a minibatch has caught rows alone that only begin episodes."""
    config = experiment()
    policy = policy_of(config)
    rollout = rollout_of(np.random.default_rng(0), [0] * 4 + [1] * 4)
    acted = rollout.acted.clone()
    acted[:, 4:] = False
    _, rows = first_batch(policy, rollout)
    result = policy.learn(replace(rollout, acted=acted), rows)
    assert policy.skipped == 0
    assert result.task_means[:, 0].isfinite().all() and result.task_means[:, 1].isnan().all()
