"""Gumbel search: a policy that improves on the prior whatever the number of simulations, on the
array tree of pUCT.

At the root, m actions are drawn without replacement by the Gumbel-top-k trick and share the
simulations by sequential halving. Below it, actions are taken so that visits follow the improved
policy.

A phase of halving visits its actions in turn, again and again; a turn through them is a round. The
subtrees of two root actions share nothing (below the root Q is rescaled within a node), and the
root is looked at between phases only, so the simulations of a round do not depend on each other:
expanding all at once gives the trees of one after the other.

Shape legend: N = roots, M = simulations, A = actions, R = rows of a round, m = considered actions;
``n`` is one root.

Source: Danihelka et al., "Policy improvement by planning with Gumbel" (ICLR 2022).
"""

from typing import NamedTuple

import numpy as np

from lzero import checks
from lzero.jit import compiled
from lzero.mcts.tree import BatchTree

TINY = float(np.finfo(np.float32).tiny)  # stands for a prior that underflowed to zero


class SigmaConstants(NamedTuple):
    """Constants of σ, the scale on which Q is added to logits."""

    c_visit: float
    c_scale: float
    min_max_epsilon: float


class HalvingState(NamedTuple):
    """Sequential halving of every root."""

    score: np.ndarray
    """float64 ``(N, A)``: Gumbel noise + logit."""
    ranked: np.ndarray
    """int64 ``(N, A)``: actions still in the running, best first."""
    num_ranked: np.ndarray
    """int64 ``(N,)``: how many of them there are."""
    num_considered: np.ndarray
    """int64 ``(N,)``: m, how many there were in the first phase."""


class Schedule(NamedTuple):
    """Sequential halving of M simulations among m actions, row by row for every m (row 0 is
    unused).
    """

    kept: np.ndarray
    """int64 ``(m_max + 1, M)``: actions that stay in the running from this simulation on; 0 within
    a phase.
    """
    rank: np.ndarray
    """int64 ``(m_max + 1, M)``: rank of the action that the simulation visits."""
    round_end: np.ndarray
    """int64 ``(m_max + 1, M + 1)``: first simulation after the round that the simulation is in."""


