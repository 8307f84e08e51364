"""The update: gradients against an independent computation, targets against brute force, one rank against two.

The two-rank tests run on real gloo processes: this file is also the program that torchrun starts.
"""

import copy
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lzero
from lzero.config import ExperimentConfig, LossConfig
from lzero.distributed import Distributed, assign_tasks, init_distributed
from lzero.mcts.replay_buffer import ReplayBuffer, ReplayWindows
from lzero.policy import UniZeroMTPolicy, unizero_multitask
from lzero.policy.losses import TERMS, Targets

GAMES = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")
LEGAL = np.array([[True, True, False], [True, True, True], [True, True, True]])
FEATURES, ACTIONS = 6, 3
WORLD_SIZE = 2
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={WORLD_SIZE}")
RUN_TIMEOUT_SECONDS = 90


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the leaves of ``changes``."""
    result = dict(base)
    for key, value in changes.items():
        result[key] = merged(base[key], value) if isinstance(value, Mapping) and key in base else value
    return result


def make_config(changes: Mapping[str, Any] | None = None) -> ExperimentConfig:
    base = {
        "env": {"domain": "zoo.classic_control.domain:CLASSIC_CONTROL", "games": GAMES, "num_envs": 2},
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
        },
        "device": "cpu",
        "precision": "fp32",
    }
    return ExperimentConfig.model_validate(merged(base, changes or {}))


def make_policy(config: ExperimentConfig, dist: Distributed | None = None) -> UniZeroMTPolicy:
    """A policy whose heads are not zero and whose target network differs from the online one, the same every time."""
    torch.manual_seed(0)
    policy = UniZeroMTPolicy(config, (FEATURES,), LEGAL[: config.num_tasks], dist)
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
    replay = ReplayBuffer(task_of_ring, 100, (FEATURES,), np.float32, ACTIONS, window)
    over = np.zeros(rings, bool)
    for _ in range(80):
        reset = over
        ending = rng.random(rings)
        died, life_lost = ending < 0.08, (ending >= 0.08) & (ending < 0.12)
        timed_out = (ending >= 0.12) & (ending < 0.2)
        visits = rng.random((rings, ACTIONS)) ** (30 if sharp else 1) * legal
        replay.append(
            observation=rng.normal(size=(rings, FEATURES)).astype(np.float32),
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
    return replace(windows, weight=torch.from_numpy(rng.uniform(0.2, 1.0, len(windows.weight)).astype(np.float32)))


def rows_of(windows: ReplayWindows, rows: Tensor) -> ReplayWindows:
    return ReplayWindows(**{field.name: getattr(windows, field.name)[rows] for field in fields(windows)})


def snapshot(policy: UniZeroMTPolicy) -> dict[str, Tensor]:
    """Everything that an update changes, by name."""
    state = {f"model/{name}": tensor for name, tensor in policy.model.state_dict().items()}
    state |= {f"target/{name}": tensor for name, tensor in policy.target.state_dict().items()}
    for name, parameter in policy.model.named_parameters():
        state |= {f"{key}/{name}": value for key, value in policy.optimiser.state.get(parameter, {}).items()}
    state["entropy"] = policy.entropy_weight.log_weight
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def test_frames_that_look_alike_keep_different_latents():
    """Pong's frames are nearly one picture: without a lower bound on their spread all latents became one within 50 updates."""
    spread = {}
    for weight in (0.0, LossConfig().spread):
        config = make_config({"policy": {"loss": {"spread": weight}, "optimiser": {"learning_rate": 3e-3}}})
        policy, windows = make_policy(config), make_windows(config)
        alike = replace(windows, observation=1.0 + 0.1 * windows.observation)
        for _ in range(60):
            policy.learn(alike)
        with torch.no_grad():
            latent = policy.model.encode(alike.observation[:, 0], alike.task_id)
        by_task = [latent[alike.task_id == task].std(dim=0).mean().item() for task in range(config.num_tasks)]
        spread[weight] = by_task
    assert max(spread[0.0]) < 0.2 < 0.4 < min(spread[LossConfig().spread]), spread


