"""Reanalysed targets are what a search of each step alone would have found."""

import numpy as np
import pytest
import torch

from lzero.config import ExperimentConfig
from lzero.mcts.gumbel import GumbelTree
from lzero.mcts.search import TorchSearchModel, search
from lzero.mcts.tree import BatchTree
from lzero.model import UniZeroMTModel
from lzero.model.unizero_world_models.world_model_multitask import Timeline
from lzero.nn.scalars import ScalarSupport
from lzero.nn.tasks import TaskGroups
from lzero.policy.reanalyse import reanalysed_policy


def make_config(kind: str) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "env": {
                "domain": "zoo.classic_control.domain:CLASSIC_CONTROL",
                "games": ["CartPole-v1", "Acrobot-v1"],
            },
            "model": {
                "embed_dim": 16,
                "num_heads": 2,
                "num_layers": 1,
                "encoder": {"kind": "mlp", "hidden": [8]},
            },
            "policy": {"search": {"kind": kind, "num_simulations": 6}, "reanalyse_fraction": 1.0},
        }
    )


@pytest.mark.parametrize("kind, tree_type", [("puct", BatchTree), ("gumbel", GumbelTree)])
def test_equals_searching_every_step_alone(kind, tree_type):
    torch.manual_seed(0)
    config = make_config(kind)
    model = UniZeroMTModel(config.model, (6,), 3, 2).eval()
    for parameter in model.world_model.parameters():
        if parameter.ndim == 3 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    windows, steps, context = 3, 7, config.history_steps
    latent, action = torch.randn(windows, steps, 16), torch.randint(0, 3, (windows, steps))
    task_id, legal = (
        torch.tensor([0, 1, 1]),
        torch.tensor([[True, True, False], [True] * 3, [True] * 3]),
    )
    support = ScalarSupport()
    # the second window is of two episodes, the first step of the third is none of its own
    episode = torch.zeros(windows, steps, dtype=torch.int64)
    episode[1, 3:] = 1
    episode[2, 0] = -1
    groups, stored = TaskGroups.of(task_id, "cpu"), torch.full((windows, steps, 3), torch.nan)
    got = reanalysed_policy(
        stored, model, support, config, latent, action, Timeline(episode), groups, legal
    )
    assert got.shape == (windows, steps, 3)
    assert not got[0, :, 2].any()
    tree = tree_type(1, 6, 3, discount=config.policy.discount)
    for window in range(windows):
        for step in range(steps):
            valid = 0
            while valid < min(step, context - 1) and (
                episode[window, step - valid - 1] == episode[window, step]
            ):
                valid += 1
            seen = torch.zeros(1, context, 16)
            taken = torch.zeros(1, context - 1, dtype=torch.int64)
            seen[0, context - 1 - valid :] = latent[window, step - valid : step + 1]
            taken[0, context - 1 - valid :] = action[window, step - valid : step]
            one = TaskGroups.of(task_id[window : window + 1], "cpu")
            with torch.no_grad():
                root = model.initial_inference(seen, taken, torch.tensor([valid]), one, 6)
                expected = search(
                    TorchSearchModel(model, support), root, legal[window : window + 1].numpy(), tree
                ).policy()
            np.testing.assert_allclose(got[window, step], expected[0], atol=1e-5)
