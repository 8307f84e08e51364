"""SoftMoE equals its definition, and treats tokens, slots and samples as it says."""

import pytest
import torch

from lzero.nn.softmoe import SlotRouter
from lzero.nn.stacked import StackedNetwork

SAMPLES, TOKENS, WIDTH, EXPERTS, SLOTS, OUT = 4, 6, 5, 3, 2, 7


class SoftMoE(torch.nn.Module):
    """Experts behind slots, of the parts that a mixture is made of."""

    def __init__(self, experts, width, num_experts, slots):
        super().__init__()
        self.experts, self.router = experts, SlotRouter(width, num_experts, slots)

    def forward(self, x_RND):
        weights = self.router(x_RND)
        return weights.mix(self.experts(weights.fill(x_RND)))


def make(num_experts: int = EXPERTS, slots: int = SLOTS) -> SoftMoE:
    torch.manual_seed(0)
    experts = StackedNetwork((WIDTH,), num_experts, hidden=(OUT,), activation="tanh")
    layer = SoftMoE(experts, WIDTH, num_experts, slots).double()
    layer.router.scale.data.fill_(3.0)  # uneven weights
    return layer


def tokens() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(SAMPLES, TOKENS, WIDTH, dtype=torch.double)


def by_definition(layer: SoftMoE, x: torch.Tensor) -> torch.Tensor:
    """Section 2.1 and 2.3 of the paper, sample by sample and expert by expert."""
    slots = layer.router.slots
    phi = layer.router.scale * slots / slots.norm(dim=0)
    experts, found = layer.experts, []
    weight, bias = experts.layers[0].weight, experts.layers[0].bias
    for sample in x:
        unit = sample / sample.norm(dim=1, keepdim=True)
        logits = torch.einsum("nd,des->nes", unit, phi)
        dispatch = logits.exp() / logits.exp().sum(dim=0, keepdim=True)
        combine = logits.exp() / logits.exp().sum(dim=(1, 2), keepdim=True)
        y = torch.zeros(len(sample), OUT, dtype=x.dtype)
        for e in range(weight.shape[0]):
            inputs = torch.einsum("ns,nd->sd", dispatch[:, e], sample)
            outputs = torch.tanh(inputs @ weight[e] + bias[e])
            y = y + torch.einsum("ns,so->no", combine[:, e], outputs)
        found.append(y)
    return torch.stack(found)


def test_it_equals_its_definition_forward_and_backward():
    layer, x = make(), tokens().requires_grad_()
    y, expected = layer(x), by_definition(layer, x)
    torch.testing.assert_close(y, expected)
    leaves = [x, *layer.parameters()]
    wanted = torch.autograd.grad(expected.square().sum(), leaves)
    for got, want in zip(torch.autograd.grad(y.square().sum(), leaves), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_permuted_tokens_give_permuted_outputs():
    layer, x = make(), tokens()
    order = torch.randperm(TOKENS)
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])


def test_samples_do_not_see_each_other():
    layer, x = make(), tokens()
    torch.testing.assert_close(layer(x)[2:3], layer(x[2:3]))


def test_weights_add_up():
    weights = make().router(tokens())
    ones = torch.ones((), dtype=torch.double)
    torch.testing.assert_close(weights.dispatch.sum(dim=1), ones.expand(SAMPLES, EXPERTS, SLOTS))
    torch.testing.assert_close(weights.combine.sum(dim=(2, 3)), ones.expand(SAMPLES, TOKENS))
    torch.testing.assert_close(weights.log_experts.exp(), weights.combine.sum(dim=3))


def test_a_single_token_fills_every_slot():
    """So SoftMoE without tokens is a soft mixture; with one expert it is the dense layer, however many slots."""
    x = tokens()[:, :1]
    for slots in (1, 3):
        layer = make(num_experts=1, slots=slots)
        dense = layer.experts(x.movedim(1, 0))[0]
        torch.testing.assert_close(layer(x)[:, 0], dense)


def test_one_expert_with_a_slot_per_token_is_dense_only_where_slots_keep_tokens_apart():
    """Slots that point at orthogonal tokens, sharply: dispatch and combine become the same permutation."""
    experts = StackedNetwork((WIDTH,), 1, hidden=(OUT,))
    layer = SoftMoE(experts, WIDTH, 1, WIDTH).double()
    x = 2 * torch.eye(WIDTH, dtype=torch.double)[None]
    dense = experts(x)
    assert (layer(x) - dense).abs().max() > 0.01  # at first, slots are blends of tokens
    layer.router.slots.data[:, 0] = torch.eye(WIDTH)[torch.randperm(WIDTH)]
    layer.router.scale.data.fill_(100.0)
    torch.testing.assert_close(layer(x), dense)


def test_length_does_not_sharpen_the_weights():
    router, x = make().router, tokens()
    torch.testing.assert_close(router(1000 * x).combine, router(x).combine)


def test_tokens_of_zeros_are_finite_with_gradient():
    layer = make()
    x = torch.zeros(2, TOKENS, WIDTH, dtype=torch.double, requires_grad=True)
    layer(x).square().sum().backward()
    for tensor in (x, *layer.parameters()):
        assert tensor.grad.isfinite().all()


def test_the_router_stays_in_fp32_under_autocast():
    layer = make().float()
    with torch.autocast("cpu", torch.bfloat16):
        weights = layer.router(tokens().bfloat16())
        assert layer(tokens().bfloat16()).dtype == torch.bfloat16
    assert weights.combine.dtype == weights.dispatch.dtype == torch.float32


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="slots=0"):
        SlotRouter(WIDTH, EXPERTS, 0)
