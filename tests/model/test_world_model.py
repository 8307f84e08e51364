"""What the world model predicts before it has learned anything."""

import torch

from lzero.config import ModelConfig
from lzero.model.unizero_world_models.world_model_multitask import WorldModel
from lzero.nn.tasks import TaskGroups

DIM, NUM_TASKS, NUM_ACTIONS = 16, 2, 5
GROUPS = TaskGroups.of([0, 1, 1], "cpu")


def make_world_model(**config) -> WorldModel:
    torch.manual_seed(0)
    sizes = {"embed_dim": DIM, "num_heads": 2, "num_layers": 1}
    return WorldModel(ModelConfig.model_validate(sizes | config), NUM_TASKS, NUM_ACTIONS)


def test_changes_of_the_latent_are_none_at_first_and_pull_no_latent_to_the_next():
    latent = torch.randn(3, 6, DIM, requires_grad=True)
    action = torch.randint(0, NUM_ACTIONS, (3, 5))
    predicted = make_world_model(residual_latent=True)(latent, action, GROUPS).next_latent
    torch.testing.assert_close(predicted, latent[:, :-1])
    predicted.square().sum().backward()
    assert not latent.grad.any()  # it would come through the latent that is changed alone


def test_latents_predicted_whole_differ_from_the_last():
    latent, action = torch.randn(3, 6, DIM), torch.randint(0, NUM_ACTIONS, (3, 5))
    predicted = make_world_model()(latent, action, GROUPS).next_latent
    assert (predicted - latent[:, :-1]).abs().mean() > 0.1
