"""The array tree against a plain recursive search over node objects, and properties of the search
itself.
"""

import math
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest

from lzero.mcts.tree import BatchTree
from tests.mcts.random_nodes import random_node

DISCOUNT = 0.997
# Offset and spread of a model's rewards and values, by seed: mixed signs, all positive, nearly flat
# (a range of Q below the smallest one the search rescales by).
REGIMES = ((0.0, 1.0), (5.0, 1.0), (0.0, 5e-4))


model = partial(random_node, regimes=REGIMES)


@dataclass
class Node:
    """A node of the reference search."""

    reward: float
    evaluation: (
        float | None
    )  # None at the root, whose own evaluation is not among the backed-up returns
    prior: np.ndarray
    returns: list[float] = field(default_factory=list)
    children: dict[int, "Node"] = field(default_factory=dict)

    @property
    def q(self) -> float:
        return self.reward + DISCOUNT * sum(self.returns) / len(self.returns)

    def below(self) -> list["Node"]:
        return [node for child in self.children.values() for node in (child, *child.below())]


def legal_prior(prior: np.ndarray, legal: np.ndarray) -> np.ndarray:
    masked = np.where(legal, prior.astype(np.float64), 0)
    return (masked / masked.sum()).astype(np.float32)


def reference_scores(node: Node, root: Node, mean_q: float, num_actions: int) -> list[float]:
    qs = [other.q for other in root.below()]
    n = 1 + sum(len(child.returns) for child in node.children.values())
    scores = []
    for action in range(num_actions):
        child = node.children.get(action)
        q = child.q if child else mean_q
        if qs and max(qs) > min(qs):
            q = min(1.0, max(0.0, (q - min(qs)) / max(max(qs) - min(qs), 0.01)))
        visits = len(child.returns) if child else 0
        scale = 1.25 + math.log((n + 19652 + 1) / 19652)
        scores.append(q + float(node.prior[action]) * math.sqrt(n) / (1 + visits) * scale)
    return scores


def reference_simulation(
    node: Node,
    root: Node,
    parent_mean_q: float | None,
    path: tuple[int, ...],
    seed: int,
    legal: np.ndarray,
) -> float:
    """One simulation from ``node`` down; returns what the node's parent sees as this node's value."""
    visited = [child.q for child in node.children.values()]
    if parent_mean_q is None:
        mean_q = sum(visited) / len(visited) if visited else 0.0
    else:
        mean_q = (parent_mean_q + sum(visited)) / (1 + len(visited))
    scores = reference_scores(node, root, mean_q, len(legal))
    best = max(score for score, ok in zip(scores, legal, strict=True) if ok)
    action = next(a for a, score in enumerate(scores) if legal[a] and score >= best - 1e-6)
    if action in node.children:
        child = node.children[action]
        value = reference_simulation(child, root, mean_q, (*path, action), seed, legal)
    else:
        reward, value, prior = model(seed, (*path, action), len(legal))
        child = node.children[action] = Node(reward, value, legal_prior(prior, legal))
        child.returns.append(value)
    backed_up = child.reward + DISCOUNT * value
    node.returns.append(backed_up)
    return backed_up


def reference_search(seed: int, legal: np.ndarray, num_simulations: int) -> tuple[list[int], float]:
    root = Node(0.0, None, legal_prior(model(seed, (), len(legal))[2], legal))
    for _ in range(num_simulations):
        reference_simulation(root, root, None, (), seed, legal)
    counts = [len(root.children[a].returns) if a in root.children else 0 for a in range(len(legal))]
    return counts, sum(root.returns) / len(root.returns)


