"""Fields of written configs by dotted path: which decide what is learned, in which two differ."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lzero.config_sections import ONCE_IN_EVERY_CONFIG

NOT_LEARNING = (
    "exp_name",
    "output_dir",
    "env.num_eval_envs",
    "policy.gradient_conflict_interval",
    "policy.conflict_color_limit",
    "policy.profile",
    "policy.replay.on_disk",
    "policy.optimiser.max_skipped_updates",
    "train.max_env_steps",
    "train.eval_interval",
    "train.eval_at_start",
    "train.eval_episodes",
    "train.checkpoint_interval",
    "train.keep_checkpoints",
    "train.keep_checkpoint_hours",
    "train.log_interval",
    "train.moe_log_interval",
    "train.video",
    "train.pictures",
    "train.loggers",
)
"""Config fields that change neither what is learned nor what an evaluation measures: names, lengths
and rhythms. Seeds of one experiment may differ in them. ``device`` and ``precision`` are not among
them: they change the numerics."""

FIELDS_ONCE_IN_EVERY_CONFIG = {f"env.{name}": value for name, value in ONCE_IN_EVERY_CONFIG.items()}
"""Settings that configs had whatever their domain, before domains owned them, and the defaults they
had then. A config that lacks one is no other experiment for that."""

FIELDS_NEWER_THAN_RUNS = {"model.mlp_kind": ("model.mlp_ratio", "gelu")}
"""Settings that runs of before could not choose: a field of the same section that these have, and the
value that all of them had. A config that lacks one is no other experiment for that."""

EARLIER_CONFIG = "config_until_env_step_"
"""How files in a run's folder begin that hold the settings it had until it was continued with
others."""

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
    """Leaves in which two nested configs differ, by dotted path: both values.

    What only one of them has of :data:`FIELDS_ONCE_IN_EVERY_CONFIG` is no difference: it had no
    effect there.
    """
    old, new = dict(flatten(then)), dict(flatten(now))
    found = {}
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name, NOT_THERE), new.get(name, NOT_THERE)
        if name in FIELDS_ONCE_IN_EVERY_CONFIG and NOT_THERE in (before, after):
            continue
        if before != after:
            found[name] = (before, after)
    return found
