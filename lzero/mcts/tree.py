"""Array tree of the Monte-Carlo tree search: one tree per root, all roots in one batch, no model
inside.

Shape legend: N = roots, M = simulations, A = actions, R = rows of a round; ``n`` is one root. Node
0 is the root of a tree, and simulation i (from 0) of a tree creates its node i + 1.

Simulations that do not depend on each other form a round, which the model answers in one forward.
Its rows are flat, because trees differ in how many they contribute.

Sources: MuZero (arXiv 1911.08265) for pUCT, EfficientZero (arXiv 2111.00210) for Q of unvisited
children.
"""

import numpy as np

from lzero import checks
from lzero.mcts.kernels import (
    Edges,
    ScoreConstants,
    TreeArrays,
    attach_and_backup,
    first_outside,
    select,
    write_prior,
)

LARGEST = float(np.finfo(np.float32).max)


class BatchTree:
    """pUCT trees of N roots; after selecting, the caller evaluates a model, then expands.

    ``select_round`` gives all simulations that can be evaluated at once, ``select`` one for every
    root; both lead to the same trees. A round of pUCT is one simulation for every root: where the
    next one goes depends on what this one finds.

    Score of action a at node s, with
    ``c(s) = pb_c_init + log((n(s) + pb_c_base + 1) / pb_c_base)``::

        Q̄(s, a) + P(s, a) · c(s) · √n(s) / (1 + n(s, a)),    n(s) = 1 + Σ_a n(s, a)

    n(s) counts the node's own evaluation, so the prior decides the first choice at a new node. Q is
    r + γV of a visited child, else the mean over the path; Q̄ is Q rescaled by the range of r + γV
    in the whole tree.

    Args:
        num_roots: N, trees in the batch.
        num_simulations: M, the most simulations per :meth:`reset`.
        num_actions: A.
        discount: γ per search step.
        pb_c_init, pb_c_base: exploration constants.
        min_max_epsilon: smallest range of Q by which Q is rescaled.
        deterministic: ties (scores within 1e-6) go to the lowest action; otherwise to one of them
            at random.
        rng: source of the random ties; required with ``deterministic=False``, unused otherwise.

    Raises:
        TypeError: for sizes that are no whole numbers, or an ``rng`` that is no generator.
        ValueError: for sizes below one, a discount outside (0, 1], constants that are negative, or
            random ties without ``rng``.

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
        checks.count("num_roots", num_roots)
        checks.count("num_simulations", num_simulations)
        checks.count("num_actions", num_actions)
        checks.number("discount", discount, 0.0, 1.0, above=True)
        checks.number("pb_c_init", pb_c_init, 0.0)
        checks.number("pb_c_base", pb_c_base, 0.0, above=True)
        checks.number("min_max_epsilon", min_max_epsilon, 0.0)
        if not deterministic and rng is None:
            raise ValueError(
                "rng is None; deterministic=False needs a numpy Generator to break ties"
            )
        self.num_roots, self.num_simulations, self.num_actions = (
            num_roots,
            num_simulations,
            num_actions,
        )
        self._constants = ScoreConstants(
            float(discount),
            float(pb_c_init),
            float(pb_c_base),
            float(min_max_epsilon),
            bool(deterministic),
        )
        if rng is not None:
            checks.generator("rng", rng)
        # One compiled signature needs a Generator either way; a deterministic tree never draws from
        # it.
        self._rng = rng if rng is not None else np.random.default_rng(0)
        nodes, edges = (
            (num_roots, num_simulations + 1),
            (num_roots, num_simulations + 1, num_actions),
        )
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
        self._roots = np.arange(num_roots)
        self._selected: Edges | None = None
        self._has_roots = False

    @property
    def simulation(self) -> int:
        """Simulations that every root has done since :meth:`reset`; some may have done more."""
        return int(self._simulations_done().min())

    def reset(
        self, prior: np.ndarray, legal: np.ndarray, network_value: np.ndarray | None = None
    ) -> None:
        """Start a new search in the same memory.

        Args:
            prior: ``(N, A)`` probabilities at the roots; illegal actions' are dropped, the rest
                renormalised.
            legal: ``(N, A)`` bool; an illegal action is never selected in any node of its tree.
            network_value: ``(N,)`` values of the roots; pUCT has no use for them.

        Raises:
            ValueError: for wrong shapes, a root without legal action, a prior that is no
                distribution, or values that are not finite.
        """
        legal = np.asarray(legal)
        self._check_shape("legal", legal, (self.num_roots, self.num_actions))
        if legal.dtype != np.bool_:
            raise ValueError(f"legal has dtype {legal.dtype}; it must be bool")
        without_action = np.flatnonzero(~legal.any(axis=1))
        if without_action.size:
            raise ValueError(
                f"legal allows root {without_action[0]} no action; every root needs one"
            )
        self._has_roots, self._selected = False, None
        for array in (self.arrays.children, self.arrays.visits, self.arrays.value_sum):
            array.fill(0)
        self.arrays.legal[:] = legal
        self._store_prior(self._roots, np.zeros_like(self._roots), prior)
        self.arrays.network_value[:, 0] = 0.0
        if network_value is not None:
            values = self._checked_scalars("network_value", network_value, self._roots)
            self.arrays.network_value[:, 0] = values
        self._has_roots = True

    def select(self, root_action: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Choose in every tree the edge to expand next: one simulation for every root.

        Args:
            root_action: int ``(N,)``, the action to take at each root instead of the best score
                there; below the root the score decides as always.

        Returns:
            ``(parent, action)``, both int64 ``(N,)``: the node to expand from and the action to
            take there.

        Raises:
            RuntimeError: before :meth:`reset` or where a root has done its M simulations.
            ValueError: for root actions that are illegal or of the wrong shape.
        """
        node = self._simulations_done() + 1
        self._check_budget(bool(node.max() <= self.num_simulations))
        forced = np.full(self.num_roots, -1)
        if root_action is not None:
            forced = self._checked_root_action(root_action)
        self._selected = Edges(self._roots, *self._walk(self._roots, node, forced), node)
        return self._selected.parent.copy(), self._selected.action.copy()

    def select_round(self) -> Edges:
        """Choose all edges whose expansions do not depend on each other.

        Roots that have done their M simulations have none, others at least one.

        Raises:
            RuntimeError: before :meth:`reset` or after M simulations of every root.
        """
        done = self._simulations_done()
        width = self._round_width(done)
        self._check_budget(bool(width.any()))
        root = np.repeat(self._roots, width)
        first_row = np.repeat(width.cumsum() - width, width)
        node = done[root] + 1 + np.arange(len(root)) - first_row
        self._selected = Edges(root, *self._walk(root, node, np.full(len(root), -1)), node)
        return Edges(*(rows.copy() for rows in self._selected))

    def expand_and_backup(
        self,
        reward: np.ndarray,
        value: np.ndarray,
        prior: np.ndarray,
        survival: np.ndarray | None = None,
    ) -> None:
        """Create the nodes behind the selected edges and back their values up to the roots.

        Args:
            reward: ``(R,)`` predicted on the selected edges; R = N after :meth:`select`.
            value: ``(R,)`` of the new nodes.
            prior: ``(R, A)`` probabilities at the new nodes; treated like the roots' prior.
            survival: ``(R,)`` probabilities that the episode goes on behind the selected edges, by
                which values from behind them are multiplied; None where no episode ends.

        Raises:
            RuntimeError: without a preceding :meth:`select` or :meth:`select_round`.
            ValueError: for wrong shapes, numbers that are not finite, probabilities outside of
                [0, 1], or a prior that is no distribution.
        """
        if self._selected is None:
            raise RuntimeError("no edge is selected; call select() or select_round() first")
        root, node = self._selected.root, self._selected.node
        reward = self._checked_scalars("reward", reward, root)
        value = self._checked_scalars("value", value, root)
        if survival is None:
            survival = np.ones_like(reward)
        survival = self._checked_scalars("survival", survival, root, 0.0, 1.0)
        self._store_prior(root, node, prior)
        self.arrays.network_value[root, node] = value
        discount = self._constants.discount * survival.astype(np.float64)
        attach_and_backup(self.arrays, self._selected, reward, value, discount)
        self._selected = None

    def visit_counts(self) -> np.ndarray:
        """int32 ``(N, A)``: visits of the root's children; rows sum to the simulations done."""
        children = self.arrays.children[:, 0]
        return np.where(children > 0, np.take_along_axis(self.arrays.visits, children, axis=1), 0)

    def root_values(self) -> np.ndarray:
        """float32 ``(N,)``: mean of the returns backed up to the root; RuntimeError before a
        simulation.
        """
        if self.simulation == 0:
            raise RuntimeError(
                "root values need at least one simulation; call select, expand_and_backup"
            )
        return (self.arrays.value_sum[:, 0] / self.arrays.visits[:, 0]).astype(np.float32)

    def improved_policy(self) -> np.ndarray:
        """float64 ``(N, A)``: what the search would have the network do, here the visit
        distribution.
        """
        visits = self.visit_counts()
        return visits / visits.sum(axis=1, keepdims=True)

    def action_weights(self) -> np.ndarray:
        """``(N, A)``: by which to prefer root actions when acting, here the visit counts."""
        return self.visit_counts()

    def root_rewards(self, action: np.ndarray) -> np.ndarray:
        """float32 ``(N,)``: predicted reward of ``action (N,)`` at each root; 0 where the search
        never tried it. ValueError for actions that are none.
        """
        action = checks.integers("action", action)
        self._check_shape("action", action, (self.num_roots,))
        if action.min() < 0 or action.max() >= self.num_actions:
            raise ValueError(f"action spans {action.min()} to {action.max()}; it must be an action")
        child = self.arrays.children[np.arange(self.num_roots), 0, action]
        return np.where(
            child > 0, np.take_along_axis(self.arrays.reward, child[:, None], axis=1)[:, 0], 0.0
        )

    def _simulations_done(self) -> np.ndarray:
        """int64 ``(N,)``: simulations that each root has done."""
        if not self._has_roots:
            raise RuntimeError("the tree has no root yet; call reset(prior, legal) first")
        return self.arrays.visits[:, 0].astype(np.int64)

    def _check_budget(self, is_left: bool) -> None:
        if not is_left:
            raise RuntimeError(
                f"all {self.num_simulations} simulations are done; call reset(prior, legal)"
            )

    def _round_width(self, done: np.ndarray) -> np.ndarray:
        """Simulations ``(N,)`` that can follow ``done (N,)`` without depending on each other."""
        return np.minimum(1, self.num_simulations - done)

    def _walk(
        self, root: np.ndarray, node: np.ndarray, root_action: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Parent and action ``(R,)`` of the edges behind which ``node (R,)`` will be.

        ``root_action (R,)`` is the action to take at the root; -1 leaves it open.
        """
        return select(self.arrays, root, node, root_action, self._constants, self._rng)

    def _store_prior(self, root: np.ndarray, node: np.ndarray, prior: np.ndarray) -> None:
        self._check_shape("prior", prior, (len(root), self.num_actions))
        prior = np.ascontiguousarray(prior, np.float32)
        bad_row = write_prior(self.arrays, root, node, prior)
        if bad_row >= 0:
            raise ValueError(
                f"prior of root {root[bad_row]} is {prior[bad_row]}, "
                f"legal {self.arrays.legal[root[bad_row]]}; it must be non-negative, sum to one and"
                " not vanish on the legal actions: pass softmax(logits)"
            )

    def _checked_root_action(self, root_action: np.ndarray) -> np.ndarray:
        forced = np.ascontiguousarray(checks.integers("root_action", root_action), np.int64)
        self._check_shape("root_action", forced, (self.num_roots,))
        in_range = (forced >= 0) & (forced < self.num_actions)
        allowed = (
            in_range & self.arrays.legal[np.arange(self.num_roots), np.where(in_range, forced, 0)]
        )
        if not allowed.all():
            root = int(np.flatnonzero(~allowed)[0])
            choices = np.flatnonzero(self.arrays.legal[root]).tolist()
            raise ValueError(
                f"root_action of root {root} is {forced[root]}; its legal actions are {choices}"
            )
        return forced

    def _checked_scalars(
        self,
        name: str,
        scalars: np.ndarray,
        root: np.ndarray,
        low: float = -LARGEST,
        high: float = LARGEST,
    ) -> np.ndarray:
        """As float32 ``(R,)``, one for every row of ``root (R,)``."""
        scalars = np.ascontiguousarray(scalars, np.float32)
        self._check_shape(name, scalars, root.shape)
        row = first_outside(scalars, low, high)
        if row >= 0:
            allowed = "finite" if high == LARGEST else f"in [{low:g}, {high:g}]"
            raise ValueError(f"{name} of root {root[row]} is {scalars[row]}; it must be {allowed}")
        return scalars

    @staticmethod
    def _check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
        if np.shape(array) != shape:
            raise ValueError(f"{name} has shape {np.shape(array)}; it must be {shape}")