def run(tree: BatchTree, seeds: list[int], legal: np.ndarray, num_simulations: int) -> BatchTree:
    """Search with one model seed per root, through the public interface only."""
    num_actions = legal.shape[1]
    paths: list[dict[int, tuple[int, ...]]] = [{0: ()} for _ in seeds]
    tree.reset(np.stack([model(seed, (), num_actions)[2] for seed in seeds]), legal)
    for simulation in range(num_simulations):
        assert tree.simulation == simulation
        parents, actions = tree.select()
        outputs = []
        for seed, known, parent, action in zip(seeds, paths, parents, actions, strict=True):
            known[simulation + 1] = (*known[int(parent)], int(action))
            outputs.append(model(seed, known[simulation + 1], num_actions))
        reward, value, prior = zip(*outputs, strict=True)
        tree.expand_and_backup(np.array(reward), np.array(value), np.stack(prior))
    return tree


def random_legal(rng: np.random.Generator, num_roots: int, num_actions: int) -> np.ndarray:
    legal = rng.random((num_roots, num_actions)) < 0.6
    legal[np.arange(num_roots), rng.integers(0, num_actions, num_roots)] = True
    return legal


@pytest.mark.parametrize("num_actions", [2, 18])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_recursive_reference(num_actions, masked):
    seeds, simulations = list(range(9)), 60
    legal = np.ones((9, num_actions), bool)
    if masked:
        legal = random_legal(np.random.default_rng(7), 9, num_actions)
    tree = run(BatchTree(9, simulations, num_actions, discount=DISCOUNT), seeds, legal, simulations)
    for root, seed in enumerate(seeds):
        counts, value = reference_search(seed, legal[root], simulations)
        assert tree.visit_counts()[root].tolist() == counts
        assert tree.root_values()[root] == pytest.approx(value, rel=1e-6, abs=1e-6)


def test_batch_equals_single_roots_and_memory_is_reused():
    rng = np.random.default_rng(3)
    seeds, simulations = list(range(20, 26)), 30
    legal = random_legal(rng, 6, 18)
    batch = BatchTree(6, simulations, 18, discount=DISCOUNT)
    addresses = [array.ctypes.data for array in batch.arrays]
    # Leftovers of an earlier search must not show.
    run(batch, list(range(6)), np.ones((6, 18), bool), simulations)
    run(batch, seeds, legal, simulations)
    assert addresses == [array.ctypes.data for array in batch.arrays]
    for root, seed in enumerate(seeds):
        single = BatchTree(1, simulations, 18, discount=DISCOUNT)
        run(single, [seed], legal[root : root + 1], simulations)
        np.testing.assert_array_equal(batch.visit_counts()[root], single.visit_counts()[0])
        assert batch.root_values()[root] == single.root_values()[0]


def test_illegal_actions_are_visited_nowhere_and_visits_add_up():
    legal = random_legal(np.random.default_rng(5), 12, 18)
    tree = run(BatchTree(12, 40, 18, discount=DISCOUNT), list(range(12)), legal, 40)
    np.testing.assert_array_equal(tree.visit_counts().sum(axis=1), 40)
    assert not tree.arrays.children.any(axis=1)[~legal].any()
    assert not tree.arrays.prior.any(axis=1)[~legal].any()
    np.testing.assert_allclose(tree.arrays.prior.sum(axis=2), 1, rtol=1e-5)
    roots = np.arange(12)[:, None]
    nodes = np.arange(1, 41)
    edges = tree.arrays.children[roots, tree.arrays.parent[:, 1:], tree.arrays.action[:, 1:]]
    np.testing.assert_array_equal(edges, np.broadcast_to(nodes, edges.shape))


def test_full_softmax_and_legal_softmax_give_the_same_search():
    legal = random_legal(np.random.default_rng(6), 4, 6)
    prior = np.random.default_rng(8).dirichlet(np.ones(6), size=4)
    masked = np.where(legal, prior, 0)
    counts = []
    for root_prior in (prior, masked / masked.sum(axis=1, keepdims=True)):
        tree = BatchTree(4, 20, 6, discount=DISCOUNT)
        tree.reset(root_prior, legal)
        for _ in range(20):
            _, action = tree.select()
            tree.expand_and_backup(action / 10, action / 5, root_prior)
        counts.append(tree.visit_counts())
    np.testing.assert_array_equal(*counts)


