"""Gumbel search against a recursive one over node objects; its schedule and its rounds."""

import numpy as np
import pytest

from lzero.mcts.gumbel import GumbelTree, halving_phases, halving_schedule
from lzero.mcts.kernels import Edges
from tests.mcts.gumbel_cases import (
    DISCOUNT,
    chosen,
    one_simulation,
    random_legal,
    reference_search,
    run,
    run_by,
)


@pytest.mark.parametrize("num_actions, max_considered", [(2, 16), (6, 4), (18, 16), (18, 5)])
@pytest.mark.parametrize("num_simulations", [1, 7, 16, 50])
@pytest.mark.parametrize("noisy", [False, True])
def test_equals_recursive_reference(num_actions, max_considered, num_simulations, noisy):
    seeds = list(range(12))
    legal = random_legal(np.random.default_rng(7), 12, num_actions)
    legal[0] = True
    tree = GumbelTree(
        12, num_simulations, num_actions, discount=DISCOUNT, max_considered_actions=max_considered,
        rng=np.random.default_rng(1) if noisy else None,
    )  # fmt: skip
    noise = np.random.default_rng(1).gumbel(size=legal.shape) if noisy else np.zeros(legal.shape)
    run(tree, seeds, legal)
    actions, policy, values = chosen(tree), tree.improved_policy(), tree.root_values()
    for root, seed in enumerate(seeds):
        expected, action = reference_search(
            seed, legal[root], num_simulations, max_considered, noise[root]
        )
        assert {a: tree.visit_counts()[root, a] for a in expected.visits} == expected.visits
        assert actions[root] == action
        expected_policy, q = expected.improved_policy(), expected.completed_q()
        np.testing.assert_allclose(
            policy[root, list(expected_policy)], list(expected_policy.values()), atol=1e-6
        )
        assert values[root] == pytest.approx(
            sum(p * q[a] for a, p in expected_policy.items()), rel=1e-5, abs=1e-5
        )


@pytest.mark.parametrize(
    "num_actions, max_considered", [(2, 16), (6, 4), (18, 16), (18, 5), (18, 2), (18, 1)]
)
@pytest.mark.parametrize("num_simulations", [1, 7, 16, 25, 50])
@pytest.mark.parametrize("noisy", [False, True])
def test_rounds_build_the_trees_of_one_simulation_after_the_other(
    num_actions, max_considered, num_simulations, noisy
):
    """Numbers of legal actions, and with them the rounds, differ between the roots."""
    seeds = list(range(10))
    legal = random_legal(np.random.default_rng(7), 10, num_actions)
    legal[0], legal[1] = True, np.arange(num_actions) == 1

    def tree() -> GumbelTree:
        return GumbelTree(
            10,
            num_simulations,
            num_actions,
            discount=DISCOUNT,
            max_considered_actions=max_considered,
            rng=np.random.default_rng(1) if noisy else None,
        )

    in_rounds, one_by_one = tree(), tree()
    steps = run_by(GumbelTree.select_round, in_rounds, seeds, legal)
    run_by(one_simulation, one_by_one, seeds, legal)
    for name, expected in one_by_one.arrays._asdict().items():
        np.testing.assert_array_equal(getattr(in_rounds.arrays, name), expected, err_msg=name)
    np.testing.assert_array_equal(in_rounds.action_weights(), one_by_one.action_weights())
    np.testing.assert_array_equal(in_rounds.improved_policy(), one_by_one.improved_policy())
    np.testing.assert_array_equal(in_rounds.root_values(), one_by_one.root_values())

    nodes = [np.empty(0, np.int64)] * 10
    for edges in steps:
        assert (np.diff(edges.root) >= 0).all()
        for root in range(10):
            nodes[root] = np.append(nodes[root], edges.node[edges.root == root])
    for root in range(10):
        np.testing.assert_array_equal(nodes[root], np.arange(1, num_simulations + 1))


def test_a_round_takes_every_action_in_the_running_once():
    """16 simulations: 16 actions or more are one round; 6 actions 6, 3, then 7 for the last two."""
    legal = np.arange(18) < np.array([16, 6, 1, 18])[:, None]
    tree = GumbelTree(4, 16, 18, discount=DISCOUNT)
    steps = run_by(GumbelTree.select_round, tree, list(range(4)), legal)
    widths = np.array([np.bincount(edges.root, minlength=4) for edges in steps])
    assert widths[:, 0].tolist() == widths[:, 3].tolist() == [16] + [0] * 15
    assert widths[:, 1].tolist() == [6, 3, 2, 2, 2, 1] + [0] * 10
    assert widths[:, 2].tolist() == [1] * 16


