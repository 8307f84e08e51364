"""The update: gradients against an independent computation, targets against brute force, one rank against two."""

import copy
from dataclasses import replace
from datetime import timedelta
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from lzero.checkpoint import CheckpointManager, load_tensors
from lzero.config import ExperimentConfig, LossConfig
from lzero.device import torch_threads
from lzero.distributed import Distributed, assign_tasks, init_distributed
from lzero.nn.tasks import TaskGroups
from lzero.policy import UniZeroMTPolicy, unizero_multitask
from lzero.policy.losses import TERMS
from lzero.policy.metrics import update_metrics
from lzero.policy.targets import Batch
from lzero.replay.buffer import ReplayWindows
from lzero.worker.actor import Actor
from tests.policy.unizero_cases import (
    ACTIONS,
    GAMES,
    LEGAL,
    MODELS,
    groups_of,
    independent_loss,
    make_config,
    make_policy,
    make_windows,
    merged,
    naive_masks,
    observation_shape,
    rows_of,
    snapshot,
)
from tests.ranks import SECONDS, run_ranks

WORLD_SIZE = 2


def test_a_small_update_does_not_wake_a_second_thread(monkeypatch):
    monkeypatch.setattr(UniZeroMTPolicy, "_update", lambda *_: torch.get_num_threads())
    config = make_config()
    policy, windows = make_policy(config), make_windows(config)
    large = replace(windows, observation=torch.zeros(64, 11, 3, 64, 64, dtype=torch.uint8))
    with torch_threads(2):
        assert (policy.learn(windows), policy.learn(large), torch.get_num_threads()) == (1, 2, 2)


def test_frames_that_look_alike_keep_different_latents():
    """Pong's frames are nearly one picture: without a lower bound on their spread all latents became one within 50 updates."""
    spread = {}
    for weight in (0.0, LossConfig().spread):
        config = make_config(
            {"policy": {"loss": {"spread": weight}, "optimiser": {"learning_rate": 3e-3}}}
        )
        policy, windows = make_policy(config), make_windows(config)
        alike = replace(windows, observation=1.0 + 0.1 * windows.observation)
        for _ in range(60):
            policy.learn(alike)
        with torch.no_grad():
            latent = policy.model.encoder(alike.observation[:, 0], alike.task_id)
        by_task = [
            latent[alike.task_id == task].std(dim=0).mean().item()
            for task in range(config.num_tasks)
        ]
        spread[weight] = by_task
    assert max(spread[0.0]) < 0.2 < 0.4 < min(spread[LossConfig().spread]), spread


@pytest.fixture
def gradients(monkeypatch):
    """Gradients as the optimiser sees them, one dictionary per update of :func:`recorded` policies."""
    seen: list[dict[str, Tensor]] = []

    def record(policy: UniZeroMTPolicy) -> list[dict[str, Tensor]]:
        step = policy.optimizer.step

        def recording_step() -> None:
            seen.append({name: p.grad.clone() for name, p in policy.model.named_parameters()})
            step()

        monkeypatch.setattr(policy.optimizer, "step", recording_step)
        return seen

    return record


@pytest.fixture
def seen_targets(monkeypatch) -> list[Batch]:
    """What every update learned from."""
    seen: list[Batch] = []
    make_batch = unizero_multitask.make_batch

    def recording(*arguments):
        seen.append(make_batch(*arguments))
        return seen[-1]

    monkeypatch.setattr(unizero_multitask, "make_batch", recording)
    return seen


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
    unmoved = {
        key for key in before if key.startswith("model/") and torch.equal(before[key], after[key])
    }
    experts = {key for key in unmoved if ".experts." in key}
    assert unmoved - experts <= {key for key in before if key.endswith("selection_bias")}
    assert (
        len(experts)
        < len([key for key in before if key.startswith("model/") and ".experts." in key])
        or not experts
    )
    assert all(parameter.grad is None for parameter in policy.model.parameters())
    assert not policy.model.training and not policy.target.training
    assert not any(parameter.requires_grad for parameter in policy.target.parameters())