@pytest.fixture
def gradients(monkeypatch):
    """Gradients as the optimiser sees them, one dictionary per update of :func:`recorded` policies."""
    seen: list[dict[str, Tensor]] = []

    def record(policy: UniZeroMTPolicy) -> list[dict[str, Tensor]]:
        step = policy.optimiser.step

        def recording_step() -> None:
            seen.append({name: p.grad.clone() for name, p in policy.model.named_parameters()})
            step()

        monkeypatch.setattr(policy.optimiser, "step", recording_step)
        return seen

    return record


@pytest.fixture
def seen_targets(monkeypatch) -> list[Targets]:
    """The targets of every update."""
    seen: list[Targets] = []
    task_sums = unizero_multitask.task_sums

    def recording(output, targets, *rest):
        seen.append(targets)
        return task_sums(output, targets, *rest)

    monkeypatch.setattr(unizero_multitask, "task_sums", recording)
    return seen


MODELS = {
    "moe": {},
    "dense": {"model": {"moe": {"enabled": False}}},
    "shared heads": {"model": {"share_head": True}},
    "sim_norm": {"model": {"latent_norm": "sim_norm"}},
    "registers": {"model": {"task_embedding": "register", "moe": {"top_k": 2}}},
    "hardcoded": {"model": {"task_embedding": "concat", "moe": {"routing": "hardcoded"}}},
    "balanced": {"model": {"moe": {"balance": "aux_loss"}}},
    "biased": {"model": {"moe": {"balance": "bias"}}},
}


@pytest.mark.parametrize("name", MODELS)
def test_an_update_moves_every_part_and_leaves_nothing_behind(name):
    config = make_config(MODELS[name])
    policy = make_policy(config)
    before = snapshot(policy)
    result = policy.learn(make_windows(config))
    after = snapshot(policy)
    assert policy.train_iter == 1
    assert result.task_losses.isfinite().all() and result.task_means.isfinite().all()
    assert result.task_means.shape == (len(TERMS), 3) and result.value_error.shape == (15,)
    assert result.grad_norm.isfinite() and result.grad_norm > 0
    unmoved = {key for key in before if key.startswith("model/") and torch.equal(before[key], after[key])}
    experts = {key for key in unmoved if ".experts." in key}
    assert unmoved - experts <= {key for key in before if key.endswith("selection_bias")}
    assert len(experts) < len([key for key in before if key.startswith("model/") and ".experts." in key]) or not experts
    assert all(parameter.grad is None for parameter in policy.model.parameters())
    assert not policy.model.training and not policy.target.training
    assert not any(parameter.requires_grad for parameter in policy.target.parameters())


def test_metrics_of_an_update_are_plain_numbers_by_game():
    config = make_config({"policy": {"loss": {"adaptive_entropy": True}}})
    policy = make_policy(config)
    result = policy.learn(make_windows(config))
    metrics = policy.scalars(result)
    assert all(isinstance(value, float) for value in metrics.values())
    assert metrics["learn/loss"] == pytest.approx(result.task_losses.mean().item())
    for task, game in enumerate(GAMES):
        assert metrics[f"learn_loss/{game}"] == pytest.approx(result.task_losses[task].item())
        assert f"learn_entropy_weight/{game}" in metrics
        for index, term in enumerate(TERMS):
            assert metrics[f"learn_{term}/{game}"] == pytest.approx(result.task_means[index, task].item())


@pytest.mark.parametrize("name", ["moe", "dense"])
def test_a_fixed_batch_is_learned_by_heart(name):
    optimiser = {"learning_rate": 3e-3, "max_grad_norm": 5.0}
    config = make_config(merged(MODELS[name], {"policy": {"target_momentum": 1e-4, "optimiser": optimiser}}))
    policy = make_policy(config)
    windows = make_windows(config, sharp=True)
    first = policy.learn(windows)
    for _ in range(60):
        last = policy.learn(windows)
    assert last.task_losses.mean() < 0.4 * first.task_losses.mean()
    for index in (TERMS.index("policy"), TERMS.index("value"), TERMS.index("reward")):
        assert last.task_means[index].mean() < 0.6 * first.task_means[index].mean(), TERMS[index]


