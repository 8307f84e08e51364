"""Trees of any size over any model: they are the recursive search, and budgets, legal actions and bounds hold."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lzero.mcts.gumbel import GumbelTree
from lzero.mcts.tree import BatchTree
from tests.mcts import gumbel_cases, test_tree

SIZES = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 12))
"""Roots, actions, simulations."""
SEEDS = st.integers(0, 2**32 - 1)
NUMBERS = st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, 1e-30, -1e-30])
DISCOUNTS = st.floats(0.001, 1.0)


@given(SIZES, SEEDS)
def test_puct_is_the_recursive_search(sizes, seed):
    num_roots, num_actions, num_simulations = sizes
    rng = np.random.default_rng(seed)
    legal = test_tree.random_legal(rng, num_roots, num_actions)
    seeds = rng.integers(0, 2**16, num_roots).tolist()
    tree = BatchTree(num_roots, num_simulations, num_actions, discount=test_tree.DISCOUNT)
    test_tree.run(tree, seeds, legal, num_simulations)
    for root, seed_of_root in enumerate(seeds):
        counts, value = test_tree.reference_search(seed_of_root, legal[root], num_simulations)
        assert tree.visit_counts()[root].tolist() == counts
        assert np.isclose(tree.root_values()[root], value, rtol=1e-6, atol=1e-6)


@given(SIZES, SEEDS, st.integers(1, 8))
def test_gumbel_is_the_recursive_search(sizes, seed, max_considered):
    num_roots, num_actions, num_simulations = sizes
    rng = np.random.default_rng(seed)
    legal = gumbel_cases.random_legal(rng, num_roots, num_actions)
    seeds = rng.integers(0, 2**16, num_roots).tolist()
    tree = GumbelTree(
        num_roots,
        num_simulations,
        num_actions,
        discount=gumbel_cases.DISCOUNT,
        max_considered_actions=max_considered,
    )
    gumbel_cases.run(tree, seeds, legal)
    for root, seed_of_root in enumerate(seeds):
        node, action = gumbel_cases.reference_search(
            seed_of_root, legal[root], num_simulations, max_considered, np.zeros(num_actions)
        )
        assert tree.action_weights()[root].argmax() == action
        counts = [node.visits.get(a, 0) for a in range(num_actions)]
        assert tree.visit_counts()[root].tolist() == counts


@given(st.data(), SIZES, DISCOUNTS, st.sampled_from(["puct", "gumbel"]))
def test_any_answers_keep_the_budget_and_the_bounds(data, sizes, discount, kind):
    num_roots, num_actions, num_simulations = sizes
    make = BatchTree if kind == "puct" else GumbelTree
    tree = make(num_roots, num_simulations, num_actions, discount=discount)
    rng = np.random.default_rng(data.draw(SEEDS))
    legal = test_tree.random_legal(rng, num_roots, num_actions)

    def drawn(size: int) -> np.ndarray:
        return np.array(data.draw(st.lists(NUMBERS, min_size=size, max_size=size)), np.float32)

    def prior(size: int) -> np.ndarray:
        peaked = rng.gamma(0.1, 1.0, (size, num_actions)) + 1e-30  # most of it on one action
        return (peaked / peaked.sum(axis=1, keepdims=True)).astype(np.float32)

    first = drawn(num_roots)
    tree.reset(prior(num_roots), legal, first)
    rewards, values = [], [first]
    for _ in range(num_simulations):
        tree.select()
        rewards.append(drawn(num_roots))
        values.append(drawn(num_roots))
        survival = rng.choice([0.0, 0.5, 1.0], num_roots)
        tree.expand_and_backup(rewards[-1], values[-1], prior(num_roots), survival)
    counts = tree.visit_counts()
    assert (counts.sum(axis=1) == num_simulations).all() and not counts[~legal].any()
    # no return is larger than all rewards on the longest path and the largest value behind it
    bound = num_simulations * np.abs(rewards).max() + np.abs(values).max()
    root_values = tree.root_values()
    assert np.isfinite(root_values).all() and (np.abs(root_values) <= bound * (1 + 1e-5)).all()
    if kind == "gumbel":
        policy = tree.improved_policy()
        assert np.allclose(policy.sum(axis=1), 1) and not policy[~legal].any()
        assert (policy >= 0).all()
