"""Gumbel search as a recursive one over node objects, and ways to run the array tree beside it."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from lzero.mcts.gumbel import GumbelTree
from lzero.mcts.kernels import Edges
from lzero.mcts.tree import BatchTree
from tests.mcts.random_nodes import random_node

DISCOUNT, C_VISIT, C_SCALE, EPSILON = 0.95, 50.0, 0.1, 0.01
# Offset and spread of a model's rewards and values, by seed; in the last one Q differs by less than
# EPSILON.
REGIMES = ((0.0, 1.0), (5.0, 30.0), (1.0, 1e-3))


model = partial(random_node, regimes=REGIMES)


@dataclass
class Node:
    """A node of the reference search; ``returns`` starts with the network's value, except at the
    root.
    """

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
    """Take ``action`` at ``node`` and go on below; returns the return that the node's parent backs
    up.
    """
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
