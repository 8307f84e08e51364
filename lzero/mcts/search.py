"""Tree search over latent space: the array tree asks, the model answers, for all roots of all tasks at once.

Shape legend: N = roots, A = actions, M = simulations.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lzero.mcts.tree import BatchTree


class SearchModel(Protocol):
    """What a search needs of a model after its root inference."""

    def recurrent_inference(self, cache: object, parent: Tensor, action: Tensor) -> object:
        """Predictions of one simulation at every root."""


class Support(Protocol):
    """Turns categorical predictions into scalars."""

    def expectation(self, logits: Tensor) -> Tensor:
        """``(…, bins)`` to ``(…)``."""


@dataclass(frozen=True)
class RootNoise:
    """Dirichlet noise mixed into the root prior when collecting."""

    alpha: float
    weight: float
    rng: np.random.Generator


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        visits: visit counts of the root's actions ``(N, A)``.
        value: mean of the backed-up returns ``(N,)``.
        prior: the network's own policy over legal actions, without noise ``(N, A)``.
        network_value: the network's own value ``(N,)``.
    """

    visits: np.ndarray
    value: np.ndarray
    prior: np.ndarray
    network_value: np.ndarray

    def policy(self) -> np.ndarray:
        """Visit distribution ``(N, A)``."""
        return (self.visits / self.visits.sum(axis=1, keepdims=True)).astype(np.float32)


def search(
    model: SearchModel,
    support: Support,
    root: object,
    legal: np.ndarray,
    tree: BatchTree,
    noise: RootNoise | None = None,
) -> SearchResult:
    """Run ``tree.num_simulations`` simulations from every root.

    Args:
        model: answers one simulation of all roots.
        support: of the value and reward predictions.
        root: inference at the roots, with ``policy (N, A)`` and ``value (N, bins)`` logits and a ``cache``.
        legal: ``(N, A)`` bool.
        tree: reused between calls; its sizes are the search's.
        noise: root noise; None searches with the plain prior.

    Source: MuZero (arXiv 1911.08265), with all roots in one batch.
    """
    device = root.policy.device
    illegal = torch.as_tensor(~legal, device=device)
    prior = _to_host(root.policy.float().masked_fill(illegal, -torch.inf).softmax(dim=-1))
    network_value = _to_host(support.expectation(root.value))
    tree.reset(prior if noise is None else add_noise(prior, legal, noise), legal)
    for _ in range(tree.num_simulations):
        parent, action = (torch.as_tensor(index, dtype=torch.int64, device=device) for index in tree.select())
        node = model.recurrent_inference(root.cache, parent, action)
        scalars = support.expectation(torch.stack([node.reward, node.value]))
        node_prior = node.policy.float().masked_fill(illegal, -torch.inf).softmax(dim=-1)
        answer = _to_host(torch.cat([scalars.t(), node_prior], dim=1))  # one transfer per simulation
        tree.expand_and_backup(answer[:, 0], answer[:, 1], answer[:, 2:])
    return SearchResult(tree.visit_counts(), tree.root_values(), prior, network_value)


def add_noise(prior: np.ndarray, legal: np.ndarray, noise: RootNoise) -> np.ndarray:
    """Mix Dirichlet noise over each root's legal actions into ``prior (N, A)``.

    A Dirichlet draw is a normalised draw of gamma variates, which batches over roots with different legal sets.
    """
    gamma = noise.rng.standard_gamma(noise.alpha, size=prior.shape) * legal
    gamma += legal * np.finfo(np.float64).tiny  # small alphas can underflow to zero everywhere
    dirichlet = gamma / gamma.sum(axis=1, keepdims=True)
    return ((1 - noise.weight) * prior + noise.weight * dirichlet).astype(np.float32)


def sample_actions(visits: np.ndarray, temperature: float, rng: np.random.Generator) -> np.ndarray:
    """Draw ``(N,)`` actions with probability proportional to ``visits^(1/temperature)``."""
    weight = (visits / visits.max(axis=1, keepdims=True)) ** (1 / temperature)
    cumulative = weight.cumsum(axis=1)
    threshold = rng.random(len(visits)) * cumulative[:, -1]
    return (cumulative > threshold[:, None]).argmax(axis=1)


def _to_host(x: Tensor) -> np.ndarray:
    return x.cpu().numpy()
