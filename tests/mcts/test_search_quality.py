"""Does search help? Known MDPs with exact values from dynamic programming, searched through a model
that knows them.

Shape legend: N = MDPs (one root each), L = levels, W = states per level, A = actions, M =
simulations.
"""

import itertools
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from lzero.mcts.gumbel import GumbelTree
from lzero.mcts.search import SearchResult, TorchSearchModel, search
from lzero.mcts.tree import BatchTree

N, L, W, A = 100, 3, 5, 3
DISCOUNT = 0.9
KINDS = {"puct": BatchTree, "gumbel": GumbelTree}


@dataclass(frozen=True)
class Mdps:
    """N random deterministic graphs of L levels; every action leads one level on, nothing happens
    behind the last.

    A state is ``level · W + place``; the root is state 0, the end is state ``L · W``.
    """

    target: np.ndarray
    """int64 ``(N, L·W + 1, A)``."""
    reward: np.ndarray
    """float32 ``(N, L·W + 1, A)``."""
    q: np.ndarray
    """float64 ``(N, L·W + 1, A)``, exact."""

    @property
    def value(self) -> np.ndarray:
        return self.q.max(axis=2)


def random_mdps(seed: int) -> Mdps:
    rng = np.random.default_rng(seed)
    end = L * W
    target = np.full((N, end + 1, A), end)
    reward = np.zeros((N, end + 1, A), np.float32)
    reward[:, :end] = rng.normal(size=(N, end, A))
    q = np.zeros((N, end + 1, A))
    for level in reversed(range(L)):
        here = slice(level * W, (level + 1) * W)
        if level < L - 1:
            target[:, here] = (level + 1) * W + rng.integers(0, W, (N, W, A))
        following = q.max(axis=2)[np.arange(N)[:, None, None], target[:, here]]
        q[:, here] = reward[:, here] + DISCOUNT * following
    return Mdps(target, reward, q)


class KnownModel:
    """True rewards and transitions; policy logits ``(N, states, A)`` and values ``(N, states)`` as
    given.
    """

    def __init__(self, mdps: Mdps, logits: np.ndarray, value: np.ndarray) -> None:
        self.mdps, self.logits, self.value = mdps, logits, value

    def root(self, num_simulations: int) -> SimpleNamespace:
        """The cache holds the state of every node ``(N, M+1)``."""
        state = np.zeros((N, num_simulations + 1), np.int64)
        return SimpleNamespace(cache=state, **self._predict(np.arange(N), state[:, 0]))

    def recurrent_inference(self, state: np.ndarray, *edges: np.ndarray) -> SimpleNamespace:
        root, parent, action, node = edges
        taken = root, state[root, parent], action
        reached = state[root, node] = self.mdps.target[taken]
        reward = torch.from_numpy(self.mdps.reward[taken])
        certain = torch.full((len(root),), -torch.inf)
        return SimpleNamespace(reward=reward, termination=certain, **self._predict(root, reached))

    def _predict(self, root: np.ndarray, state: np.ndarray) -> dict[str, Tensor]:
        here = root, state
        return {
            "policy": torch.from_numpy(self.logits[here]).float(),
            "value": torch.from_numpy(self.value[here]).float(),
        }


class ScalarValues:
    """Values are no categories here."""

    def expectation(self, values: Tensor) -> Tensor:
        return values


def run(
    kind: str, mdps: Mdps, logits: np.ndarray, value: np.ndarray, num_simulations: int
) -> SearchResult:
    model = KnownModel(mdps, logits, value)
    tree = KINDS[kind](N, num_simulations, A, discount=DISCOUNT)
    return search(
        TorchSearchModel(model, ScalarValues()),
        model.root(num_simulations),
        np.ones((N, A), bool),
        tree,
    )


def make_logits(name: str, mdps: Mdps) -> np.ndarray:
    if name == "uniform":
        return np.zeros(mdps.q.shape)
    if name == "random":
        return np.random.default_rng(5).normal(size=mdps.q.shape)
    assert name == "misleading"  # the worst action is three times as likely as any other
    return np.log(3.0) * (np.arange(A) == mdps.q.argmin(axis=2)[..., None])


def make_value(name: str, mdps: Mdps) -> np.ndarray:
    """``zero``, ``exact`` or with ``noise`` of half a reward's spread; the end is known to be worth
    nothing.
    """
    if name == "zero":
        return np.zeros(mdps.value.shape)
    noise = 0.5 * np.random.default_rng(6).normal(size=mdps.value.shape) if name == "noisy" else 0.0
    return mdps.value + noise * (np.arange(L * W + 1) < L * W)


def losses(mdps: Mdps, policy: np.ndarray) -> np.ndarray:
    """``(N,)``: what a policy at the root loses against the best action, exactly."""
    return mdps.value[:, 0] - (policy * mdps.q[:, 0]).sum(axis=1)


MDPS = random_mdps(0)