def test_finds_the_best_first_step_of_a_small_mdp():
    """Action 1 pays 0.1 at once; action 0 nothing, but only behind it, at 0, 1, 1, lies reward 1."""

    def reward_of(path: tuple[int, ...]) -> float:
        if len(path) == 1:
            return 0.1 * path[0]
        return 1.0 if path == (0, 1, 1) else 0.0

    tree = BatchTree(1, 800, 2, discount=DISCOUNT)
    paths: dict[int, tuple[int, ...]] = {0: ()}
    uniform = np.full((1, 2), 0.5, np.float32)
    tree.reset(uniform, np.ones((1, 2), bool))
    for simulation in range(800):
        parent, action = tree.select()
        paths[simulation + 1] = (*paths[int(parent[0])], int(action[0]))
        tree.expand_and_backup(np.array([reward_of(paths[simulation + 1])]), np.zeros(1), uniform)
    counts = tree.visit_counts()[0]
    assert counts[0] > 4 * counts[1]
    behind_best = tree.arrays.visits[0, tree.arrays.children[0, tree.arrays.children[0, 0, 0]]]
    assert behind_best[1] > 4 * behind_best[0]
    assert 0.7 < tree.root_values()[0] < 1


def one_choice(tree: BatchTree, prior: np.ndarray) -> np.ndarray:
    tree.reset(prior, np.ones(prior.shape, bool))
    return tree.select()[1]


def test_ties_go_to_the_lowest_action_or_to_all_tied_ones():
    prior = np.tile(np.array([0.1, 0.3, 0.3, 0.3 - 1e-7, 0.0]), (3000, 1)).astype(np.float32)
    prior[:, 0] = 1 - prior[:, 1:].sum(axis=1)
    fixed = BatchTree(3000, 1, 5, discount=DISCOUNT)
    assert set(one_choice(fixed, prior)) == {1}
    drawn = one_choice(
        BatchTree(3000, 1, 5, discount=DISCOUNT, deterministic=False, rng=np.random.default_rng(0)),
        prior,
    )
    counts = np.bincount(drawn, minlength=5)
    assert counts[[0, 4]].sum() == 0
    assert (np.abs(counts[1:4] - 1000) < 150).all()


def test_random_ties_repeat_with_the_generator_and_deterministic_draws_nothing():
    prior = np.full((50, 18), 1 / 18, np.float32)
    draws = []
    for _ in range(2):
        rng = np.random.default_rng(4)
        draws.append(
            one_choice(BatchTree(50, 1, 18, discount=1.0, deterministic=False, rng=rng), prior)
        )
    np.testing.assert_array_equal(*draws)
    rng = np.random.default_rng(4)
    one_choice(BatchTree(50, 1, 18, discount=1.0, rng=rng), prior)
    assert rng.random() == np.random.default_rng(4).random()


def test_first_choice_at_every_new_node_follows_the_prior():
    rng = np.random.default_rng(9)
    prior = rng.dirichlet(np.ones(18), size=(31, 5)).astype(np.float32)
    tree = BatchTree(5, 30, 18, discount=DISCOUNT)
    tree.reset(prior[0], np.ones((5, 18), bool))
    first_choices = 0
    for simulation in range(30):
        parent, action = tree.select()
        for root in range(5):
            if not tree.arrays.children[root, parent[root]].any():
                assert action[root] == prior[parent[root], root].argmax()
                first_choices += 1
        tree.expand_and_backup(rng.normal(size=5), rng.normal(size=5), prior[simulation + 1])
    assert first_choices > 20


def test_forced_root_actions():
    tree = BatchTree(2, 12, 3, discount=DISCOUNT)
    prior = np.full((2, 3), 1 / 3, np.float32)
    tree.reset(prior, np.array([[True, True, True], [True, False, True]]))
    forced = np.array([[0, 2], [0, 2], [1, 0], [0, 0]] * 3)
    for root_action in forced:
        parent, action = tree.select(root_action)
        at_root = parent == 0
        np.testing.assert_array_equal(action[at_root], root_action[at_root])
        tree.expand_and_backup(np.zeros(2), np.ones(2), prior)
    expected = np.stack([np.bincount(column, minlength=3) for column in forced.T])
    np.testing.assert_array_equal(tree.visit_counts(), expected)
    tree.reset(prior, np.array([[True, True, True], [True, False, True]]))
    for bad in ([0, 1], [0, 3], [-1, 0]):
        with pytest.raises(ValueError, match="root_action of root"):
            tree.select(np.array(bad))


