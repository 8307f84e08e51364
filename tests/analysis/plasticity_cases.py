"""UniZero models of every kind, and their plasticity by loops over units, tokens and experts."""

import math
from collections import defaultdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lzero.analysis.plasticity import (
    measure_plasticity,
)
from lzero.config import ModelConfig
from lzero.distributed import Distributed
from lzero.model import UniZeroMTModel
from lzero.nn.heads import Head
from lzero.nn.moe import MoELayer
from lzero.nn.tasks import TaskGroups
from lzero.policy.points import unit_groups

DIM, ACTIONS, NUM_TASKS, STEPS = 16, 3, 3, 4
VECTOR, IMAGE = (6,), (4, 8, 8)
TASKS = (0, 0, 0, 0, 0, 2, 2)  # uneven, and task 1 has no row
TAU = 0.3  # high enough that units of a fresh network are dormant
DORMANT, ENTROPY = "plasticity/dormant_ratio/", "plasticity/router_entropy/"
VIT = {
    "kind": "vit",
    "patch_size": 4,
    "vit_width": 16,
    "vit_heads": 2,
    "vit_layers": 2,
    "dropout": 0.5,
}
MODELS: dict[str, dict[str, Any]] = {
    "moe": {},
    "moe of two": {
        "moe": {"num_experts": 5, "top_k": 2, "num_shared_experts": 2},
        "task_embedding": "register",
    },
    "dense": {"moe": {"enabled": False}, "dropout": 0.3},
    "dense swiglu": {"moe": {"enabled": False}, "mlp_kind": "swiglu"},
    "shared heads": {"share_head": True, "moe": {"routing": "soft", "num_experts": 3}},
    "hardcoded": {"moe": {"routing": "hardcoded", "num_experts": 6}},
    "shared expert alone": {"moe": {"num_experts": 0}},
    "no shared expert": {"moe": {"num_experts": 4, "num_shared_experts": 0}},
    "conv": {"encoder": {"kind": "conv", "widths": (8, 5)}},
    "resnet": {"encoder": {"kind": "resnet", "widths": (8, 16), "stem_stride": 1}},
    "vit": {"encoder": VIT},
}


