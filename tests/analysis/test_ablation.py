"""Parts that are switched off contribute nothing, and come back bit for bit, also in what has packed the weights."""

import copy

import numpy as np
import pytest
import torch

from lzero.analysis.ablation import parts_of, resampled_means, switched_off, with_interval
from lzero.nn.moe import MoELayer
from lzero.policy.search_model import SWITCH
from lzero.worker.actor import Actor
from tests.policy.unizero_cases import FEATURES, LEGAL, make_config, make_policy

TASK_ID = np.array([0, 1, 2, 2])


def layer_of(**moe) -> MoELayer:
    config = make_config({"model": {"moe": {"top_k": 2, **moe}}})
    torch.manual_seed(0)
    return MoELayer(config.model.moe, 32, 3).eval()


def naive_output(layer: MoELayer, x: torch.Tensor, task_id: torch.Tensor, off: str) -> torch.Tensor:
    """Sum over experts, token by token, without the part."""
    gates, chosen, _, _ = layer.routing(x, task_id)
    rows = []
    for token, (gates_K, chosen_K) in enumerate(zip(gates, chosen, strict=True)):
        y = torch.zeros(x.shape[1])
        for expert in layer.shared_experts if off != "shared_expert" else ():
            y = y + expert(x[token : token + 1])[0]
        for gate, expert in zip(gates_K, chosen_K.tolist(), strict=True):
            if off not in (f"expert_{expert}", "routed_experts"):
                hidden = layer.experts.activations(x[token : token + 1], expert)
                y = y + gate * (hidden @ layer.experts.w_out[expert])[0]
        rows.append(y)
    return torch.stack(rows)


@pytest.mark.parametrize("moe", [{}, {"num_shared_experts": 2}, {"routing": "hardcoded"}])
@torch.no_grad()
def test_what_is_off_contributes_nothing_and_the_router_chooses_as_before(moe):
    layer = layer_of(**moe)
    x, task_id = torch.randn(20, 32), torch.arange(20) % 3
    before, chosen = layer(x, task_id)[0], layer.routing(x, task_id)[1]
    weights = copy.deepcopy(layer.state_dict())
    parts = parts_of(layer)
    assert list(parts) == [*(f"expert_{e}" for e in range(4)), "routed_experts", "shared_expert"]
    for part in parts:
        with switched_off(layer, part):
            expected = naive_output(layer_with(layer, weights), x, task_id, part)
            torch.testing.assert_close(layer(x, task_id)[0], expected)
            assert torch.equal(layer.routing(x, task_id)[1], chosen)
        assert torch.equal(layer(x, task_id)[0], before), part
        assert all(torch.equal(value, weights[name]) for name, value in layer.state_dict().items())


def layer_with(layer: MoELayer, weights: dict[str, torch.Tensor]) -> MoELayer:
    """A copy of a layer with other weights."""
    other = copy.deepcopy(layer)
    other.load_state_dict(weights)
    return other


def test_weights_come_back_when_something_fails_and_when_contexts_are_nested():
    layer = layer_of()
    layer.experts.w_out.data[1, 0, 0] = -0.0
    before = layer.experts.w_out.detach().clone()
    with pytest.raises(KeyError), switched_off(layer, "routed_experts"):
        with switched_off(layer, "expert_1"):
            assert not layer.experts.w_out.any()
        raise KeyError
    as_bits = layer.experts.w_out.detach().view(torch.int32)
    assert torch.equal(as_bits, before.view(torch.int32))


def test_a_layer_without_routed_or_shared_experts_has_fewer_parts():
    assert list(parts_of(layer_of(num_experts=0))) == ["shared_expert"]
    assert "shared_expert" not in parts_of(layer_of(num_shared_experts=0))


def test_a_search_follows_on_the_way_there_and_back(monkeypatch):
    """The same actor keeps its packed weights between moves, and packs them anew twice."""
    policy = make_policy(make_config({"policy": {"search": {"num_eval_simulations": 6}}}))
    observation = np.random.default_rng(0).normal(size=(4, FEATURES)).astype(np.float32)

    def decided(actor: Actor) -> tuple[np.ndarray, np.ndarray]:
        actor.forget(np.ones(4, bool))
        decision = actor.act(observation)
        return decision.policy, decision.value

    actor = Actor(policy, TASK_ID, LEGAL[TASK_ID], None)
    before = decided(actor)
    for part in ("expert_0", "routed_experts", "shared_expert"):
        with switched_off(policy.routed_layers[1], part):
            during = decided(actor)
            with monkeypatch.context() as patch:
                patch.setenv(SWITCH, "0")  # torch reads the weights where they lie
                reference = decided(Actor(policy, TASK_ID, LEGAL[TASK_ID], None))
        np.testing.assert_allclose(during[1], reference[1], atol=1e-4)
        if part != "expert_0":
            assert np.abs(during[1] - before[1]).max() > 1e-4
        after = decided(actor)
        # torch's own root inference differs by a rounding from call to call
        np.testing.assert_allclose(after[0], before[0], atol=1e-5)
        np.testing.assert_allclose(after[1], before[1], atol=1e-5)


def test_means_are_ratios_and_their_intervals_cover():
    rng = np.random.default_rng(0)
    sums, counts = rng.normal(size=(2, 3, 7)), rng.integers(0, 4, (3, 7)).astype(float)
    counts[2] = 0
    means = resampled_means(sums, counts, resamples=30, rng=rng)
    assert means.shape == (31, 2, 3)
    expected = sums[:, :2].sum(axis=-1) / counts[:2].sum(axis=-1)
    np.testing.assert_allclose(means[0, :, :2], expected)
    assert np.isnan(means[:, :, 2]).all() and np.isnan(with_interval(means)[:, :, 2]).all()
    covered = 0
    for _ in range(150):
        drawn, steps = rng.normal(0.5, 1.0, 60), rng.integers(1, 5, 60).astype(float)
        means = resampled_means((drawn * steps)[None, None], steps[None], resamples=200, rng=rng)
        value, low, high = with_interval(means)[:, 0, 0]
        assert low <= value <= high
        covered += low <= 0.5 <= high
    assert covered / 150 == pytest.approx(0.93, abs=0.07), "a little short with 60 windows"