def test_metrics_of_an_update_are_plain_numbers_by_game():
    config = make_config({"policy": {"loss": {"adaptive_entropy": True}}})
    policy = make_policy(config)
    result = policy.learn(make_windows(config))
    metrics = update_metrics(policy, result)
    assert all(isinstance(value, float) for value in metrics.values())
    assert metrics["learn/loss"] == pytest.approx(result.task_losses.mean().item())
    for task, game in enumerate(GAMES):
        assert metrics[f"learn_loss/{game}"] == pytest.approx(result.task_losses[task].item())
        assert f"learn_entropy_weight/{game}" in metrics
        for index, term in enumerate(TERMS):
            assert metrics[f"learn_{term}/{game}"] == pytest.approx(
                result.task_means[index, task].item()
            )


@pytest.mark.parametrize("name", ["moe", "dense"])
def test_a_fixed_batch_is_learned_by_heart(name):
    optimiser = {"learning_rate": 3e-3, "max_grad_norm": 5.0}
    config = make_config(
        merged(MODELS[name], {"policy": {"target_momentum": 1e-4, "optimiser": optimiser}})
    )
    policy = make_policy(config)
    windows = make_windows(config, sharp=True)
    first = policy.learn(windows)
    for _ in range(60):
        last = policy.learn(windows)
    assert last.task_losses.mean() < 0.4 * first.task_losses.mean()
    for index in (TERMS.index("policy"), TERMS.index("value"), TERMS.index("reward")):
        assert last.task_means[index].mean() < 0.6 * first.task_means[index].mean(), TERMS[index]


def test_the_target_follows_as_a_moving_average_of_parameters_and_buffers():
    config = make_config(
        {
            "policy": {"target_momentum": 0.3},
            "model": {"moe": {"balance": "bias", "bias_rate": 0.5}},
        }
    )
    policy = make_policy(config)
    policy.learn(make_windows(config))
    assert any(
        key.endswith("selection_bias") and tensor.any()
        for key, tensor in policy.model.state_dict().items()
    )
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
        "encoder": {
            "kind": "vit",
            "dropout": 0.5,
            "vit_width": 16,
            "vit_heads": 2,
            "vit_layers": 1,
            "patch_size": 4,
        },
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
        latents = [policy.model.encoder(frames, windows.task_id) for _ in range(2)]
        assert torch.equal(*latents), "back in eval mode after the update"
    none = {"model": {"dropout": 0.0, "encoder": {"dropout": 0.0}}}
    policy_with(make_config(merged(VIT, none))).learn(windows)
    first, second, without = seen_targets
    assert torch.equal(first.latent, second.latent) and torch.equal(first.value, second.value)
    assert torch.equal(first.latent, without.latent) and torch.equal(first.value, without.value)
    assert not torch.equal(results[0].grad_norm, results[1].grad_norm), (
        "dropout is active in the online network"
    )


def test_value_targets_use_one_pass_of_the_target_network_over_the_whole_window(seen_targets):
    config = make_config()
    policy, windows = make_policy(config), make_windows(config)
    target = copy.deepcopy(policy.target)
    policy.learn(windows)
    [targets] = seen_targets
    td, discount, steps = (
        config.policy.td_steps,
        config.policy.discount,
        config.policy.unroll_steps + 1,
    )
    lonely = 0.0
    for row in range(len(windows.task_id)):
        task = windows.task_id[row : row + 1]
        alone, every_frame = (
            TaskGroups.of(ids, "cpu") for ids in (task, task.expand(windows.action.shape[1]))
        )
        with torch.no_grad():
            latent, output = target(
                windows.observation[row : row + 1], windows.action[row : row + 1, :-1], alone
            )
            frames = windows.observation[row][:, None]
            _, one_by_one = target(frames, windows.action.new_empty(len(frames), 0), every_frame)
        values = policy.support.expectation(output.value)[0].tolist()
        lonely += (
            (policy.support.expectation(one_by_one.value)[:, 0] - torch.tensor(values))
            .abs()
            .mean()
            .item()
        )
        torch.testing.assert_close(targets.latent[row], latent[0, 1:steps])
        acting, observed = naive_masks(windows, row)
        assert targets.acting[row].tolist() == acting[:steps]
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
    assert lonely / len(windows.task_id) > 0.01, (
        "values with and without history differ, else this shows nothing"
    )


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
    torch.testing.assert_close(
        results[1].grad_norm, norm, msg="the norm that is reported is the one before clipping"
    )
    for key, gradient in seen[0].items():
        torch.testing.assert_close(seen[1][key], gradient * 0.5 / norm, rtol=1e-4, atol=1e-8)


