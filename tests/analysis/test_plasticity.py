"""Dormant units and router entropy against loops over units, tokens and experts; one rank against two."""

import math
from collections import defaultdict
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lzero.analysis.plasticity import (
    Activity,
    measure_plasticity,
    norms_by_module,
    parameter_norms,
    recording,
)
from lzero.config import ModelConfig
from lzero.distributed import Distributed, init_distributed
from lzero.model import UniZeroMTModel
from lzero.nn.heads import Head
from lzero.nn.moe import MoELayer
from lzero.nn.tasks import TaskGroups
from lzero.policy.points import module_of, unit_groups
from tests.ranks import SECONDS, run_ranks

DIM, ACTIONS, NUM_TASKS, STEPS = 16, 3, 3, 4
VECTOR, IMAGE = (6,), (4, 8, 8)
TASKS = (0, 0, 0, 0, 0, 2, 2)  # uneven, and task 1 has no row
TAU = 0.3  # high enough that units of a fresh network are dormant
WORLD_SIZE = 2
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


# The reference: every sample of every layer by itself. A sample is a list of numbers, one for each unit.


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


@pytest.mark.parametrize("name", MODELS)
def test_everything_equals_loops_over_units_tokens_and_experts(name):
    model = make_model(name)
    expected, got = naive(model, make_batch(model), TAU), measure(model)
    assert got.keys() == expected.keys()
    assert got == pytest.approx(expected, abs=1e-6)
    ratios = [value for tag, value in expected.items() if tag.startswith(DORMANT)]
    assert sum(ratios) > 0 and min(ratios) < max(ratios), "the case shows something"


def test_what_is_measured_of_which_model():
    heads = {f"{name}_head" for name in ("policy", "value", "reward", "latent")}
    always = {
        DORMANT + name for name in heads | {"all", "encoder", "encoder/layer0", "encoder/layer1"}
    }
    dense = measure(make_model("dense"))
    assert dense.keys() == always | {f"{DORMANT}mlp/layer{layer}" for layer in range(2)}
    moe = measure(make_model("moe of two"))
    parts = ("shared", "routed", *(f"expert_{expert}" for expert in range(5)))
    layers = {f"{DORMANT}moe/layer{layer}/{part}" for layer in range(2) for part in parts}
    assert moe.keys() == always | layers | {f"{ENTROPY}layer{layer}" for layer in range(2)}
    assert all(type(value) is float for value in (dense | moe).values())


def test_the_tasks_sets_of_weights_are_judged_one_by_one():
    """What is dead for one task and alive for another counts for half; the task without rows does not count."""
    model = make_model()
    head = model.world_model.policy_head
    with torch.no_grad():
        for stacked in (head.norm2_scale, head.norm2_shift):
            stacked[2, 0, :5] = 0.0
            stacked[1] = 0.0
    assert measure(model, tau=0.0)[f"{DORMANT}policy_head"] == 5 / (2 * DIM)
    assert measure(model, tau=0.0, tasks=(0, 1))[f"{DORMANT}policy_head"] == 1 / 2


def kill(model: UniZeroMTModel) -> dict[str, float]:
    """Silence some units of a convolutional model for good; the ratios that follow."""
    expected, layers = {}, model.encoder.trunk.layers
    for stacked in (layers[0].weight, layers[0].bias):
        stacked[[1, 6]] = 0.0
    layers[2].weight[[0]], layers[2].bias[[0]] = 0.0, -1.0  # below zero everywhere
    expected |= {"encoder/layer0": 2 / 8, "encoder/layer1": 1 / 5, "encoder": 3 / 13}
    for layer, block in enumerate(model.world_model.transformer.blocks):
        moe = block.feed_forward
        hidden = moe.experts.w_out.shape[1]
        moe.shared_experts[0].w_in[:, :3] = 0.0  # the gate
        moe.experts.w_in[0, :, hidden : hidden + 4] = 0.0  # what is gated
        moe.experts.w_in[1] = 0.0
        expected |= {
            f"moe/layer{layer}/shared": 3 / hidden,
            f"moe/layer{layer}/routed": (4 + hidden) / (4 * hidden),
        }
        expected |= {f"moe/layer{layer}/expert_0": 4 / hidden, f"moe/layer{layer}/expert_1": 1.0}
        expected |= {f"moe/layer{layer}/expert_{expert}": 0.0 for expert in (2, 3)}
    return expected


