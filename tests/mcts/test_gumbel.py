"""Gumbel search against a recursive one over node objects; its schedule, rounds, policy, draws."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from lzero.config import ExperimentConfig
from lzero.mcts.gumbel import GumbelTree, halving_phases, halving_schedule
from lzero.mcts.tree import BatchTree, Edges
from lzero.policy import UniZeroMTPolicy
from lzero.worker.actor import Actor

DISCOUNT, C_VISIT, C_SCALE, EPSILON = 0.95, 50.0, 0.1, 0.01
# Offset and spread of a model's rewards and values, by seed; in the last one Q differs by less than EPSILON.
REGIMES = ((0.0, 1.0), (5.0, 30.0), (1.0, 1e-3))


def model(seed: int, path: tuple[int, ...], num_actions: int) -> tuple[float, float, np.ndarray]:
    """Reward, value and prior of a node: a fixed random function of its path."""
    digest = hashlib.blake2b(repr((seed, path)).encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    offset, spread = REGIMES[seed % len(REGIMES)]
    reward, value = (offset + spread * rng.normal(size=2)).astype(np.float32)
    return float(reward), float(value), rng.dirichlet(np.full(num_actions, 0.5)).astype(np.float32)


@dataclass
class Node:
    """A node of the reference search; ``returns`` starts with the network's value, except at the root."""

    reward: float
    network_value: float
    prior: dict[int, float]
    returns: list[float] = field(default_factory=list)
    children: dict[int, "Node"] = field(default_factory=dict)

    @property
    def visits(self) -> dict[int, int]:
        return {a: len(self.children[a].returns) if a in self.children else 0 for a in self.prior}

    def completed_q(self) -> dict[int, float]:
        known = {
            a: c.reward + DISCOUNT * sum(c.returns) / len(c.returns)
            for a, c in self.children.items()
        }
        mixed = self.network_value
        if known:
            expected = sum(self.prior[a] * q for a, q in known.items()) / sum(
                self.prior[a] for a in known
            )
            total = sum(self.visits.values())
            mixed = (self.network_value + total * expected) / (1 + total)
        return {a: known.get(a, mixed) for a in self.prior}

    def sigma(self) -> dict[int, float]:
        q = self.completed_q()
        low, high = min(q.values()), max(q.values())
        scale = (C_VISIT + max(self.visits.values())) * C_SCALE
        return {a: scale * (q[a] - low) / max(high - low, EPSILON) for a in q}

    def improved_policy(self) -> dict[int, float]:
        sigma = self.sigma()
        logits = {a: math.log(p) + sigma[a] for a, p in self.prior.items()}
        total = sum(math.exp(logit) for logit in logits.values())
        return {a: math.exp(logit) / total for a, logit in logits.items()}


def new_node(seed: int, path: tuple[int, ...], legal: np.ndarray) -> Node:
    reward, value, prior = model(seed, path, len(legal))
    allowed = {int(a): float(prior[a]) for a in np.flatnonzero(legal)}
    return Node(
        reward, value, {a: float(np.float32(p / sum(allowed.values()))) for a, p in allowed.items()}
    )


def simulate(node: Node, action: int, path: tuple[int, ...], seed: int, legal: np.ndarray) -> float:
    """Take ``action`` at ``node`` and go on below; returns the return that the node's parent backs up."""
    path = (*path, action)
    if action in node.children:
        child = node.children[action]
        policy, visits = child.improved_policy(), child.visits
        gap = {a: policy[a] - visits[a] / (1 + sum(visits.values())) for a in policy}
        value = simulate(child, max(gap, key=gap.get), path, seed, legal)
    else:
        child = node.children[action] = new_node(seed, path, legal)
        value = child.network_value
    child.returns.append(value)
    return child.reward + DISCOUNT * value


