"""One batched search over all roots of all tasks equals a search of every root alone."""

import numpy as np
import pytest
import torch

from lzero.config import ModelConfig
from lzero.mcts.gumbel import GumbelTree
from lzero.mcts.search import RootNoise, add_noise, sample_actions, search
from lzero.mcts.tree import BatchTree
from lzero.model import UniZeroMTModel
from lzero.policy.scaling_transform import ScalarSupport

NUM_ACTIONS, DIM, SIMULATIONS = 5, 16, 20


@pytest.mark.parametrize("moe", [True, False])
@pytest.mark.parametrize("kind", [BatchTree, GumbelTree])
@torch.no_grad()
def test_batch_of_roots_equals_searches_of_one_root(kind, moe):
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {"embed_dim": DIM, "num_heads": 2, "moe": {"enabled": moe}, "encoder": {"kind": "mlp", "hidden": [8]}}
    )
    model = UniZeroMTModel(config, (4,), NUM_ACTIONS, 3).eval()
    for parameter in model.world_model.parameters():
        if parameter.ndim == 3 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    task_id = np.array([0, 0, 2, 1, 2, 2])
    legal = np.ones((6, NUM_ACTIONS), bool)
    legal[task_id == 2, 3:] = False
    latent, action = torch.randn(6, 4, DIM), torch.randint(0, NUM_ACTIONS, (6, 3))
    valid, support = torch.tensor([3, 0, 1, 2, 3, 3]), ScalarSupport()

    def run(rows):
        root = model.initial_inference(latent[rows], action[rows], valid[rows], task_id[rows], SIMULATIONS)
        return search(model, support, root, legal[rows], kind(len(rows), SIMULATIONS, NUM_ACTIONS, discount=0.997))

    together = run(np.arange(6))
    assert not together.visits[task_id == 2, 3:].any()
    for row in range(6):
        alone = run(np.array([row]))
        np.testing.assert_array_equal(alone.visits[0], together.visits[row])
        np.testing.assert_allclose(alone.value[0], together.value[row], atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(alone.prior[0], together.prior[row], atol=1e-6)
        np.testing.assert_allclose(alone.policy()[0], together.policy()[row], atol=1e-4)
        np.testing.assert_array_equal(alone.actions(1.0, None)[0], together.actions(1.0, None)[row])


def test_noise_keeps_a_distribution_over_legal_actions():
    prior = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], np.float32)
    legal = prior > 0
    draws = np.stack([add_noise(prior, legal, RootNoise(0.3, 0.25, np.random.default_rng(seed))) for seed in range(2000)])
    np.testing.assert_allclose(draws.sum(axis=2), 1.0, atol=1e-5)
    assert not draws[:, 0, 2].any()
    # The mean of a symmetric Dirichlet is uniform over the legal actions.
    np.testing.assert_allclose(draws.mean(axis=0), 0.75 * prior + 0.25 * legal / legal.sum(1, keepdims=True), atol=0.01)


def test_sampled_actions_follow_sharpened_visits():
    visits = np.array([[6, 3, 1, 0]])
    actions = sample_actions(visits.repeat(20_000, axis=0), 0.5, np.random.default_rng(0))
    expected = visits[0] ** 2 / (visits**2).sum()
    np.testing.assert_allclose(np.bincount(actions, minlength=4) / 20_000, expected, atol=0.01)