def test_a_round_is_one_simulation_of_every_root():
    """Where a simulation of pUCT goes depends on what all earlier ones found."""
    rng = np.random.default_rng(2)
    legal = random_legal(rng, 5, 4)
    prior = np.where(legal, rng.dirichlet(np.ones(4), size=(13, 5)) + 0.1, 0)
    prior /= prior.sum(axis=2, keepdims=True)
    trees = BatchTree(5, 12, 4, discount=DISCOUNT), BatchTree(5, 12, 4, discount=DISCOUNT)
    for tree in trees:
        tree.reset(prior[0], legal)
    for simulation in range(12):
        edges, (parent, action) = trees[0].select_round(), trees[1].select()
        np.testing.assert_array_equal(edges.root, np.arange(5))
        np.testing.assert_array_equal(edges.node, np.full(5, simulation + 1))
        np.testing.assert_array_equal(edges.parent, parent)
        np.testing.assert_array_equal(edges.action, action)
        reward, value = rng.normal(size=(2, 5))
        for tree in trees:
            tree.expand_and_backup(reward, value, prior[simulation + 1])
    for in_rounds, one_by_one in zip(trees[0].arrays, trees[1].arrays, strict=True):
        np.testing.assert_array_equal(in_rounds, one_by_one)


def test_root_value_is_the_mean_of_backed_up_returns():
    tree = BatchTree(1, 2, 2, discount=0.5)
    tree.reset(np.array([[0.9, 0.1]]), np.ones((1, 2), bool))
    tree.select()
    tree.expand_and_backup(np.array([1.0]), np.array([4.0]), np.array([[0.9, 0.1]]))
    assert tree.root_values()[0] == 3  # 1 + 0.5·4
    parent, action = tree.select()
    assert (parent[0], action[0]) == (1, 0)
    tree.expand_and_backup(np.array([2.0]), np.array([8.0]), np.array([[0.9, 0.1]]))
    assert tree.root_values()[0] == (3 + (1 + 0.5 * (2 + 0.5 * 8))) / 2
    assert tree.arrays.q[0, 1] == 1 + 0.5 * (4 + 6) / 2


def test_rescaling_follows_the_current_range_of_q():
    """A Q that was the highest once but is not any more must not stretch the range.

    Node 1 falls from 10 to 0.5, so Q ranges over -9…0.5 and action 0 leads by 0.053 after
    rescaling, more than the 0.04 by which the prior favours action 1. Over the stale range -9…10 it
    would lead by 0.026 only.
    """
    tree = BatchTree(1, 4, 2, discount=1.0)
    prior = np.array([[0.5808, 0.4192]])
    tree.reset(prior, np.ones((1, 2), bool))
    for value, forced in ((10.0, 0), (0.0, 1), (-9.0, 0)):
        tree.select(np.array([forced]))
        tree.expand_and_backup(np.zeros(1), np.array([value]), prior)
    np.testing.assert_allclose(tree.arrays.q[0, 1:4], [0.5, 0.0, -9.0])
    tree.select()
    tree.expand_and_backup(np.zeros(1), np.zeros(1), prior)
    np.testing.assert_array_equal(tree.visit_counts(), [[3, 1]])


