"""Lengths of a model's parameters by module, and the lag of a target network."""

import copy
import math

import pytest
import torch

from lzero.analysis.parameter_norms import norms_by_module, parameter_lag, parameter_norms
from lzero.config import ModelConfig
from lzero.model import UniZeroMTModel
from lzero.policy.points import module_of
from tests.analysis.plasticity_cases import DIM, MODELS, VECTOR, make_model


def modules_of(model: UniZeroMTModel) -> list[str]:
    return [module_of(name) for name, _ in model.named_parameters()]


@pytest.mark.parametrize("name", MODELS)
def test_squared_norms_of_modules_add_up_to_those_of_their_parameters(name):
    model = make_model(name)
    norms = norms_by_module(modules_of(model), parameter_norms(model))
    heads = {"policy_head", "value_head", "reward_head", "latent_head"}
    blocks = {
        f"layer{layer}.{part}" for layer in range(2) for part in ("attention", "feed_forward")
    }
    assert norms.keys() == heads | blocks | {"encoder", "embeddings", "rest"}
    world_model = model.world_model
    modules = {
        f"layer{i}.feed_forward": block.feed_forward
        for i, block in enumerate(world_model.transformer.blocks)
    }
    modules |= {"encoder": model.encoder, "value_head": world_model.value_head}
    modules |= {
        f"layer{i}.attention": block.attention
        for i, block in enumerate(world_model.transformer.blocks)
    }
    for key, module in modules.items():
        flat = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
        assert norms[key] == pytest.approx(flat.double().norm().item(), rel=1e-5), key
    whole = (
        torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        .double()
        .norm()
        .item()
    )
    assert math.sqrt(sum(norm**2 for norm in norms.values())) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("embedding", ["none", "add", "concat", "register"])
def test_what_tells_tasks_and_actions_apart_is_an_embedding(embedding):
    config = ModelConfig(
        embed_dim=DIM, num_heads=2, task_embedding=embedding, encoder={"kind": "mlp"}
    )
    modules = modules_of(UniZeroMTModel(config, VECTOR, 2, 2))
    norms = norms_by_module(modules, torch.ones(len(modules)))
    here = {"none": 1, "add": 2, "concat": 4, "register": 2}[embedding]
    assert norms["embeddings"] == pytest.approx(here**0.5)
    assert norms["rest"] == pytest.approx((2 * 4 + 2) ** 0.5), (
        "two layer norms of each block and the last one"
    )


def test_norms_that_do_not_fit_the_names_are_refused():
    with pytest.raises(
        ValueError, match=r"norms has shape \(3,\) for 2 names; give one norm per parameter"
    ):
        norms_by_module(["encoder", "rest"], torch.ones(3))


def test_lag_is_the_relative_distance_of_all_parameters():
    online = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    target = copy.deepcopy(online)
    assert parameter_lag(online, target).item() == 0.0
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.mul_(0.75)
    assert parameter_lag(online, target).item() == pytest.approx(0.25, rel=1e-5)
