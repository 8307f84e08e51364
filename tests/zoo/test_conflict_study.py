"""The variants of the conflict study differ in nothing but their feed-forward, whose active
parameters are the same."""

import pytest
import torch

from lzero.config import ExperimentConfig
from lzero.nn.feed_forward import DenseMLP, DenseSwiGLU, FeedForward, feed_forward
from lzero.nn.moe import MoELayer
from zoo.atari.config.presets import presets as atari
from zoo.catch.config.presets import presets as catch
from zoo.minatar.config.presets import presets as minatar

SMALL = "conflict_study_small"
DOMAINS = {"atari": atari, "catch": catch, "minatar": minatar}


def variants(presets) -> dict[str, ExperimentConfig]:
    found = {}
    for kind, moe in (("moe", True), ("dense", False)):
        for name, (_, config) in presets(moe=moe).items():
            if name.startswith("conflict_study") and name != SMALL:
                found[f"{kind}{name.removeprefix('conflict_study')}"] = config
    return found


VARIANTS = {domain: variants(presets) for domain, presets in DOMAINS.items()}
NAMES = ("moe", "moe_shared_only", "moe_no_shared", "dense", "dense_gelu")


def made(config: ExperimentConfig) -> FeedForward:
    """Without memory: those of Atari have a hundred megabytes."""
    with torch.device("meta"):
        return feed_forward(config.model, config.num_tasks)


def active_matrices(config: ExperimentConfig) -> int:
    """Weights that one token is multiplied with, router aside."""
    layer = made(config)
    if not isinstance(layer, MoELayer):
        return sum(parameter.numel() for parameter in layer.parameters() if parameter.ndim > 1)
    active = sum(parameter.numel() for parameter in layer.shared_experts.parameters())
    if layer.experts is not None:
        chosen = layer.experts_of_task.shape[1] if layer.router is None else layer.router.top_k
        for stack in layer.experts.parameters():
            active += stack[0].numel() * chosen
    return active


@pytest.mark.parametrize("domain", DOMAINS)
def test_all_variants_of_the_study_are_there(domain):
    assert tuple(VARIANTS[domain]) == NAMES
    assert len({config.exp_name for config in VARIANTS[domain].values()}) == len(NAMES)


@pytest.mark.parametrize("moe", [True, False])
def test_the_small_study_has_the_games_and_blocks_of_the_large_one(moe):
    small, large = (atari(moe=moe)[name][1] for name in (SMALL, "conflict_study"))
    assert small.env.games == large.env.games
    for field in ("moe", "num_layers", "mlp_kind"):
        assert getattr(small.model, field) == getattr(large.model, field), field
    assert small.policy.gradient_conflict_interval == 50


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_token_passes_as_many_weights_in_the_dense_twin(domain):
    """As many as in the mixture, exactly; the others' widths are rounded otherwise."""
    found = {name: active_matrices(config) for name, config in VARIANTS[domain].items()}
    assert found["dense"] == found["moe"]
    for name in NAMES:
        assert found[name] == pytest.approx(found["dense"], rel=0.05), name


@pytest.mark.parametrize("domain", DOMAINS)
def test_blocks_are_what_their_names_say(domain):
    kinds = {name: type(made(config)) for name, config in VARIANTS[domain].items()}
    assert kinds == {
        **dict.fromkeys(NAMES[:3], MoELayer),
        "dense": DenseSwiGLU,
        "dense_gelu": DenseMLP,
    }


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_else_differs(domain, name):
    config = VARIANTS[domain][name]
    mine, dense = config.model_dump(), VARIANTS[domain]["dense"].model_dump()
    for data in (mine, dense):
        data["exp_name"] = None
        if name == "moe":  # from its dense twin it differs in one field
            del data["model"]["moe"]["enabled"]
        elif name == "dense_gelu":
            del data["model"]["mlp_kind"]
        else:
            del data["model"]["moe"]
    assert mine == dense
    assert config.model.num_layers == 4
    assert config.policy.gradient_conflict_interval > 0
