"""Array tree of the Monte-Carlo tree search: one tree per root, all roots in one batch, no model inside.

Shape legend: N = roots, M = simulations, A = actions; ``n`` is one root. Node 0 is the root of a tree, and
simulation i (from 0) creates node i + 1 in every tree, so all trees of a batch have the same number of nodes.

The kernels are serial: the processor's threads belong to the network, the tree is a small part of a search.

Sources: MuZero (arXiv 1911.08265) for pUCT, EfficientZero (arXiv 2111.00210) for Q of unvisited children.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

SCORE_TIE = 1e-6
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
    """float64 ``(N, M+1)``: γ times the probability that the episode goes on after the edge into the node."""
    visits: np.ndarray
    """int32 ``(N, M+1)``: returns backed up through the node; below the root its own evaluation is one."""
    value_sum: np.ndarray
    """float64 ``(N, M+1)``: sum of those returns; ``value_sum / visits`` is the node's value V."""
    q: np.ndarray
    """float64 ``(N, M+1)``: current r + γV of the node, γ times the survival probability."""
    network_value: np.ndarray
    """float32 ``(N, M+1)``: the network's own value of the node; 0 at roots that were given none."""
    legal: np.ndarray
    """bool ``(N, A)``: legal actions, the same in every node of a tree."""


class ScoreConstants(NamedTuple):
    """Constants of the search that the kernels need."""

    discount: float
    pb_c_init: float
    pb_c_base: float
    min_max_epsilon: float
    deterministic: bool


@njit(cache=True, nogil=True)
def _q_range(q_M, num_nodes):
    """Smallest and largest r + γV of the visited nodes; (inf, -inf) when there is none."""
    low, high = np.inf, -np.inf
    for node in range(1, num_nodes):
        low = min(low, q_M[node])
        high = max(high, q_M[node])
    return low, high


@njit(cache=True, nogil=True)
def _mean_q(children_A, q_M, node, parent_mean_q):
    """Q of unvisited children: mean Q of the visited ones and, below the root, the parent's mean_q."""
    total, count = 0.0, 0
    for child in children_A:
        if child > 0:
            total += q_M[child]
            count += 1
    if node > 0:
        return (parent_mean_q + total) / (1 + count)
    return total / count if count > 0 else 0.0


@njit(cache=True, nogil=True)
def _normalised(q, low, high, epsilon):
    if high <= low:
        return q
    return min(max((q - low) / max(high - low, epsilon), 0.0), 1.0)


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def _select(tree, num_nodes, root_action_N, constants, rng, parent_N, action_N):
    """Walk every tree down to an edge without child; a root action of -1 leaves the root to the score."""
    scores_A = np.empty(tree.legal.shape[1])
    for n in range(parent_N.shape[0]):
        low, high = _q_range(tree.q[n], num_nodes)
        node, mean_q, at_leaf = 0, 0.0, False
        while not at_leaf:
            mean_q = _mean_q(tree.children[n, node], tree.q[n], node, mean_q)
            if node == 0 and root_action_N[n] >= 0:
                action = root_action_N[n]
            else:
                _score_actions(tree, n, node, mean_q, low, high, constants, scores_A)
                action = _pick_best(scores_A, constants.deterministic, rng)
            parent_N[n], action_N[n] = node, action
            node = tree.children[n, node, action]
            at_leaf = node == 0


@njit(cache=True, nogil=True)
def _write_prior(tree, node, prior_NA):
    """Store priors over legal actions; returns the first root whose prior is no distribution, else -1."""
    for n in range(prior_NA.shape[0]):
        total, legal_total, smallest = 0.0, 0.0, 0.0
        for action in range(prior_NA.shape[1]):
            total += prior_NA[n, action]
            smallest = min(smallest, prior_NA[n, action])
            if tree.legal[n, action]:
                legal_total += prior_NA[n, action]
        # Written so that NaN fails too.
        if not (smallest >= 0 and abs(total - 1) <= PRIOR_SUM_TOLERANCE and legal_total > 0):
            return n
        for action in range(prior_NA.shape[1]):
            tree.prior[n, node, action] = prior_NA[n, action] / legal_total if tree.legal[n, action] else 0.0
    return -1


