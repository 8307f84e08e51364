"""The array tree's storage, and the compiled loops over it: scores, the way down, the way back up.

Shape legend: N = roots, M = simulations, A = actions, R = rows of a round; ``n`` is one root. The
formulas stand at :class:`~lzero.mcts.tree.BatchTree`.

The kernels are serial: the processor's threads belong to the network, the tree is a small part of a
search.
"""

from typing import NamedTuple

import numpy as np

from lzero.jit import compiled

SCORE_TIE = 1e-6  # scores that differ by less differ by rounding: priors are float32
PRIOR_SUM_TOLERANCE = 1e-2  # admits a softmax computed in bfloat16, refuses logits


class TreeArrays(NamedTuple):
    """Storage of all trees; read access for searches built on :class:`BatchTree`."""

    children: np.ndarray
    """int32 ``(N, M+1, A)``: node reached by an action, 0 where the action was never taken."""
    parent: np.ndarray
    """int32 ``(N, M+1)``: parent node; 0 for the root."""
    action: np.ndarray
    """int32 ``(N, M+1)``: action that leads from the parent to the node."""
    prior: np.ndarray
    """float32 ``(N, M+1, A)``: policy at the node, zero on illegal actions, sums to one."""
    reward: np.ndarray
    """float32 ``(N, M+1)``: predicted reward on the edge into the node."""
    discount: np.ndarray
    """float64 ``(N, M+1)``: γ times the probability that the episode goes on after the edge into
    the node.
    """
    visits: np.ndarray
    """int32 ``(N, M+1)``: returns backed up through the node; below the root its own evaluation is
    one.
    """
    value_sum: np.ndarray
    """float64 ``(N, M+1)``: sum of those returns; ``value_sum / visits`` is the node's value V."""
    q: np.ndarray
    """float64 ``(N, M+1)``: current r + γV of the node, γ times the survival probability."""
    network_value: np.ndarray
    """float32 ``(N, M+1)``: the network's own value of the node; 0 at roots that were given none.
    """
    legal: np.ndarray
    """bool ``(N, A)``: legal actions, the same in every node of a tree."""


class Edges(NamedTuple):
    """Edges to expand, one a row, all int64 ``(R,)``; rows of a root lie together, roots ascend."""

    root: np.ndarray
    """The root, 0 … N−1, whose tree the edge belongs to."""
    parent: np.ndarray
    """The node that the edge leaves."""
    action: np.ndarray
    """The action that leads along it."""
    node: np.ndarray
    """The node to create behind it; those of one root are numbered on without gaps."""


class ScoreConstants(NamedTuple):
    """Constants of the search that the kernels need."""

    discount: float
    pb_c_init: float
    pb_c_base: float
    min_max_epsilon: float
    deterministic: bool


@compiled
def _q_range(q_M, num_nodes):
    """Smallest and largest r + γV of the visited nodes; (inf, -inf) when there is none."""
    low, high = np.inf, -np.inf
    for node in range(1, num_nodes):
        low = min(low, q_M[node])
        high = max(high, q_M[node])
    return low, high


@compiled
def _mean_q(children_A, q_M, node, parent_mean_q):
    """Q of unvisited children: mean Q of the visited and, below the root, the parent's mean_q."""
    total, count = 0.0, 0
    for child in children_A:
        if child > 0:
            total += q_M[child]
            count += 1
    if node > 0:
        return (parent_mean_q + total) / (1 + count)
    return total / count if count > 0 else 0.0


@compiled
def _normalised(q, low, high, epsilon):
    if high <= low:
        return q
    return min(max((q - low) / max(high - low, epsilon), 0.0), 1.0)


