"""Fields of written configs by dotted path: which of them decide what is learned, and in which two configs differ."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

NOT_LEARNING = (
    "exp_name",
    "output_dir",
    "env.num_eval_envs",
    "policy.gradient_conflict_interval",
    "policy.profile",
    "train.max_env_steps",
    "train.eval_interval",
    "train.eval_episodes",
    "train.checkpoint_interval",
    "train.keep_checkpoints",
    "train.log_interval",
    "train.moe_log_interval",
    "train.video",
)
"""Config fields that change neither what is learned nor what an evaluation measures: names, lengths and rhythms. Seeds
of one experiment may differ in them. ``device`` and ``precision`` are not among them: they change the numerics."""

EARLIER_CONFIG = "config_until_env_step_"
"""How files in a run's folder begin that hold the settings it had until it was continued with others."""

NOT_THERE = "not set"  # a field that the other config does not have


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a nested config as pairs of dotted path and value."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def is_one_of(name: str, fields: Sequence[str]) -> bool:
    """Whether a dotted path is one of ``fields``, or lies in a section that is."""
    return any(name == field or name.startswith(f"{field}.") for field in fields)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Leaves in which two nested configs differ, by dotted path: both values."""
    old, new = dict(flatten(then)), dict(flatten(now))
    found = {}
    for name in old | new:
        pair = old.get(name, NOT_THERE), new.get(name, NOT_THERE)
        if pair[0] != pair[1]:
            found[name] = pair
    return found
