"""The windows that experts are analysed on: who has any, the replay behind them, and how they are drawn."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lzero.config import ExperimentConfig
from lzero.entry.replay_files import open_replay
from lzero.policy.unizero_multitask import UniZeroMTPolicy
from lzero.policy.window_losses import EncodedWindows, encoded
from lzero.replay.buffer import ReplayBuffer
from lzero.replay.windows import ReplayWindows
from lzero.worker.return_scale import ReturnScale

logger = logging.getLogger(__name__)

Advance = Callable[[], None]


def kept_replay(checkpoint: Path, config: ExperimentConfig) -> ReplayBuffer:
    """The replay of a checkpoint, if there is something in it.

    Raises:
        CheckpointError: if it cannot be read.
        ValueError: if it holds no window.
    """
    replay = open_replay(checkpoint, config)
    if not replay.can_sample:
        raise ValueError(f"the replay of {checkpoint} holds no window yet: train longer")
    return replay


def check_kind(config: Mapping[str, Any], checkpoint: Path) -> None:
    """Refuse a checkpoint that has nothing to analyse here.

    Raises:
        ValueError: saying what it lacks.
    """
    needed = "an analysis needs the routed experts of a world model, and its replay"
    if config.get("algorithm") == "ppo":
        raise ValueError(f"{checkpoint} is of PPO, which keeps no replay: {needed}")
    moe = config["model"]["moe"]
    if not moe["enabled"]:
        raise ValueError(f"{checkpoint} has dense blocks (model.moe.enabled=false): {needed}")
    if not moe["num_experts"]:
        raise ValueError(
            f"{checkpoint} has shared experts alone (model.moe.num_experts=0): {needed}"
        )
    if moe["routing"] == "soft":
        logger.warning(
            "model.moe.routing=soft: every token goes to all experts, so selections tell nothing; ablations do"
        )


def drawn_windows(
    policy: UniZeroMTPolicy,
    replay: ReplayBuffer,
    state: Mapping[str, Any],
    windows: int,
    rng: np.random.Generator,
    advance: Advance,
) -> tuple[EncodedWindows, ...]:
    """Windows of every task, as many at once as an update has of it: memory was made for that."""
    config = policy.config
    scaled: Callable[[ReplayWindows], ReplayWindows] | None = None
    if config.policy.scale_returns and state.get("return_scale") is not None:
        scale = ReturnScale(np.arange(config.num_tasks), config.num_tasks, config.policy.discount)
        scale.set_totals(state["return_scale"])
        scaled = scale.applied_to
    drawn = []
    for task, game in enumerate(config.env.games):
        at_once = config.batch_size_of(game)
        for start in range(0, windows, at_once):
            found = replay.sample({task: min(at_once, windows - start)}, rng)
            drawn.append(encoded(policy, found if scaled is None else scaled(found)))
        advance()
    return tuple(drawn)
