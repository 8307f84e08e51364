"""Stacked layers equal their experts one by one."""

import pytest
import torch
import torch.nn.functional as F

from lzero.nn.stacked import StackedConv, StackedLinear, StackedNetwork

EXPERTS, ROWS = 3, 5


def test_a_stacked_convolution_equals_separate_ones_forward_and_backward():
    torch.manual_seed(0)
    stack = StackedConv(4, 6, 3, EXPERTS).double()
    torch.nn.init.normal_(stack.bias)
    x = torch.randn(EXPERTS, ROWS, 4, 7, 8, dtype=torch.double, requires_grad=True)
    apart = [F.conv2d(x[e], stack.weight[e], stack.bias[e]) for e in range(EXPERTS)]
    together = stack(x)
    torch.testing.assert_close(together, torch.stack(apart))
    leaves = [x, *stack.parameters()]
    weight = torch.randn_like(together)
    expected = torch.autograd.grad((torch.stack(apart) * weight).sum(), leaves)
    for got, want in zip(
        torch.autograd.grad((together * weight).sum(), leaves), expected, strict=True
    ):
        torch.testing.assert_close(got, want)


def test_a_stacked_linear_map_equals_separate_ones():
    stack = StackedLinear(6, [(4, 1.0)], EXPERTS)
    torch.nn.init.normal_(stack.bias)
    x = torch.randn(EXPERTS, ROWS, 2, 3)
    for expert in range(EXPERTS):
        expected = x[expert].flatten(1) @ stack.weight[expert] + stack.bias[expert]
        torch.testing.assert_close(stack(x)[expert], expected)


def test_every_head_of_every_expert_is_orthogonal_at_first():
    stack = StackedLinear(16, [(4, 0.01), (1, 1.0)], EXPERTS)
    for weight in stack.weight:
        policy, value = weight[:, :4], weight[:, 4:]
        torch.testing.assert_close(policy.t() @ policy, 0.01**2 * torch.eye(4))
        torch.testing.assert_close(value.norm(), torch.tensor(1.0))
    assert not torch.equal(stack.weight[0], stack.weight[1])
    for weight in StackedConv(1, 4, 3, EXPERTS).weight:
        rows = weight.flatten(1)
        torch.testing.assert_close(rows @ rows.t(), 2 * torch.eye(4))


def test_a_network_is_its_features_and_its_readout():
    network = StackedNetwork((2, 6, 6), EXPERTS, channels=(3,), hidden=(8, 4), heads=[(5, 1.0)])
    x = torch.randn(EXPERTS, ROWS, 2, 6, 6)
    shapes = [tuple(h.shape[2:]) for h in network.hidden(x)]
    assert shapes == [(3, 4, 4), (8,), (4,)]
    assert torch.equal(network(x), network.read(network.features(x)))
    assert network(x).shape == (EXPERTS, ROWS, *network.out_shape) == (EXPERTS, ROWS, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "channels, hidden and heads"),
        ({"channels": (4,), "kernel": 7}, r"in_shape=\(2, 6, 6\).*7x7"),
        ({"hidden": (0,)}, "outputs=0"),
    ],
)
def test_networks_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        StackedNetwork((2, 6, 6), EXPERTS, **arguments)
    with pytest.raises(ValueError, match=r"in_shape=\(6,\).*maps"):
        StackedNetwork((6,), EXPERTS, channels=(4,))
