"""What Gumbel search makes of Q and prior: the improved policy, its draws, and an actor that
follows it.
"""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from lzero.config import ExperimentConfig
from lzero.mcts.gumbel import GumbelTree
from lzero.mcts.tree import BatchTree
from lzero.policy import UniZeroMTPolicy
from lzero.worker.actor import Actor
from tests.mcts.gumbel_cases import DISCOUNT, EPSILON, chosen, random_legal, run


def search_flat(
    tree: BatchTree, prior: np.ndarray, legal: np.ndarray, root_q: np.ndarray, root_value: float
) -> None:
    """Search where a root action is worth ``root_q (A,)`` and nothing happens afterwards."""
    tree.reset(prior, legal, np.full(len(prior), root_value))
    for _ in range(tree.num_simulations):
        parent, action = tree.select()
        tree.expand_and_backup(
            np.where(parent == 0, root_q[action], 0.0), np.zeros(len(prior)), prior
        )


def test_the_prior_is_recovered_where_all_q_are_equal():
    rng = np.random.default_rng(0)
    legal = random_legal(rng, 40, 9)
    prior = rng.dirichlet(np.ones(9), size=40) * legal
    prior /= prior.sum(axis=1, keepdims=True)
    tree = GumbelTree(40, 20, 9, discount=1.0, rng=rng)
    search_flat(tree, prior, legal, np.full(9, 0.7), 0.7)
    np.testing.assert_allclose(tree.improved_policy(), prior, atol=1e-5)
    np.testing.assert_allclose(tree.root_values(), 0.7, rtol=1e-6)


def test_the_improved_policy_is_a_distribution_over_legal_actions():
    legal = random_legal(np.random.default_rng(5), 30, 18)
    tree = GumbelTree(30, 20, 18, discount=DISCOUNT, c_scale=30.0, rng=np.random.default_rng(5))
    run(tree, list(range(30)), legal)
    policy = tree.improved_policy()
    np.testing.assert_allclose(policy.sum(axis=1), 1)
    assert (policy >= 0).all() and not policy[~legal].any()
    assert not tree.visit_counts()[~legal].any()
    assert legal[np.arange(30), chosen(tree)].all()
    np.testing.assert_array_equal(tree.visit_counts().sum(axis=1), 20)


def test_actions_whose_prior_vanished_are_harmless():
    """A softmax can underflow to zero on legal actions, even on the best one."""
    prior = np.array([[1.0, 0.0, 0.0, 0.0]])
    tree = GumbelTree(1, 12, 4, discount=1.0, c_scale=100.0, rng=np.random.default_rng(0))
    search_flat(
        tree, prior, np.array([[True, True, True, False]]), np.array([0.0, 1.0, 0.5, 9.0]), 0.0
    )
    np.testing.assert_array_equal(tree.improved_policy(), prior)
    assert tree.visit_counts().sum() == 12 and not tree.visit_counts()[0, 3]


@pytest.mark.parametrize("gap, share", [(3.0, 1.0), (0.02, 1.0), (EPSILON / 4, 0.25)])
@pytest.mark.parametrize("c_visit, c_scale", [(50.0, 0.1), (10.0, 0.5), (0.0, 0.1)])
def test_sigma_adds_its_scale_times_the_rescaled_q_to_the_logits(gap, share, c_visit, c_scale):
    """A gap in Q below ``min_max_epsilon`` is not stretched to the full scale."""
    prior = np.array([[0.7, 0.3]])
    tree = GumbelTree(1, 12, 2, discount=1.0, c_visit=c_visit, c_scale=c_scale)
    search_flat(tree, prior, np.ones((1, 2), bool), np.array([0.0, gap]), 0.0)
    gained = np.log(tree.improved_policy()[0] / prior[0])
    assert gained[1] - gained[0] == pytest.approx(
        (c_visit + tree.visit_counts().max()) * c_scale * share, rel=1e-4
    )


def test_unvisited_actions_are_worth_the_mixed_value():
    """Of three actions two are tried, Q 1 and -1; the network's own value of the root counts as one
    of 13 visits.
    """
    prior, q = np.array([[0.5, 0.2, 0.3]]), np.array([1.0, -1.0, 77.0])
    tree = GumbelTree(1, 12, 3, discount=1.0, max_considered_actions=2, c_visit=0.0, c_scale=1 / 6)
    tree.reset(prior, np.ones((1, 3), bool), np.array([5.0]))
    for action in [0, 1] * 6:
        parent, taken = tree.select(np.array([action]))
        tree.expand_and_backup(np.where(parent == 0, q[taken], 0.0), np.zeros(1), prior)
    mixed = (5 + 12 * (0.5 - 0.2) / 0.7) / 13
    gained = np.log(tree.improved_policy()[0] / prior[0])
    np.testing.assert_allclose(gained - gained[0], (np.array([1, -1, mixed]) - 1) / 2, atol=1e-5)