def test_the_target_follows_as_a_moving_average_of_parameters_and_buffers():
    config = make_config({"policy": {"target_momentum": 0.3}, "model": {"moe": {"balance": "bias", "bias_rate": 0.5}}})
    policy = make_policy(config)
    policy.learn(make_windows(config))
    assert any(key.endswith("selection_bias") and tensor.any() for key, tensor in policy.model.state_dict().items())
    before = copy.deepcopy(policy.target.state_dict())
    policy.learn(make_windows(config, seed=1))
    online, target = policy.model.state_dict(), policy.target.state_dict()
    assert any(key.endswith("selection_bias") for key in target)
    for key, tensor in target.items():
        torch.testing.assert_close(tensor, 0.7 * before[key] + 0.3 * online[key], msg=key)
        assert key.endswith("selection_bias") or not torch.equal(tensor, before[key])


VIT = {
    "env": {"games": GAMES[:1]},
    "model": {
        "dropout": 0.5,
        "encoder": {"kind": "vit", "dropout": 0.5, "vit_width": 16, "vit_heads": 2, "vit_layers": 1, "patch_size": 4},
    },
}


def image_windows(config: ExperimentConfig) -> ReplayWindows:
    windows = make_windows(config)
    noise = np.random.default_rng(0).integers(0, 255, (*windows.action.shape, 3, 8, 8), np.uint8)
    return replace(windows, observation=torch.from_numpy(noise))


def test_the_target_network_never_drops(seen_targets):
    """Its targets repeat exactly and equal those of a model without dropout; the online network does drop."""
    config = make_config(VIT)

    def policy_with(config: ExperimentConfig) -> UniZeroMTPolicy:
        torch.manual_seed(0)
        return UniZeroMTPolicy(config, (3, 8, 8), LEGAL[:1])

    windows = image_windows(config)
    results = []
    for seed, policy in ((1, policy_with(config)), (2, policy_with(config))):
        torch.manual_seed(seed)
        results.append(policy.learn(windows))
        assert not policy.model.training and not policy.target.training
        frames = windows.observation[:, 0]
        latents = [policy.model.encode(frames, windows.task_id) for _ in range(2)]
        assert torch.equal(*latents), "back in eval mode after the update"
    none = {"model": {"dropout": 0.0, "encoder": {"dropout": 0.0}}}
    policy_with(make_config(merged(VIT, none))).learn(windows)
    first, second, without = seen_targets
    assert torch.equal(first.latent, second.latent) and torch.equal(first.value, second.value)
    assert torch.equal(first.latent, without.latent) and torch.equal(first.value, without.value)
    assert not torch.equal(results[0].grad_norm, results[1].grad_norm), "dropout is active in the online network"


def naive_masks(windows: ReplayWindows, row: int) -> tuple[list[bool], list[bool]]:
    """Acting and observed steps of a window, walked step by step."""
    acting, observed, alive, seen = [], [], True, True
    for step in range(windows.action.shape[1]):
        alive = alive and not windows.reset[row, step].item()
        acting.append(alive)
        observed.append(seen)
        died, cut = windows.terminated[row, step].item(), windows.truncated[row, step].item()
        seen = alive and not died
        alive = alive and not died and not cut
    return acting, observed


