"""The update: gradients against an independent computation, targets against brute force, one rank against two."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lzero.checkpoint import CheckpointManager, load_tensors
from lzero.config import LossConfig
from lzero.device import torch_threads
from lzero.policy import UniZeroMTPolicy
from lzero.policy.losses import TERMS, loss_sums, masked_means
from lzero.policy.metrics import plasticity_metrics, update_metrics
from lzero.policy.state import is_finite
from lzero.policy.targets import make_batch
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
    observation_shape,
    snapshot,
)


def test_a_small_update_does_not_wake_a_second_thread(monkeypatch):
    monkeypatch.setattr(UniZeroMTPolicy, "_update", lambda *_: torch.get_num_threads())
    config = make_config()
    policy, windows = make_policy(config), make_windows(config)
    large = replace(windows, observation=torch.zeros(64, 11, 3, 64, 64, dtype=torch.uint8))
    with torch_threads(2):
        assert (policy.learn(windows), policy.learn(large), torch.get_num_threads()) == (1, 2, 2)


def test_windows_of_every_task_are_the_draws_of_its_expert_selection():
    config = make_config({"env": {"overrides": {GAMES[1]: {"batch_size": 2}}}})
    recorder = make_policy(config).expert_statistics
    assert recorder.draws_per_update == tuple(map(config.batch_size_of, GAMES))
    assert len(set(recorder.draws_per_update)) == 2


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


def test_labels_of_the_online_encoder_have_no_gradient():
    """The loss is that of predicting its latents; what reaches the encoder comes through the prediction alone."""
    config = make_config({"policy": {"loss": {"online_labels": True}}})
    policy, windows = make_policy(config), make_windows(config)
    model = copy.deepcopy(policy.model).train()
    batch = make_batch(windows, policy.target, policy.support, policy.legal, config)
    latent, output = model(batch.observation, batch.action, batch.groups, batch.timeline)
    result = policy.learn(windows)
    labelled = replace(batch, latent=latent[:, 1:].detach())
    sums = loss_sums(latent, output, labelled, 3, policy.support, model.encoder.norm)
    expected = masked_means(sums.terms, sums.counts)
    torch.testing.assert_close(result.task_means, expected.detach())
    other = make_policy(make_config()).learn(windows).task_means
    assert not torch.allclose(result.task_means[0], other[0], rtol=1e-2)
    torch.testing.assert_close(result.task_means[1:], other[1:])


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
        step = torch.sign(load.float().mean() - load)
        expected = 0.25 * (step - step.mean())  # centred
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


def test_frozen_parameters_stay_and_are_not_measured():
    """Research code freezes parts; the rest goes on, on plain and on measuring updates."""
    config = make_config({"policy": {"gradient_conflict_interval": 2}})
    policy = make_policy(config)
    policy.model.encoder.requires_grad_(False)
    for name in ("encoder", "encoder_parameters", "study/encoder"):
        del policy.measuring_points()[name]
    before = snapshot(policy)
    for seed in range(2):
        windows = make_windows(config, seed=seed)
        result = policy.learn(windows)
        assert bool(result.measured) == (seed == 0)
        metrics = plasticity_metrics(policy, windows, result)
        assert "plasticity/weight_norm/encoder" in metrics
        assert "plasticity/gradient_norm/encoder" not in metrics
    for name, parameter in policy.model.named_parameters():
        moved = not torch.equal(parameter, before[f"model/{name}"])
        assert not (moved and name.startswith("encoder.")), name
    assert not torch.equal(
        policy.model.world_model.action_embedding.weight,
        before["model/world_model.action_embedding.weight"],
    )


@pytest.mark.parametrize("name", MODELS)
def test_an_update_that_is_no_number_changes_no_parameter(name):
    """Nor the optimizer: the next one is the one that would have been."""
    config = make_config(MODELS[name])
    policy, undisturbed = make_policy(config), make_policy(config)
    windows = make_windows(config)
    broken = replace(windows, reward=windows.reward * torch.nan)
    for each in (policy, undisturbed):
        each.learn(windows)
    before = [p.clone() for p in policy.model.parameters()]
    state = copy.deepcopy(policy.optimizer.state_dict()["state"])
    assert not policy.learn(broken).task_losses.isfinite().all()
    for parameter, old in zip(policy.model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
    for index, kept in policy.optimizer.state_dict()["state"].items():
        for key, value in kept.items():
            assert torch.equal(value, state[index][key]), key
    assert (int(policy.skipped), int(policy.skipped_in_a_row)) == (1, 1)
    policy.target.load_state_dict(undisturbed.target.state_dict())  # it follows all the same
    for each in (policy, undisturbed):
        each.learn(windows)
    assert (int(policy.skipped), int(policy.skipped_in_a_row)) == (1, 0)
    assert is_finite(policy)
    for (path, one), two in zip(
        policy.model.named_parameters(), undisturbed.model.parameters(), strict=True
    ):
        assert torch.equal(one, two), path
