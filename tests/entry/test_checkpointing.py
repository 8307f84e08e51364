"""What a run may be continued with, where its config was written before domains owned settings."""

import re
from pathlib import Path
from typing import Any

import pytest

from lzero.config_fields import flatten
from lzero.config_sections import ONCE_IN_EVERY_CONFIG
from lzero.entry.checkpointing import RunError, check_resumable
from lzero.envs.domain import with_domain_settings

DOMAINS = {"zoo.atari.domain:ATARI": "Krull", "zoo.catch.domain:CATCH": "Catch"}
STEPS = 400


def changes(path: str, then: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What changes when a finished run with section ``env`` of before goes on, with more steps."""
    config = with_domain_settings({"env": {"domain": path, "games": [DOMAINS[path]]} | now})
    written = config.model_dump(mode="json")
    written["env"] = written["env"] | ONCE_IN_EVERY_CONFIG | then
    state = {"world_size": 1, "seed": 0, "env_steps": STEPS, "config": written}
    how = {"seed": 0, "checkpoint": Path("step_1")}
    found = dict(check_resumable(state, config, max_env_steps=STEPS + 1, **how))
    if found:
        with pytest.raises(RunError, match="nothing is left to learn with them"):
            check_resumable(state, config, max_env_steps=STEPS, **how)
    return found


@pytest.mark.parametrize("path", DOMAINS)
def test_a_run_of_before_goes_on_as_the_same_experiment(path):
    assert changes(path, {}, {}) == {}
    assert changes(path, {"difficulty_ramping": False}, {}) == {}, "it is a setting of neither"


def test_another_value_of_the_domains_own_setting_is_seen():
    atari = "zoo.atari.domain:ATARI"
    assert changes(atari, {}, {"minimal_actions": True}) == {"env.minimal_actions": (False, True)}
    assert changes(atari, {"frame_skip": 2}, {}) == {"env.frame_skip": (2, 4)}


@pytest.mark.parametrize(
    ("field", "other"), [("policy.burn_in_steps", 3), ("policy.loss.open_loop", 0.5)]
)
def test_a_field_newer_than_the_checkpoint_had_its_default(field, other):
    assert resumed_without(field, None) == {}
    default = dict(flatten(with_domain_settings({}).model_dump(mode="json")))[field]
    assert resumed_without(field, other) == {field: (default, other)}


@pytest.mark.parametrize("field", ["model.residual_latent", "env.grayscale"])
def test_a_newer_field_to_which_networks_or_replay_belong_is_refused_at_another_value(field):
    assert resumed_without(field, None) == {}
    with pytest.raises(RunError, match=rf"{re.escape(field)} was False, is True"):
        resumed_without(field, True)


def test_dense_blocks_of_before_go_on_with_gelu_alone():
    assert resumed_without("model.mlp_kind", None) == {}
    with pytest.raises(RunError, match=r"model\.mlp_kind was 'gelu', is 'swiglu'"):
        resumed_without("model.mlp_kind", "swiglu")


def resumed_without(path: str, value: Any) -> dict[str, tuple[Any, Any]]:
    """What changes when a run whose checkpoint does not know a field goes on with ``value``, None its default."""
    *sections, field = path.split(".")
    asked: dict[str, Any] = {"env": {"games": ["Krull"]}}
    written = with_domain_settings(asked).model_dump(mode="json")
    for data in (asked, written):
        node = data
        for section in sections:
            node = node.setdefault(section, {})
        if data is written:
            del node[field]
        elif value is not None:
            node[field] = value
    config = with_domain_settings(asked)
    state = {"world_size": 1, "seed": 0, "env_steps": STEPS, "config": written}
    how = {"seed": 0, "checkpoint": Path("step_1")}
    return dict(check_resumable(state, config, max_env_steps=STEPS + 1, **how))


def test_another_value_of_what_the_replay_belongs_to_is_refused():
    with pytest.raises(RunError, match=r"env\.num_envs was 3, is 8"):
        changes("zoo.catch.domain:CATCH", {"num_envs": 3}, {})
