"""Every execution path of the mixture of experts equals a loop over tokens; routing does what it says."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from lzero.config import MoEConfig
from lzero.nn import moe
from lzero.nn.balance import BalanceSums
from lzero.nn.moe import PATHS, MoELayer, Segments, choose_path, hardcoded_experts

DIM, NUM_TASKS = 16, 3


def make_layer(**config) -> MoELayer:
    torch.manual_seed(0)
    return MoELayer(MoEConfig(**config), DIM, NUM_TASKS)


def one_expert(experts, expert, x):
    a, b = (x @ experts.w_in[expert]).chunk(2)
    return (F.silu(a) * b) @ experts.w_out[expert]


def naive(x, gates, chosen, experts):
    rows = []
    for token in range(len(x)):
        rows.append(
            sum(
                gates[token, k] * one_expert(experts, int(chosen[token, k]), x[token])
                for k in range(chosen.shape[1])
            )
        )
    return torch.stack(rows)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("top_k", [1, 2, 8])
@pytest.mark.parametrize("tokens", [1, 5, 64])
def test_paths_equal_naive_loop_forward_and_backward(path, top_k, tokens):
    layer = make_layer()
    x = torch.randn(tokens, DIM)
    scores = torch.randn(tokens, 8).softmax(-1)
    gates, chosen = scores.topk(top_k)
    results = []
    segments = Segments.of(chosen, 8)
    for run in (naive, lambda *args: PATHS[path](*args, segments)):
        leaf, gate_leaf = x.clone().requires_grad_(), gates.clone().requires_grad_()
        y = run(leaf, gate_leaf, chosen, layer.experts)
        weights = list(layer.experts.parameters())
        grads = torch.autograd.grad(
            y.square().sum(), [leaf, gate_leaf, *weights], allow_unused=True
        )
        results.append(
            [
                y,
                *(
                    torch.zeros_like(t) if g is None else g
                    for g, t in zip(grads, [leaf, gate_leaf, *weights], strict=True)
                ),
            ]
        )
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "config", [{"top_k": 1}, {"top_k": 2}, {"top_k": 2, "renormalise": True}, {"routing": "soft"}]
)
def test_router_learns(config):
    layer = make_layer(**config)
    y, _ = layer(torch.randn(32, DIM), torch.zeros(32, dtype=torch.int64))
    y.square().sum().backward()
    assert layer.router.weight.grad.abs().max() > 1e-3


def test_gate_is_a_probability_over_all_experts():
    layer = make_layer(top_k=1)
    gates, _, scores, _ = layer.router(torch.randn(32, DIM))
    assert torch.equal(gates[:, 0], scores.max(dim=1).values)
    assert gates.max() < 1.0


def test_hardcoded_routing_sends_a_task_nowhere_else():
    layer = make_layer(routing="hardcoded")
    task_id = torch.arange(NUM_TASKS).repeat_interleave(10)
    for task in range(NUM_TASKS):
        layer.zero_grad()
        y, _ = layer(torch.randn(30, DIM), task_id)
        y[task_id == task].square().sum().backward()
        touched = set(layer.experts.w_in.grad.flatten(1).any(dim=1).nonzero().flatten().tolist())
        assert touched == set(hardcoded_experts(NUM_TASKS, layer.config)[task].tolist())
    sets = [set(row.tolist()) for row in hardcoded_experts(NUM_TASKS, layer.config)]
    assert not (sets[0] & sets[1]) and not (sets[1] & sets[2]) and not (sets[0] & sets[2])


def test_soft_routing_uses_every_expert():
    layer = make_layer(routing="soft")
    y, _ = layer(torch.randn(4, DIM), torch.zeros(4, dtype=torch.int64))
    y.sum().backward()
    assert layer.experts.w_in.grad.flatten(1).any(dim=1).all()


def test_shared_and_routed_experts_add_up():
    layer = make_layer(top_k=2)
    x, task_id = torch.randn(9, DIM), torch.zeros(9, dtype=torch.int64)
    gates, chosen, _, _ = layer.router(x)
    expected = layer.shared_experts[0](x) + naive(x, gates, chosen, layer.experts)
    torch.testing.assert_close(layer(x, task_id)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [{"num_experts": 0}, {"num_shared_experts": 0}])
def test_ablations_run(config):
    layer = make_layer(**config)
    y, _ = layer(torch.randn(2, 3, DIM), torch.zeros(2, 3, dtype=torch.int64))
    assert y.shape == (2, 3, DIM)
    assert {name.split(".")[0] for name, _ in layer.named_parameters()} == (
        {"shared_experts"} if "num_experts" in config else {"experts", "router"}
    )


def test_no_parameter_is_registered_twice():
    layer = make_layer()
    assert len(layer.state_dict()) == len(
        {value.data_ptr() for value in layer.state_dict().values()}
    )
    assert len(list(layer.parameters())) == 2 + 2 + 1


def test_counts_are_choices_per_task_in_training_only():
    layer = make_layer(top_k=2)
    x, task_id = torch.randn(12, DIM), torch.tensor([0] * 5 + [2] * 7)
    layer.eval()(x, task_id)
    assert layer.selection_counts.sum() == 0
    layer.train()(x, task_id)
    assert layer.selection_counts.sum(dim=1).tolist() == [10, 0, 14]
    _, chosen, _, _ = layer.router(x)
    assert torch.equal(layer.selection_counts[0], torch.bincount(chosen[:5].flatten(), minlength=8))


def test_aux_loss_is_lowest_when_balanced():
    config = make_layer(balance="aux_loss", z_loss_weight=0.0, aux_loss_weight=1.0).config
    balanced = torch.arange(8).repeat(4)[:, None]
    one_sided = torch.zeros_like(balanced)

    def loss(chosen):
        scores = torch.full((32, 8), 0.02).scatter(1, chosen, 0.86)
        sums = BalanceSums.stack([BalanceSums.of(chosen, scores, scores.log())])
        return sums.loss(sums.load, config).item()

    assert loss(balanced) == pytest.approx(1.0, abs=1e-5)
    assert loss(one_sided) > 3.0


def test_parts_of_a_batch_share_the_balance_loss():
    config = make_layer(balance="aux_loss", top_k=2).config
    logits = torch.randn(24, 8)
    scores = logits.softmax(-1)
    chosen = scores.topk(2).indices
    share = torch.zeros(8).index_add(0, chosen.flatten(), torch.ones(48)) / 48
    expected = config.aux_loss_weight * 8 * (share * scores.mean(dim=0)).sum()
    expected = expected + config.z_loss_weight * logits.logsumexp(-1).square().mean()
    parts = [
        BalanceSums.stack([BalanceSums.of(chosen[r], scores[r], logits[r])])
        for r in (slice(0, 7), slice(7, 24))
    ]
    load = sum(part.load for part in parts)
    torch.testing.assert_close(sum(part.loss(load, config) for part in parts), expected)


def test_the_selection_bias_stays_centred_where_loads_are_uneven():
    layer = make_layer(balance="bias", bias_rate=0.01)
    for _ in range(200):  # one expert has nearly everything, as with a router that collapses
        layer.update_selection_bias(torch.tensor([50.0, *torch.rand(7)]))
    bias = layer.router.selection_bias
    assert bias[0] < bias[1:].min() - 1
    torch.testing.assert_close(bias.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)


def test_selection_bias_moves_the_choice_but_not_the_gate():
    layer = make_layer(balance="bias", bias_rate=10.0)
    x = torch.randn(64, DIM)
    _, chosen, scores, _ = layer.router(x)
    layer.update_selection_bias(torch.bincount(chosen.flatten(), minlength=8))
    gates, moved, _, _ = layer.router(x)
    assert not torch.equal(moved, chosen)
    torch.testing.assert_close(gates, scores.gather(1, moved))


def test_router_stays_in_fp32_under_autocast():
    layer = make_layer()
    with torch.autocast("cpu", torch.bfloat16):
        _, _, scores, logits = layer.router(torch.randn(4, DIM).bfloat16())
    assert scores.dtype == logits.dtype == torch.float32


def test_path_choice():
    even, uneven, few = (
        Segments.of(chosen[:, None], 8)
        for chosen in (
            torch.arange(8).repeat(40),
            torch.zeros(320, dtype=torch.int64),
            torch.zeros(4, dtype=torch.int64),
        )
    )
    assert choose_path("cpu", torch.float32, even, every_expert=False) == "padded"
    assert choose_path("cpu", torch.float32, few, every_expert=False) == "padded"
    assert choose_path("cpu", torch.float32, uneven, every_expert=False) == "segments"
    assert choose_path("cuda", torch.bfloat16, uneven, every_expert=False) == "grouped"
    assert choose_path("cuda", torch.float32, even, every_expert=False) == "batched"
    assert choose_path("cpu", torch.float32, uneven, every_expert=True) == "batched"


@pytest.mark.parametrize(
    ("path", "dtype"), [("batched", torch.float32), ("grouped", torch.bfloat16)]
)
def test_accelerator_paths_wait_for_no_value(path, dtype, monkeypatch):
    """Fake tensors hold no values: whatever would make the host wait for one on an accelerator raises here."""
    with FakeTensorMode():
        layer = make_layer(top_k=2).train()  # it counts choices
        x = torch.randn(24, DIM).to(dtype)
        monkeypatch.setattr(
            moe, "choose_path", lambda *_, **__: path
        )  # that of a CPU looks at the counts
        y, _ = layer(x, torch.zeros(24, dtype=torch.int64))
        assert y.shape == x.shape
