"""A small experiment on two Catch games, and what the tests of the plug-in make of it."""

from typing import Any

import numpy as np
import torch
from ding.config import compile_config

from lzero.config import ExperimentConfig
from lzero.ding import ding_config
from lzero.entry.build import Parts, build
from lzero.envs.domain import with_domain_settings
from lzero.logging import PhaseTimer
from lzero.policy.unizero_multitask import UniZeroMTPolicy
from lzero.replay.windows import ReplayWindows
from lzero.worker.actor import Actor
from lzero.worker.collector import Collector

SEED = 3
ENVS = 3  # of each of two games


def experiment(*, profile: bool = False, **train: Any) -> ExperimentConfig:
    """Two Catch games, a narrow model, few simulations."""
    return with_domain_settings(
        {
            "exp_name": "ding_catch",
            "env": {
                "domain": "zoo.catch.domain:CATCH",
                "games": ("Catch", "MirroredCatch"),
                "num_envs": ENVS,
                "num_eval_envs": 2,
                "max_episode_steps": 8,
                "clip_reward": False,
                "end_on_life_loss": False,
            },
            "model": {
                "embed_dim": 16,
                "num_heads": 2,
                "num_layers": 1,
                "encoder": {"kind": "mlp", "hidden": (16,)},
                "moe": {"num_experts": 2},
            },
            "policy": {
                "batch_size": 2,
                "unroll_steps": 4,
                "td_steps": 2,
                "gradient_conflict_interval": 2,
                "replay": {"capacity": 600},
                "profile": {"torch_profiler": profile},
                "search": {"kind": "gumbel", "num_simulations": 4, "num_eval_simulations": 4},
            },
            "train": train,
        }
    )


def compiled(config: ExperimentConfig, manager: str = "base") -> Any:
    """The config as DI-engine compiles it, without writing it."""
    main, create = ding_config(config, manager=manager)
    return compile_config(main, seed=SEED, auto=True, create_cfg=create, save_cfg=False)


def collected_windows(parts: Parts, number: int) -> list[ReplayWindows]:
    """Windows that our own collector has brought in, at random."""
    env = parts.foundation.env
    actor = Actor(parts.policy, env.task_id, env.legal_actions, parts.rngs["act"])
    collector = Collector(env, actor, parts.replay, PhaseTimer())
    collector.begin(SEED)
    collector.collect(20, random=True)
    rng = np.random.default_rng(SEED)
    return [parts.replay.sample({0: 2, 1: 2}, rng) for _ in range(number)]


def made(config: ExperimentConfig) -> Parts:
    """A run's parts, always the same ones. Heads begin at zero, so the whole model is shaken: it must see what it is shown."""
    parts = build(config, SEED)
    shaken = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in parts.policy.model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=shaken))
    parts.policy.target.load_state_dict(parts.policy.model.state_dict())
    return parts


def tensors(policy: UniZeroMTPolicy) -> dict[str, np.ndarray]:
    """Everything that a checkpoint keeps of a policy."""
    return {
        f"{group}/{name}": tensor.clone().numpy()
        for group, held in policy.state_dict().items()
        for name, tensor in held.items()
    }


def assert_same_state(one: UniZeroMTPolicy, other: UniZeroMTPolicy) -> None:
    """Bit for bit."""
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)