def test_units_killed_by_hand_are_the_dormant_ones():
    model = make_model("conv")
    alive = measure(model, tau=0.0)
    assert {tag: value for tag, value in alive.items() if tag.startswith(DORMANT) and value} == {}
    with torch.no_grad():
        expected = kill(model)
        for block in model.world_model.transformer.blocks:
            block.feed_forward.router.top_k = 4  # every expert sees tokens
    got = measure(model, tau=0.0)
    for name, ratio in expected.items():
        assert got[DORMANT + name] == pytest.approx(ratio, abs=1e-12), name
    units = {"encoder": 13} | {f"{name}_head": DIM * 2 for name in model.world_model.heads}
    hidden = model.world_model.transformer.blocks[0].feed_forward.experts.w_out.shape[1]
    dead = 3 + 2 * (3 + 4 + hidden)
    assert got[f"{DORMANT}all"] == pytest.approx(
        dead / (sum(units.values()) + 2 * 5 * hidden), abs=1e-12
    )


def test_the_threshold_is_a_share_of_the_layers_mean_and_itself_dormant():
    h = torch.tensor(
        [[4.0, -1.0, 0.0, 3.0], [-4.0, 1.0, 0.0, -3.0]]
    )  # mean |h|: 4, 1, 0, 3; of the layer: 2
    both = Activity.stack([h, 1000 * h])
    assert both.samples.tolist() == [2, 2]
    for tau, dormant in ((0.0, 1), (0.49, 1), (0.5, 2), (1.49, 2), (1.5, 3), (2.0, 4)):
        assert both.dormant_ratios(tau).tolist() == [dormant / 4] * 2
    assert Activity.of(torch.zeros(3, 4)).dormant_ratios(0.1).tolist() == [1.0]
    assert Activity.of(torch.zeros(0, 4)).dormant_ratios(0.1).isnan().all()


@torch.no_grad()
def test_forwards_add_up():
    """Two halves of a batch are one batch; a third forward, after the context, counts no more."""
    model = make_model("conv")
    observation, action, groups = make_batch(model)
    with recording(unit_groups(model)) as whole:
        model(observation, action, groups)
    with recording(unit_groups(model)) as halves:
        for rows in (slice(0, 3), slice(3, None)):
            model(observation[rows], action[rows], TaskGroups.of(groups.task_id[rows], "cpu"))
    model(observation, action, groups)
    assert (
        halves.activity.keys() == whole.activity.keys()
        and halves.entropy.keys() == whole.entropy.keys()
    )
    for name, activity in (whole.activity | whole.entropy).items():
        other = (halves.activity | halves.entropy)[name]
        assert torch.equal(other.samples, activity.samples)
        torch.testing.assert_close(other.total, activity.total, rtol=1e-5, atol=1e-5)


def test_experts_without_tokens_are_left_out_and_dilute_nothing():
    model = make_model("hardcoded")  # two experts for each of three tasks
    with torch.no_grad():
        for block in model.world_model.transformer.blocks:
            block.feed_forward.experts.w_in[2:4] = 0.0
    got = measure(model, tau=0.0)
    for layer in range(2):
        seen = {tag[-1] for tag in got if tag.startswith(f"{DORMANT}moe/layer{layer}/expert_")}
        assert seen == {"0", "1", "4", "5"}, "task 1 has no row"
        assert got[f"{DORMANT}moe/layer{layer}/routed"] == 0.0
    assert not [tag for tag in got if tag.startswith(ENTROPY)]


def test_a_router_that_cannot_decide_has_the_highest_entropy():
    model = make_model()
    with torch.no_grad():
        for block, scale in zip(model.world_model.transformer.blocks, (0.0, 1e4), strict=True):
            block.feed_forward.router.weight.mul_(scale)
    got = measure(model)
    assert got[f"{ENTROPY}layer0"] == pytest.approx(math.log(4), abs=1e-6)
    assert got[f"{ENTROPY}layer1"] == pytest.approx(0.0, abs=1e-3)


def hooks_of(model: UniZeroMTModel) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["moe", "dense", "resnet", "vit"])
def test_measuring_leaves_no_trace(name, training):
    model = make_model(name).train(training)
    batch = make_batch(model)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    before = model(*batch)[1].policy
    torch.set_rng_state(random)
    first, second = measure(model), measure(model)
    assert first == second, "no dropout"
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(model(*batch)[1].policy, before), "dropout draws what it would have drawn"
    assert hooks_of(model) == 0
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_measuring_counts_no_expert_selection():
    model = make_model().train()
    layers = [block.feed_forward for block in model.world_model.transformer.blocks]
    measure(model)
    assert not any(layer.selection_counts.any() for layer in layers)
    model(*make_batch(model))
    assert all(layer.selection_counts.any() for layer in layers)


