"""Effective rank and target lag against cases with known answers."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from lzero.analysis.plasticity import effective_rank, parameter_lag


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


def test_lag_is_the_relative_distance_of_all_parameters():
    online = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    target = copy.deepcopy(online)
    assert parameter_lag(online, target).item() == 0.0
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.mul_(0.75)
    assert parameter_lag(online, target).item() == pytest.approx(0.25, rel=1e-5)