def test_misuse_is_refused():
    tree = BatchTree(2, 1, 3, discount=DISCOUNT)
    prior, legal = np.full((2, 3), 1 / 3, np.float32), np.ones((2, 3), bool)
    with pytest.raises(RuntimeError, match="call reset"):
        tree.select()
    for bad_prior in (
        prior[:1],
        prior * 2,
        -prior,
        prior * np.nan,
        np.array([[1.0, 0, 0], [1e9, -1e9, 1]]),
    ):
        with pytest.raises(ValueError, match="prior"):
            tree.reset(bad_prior, legal)
    with pytest.raises(ValueError, match="root 1"):
        tree.reset(prior, np.array([[True] * 3, [False] * 3]))
    with pytest.raises(ValueError, match="prior of root 0"):
        tree.reset(np.array([[0.0, 1.0, 0.0]] * 2), np.array([[True, False, True]] * 2))
    with pytest.raises(ValueError, match="dtype"):
        tree.reset(prior, legal.astype(np.int64))
    with pytest.raises(RuntimeError, match="call reset"):
        tree.select()  # a refused reset leaves no half-made root behind
    tree.reset(prior, legal)
    with pytest.raises(RuntimeError, match="select"):
        tree.expand_and_backup(np.zeros(2), np.zeros(2), prior)
    with pytest.raises(RuntimeError, match="at least one simulation"):
        tree.root_values()
    tree.select()
    with pytest.raises(ValueError, match="value of root 1"):
        tree.expand_and_backup(np.zeros(2), np.array([0, np.inf]), prior)
    with pytest.raises(ValueError, match="reward has shape"):
        tree.expand_and_backup(np.zeros(3), np.zeros(2), prior)
    tree.expand_and_backup(np.zeros(2), np.zeros(2), prior)
    with pytest.raises(RuntimeError, match="simulations are done"):
        tree.select()
    with pytest.raises(RuntimeError, match="simulations are done"):
        tree.select_round()
    for arguments in ({"discount": 0.0}, {"discount": 0.9, "deterministic": False}):
        with pytest.raises(ValueError, match="discount|rng"):
            BatchTree(2, 1, 3, **arguments)
    with pytest.raises(ValueError, match="num_simulations"):
        BatchTree(2, 0, 3, discount=0.9)


def test_root_rewards_are_those_of_the_actions_tried():
    tree = BatchTree(2, 3, 3, discount=0.9)
    tree.reset(np.full((2, 3), 1 / 3, np.float32), np.ones((2, 3), bool))
    for action, reward in (([0, 1], [1.0, 2.0]), ([2, 0], [3.0, 4.0])):
        tree.select(np.array(action))
        tree.expand_and_backup(np.array(reward), np.zeros(2), np.full((2, 3), 1 / 3, np.float32))
    assert tree.root_rewards(np.array([0, 0])).tolist() == [1.0, 4.0]
    assert tree.root_rewards(np.array([2, 1])).tolist() == [3.0, 2.0]
    assert tree.root_rewards(np.array([1, 2])).tolist() == [0.0, 0.0]


def test_values_count_as_much_as_their_path_survives():
    """Root 0: r = 1, survival 0.5, V = 4; below it r = 2, survival 0, V = 100. Root 1 never ends."""
    tree = BatchTree(2, 2, 1, discount=0.9)
    prior = np.ones((2, 1), np.float32)
    tree.reset(prior, np.ones((2, 1), bool))
    tree.select()
    tree.expand_and_backup(np.array([1.0, 1.0]), np.array([4.0, 4.0]), prior, np.array([0.5, 1.0]))
    assert tree.root_values() == pytest.approx([1 + 0.45 * 4, 1 + 0.9 * 4])
    tree.select()
    reward, value, survival = np.full(2, 2.0), np.full(2, 100.0), np.array([0.0, 1.0])
    tree.expand_and_backup(reward, value, prior, survival)
    first, second = [1 + 0.45 * 4, 1 + 0.9 * 4], [1 + 0.45 * 2, 1 + 0.9 * (2 + 0.9 * 100)]
    assert tree.root_values() == pytest.approx(np.mean([first, second], axis=0))
    assert tree.arrays.q[:, 1] == pytest.approx([1 + 0.45 * (4 + 2) / 2, 1 + 0.9 * (4 + 92) / 2])
