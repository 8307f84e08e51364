"""Dormant units and router entropy against loops over units, tokens and experts; one rank against
two.
"""

import math
from collections.abc import Mapping
from datetime import timedelta

import pytest
import torch

from lzero.analysis.plasticity import (
    Activity,
    measure_plasticity,
    recording,
)
from lzero.distributed import Distributed, init_distributed
from lzero.model import UniZeroMTModel
from lzero.nn.tasks import TaskGroups
from lzero.policy.points import unit_groups
from tests.analysis.plasticity_cases import (
    ACTIONS,
    DIM,
    DORMANT,
    ENTROPY,
    MODELS,
    TAU,
    make_batch,
    make_model,
    measure,
    naive,
)
from tests.ranks import SECONDS, run_ranks

WORLD_SIZE = 2


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
    """What is dead for one task and alive for another counts for half; the task without rows does
    not count.
    """
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