def test_importance_weights_scale_their_windows():
    config = make_config()
    windows = make_windows(config)
    results = [
        make_policy(config).learn(replace(windows, weight=w))
        for w in (windows.weight, 0.5 * windows.weight)
    ]
    torch.testing.assert_close(0.5 * results[0].task_means, results[1].task_means)
    torch.testing.assert_close(results[0].value_error, results[1].value_error)


def test_value_errors_are_those_of_the_first_steps(seen_targets):
    config = make_config()
    policy, windows = make_policy(config), make_windows(config)
    with torch.no_grad():
        _, output = policy.model(
            windows.observation[:, :5], windows.action[:, :4], groups_of(windows)
        )
    predicted = policy.support.expectation(output.value[:, 0])
    error = policy.learn(windows).value_error
    torch.testing.assert_close(
        error, (predicted - seen_targets[0].value[:, 0]).abs(), rtol=1e-4, atol=1e-5
    )


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
    sizes = [
        parameter.numel() for key, parameter in policy.model.named_parameters() if "expert" in key
    ]
    layer = policy.model.world_model.transformer.routed_layers()[0]
    one = sum(parameter.numel() for parameter in layer.shared_experts[0].parameters())
    assert sum(sizes) == config.model.num_layers * (4 + 1) * one
    heads = sum(
        parameter.numel()
        for key, parameter in policy.model.named_parameters()
        if "policy_head" in key
    )
    sets = 1 if config.model.share_head else 3
    assert heads == sets * (2 * 32 + 32 * 32 + 32 + 2 * 32 + 32 * ACTIONS + ACTIONS)


def test_expert_bias_moves_against_the_load():
    config = make_config({"model": {"moe": {"balance": "bias", "bias_rate": 0.25}}})
    policy, windows = make_policy(config), make_windows(config)
    loads = []
    for layer in policy.model.world_model.transformer.routed_layers().values():
        update = layer.update_selection_bias
        layer.update_selection_bias = lambda load, update=update: (
            loads.append(load.clone()),
            update(load),
        )
    policy.learn(windows)
    tokens = len(windows.task_id) * (2 * config.policy.unroll_steps + 1)
    assert [load.sum().item() for load in loads] == [tokens] * config.model.num_layers, (
        "each token counted once"
    )
    for layer, load in zip(
        policy.model.world_model.transformer.routed_layers().values(), loads, strict=True
    ):
        expected = 0.25 * torch.sign(load.float().mean() - load)
        assert torch.equal(layer.router.selection_bias, expected) and expected.any()
        assert not layer.selection_counts.any()


def test_adaptive_entropy_weight_follows_the_update():
    config = make_config(
        {
            "policy": {
                "loss": {"adaptive_entropy": True, "entropy": 1e-3, "entropy_target_start": 0.1}
            }
        }
    )
    policy = make_policy(config)
    before = policy.entropy_weight.weight()
    result = policy.learn(make_windows(config))
    entropy = result.task_means[TERMS.index("entropy")]
    target = 0.1 * torch.from_numpy(LEGAL.sum(axis=1)).log()
    assert (policy.entropy_weight.weight() > before).tolist() == (entropy < target).tolist()


