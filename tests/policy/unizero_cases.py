"""Small policies on random windows, and their loss computed a second time by hand: what the tests of the update share."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lzero.config import ExperimentConfig
from lzero.distributed import Distributed
from lzero.model import UniZeroMTModel
from lzero.model.unizero_world_models.world_model_multitask import WorldModelOutput
from lzero.nn.tasks import TaskGroups
from lzero.policy import UniZeroMTPolicy
from lzero.policy.losses import TERMS
from lzero.policy.targets import Batch
from lzero.replay.buffer import ReplayBuffer
from lzero.replay.windows import ReplayWindows

PREDICTIONS = ("policy", "value", "reward", "termination", "next_latent")
GAMES = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")
LEGAL = np.array([[True, True, False], [True, True, True], [True, True, True]])
FEATURES, ACTIONS = 6, 3
MODELS = {
    "moe": {},
    "dense": {"model": {"moe": {"enabled": False}}},
    "dense swiglu": {"model": {"moe": {"enabled": False}, "mlp_kind": "swiglu"}},
    "shared heads": {"model": {"share_head": True}},
    "sim_norm": {"model": {"latent_norm": "sim_norm"}},
    "registers": {"model": {"task_embedding": "register", "moe": {"top_k": 2}}},
    "hardcoded": {"model": {"task_embedding": "concat", "moe": {"routing": "hardcoded"}}},
    "balanced": {"model": {"moe": {"balance": "aux_loss"}}},
    "biased": {"model": {"moe": {"balance": "bias"}}},
    "task-conditioned": {"model": {"encoder": {"task_conditioned": True}}},
    "conv": {"model": {"encoder": {"kind": "conv", "widths": (16, 8)}}},
    "resnet": {"model": {"encoder": {"kind": "resnet", "widths": (8, 16), "stem_stride": 1}}},
    "vit": {
        "model": {
            "encoder": {
                "kind": "vit",
                "patch_size": 4,
                "vit_width": 16,
                "vit_heads": 2,
                "vit_layers": 1,
            }
        }
    },
}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the leaves of ``changes``."""
    result = dict(base)
    for key, value in changes.items():
        result[key] = (
            merged(base[key], value) if isinstance(value, Mapping) and key in base else value
        )
    return result


def make_config(changes: Mapping[str, Any] | None = None) -> ExperimentConfig:
    base = {
        "env": {
            "domain": "zoo.classic_control.domain:CLASSIC_CONTROL",
            "games": GAMES,
            "num_envs": 2,
        },
        "model": {
            "embed_dim": 32,
            "num_heads": 4,
            "context_steps": 3,
            "support_bins": 21,
            "support_limit": 5.0,
            "encoder": {"kind": "mlp", "hidden": (24,)},
            "moe": {"num_experts": 4},
        },
        "policy": {
            "batch_size": 5,
            "unroll_steps": 4,
            "td_steps": 3,
            "discount": 0.9,
            "replay": {"capacity": 200},
            "optimiser": {"max_grad_norm": 1e9},
            "gradient_conflict_interval": 0,
        },
        "device": "cpu",
        "precision": "fp32",
    }
    return ExperimentConfig.model_validate(merged(base, changes or {}))


def observation_shape(config: ExperimentConfig) -> tuple[int, ...]:
    """Of vectors for fully connected encoders, of small pictures for the others."""
    return (FEATURES,) if config.model.encoder.kind == "mlp" else (4, 8, 8)


def make_policy(config: ExperimentConfig, dist: Distributed | None = None) -> UniZeroMTPolicy:
    """A policy whose heads are not zero and whose target network differs from the online one, the same every time."""
    torch.manual_seed(0)
    policy = UniZeroMTPolicy(config, observation_shape(config), LEGAL[: config.num_tasks], dist)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for parameter in policy.target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy


def make_replay(config: ExperimentConfig, *, sharp: bool = False, seed: int = 0) -> ReplayBuffer:
    """Random streams with deaths, lost lives, time limits and reset rows; ``sharp`` visits favour one action."""
    rng = np.random.default_rng(seed)
    task_of_ring = np.repeat(np.arange(config.num_tasks), 2)
    legal = LEGAL[task_of_ring]
    rings, window = len(task_of_ring), config.policy.window
    shape = observation_shape(config)
    past = config.policy.burn_in_steps
    replay = ReplayBuffer(task_of_ring, 100, shape, np.float32, ACTIONS, window, past=past)
    over = np.zeros(rings, bool)
    for _ in range(80):
        reset = over
        ending = rng.random(rings)
        died, life_lost = ending < 0.08, (ending >= 0.08) & (ending < 0.12)
        timed_out = (ending >= 0.12) & (ending < 0.2)
        visits = rng.random((rings, ACTIONS)) ** (30 if sharp else 1) * legal
        replay.append(
            observation=rng.normal(size=(rings, *shape)).astype(np.float32),
            action=rng.integers(0, legal.sum(axis=1)),
            reward=rng.normal(size=rings) * ~reset,
            terminated=(died | life_lost) & ~reset,
            truncated=timed_out & ~reset,
            reset=reset,
            visits=visits / visits.sum(axis=1, keepdims=True),
            root_value=np.zeros(rings),
        )
        over = (died | timed_out) & ~reset
    return replay