@njit(cache=True, nogil=True)
def _attach_and_backup(tree, new_node, parent_N, action_N, reward_N, value_N, discount_N):
    """Link the new node of every tree and add its discounted return to every node on the path to the root."""
    for n in range(parent_N.shape[0]):
        tree.children[n, parent_N[n], action_N[n]] = new_node
        tree.parent[n, new_node] = parent_N[n]
        tree.action[n, new_node] = action_N[n]
        tree.reward[n, new_node] = reward_N[n]
        tree.discount[n, new_node] = discount_N[n]
        node = new_node
        value = np.float64(value_N[n])
        while node > 0:
            tree.visits[n, node] += 1
            tree.value_sum[n, node] += value
            reward, discount = np.float64(tree.reward[n, node]), tree.discount[n, node]
            tree.q[n, node] = reward + discount * tree.value_sum[n, node] / tree.visits[n, node]
            value = reward + discount * value
            node = tree.parent[n, node]
        tree.visits[n, 0] += 1
        tree.value_sum[n, 0] += value


class BatchTree:
    """pUCT trees of N roots; between ``select`` and ``expand_and_backup`` the caller evaluates a model.

    Score of action a at node s, with ``c(s) = pb_c_init + log((n(s) + pb_c_base + 1) / pb_c_base)``::

        Q̄(s, a) + P(s, a) · c(s) · √n(s) / (1 + n(s, a)),    n(s) = 1 + Σ_a n(s, a)

    n(s) counts the node's own evaluation, so the prior decides the first choice at a new node. Q is r + γV of
    a visited child, else the mean over the path; Q̄ is Q rescaled by the range of r + γV in the whole tree.

    Args:
        num_roots: N, trees in the batch.
        num_simulations: M, the most simulations per :meth:`reset`.
        num_actions: A.
        discount: γ per search step.
        pb_c_init, pb_c_base: exploration constants.
        min_max_epsilon: smallest range of Q by which Q is rescaled.
        deterministic: ties (scores within 1e-6) go to the lowest action; otherwise to one of them at random.
        rng: source of the random ties; required with ``deterministic=False``, unused otherwise.

    Raises:
        ValueError: for sizes below one, a discount outside (0, 1], or random ties without ``rng``.

    Source: MuZero (arXiv 1911.08265), EfficientZero (arXiv 2111.00210).
    """

    def __init__(
        self,
        num_roots: int,
        num_simulations: int,
        num_actions: int,
        *,
        discount: float,
        pb_c_init: float = 1.25,
        pb_c_base: float = 19652,
        min_max_epsilon: float = 0.01,
        deterministic: bool = True,
        rng: np.random.Generator | None = None,
    ) -> None:
        sizes = {"num_roots": num_roots, "num_simulations": num_simulations, "num_actions": num_actions}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} is {size}; it must be at least 1")
        if not 0 < discount <= 1:
            raise ValueError(f"discount is {discount}; it must be in (0, 1]")
        if not deterministic and rng is None:
            raise ValueError("rng is None; deterministic=False needs a numpy Generator to break ties")
        self.num_roots, self.num_simulations, self.num_actions = num_roots, num_simulations, num_actions
        self._constants = ScoreConstants(
            float(discount), float(pb_c_init), float(pb_c_base), float(min_max_epsilon), bool(deterministic)
        )
        # One compiled signature needs a Generator either way; a deterministic tree never draws from it.
        self._rng = rng if rng is not None else np.random.default_rng(0)
        nodes, edges = (num_roots, num_simulations + 1), (num_roots, num_simulations + 1, num_actions)
        self.arrays = TreeArrays(
            children=np.zeros(edges, np.int32),
            parent=np.zeros(nodes, np.int32),
            action=np.zeros(nodes, np.int32),
            prior=np.zeros(edges, np.float32),
            reward=np.zeros(nodes, np.float32),
            discount=np.zeros(nodes, np.float64),
            visits=np.zeros(nodes, np.int32),
            value_sum=np.zeros(nodes, np.float64),
            q=np.zeros(nodes, np.float64),
            network_value=np.zeros(nodes, np.float32),
            legal=np.zeros((num_roots, num_actions), np.bool_),
        )
        self._no_root_action = np.full(num_roots, -1, np.int64)
        self._selected: tuple[np.ndarray, np.ndarray] | None = None
        self._simulation: int | None = None

    @property
    def simulation(self) -> int:
        """Simulations done since :meth:`reset`; the next new node is ``simulation + 1``."""
        if self._simulation is None:
            raise RuntimeError("the tree has no root yet; call reset(prior, legal) first")
        return self._simulation

    def reset(self, prior: np.ndarray, legal: np.ndarray, network_value: np.ndarray | None = None) -> None:
        """Start a new search in the same memory.

        Args:
            prior: ``(N, A)`` probabilities at the roots; illegal actions' are dropped, the rest renormalised.
            legal: ``(N, A)`` bool; an illegal action is never selected in any node of its tree.
            network_value: ``(N,)`` values of the roots; pUCT has no use for them.

        Raises:
            ValueError: for wrong shapes, a root without legal action, a prior that is no distribution, or values that
                are not finite.
        """
        legal = np.asarray(legal)
        self._check_shape("legal", legal, (self.num_roots, self.num_actions))
        if legal.dtype != np.bool_:
            raise ValueError(f"legal has dtype {legal.dtype}; it must be bool")
        without_action = np.flatnonzero(~legal.any(axis=1))
        if without_action.size:
            raise ValueError(f"legal allows root {without_action[0]} no action; every root needs one")
        self._simulation, self._selected = None, None
        for array in (self.arrays.children, self.arrays.visits, self.arrays.value_sum):
            array.fill(0)
        self.arrays.legal[:] = legal
        self._store_prior(0, prior)
        self.arrays.network_value[:, 0] = (
            0.0 if network_value is None else self._checked_scalars("network_value", network_value)
        )
        self._simulation = 0

    def select(self, root_action: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Choose in every tree the edge to expand next.

        Args:
            root_action: int ``(N,)``, the action to take at each root instead of the best score there; below
                the root the score decides as always.

        Returns:
            ``(parent, action)``, both int64 ``(N,)``: the node to expand from and the action to take there.

        Raises:
            RuntimeError: before :meth:`reset` or after M simulations.
            ValueError: for root actions that are illegal or of the wrong shape.
        """
        if self.simulation >= self.num_simulations:
            raise RuntimeError(f"all {self.num_simulations} simulations are done; call reset(prior, legal)")
        forced = self._no_root_action if root_action is None else self._checked_root_action(root_action)
        parent, action = np.empty(self.num_roots, np.int64), np.empty(self.num_roots, np.int64)
        self._walk(forced, parent, action)
        self._selected = (parent, action)
        return parent.copy(), action.copy()

    def expand_and_backup(
        self, reward: np.ndarray, value: np.ndarray, prior: np.ndarray, survival: np.ndarray | None = None
    ) -> None:
        """Create the node behind the selected edge of every tree and back its value up to the root.

        Args:
            reward: ``(N,)`` predicted on the selected edges.
            value: ``(N,)`` of the new nodes.
            prior: ``(N, A)`` probabilities at the new nodes; treated like the roots' prior.
            survival: ``(N,)`` probabilities that the episode goes on behind the selected edges, by which values from
                behind them are multiplied; None where no episode ends.

        Raises:
            RuntimeError: without a preceding :meth:`select`.
            ValueError: for wrong shapes, numbers that are not finite, or a prior that is no distribution.
        """
        if self._selected is None:
            raise RuntimeError("no edge is selected; call select() before expand_and_backup()")
        reward, value = self._checked_scalars("reward", reward), self._checked_scalars("value", value)
        new_node = self.simulation + 1
        survival = np.ones_like(reward) if survival is None else self._checked_scalars("survival", survival)
        self._store_prior(new_node, prior)
        self.arrays.network_value[:, new_node] = value
        discount = self._constants.discount * survival.astype(np.float64)
        _attach_and_backup(self.arrays, new_node, *self._selected, reward, value, discount)
        self._simulation, self._selected = new_node, None

    def visit_counts(self) -> np.ndarray:
        """int32 ``(N, A)``: visits of the root's children; every row sums to the simulations done."""
        children = self.arrays.children[:, 0]
        return np.where(children > 0, np.take_along_axis(self.arrays.visits, children, axis=1), 0)

    def root_values(self) -> np.ndarray:
        """float32 ``(N,)``: mean of the returns backed up to the root; RuntimeError before a simulation."""
        if self.simulation == 0:
            raise RuntimeError("root values need at least one simulation; call select, expand_and_backup")
        return (self.arrays.value_sum[:, 0] / self.arrays.visits[:, 0]).astype(np.float32)

    def improved_policy(self) -> np.ndarray:
        """float64 ``(N, A)``: what the search would have the network do, here the visit distribution."""
        visits = self.visit_counts()
        return visits / visits.sum(axis=1, keepdims=True)

    def action_weights(self) -> np.ndarray:
        """``(N, A)``: how strongly to prefer each root action when acting, here the visit counts."""
        return self.visit_counts()

    def root_rewards(self, action: np.ndarray) -> np.ndarray:
        """float32 ``(N,)``: predicted reward of ``action (N,)`` at each root; 0 where the search never tried it."""
        child = self.arrays.children[np.arange(self.num_roots), 0, action]
        return np.where(child > 0, np.take_along_axis(self.arrays.reward, child[:, None], axis=1)[:, 0], 0.0)

    def _walk(self, root_action: np.ndarray, parent: np.ndarray, action: np.ndarray) -> None:
        """Write every tree's next edge to ``parent`` and ``action``, all ``(N,)``; a root action of -1 is open."""
        _select(self.arrays, self.simulation + 1, root_action, self._constants, self._rng, parent, action)

    def _store_prior(self, node: int, prior: np.ndarray) -> None:
        prior = np.ascontiguousarray(prior, np.float32)
        self._check_shape("prior", prior, (self.num_roots, self.num_actions))
        bad_root = _write_prior(self.arrays, node, prior)
        if bad_root >= 0:
            raise ValueError(
                f"prior of root {bad_root} is {prior[bad_root]}, legal {self.arrays.legal[bad_root]}; it must"
                " be non-negative, sum to one and not vanish on the legal actions: pass softmax(logits)"
            )

    def _checked_root_action(self, root_action: np.ndarray) -> np.ndarray:
        forced = np.ascontiguousarray(root_action, np.int64)
        self._check_shape("root_action", forced, (self.num_roots,))
        in_range = (forced >= 0) & (forced < self.num_actions)
        allowed = in_range & self.arrays.legal[np.arange(self.num_roots), np.where(in_range, forced, 0)]
        if not allowed.all():
            root = int(np.flatnonzero(~allowed)[0])
            choices = np.flatnonzero(self.arrays.legal[root]).tolist()
            raise ValueError(f"root_action of root {root} is {forced[root]}; its legal actions are {choices}")
        return forced

    def _checked_scalars(self, name: str, scalars: np.ndarray) -> np.ndarray:
        scalars = np.ascontiguousarray(scalars, np.float32)
        self._check_shape(name, scalars, (self.num_roots,))
        if not np.isfinite(scalars).all():
            root = int(np.flatnonzero(~np.isfinite(scalars))[0])
            raise ValueError(f"{name} of root {root} is {scalars[root]}; it must be finite")
        return scalars

    @staticmethod
    def _check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}; it must be {shape}")
