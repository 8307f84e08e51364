"""The schema: every bad case is refused with a usable message, good ones are equal however written.

Cases that only a domain can judge are here too: whoever runs an experiment asks both at once.
"""

import re
from typing import Any, get_args

import pytest
from easydict import EasyDict
from pydantic import BaseModel, ValidationError

from lzero.config import (
    EncoderConfig,
    EnvConfig,
    Experiment,
    ExperimentConfig,
    GameOverride,
    ModelConfig,
    MoEConfig,
    PolicyConfig,
    ReplayConfig,
    Section,
    TrainConfig,
    nearest,
)
from lzero.envs.domain import with_domain_settings
from zoo.atari.envs import ATARI26


def refusal(data: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        with_domain_settings(data)
    return str(caught.value)


def nested(path: str, value: Any) -> dict[str, Any]:
    """``{"a": {"b": value}}`` of ``"a.b"``."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def sections(
    model: type[BaseModel] = ExperimentConfig, path: str = ""
) -> dict[str, type[BaseModel]]:
    """Every group of fields of the schema by its path; values of dictionaries stand under the key
    ``Pong``."""
    found = {path: model}
    for name, field in model.model_fields.items():
        here = f"{path}.{name}".strip(".")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= sections(field.annotation, here)
        for inner in get_args(field.annotation):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                found |= sections(inner, f"{here}.Pong")
    return found


def test_the_walk_reaches_every_section():
    ours = {
        section
        for section in Section.__subclasses__()
        if section.__module__ in ("lzero.config", "lzero.config_sections")
    }
    assert set(sections().values()) == {ExperimentConfig, *ours} - {Experiment}


@pytest.mark.parametrize("path", sections())
def test_every_field_is_described(path):
    for name, field in sections()[path].model_fields.items():
        assert field.description and field.description.strip().endswith((".", ")")), (
            f"{path}.{name}"
        )


@pytest.mark.parametrize("path", sections())
def test_mistyped_keys_are_refused_at_every_level(path):
    """Every field's name without its last letter: the message names the key and the field that was
    meant."""
    for name in sections()[path].model_fields:
        mistyped = name[:-1]
        if mistyped in sections()[path].model_fields:
            continue
        message = refusal(nested(f"{path}.{mistyped}".strip("."), 1))
        assert f"unknown key {mistyped!r}" in message
        [meant] = re.findall(r"did you mean '(\w+)'\?", message)
        assert meant[:-1] == mistyped  # of beta1 and beta2 either will do


BAD_CASES = {
    "the issue's example": (
        {"policy": {"search": {"num_simulation": 50}}},
        "'num_simulation'",
        "'num_simulations'",
    ),
    "key that resembles nothing": ({"xyzzy": 1}, "'xyzzy'", "valid: device, env, exp_name, model"),
    "key that is no text": ({5: 1}, "unknown key 5", "valid: "),
    "heads": (
        {"model": {"embed_dim": 96, "num_heads": 7}},
        "model.num_heads=7",
        "model.embed_dim=96",
        "try 6",
    ),
    "odd head width": (
        {"model": {"embed_dim": 12, "num_heads": 4}},
        "model.num_heads=4",
        "even",
        "try 3",
    ),
    "odd width": ({"model": {"embed_dim": 15, "num_heads": 3}}, "model.embed_dim=15", "even", "16"),
    "sim_norm groups": (
        {"model": {"embed_dim": 12, "num_heads": 2, "latent_norm": "sim_norm"}},
        "model.embed_dim=12",
        "multiple of 8",
    ),
    "vit heads": (
        {"model": {"encoder": {"vit_heads": 5}}},
        "encoder.vit_heads=5",
        "vit_width=384",
        "try 4",
    ),
    "resnet widths": (
        {"model": {"encoder": {"widths": (32, 28)}}},
        "encoder.widths",
        "28",
        "multiples of 8",
    ),
    "no conv widths": (
        {"model": {"encoder": {"kind": "conv", "widths": ()}}},
        "encoder.widths",
        "at least one",
    ),
    "no resnet widths": ({"model": {"encoder": {"widths": ()}}}, "encoder.widths", "at least one"),
    "top_k": (
        {"model": {"moe": {"num_experts": 4, "top_k": 5}}},
        "moe.top_k=5",
        "moe.num_experts=4",
        "at most 4",
    ),
    "no experts": (
        {"model": {"moe": {"num_experts": 0, "num_shared_experts": 0}}},
        "moe.num_experts",
        "moe.num_shared_experts",
        "at least one expert",
    ),
    "renormalise": (
        {"model": {"moe": {"renormalise": True}}},
        "moe.renormalise=True",
        "moe.top_k=1",
        "top_k >= 2",
    ),
    "balance of hardcoded": (
        {"model": {"moe": {"routing": "hardcoded", "balance": "bias"}}},
        "moe.balance='bias'",
        "moe.routing='hardcoded'",
        "balance='none'",
    ),
    "balance of nothing": (
        {"model": {"moe": {"num_experts": 0, "balance": "aux_loss"}}},
        "moe.balance='aux_loss'",
        "moe.num_experts=0",
        "balance='none'",
    ),
    "unknown game": (
        {"env": {"games": ["Pong", "MsPackman"]}},
        "env.games",
        "'MsPackman'",
        "'MsPacman'",
    ),
    "another spelling": (
        {"env": {"games": ["ms_pacman"]}},
        "env.games",
        "'ms_pacman'",
        "'MsPacman'",
    ),
    "game of another domain": (
        {"env": {"games": ["Pong"], "domain": "zoo.classic_control.domain:CLASSIC_CONTROL"}},
        "unknown game 'Pong'",
        "zoo.classic_control.domain:CLASSIC_CONTROL",
        "CartPole-v1",
    ),
    "no games": ({"env": {"games": []}}, "env.games is empty", "--env.games Pong"),
    "text instead of a list": ({"env": {"games": "Pong"}}, "env.games", "'Pong'", "valid tuple"),
    "doubled game": (
        {"env": {"games": ["Pong", "Boxing", "Pong"]}},
        "env.games",
        "Pong",
        "more than once",
    ),
    "override of nobody": (
        {"env": {"games": ["Pong", "Boxing"], "overrides": {"Boxin": {"num_envs": 2}}}},
        "env.overrides",
        "'Boxin'",
        "did you mean 'Boxing'?",
    ),
    "batch and buffer": (
        {"policy": {"batch_size": 1001, "replay": {"capacity": 1000}}},
        "policy.batch_size=1001",
        "policy.replay.capacity=1000",
        "at most",
    ),
    "batch of one game and buffer": (
        {
            "policy": {"replay": {"capacity": 1000}},
            "env": {"overrides": {"MsPacman": {"batch_size": 1001}}},
        },
        "1001 of MsPacman",
        "policy.replay.capacity=1000",
    ),
    "small buffer": (
        {"policy": {"replay": {"capacity": 100}}},
        "policy.replay.capacity=100",
        "at least 256",
    ),
    "context": (
        {"model": {"context_steps": 7}, "policy": {"unroll_steps": 5}},
        "model.context_steps=7",
        "policy.unroll_steps=5",
        "at most 6",
    ),
    "domain without a colon": (
        {"env": {"domain": "zoo.atari.domain"}},
        "env.domain='zoo.atari.domain'",
        "zoo.atari.domain:ATARI",
    ),
    "empty domain": ({"env": {"domain": ""}}, "env.domain=''", "package.module:ATTRIBUTE"),
    "missing module": (
        {"env": {"domain": "zoo.atary.domain:ATARI"}},
        "zoo.atary.domain:ATARI",
        "No module named",
    ),
    "missing attribute": (
        {"env": {"domain": "zoo.atari.domain:ATARY"}},
        "zoo.atari.domain:ATARY",
        "package.module:ATTRIBUTE",
    ),
    "relative domain": (
        {"env": {"domain": ".domain:ATARI"}},
        "env.domain='.domain:ATARI'",
        "package.module:ATTRIBUTE",
    ),
    "no domain": (
        {"env": {"domain": "json:dumps"}},
        "env.domain='json:dumps'",
        "games",
        "package.module:ATTRIBUTE",
    ),
    "choice": ({"device": "gpu"}, "device", "'gpu'", "'auto', 'cpu' or 'cuda'"),
    "range": ({"policy": {"discount": 1.5}}, "policy.discount", "1.5", "less than or equal to 1"),
    "zero": ({"env": {"num_envs": 0}}, "env.num_envs", "0", "greater than 0"),
    "colours up to nothing": (
        {"policy": {"conflict_color_limit": 0.0}},
        *("policy.conflict_color_limit", "greater than 0"),
    ),
    "colours beyond any cosine": (
        {"policy": {"conflict_color_limit": 1.5}},
        *("policy.conflict_color_limit", "less than or equal to 1"),
    ),
    "colours up to another word": (
        {"policy": {"conflict_color_limit": "largest"}},
        *("policy.conflict_color_limit", "'auto'"),
    ),
    "type": ({"policy": {"batch_size": "many"}}, "policy.batch_size", "'many'", "valid integer"),
    "empty name": ({"exp_name": ""}, "exp_name", "at least 1 character"),
    "no section": ({"model": None}, "model", "None"),
}


@pytest.mark.parametrize("case", BAD_CASES)
def test_bad_cases_are_refused_by_field_value_and_way_out(case):
    data, *needles = BAD_CASES[case]
    message = refusal(data)
    assert [needle for needle in needles if needle not in message] == []


def test_the_named_ways_out_work():
    for width in range(2, 130):
        for heads in (1, 2, 3, 5, 7, 8, 16, 60):
            try:
                ModelConfig(embed_dim=width, num_heads=heads)
            except ValidationError as error:
                if width % 2:
                    continue
                [advice] = re.findall(r"try (\d+)", str(error))
                ModelConfig(embed_dim=width, num_heads=int(advice))

    [rows] = re.findall(r"at least (\d+)", refusal({"policy": {"replay": {"capacity": 100}}}))
    ExperimentConfig.model_validate({"policy": {"replay": {"capacity": int(rows)}}})
    refusal({"policy": {"replay": {"capacity": int(rows) - 1}}})

    for unroll in (3, 5, 10):
        ExperimentConfig.model_validate(
            {"model": {"context_steps": unroll + 1}, "policy": {"unroll_steps": unroll}}
        )
        refusal({"model": {"context_steps": unroll + 2}, "policy": {"unroll_steps": unroll}})

    ExperimentConfig.model_validate({"policy": {"batch_size": 1000, "replay": {"capacity": 1000}}})
    MoEConfig(num_experts=4, top_k=4)
    MoEConfig(num_experts=0)
    MoEConfig(num_shared_experts=0)
    MoEConfig(enabled=False, num_experts=0, num_shared_experts=0)
    MoEConfig(renormalise=True, top_k=2)


def test_nearest_name():
    assert nearest("seaQuest", list(ATARI26)) == "did you mean 'Seaquest'?"
    assert nearest("qqq", ["b", "a"]) == "valid: a, b"


def test_dicts_and_easydicts_equal_keywords():
    data = {
        "exp_name": "mine",
        "env": {
            "games": ["Pong", "Boxing"],
            "num_envs": 3,
            "overrides": {"Boxing": {"clip_reward": False, "max_episode_steps": 9}},
        },
        "model": {
            "embed_dim": 64,
            "encoder": {"kind": "vit", "widths": [8, 16]},
            "moe": {"top_k": 2},
        },
        "policy": {"batch_size": 5, "replay": {"capacity": 999}},
        "train": {"video": False},
    }
    keywords = ExperimentConfig(
        exp_name="mine",
        env=EnvConfig(
            games=("Pong", "Boxing"),
            num_envs=3,
            overrides={"Boxing": GameOverride(clip_reward=False, max_episode_steps=9)},
        ),
        model=ModelConfig(
            embed_dim=64, encoder=EncoderConfig(kind="vit", widths=(8, 16)), moe=MoEConfig(top_k=2)
        ),
        policy=PolicyConfig(batch_size=5, replay=ReplayConfig(capacity=999)),
        train=TrainConfig(video=False),
    )
    easy = EasyDict(data)
    easy.policy.batch_size = 5
    assert (
        ExperimentConfig.model_validate(data) == ExperimentConfig.model_validate(easy) == keywords
    )
    assert ExperimentConfig(**easy) == keywords
    assert isinstance(ExperimentConfig.model_validate(easy).env.overrides["Boxing"], GameOverride)
    easy.policy.batch_size = 6
    assert ExperimentConfig.model_validate(easy) != keywords
    easy.policy.batchsize = 6
    assert "did you mean 'batch_size'?" in refusal(easy)


def test_a_config_cannot_change_under_a_run():
    config = ExperimentConfig()
    for section, field, value in (
        (config, "device", "cpu"),
        (config.env, "num_envs", 2),
        (config.policy, "batch", 2),
    ):
        with pytest.raises(ValidationError):
            setattr(section, field, value)


def test_per_game_overrides_take_effect_for_their_game_alone():
    config = ExperimentConfig.model_validate(
        {
            "env": {
                "games": ["Pong", "Boxing", "Alien"],
                "num_envs": 4,
                "max_episode_steps": 100,
                "clip_reward": True,
                "overrides": {
                    "Boxing": {
                        "num_envs": 10,
                        "max_episode_steps": 7,
                        "clip_reward": False,
                        "batch_size": 3,
                    },
                    "Alien": {"num_envs": 2},
                },
            },
            "policy": {"batch_size": 16, "replay": {"capacity": 5000}},
        }
    )
    env, games = config.env, config.env.games
    assert [env.envs_of(game) for game in games] == [4, 10, 2]
    assert [env.step_limit_of(game) for game in games] == [100, 7, 100]
    assert [env.clips_reward_of(game) for game in games] == [True, False, True]
    assert [config.batch_size_of(game) for game in games] == [16, 3, 16]
    assert config.ring_length() == 500, "the game with the most environments decides"
    assert env.override("Pong") == GameOverride()
    unclipped = ExperimentConfig.model_validate(
        {"env": {"clip_reward": False, "overrides": {"Pong": {"clip_reward": True}}}}
    )
    assert [unclipped.env.clips_reward_of(game) for game in ("Pong", "MsPacman")] == [True, False]


def test_derived_lengths_and_places(tmp_path):
    config = ExperimentConfig(
        output_dir=tmp_path, exp_name="x", policy=PolicyConfig(unroll_steps=6, td_steps=3)
    )
    assert config.run_dir == tmp_path / "x"
    assert config.policy.window == 10
    assert config.num_tasks == 2
    assert (
        config.model.history_steps == 8
    )  # two blocks that look 7 tokens back, and the token itself
    assert config.history_steps == 7  # a training window has no more