@pytest.mark.parametrize("fraction", [0.4, 1.0])
def test_reanalysed_windows_get_the_visits_of_an_actor_with_the_target_network(
    seen_targets, fraction
):
    """An actor that lives through the window, its actions replaced by the stored ones."""
    search = {"num_simulations": 6, "num_eval_simulations": 6}
    config = make_config({"policy": {"reanalyse_fraction": fraction, "search": search}})
    policy, windows = make_policy(config), make_windows(config)
    legal = LEGAL[windows.task_id.numpy()]
    actor = Actor(policy, windows.task_id.numpy(), legal, None)
    actor.model = copy.deepcopy(policy.target)
    steps = config.policy.unroll_steps + 1
    fresh = []
    for step in range(steps):
        fresh.append(torch.from_numpy(actor.act(windows.observation[:, step].numpy()).policy))
        actor.context.action = torch.cat(
            [actor.context.action[:, :-1], windows.action[:, step, None]], dim=1
        )
    policy.learn(windows)
    [targets] = seen_targets
    assert not targets.policy[~torch.from_numpy(legal)[:, None].expand_as(targets.policy)].any()
    searched = [
        row
        for row in range(len(legal))
        if not torch.equal(targets.policy[row], windows.visits[row, :steps])
    ]
    assert len(searched) == round(fraction * len(legal))
    assert {windows.task_id[row].item() for row in searched} == {0, 1, 2}, (
        "every task gets its part"
    )
    torch.testing.assert_close(targets.policy[searched], torch.stack(fresh, dim=1)[searched])


@pytest.mark.parametrize("name", ["biased", "conv"])
def test_saved_tensors_continue_the_run(name, tmp_path):
    config = make_config(merged(MODELS[name], {"policy": {"loss": {"adaptive_entropy": True}}}))
    policy = make_policy(config)
    for seed in range(2):
        policy.learn(make_windows(config, seed=seed))
    state = policy.state_dict()
    path = CheckpointManager(tmp_path).save(2, state, {})
    torch.manual_seed(9)
    other = UniZeroMTPolicy(config, observation_shape(config), LEGAL)
    other.load_state_dict({name: load_tensors(path, name) for name in state})
    assert other.train_iter == 2
    windows = make_windows(config, seed=3)
    assert torch.equal(policy.learn(windows).task_means, other.learn(windows).task_means)
    mine, theirs = snapshot(policy), snapshot(other)
    for key in mine:
        assert torch.equal(mine[key], theirs[key]), key


@pytest.mark.parametrize("name", ["moe", "dense", "registers"])
def test_bf16_stays_close_to_fp32(name, caplog):
    config = make_config(MODELS[name])
    windows = make_windows(config)
    full, low = (
        make_policy(config),
        make_policy(make_config(merged(MODELS[name], {"precision": "bf16"}))),
    )
    outputs = []
    for policy in (full, low):
        with torch.no_grad(), policy.autocast():
            latent, output = policy.model(
                windows.observation, windows.action[:, :-1], groups_of(windows)
            )
        tensors = (latent, output.policy, output.value, output.reward, output.next_latent)
        assert all(tensor.dtype == torch.float32 for tensor in tensors), (
            "leaves the networks in fp32"
        )
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
    assert all(
        value.dtype == torch.float32
        for state in low.optimizer.state.values()
        for value in state.values()
    )