def reference_search(
    seed: int, legal: np.ndarray, num_simulations: int, max_considered: int, noise: np.ndarray
) -> tuple[Node, int]:
    """Root and chosen action."""
    root = new_node(seed, (), legal)

    def score(action: int) -> float:
        return noise[action] + math.log(root.prior[action]) + root.sigma()[action]

    num_considered = min(max_considered, len(root.prior), num_simulations)
    running = sorted(root.prior, key=score, reverse=True)[:num_considered]
    num_phases = math.ceil(math.log2(num_considered)) if num_considered > 1 else 1
    left = num_simulations
    while left:
        rounds = (
            left if len(running) <= 2 else max(1, num_simulations // (num_phases * len(running)))
        )
        for action in (running * rounds)[:left]:
            simulate(root, action, (), seed, legal)
            left -= 1
        running = sorted(running, key=score, reverse=True)[: math.ceil(len(running) / 2)]
    most = max(root.visits.values())
    return root, max((a for a, n in root.visits.items() if n == most), key=score)


def run(tree: GumbelTree, seeds: list[int], legal: np.ndarray) -> GumbelTree:
    """Search with one model seed per root, through the public interface only."""
    num_actions = legal.shape[1]
    paths: list[dict[int, tuple[int, ...]]] = [{0: ()} for _ in seeds]
    _, value, prior = zip(*(model(seed, (), num_actions) for seed in seeds), strict=True)
    tree.reset(np.stack(prior), legal, np.array(value))
    for simulation in range(tree.num_simulations):
        outputs = []
        for seed, known, parent, action in zip(seeds, paths, *tree.select(), strict=True):
            known[simulation + 1] = (*known[int(parent)], int(action))
            outputs.append(model(seed, known[simulation + 1], num_actions))
        reward, value, prior = zip(*outputs, strict=True)
        tree.expand_and_backup(np.array(reward), np.array(value), np.stack(prior))
    return tree


def random_legal(rng: np.random.Generator, num_roots: int, num_actions: int) -> np.ndarray:
    legal = rng.random((num_roots, num_actions)) < 0.6
    legal[np.arange(num_roots), rng.integers(0, num_actions, num_roots)] = True
    return legal


def answers(
    seed: int, path: tuple[int, ...], num_actions: int
) -> tuple[float, float, np.ndarray, float]:
    """Reward, value, prior and survival; coarse for every second seed, so that actions tie."""
    reward, value, prior = model(seed, path, num_actions)
    digest = hashlib.blake2b(repr((seed, path, "survival")).encode(), digest_size=8).digest()
    survival = np.random.default_rng(int.from_bytes(digest, "little")).choice([0.0, 0.3, 1.0])
    if seed % 2:
        reward, value = round(reward), round(value)
        prior = np.full(num_actions, 1 / num_actions, np.float32)
    return reward, value, prior, survival


def one_simulation(tree: GumbelTree) -> Edges:
    node = np.full(tree.num_roots, tree.simulation + 1)
    return Edges(np.arange(tree.num_roots), *tree.select(), node)


def run_by(
    select: Callable[[GumbelTree], Edges], tree: GumbelTree, seeds: list[int], legal: np.ndarray
) -> list[Edges]:
    """Search with one model seed per root; returns the edges that ``select`` gave, step by step."""
    num_actions, steps = legal.shape[1], []
    paths: dict[tuple[int, int], tuple[int, ...]] = {(root, 0): () for root in range(len(seeds))}
    _, value, prior, _ = zip(*(answers(seed, (), num_actions) for seed in seeds), strict=True)
    tree.reset(np.stack(prior), legal, np.array(value))
    while tree.simulation < tree.num_simulations:
        steps.append(select(tree))
        outputs = []
        for root, parent, action, node in zip(*(rows.tolist() for rows in steps[-1]), strict=True):
            paths[root, node] = (*paths[root, parent], action)
            outputs.append(answers(seeds[root], paths[root, node], num_actions))
        reward, value, prior, survival = zip(*outputs, strict=True)
        tree.expand_and_backup(
            np.array(reward), np.array(value), np.stack(prior), np.array(survival)
        )
    return steps


def chosen(tree: BatchTree) -> np.ndarray:
    weights = tree.action_weights()
    assert ((weights == 0) | (weights == 1)).all() and (weights.sum(axis=1) == 1).all()
    return weights.argmax(axis=1)


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
    """Of three actions two are tried, Q 1 and -1; the network's own value of the root counts as one of 13 visits."""
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
