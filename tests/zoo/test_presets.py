"""Presets: what is written of them reproduces them, and they are the experiments they claim."""

import json

import pytest
import torch

from lzero.config import ExperimentConfig
from lzero.envs.domain import with_domain_settings
from lzero.nn.trunks import ViTTrunk
from zoo.atari.config.presets import presets
from zoo.atari.envs import ATARI8, ATARI26
from zoo.catch.config.presets import presets as catch_presets
from zoo.classic_control.config.classic_control_unizero_multitask_segment_ddp_config_moe import (
    PRESETS as CLASSIC,
)
from zoo.gym.config.presets import presets as gym_presets
from zoo.minatar.config.presets import presets as minatar_presets

ALL_PRESETS = {
    f"{family}-{name}": config
    for family, members in (
        ("moe", presets(moe=True)),
        ("dense", presets(moe=False)),
        ("classic", CLASSIC),
        ("minatar-moe", minatar_presets(moe=True)),
        ("minatar-dense", minatar_presets(moe=False)),
        ("catch-moe", catch_presets(moe=True)),
        ("catch-dense", catch_presets(moe=False)),
        ("gym-moe", gym_presets(moe=True)),
        ("gym-dense", gym_presets(moe=False)),
    )
    for name, (_, config) in members.items()
}


@pytest.mark.parametrize("name", ALL_PRESETS)
def test_the_written_config_reproduces_every_preset(name):
    config = ALL_PRESETS[name]
    text = config.model_dump_json(indent=2)
    for written in (
        json.loads(text),
        config.model_dump(),
        ExperimentConfig.model_validate_json(text),
    ):
        again = with_domain_settings(written)
        assert again == config
        assert again.model_dump() == config.model_dump()
        assert again.model_dump_json(indent=2) == text
    unread = ExperimentConfig.model_validate_json(text)
    assert unread.model_dump(mode="json") == json.loads(text), "nothing is lost without the domain"


@pytest.mark.parametrize("kind", ["moe", "dense"])
def test_presets_keep_the_published_settings(kind):
    for name, games, windows in (("atari8", ATARI8, 8 * 128), ("atari26", ATARI26, 512)):
        config = ALL_PRESETS[f"{kind}-{name}"]
        assert config.env.games == games and not config.env.minimal_actions
        assert sum(config.batch_size_of(game) for game in games) == windows
        assert (config.model.embed_dim, config.model.num_heads, config.model.num_layers) == (
            768,
            8,
            4,
        )
        vit = config.model.encoder
        assert (vit.kind, vit.patch_size, vit.vit_width, vit.vit_layers, vit.vit_heads) == (
            "vit",
            8,
            768,
            12,
            12,
        )
        assert (config.policy.unroll_steps, config.policy.td_steps, config.env.num_envs) == (
            10,
            5,
            8,
        )
        assert config.policy.search.kind == "puct" and config.train.max_env_steps == 400_000
        twin = ALL_PRESETS[f"{kind}-{name}_gumbel"].model_dump()
        assert twin["policy"]["search"].pop("kind") == "gumbel"
        assert twin.pop("exp_name") != config.exp_name
        expected = config.model_dump()
        del expected["policy"]["search"]["kind"], expected["exp_name"]
        assert twin == expected
    moe = ALL_PRESETS["moe-atari8"].model.moe
    assert (moe.num_experts, moe.num_shared_experts, moe.top_k) == (8, 1, 1)


def test_the_published_encoder_has_the_size_of_a_vit_base():
    """12 · 768² · (4 + 8) weights in the blocks, about 85 million."""
    with torch.device("meta"):
        trunk = ViTTrunk(ALL_PRESETS["moe-atari8"].model.encoder, (3, 64, 64))
    weights = sum(p.numel() for p in trunk.parameters() if p.ndim == 2 and p.shape[0] > 1)
    assert weights == pytest.approx(12 * 768**2 * 12, rel=1e-3)


@pytest.mark.parametrize("kind", ["moe", "dense"])
@pytest.mark.parametrize("name", ["cpu", "afternoon", "atari3"])
def test_small_presets_search_with_gumbel_among_actions_with_an_effect(kind, name):
    """50 steps are trained for every env step where upstream trains 160: fewer made the agent stay
    at random level."""
    config = ALL_PRESETS[f"{kind}-{name}"]
    assert config.policy.search.kind == "gumbel" and config.env.minimal_actions
    assert config.policy.search.num_simulations == config.policy.search.num_eval_simulations == 16
    assert config.policy.replay_ratio * config.policy.batch_size * config.policy.unroll_steps >= 40
    assert config.env.step_limit_of("Krull") <= 27_000
