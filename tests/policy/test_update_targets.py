"""Targets of an update against brute force: one pass of a target network that never drops, reanalysis, first steps."""

import copy
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from lzero.config import ExperimentConfig
from lzero.model.unizero_world_models.world_model_multitask import WorldModelOutput
from lzero.nn.tasks import TaskGroups
from lzero.policy import UniZeroMTPolicy
from lzero.policy.metrics import count_metrics
from lzero.replay.windows import ReplayWindows
from lzero.worker.actor import Actor
from tests.policy.unizero_cases import (
    GAMES,
    LEGAL,
    each_episode_alone,
    episodes_of,
    groups_of,
    make_config,
    make_policy,
    make_windows,
    merged,
    rows_of,
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
    lonely = crossed = 0.0
    for row in range(len(windows.task_id)):
        task = windows.task_id[row : row + 1]
        alone, every_frame = (
            TaskGroups.of(ids, "cpu") for ids in (task, task.expand(windows.action.shape[1]))
        )
        with torch.no_grad():
            latent = target.encode(windows.observation[row : row + 1], alone)
            output = each_episode_alone(target, rows_of(windows, slice(row, row + 1)), latent)
            across = target.world_model(latent, windows.action[row : row + 1, :-1], alone)
            frames = windows.observation[row][:, None]
            _, one_by_one = target(frames, windows.action.new_empty(len(frames), 0), every_frame)
        values = policy.support.expectation(output.value)[0]
        lonely += (policy.support.expectation(one_by_one.value)[:, 0] - values).abs().mean().item()
        crossed += (policy.support.expectation(across.value)[0] - values).abs().mean().item()
        torch.testing.assert_close(targets.latent[row], latent[0, 1:steps])
        acting = ~windows.reset[row]
        assert torch.equal(targets.acting[row], acting[:steps])
        for episode in episodes_of(windows, row):
            for step in episode:
                if not acting[step] or step >= steps:
                    continue
                end = min(step + td, episode[-1] + 1)
                if not acting[end - 1]:
                    end -= 1
                expected = sum(
                    discount ** (k - step) * windows.reward[row, k].item() for k in range(step, end)
                )
                if end in episode:
                    expected += discount ** (end - step) * values[end].item()
                assert targets.value[row, step].item() == pytest.approx(expected, abs=1e-5)
                if step < steps - 1:
                    assert targets.led_on[row, step] == (step + 1 in episode)
    for difference in (lonely, crossed):
        assert difference / len(windows.task_id) > 0.01, (
            "values with and without history, and across episodes, differ, else this shows nothing"
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
        episode=torch.cat([torch.full_like(windows.episode[:, :2], -1), windows.episode], 1),
    )
    results = [make_policy(config).learn(windows), make_policy(burning).learn(longer)]
    plain, past = seen_targets
    for field in fields(plain):
        if field.name not in ("groups", "observation", "action", "episode"):
            torch.testing.assert_close(getattr(plain, field.name), getattr(past, field.name))
    torch.testing.assert_close(results[0].task_losses, results[1].task_losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(results[0].grad_norm, results[1].grad_norm, rtol=1e-3, atol=1e-4)


def test_the_past_of_a_window_is_felt(seen_targets):
    """In what is predicted for its first step, and in the value behind its last."""
    config = make_config({"policy": {"burn_in_steps": 2}})
    windows = make_windows(config)
    episode = windows.episode.clone()
    is_past = episode[:, :2] == episode[:, 2:3]
    assert is_past.any(dim=1).any() and not is_past.any(dim=1).all()
    episode[:, :2] = -1
    forgetful = replace(windows, episode=episode)
    for given in (windows, forgetful):
        make_policy(config).learn(given)
    remembered, forgotten = seen_targets
    differs = (remembered.value - forgotten.value).abs().amax(dim=1) > 1e-5
    assert not differs[~is_past.any(dim=1)].any() and differs[is_past.all(dim=1)].any()


def alone(policy: UniZeroMTPolicy, windows: ReplayWindows) -> WorldModelOutput:
    """What the online network predicts along the first five steps, every episode by itself."""
    with torch.no_grad():
        latent = policy.model.encode(windows.observation[:, :5], groups_of(windows))
        return each_episode_alone(policy.model, windows, latent)


def test_value_errors_are_means_over_the_acting_steps(seen_targets):
    config = make_config()
    policy, windows = make_policy(config), make_windows(config)
    predicted = policy.support.expectation(alone(policy, windows).value)
    error = policy.learn(windows).value_error
    [targets] = seen_targets
    for row in range(len(error)):
        acting = targets.acting[row]
        expected = (predicted[row] - targets.value[row])[acting].abs().mean()
        assert error[row].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    assert not targets.acting.all()


def test_returns_beyond_the_support_and_rewards_that_are_known_are_counted(seen_targets):
    config = make_config()
    policy, windows = make_policy(config), make_windows(config)
    predicted = policy.support.expectation(alone(policy, windows).reward)
    few = torch.rand(windows.reward.shape, generator=torch.Generator().manual_seed(0)) < 0.7
    windows = replace(windows, reward=torch.where(few, 20 * windows.reward.sign(), 0.0))
    # some are known: the prediction itself, and a little more or less than double
    windows.reward[:, 1:3] = predicted[:, 1:3] * torch.tensor([1.9, 2.1])
    result = policy.learn(windows)
    [targets] = seen_targets
    expected = np.zeros((4, config.num_tasks))
    for row, task in enumerate(windows.task_id.tolist()):
        returns = targets.value[row][targets.acting[row]]
        expected[:2, task] += (policy.support.saturates(returns).sum(), len(returns))
        for step in range(4):
            reward, guess = windows.reward[row, step].item(), predicted[row, step].item()
            if reward != 0 and not windows.reset[row, step]:
                right = guess / reward >= 0.5
                assert right == (step == 1)
                expected[2:, task] += (right, 1)
    np.testing.assert_array_equal(result.counts, expected)
    assert (expected[0] > 0).all() and (0 < expected[2]).all()
    shares = count_metrics(policy, result)
    for name, part, whole in (("saturated", 0, 1), ("reward_recall", 2, 3)):
        share = expected[part, 1] / expected[whole, 1]
        assert shares[f"learn_{name}/{GAMES[1]}"] == pytest.approx(share)


def test_windows_in_which_nothing_acts_teach_nothing():
    config = make_config({"env": {"games": GAMES[:1]}})
    policy, windows = make_policy(config), make_windows(config)
    still = replace(windows, reset=torch.ones_like(windows.reset))
    result = policy.learn(still)
    assert not result.value_error.any() and not result.task_means.any()


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
        actor.forget((windows.terminated | windows.reset)[:, step].numpy())
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
