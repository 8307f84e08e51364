"""Tree search over latent space: the array tree asks, the model answers, for all roots of all tasks
at once.

Shape legend: N = roots, A = actions, M = simulations, R = rows of a round.
"""

from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from lzero import checks
from lzero.config import SearchConfig
from lzero.mcts.gumbel import GumbelTree
from lzero.mcts.kernels import Edges
from lzero.mcts.tree import BatchTree

Cache = TypeVar("Cache")
CacheOut = TypeVar("CacheOut", covariant=True)
CacheIn = TypeVar("CacheIn", contravariant=True)


class RootPrediction(Protocol[CacheOut]):
    """What a search begins with: the model's answer at N roots."""

    @property
    def policy(self) -> Tensor:
        """Logits ``(N, A)``."""

    @property
    def value(self) -> Tensor:
        """Logits ``(N, bins)``."""

    @property
    def cache(self) -> CacheOut:
        """What the model remembers of the roots; the search only hands it back."""


class Answers(NamedTuple):
    """What a model says of a round of simulations, one row each; float32 on the host."""

    reward: np.ndarray
    """On the edge ``(R,)``."""
    value: np.ndarray
    """Of the new node ``(R,)``."""
    survival: np.ndarray
    """Probability that the episode goes on behind the edge ``(R,)``."""
    prior: np.ndarray
    """Policy at the new node over legal actions ``(R, A)``."""