def test_value_targets_use_one_pass_of_the_target_network_over_the_whole_window(seen_targets):
    config = make_config()
    policy, windows = make_policy(config), make_windows(config)
    target = copy.deepcopy(policy.target)
    policy.learn(windows)
    [targets] = seen_targets
    td, discount, steps = config.policy.td_steps, config.policy.discount, config.policy.unroll_steps + 1
    lonely = 0.0
    for row in range(len(windows.task_id)):
        task = windows.task_id[row : row + 1]
        with torch.no_grad():
            latent, output = target(windows.observation[row : row + 1], windows.action[row : row + 1, :-1], task)
            frames = windows.observation[row][:, None]
            _, one_by_one = target(frames, windows.action.new_empty(len(frames), 0), task.expand(len(frames)))
        values = policy.support.expectation(output.value)[0].tolist()
        lonely += (policy.support.expectation(one_by_one.value)[:, 0] - torch.tensor(values)).abs().mean().item()
        torch.testing.assert_close(targets.latent[row], latent[0, 1:steps])
        acting, observed = naive_masks(windows, row)
        assert targets.masks.policy[row].tolist() == targets.masks.value[row].tolist() == acting[:steps]
        for step in range(steps):
            if not acting[step]:
                continue
            length = 0
            expected = 0.0
            while length < td and acting[step + length]:
                expected += discount**length * windows.reward[row, step + length].item()
                length += 1
            if observed[step + length]:
                expected += discount**length * values[step + length]
            assert targets.value[row, step].item() == pytest.approx(expected, abs=1e-5)
    assert lonely / len(windows.task_id) > 0.01, "values with and without history differ, else this shows nothing"


def independent_loss(policy: UniZeroMTPolicy, windows: ReplayWindows, targets: Targets) -> Tensor:
    """Mean over tasks of the loss, every task run by itself and every step added by hand."""
    config, model, losses = policy.config, policy.model, []
    steps = config.policy.unroll_steps + 1
    for task in range(config.num_tasks):
        rows = (windows.task_id == task).nonzero()[:, 0]
        part = rows_of(windows, rows)
        latent, output = model(part.observation[:, :steps], part.action[:, : steps - 1], part.task_id)
        enough = config.policy.loss.spread_target * (1 if config.model.latent_norm == "layer_norm" else 7**0.5 / 8)
        deviation = latent.flatten(0, 1).var(dim=0, correction=0).clamp_min(1e-6).sqrt()
        shortfall = (enough - deviation).clamp_min(0).mean()
        sums, counts = dict.fromkeys(TERMS, 0.0), dict.fromkeys(TERMS, 0)
        for i, row in enumerate(rows.tolist()):
            acting, observed = naive_masks(windows, row)
            legal = LEGAL[task].nonzero()[0]
            for step in range(steps):
                if acting[step]:
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
                        terms["termination"] = -torch.nn.functional.logsigmoid(sign * output.termination[i, step])
                        if observed[step + 1]:
                            predicted = model.encoder.norm(output.next_latent[i, step])
                            terms["latent"] = (predicted - targets.latent[row, step]).square().mean()
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


@pytest.mark.parametrize("name", ["moe", "dense", "shared heads"])
def test_the_gradient_is_counted_once(gradients, seen_targets, name):
    """What the optimiser gets is the gradient of the mean over tasks, computed independently."""
    config = make_config(merged(MODELS[name], {"policy": {"loss": {"entropy": 0.3}}}))
    policy, windows = make_policy(config), make_windows(config)
    model = copy.deepcopy(policy.model)
    seen = gradients(policy)
    result = policy.learn(windows)
    policy.model = model
    losses = independent_loss(policy, windows, seen_targets[0])
    torch.testing.assert_close(result.task_losses, losses, rtol=1e-4, atol=1e-5)
    parameters = dict(model.named_parameters())
    expected = torch.autograd.grad(losses.mean(), list(parameters.values()), allow_unused=True)
    for (key, parameter), gradient in zip(parameters.items(), expected, strict=True):
        gradient = torch.zeros_like(parameter) if gradient is None else gradient
        torch.testing.assert_close(
            seen[0][key], gradient, rtol=1e-3, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
        )
    norm = torch.cat([gradient.flatten() for gradient in seen[0].values()]).norm()
    torch.testing.assert_close(result.grad_norm, norm, rtol=1e-5, atol=0.0)


def test_the_gradient_is_clipped_as_a_whole(gradients):
    config = make_config()
    clipped = make_config({"policy": {"optimiser": {"max_grad_norm": 0.5}}})
    policies = make_policy(config), make_policy(clipped)
    for policy in policies:
        seen = gradients(policy)
    results = [policy.learn(make_windows(config)) for policy in policies]
    norm = results[0].grad_norm
    assert norm > 1
    torch.testing.assert_close(results[1].grad_norm, norm, msg="the norm that is reported is the one before clipping")
    for key, gradient in seen[0].items():
        torch.testing.assert_close(seen[1][key], gradient * 0.5 / norm, rtol=1e-4, atol=1e-8)