def halving_phases(num_considered: int, num_simulations: int) -> list[tuple[int, int]]:
    """Phases of sequential halving, each as (actions, simulations); the simulations add up to
    ``num_simulations``.

    A phase gives every action ``M / (⌈log2 m⌉ · actions)`` visits, rounded down, but at least one;
    then the better half stays. The last two actions share what is left. A budget too small for all
    phases ends within one. Source: Karnin et al., "Almost optimal exploration in multi-armed
    bandits" (ICML 2013).

    Raises:
        ValueError: if a number is below 1.
    """
    checks.count("num_considered", num_considered)
    checks.count("num_simulations", num_simulations)
    num_phases = max(1, (num_considered - 1).bit_length())
    phases, left, actions = [], num_simulations, num_considered
    while left > 0:
        planned = actions * max(1, num_simulations // (num_phases * actions))
        used = left if actions <= 2 else min(left, planned)
        phases.append((actions, used))
        left -= used
        actions = (actions + 1) // 2
    return phases


def halving_schedule(max_considered: int, num_simulations: int) -> Schedule:
    """The phases of every number of actions up to ``max_considered``, simulation by simulation.

    Raises:
        ValueError: if a number is below 1.
    """
    checks.count("max_considered", max_considered)
    checks.count("num_simulations", num_simulations)
    kept, rank = np.zeros((2, max_considered + 1, num_simulations), np.int64)
    round_end = np.full((max_considered + 1, num_simulations + 1), num_simulations)
    for num_considered in range(1, max_considered + 1):
        first = 0
        for actions, simulations in halving_phases(num_considered, num_simulations):
            turn, place = np.divmod(np.arange(simulations), actions)
            phase = slice(first, first + simulations)
            kept[num_considered, first] = actions
            rank[num_considered, phase] = place
            # A budget that ends within a turn makes the last round shorter.
            round_end[num_considered, phase] = first + np.minimum((turn + 1) * actions, simulations)
            first += simulations
    return Schedule(kept, rank, round_end)


@compiled
def _complete_q(tree, n, node, q_A):
    """Write Q of every visited action and, for the others, the mixed value; returns (all visits,
    most visits).

    The mixed value is the network's value and the prior-weighted Q of the visited actions, weighted
    1 to all visits.
    """
    all_visits, most_visits, weight, weighted_q = 0, 0, 0.0, 0.0
    for action in range(q_A.shape[0]):
        child = tree.children[n, node, action]
        if child > 0:
            all_visits += tree.visits[n, child]
            most_visits = max(most_visits, tree.visits[n, child])
            prior = max(np.float64(tree.prior[n, node, action]), TINY)
            weight += prior
            weighted_q += prior * tree.q[n, child]
    mixed = np.float64(tree.network_value[n, node])
    if all_visits > 0:
        mixed = (mixed + all_visits * (weighted_q / weight)) / (1 + all_visits)
    for action in range(q_A.shape[0]):
        child = tree.children[n, node, action]
        q_A[action] = tree.q[n, child] if child > 0 else mixed
    return all_visits, most_visits


@compiled
def _sigma_slope(legal_A, q_A, most_visits, constants):
    """Change of σ per unit of completed Q: σ rescales the completed Q of a node's legal actions to
    [0, 1].
    """
    low, high = np.inf, -np.inf
    for action in range(q_A.shape[0]):
        if legal_A[action]:
            low = min(low, q_A[action])
            high = max(high, q_A[action])
    return (
        (constants.c_visit + most_visits)
        * constants.c_scale
        / max(high - low, constants.min_max_epsilon)
    )


@compiled
def _improve(tree, n, node, constants, q_A, policy_A):
    """Write the completed Q and softmax(logits + σ(completed Q)) of a node; returns the visits of
    its children.
    """
    all_visits, most_visits = _complete_q(tree, n, node, q_A)
    slope = _sigma_slope(tree.legal[n], q_A, most_visits, constants)
    best_q, total = -np.inf, 0.0
    for action in range(q_A.shape[0]):
        if tree.prior[n, node, action] > 0:
            best_q = max(best_q, q_A[action])
    for action in range(q_A.shape[0]):
        prior = np.float64(tree.prior[n, node, action])
        # exp could overflow at impossible actions: their Q may be above best_q.
        policy_A[action] = prior * np.exp(slope * (q_A[action] - best_q)) if prior > 0 else 0.0
        total += policy_A[action]
    for action in range(q_A.shape[0]):
        policy_A[action] /= total
    return all_visits


@compiled
def _score_root(tree, n, halving, constants, score_A):
    """Write noise + logit + σ(completed Q) of a root's actions; returns the most visits of one."""
    _, most_visits = _complete_q(tree, n, 0, score_A)
    slope = _sigma_slope(tree.legal[n], score_A, most_visits, constants)
    for action in range(score_A.shape[0]):
        score_A[action] = halving.score[n, action] + slope * score_A[action]
    return most_visits


@compiled
def _sort(actions, score_A):
    """Put the actions of highest score first; ties keep their order."""
    for position in range(1, actions.shape[0]):
        action, place = actions[position], position
        while place > 0 and score_A[actions[place - 1]] < score_A[action]:
            actions[place] = actions[place - 1]
            place -= 1
        actions[place] = action


@compiled
def _select(tree, root_R, node_R, halving, schedule, root_action_R, constants):
    """Walk a tree per row down to an edge without child.

    A root action of -1 leaves the root to sequential halving.
    """
    q_A, score_A = np.empty(tree.legal.shape[1]), np.empty(tree.legal.shape[1])
    parent_R, action_R = np.empty_like(root_R), np.empty_like(root_R)
    for row, n in enumerate(root_R):
        simulation, num_considered = node_R[row] - 1, halving.num_considered[n]
        kept = schedule.kept[num_considered, simulation]
        if kept > 0:
            _score_root(tree, n, halving, constants, score_A)
            _sort(halving.ranked[n, : halving.num_ranked[n]], score_A)
            halving.num_ranked[n] = kept
        node, action = 0, root_action_R[row]
        if action < 0:
            action = halving.ranked[n, schedule.rank[num_considered, simulation]]
        child = tree.children[n, node, action]
        while child > 0:
            node = child
            all_visits = _improve(tree, n, node, constants, q_A, score_A)
            for a in range(score_A.shape[0]):
                below = tree.children[n, node, a]
                if not tree.legal[n, a]:
                    score_A[a] = -np.inf
                elif below > 0:
                    score_A[a] -= tree.visits[n, below] / (1 + all_visits)
            action = np.argmax(score_A)
            child = tree.children[n, node, action]
        parent_R[row], action_R[row] = node, action
    return parent_R, action_R


@compiled
def _improve_roots(tree, constants, policy_NA):
    """Write the improved policy of every root; returns its value ``(N,)``, the mean of the
    completed Q.
    """
    q_A, value_N = np.empty(policy_NA.shape[1]), np.empty(policy_NA.shape[0])
    for n in range(policy_NA.shape[0]):
        _improve(tree, n, 0, constants, q_A, policy_NA[n])
        value_N[n] = np.sum(policy_NA[n] * q_A)
    return value_N


@compiled
def _winners(tree, halving, constants):
    """``(N,)``: of every root's most visited actions, the one with the best noise + logit +
    σ(completed Q).
    """
    score_A, winner_N = np.empty(tree.legal.shape[1]), np.empty(tree.legal.shape[0], np.int64)
    for n in range(winner_N.shape[0]):
        most_visits = _score_root(tree, n, halving, constants, score_A)
        for action in range(score_A.shape[0]):
            child = tree.children[n, 0, action]
            visits = tree.visits[n, child] if child > 0 else 0
            if visits < most_visits or not tree.legal[n, action]:
                score_A[action] = -np.inf
        winner_N[n] = np.argmax(score_A)
    return winner_N


class GumbelTree(BatchTree):
    """Trees of Gumbel search; used like :class:`BatchTree`, except that :meth:`reset` needs the
    roots' network values.

    With ``q`` the Q of visited actions, completed by the mixed value v_mix where there is none, g
    Gumbel noise and N visits::

        σ(q)  = (c_visit + max_b N(b)) · c_scale · (q − min q) / max(max q − min q, min_max_epsilon)
        π'    = softmax(logits + σ(q))
        root:   sequential halving of the m = min(max_considered_actions, legal actions, M) best by
                g + logits, each phase going on with the best by g + logits + σ(q)
        below:  argmax_a π'(a) − N(a) / (1 + Σ_b N(b));  ties go to the lowest action

    Q is rescaled by the range within its node. The range within the tree, which pUCT takes, is
    wider and holds π' closer to the prior: on random MDPs that lost return with 8 to 25
    simulations, for which this search is made, and paid only with hundreds. ``min_max_epsilon``, in
    units of value, keeps differences too small to matter from being blown up.

    A round has one simulation for every action still in the running. Schedules depend on the number
    of legal actions, so rounds differ between roots, in width and in number.

    Args:
        num_roots, num_simulations, num_actions, discount: as for :class:`BatchTree`; halving plans
            for all simulations.
        max_considered_actions: most actions that sequential halving starts with.
        c_visit, c_scale: constants of σ.
        min_max_epsilon: smallest range of Q by which Q is rescaled.
        rng: source of the Gumbel noise; None searches without noise.

    Raises:
        ValueError: for sizes below one, a discount outside (0, 1], or constants that do not let π'
            rise with Q.

    Source: Danihelka et al. (ICLR 2022); v_mix is in its appendix D.
    """

    def __init__(
        self,
        num_roots: int,
        num_simulations: int,
        num_actions: int,
        *,
        discount: float,
        max_considered_actions: int = 16,
        c_visit: float = 50.0,
        c_scale: float = 0.1,
        min_max_epsilon: float = 0.01,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(num_roots, num_simulations, num_actions, discount=discount)
        if not (
            max_considered_actions >= 1
            and 0 <= c_visit < np.inf
            and 0 < c_scale < np.inf
            and 0 < min_max_epsilon < np.inf
        ):
            raise ValueError(
                f"max_considered_actions is {max_considered_actions}, c_visit {c_visit}, "
                f"c_scale {c_scale}, min_max_epsilon {min_max_epsilon}; c_visit must not be "
                "negative, all others must be positive, and all finite"
            )
        self._sigma = SigmaConstants(float(c_visit), float(c_scale), float(min_max_epsilon))
        self._noise_rng = rng
        self._max_considered = min(max_considered_actions, num_actions, num_simulations)
        self._schedule = halving_schedule(self._max_considered, num_simulations)
        self._halving = HalvingState(
            score=np.zeros((num_roots, num_actions)),
            ranked=np.zeros((num_roots, num_actions), np.int64),
            num_ranked=np.zeros(num_roots, np.int64),
            num_considered=np.zeros(num_roots, np.int64),
        )

    def reset(
        self, prior: np.ndarray, legal: np.ndarray, network_value: np.ndarray | None = None
    ) -> None:
        """As :meth:`BatchTree.reset`, and draw the noise; ValueError without the roots'
        ``network_value (N,)``.

        The prior must be the network's own: noise mixed into it would end up in the improved
        policy.
        """
        if network_value is None:
            raise ValueError(
                "network_value is None; Gumbel search completes the Q of unvisited actions with it"
            )
        super().reset(prior, legal, network_value)
        state = self._halving
        np.log(np.maximum(self.arrays.prior[:, 0], TINY), out=state.score, dtype=np.float64)
        if self._noise_rng is not None:
            state.score[:] += self._noise_rng.gumbel(size=state.score.shape)
        state.ranked[:] = np.argsort(~self.arrays.legal, axis=1, kind="stable")
        state.num_ranked[:] = self.arrays.legal.sum(axis=1)
        state.num_considered[:] = np.minimum(state.num_ranked, self._max_considered)

    def root_values(self) -> np.ndarray:
        """float32 ``(N,)``: completed Q averaged over π'; a mean of returns would count all that
        was only tried.
        """
        return _improve_roots(
            self.arrays, self._sigma, np.empty((self.num_roots, self.num_actions))
        ).astype(np.float32)

    def improved_policy(self) -> np.ndarray:
        """float64 ``(N, A)``: π' at the roots, without noise; the prior as long as there is no
        simulation.
        """
        policy = np.empty((self.num_roots, self.num_actions))
        _improve_roots(self.arrays, self._sigma, policy)
        return policy

    def action_weights(self) -> np.ndarray:
        """float64 ``(N, A)``: one for the winner of sequential halving, zero for all others."""
        weights = np.zeros((self.num_roots, self.num_actions))
        weights[np.arange(self.num_roots), _winners(self.arrays, self._halving, self._sigma)] = 1.0
        return weights

    def _round_width(self, done: np.ndarray) -> np.ndarray:
        return self._schedule.round_end[self._halving.num_considered, done] - done

    def _walk(
        self, root: np.ndarray, node: np.ndarray, root_action: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return _select(
            self.arrays, root, node, self._halving, self._schedule, root_action, self._sigma
        )
