"""A domain owns its settings: it checks them when it is loaded, and configs of before are read."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import lzero
from lzero.config import EnvConfig, ExperimentConfig
from lzero.config_fields import FIELDS_ONCE_IN_EVERY_CONFIG, differences
from lzero.config_sections import ONCE_IN_EVERY_CONFIG, SINCE_THE_FIRST_CONFIG
from lzero.envs.domain import check_trusted, load_domain, with_domain_settings
from zoo.atari.domain import ATARI, AtariEnvConfig
from zoo.minatar.domain import MinAtarEnvConfig

ROOT = Path(lzero.__file__).parents[1]
GAME = {
    "zoo.atari.domain:ATARI": "Krull",
    "zoo.minatar.domain:MINATAR": "Asterix",
    "zoo.catch.domain:CATCH": "Catch",
    "zoo.classic_control.domain:CLASSIC_CONTROL": "CartPole-v1",
    "zoo.gym.domain:GYM": "CartPole-v1",
}
"""A game of every domain by its import path."""
OTHER_VALUES = {
    "frame_skip": 3,
    "noop_max": 7,
    "sticky_action_probability": 0.25,
    "difficulty_ramping": False,
    "minimal_actions": True,
}


def experiment(path: str, **env: Any) -> dict[str, Any]:
    return {"env": {"domain": path, "games": [GAME[path]], **env}}


def of_before(path: str, **env: Any) -> dict[str, Any]:
    """A config as it was written when every domain's config had every domain's settings."""
    written = with_domain_settings(experiment(path)).model_dump(mode="json")
    written["env"] = ONCE_IN_EVERY_CONFIG | written["env"] | env
    return written


def refusal(data: Mapping[str, Any] | ExperimentConfig) -> str:
    with pytest.raises(ValidationError) as caught:
        with_domain_settings(data)
    return str(caught.value)


def own_settings(path: str) -> set[str]:
    return load_domain(path).settings.model_fields.keys() - EnvConfig.model_fields.keys()


WITHOUT_DOMAINS = """
import sys
from lzero.config import ExperimentConfig
env = {"domain": "zoo.atari.domain:ATARI", "games": ["Pong", "NoSuchGame"], "frame_skip": 3}
for config in (ExperimentConfig(), ExperimentConfig.model_validate({"env": env})):
    assert ExperimentConfig.model_validate_json(config.model_dump_json()) == config