def test_without_knowledge_of_q_actions_are_drawn_from_the_prior_without_replacement():
    rng, num_roots = np.random.default_rng(11), 30_000
    p = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
    prior, legal = np.tile(p, (num_roots, 1)), np.ones((num_roots, 5), bool)
    tree = GumbelTree(num_roots, 4, 5, discount=1.0, max_considered_actions=2, rng=rng)
    search_flat(tree, prior, legal, np.zeros(5), 0.0)
    assert chisquare(np.bincount(chosen(tree), minlength=5), num_roots * p).pvalue > 1e-3
    pairs = tree.visit_counts() > 0
    assert (pairs.sum(axis=1) == 2).all()
    first, second = np.triu_indices(5, 1)
    expected = p[first] * p[second] * (1 / (1 - p[first]) + 1 / (1 - p[second]))
    observed = (pairs[:, first] & pairs[:, second]).sum(axis=0)
    assert chisquare(observed, num_roots * expected).pvalue > 1e-3


def test_misuse_is_refused():
    prior, legal = np.full((1, 3), 1 / 3), np.ones((1, 3), bool)
    tree = GumbelTree(1, 2, 3, discount=0.9)
    with pytest.raises(ValueError, match="network_value is None"):
        tree.reset(prior, legal)
    with pytest.raises(ValueError, match="network_value of root 0"):
        tree.reset(prior, legal, np.array([np.nan]))
    with pytest.raises(RuntimeError, match="call reset"):
        tree.select_round()
    tree.reset(prior, legal, np.zeros(1))
    assert len(tree.select_round().root) == 2
    with pytest.raises(ValueError, match="reward has shape"):
        tree.expand_and_backup(np.zeros(1), np.zeros(2), prior.repeat(2, axis=0))
    with pytest.raises(ValueError, match="value of root 0"):
        tree.expand_and_backup(np.zeros(2), np.array([0, np.nan]), prior.repeat(2, axis=0))
    with pytest.raises(ValueError, match="prior of root 0"):
        tree.expand_and_backup(np.zeros(2), np.zeros(2), np.array([[1.0, 0, 0], [1, 1, 1]]))
    tree.expand_and_backup(np.zeros(2), np.zeros(2), prior.repeat(2, axis=0))
    for select in (tree.select, tree.select_round):
        with pytest.raises(RuntimeError, match="simulations are done"):
            select()
    for arguments in (
        {"max_considered_actions": 0},
        {"c_visit": -1.0},
        {"c_scale": 0.0},
        {"min_max_epsilon": 0.0},
    ):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            GumbelTree(1, 2, 3, discount=0.9, **arguments)


@pytest.mark.parametrize("kind", ["puct", "gumbel"])
def test_an_actor_decides_by_the_configured_search_and_tells_the_networks_own_opinion(kind):
    torch.manual_seed(0)
    config = ExperimentConfig.model_validate(
        {
            "env": {"games": ("Pong", "Boxing")},
            "model": {
                "embed_dim": 16,
                "num_heads": 2,
                "moe": {"enabled": False},
                "encoder": {"kind": "mlp", "hidden": [8]},
            },
            "policy": {"search": {"kind": kind, "num_simulations": 8}},
        }
    )
    policy = UniZeroMTPolicy(config, (4,), np.ones((2, 5), bool))
    net = policy.model
    for parameter in net.world_model.parameters():
        if parameter.ndim == 3 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    legal = np.ones((6, 5), bool)
    legal[3:, 4] = False
    observation = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)

    def actor(seed: int | None) -> Actor:
        rng = None if seed is None else np.random.default_rng(seed)
        return Actor(policy, np.array([0, 0, 0, 1, 1, 1]), legal, rng)

    quiet = actor(None)
    decision = quiet.act(observation)
    assert decision.prior.shape == decision.policy.shape == (
        6,
        5,
    ) and decision.network_value.shape == (6,)
    np.testing.assert_allclose(decision.prior.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(decision.prior, quiet.tree.arrays.prior[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(decision.network_value, quiet.tree.arrays.network_value[:, 0])
    assert not decision.policy[~legal].any() and not decision.prior[~legal].any()
    np.testing.assert_array_equal(decision.action, actor(None).act(observation).action)

    loud, seen = actor(0), set()
    for _ in range(20):
        loud.forget(np.ones(6, bool))
        explored = loud.act(observation)
        np.testing.assert_allclose(explored.prior, decision.prior, rtol=1e-5)
        is_own = np.allclose(loud.tree.arrays.prior[:, 0], decision.prior, rtol=1e-5)
        assert is_own == (kind == "gumbel"), "Dirichlet noise belongs to puct"
        assert legal[np.arange(6), explored.action].all()
        seen.add(tuple(explored.action))
    assert len(seen) > 5
    np.testing.assert_array_equal(
        actor(1).act(observation).action, actor(1).act(observation).action
    )

    at_random = loud.act_randomly()
    np.testing.assert_allclose(at_random.prior, legal / legal.sum(axis=1, keepdims=True), rtol=1e-6)
    np.testing.assert_array_equal(at_random.prior, at_random.policy)
    assert not at_random.network_value.any() and not at_random.value.any()