def test_hooks_are_gone_after_an_error_too():
    model = make_model().train()
    observation, action, groups = make_batch(model)
    with pytest.raises(IndexError):
        measure_plasticity(
            model, unit_groups(model), (observation, action + ACTIONS, groups), Distributed()
        )
    assert hooks_of(model) == 0 and model.training


def test_bf16_gives_nearly_the_same():
    model = make_model("moe of two")
    exact = measure(model)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = measure(model)
    assert exact.keys() == rounded.keys()
    assert rounded == pytest.approx(exact, abs=0.1) and rounded != exact


def modules_of(model: UniZeroMTModel) -> list[str]:
    return [module_of(name) for name, _ in model.named_parameters()]


@pytest.mark.parametrize("name", MODELS)
def test_squared_norms_of_modules_add_up_to_those_of_their_parameters(name):
    model = make_model(name)
    norms = norms_by_module(modules_of(model), parameter_norms(model))
    heads = {"policy_head", "value_head", "reward_head", "latent_head"}
    blocks = {
        f"layer{layer}.{part}" for layer in range(2) for part in ("attention", "feed_forward")
    }
    assert norms.keys() == heads | blocks | {"encoder", "embeddings", "rest"}
    world_model = model.world_model
    modules = {
        f"layer{i}.feed_forward": block.feed_forward
        for i, block in enumerate(world_model.transformer.blocks)
    }
    modules |= {"encoder": model.encoder, "value_head": world_model.value_head}
    modules |= {
        f"layer{i}.attention": block.attention
        for i, block in enumerate(world_model.transformer.blocks)
    }
    for key, module in modules.items():
        flat = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
        assert norms[key] == pytest.approx(flat.double().norm().item(), rel=1e-5), key
    whole = (
        torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        .double()
        .norm()
        .item()
    )
    assert math.sqrt(sum(norm**2 for norm in norms.values())) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("embedding", ["none", "add", "concat", "register"])
def test_what_tells_tasks_and_actions_apart_is_an_embedding(embedding):
    config = ModelConfig(
        embed_dim=DIM, num_heads=2, task_embedding=embedding, encoder={"kind": "mlp"}
    )
    modules = modules_of(UniZeroMTModel(config, VECTOR, 2, 2))
    norms = norms_by_module(modules, torch.ones(len(modules)))
    here = {"none": 1, "add": 2, "concat": 4, "register": 2}[embedding]
    assert norms["embeddings"] == pytest.approx(here**0.5)
    assert norms["rest"] == pytest.approx((2 * 4 + 2) ** 0.5), (
        "two layer norms of each block and the last one"
    )


def test_norms_that_do_not_fit_the_names_are_refused():
    with pytest.raises(
        ValueError, match=r"norms has shape \(3,\) for 2 names; give one norm per parameter"
    ):
        norms_by_module(["encoder", "rest"], torch.ones(3))


RANK_CASES = ("moe of two", "hardcoded", "dense", "conv", "shared heads")
ROWS_OF_RANK = {0: slice(0, 3), 1: slice(3, None)}  # they share task 0; rank 0 has no row of task 2


def run_case(name: str, dist: Distributed) -> dict[str, float]:
    model = make_model(name)
    observation, action, groups = make_batch(model)
    if dist.world_size > 1:
        rows = ROWS_OF_RANK[dist.rank]
        observation, action, groups = (
            observation[rows],
            action[rows],
            TaskGroups.of(groups.task_id[rows], "cpu"),
        )
    return measure_plasticity(model, unit_groups(model), (observation, action, groups), dist, TAU)


def worker() -> dict[str, dict]:
    """What each rank does."""
    dist = init_distributed("cpu", timeout=timedelta(seconds=SECONDS / 2))
    outcome = {name: run_case(name, dist) for name in RANK_CASES}
    dist.shutdown()
    return outcome


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[Mapping[str, dict[str, float]]]:
    return run_ranks(worker, WORLD_SIZE, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", RANK_CASES)
def test_two_ranks_measure_what_one_measures(outcomes, name):
    expected = run_case(name, Distributed())
    assert any(value not in (0.0, 1.0) for value in expected.values())
    for outcome in outcomes:
        assert outcome[name] == pytest.approx(expected, abs=1e-6)
    assert outcomes[0][name] == outcomes[1][name]
