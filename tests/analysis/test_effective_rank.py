"""Effective ranks, of rows and of the empirical neural tangent kernel, where they are known."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import nn

from lzero.analysis.effective_rank import effective_rank, ntk_effective_rank


@pytest.mark.parametrize("directions", [1, 3, 8])
def test_effective_rank_counts_directions_of_equal_strength(directions):
    basis = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))[0][
        :directions
    ]
    rows = torch.cat([basis, -basis]) + 5.0  # a common offset is no direction
    assert effective_rank(rows).item() == pytest.approx(directions, rel=1e-4)


def test_effective_rank_is_the_exponential_of_the_entropy_of_singular_values():
    rows = torch.randn(40, 12, generator=torch.Generator().manual_seed(1)) * torch.linspace(
        0.01, 3, 12
    )
    singular = np.linalg.svd((rows - rows.mean(0)).numpy(), compute_uv=False)
    assert effective_rank(rows).item() == pytest.approx(np.exp(entropy(singular)), rel=1e-4)


def test_latents_that_are_all_the_same_have_no_rank():
    assert effective_rank(torch.full((7, 4), 2.0)).item() == 0.0


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_latents_that_are_no_numbers_have_no_rank_and_raise_nothing(broken):
    rows = torch.eye(4)
    rows[2, 1] = broken
    assert effective_rank(rows).isnan()


def rank_of(x: torch.Tensor, weight: nn.Parameter) -> float:
    return ntk_effective_rank((x @ weight)[:, 0], [weight]).item()


def test_of_a_linear_map_it_is_that_of_its_inputs():
    weight = nn.Parameter(torch.randn(6, 1))
    assert rank_of(torch.eye(6), weight) == pytest.approx(6.0)
    assert rank_of(torch.ones(5, 6), weight) == pytest.approx(1.0)
    # two directions, one with three times the other's length: eigenvalues 9 and 1
    two = torch.tensor([[3.0, 0, 0, 0, 0, 0], [0, 1.0, 0, 0, 0, 0]])
    share = torch.tensor([0.9, 0.1])
    assert rank_of(two, weight) == pytest.approx((-(share * share.log()).sum()).exp().item())
    assert rank_of(7 * two, weight) == pytest.approx(rank_of(two, weight))


def test_it_is_that_of_the_jacobian_by_torch():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    x = torch.randn(7, 4, dtype=torch.float64)
    parameters = dict(network.named_parameters())

    def output(values):
        return torch.func.functional_call(network, values, (x,))[:, 0]

    jacobian = torch.func.jacrev(output)(parameters)
    rows = torch.cat([part.flatten(1) for part in jacobian.values()], dim=1)
    eigenvalues = torch.linalg.svdvals(rows).square()
    share = eigenvalues / eigenvalues.sum()
    expected = (-(share * share.log()).sum()).exp()
    found = ntk_effective_rank(network(x)[:, 0], list(network.parameters()))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_no_gradient_no_rank_and_no_number_no_number():
    weight = nn.Parameter(torch.zeros(3, 1))
    assert rank_of(torch.zeros(4, 3), weight) == 0.0
    assert torch.tensor(rank_of(torch.full((4, 3), torch.nan), weight)).isnan()
    with pytest.raises(ValueError, match="0 outputs"):
        ntk_effective_rank(torch.zeros(0), [weight])
