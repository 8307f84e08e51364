"""Targets of an update against brute force: one pass of a target network that never drops, reanalysis, first steps."""

import copy
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from lzero.config import ExperimentConfig
from lzero.nn.tasks import TaskGroups
from lzero.policy import UniZeroMTPolicy
from lzero.replay.buffer import ReplayWindows
from lzero.worker.actor import Actor
from tests.policy.unizero_cases import (
    GAMES,
    LEGAL,
    groups_of,
    make_config,
    make_policy,
    make_windows,
    merged,
    naive_masks,
)

VIT = {
    "env": {"games": GAMES[:1]},
    "model": {
        "dropout": 0.5,
        "encoder": {
            "kind": "vit",
            "dropout": 0.5,
            "vit_width": 16,
            "vit_heads": 2,
            "vit_layers": 1,
            "patch_size": 4,
        },
    },
}


def image_windows(config: ExperimentConfig) -> ReplayWindows:
    windows = make_windows(config)
    noise = np.random.default_rng(0).integers(0, 255, (*windows.action.shape, 3, 8, 8), np.uint8)
    return replace(windows, observation=torch.from_numpy(noise))


def test_the_target_network_never_drops(seen_targets):
    """Its targets repeat exactly and equal those of a model without dropout; the online network does drop."""
    config = make_config(VIT)

    def policy_with(config: ExperimentConfig) -> UniZeroMTPolicy:
        torch.manual_seed(0)
        return UniZeroMTPolicy(config, (3, 8, 8), LEGAL[:1])

    windows = image_windows(config)
    results = []
    for seed, policy in ((1, policy_with(config)), (2, policy_with(config))):
        torch.manual_seed(seed)
        results.append(policy.learn(windows))
        assert not policy.model.training and not policy.target.training
        frames = windows.observation[:, 0]
        latents = [policy.model.encoder(frames, windows.task_id) for _ in range(2)]
        assert torch.equal(*latents), "back in eval mode after the update"
    none = {"model": {"dropout": 0.0, "encoder": {"dropout": 0.0}}}
    policy_with(make_config(merged(VIT, none))).learn(windows)
    first, second, without = seen_targets
    assert torch.equal(first.latent, second.latent) and torch.equal(first.value, second.value)
    assert torch.equal(first.latent, without.latent) and torch.equal(first.value, without.value)
    assert not torch.equal(results[0].grad_norm, results[1].grad_norm), (
        "dropout is active in the online network"
    )


def test_value_targets_use_one_pass_of_the_target_network_over_the_whole_window(seen_targets):
    config = make_config()
    policy, windows = make_policy(config), make_windows(config)
    target = copy.deepcopy(policy.target)
    policy.learn(windows)
    [targets] = seen_targets
    td, discount, steps = (
        config.policy.td_steps,
        config.policy.discount,
        config.policy.unroll_steps + 1,
    )
    lonely = 0.0
    for row in range(len(windows.task_id)):
        task = windows.task_id[row : row + 1]
        alone, every_frame = (
            TaskGroups.of(ids, "cpu") for ids in (task, task.expand(windows.action.shape[1]))
        )
        with torch.no_grad():
            latent, output = target(
                windows.observation[row : row + 1], windows.action[row : row + 1, :-1], alone
            )
            frames = windows.observation[row][:, None]
            _, one_by_one = target(frames, windows.action.new_empty(len(frames), 0), every_frame)
        values = policy.support.expectation(output.value)[0].tolist()
        lonely += (
            (policy.support.expectation(one_by_one.value)[:, 0] - torch.tensor(values))
            .abs()
            .mean()
            .item()
        )
        torch.testing.assert_close(targets.latent[row], latent[0, 1:steps])
        acting, observed = naive_masks(windows, row)
        assert targets.acting[row].tolist() == acting[:steps]
        for step in range(steps):
            if not acting[step]:
                continue
            length = 0
            expected = 0.0
            while length < td and acting[step + length]:
                expected += discount**length * windows.reward[row, step + length].item()
                length += 1
            if observed[step + length]:
                expected += discount**length * values[step + length]
            assert targets.value[row, step].item() == pytest.approx(expected, abs=1e-5)
    assert lonely / len(windows.task_id) > 0.01, (
        "values with and without history differ, else this shows nothing"
    )