class SearchModel(Protocol[CacheIn]):
    """What a search needs of a model after its root inference."""

    def begin(
        self, root: RootPrediction[CacheIn], legal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Priors ``(N, A)`` over the ``legal (N, A)`` actions and values ``(N,)`` of the roots."""

    def expand(self, cache: CacheIn, edges: Edges, legal: np.ndarray) -> Answers:
        """Answer a round of a search that has begun; ``legal`` as there."""


class Support(Protocol):
    """Turns categorical predictions into scalars."""

    def expectation(self, logits: Tensor) -> Tensor:
        """``(…, bins)`` to ``(…)``."""


class NodePrediction(Protocol):
    """A model's logits for one round of simulations."""

    @property
    def reward(self) -> Tensor:
        """Of the reward on the edge ``(R, bins)``."""

    @property
    def termination(self) -> Tensor:
        """Of the episode's end on the edge ``(R,)``."""

    @property
    def policy(self) -> Tensor:
        """At the new node ``(R, A)``."""

    @property
    def value(self) -> Tensor:
        """At the new node ``(R, bins)``."""


class RecurrentModel(Protocol[CacheIn]):
    """A model that predicts logits."""

    def recurrent_inference(
        self,
        cache: CacheIn,
        root: np.ndarray,
        parent: np.ndarray,
        action: np.ndarray,
        node: np.ndarray,
    ) -> NodePrediction:
        """Predictions behind the :class:`~lzero.mcts.kernels.Edges` of a round, one a row."""


@dataclass(frozen=True)
class TorchSearchModel(Generic[Cache]):
    """Answers with a model's own inference, on any device and in any precision.

    Attributes:
        model: predicts logits.
        support: of its value and reward.
    """

    model: RecurrentModel[Cache]
    support: Support

    def begin(
        self, root: RootPrediction[Cache], legal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`SearchModel`."""
        illegal = torch.from_numpy(~legal).to(root.policy.device)
        prior = root.policy.float().masked_fill(illegal, -torch.inf).softmax(dim=-1)
        return _to_host(prior), _to_host(self.support.expectation(root.value))

    def expand(self, cache: Cache, edges: Edges, legal: np.ndarray) -> Answers:
        """See :class:`SearchModel`."""
        node = self.model.recurrent_inference(cache, *edges)
        illegal = torch.from_numpy(~legal[edges.root]).to(node.policy.device, non_blocking=True)
        return self.brought_to_host(self.packed(node, illegal))

    def packed(self, node: NodePrediction, illegal: Tensor) -> Tensor:
        """Answers in one tensor ``(3 + A, R)``, which is one transfer; ``illegal (R, A)``."""
        scalars = self.support.expectation(torch.stack([node.reward, node.value]))
        survival = torch.sigmoid(-node.termination.float())[None]
        prior = node.policy.float().masked_fill(illegal, -torch.inf).softmax(dim=-1)
        return torch.cat([scalars, survival, prior.t()])

    @staticmethod
    def brought_to_host(packed: Tensor) -> Answers:
        """What :meth:`packed` holds."""
        answer = _to_host(packed)
        reward, value, survival = answer[:3]
        return Answers(reward, value, survival, answer[3:].T)


@dataclass(frozen=True)
class RootNoise:
    """Dirichlet noise mixed into the root prior when collecting.

    Raises:
        TypeError: if ``rng`` is no generator.
        ValueError: if ``alpha`` is not positive, or ``weight`` is no share.
    """

    alpha: float
    weight: float
    rng: np.random.Generator

    def __post_init__(self) -> None:
        checks.number("alpha", self.alpha, 0.0, above=True)
        checks.number("weight", self.weight, 0.0, 1.0)
        checks.generator("rng", self.rng)


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        visits: visit counts of the root's actions ``(N, A)``.
        improved: what the network's policy should be ``(N, A)``: the visit distribution of pUCT,
            Gumbel's π'.
        action_weights: by which to choose actions ``(N, A)``: the visits of pUCT, one at the winner
            of Gumbel search.
        value: of the search ``(N,)``: the mean of the backed-up returns of pUCT, Gumbel's Q
            averaged over π'.
        prior: the network's own policy over legal actions, without noise ``(N, A)``.
        network_value: the network's own value ``(N,)``.
    """

    visits: np.ndarray
    improved: np.ndarray
    action_weights: np.ndarray
    value: np.ndarray
    prior: np.ndarray
    network_value: np.ndarray

    def policy(self) -> np.ndarray:
        """Policy target ``(N, A)`` float32."""
        return self.improved.astype(np.float32)

    def actions(self, temperature: float, rng: np.random.Generator | None) -> np.ndarray:
        """Actions to take ``(N,)``: drawn from ``action_weights^(1/temperature)``, without ``rng``
        those of most weight, among equals the one that the network likes best.
        """
        if rng is None:
            best = self.action_weights == self.action_weights.max(axis=1, keepdims=True)
            return np.where(best, self.prior, -1.0).argmax(axis=1)
        return sample_actions(self.action_weights, temperature, rng)


def make_tree(
    config: SearchConfig,
    num_roots: int,
    num_simulations: int,
    num_actions: int,
    *,
    discount: float,
    rng: np.random.Generator | None = None,
) -> BatchTree:
    """The tree of the configured kind of search; with ``rng`` it explores, as an actor does that
    collects.
    """
    if config.kind == "gumbel":
        return GumbelTree(
            num_roots,
            num_simulations,
            num_actions,
            discount=discount,
            max_considered_actions=config.max_considered_actions,
            c_visit=config.c_visit,
            c_scale=config.c_scale,
            rng=rng,
        )
    return BatchTree(
        num_roots,
        num_simulations,
        num_actions,
        discount=discount,
        pb_c_init=config.pb_c_init,
        pb_c_base=config.pb_c_base,
        deterministic=rng is None,
        rng=rng,
    )


def search(
    model: SearchModel[Cache],
    root: RootPrediction[Cache],
    legal: np.ndarray,
    tree: BatchTree,
    noise: RootNoise | None = None,
) -> SearchResult:
    """Run ``tree.num_simulations`` simulations from every root.

    Args:
        model: answers one round of simulations of all roots, whose ``root`` inference this is.
        root: the same model's inference at the roots.
        legal: ``(N, A)`` bool.
        tree: reused between calls; its sizes are the search's, its kind (:class:`BatchTree` or
            :class:`~lzero.mcts.gumbel.GumbelTree`) decides which actions are tried and what is made
            of them.
        noise: root noise of pUCT; None searches with the plain prior, as Gumbel search must.

    Raises:
        TypeError: if ``tree`` is none.
        ValueError: if ``legal`` has another shape than the tree, or Gumbel search is given noise.
        FloatingPointError: if the network's answers at the roots are no numbers.

    Source: MuZero (arXiv 1911.08265), with all roots in one batch.
    """
    checks.instance("tree", tree, BatchTree, "a BatchTree or GumbelTree")
    checks.shape("legal", legal, tree.num_roots, tree.num_actions)
    if noise is not None and isinstance(tree, GumbelTree):
        raise ValueError(f"noise={noise}: Gumbel search has its own; allowed is None")
    prior, network_value = model.begin(root, legal)
    if not (np.isfinite(prior).all() and np.isfinite(network_value).all()):
        raise FloatingPointError(
            "the network predicts no numbers: lower policy.optimiser.learning_rate or use precision=fp32, then resume from the "
            "last checkpoint"
        )
    tree.reset(prior if noise is None else add_noise(prior, legal, noise), legal, network_value)
    while tree.simulation < tree.num_simulations:
        edges = tree.select_round()
        answers = model.expand(root.cache, edges, legal)
        tree.expand_and_backup(answers.reward, answers.value, answers.prior, answers.survival)
    return SearchResult(
        visits=tree.visit_counts(),
        improved=tree.improved_policy(),
        action_weights=tree.action_weights(),
        value=tree.root_values(),
        prior=prior,
        network_value=network_value,
    )


def add_noise(prior: np.ndarray, legal: np.ndarray, noise: RootNoise) -> np.ndarray:
    """Mix Dirichlet noise over each root's legal actions into ``prior (N, A)``.

    A Dirichlet draw is a normalised draw of gamma variates, which batches over roots with different
    legal sets.

    Raises:
        ValueError: if ``legal`` has another shape, or a root has no legal action.
    """
    checks.shape("legal", legal, *prior.shape)
    without = np.flatnonzero(~legal.any(axis=1))
    if without.size:
        raise ValueError(f"legal allows root {without[0]} no action; every root needs one")
    gamma = noise.rng.standard_gamma(noise.alpha, size=prior.shape) * legal
    gamma += legal * np.finfo(np.float64).tiny  # small alphas can underflow to zero everywhere
    dirichlet = gamma / gamma.sum(axis=1, keepdims=True)
    return ((1 - noise.weight) * prior + noise.weight * dirichlet).astype(np.float32)


def sample_actions(weights: np.ndarray, temperature: float, rng: np.random.Generator) -> np.ndarray:
    """Draw ``(N,)`` actions with probability proportional to ``weights^(1/temperature)``.

    Args:
        weights: ``(N, A)``, finite and not negative, in every row one above 0.
        temperature: above 0.
        rng: source of the draws.

    Raises:
        TypeError: if ``rng`` is no generator.
        ValueError: for others.
    """
    checks.number("temperature", temperature, 0.0, above=True)
    checks.generator("rng", rng)
    checks.shape("weights", weights, None, None)
    low, high = weights.min(axis=1, initial=0), weights.max(axis=1, initial=0)
    is_drawable = (low >= 0) & (high > 0) & (high < np.inf)
    if not is_drawable.all():
        row = int(is_drawable.argmin())
        raise ValueError(
            f"weights of row {row} are {checks.shown(weights[row].tolist())}: allowed are finite ones "
            "from 0 on, one of them above 0"
        )
    sharpened = (weights / weights.max(axis=1, keepdims=True)) ** (1 / temperature)
    cumulative = sharpened.cumsum(axis=1)
    threshold = rng.random(len(weights)) * cumulative[:, -1]
    return (cumulative > threshold[:, None]).argmax(axis=1)


def _to_host(x: Tensor) -> np.ndarray:
    return x.cpu().numpy()
