"""Runs of seconds in every domain whose environments can be brought back, and what decides their future."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from lzero.checkpoint import list_checkpoints, load_state
from lzero.config import ExperimentConfig
from lzero.envs.domain import with_domain_settings
from tests.entry.run_cases import settings, tensorboard_curves

CNN = {"kind": "conv", "widths": (4,)}
ENVS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "catch": (
        {"domain": "zoo.catch.domain:CATCH", "games": ["Catch", "MirroredCatch"]},
        CNN,
    ),
    "catch, more environments of one game": (
        {
            "domain": "zoo.catch.domain:CATCH",
            "games": ["Catch", "MirroredCatch"],
            "overrides": {"Catch": {"num_envs": 8}},
        },
        CNN,
    ),
    "minatar": (
        {
            "domain": "zoo.minatar.domain:MINATAR",
            "games": ["Breakout", "Seaquest"],
            "sticky_action_probability": 0.1,
        },
        CNN,
    ),
    "classic": (
        {"domain": "zoo.classic_control.domain:CLASSIC_CONTROL", "games": ["Acrobot-v1"]},
        {"kind": "mlp", "hidden": [16]},
    ),
    "atari": (
        {"domain": "zoo.atari.domain:ATARI", "games": ["Breakout", "Krull"], "image_size": 32},
        {"kind": "resnet", "widths": (8,)},
    ),
}
"""Section ``env`` and encoder by domain."""
MUCH = {
    "policy.replay": {"capacity": 160, "prioritised": True},
    "policy.scale_returns": True,
    "policy.shift_pixels": 0,
    "policy.reanalyse_fraction": 0.25,
    "policy.gradient_conflict_interval": 4,
    "policy.loss": {"adaptive_entropy": True},
    "model.moe": {"num_experts": 3, "balance": "bias"},
    "train.random_steps": 20,
    "train.moe_log_interval": 3,
    "train.log_interval": 3,  # sums wait for their line while a checkpoint is written
    "train.eval_interval": 60,
    "train.video": False,
    # they take longer than all else; those of a stopped run are tests/entry/test_drawn_measurements.py
    "train.pictures": False,
}
"""All that keeps something from update to update."""


def run_settings(
    output_dir: Path, domain: str, changes: Mapping[str, Any] | None = None
) -> ExperimentConfig:
    """A run of seconds in ``domain``."""
    env, encoder = ENVS[domain]
    config = settings(output_dir, MUCH | {"model.encoder": encoder} | dict(changes or {}))
    config.env = env | {"num_envs": 2, "num_eval_envs": 2, "max_episode_steps": 15}
    return with_domain_settings(config)


def future(run_dir: Path) -> dict[str, Any]:
    """All that the newest checkpoint of a run holds, by name: arrays, and the JSON of states."""
    checkpoint = list_checkpoints(run_dir / "checkpoints")[-1]
    found: dict[str, Any] = {"checkpoint": checkpoint.name}
    state = load_state(checkpoint)
    state["config"].pop("output_dir")
    found["state"] = json.dumps(state, sort_keys=True)
    for rank in range(state["world_size"]):
        found[f"rank {rank}"] = json.dumps(load_state(checkpoint, rank), sort_keys=True)
    frames: dict[Path, list[np.ndarray]] = {}
    for file in sorted(checkpoint.rglob("*.safetensors")):
        for name, array in load_file(file).items():
            if name == "frames":  # of a file with a random name
                frames.setdefault(file.parent, []).append(array)
            else:
                found[f"{file.relative_to(checkpoint)}/{name}"] = array
    for folder, arrays in frames.items():
        found[f"{folder.name}/frames"] = np.concatenate(arrays, axis=1)
    return found


def assert_same_future(run_dir: Path, other: Path) -> None:
    """Both runs' newest checkpoints are equal, bit for bit."""
    one, two = future(run_dir), future(other)
    assert one.keys() == two.keys()
    different = [name for name in one if not np.array_equal(one[name], two[name])]
    assert not different, different


def assert_same_tensorboard(run_dir: Path, other: Path) -> None:
    """Both runs show the same steps and values in TensorBoard, NaN included."""
    one, two = tensorboard_curves(run_dir), tensorboard_curves(other)
    assert one.keys() == two.keys() and one
    different = [tag for tag in one if not np.array_equal(one[tag], two[tag], equal_nan=True)]
    assert not different, different