RANK_CASES = {
    "tasks split": {"model": {"moe": {"balance": "bias", "bias_rate": 0.1}}},
    "task by task": {"policy": {"gradient_conflict_interval": 2}},
    "balanced": {"model": {"moe": {"balance": "aux_loss", "aux_loss_weight": 1.0}}},
    "one task shared": {"env": {"games": GAMES[1:2]}, "policy": {"batch_size": 7}},
    "clipped": {"policy": {"optimiser": {"max_grad_norm": 0.1}}, "model": {"moe": {"top_k": 2}}},
    "convolutions": {"policy": {"gradient_conflict_interval": 2}, **MODELS["conv"]},
    "unequal batches": {
        "policy": {"gradient_conflict_interval": 2},
        "env": {"overrides": {GAMES[1]: {"batch_size": 2}}},
    },
    **{kind: {"policy": {"gradient_aggregator": kind}} for kind in ("pcgrad", "cagrad", "upgrad")},
}


def run_case(name: str, dist: Distributed) -> dict[str, Tensor]:
    """Two updates on this rank's part of two fixed batches; what has become of the policy."""
    config = make_config(
        merged((RANK_CASES | FEWER_TASKS)[name], {"policy": {"loss": {"adaptive_entropy": True}}})
    )
    policy = make_policy(config, dist)
    sizes = [config.batch_size_of(game) for game in config.env.games]
    shares = assign_tasks(config.num_tasks, [2] * config.num_tasks, sizes, dist.world_size)
    outcome = {}
    for seed in range(2):
        windows = make_windows(config, seed=seed)
        rows = []
        for task, size in zip(
            shares[dist.rank].task_ids, shares[dist.rank].batch_sizes, strict=True
        ):
            earlier = [
                share.batch_sizes[share.task_ids.index(task)]
                for share in shares[: dist.rank]
                if task in share.task_ids
            ]
            rows.append((windows.task_id == task).nonzero()[:, 0][sum(earlier) :][:size])
        assert dist.world_size == 1 or sum(map(len, rows)) < len(windows.task_id)
        result = policy.learn(rows_of(windows, torch.cat(rows)))
        outcome |= {
            f"means of update {seed}": result.task_means,
            f"norm of update {seed}": result.grad_norm,
        }
        outcome |= {f"losses of update {seed}": result.task_losses}
        if config.policy.gradient_conflict_interval:
            conflicts = result.conflicts()
            assert bool(conflicts) == (seed == 0), "every second update measures"
            outcome |= {
                f"cosines/{component}": c.cosine_similarity_matrix
                for component, c in conflicts.items()
            }
    return outcome | snapshot(policy)


FEWER_TASKS = {
    "two tasks": {"policy": {"gradient_conflict_interval": 2}, "env": {"games": GAMES[:2]}}
}


def worker(names: tuple[str, ...]) -> dict[str, dict]:
    """What each rank does."""
    dist = init_distributed("cpu", timeout=timedelta(seconds=SECONDS / 2))
    outcome = {name: run_case(name, dist) for name in names}
    dist.shutdown()
    return outcome


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[dict[str, dict[str, Tensor]]]:
    return run_ranks(
        partial(worker, tuple(RANK_CASES)), WORLD_SIZE, tmp_path_factory.mktemp("ranks")
    )


def test_three_ranks_with_two_tasks_take_the_same_step_as_one(tmp_path):
    assert_same_step(run_ranks(partial(worker, tuple(FEWER_TASKS)), 3, tmp_path), "two tasks")


@pytest.mark.parametrize("name", RANK_CASES)
def test_two_ranks_take_the_same_step_as_one(outcomes, name):
    assert_same_step(outcomes, name)


def assert_same_step(outcomes: list[dict[str, dict[str, Tensor]]], name: str) -> None:
    expected = run_case(name, Distributed())
    for outcome in outcomes:
        assert outcome[name].keys() == expected.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(
                outcome[name][key],
                tensor,
                atol=1e-5,
                rtol=1e-4,
                equal_nan=True,
                msg=lambda text, key=key: f"{key}: {text}",
            )
    for key, tensor in outcomes[0][name].items():
        for other in outcomes[1:]:
            assert torch.equal(tensor.nan_to_num(9.0), other[name][key].nan_to_num(9.0)), (
                f"ranks differ in {key}"
            )