def test_the_exact_values_are_those_of_the_best_path():
    """Brute force over all paths of the first MDPs."""
    for n in range(5):
        best = -np.inf
        for path in itertools.product(range(A), repeat=L):
            state, total = 0, 0.0
            for step, action in enumerate(path):
                total += DISCOUNT**step * MDPS.reward[n, state, action]
                state = MDPS.target[n, state, action]
            assert state == L * W
            best = max(best, total)
        assert MDPS.value[n, 0] == pytest.approx(best)


@pytest.mark.parametrize("prior", ["uniform", "misleading"])
@pytest.mark.parametrize("kind, value, wanted", [
    ("puct", "zero", 0.95), ("puct", "noisy", 0.95), ("gumbel", "noisy", 0.95), ("gumbel", "zero", 0.85),
])  # fmt: skip
def test_enough_simulations_find_the_best_root_action(kind, value, wanted, prior):
    """The action chosen is the best one, or loses less than a tenth of a reward's spread, in almost
    all MDPs.

    Gumbel search relies more on the values: below the root an action whose first returns look bad
    is hardly tried again.
    """
    logits = make_logits(prior, MDPS)
    result = run(kind, MDPS, logits, make_value(value, MDPS), 1000)
    chosen = np.eye(A)[result.actions(1.0, None)]
    share = (losses(MDPS, chosen) < 0.1).mean()
    assert share >= wanted
    by_prior = np.eye(A)[result.prior.argmax(axis=1)]
    assert share > (losses(MDPS, by_prior) < 0.1).mean() + 0.3


@pytest.mark.parametrize("prior", ["uniform", "random", "misleading"])
@pytest.mark.parametrize("value", ["zero", "noisy"])
def test_the_improved_policy_is_better_than_the_prior_and_gumbels_needs_fewer_simulations(
    prior, value
):
    logits, values = make_logits(prior, MDPS), make_value(value, MDPS)
    lost = {}
    for kind, num_simulations in (("puct", 25), ("gumbel", 8), ("gumbel", 16)):
        result = run(kind, MDPS, logits, values, num_simulations)
        before, after = losses(MDPS, result.prior), losses(MDPS, result.policy())
        lost[kind, num_simulations] = after.mean() / before.mean()
        assert (after < before).mean() > 0.8
    assert lost["puct", 25] < 0.6
    assert max(lost["gumbel", 8], lost["gumbel", 16]) < min(0.3, lost["puct", 25])


@pytest.mark.parametrize("prior", ["uniform", "random", "misleading"])
def test_gumbel_improves_every_prior_as_soon_as_every_action_has_its_exact_q(prior):
    """The improvement the paper proves; one simulation each, so that nothing is averaged yet."""
    result = run("gumbel", MDPS, make_logits(prior, MDPS), make_value("exact", MDPS), A)
    assert (result.visits == 1).all()
    assert (losses(MDPS, result.policy()) < losses(MDPS, result.prior)).all()


@pytest.mark.parametrize("value", ["zero", "noisy"])
def test_the_root_value_of_puct_converges_to_the_exact_one(value):
    """The mean return holds what exploration costs, a share of the visits that falls about as 1 /
    √M.
    """
    logits, values = make_logits("uniform", MDPS), make_value(value, MDPS)
    errors = [
        np.abs(run("puct", MDPS, logits, values, num_simulations).value - MDPS.value[:, 0])
        for num_simulations in (25, 200, 1000)
    ]
    means = [error.mean() for error in errors]
    assert all(after < 0.6 * before for before, after in zip(means, means[1:], strict=False))
    assert means[-1] < 0.4 and errors[-1].max() < 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_that_foresees_death_avoids_it(kind):
    """What a model imagines behind a death looks like life; only the survival probability tells the
    difference.

    Rewards are the same everywhere, and the values behind a fatal action are as good as anywhere
    else.
    """
    rng = np.random.default_rng(3)
    fatal = rng.integers(0, A, (N, L * W + 1))  # one action of every state kills
    mdps = random_mdps(4)
    target = mdps.target
    mdps = Mdps(target, np.full_like(mdps.reward, 0.1), mdps.q)

    class Deadly(KnownModel):
        def recurrent_inference(self, state: np.ndarray, *edges: np.ndarray) -> SimpleNamespace:
            root, parent, action, _ = edges
            dies = torch.from_numpy(fatal[root, state[root, parent]] == action)
            answer = super().recurrent_inference(state, *edges)
            answer.termination = torch.where(dies, 20.0, -20.0)
            return answer

    model = Deadly(mdps, np.zeros(mdps.q.shape), np.ones(mdps.value.shape))
    tree = KINDS[kind](N, 16, A, discount=DISCOUNT)
    result = search(
        TorchSearchModel(model, ScalarValues()), model.root(16), np.ones((N, A), bool), tree
    )
    chosen = result.actions(1.0, None)
    assert (chosen != fatal[:, 0]).all()
    assert (result.policy()[np.arange(N), fatal[:, 0]] < 1 / A).all()