def test_a_past_that_is_all_missing_changes_nothing(seen_targets):
    config, burning = make_config(), make_config({"policy": {"burn_in_steps": 2}})
    windows = make_windows(config)
    longer = replace(
        windows,
        observation=torch.cat(
            [torch.full_like(windows.observation[:, :2], 9), windows.observation], 1
        ),
        action=torch.cat([torch.zeros_like(windows.action[:, :2]), windows.action], 1),
        missing=torch.full_like(windows.missing, 2),
    )
    results = [make_policy(config).learn(windows), make_policy(burning).learn(longer)]
    plain, past = seen_targets
    for field in fields(plain):
        if field.name not in ("groups", "observation", "action", "missing"):
            torch.testing.assert_close(getattr(plain, field.name), getattr(past, field.name))
    torch.testing.assert_close(results[0].task_losses, results[1].task_losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(results[0].grad_norm, results[1].grad_norm, rtol=1e-3, atol=1e-4)


def test_the_past_of_a_window_is_felt(seen_targets):
    """In what is predicted for its first step, and in the value behind its last."""
    config = make_config({"policy": {"burn_in_steps": 2}})
    windows = make_windows(config)
    assert (windows.missing == 0).any() and (windows.missing > 0).any()
    forgetful = replace(windows, missing=torch.full_like(windows.missing, 2))
    for given in (windows, forgetful):
        make_policy(config).learn(given)
    remembered, forgotten = seen_targets
    differs = (remembered.value - forgotten.value).abs().amax(dim=1) > 1e-5
    assert not differs[windows.missing == 2].any() and differs[windows.missing == 0].any()


def test_value_errors_are_means_over_the_acting_steps(seen_targets):
    config = make_config()
    policy, windows = make_policy(config), make_windows(config)
    with torch.no_grad():
        _, output = policy.model(
            windows.observation[:, :5], windows.action[:, :4], groups_of(windows)
        )
    predicted = policy.support.expectation(output.value)
    error = policy.learn(windows).value_error
    [targets] = seen_targets
    for row in range(len(error)):
        acting = targets.acting[row]
        expected = (predicted[row] - targets.value[row])[acting].abs().mean()
        assert error[row].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    assert not targets.acting.all()


@pytest.mark.parametrize("fraction", [0.4, 1.0])
def test_reanalysed_windows_get_the_visits_of_an_actor_with_the_target_network(
    seen_targets, fraction
):
    """An actor that lives through the window, its actions replaced by the stored ones."""
    search = {"num_simulations": 6, "num_eval_simulations": 6}
    config = make_config({"policy": {"reanalyse_fraction": fraction, "search": search}})
    policy, windows = make_policy(config), make_windows(config)
    legal = LEGAL[windows.task_id.numpy()]
    acting = copy.copy(policy)
    acting.model = copy.deepcopy(policy.target)
    actor = Actor(acting, windows.task_id.numpy(), legal, None)
    steps = config.policy.unroll_steps + 1
    fresh = []
    for step in range(steps):
        fresh.append(torch.from_numpy(actor.act(windows.observation[:, step].numpy()).policy))
        actor.context.action = torch.cat(
            [actor.context.action[:, :-1], windows.action[:, step, None]], dim=1
        )
    policy.learn(windows)
    [targets] = seen_targets
    assert not targets.policy[~torch.from_numpy(legal)[:, None].expand_as(targets.policy)].any()
    searched = [
        row
        for row in range(len(legal))
        if not torch.equal(targets.policy[row], windows.visits[row, :steps])
    ]
    assert len(searched) == round(fraction * len(legal))
    assert {windows.task_id[row].item() for row in searched} == {0, 1, 2}, (
        "every task gets its part"
    )
    torch.testing.assert_close(targets.policy[searched], torch.stack(fresh, dim=1)[searched])
