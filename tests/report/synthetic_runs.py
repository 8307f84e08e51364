"""Run folders with the numbers of all analyses, made up but shaped as training writes them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lzero.analysis.conflict import compute_gradient_conflicts
from lzero.analysis.conflict_log import conflict_numbers
from lzero.config import ExperimentConfig
from lzero.logging import RunLogger

DOMAIN = "zoo.classic_control.domain:CLASSIC_CONTROL"
GAMES = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")
WINDOWS = ("immediate", "short", "medium", "long")
ENV_STEPS = 1000  # of a whole run


def write_run(
    folder: Path,
    *,
    seed: int,
    experts: int = 4,
    layers: int = 2,
    analyses: int = 10,
    games: Sequence[str] = GAMES,
    **changes: Any,
) -> Path:
    """A run of ``analyses`` equal steps; without ``experts`` its feed-forward is a dense MLP.

    ``changes`` go into its config by section.
    """
    model = changes.pop("model", {}) | {
        "num_layers": layers,
        "moe": {"enabled": experts > 0, "num_experts": max(experts, 1)},
    }
    env = {"domain": DOMAIN, "games": games}
    config = ExperimentConfig.model_validate(
        {"exp_name": folder.name, "env": env, "model": model, **changes}
    )
    rng = np.random.default_rng(seed)
    with RunLogger(folder, is_main=True) as log:
        (folder / "config.json").write_text(config.model_dump_json())
        for number in range(1, analyses + 1):
            step = ENV_STEPS * number // analyses
            when = {
                "env_step": step,
                "train_iter": 20 * step,
            }  # a fifth is longer than a short window
            log.scalars(dict(basic_scalars(rng, step, games)), **when)
            scalars, arrays = conflict(rng, layers, experts, len(games))
            log.scalars(scalars, **when)
            log.arrays(arrays, **when)
            if experts:
                scalars, arrays = selection(rng, layers, experts, games, number / analyses)
                log.scalars(scalars, **when)
                log.arrays(arrays, **when)
            log.scalars(dict(plasticity(rng, layers, experts)), **when)
    return folder


def basic_scalars(
    rng: np.random.Generator, step: int, games: Sequence[str]
) -> Iterator[tuple[str, float]]:
    """What every run logs."""
    yield "learn/loss", 5 - step / ENV_STEPS + 0.1 * rng.normal()
    for game in games:
        yield f"eval_return/{game}", step / 10 + rng.normal()
        yield f"collect_return/{game}", step / 12 + rng.normal()
        yield f"collect_reward/{game}", step / 15 + rng.normal()
        yield f"health/latent_norm/{game}", 1 + 0.1 * rng.normal()


def component_names(layers: int, experts: int) -> list[str]:
    """Every measuring point of a model."""
    parts = ["before_moe", "moe_layer", *(["shared_expert", "router"] if experts else ())]
    parts += [f"expert_{expert}" for expert in range(experts)]
    inside = [f"{part}/layer{layer}" for layer in range(layers) for part in parts]
    return ["encoder", "encoder_parameters", "transformer", *inside]


def conflict(
    rng: np.random.Generator, layers: int, experts: int, tasks: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Scalars and matrices of the conflict; the last expert is used by one game alone, and has none."""
    conflicts = {}
    for name in component_names(layers, experts):
        gradients = rng.normal(size=(tasks, 6))
        gradients[0] -= (2.0 if "shared" in name else 0.5 if "expert" in name else 1.0) * gradients[
            1
        ]
        if name.startswith(f"expert_{experts - 1}/"):
            gradients[1:] = np.nan
        noise = 0.3 * rng.normal(size=(2, tasks, 6))
        conflicts[name] = compute_gradient_conflicts(*map(torch.from_numpy, gradients + noise))
    return conflict_numbers(conflicts)


def selection(
    rng: np.random.Generator, layers: int, experts: int, games: Sequence[str], progress: float
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Scalars and matrices of the expert selection; it gets sharper with ``progress`` from 0 to 1."""
    scalars, arrays = {}, {}
    for window in WINDOWS:
        logits = 3 * progress * rng.normal(size=(layers, len(games), experts))
        p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        entropy = -(p * np.log(p)).sum(axis=-1).mean(axis=0)
        distance = np.abs(p[:, :, None] - p[:, None]).sum(axis=-1) / 2
        for task, game in enumerate(games):
            scalars[f"moe_task/{window}/selection_entropy/{game}"] = entropy[task]
            scalars[f"moe_task/{window}/selection_entropy/{game}/layer0"] = 77.0
            scalars[f"moe_task/{window}/effective_experts/{game}"] = np.exp(entropy[task])
            if progress > 0.1:  # at the first log there is nothing to compare with
                scalars[f"moe_task/{window}/selection_shift/{game}"] = rng.random()
        scalars[f"moe_load/{window}/usage_entropy"] = entropy.max()
        scalars[f"moe_load/{window}/dead_experts"] = float(rng.integers(2))
        scalars[f"moe_load/{window}/mutual_information"] = entropy.max() - entropy.mean()
        scalars[f"moe_load/{window}/load_imbalance"] = experts * p.mean(axis=1).max()
        for name in ("jensen_shannon", "total_variation", "wasserstein"):
            scalars[f"moe_divergence/{window}/avg_{name}"] = distance.mean()
            scalars[f"moe_divergence/{window}/max_{name}"] = distance.max()
        for layer in range(layers):
            arrays[f"expert_selection/{window}/layer{layer}"] = p[layer]
            for name in ("jensen_shannon", "total_variation", "wasserstein"):
                arrays[f"task_similarity/{window}_{name}/layer{layer}"] = distance[layer]
    return scalars, arrays


def plasticity(rng: np.random.Generator, layers: int, experts: int) -> Iterator[tuple[str, float]]:
    """Scalars of plasticity."""
    blocks = [
        f"moe/layer{layer}/{part}"
        for layer in range(layers)
        for part in ("shared", "routed", "expert_0")
    ]
    modules = [
        "all",
        "encoder",
        "encoder/layer0",
        *(blocks if experts else [f"mlp/layer{layer}" for layer in range(layers)]),
    ]
    yield from ((f"plasticity/dormant_ratio/{module}", 0.1 * rng.random()) for module in modules)
    for kind in ("weight_norm", "gradient_norm"):
        yield from (
            (f"plasticity/{kind}/{module}", 10 + rng.random())
            for module in ("encoder", "layer0.attention")
        )
    if experts:
        yield from (
            (f"plasticity/router_entropy/layer{layer}", rng.random()) for layer in range(layers)
        )