def test_importance_weights_scale_their_windows():
    config = make_config()
    windows = make_windows(config)
    results = [make_policy(config).learn(replace(windows, weight=w)) for w in (windows.weight, 0.5 * windows.weight)]
    torch.testing.assert_close(0.5 * results[0].task_means, results[1].task_means)
    torch.testing.assert_close(results[0].value_error, results[1].value_error)


def test_value_errors_are_those_of_the_first_steps(seen_targets):
    config = make_config()
    policy, windows = make_policy(config), make_windows(config)
    with torch.no_grad():
        _, output = policy.model(windows.observation[:, :5], windows.action[:, :4], windows.task_id)
    predicted = policy.support.expectation(output.value[:, 0])
    error = policy.learn(windows).value_error
    torch.testing.assert_close(error, (predicted - seen_targets[0].value[:, 0]).abs(), rtol=1e-4, atol=1e-5)


def test_weight_decay_is_for_matrices_alone():
    """And every parameter is in exactly one group."""
    config = make_config({"model": {"task_embedding": "concat", "encoder": {"task_conditioned": True}}})
    policy = make_policy(config)
    decayed, plain = policy.optimiser.param_groups
    assert decayed["weight_decay"] == config.policy.optimiser.weight_decay > 0 == plain["weight_decay"]
    names = {parameter: name for name, parameter in policy.model.named_parameters()}
    in_groups = [*decayed["params"], *plain["params"]]
    assert len(in_groups) == len(set(in_groups)) == len(names)
    vectors = (
        "bias",
        "norm.weight",
        "norm1.weight",
        "norm2.weight",
        "_scale",
        "_shift",
        "bias1",
        "bias2",
        "layers.2.weight",
    )
    for parameter in decayed["params"]:
        assert not names[parameter].endswith(vectors), names[parameter]
    for parameter in plain["params"]:
        assert names[parameter].endswith(vectors), names[parameter]


