"""LightZero's entry point on ours."""

from collections.abc import Sequence
from typing import Any

import rich
from rich.console import Console

from lzero import checks
from lzero.distributed import MOST_PROCESSES
from lzero.entry.checkpointing import Resume
from lzero.entry.result import TrainResult
from lzero.entry.train_unizero_multitask_segment_ddp import (
    train_unizero_multitask_segment_ddp as train,
)
from lzero.lightzero.translation import translate_config

UNLIMITED = int(1e10)
"""LightZero's default of ``max_train_iter`` and ``max_env_step``."""
BENCHMARKS = ("atari",)
WIDTH = 160  # columns of the table where there is no terminal, whose width rich would take for 80


def train_unizero_multitask_segment_ddp(
    input_cfg_list: Sequence[Any],
    seed: int = 0,
    model: Any = None,
    model_path: str | None = None,
    max_train_iter: int | None = None,
    max_env_step: int | None = None,
    benchmark_name: str = "atari",
    *,
    domain: str | None = None,
    resume: Resume = "auto",
) -> TrainResult:
    """Train by LightZero's configs; prints what became of every key, then trains like
    :func:`lzero.entry.train_unizero_multitask_segment_ddp`.

    Processes are those of ``torch.distributed.run``; there is no ``DDPContext``, and games are shared
    out over processes by themselves.

    Args:
        input_cfg_list: ``[[task_id, [main_config, create_config]], …]``.
        seed: of parameters, environments, search and sampling.
        model, model_path: for LightZero's sake; None is allowed.
        max_train_iter: for LightZero's sake; None, or no limit (1e10). A run ends after env steps.
        max_env_step: env steps per game; None takes our default.
        benchmark_name: for LightZero's sake; ``atari``. Scores are normalised by the domain.
        domain: import path of the games' domain, for games that are not LightZero's Atari.
        resume: as of ours.

    Returns:
        Scores and where they lie; LightZero returns the policy.

    Raises:
        TypeError: if configs have another shape.
        ValueError: if they cannot be translated, see
            :func:`~lzero.lightzero.translation.translate_config`, or another argument is not
            supported. Further errors as of ours.
    """
    for name, value, instead in (
        ("model", model, "the network is made from the config"),
        ("model_path", model_path, "resume= continues from a checkpoint of lzero"),
    ):
        if value:
            raise ValueError(f"{name}={checks.shown(value)}: allowed is None; {instead}")
    if max_train_iter is not None and max_train_iter < UNLIMITED:
        raise ValueError(
            f"max_train_iter={max_train_iter}: allowed is None; give max_env_step, a number of updates "
            "over the replay ratio"
        )
    if benchmark_name not in BENCHMARKS:
        raise ValueError(f"benchmark_name={benchmark_name!r}: allowed is {', '.join(BENCHMARKS)}")
    translation = translate_config(input_cfg_list, max_env_step=max_env_step, domain=domain)
    if checks.announced("RANK", 0, MOST_PROCESSES) == 0:
        is_terminal = rich.get_console().is_terminal
        Console(width=None if is_terminal else WIDTH).print(translation.table())
    return train(translation.experiment, seed=seed, resume=resume)
