"""A batched search in rounds equals one of every root alone, and of one simulation at a time."""

import numpy as np
import pytest
import torch

from lzero.config import ModelConfig
from lzero.mcts.gumbel import GumbelTree
from lzero.mcts.search import (
    RootNoise,
    SearchResult,
    TorchSearchModel,
    add_noise,
    sample_actions,
    search,
)
from lzero.mcts.tree import BatchTree
from lzero.model import UniZeroMTModel
from lzero.nn.scalars import ScalarSupport
from lzero.nn.tasks import TaskGroups

NUM_ACTIONS, DIM, SIMULATIONS = 5, 16, 20


def make_model(moe: dict, num_actions: int = NUM_ACTIONS) -> UniZeroMTModel:
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {"embed_dim": DIM, "num_heads": 2, "moe": moe, "encoder": {"kind": "mlp", "hidden": [8]}}
    )
    model = UniZeroMTModel(config, (4,), num_actions, 3).eval()
    for parameter in model.world_model.parameters():
        if parameter.ndim == 3 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("moe", [True, False])
@pytest.mark.parametrize("kind", [BatchTree, GumbelTree])
@torch.no_grad()
def test_batch_of_roots_equals_searches_of_one_root(kind, moe):
    model = make_model({"enabled": moe})
    task_id = np.array([0, 0, 2, 1, 2, 2])
    legal = np.ones((6, NUM_ACTIONS), bool)
    legal[task_id == 2, 3:] = False
    latent, action = torch.randn(6, 4, DIM), torch.randint(0, NUM_ACTIONS, (6, 3))
    valid, support = torch.tensor([3, 0, 1, 2, 3, 3]), ScalarSupport()

    def run(rows):
        groups = TaskGroups.of(task_id[rows], "cpu")
        root = model.initial_inference(latent[rows], action[rows], valid[rows], groups, SIMULATIONS)
        return search(
            TorchSearchModel(model, support),
            root,
            legal[rows],
            kind(len(rows), SIMULATIONS, NUM_ACTIONS, discount=0.997),
        )

    together = run(np.arange(6))
    assert not together.visits[task_id == 2, 3:].any()
    for row in range(6):
        alone = run(np.array([row]))
        np.testing.assert_array_equal(alone.visits[0], together.visits[row])
        np.testing.assert_allclose(alone.value[0], together.value[row], atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(alone.prior[0], together.prior[row], atol=1e-6)
        np.testing.assert_allclose(alone.policy()[0], together.policy()[row], atol=1e-4)
        np.testing.assert_array_equal(alone.actions(1.0, None)[0], together.actions(1.0, None)[row])


class CountedModel:
    """Counts the forwards of a search and the rows in them."""

    def __init__(self, model: UniZeroMTModel) -> None:
        self.model, self.rows = model, []

    def recurrent_inference(self, cache: object, *edges: np.ndarray) -> object:
        self.rows.append(len(edges[0]))
        return self.model.recurrent_inference(cache, *edges)


def simulate_one_by_one(model, support, root, legal, tree) -> BatchTree:
    """The reference: every forward answers one simulation of every root."""
    prior = root.policy.masked_fill(torch.from_numpy(~legal), -torch.inf).softmax(dim=-1)
    tree.reset(prior.numpy(), legal, support.expectation(root.value).numpy())
    roots = np.arange(len(legal))
    for simulation in range(tree.num_simulations):
        parent, action = tree.select()
        node = np.full(len(legal), simulation + 1)
        found = model.recurrent_inference(root.cache, roots, parent, action, node)
        tree.expand_and_backup(
            support.expectation(found.reward).numpy(),
            support.expectation(found.value).numpy(),
            found.policy.masked_fill(torch.from_numpy(~legal), -torch.inf).softmax(dim=-1).numpy(),
            torch.sigmoid(-found.termination).numpy(),
        )
    return tree


@pytest.mark.parametrize(
    "moe", [{"enabled": False}, {"enabled": True}, {"top_k": 2}, {"routing": "hardcoded"}]
)
@pytest.mark.parametrize("sorted_tasks", [True, False])
@pytest.mark.parametrize(
    "kind, num_simulations, settings",
    [
        (GumbelTree, 16, {}),
        (GumbelTree, 7, {"max_considered_actions": 4}),
        (GumbelTree, 25, {"max_considered_actions": 2}),
        (GumbelTree, 5, {"max_considered_actions": 1}),
        (BatchTree, 12, {}),
    ],
)
@torch.no_grad()
def test_rounds_equal_one_simulation_after_the_other(
    kind, num_simulations, settings, sorted_tasks, moe
):
    """Roots have 1 to 18 legal actions, so their rounds differ; some actions end the episode."""
    num_actions, num_legal = 18, np.array([18, 1, 6, 2, 18, 3, 9, 17])
    model, support = make_model(moe, num_actions), ScalarSupport()
    torch.nn.init.zeros_(model.world_model.reward_head.bias2[..., -1])  # survival from 0 to 1
    task_id = np.array([0, 0, 0, 1, 1, 2, 2, 2] if sorted_tasks else [2, 0, 1, 1, 0, 2, 2, 0])
    order = np.random.default_rng(0).random((len(task_id), num_actions)).argsort(axis=1)
    legal = order < num_legal[:, None]
    latent = torch.randn(len(task_id), 4, DIM)
    action = torch.randint(0, num_actions, (len(task_id), 3))
    valid = torch.tensor([3, 0, 1, 2, 3, 3, 2, 0])

    def root():
        return model.initial_inference(
            latent, action, valid, TaskGroups.of(task_id, "cpu"), num_simulations
        )

    def tree() -> BatchTree:
        return kind(len(task_id), num_simulations, num_actions, discount=0.997, **settings)

    counted = CountedModel(model)
    got = search(TorchSearchModel(counted, support), root(), legal, tree())
    expected = simulate_one_by_one(model, support, root(), legal, tree())
    np.testing.assert_array_equal(got.visits, expected.visit_counts())
    np.testing.assert_array_equal(got.action_weights, expected.action_weights())
    np.testing.assert_allclose(got.improved, expected.improved_policy(), atol=1e-4)
    np.testing.assert_allclose(got.value, expected.root_values(), atol=1e-4, rtol=1e-4)
    survival = expected.arrays.discount[:, 1:] / 0.997
    assert survival.min() < 0.3 and survival.max() > 0.7
    assert sum(counted.rows) == len(task_id) * num_simulations
    if kind is BatchTree:
        assert counted.rows == [len(task_id)] * num_simulations


def test_noise_keeps_a_distribution_over_legal_actions():
    prior = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], np.float32)
    legal = prior > 0
    draws = np.stack(
        [
            add_noise(prior, legal, RootNoise(0.3, 0.25, np.random.default_rng(seed)))
            for seed in range(2000)
        ]
    )
    np.testing.assert_allclose(draws.sum(axis=2), 1.0, atol=1e-5)
    assert not draws[:, 0, 2].any()
    # The mean of a symmetric Dirichlet is uniform over the legal actions.
    np.testing.assert_allclose(
        draws.mean(axis=0), 0.75 * prior + 0.25 * legal / legal.sum(1, keepdims=True), atol=0.01
    )


def test_sampled_actions_follow_sharpened_visits():
    visits = np.array([[6, 3, 1, 0]])
    actions = sample_actions(visits.repeat(20_000, axis=0), 0.5, np.random.default_rng(0))
    expected = visits[0] ** 2 / (visits**2).sum()
    np.testing.assert_allclose(np.bincount(actions, minlength=4) / 20_000, expected, atol=0.01)


def test_ties_go_to_the_action_that_the_network_likes_best():
    weights = np.array([[2, 2, 1, 0], [0, 3, 0, 3], [1, 1, 1, 0]])
    prior = np.array([[0.1, 0.2, 0.6, 0.1], [0.9, 0.1, 0.0, 0.0], [0.2, 0.3, 0.5, 0.0]])
    zeros = np.zeros(3)
    result = SearchResult(weights, prior, weights, zeros, prior, zeros)
    assert result.actions(1.0, None).tolist() == [1, 1, 2]