def make_windows(config: ExperimentConfig, *, sharp: bool = False, seed: int = 0) -> ReplayWindows:
    """One batch of all tasks, with importance weights that differ."""
    rng = np.random.default_rng(seed)
    sizes = {task: config.batch_size_of(game) for task, game in enumerate(config.env.games)}
    windows = make_replay(config, sharp=sharp).sample(sizes, rng)
    assert (windows.terminated | windows.truncated).any() and windows.reset.any()
    return replace(
        windows,
        weight=torch.from_numpy(rng.uniform(0.2, 1.0, len(windows.weight)).astype(np.float32)),
    )


def rows_of(windows: ReplayWindows, rows: Tensor) -> ReplayWindows:
    return ReplayWindows(
        **{field.name: getattr(windows, field.name)[rows] for field in fields(windows)}
    )


def groups_of(windows: ReplayWindows) -> TaskGroups:
    return TaskGroups.of(windows.task_id, "cpu")


def snapshot(policy: UniZeroMTPolicy) -> dict[str, Tensor]:
    """Everything that an update changes, by name."""
    state = {f"model/{name}": tensor for name, tensor in policy.model.state_dict().items()}
    state |= {f"target/{name}": tensor for name, tensor in policy.target.state_dict().items()}
    for name, parameter in policy.model.named_parameters():
        state |= {
            f"{key}/{name}": value
            for key, value in policy.optimizer.state.get(parameter, {}).items()
        }
    state["entropy"] = policy.entropy_weight.log_weight
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def episodes_of(windows: ReplayWindows, row: int) -> list[range]:
    """Steps of each episode that a window without a past shows, walked step by step."""
    episodes, start, last = [], 0, windows.reward.shape[1] - 1
    for step in range(last + 1):
        if windows.terminated[row, step] or windows.reset[row, step] or step == last:
            episodes.append(range(start, step + 1))
            start = step + 1
    return episodes


def each_episode_alone(
    model: UniZeroMTModel, windows: ReplayWindows, latent: Tensor
) -> WorldModelOutput:
    """Predictions along the first steps of windows, ``latent (B, S, D)``, every episode run by itself."""
    by_row = []
    for row, seen in enumerate(latent):
        groups = TaskGroups.of(windows.task_id[row : row + 1], "cpu")
        parts = []
        for episode in episodes_of(windows, row):
            steps = [step for step in episode if step < len(seen)]
            if steps:
                # one step more, for what follows the last action
                longer = torch.cat([seen[steps], torch.zeros_like(seen[:1])])[None]
                output = model.world_model(longer, windows.action[row, steps][None], groups)
                parts.append([getattr(output, name)[0, : len(steps)] for name in PREDICTIONS])
        by_row.append([torch.cat(pieces) for pieces in zip(*parts, strict=True)])
    return WorldModelOutput(*(torch.stack(rows) for rows in zip(*by_row, strict=True)), None)


def independent_loss(policy: UniZeroMTPolicy, windows: ReplayWindows, targets: Batch) -> Tensor:
    """Mean over tasks of the loss, every task run by itself and every step added by hand."""
    config, model, losses = policy.config, policy.model, []
    steps = config.policy.unroll_steps + 1
    for task in range(config.num_tasks):
        rows = (windows.task_id == task).nonzero()[:, 0]
        part = rows_of(windows, rows)
        latent = model.encode(part.observation[:, :steps], groups_of(part))
        output = each_episode_alone(model, part, latent)
        enough = config.policy.loss.spread_target * (
            1 if config.model.latent_norm == "layer_norm" else 7**0.5 / 8
        )
        deviation = latent.flatten(0, 1).var(dim=0, correction=0).clamp_min(1e-6).sqrt()
        shortfall = (enough - deviation).clamp_min(0).mean()
        sums, counts = dict.fromkeys(TERMS, 0.0), dict.fromkeys(TERMS, 0)
        for i, row in enumerate(rows.tolist()):
            legal = LEGAL[task].nonzero()[0]
            for step in range(steps):
                if not windows.reset[row, step]:
                    log_policy = output.policy[i, step, legal].log_softmax(-1)
                    two_hot = policy.support.two_hot(targets.value[row, step])
                    terms = {
                        "policy": -(part.visits[i, step, legal] * log_policy).sum(),
                        "entropy": -(log_policy.exp() * log_policy).sum(),
                        "value": -(two_hot * output.value[i, step].log_softmax(-1)).sum(),
                    }
                    if step < steps - 1:
                        two_hot = policy.support.two_hot(part.reward[i, step])
                        terms["reward"] = -(two_hot * output.reward[i, step].log_softmax(-1)).sum()
                        sign = 1.0 if part.terminated[i, step] else -1.0
                        terms["termination"] = -torch.nn.functional.logsigmoid(
                            sign * output.termination[i, step]
                        )
                        if not windows.terminated[row, step]:
                            predicted = model.encoder.norm(output.next_latent[i, step])
                            terms["latent"] = (
                                (predicted - targets.latent[row, step]).square().mean()
                            )
                    for term, value in terms.items():
                        sums[term] = sums[term] + part.weight[i] * value
                        counts[term] += 1
        mean = {term: sums[term] / counts[term] for term in TERMS}
        weight = config.policy.loss
        losses.append(
            weight.latent * mean["latent"]
            + weight.reward * mean["reward"]
            + weight.termination * mean["termination"]
            + weight.value * mean["value"]
            + weight.policy * mean["policy"]
            - weight.entropy * mean["entropy"]
            + weight.spread * shortfall
        )
    return torch.stack(losses)