@compiled
def _score_actions(tree, n, node, mean_q, low, high, constants, scores_A):
    """Write the pUCT score of every action of a node; -inf for illegal ones."""
    own_evaluation = 1 if node == 0 else 0  # below the root it is already among the visits
    num_visits = tree.visits[n, node] + own_evaluation
    growth = np.log((num_visits + constants.pb_c_base + 1) / constants.pb_c_base)
    exploration = (constants.pb_c_init + growth) * np.sqrt(num_visits)
    for action in range(scores_A.shape[0]):
        if not tree.legal[n, action]:
            scores_A[action] = -np.inf
            continue
        child = tree.children[n, node, action]
        q = tree.q[n, child] if child > 0 else mean_q
        child_visits = tree.visits[n, child] if child > 0 else 0
        bonus = tree.prior[n, node, action] * exploration / (1 + child_visits)
        scores_A[action] = _normalised(q, low, high, constants.min_max_epsilon) + bonus


@compiled
def _pick_best(scores_A, deterministic, rng):
    """Index of the highest score; among ties the lowest, or a uniformly drawn one."""
    threshold = scores_A.max() - SCORE_TIE
    ties = np.sum(scores_A >= threshold)
    skip = 0 if deterministic or ties == 1 else int(rng.random() * ties)
    for action in range(scores_A.shape[0]):
        if scores_A[action] >= threshold:
            if skip == 0:
                return action
            skip -= 1
    return 0  # not reached: the highest score is its own tie


@compiled
def select(tree, root_R, node_R, root_action_R, constants, rng):
    """Walk a tree per row down to an edge without child.

    A root action of -1 leaves the root to the score.
    """
    scores_A = np.empty(tree.legal.shape[1])
    parent_R, action_R = np.empty_like(root_R), np.empty_like(root_R)
    for row, n in enumerate(root_R):
        low, high = _q_range(tree.q[n], node_R[row])  # the new node's number is how many there are
        node, mean_q, at_leaf = 0, 0.0, False
        while not at_leaf:
            mean_q = _mean_q(tree.children[n, node], tree.q[n], node, mean_q)
            if node == 0 and root_action_R[row] >= 0:
                action = root_action_R[row]
            else:
                _score_actions(tree, n, node, mean_q, low, high, constants, scores_A)
                action = _pick_best(scores_A, constants.deterministic, rng)
            parent_R[row], action_R[row] = node, action
            node = tree.children[n, node, action]
            at_leaf = node == 0
    return parent_R, action_R


@compiled
def first_outside(values, low, high):
    """Place of the first value that is not from ``low`` to ``high``, as no NaN is, else -1."""
    for place in range(values.shape[0]):
        if not low <= values[place] <= high:
            return place
    return -1


@compiled
def write_prior(tree, root_R, node_R, prior_RA):
    """Store priors over legal actions; returns the first row without a distribution, else -1."""
    for row, n in enumerate(root_R):
        total, legal_total, smallest = 0.0, 0.0, 0.0
        for action in range(prior_RA.shape[1]):
            prior = prior_RA[row, action]
            total += prior
            smallest = min(smallest, prior)
            if tree.legal[n, action]:
                legal_total += prior
        # Written so that NaN fails too.
        if not (smallest >= 0 and abs(total - 1) <= PRIOR_SUM_TOLERANCE and legal_total > 0):
            return row
        for action in range(prior_RA.shape[1]):
            legal_prior = prior_RA[row, action] / legal_total if tree.legal[n, action] else 0.0
            tree.prior[n, node_R[row], action] = legal_prior
    return -1


@compiled
def attach_and_backup(tree, edges, reward_R, value_R, discount_R):
    """Link every row's new node and add its return to every node on the path to the root."""
    for row, n in enumerate(edges.root):
        node = edges.node[row]
        tree.children[n, edges.parent[row], edges.action[row]] = node
        tree.parent[n, node] = edges.parent[row]
        tree.action[n, node] = edges.action[row]
        tree.reward[n, node] = reward_R[row]
        tree.discount[n, node] = discount_R[row]
        value = np.float64(value_R[row])
        while node > 0:
            tree.visits[n, node] += 1
            tree.value_sum[n, node] += value
            reward, discount = np.float64(tree.reward[n, node]), tree.discount[n, node]
            tree.q[n, node] = reward + discount * tree.value_sum[n, node] / tree.visits[n, node]
            value = reward + discount * value
            node = tree.parent[n, node]
        tree.visits[n, 0] += 1
        tree.value_sum[n, 0] += value
