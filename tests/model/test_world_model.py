"""What the world model predicts along windows."""

import pytest
import torch

from lzero.config import ModelConfig
from lzero.model.unizero_world_models.world_model_multitask import Timeline, WorldModel
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


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("task_embedding", ["none", "register"])
@torch.no_grad()
def test_a_window_with_a_past_is_predicted_as_the_end_of_a_longer_one(task_embedding, residual):
    model = make_world_model(
        num_layers=2, context_steps=3, task_embedding=task_embedding, residual_latent=residual
    ).eval()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    past, steps, missing = 4, 6, torch.tensor([0, 3, 4])
    episode = torch.zeros(3, past + steps, dtype=torch.int64)
    latent = torch.randn(3, past + steps, DIM)
    action = torch.randint(0, NUM_ACTIONS, (3, past + steps - 1))
    for row, gone in enumerate(missing.tolist()):
        latent[row, :gone] = 1e3  # would be felt
        episode[row, :gone] = -1
    timeline = Timeline(episode, past)
    found = model(latent, action, GROUPS, timeline)
    values = model.value_logits(latent, action, GROUPS, timeline)
    torch.testing.assert_close(values, found.value)
    for row, gone in enumerate(missing.tolist()):
        alone = TaskGroups.of(GROUPS.host_task_id[row : row + 1], "cpu")
        expected = model(latent[row : row + 1, gone:], action[row : row + 1, gone:], alone)
        for name in ("policy", "value", "reward", "termination", "next_latent"):
            got, whole = getattr(found, name)[row], getattr(expected, name)[0]
            torch.testing.assert_close(got, whole[past - gone :], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("task_embedding", ["none", "register"])
@torch.no_grad()
def test_episodes_of_a_window_are_predicted_as_if_alone(task_embedding):
    model = make_world_model(num_layers=2, context_steps=3, task_embedding=task_embedding).eval()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    latent, action = torch.randn(3, 9, DIM), torch.randint(0, NUM_ACTIONS, (3, 8))
    starts = ([0, 4], [0, 1, 2, 8], [0])
    episode = torch.zeros(3, 9, dtype=torch.int64)
    for row, first_steps in enumerate(starts):
        for first in first_steps[1:]:
            episode[row, first:] += 1
    found = model(latent, action, GROUPS, Timeline(episode))
    for row, first_steps in enumerate(starts):
        alone = TaskGroups.of(GROUPS.host_task_id[row : row + 1], "cpu")
        for first, end in zip(first_steps, [*first_steps[1:], 9], strict=True):
            expected = model(
                latent[row : row + 1, first:end], action[row : row + 1, first : end - 1], alone
            )
            for name in ("policy", "value", "reward", "termination", "next_latent"):
                whole = getattr(expected, name)[0]
                got = getattr(found, name)[row, first : first + len(whole)]
                torch.testing.assert_close(got, whole, atol=1e-5, rtol=1e-5)
