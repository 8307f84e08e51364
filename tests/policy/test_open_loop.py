"""Heads on predicted latents."""

from dataclasses import replace

import pytest
import torch

from lzero.policy.losses import TERMS, loss_sums
from lzero.policy.open_loop import PERIOD, open_loop_sums
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
