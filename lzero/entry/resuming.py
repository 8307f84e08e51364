"""What a run may be continued with: the same experiment, and other settings only if they are seen and kept on record."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lzero.config import ExperimentConfig
from lzero.config_fields import NOT_LEARNING, NOT_THERE, differences, is_one_of

FIXED = (
    "model",
    "env.domain",
    "env.games",
    "env.num_envs",
    "env.overrides",
    "policy.unroll_steps",
    "policy.td_steps",
    "policy.replay",
)
"""Fields and sections to which the parameters and the replay of a checkpoint belong."""

Changes = Mapping[str, tuple[Any, Any]]
"""By field its value in the checkpoint and the one asked for."""


class RunError(RuntimeError):
    """A run's folder does not fit what is asked of it."""


def check_resumable(
    state: Mapping[str, Any],
    config: ExperimentConfig,
    *,
    seed: int,
    world_size: int,
    max_env_steps: int,
    checkpoint: Path,
) -> Changes:
    """Refuse to continue ``checkpoint`` with what cannot fit it, or would only be written down and never be used.

    Returns:
        Other fields that decide what is learned and have changed; those that an older checkpoint does not know are none.

    Raises:
        RunError: naming each field that differs and what to type instead.
    """
    if state["world_size"] != world_size:
        raise RunError(
            f"{checkpoint} was written by {state['world_size']} process(es), this run has {world_size}; start it with "
            f"--nproc_per_node={state['world_size']}, or choose another exp_name"
        )
    then, now = state["config"], config.model_dump(mode="json")
    found = differences(then | {"seed": state["seed"]}, now | {"seed": seed})
    refused = {name: pair for name, pair in found.items() if is_one_of(name, (*FIXED, "seed"))}
    if refused:
        raise RunError(
            f"{checkpoint} was trained with another {', '.join(refused)}: {described(refused)}; restore these values or "
            "choose another exp_name"
        )
    changed = {
        name: pair for name, pair in found.items() if not is_one_of(name, NOT_LEARNING) and pair[0] != NOT_THERE
    }
    if changed and state["env_steps"] >= max_env_steps:
        raise RunError(
            f"{checkpoint} has its {state['env_steps']:,} env steps per game behind it and was trained with another "
            f"{', '.join(changed)}: {described(changed)}; nothing is left to learn with them: choose another exp_name, or more "
            "train.max_env_steps"
        )
    return changed


def described(changes: Changes) -> str:
    """What was and what is, field by field."""
    return "; ".join(f"{name} was {before!r}, is {after!r}" for name, (before, after) in changes.items())
