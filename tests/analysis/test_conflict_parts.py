"""Shares of a layer's parts in its conflict, and comparisons on the same pairs, against autograd and plain loops."""

from itertools import combinations

import numpy as np
import pytest
import torch

from lzero.analysis.conflict import GradientConflict, compute_gradient_conflicts
from lzero.analysis.conflict_parts import conflict_shares, matched_conflict, parts_by_layer
from lzero.analysis.points import expert_points
from lzero.config import MoEConfig
from lzero.nn.moe import MoELayer

TASKS = 4


@pytest.fixture(scope="module")
def layer_gradients() -> dict[str, list[torch.Tensor]]:
    """Gradient of every task's own loss in each part of a layer, by autograd."""
    torch.manual_seed(0)
    layer = MoELayer(MoEConfig(num_experts=3), 8, TASKS)
    points = expert_points(layer)
    gradients: dict[str, list[torch.Tensor]] = {part: [] for part in points}
    for task in range(TASKS):
        tokens, goal = torch.randn(2, 5, 8)
        loss = (layer(tokens, torch.full((5,), task))[0] - goal).square().sum()
        parameters = list(layer.parameters())
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        by_parameter = {}
        for parameter, gradient in zip(parameters, found, strict=True):
            by_parameter[id(parameter)] = (
                torch.zeros_like(parameter) if gradient is None else gradient
            )
        for part, point in points.items():
            pieces = []
            for parameter, number in point.parameters:
                own = by_parameter[id(parameter)]
                pieces.append((own if number is None else own[number]).flatten())
            gradients[part].append(torch.cat(pieces).double())
    return gradients


def test_shares_add_up_to_one_and_are_those_of_autograd(layer_gradients):
    conflicts = {part: compute_gradient_conflicts(rows) for part, rows in layer_gradients.items()}
    shares = conflict_shares(conflicts)
    assert list(shares) == ["shared_expert", "expert_0", "expert_1", "expert_2", "router"]
    assert sum(share.conflict for share in shares.values()) == pytest.approx(1)
    assert sum(share.norm for share in shares.values()) == pytest.approx(1)
    negative, squares = {}, {}
    for part, rows in layer_gradients.items():
        products = [float(a @ b) for a, b in combinations(rows, 2)]
        negative[part] = -sum(product for product in products if product < 0)
        squares[part] = sum(float(row @ row) for row in rows)
    assert 0 < negative["shared_expert"] < sum(negative.values())
    # the layer's own squared norm is that of its parts together
    whole = sum(
        float(torch.cat(rows).square().sum())
        for rows in zip(*layer_gradients.values(), strict=True)
    )
    assert sum(squares.values()) == pytest.approx(whole)
    for part, share in shares.items():
        assert share.conflict == pytest.approx(negative[part] / sum(negative.values()))
        assert share.norm == pytest.approx(squares[part] / whole)
        assert share.excess == pytest.approx(share.conflict / share.norm)


def test_pooled_shares_add_the_products_first():
    """Noise makes products negative as often as positive: over many measurements none of it is left."""
    rng = np.random.default_rng(1)
    truth = np.array([[1.0, 0.0], [-1.0, 1.0]])  # in conflict
    agreeing = np.array([[1.0, 0.0], [1.0, 1.0]])
    measured: dict[str, list[GradientConflict]] = {"shared_expert": [], "router": []}
    for _ in range(300):
        for part, gradients in (("shared_expert", truth), ("router", agreeing)):
            noisy = torch.from_numpy(gradients + 3 * rng.normal(size=(2, 2)))
            measured[part].append(compute_gradient_conflicts(noisy))
    pooled = {part: GradientConflict.pooled(found) for part, found in measured.items()}
    assert conflict_shares(pooled)["shared_expert"].conflict == 1
    single = [
        conflict_shares({part: measured[part][number] for part in measured})["router"].conflict
        for number in range(300)
    ]
    assert np.nanmean(single) > 0.2


def test_shares_of_a_layer_without_conflict_or_gradient():
    agreeing = compute_gradient_conflicts(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    absent = compute_gradient_conflicts(torch.zeros(2, 3))
    shares = conflict_shares({"shared_expert": agreeing, "expert_0": absent})
    assert np.isnan(shares["shared_expert"].conflict) and shares["shared_expert"].norm == 1
    assert shares["expert_0"].norm == 0 and np.isnan(shares["expert_0"].excess)
    broken = compute_gradient_conflicts(torch.tensor([[torch.nan, 0.0], [1.0, 1.0]]))
    assert conflict_shares({"shared_expert": agreeing, "router": broken})["router"].norm == 2 / 5


def test_matched_conflict_compares_the_same_pairs():
    rng = np.random.default_rng(2)
    cosines = {}
    for part in ("shared_expert", "expert_0", "expert_1", "expert_2", "router"):
        matrix = rng.uniform(-1, 1, (5, 5))
        cosines[part] = (matrix + matrix.T) / 2
    cosines["expert_0"][1] = cosines["expert_0"][:, 1] = np.nan
    cosines["expert_1"][1:] = cosines["expert_1"][:, 1:] = np.nan  # one task alone: no pair
    shared, routed, numbers = [], [], []
    for part in ("expert_0", "expert_2"):
        pairs = [p for p in combinations(range(5), 2) if np.isfinite(cosines[part][p])]
        shared.append(max(-cosines["shared_expert"][pair] for pair in pairs))
        routed.append(max(-cosines[part][pair] for pair in pairs))
        numbers.append(len(pairs))
    found = matched_conflict(cosines)
    assert (found.shared, found.routed) == pytest.approx((np.mean(shared), np.mean(routed)))
    assert (found.num_experts, found.num_pairs) == (2, np.mean(numbers)) and numbers == [6, 10]
    without = matched_conflict({"expert_0": cosines["expert_0"]})
    assert np.isnan(without.shared) and without.num_experts == 0


def test_parts_are_found_by_their_names():
    names = [
        "encoder",
        "moe_layer/layer0",
        "shared_expert/layer0",
        "expert_11/layer0",
        "study/encoder",
    ]
    names += ["router/actor/layer1", "expert_0/actor/layer1", "experts/layer0"]
    assert parts_by_layer(names) == {
        "layer0": {"shared_expert": "shared_expert/layer0", "expert_11": "expert_11/layer0"},
        "actor/layer1": {"router": "router/actor/layer1", "expert_0": "expert_0/actor/layer1"},
    }