assert config.model_dump()["env"]["frame_skip"] == 3
print(*{name.partition(".")[0] for name in sys.modules})
"""


def test_the_schema_knows_no_domain():
    """Not behind importlib either: a config is validated, written and read again without one."""
    command = [sys.executable, "-c", WITHOUT_DOMAINS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert {"lzero", "pydantic"} <= loaded
    assert sorted(loaded & {"zoo", "gymnasium", "ale_py", "minatar", "numpy", "torch"}) == []


@pytest.mark.parametrize("path", GAME)
def test_the_section_is_the_domains_own_and_complete(path):
    config = with_domain_settings(experiment(path))
    assert type(config.env) is load_domain(path).settings and config.env.domain == path
    assert config.env.model_dump().keys() == type(config.env).model_fields.keys()
    assert with_domain_settings(config) == config
    assert with_domain_settings(config).env is config.env


@pytest.mark.parametrize("path", GAME)
def test_every_setting_is_described_and_mistyped_ones_are_refused(path):
    for name, field in load_domain(path).settings.model_fields.items():
        assert field.description and field.description.strip().endswith((".", ")"))
        message = refusal(experiment(path, **{name[:-1]: 1}))
        assert f"unknown key {name[:-1]!r} of {path}" in message
        assert re.findall(r"did you mean '(\w+)'\?", message) == [name]


@pytest.mark.parametrize("path", GAME)
def test_a_setting_of_another_domain_is_refused_where_somebody_asks_for_it(path):
    foreign = ONCE_IN_EVERY_CONFIG.keys() - own_settings(path)
    assert foreign
    for name in foreign:
        message = refusal(experiment(path, **{name: ONCE_IN_EVERY_CONFIG[name]}))
        assert f"unknown key {name!r} of {path}" in message


@pytest.mark.parametrize("given", ["dict", "config"])
def test_bad_values_are_refused_by_field_and_value(given):
    data = experiment("zoo.atari.domain:ATARI", frame_skip=0, sticky_action_probability=1.5)
    message = refusal(data if given == "dict" else ExperimentConfig.model_validate(data))
    assert "env.frame_skip" in message and "greater than 0" in message
    assert "env.sticky_action_probability" in message and "1.5" in message


def test_everything_that_is_wrong_is_said_at_once():
    message = refusal(experiment("zoo.atari.domain:ATARI", frame_skip=0) | {"device": "gpu"})
    assert "env.frame_skip" in message and "'gpu'" in message


def test_without_the_domain_settings_are_kept_as_they_were_written():
    env = {"domain": "not.installed:HERE", "games": ["Solitaire"], "mood": "gloomy"}
    config = ExperimentConfig.model_validate({"env": env})
    assert config.model_dump()["env"]["mood"] == "gloomy"
    assert ExperimentConfig.model_validate_json(config.model_dump_json()) == config
    assert "env.domain='not.installed:HERE' cannot be imported" in refusal(config)


@pytest.mark.parametrize("section", [AtariEnvConfig, MinAtarEnvConfig])
def test_a_section_made_by_hand_refuses_unknown_keys(section):
    with pytest.raises(ValidationError, match=r"unknown key 'num_env'; did you mean 'num_envs'"):
        section(num_env=3)


@pytest.mark.parametrize("path", GAME)
def test_configs_from_before_domains_owned_their_settings_are_the_same_experiment(path):
    now = with_domain_settings(experiment(path))
    assert with_domain_settings(of_before(path)) == now
    assert differences(of_before(path), now.model_dump(mode="json")) == {}
    assert differences(now.model_dump(mode="json"), of_before(path)) == {}


@pytest.mark.parametrize("path", GAME)
def test_of_settings_from_before_the_domains_own_count_and_the_others_do_not(path):
    now = with_domain_settings(experiment(path))
    read = with_domain_settings(of_before(path, **OTHER_VALUES))
    mine = own_settings(path) & OTHER_VALUES.keys()  # the others are of later
    assert {name: getattr(read.env, name) for name in mine} == {
        name: OTHER_VALUES[name] for name in mine
    }
    found = differences(of_before(path, **OTHER_VALUES), now.model_dump(mode="json"))
    assert found.keys() == {f"env.{name}" for name in mine}


def test_the_first_configs_which_lacked_two_of_them_are_read_too():
    data = of_before("zoo.catch.domain:CATCH")
    for name in ONCE_IN_EVERY_CONFIG.keys() - SINCE_THE_FIRST_CONFIG:
        del data["env"][name]
    assert with_domain_settings(data) == with_domain_settings(experiment("zoo.catch.domain:CATCH"))


def test_a_mistyped_key_is_refused_in_a_config_from_before_too():
    assert "unknown key 'num_env'" in refusal(of_before("zoo.catch.domain:CATCH", num_env=3))


def test_what_was_not_a_setting_of_every_domain_is_a_difference():
    assert set(FIELDS_ONCE_IN_EVERY_CONFIG) == {f"env.{name}" for name in ONCE_IN_EVERY_CONFIG}
    then, now = {"env": {"frame_skip": 4, "mood": 1}}, {"env": {}}
    assert differences(then, now) == {"env.mood": (1, "not set")}
    assert differences({"env": {"frame_skip": 4}}, {"env": {"frame_skip": 3}}) == {
        "env.frame_skip": (4, 3)
    }


def test_the_section_of_one_domain_read_by_another_keeps_what_both_know():
    """As on a script's command line, where ``--env.domain`` may name another than the script's."""
    atari = with_domain_settings(
        experiment("zoo.atari.domain:ATARI", num_envs=3, minimal_actions=True, frame_skip=2)
    )
    env = atari.env.model_copy(
        update={"domain": "zoo.minatar.domain:MINATAR", "games": ("Asterix",)}
    )
    read = with_domain_settings(atari.model_copy(update={"env": env})).env
    expected = MinAtarEnvConfig(games=("Asterix",), num_envs=3, minimal_actions=True)
    assert read == expected


def test_making_environments_reads_what_was_not_read_yet():
    """A config that came straight from a file, with its settings as text and those of other
    domains."""
    written = EnvConfig.model_validate(
        {"games": ["Pong"], "minimal_actions": "true", "noop_max": "0", "max_episode_steps": 9}
    )
    env = ATARI.make(
        written, ("Pong",), (0,), (1,), env_offsets=(0,), training=False, num_threads=1
    )
    assert env.legal_actions.sum() == 6
    env.close()
    with pytest.raises(ValueError, match="unknown key 'noop_maxi'"):
        ATARI.make_screen(EnvConfig.model_validate({"noop_maxi": 0}), "Pong")


PLAIN = """
class Plain:
    games = ("Solitaire",)

class Moody:
    from lzero.config import EnvConfig
    class settings(EnvConfig):
        mood: str = "gloomy"
        num_envs: int = 2
    games = ("Solitaire",)

PLAIN, MOODY = Plain(), Moody()
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> dict[str, Any]:
    """Section ``env`` of a domain outside this project."""
    (tmp_path / "card_games.py").write_text(PLAIN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return {"games": ["Solitaire"]}


def test_a_domain_need_not_name_settings(elsewhere):
    env = elsewhere | {"domain": "card_games:PLAIN"}
    assert type(with_domain_settings({"env": env}).env) is EnvConfig
    assert "unknown key 'mood' of card_games:PLAIN" in refusal({"env": env | {"mood": "gloomy"}})


def test_a_domain_elsewhere_has_settings_and_defaults_of_its_own(elsewhere):
    env = elsewhere | {"domain": "card_games:MOODY"}
    config = with_domain_settings({"env": env, "policy": {"replay": {"capacity": 64}}})
    assert (config.env.mood, config.env.num_envs, config.ring_length()) == ("gloomy", 2, 32)
    assert config.env.domain == "card_games:MOODY"
    assert json.loads(config.model_dump_json())["env"]["mood"] == "gloomy"


def test_only_this_projects_domains_are_trusted():
    for path in ("zoo.atari.domain:ATARI", "lzero.something:X"):
        check_trusted(path)
    check_trusted("mine:DOMAIN", ["mine:DOMAIN"])
    for path in ("mine:DOMAIN", "zoofari.domain:X", "os:system", ".zoo:X"):
        with pytest.raises(ValueError, match=f"--allow-domain {path}"):
            check_trusted(path, ["mine"])
