"""Runs of seconds, and what they leave: what the tests of training share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from easydict import EasyDict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lzero import tags
from lzero.logging import read_metrics

STEPS, RATIO = 120, 0.27


def settings(output_dir: Path, changes: Mapping[str, Any] | None = None) -> EasyDict:
    """A run of seconds; ``changes`` go by dotted path."""
    config = EasyDict(
        {
            "exp_name": "tiny",
            "output_dir": str(output_dir),
            "env": {
                "domain": "zoo.classic_control.domain:CLASSIC_CONTROL",
                "games": ["CartPole-v1"],
                "num_envs": 2,
                "num_eval_envs": 2,
                "max_episode_steps": 15,
            },
            "model": {
                "embed_dim": 16,
                "num_heads": 2,
                "num_layers": 1,
                "context_steps": 2,
                "support_bins": 11,
                "support_limit": 5.0,
                "encoder": {"kind": "mlp", "hidden": [16]},
                "moe": {"num_experts": 2},
            },
            "policy": {
                "batch_size": 4,
                "unroll_steps": 3,
                "td_steps": 2,
                "replay_ratio": RATIO,
                "replay": {"capacity": 80},  # the rings overflow
                "search": {"num_simulations": 3, "num_eval_simulations": 3},
            },
            "train": {
                "max_env_steps": STEPS,
                "collect_steps": 10,
                "eval_interval": 60,
                "eval_episodes": 3,
                "checkpoint_interval": 40,
                "log_interval": 1,
            },
            "device": "cpu",
            "precision": "fp32",
        }
    )
    for path, value in (changes or {}).items():
        section, _, field = path.rpartition(".")
        node = config
        for name in filter(None, section.split(".")):
            node = node[name]
        node[field] = value
    return config


def curves(run_dir: Path) -> list[dict[str, Any]]:
    """Rows of ``metrics.jsonl`` without what the clock says."""
    rows = []
    for line in read_metrics(run_dir / "metrics.jsonl"):
        metrics = {
            name: value
            for name, value in line["metrics"].items()
            if not name.startswith(("time/", "rate/", "checkpoint/"))
        }
        rows.append(
            {"env_step": line["env_step"], "train_iter": line["train_iter"], "metrics": metrics}
        )
    return rows


def tensorboard_curves(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by tag, in the order of logging, without what the clock says."""
    events = EventAccumulator(str(run_dir / "tb"), {"scalars": 0}).Reload()
    found = {}
    for written in events.Tags()["scalars"]:
        tag = tags.plain(written)
        if not tag.startswith(("time/", "rate/", "checkpoint/")):
            # files of one second have no order of their own
            numbers = sorted(events.Scalars(written), key=lambda event: event.wall_time)
            found[tag] = [(event.step, event.value) for event in numbers]
    return found


def updates_by_step(run_dir: Path) -> dict[int, int]:
    """Updates done when the env steps moved on, by env steps."""
    return {row["env_step"]: row["train_iter"] for row in curves(run_dir)}