def test_rounds_and_single_simulations_may_alternate():
    """A round that follows single simulations is what they have left of theirs."""
    legal = np.arange(6) < np.array([6, 3, 2, 5])[:, None]
    mixed, one_by_one = (GumbelTree(4, 20, 6, discount=DISCOUNT) for _ in range(2))

    def alternate(tree: GumbelTree) -> Edges:
        together = np.ptp(tree.arrays.visits[:, 0]) == 0
        return one_simulation(tree) if together and tree.simulation % 5 else tree.select_round()

    steps = run_by(alternate, mixed, list(range(4)), legal)
    run_by(one_simulation, one_by_one, list(range(4)), legal)
    assert len(steps) < 20
    for expected, got in zip(one_by_one.arrays, mixed.arrays, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_batch_equals_single_roots_and_memory_is_reused():
    seeds, legal = list(range(20, 26)), random_legal(np.random.default_rng(3), 6, 18)
    batch = GumbelTree(6, 30, 18, discount=DISCOUNT, rng=np.random.default_rng(2))
    run(
        batch, list(range(6)), np.ones((6, 18), bool)
    )  # leftovers of an earlier search must not show
    run(batch, seeds, legal)
    rng = np.random.default_rng(2)
    rng.gumbel(size=(6, 18))
    for root, seed in enumerate(seeds):
        single = run(
            GumbelTree(1, 30, 18, discount=DISCOUNT, rng=rng), [seed], legal[root : root + 1]
        )
        np.testing.assert_array_equal(single.visit_counts()[0], batch.visit_counts()[root])
        np.testing.assert_array_equal(single.improved_policy()[0], batch.improved_policy()[root])
        assert chosen(single)[0] == chosen(batch)[root]
        assert single.root_values()[0] == batch.root_values()[root]


@pytest.mark.parametrize(
    "num_considered, num_simulations, phases",
    [
        (16, 200, [(16, 48), (8, 48), (4, 48), (2, 56)]),
        (4, 16, [(4, 8), (2, 8)]),
        (16, 25, [(16, 16), (8, 8), (4, 1)]),
        (16, 16, [(16, 16)]),
        (5, 50, [(5, 15), (3, 15), (2, 20)]),
        (2, 9, [(2, 9)]),
        (1, 7, [(1, 7)]),
    ],
)
def test_phases_share_the_budget(num_considered, num_simulations, phases):
    assert halving_phases(num_considered, num_simulations) == phases


def test_every_budget_is_used_up_by_halving():
    for num_simulations in range(1, 70):
        max_considered = min(18, num_simulations)
        schedule = halving_schedule(max_considered, num_simulations)
        for considered in range(1, max_considered + 1):
            actions, used = zip(*halving_phases(considered, num_simulations), strict=True)
            assert sum(used) == num_simulations and actions[0] == considered
            assert all(
                after == -(-before // 2)
                for before, after in zip(actions, actions[1:], strict=False)
            )
            assert all(
                count % kept == 0 for kept, count in zip(actions[:-1], used[:-1], strict=True)
            )
            starts = np.cumsum((0, *used[:-1]))
            np.testing.assert_array_equal(np.flatnonzero(schedule.kept[considered]), starts)
            assert schedule.kept[considered, starts].tolist() == list(actions)
            for start, kept, count in zip(starts, actions, used, strict=True):
                visits = np.bincount(
                    schedule.rank[considered, start : start + count], minlength=kept
                )
                assert len(visits) == kept and np.ptp(visits) <= 1
            ends = schedule.round_end[considered]
            first, rounds = 0, []
            while first < num_simulations:
                assert (ends[first : ends[first]] == ends[first]).all()
                rounds.append(slice(first, ends[first]))
                first = ends[first]
            assert first == ends[-1] == num_simulations
            assert set(starts) <= {turn.start for turn in rounds}  # none runs into the next phase
            for turn in rounds:
                ranks = schedule.rank[considered, turn]
                np.testing.assert_array_equal(ranks, np.arange(len(ranks)))


@pytest.mark.parametrize(
    "legal_actions, num_simulations, visits",
    [
        (18, 200, [49] * 2 + [21] * 2 + [9] * 4 + [3] * 8 + [0] * 2),
        (18, 25, [3] + [2] * 7 + [1] * 8 + [0] * 2),
        (18, 10, [1] * 10 + [0] * 8),
        (3, 25, [11, 10, 4]),
        (1, 25, [25]),
    ],
)
def test_visits_go_to_the_better_half_phase_by_phase(legal_actions, num_simulations, visits):
    """Q and prior agree that a lower action is better, so that the halves are known."""
    legal = np.arange(18)[None] < legal_actions
    prior = np.linspace(2, 1, 18)[None] / np.linspace(2, 1, 18).sum()
    tree = GumbelTree(1, num_simulations, 18, discount=1.0)
    tree.reset(prior, legal, np.zeros(1))
    for _ in range(num_simulations):
        parent, action = tree.select()
        reward = np.where(parent == 0, -action / 18, 0.0)
        tree.expand_and_backup(reward, np.zeros(1), prior)
    assert tree.visit_counts()[0, : len(visits)].tolist() == visits
    assert chosen(tree)[0] == 0