def test_a_parameter_without_gradient_is_decayed_only_if_it_is_a_matrix():
    config = make_config({"policy": {"optimiser": {"weight_decay": 0.5, "learning_rate": 0.01}}})
    policy = make_policy(config)
    for group in policy.optimiser.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in policy.model.named_parameters()}
    policy.optimiser.step()
    for name, parameter in policy.model.named_parameters():
        is_matrix = min(parameter.shape[-2:]) > 1 if parameter.ndim > 1 else False
        torch.testing.assert_close(parameter.detach(), before[name] * (0.995 if is_matrix else 1.0), msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_no_parameter_is_registered_twice(name):
    config = make_config(MODELS[name])
    policy = make_policy(config)
    for network in (policy.model, policy.target):
        named = list(network.named_parameters(remove_duplicate=False))
        assert len({id(parameter) for _, parameter in named}) == len(named)
        assert len({parameter.untyped_storage().data_ptr() for _, parameter in named}) == len(named)
    online = {parameter.data_ptr() for parameter in policy.model.parameters()}
    assert not online & {parameter.data_ptr() for parameter in policy.target.parameters()}
    if not config.model.moe.enabled:
        return
    sizes = [parameter.numel() for key, parameter in policy.model.named_parameters() if "expert" in key]
    layer = policy.model.balance_layers()[0]
    one = sum(parameter.numel() for parameter in layer.shared_experts[0].parameters())
    assert sum(sizes) == config.model.num_layers * (4 + 1) * one
    heads = sum(parameter.numel() for key, parameter in policy.model.named_parameters() if "policy_head" in key)
    sets = 1 if config.model.share_head else 3
    assert heads == sets * (2 * 32 + 32 * 32 + 32 + 2 * 32 + 32 * ACTIONS + ACTIONS)


def test_expert_bias_moves_against_the_load():
    config = make_config({"model": {"moe": {"balance": "bias", "bias_rate": 0.25}}})
    policy, windows = make_policy(config), make_windows(config)
    loads = []
    for layer in policy.model.balance_layers():
        update = layer.update_selection_bias
        layer.update_selection_bias = lambda load, update=update: (loads.append(load.clone()), update(load))
    policy.learn(windows)
    tokens = len(windows.task_id) * (2 * config.policy.unroll_steps + 1)
    assert [load.sum().item() for load in loads] == [tokens] * config.model.num_layers, "each token counted once"
    for layer, load in zip(policy.model.balance_layers(), loads, strict=True):
        expected = 0.25 * torch.sign(load.float().mean() - load)
        assert torch.equal(layer.router.selection_bias, expected) and expected.any()
        assert not layer.selection_counts.any()


def test_adaptive_entropy_weight_follows_the_update():
    config = make_config({"policy": {"loss": {"adaptive_entropy": True, "entropy": 1e-3, "entropy_target_start": 0.1}}})
    policy = make_policy(config)
    before = policy.entropy_weight.weight()
    result = policy.learn(make_windows(config))
    entropy = result.task_means[TERMS.index("entropy")]
    target = 0.1 * torch.from_numpy(LEGAL.sum(axis=1)).log()
    assert (policy.entropy_weight.weight() > before).tolist() == (entropy < target).tolist()


@pytest.mark.parametrize("fraction", [0.4, 1.0])
def test_reanalysed_windows_get_the_visits_of_an_actor_with_the_target_network(seen_targets, fraction):
    """An actor that lives through the window, its actions replaced by the stored ones."""
    search = {"num_simulations": 6, "num_eval_simulations": 6}
    config = make_config({"policy": {"reanalyse_fraction": fraction, "search": search}})
    policy, windows = make_policy(config), make_windows(config)
    legal = LEGAL[windows.task_id.numpy()]
    actor = policy.actor(windows.task_id.numpy(), legal, None)
    actor.model = copy.deepcopy(policy.target)
    steps = config.policy.unroll_steps + 1
    fresh = []
    for step in range(steps):
        fresh.append(torch.from_numpy(actor.act(windows.observation[:, step].numpy()).policy))
        actor.context.action = torch.cat([actor.context.action[:, :-1], windows.action[:, step, None]], dim=1)
    policy.learn(windows)
    [targets] = seen_targets
    assert not targets.policy[~torch.from_numpy(legal)[:, None].expand_as(targets.policy)].any()
    searched = [row for row in range(len(legal)) if not torch.equal(targets.policy[row], windows.visits[row, :steps])]
    assert len(searched) == round(fraction * len(legal))
    assert {windows.task_id[row].item() for row in searched} == {0, 1, 2}, "every task gets its part"
    torch.testing.assert_close(targets.policy[searched], torch.stack(fresh, dim=1)[searched])


def test_saved_tensors_continue_the_run():
    config = make_config({"policy": {"loss": {"adaptive_entropy": True}}, "model": {"moe": {"balance": "bias"}}})
    policy = make_policy(config)
    for seed in range(2):
        policy.learn(make_windows(config, seed=seed))
    saved = {name: {key: tensor.clone() for key, tensor in group.items()} for name, group in policy.tensors().items()}
    torch.manual_seed(9)
    other = UniZeroMTPolicy(config, (FEATURES,), LEGAL)
    other.load_tensors(saved.__getitem__)
    other.optimiser.load_state_dict(copy.deepcopy(policy.optimiser.state_dict()))
    other.train_iter = policy.train_iter
    windows = make_windows(config, seed=3)
    assert torch.equal(policy.learn(windows).task_means, other.learn(windows).task_means)
    mine, theirs = snapshot(policy), snapshot(other)
    for key in mine:
        assert torch.equal(mine[key], theirs[key]), key


@pytest.mark.parametrize("name", ["moe", "dense", "registers"])
def test_bf16_stays_close_to_fp32(name, caplog):
    config = make_config(MODELS[name])
    windows = make_windows(config)
    full, low = make_policy(config), make_policy(make_config(merged(MODELS[name], {"precision": "bf16"})))
    outputs = []
    for policy in (full, low):
        with torch.no_grad(), policy.autocast():
            latent, output = policy.model(windows.observation, windows.action[:, :-1], windows.task_id)
        tensors = (latent, output.policy, output.value, output.reward, output.next_latent)
        assert all(tensor.dtype == torch.float32 for tensor in tensors), "leaves the networks in fp32"
        outputs.append(tensors)
    differences = []
    for exact, rounded in zip(*outputs, strict=True):
        error = (exact - rounded).norm() / exact.norm()
        differences.append(error.item())
    assert max(differences) < 0.05, differences
    assert min(differences) > 0, "bf16 was used at all"
    results = [policy.learn(windows) for policy in (full, low)]
    torch.testing.assert_close(results[1].task_losses, results[0].task_losses, rtol=0.03, atol=0.0)
    assert all(parameter.dtype == torch.float32 for parameter in low.model.parameters())
    assert all(value.dtype == torch.float32 for state in low.optimiser.state.values() for value in state.values())


RANK_CASES = {
    "tasks split": {"model": {"moe": {"balance": "bias", "bias_rate": 0.1}}},
    "one task shared": {"env": {"games": GAMES[1:2]}, "policy": {"batch_size": 7}},
    "clipped": {"policy": {"optimiser": {"max_grad_norm": 0.1}}, "model": {"moe": {"top_k": 2}}},
}


def run_case(name: str, dist: Distributed) -> dict[str, Tensor]:
    """Two updates on this rank's part of two fixed batches; what has become of the policy."""
    config = make_config(merged(RANK_CASES[name], {"policy": {"loss": {"adaptive_entropy": True}}}))
    policy = make_policy(config, dist)
    sizes = [config.batch_size_of(game) for game in config.env.games]
    shares = assign_tasks(config.num_tasks, [2] * config.num_tasks, sizes, dist.world_size)
    outcome = {}
    for seed in range(2):
        windows = make_windows(config, seed=seed)
        rows = []
        for task, size in zip(shares[dist.rank].task_ids, shares[dist.rank].batch_sizes, strict=True):
            earlier = [
                share.batch_sizes[share.task_ids.index(task)] for share in shares[: dist.rank] if task in share.task_ids
            ]
            rows.append((windows.task_id == task).nonzero()[:, 0][sum(earlier) :][:size])
        assert dist.world_size == 1 or sum(map(len, rows)) < len(windows.task_id)
        result = policy.learn(rows_of(windows, torch.cat(rows)))
        outcome |= {f"means of update {seed}": result.task_means, f"norm of update {seed}": result.grad_norm}
        outcome |= {f"losses of update {seed}": result.task_losses}
    return outcome | snapshot(policy)


def worker(directory: Path) -> None:
    """What each rank does; the outcome goes to ``rank_{r}.pt``."""
    dist = init_distributed("cpu", timeout=timedelta(seconds=RUN_TIMEOUT_SECONDS / 2))
    torch.save({name: run_case(name, dist) for name in RANK_CASES}, directory / f"rank_{dist.rank}.pt")
    dist.shutdown()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[dict[str, dict[str, Tensor]]]:
    directory = tmp_path_factory.mktemp("ranks")
    root = Path(lzero.__file__).parents[1]
    subprocess.run(
        [sys.executable, *TORCHRUN, __file__, str(directory)],
        env=os.environ | {"PYTHONPATH": str(root)},
        timeout=RUN_TIMEOUT_SECONDS,
        check=True,
    )
    return [torch.load(directory / f"rank_{rank}.pt") for rank in range(WORLD_SIZE)]


@pytest.mark.parametrize("name", RANK_CASES)
def test_two_ranks_take_the_same_step_as_one(outcomes, name):
    expected = run_case(name, Distributed())
    for outcome in outcomes:
        assert outcome[name].keys() == expected.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(
                outcome[name][key], tensor, atol=1e-5, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}"
            )
    for key, tensor in outcomes[0][name].items():
        assert torch.equal(tensor, outcomes[1][name][key]), f"ranks differ in {key}"


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
