"""Heads on predicted latents."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lzero.nn.tasks import TaskGroups
from lzero.policy.losses import TERMS, loss_sums
from lzero.policy.open_loop import DEPTH, PERIOD, open_loop_errors, open_loop_sums
from lzero.policy.targets import make_batch
from tests.policy.unizero_cases import make_config, make_policy, make_windows

OPEN = {"policy": {"burn_in_steps": 1, "loss": {"open_loop": 0.5}}}


@pytest.fixture
def case():
    """A policy, a batch, and the first run along it."""
    config = make_config(OPEN)
    policy = make_policy(config)
    windows = make_windows(config)
    batch = make_batch(windows, policy.target, policy.support, policy.legal, config)
    latent, output = policy.model(batch.observation, batch.action, batch.groups, batch.timeline)
    return policy, batch, latent, output


def test_right_predictions_have_the_losses_of_encoded_latents(case):
    policy, batch, latent, _ = case
    present = batch.timeline.present()
    plain = policy.model.world_model(latent, batch.action[:, 1:], batch.groups, present)
    right = replace(plain, next_latent=latent[:, 1:])
    got = open_loop_sums(policy.model, batch, latent, right, 3, policy.support)
    is_open = torch.zeros_like(batch.acting)
    for step in range(1, latent.shape[1]):
        is_open[:, step] = batch.led_on[:, step - 1] & (step % PERIOD > 0)
    at_open = replace(batch, acting=batch.acting & is_open, led_on=batch.led_on & is_open[:, :-1])
    expected = loss_sums(latent, plain, at_open, 3, policy.support, policy.model.encoder.norm)
    torch.testing.assert_close(got.terms, expected.terms, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got.counts, expected.counts)
    assert 0 < got.counts[TERMS.index("policy")].sum() < batch.acting.sum()


def test_what_is_predicted_behind_a_death_is_not_looked_at(case):
    policy, batch, latent, output = case
    behind = ~batch.led_on
    assert behind.any()
    lost = torch.where(behind[..., None], torch.inf, output.next_latent)
    sums = [
        open_loop_sums(policy.model, batch, latent, given, 3, policy.support).terms
        for given in (output, replace(output, next_latent=lost))
    ]
    torch.testing.assert_close(*sums, rtol=0, atol=0)


def test_wrong_predictions_cost_the_heads(case):
    policy, batch, latent, output = case
    sums = []
    for scale in (0.0, 3.0):
        noise = scale * torch.randn(output.next_latent.shape)
        moved = replace(output, next_latent=latent[:, 1:] + noise)
        sums.append(open_loop_sums(policy.model, batch, latent, moved, 3, policy.support).terms)
    assert ((sums[0] - sums[1]).abs().sum(dim=1) > 1e-3).all()


def test_what_heads_need_reaches_the_prediction_of_latents(case):
    policy, batch, latent, output = case
    sums = open_loop_sums(policy.model, batch, latent.detach(), output, 3, policy.support)
    sums.terms[TERMS.index("value")].sum().backward()
    assert policy.model.world_model.latent_head.weight2.grad.any()
    assert policy.model.encoder.project.weight.grad.any()  # by way of the first run


def test_an_update_reports_both(case):
    policy = case[0]
    result = policy.learn(make_windows(policy.config))
    assert result.open_means.shape == result.task_means.shape
    assert make_policy(make_config()).learn(make_windows(make_config())).open_means is None


@pytest.mark.parametrize("burn_in", [0, 1])
@torch.no_grad()
def test_imagined_latents_and_rewards_are_those_of_rollouts_by_hand(burn_in):
    """Window after window, the model fed with its own predictions from the root on."""
    config = make_config({"policy": {"burn_in_steps": burn_in}})
    policy, windows = make_policy(config), make_windows(config)
    model, games = policy.model, config.env.games
    last = config.policy.unroll_steps
    sums = {game: np.zeros((4, last)) for game in games}
    for row in range(len(windows.task_id)):
        task = int(windows.task_id[row])
        alone = TaskGroups.of(np.array([task]), "cpu")
        frames = windows.observation[row : row + 1, burn_in : burn_in + last + 1]
        latent, path = model.encode(frames, alone), []
        action = windows.action[row : row + 1, burn_in:]
        path.append(latent[:, 0])
        for k in range(last):  # all steps are imagined: there are fewer than five
            if windows.reset[row, k] or windows.terminated[row, k]:
                break
            tokens = torch.stack([*path, path[-1]], dim=1)
            output = model.world_model(tokens, action[:, : k + 1], alone)
            path.append(model.encoder.norm(output.next_latent[:, k]))
            reward = policy.support.expectation(output.reward[:, k]).item()
            sums[games[task]][:, k] += (
                (path[-1] - latent[:, k + 1]).square().mean().item(),
                (latent[:, 0] - latent[:, k + 1]).square().mean().item(),
                abs(reward - windows.reward[row, k].item()),
                1,
            )
    found = open_loop_errors(policy, windows)
    assert last < DEPTH and len(found) == 2 * last * len(games)
    for game, (error, copying, reward_error, number) in sums.items():
        assert number[0] > number[-1] > 0
        for k in range(last):
            got = [
                found[f"health/open_loop_{what}_{k + 1}/{game}"] for what in ("latent", "reward")
            ]
            expected = [error[k] / copying[k], reward_error[k] / number[k]]
            assert got == pytest.approx(expected, rel=1e-4)
