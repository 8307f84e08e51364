"""Weight decay by role, and target networks that follow."""

import copy

import pytest
import torch

from lzero.nn.parameters import ema_update_, parameter_groups, weights_version
from tests.policy.unizero_cases import MODELS, make_config, make_policy, merged

NAMED = {
    **MODELS,
    "concat": {"model": {"task_embedding": "concat", "encoder": {"task_conditioned": True}}},
    "registers of experts": merged(MODELS["registers"], MODELS["vit"]),
}
VECTORS = ("bias", "_scale", "_shift", "bias1", "bias2", "registers", "position", "cls")


def is_matrix(model: torch.nn.Module, name: str) -> bool:
    """By what the parameter is for, told from its name and its module."""
    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    if isinstance(module, (torch.nn.LayerNorm, torch.nn.GroupNorm)):
        return False
    return not last.endswith(VECTORS)


@pytest.mark.parametrize("name", NAMED)
def test_weight_decay_is_for_matrices_alone(name):
    """And every parameter is in exactly one group, and moves without a gradient only if it is decayed."""
    policy = make_policy(make_config(NAMED[name]))
    model, names = policy.model, {p: name for name, p in policy.model.named_parameters()}
    decayed, plain = parameter_groups(model, 0.5)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)
    assert sorted(names[p] for p in decayed["params"]) == sorted(
        n for n in names.values() if is_matrix(model, n)
    )
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    optimizer = torch.optim.AdamW([decayed, plain], lr=0.01)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.995 if is_matrix(model, name) else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor, msg=name)


def test_what_is_learned_as_it_is_keeps_its_length():
    """Register tokens and positions have three dimensions, as stacks of matrices have."""
    model = make_policy(make_config(NAMED["registers of experts"])).model
    plain = {id(parameter) for parameter in parameter_groups(model, 0.5)[1]["params"]}
    assert {
        id(model.world_model.registers),
        id(model.encoder.trunk.position),
        id(model.encoder.trunk.cls),
    } <= plain


def test_linear_maps_of_other_kinds_are_linear_maps():
    """A subclass, as adapters are, keeps the decay of its class."""

    class Adapted(torch.nn.Linear):
        pass

    decayed, plain = parameter_groups(Adapted(3, 2), 0.1)
    assert [tuple(p.shape) for p in decayed["params"]] == [(2, 3)]
    assert [tuple(p.shape) for p in plain["params"]] == [(2,)]


def test_frozen_parameters_are_left_out():
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    decayed, plain = parameter_groups(model, 0.1)
    assert decayed["params"] == [model.weight] and plain["params"] == []


def test_the_target_follows_by_the_momentum():
    online = torch.nn.BatchNorm1d(4)
    target = copy.deepcopy(online)
    with torch.no_grad():
        online.weight.add_(1.0)
        online.running_mean.add_(2.0)
        online.num_batches_tracked.add_(3)
    ema_update_(target, online, 0.25)
    assert torch.equal(target.weight, torch.full((4,), 1.25))
    assert torch.equal(target.running_mean, torch.full((4,), 0.5))
    assert target.num_batches_tracked == 3, "counters are copied"


def test_weights_have_another_version_after_every_change():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    versions = [weights_version(model)]
    assert weights_version(model) == versions[0]
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.randn(4, 3)).square().sum().backward()  # moves the running statistics
    versions.append(weights_version(model))
    optimizer.step()
    versions.append(weights_version(model))
    model.load_state_dict(copy.deepcopy(model).state_dict())
    versions.append(weights_version(model))
    ema_update_(model, copy.deepcopy(model), 0.5)
    versions.append(weights_version(model))
    model[0].weight = torch.nn.Parameter(torch.zeros(3, 3))
    versions.append(weights_version(model))
    assert len(set(versions)) == len(versions)


def test_weights_made_in_inference_mode_are_always_new():
    with torch.inference_mode():
        model = torch.nn.Linear(3, 3)
    assert weights_version(model) != weights_version(model)
