"""The variants of the conflict study differ in nothing but their feed-forward, whose active
parameters are the same."""

import pytest
import torch

from lzero.config import ExperimentConfig
from lzero.nn.block import DenseMLP
from lzero.nn.moe import MoELayer
from zoo.catch.config.presets import presets

VARIANTS = {
    f"moe {name}": config
    for name, (_, config) in presets(moe=True).items()
    if "conflict_study" in name
}
VARIANTS["dense"] = presets(moe=False)["conflict_study"][1]


def active_matrices(config: ExperimentConfig) -> int:
    """Weights that one token is multiplied with, router aside."""
    model = config.model
    if not model.moe.enabled:
        layer = DenseMLP(model.embed_dim, round(model.mlp_ratio * model.embed_dim))
        return sum(p.numel() for p in layer.parameters() if p.ndim > 1)
    layer = MoELayer(model.moe, model.embed_dim, config.num_tasks)
    shared = sum(parameter.numel() for parameter in layer.shared_experts.parameters())
    routed = (
        []
        if layer.experts is None
        else [p.numel() // len(p) * model.moe.top_k for p in layer.experts.parameters()]
    )
    return shared + sum(routed)


def test_all_variants_of_the_study_are_there():
    assert len(VARIANTS) == 4


@pytest.mark.parametrize("name", VARIANTS)
def test_active_parameters_are_those_of_the_dense_twin(name):
    torch.manual_seed(0)
    assert active_matrices(VARIANTS[name]) == pytest.approx(
        active_matrices(VARIANTS["dense"]), rel=0.05
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_else_differs(name):
    mine, dense = VARIANTS[name].model_dump(), VARIANTS["dense"].model_dump()
    for data in (mine, dense):
        data["model"]["moe"] = data["exp_name"] = None
    assert mine == dense
    assert mine["model"]["num_layers"] == 4
    assert mine["policy"]["gradient_conflict_interval"] > 0