def make_model(name: str = "moe") -> UniZeroMTModel:
    changes = dict(MODELS[name])
    base = {
        "embed_dim": DIM,
        "num_heads": 2,
        "context_steps": 3,
        "support_bins": 5,
        "support_limit": 2.0,
    }
    moe = {"num_experts": 4} | changes.pop("moe", {})
    encoder = {"kind": "mlp", "hidden": (12, 10)} | changes.pop("encoder", {})
    config = ModelConfig.model_validate(base | {"moe": moe, "encoder": encoder} | changes)
    torch.manual_seed(0)
    model = UniZeroMTModel(
        config, VECTOR if config.encoder.kind == "mlp" else IMAGE, ACTIONS, NUM_TASKS
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def make_batch(
    model: UniZeroMTModel, tasks: tuple[int, ...] = TASKS
) -> tuple[Tensor, Tensor, TaskGroups]:
    generator = torch.Generator().manual_seed(1)
    shape = VECTOR if model.config.encoder.kind == "mlp" else IMAGE
    observation = torch.randn(len(tasks), STEPS, *shape, generator=generator)
    action = torch.randint(ACTIONS, (len(tasks), STEPS - 1), generator=generator)
    return observation, action, TaskGroups.of(torch.tensor(tasks), "cpu")


def measure(
    model: UniZeroMTModel, tau: float = TAU, dist: Distributed | None = None, **batch: Any
) -> dict[str, float]:
    return measure_plasticity(
        model, unit_groups(model), make_batch(model, **batch), dist or Distributed(), tau
    )


# The reference: every sample of every layer by itself. A sample is a list of numbers, one for each
# unit.


def naive_ratio(samples: list[Tensor], tau: float) -> tuple[int, int]:
    """Dormant units and units of one layer, walked unit by unit."""
    activity = [
        sum(abs(float(sample[unit])) for sample in samples) / len(samples)
        for unit in range(len(samples[0]))
    ]
    mean = sum(activity) / len(activity)
    return sum(value / mean <= tau for value in activity), len(activity)


def arguments_of(model: UniZeroMTModel, batch: tuple) -> dict[torch.nn.Module, tuple]:
    """What enters every feed-forward and every head."""
    world_model, seen = model.world_model, {}
    modules = [block.feed_forward for block in world_model.transformer.blocks] + list(
        world_model.heads.values()
    )
    hooks = [
        m.register_forward_pre_hook(lambda m, arguments: seen.update({m: arguments}))
        for m in modules
    ]
    model(*batch)
    for hook in hooks:
        hook.remove()
    return seen


def naive_encoder(model: UniZeroMTModel, observation: Tensor) -> list[Tensor]:
    """Activations of the encoder, layer by layer, as ``(samples, units)``."""
    kind, trunk = model.config.encoder.kind, model.encoder.trunk
    x, found = observation.flatten(0, 1), []
    if kind == "vit":
        patches = trunk.patchify(x).flatten(2).transpose(1, 2)
        x = torch.cat([trunk.cls.expand(len(x), -1, -1), patches], dim=1) + trunk.position
        for block in trunk.blocks:
            x = x + block.attention(block.norm1(x), rotation=None, mask=None)
            hidden = F.gelu(block.mlp[0](block.norm2(x)), approximate="tanh")
            found.append(hidden.flatten(0, 1))
            x = x + block.mlp[2](hidden)
        return found
    for layer in trunk.layers:
        if layer.__class__.__name__ == "ResidualBlock":
            y = F.relu(layer.norm1(layer.conv1(x)))
            found.append(y)
            x = F.relu(layer.norm2(layer.conv2(y)) + layer.skip(x))
            found.append(x)
        elif isinstance(layer, torch.nn.ReLU | torch.nn.GELU):
            x = layer(x.clone())  # it works in place
            found.append(x)
        else:
            x = layer(x)
    return [x.permute(0, 2, 3, 1).flatten(0, 2) if x.ndim == 4 else x for x in found]


def naive_head(head: Head, x: Tensor, groups: TaskGroups) -> list[list[Tensor]]:
    """Hidden units of every token, by set of weights."""
    samples = defaultdict(list)
    for row, task in zip(x, groups.task_id.tolist(), strict=True):
        own = 0 if head.shared else task
        for token in row:
            y = F.layer_norm(token, (DIM,)) * head.norm1_scale[own, 0] + head.norm1_shift[own, 0]
            y = F.layer_norm(y @ head.weight1[own] + head.bias1[own, 0], (DIM,))
            y = y * head.norm2_scale[own, 0] + head.norm2_shift[own, 0]
            samples[own].append(F.gelu(y, approximate="tanh"))
    return list(samples.values())


def gated(token: Tensor, w_in: Tensor) -> Tensor:
    a, b = (token @ w_in).chunk(2)
    return a * torch.sigmoid(a) * b


def naive_moe(
    layer: MoELayer, x: Tensor, task_id: Tensor, name: str
) -> tuple[dict[str, list[list[Tensor]]], float]:
    """Hidden units by module and set of weights, and the mean entropy of the router."""
    samples: dict[str, list[list[Tensor]]] = defaultdict(list)
    tokens, tasks = x.flatten(0, 1), task_id.flatten().tolist()
    for expert in layer.shared_experts:
        samples[f"{name}/shared"].append([gated(token, expert.w_in) for token in tokens])
    by_expert, entropies = defaultdict(list), []
    for token, task in zip(tokens, tasks, strict=True):
        if not layer.config.num_experts:
            continue
        if layer.router is None:
            chosen = layer.experts_of_task[task].tolist()
        else:
            scores = (layer.router.weight @ token).softmax(0).tolist()
            entropies.append(-sum(score * math.log(score) for score in scores))
            chosen = np.argsort(scores)[::-1][: layer.router.top_k].tolist()
        for expert in chosen:
            by_expert[expert].append(gated(token, layer.experts.w_in[expert]))
    for expert, seen in by_expert.items():
        samples[f"{name}/expert_{expert}"].append(seen)
        samples[f"{name}/routed"].append(seen)
    return samples, sum(entropies) / len(entropies) if entropies else math.nan


@torch.no_grad()
def naive(model: UniZeroMTModel, batch: tuple, tau: float) -> dict[str, float]:
    """Everything that :func:`measure_plasticity` returns."""
    samples: dict[str, list[list[Tensor]]] = defaultdict(list)
    metrics: dict[str, float] = {}
    for layer, activations in enumerate(naive_encoder(model, batch[0])):
        samples[f"encoder/layer{layer}"].append(list(activations))
        samples["encoder"].append(list(activations))
    seen = arguments_of(model, batch)
    for layer, block in enumerate(model.world_model.transformer.blocks):
        feed_forward = block.feed_forward
        x, task_id = seen[feed_forward]
        if isinstance(feed_forward, MoELayer):
            found, entropy = naive_moe(feed_forward, x, task_id, f"moe/layer{layer}")
            samples |= found
            if not math.isnan(entropy):
                metrics[f"{ENTROPY}layer{layer}"] = entropy
        elif model.config.mlp_kind == "swiglu":
            hidden = [gated(token, feed_forward.expert.w_in) for token in x.flatten(0, 1)]
            samples[f"mlp/layer{layer}"].append(hidden)
        else:
            hidden = [
                F.gelu(feed_forward.w_in(token), approximate="tanh") for token in x.flatten(0, 1)
            ]
            samples[f"mlp/layer{layer}"].append(hidden)
    for name, head in model.world_model.heads.items():
        samples[f"{name}_head"] = naive_head(head, *seen[head])
    everything = [0, 0]
    for name, sets in samples.items():
        dormant, units = np.sum([naive_ratio(one, tau) for one in sets], axis=0)
        metrics[DORMANT + name] = dormant / units
        if name != "encoder" and "/expert_" not in name:  # those are counted under another name too
            everything = [everything[0] + dormant, everything[1] + units]
    return metrics | {f"{DORMANT}all": everything[0] / everything[1]}
