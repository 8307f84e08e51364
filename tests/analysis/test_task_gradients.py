"""The update task by task: the same step as a plain one, and gradients of tasks that equal an
independent computation.
"""

import builtins
import copy

import numpy as np
import pytest
import torch

from lzero.analysis.aggregation import AggregationError, Aggregator
from lzero.analysis.conflict import compute_gradient_conflicts
from lzero.analysis.points import ActivationPoint, ParameterPoint, captured
from lzero.analysis.task_gradients import TaskGradients, TaskLoss
from lzero.device import torch_threads
from lzero.policy import UniZeroMTPolicy, unizero_multitask
from lzero.policy.losses import masked_means, spread_shortfall, weighted_total
from lzero.policy.metrics import LearnResult
from lzero.policy.parts import half_tasks
from lzero.policy.points import standard_points
from lzero.replay.windows import ReplayWindows
from tests.policy.unizero_cases import (
    MODELS,
    independent_loss,
    make_config,
    make_policy,
    make_windows,
    merged,
)

EVERY = {"policy": {"gradient_conflict_interval": 1}}
NEVER = {"policy": {"gradient_conflict_interval": 0}}


@pytest.mark.parametrize("name", MODELS)
def test_measuring_changes_no_parameter(name):
    plain, measured = (
        make_policy(make_config(merged(MODELS[name], change))) for change in (NEVER, EVERY)
    )
    start = copy.deepcopy(plain.model.state_dict())
    for seed in range(3):
        windows = make_windows(plain.config, seed=seed)
        results = [policy.learn(windows) for policy in (plain, measured)]
        assert not results[0].measured and results[1].measured
        for field in ("task_means", "spread", "task_losses", "grad_norm", "value_error"):
            torch.testing.assert_close(
                getattr(results[1], field), getattr(results[0], field), rtol=1e-4, atol=1e-5
            )
    for (key, one), other in zip(
        plain.model.state_dict().items(), measured.model.state_dict().values(), strict=True
    ):
        if key.endswith(
            "qkv.bias"
        ):  # no softmax feels the keys' bias: its gradient is noise, which Adam blows up
            one, other = (bias.view(3, -1)[[0, 2]] for bias in (one, other))
        torch.testing.assert_close(
            one, other, rtol=0, atol=3e-6, msg=lambda text, key=key: f"{key}: {text}"
        )
    assert any(
        not torch.equal(start[key], value) for key, value in plain.model.state_dict().items()
    )


@pytest.mark.parametrize("kind", ["mean", "upgrad"])
@pytest.mark.parametrize("name", ["moe", "conv"])
def test_gradients_lie_in_memory_as_their_parameters_do(name, kind, monkeypatch):
    """Fused optimisers walk through memory: a gradient in another order would move other weights."""
    if kind != "mean":
        pytest.importorskip("torchjd")
    policy = make_policy(
        make_config(merged(MODELS[name], merged(EVERY, {"policy": {"gradient_aggregator": kind}})))
    )
    for (
        parameter
    ) in policy.model.task_parameters():  # autograd gives gradients that lie in another order
        parameter.data = parameter.data.mT.contiguous().mT
    monkeypatch.setattr(policy, "_step", lambda **_: torch.zeros(()))
    policy.learn(make_windows(policy.config))
    strides = {
        name: (p.stride(), p.grad.stride())
        for name, p in policy.model.named_parameters()
        if p.grad is not None
    }
    assert len(strides) > 20
    for name, (parameter, gradient) in strides.items():
        assert gradient == parameter, name


@pytest.mark.parametrize("interval", [0, 1, 3])
def test_every_so_many_updates_measure(interval):
    policy = make_policy(make_config({"policy": {"gradient_conflict_interval": interval}}))
    windows = make_windows(policy.config)
    measured = [bool(policy.learn(windows).conflicts()) for _ in range(4)]
    assert measured == [interval > 0 and number % interval == 0 for number in range(4)]


def test_one_task_has_no_conflict_to_measure():
    policy = make_policy(make_config({"env": {"games": ("Acrobot-v1",)}} | EVERY))
    assert not policy.learn(make_windows(policy.config)).measured


@pytest.fixture
def seen_targets(monkeypatch):
    """What every update learned from."""
    seen, make_batch = [], unizero_multitask.make_batch

    def recording(*arguments):
        seen.append(make_batch(*arguments))
        return seen[-1]

    monkeypatch.setattr(unizero_multitask, "make_batch", recording)
    return seen


def expected_gradients(policy: UniZeroMTPolicy, windows, targets) -> dict[str, np.ndarray]:
    """Gradient of every task's loss at every component ``(T, D)``, from one joint graph."""
    model, layers = policy.model, policy.model.world_model.transformer.blocks
    latents, inputs = [], [[] for _ in layers]
    hooks = [
        model.encoder.register_forward_hook(
            lambda module, arguments, output: latents.append(output)
        )
    ]
    for layer, block in enumerate(layers):
        hooks.append(
            block.feed_forward.register_forward_pre_hook(
                lambda m, args, layer=layer: inputs[layer].append(args[0])
            )
        )
    losses = independent_loss(policy, windows, targets)
    for hook in hooks:
        hook.remove()

    def flat(task: int, parameters, expert: int | None = None) -> np.ndarray:
        parameters = list(parameters)
        found = torch.autograd.grad(losses[task], parameters, retain_graph=True, allow_unused=True)
        found = [
            torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)
        ]
        return np.concatenate(
            [(g if expert is None else g[expert]).numpy().ravel() for g in found]
        ).astype(np.float64)

    def mean_token(task: int, tensors: list, tokens_of_window: int) -> np.ndarray:
        """Over the tokens of a task's windows, which ``tensors`` hold in pieces, some with a token more that counts for
        nothing.
        """
        gradients = torch.autograd.grad(losses[task], tensors, retain_graph=True, allow_unused=True)
        total = sum(g.flatten(0, -2).double().sum(dim=0) for g in gradients if g is not None)
        number = (windows.task_id == task).sum() * tokens_of_window
        return (total / number).numpy()

    steps = policy.config.policy.unroll_steps + 1
    tokens = policy.model.world_model.transformer.num_registers + 2 * steps - 1
    tasks = range(policy.config.num_tasks)
    expected = {"encoder": [mean_token(task, latents, steps) for task in tasks]}
    for layer, block in enumerate(layers):
        forward = block.feed_forward
        expected[f"before_moe/layer{layer}"] = [
            mean_token(task, inputs[layer], tokens) for task in tasks
        ]
        expected[f"moe_layer/layer{layer}"] = [flat(task, forward.parameters()) for task in tasks]
        if policy.config.model.moe.enabled:
            expected[f"shared_expert/layer{layer}"] = [
                flat(t, forward.shared_experts.parameters()) for t in tasks
            ]
            for expert in range(len(forward.experts.w_in)):
                expected[f"expert_{expert}/layer{layer}"] = [
                    flat(t, forward.experts.parameters(), expert) for t in tasks
                ]
            if forward.router is not None:
                expected[f"router/layer{layer}"] = [
                    flat(task, forward.router.parameters()) for task in tasks
                ]
    expected["transformer"] = [
        flat(task, model.world_model.transformer.parameters()) for task in tasks
    ]
    expected["encoder_parameters"] = [flat(task, model.encoder.parameters()) for task in tasks]
    return {name: np.stack(rows) for name, rows in expected.items()}


def before_and_measured(change: dict) -> tuple[UniZeroMTPolicy, ReplayWindows, LearnResult]:
    """A policy as it was before an update whose targets ``seen_targets`` has, the update's windows, and what
    its measuring twin found in them.
    """
    plain, twin = (make_policy(make_config(merged(change, more))) for more in (NEVER, EVERY))
    windows = make_windows(plain.config)
    untouched = copy.deepcopy(plain.model)
    plain.learn(windows)
    plain.model = untouched
    return plain, windows, twin.learn(windows)


@pytest.mark.parametrize(
    "name", ["moe", "dense", "dense swiglu", "shared heads", "hardcoded", "registers"]
)
def test_conflicts_are_those_of_the_tasks_own_losses(name, seen_targets):
    plain, windows, measured = before_and_measured(MODELS[name])
    expected = expected_gradients(plain, windows, seen_targets[0])
    conflicts = measured.conflicts()
    assert set(conflicts) == set(expected) | {"study/encoder", "study/before_moe"}
    for component, rows in expected.items():
        norms = np.linalg.norm(rows, axis=1)
        valid = norms > 0
        found = conflicts[component]
        assert found.valid.tolist() == valid.tolist(), component
        np.testing.assert_allclose(
            found.gradient_norms[found.valid], norms[valid], rtol=1e-3, err_msg=component
        )
        cosine = found.cosine_similarity_matrix.numpy()[np.ix_(valid, valid)]
        np.testing.assert_allclose(
            cosine,
            (rows @ rows.T)[np.ix_(valid, valid)] / np.outer(norms[valid], norms[valid]),
            atol=1e-4,
            err_msg=component,
        )
    if name == "hardcoded":  # every task has its own expert
        assert all(
            c.valid.sum() == 1
            for key, c in conflicts.items()
            if key.startswith("expert_") and c.valid.any()
        )
        assert any(c.valid.any() for key, c in conflicts.items() if key.startswith("expert_"))


@pytest.mark.parametrize("name", ["moe", "dense"])
def test_flat_points_compare_all_tokens_one_after_another(name, seen_targets):
    """Against one pass of all windows, whose activations lie task by task."""
    plain, _, measured = before_and_measured(MODELS[name])
    conflicts = measured.conflicts()
    points = {}
    for component, point in standard_points(plain.model).items():
        if isinstance(point, ActivationPoint) and point.flat:
            points[component] = point
    seen, weights = plain._forward(seen_targets[0], points), plain.config.policy.loss
    spread = spread_shortfall(
        seen.latent, seen.groups.task_id, seen.sums.moments, plain.enough_spread
    )
    means = masked_means(seen.sums.terms, seen.sums.counts)
    losses = weighted_total(means, spread, weights, plain.entropy_weight.weight())
    assert set(points) == {"study/encoder", "study/before_moe"}
    for component in points:
        (activation,) = seen.activations[component]
        rows = []
        for loss in losses:
            gradient = torch.autograd.grad(loss, activation, retain_graph=True)[0]
            by_task = gradient.reshape(plain.num_tasks, -1)  # as many windows of each task
            assert by_task.any(dim=1).sum() == 1, "a task's loss feels its own windows alone"
            rows.append(by_task.sum(dim=0))
        expected = compute_gradient_conflicts(rows)
        torch.testing.assert_close(
            conflicts[component].cosine_similarity_matrix,
            expected.cosine_similarity_matrix,
            atol=1e-4,
            rtol=0,
        )
        torch.testing.assert_close(
            conflicts[component].gradient_norms, expected.gradient_norms, rtol=1e-3, atol=0
        )
        assert conflicts[component].reliability.isnan().all()


def test_flat_points_without_places_are_refused():
    linear = torch.nn.Linear(2, 3)
    point = ActivationPoint(linear, "output", flat=True)
    with captured({"mine": point}) as activations:
        loss = linear(torch.ones(4, 2)).sum()
    part = TaskLoss(0, loss, activations, 1.0)
    with pytest.raises(ValueError, match="'mine' is flat.*rows=None.*flat=False"):
        TaskGradients.of(list(linear.parameters()), [], {"mine": point}, [part])


def test_halves_of_windows_have_the_gradients_of_their_own_losses(seen_targets):
    """The halves' Gram matrix against autograd of a loss in which only the windows of one half count."""
    plain, _, result = before_and_measured({})
    found = result.measured
    batch, parameters = seen_targets[0], list(plain.model.world_model.transformer.parameters())
    seen = plain._forward(batch, {})
    moments = seen.sums.moments
    rows = []
    parts, sizes = half_tasks(batch, plain.num_tasks, plain.dist)
    for part in parts:
        half = plain._forward(part.batch, {})
        task_id = half.groups.task_id
        spread = spread_shortfall(half.latent, task_id, moments, plain.enough_spread)
        means = masked_means(half.sums.terms, seen.sums.counts)
        weight = plain.entropy_weight.weight()
        loss = weighted_total(means, spread, plain.config.policy.loss, weight)[part.task]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        flat = [
            torch.zeros_like(p) if g is None else g
            for p, g in zip(parameters, gradients, strict=True)
        ]
        rows.append(torch.cat([gradient.flatten() for gradient in flat]).double())
    stacked = torch.stack(rows)
    gram = stacked @ stacked.T
    assert len(parts) == 2 * plain.num_tasks and torch.equal(found.sizes, sizes)
    scale = gram.diagonal().sqrt()
    torch.testing.assert_close(
        found.by_point["transformer"] / scale[:, None] / scale,
        gram / scale[:, None] / scale,
        atol=1e-4,
        rtol=0,
    )


def measure_only(policy: UniZeroMTPolicy, points: dict) -> None:
    policy.measuring_points().clear()
    policy.measuring_points().update(points)


def test_own_measuring_points():
    policy = make_policy(make_config(EVERY))
    block = policy.model.world_model.transformer.blocks[0]
    points = {
        "attention": ParameterPoint.of(block.attention),
        "block": ActivationPoint(block.attention, "output"),
    }
    measure_only(policy, points)
    conflicts = policy.learn(make_windows(policy.config)).conflicts()
    assert set(conflicts) == {"attention", "block"}
    assert all(conflict.valid.all() for conflict in conflicts.values())


def test_of_several_outputs_a_point_takes_the_first():
    policy = make_policy(make_config(EVERY))
    world_model = policy.model.world_model
    blocks = world_model.transformer.blocks
    points = {
        "leaves": ActivationPoint(blocks[0], "output"),
        "enters": ActivationPoint(blocks[1], "input"),
        "feed-forward": ActivationPoint(blocks[0].feed_forward, "output"),
    }
    measure_only(policy, points)
    conflicts = policy.learn(make_windows(policy.config)).conflicts()
    assert all(conflict.valid.all() for conflict in conflicts.values())
    leaves, enters = (conflicts[name].cosine_similarity_matrix for name in ("leaves", "enters"))
    torch.testing.assert_close(leaves, enters)


def test_an_activation_without_a_part_in_the_loss_has_no_gradient():
    policy = make_policy(make_config(EVERY))
    probe = torch.nn.Linear(policy.config.model.embed_dim, 3)
    policy.model.encoder.register_forward_hook(
        lambda module, arguments, latent: (probe(latent), None)[1]
    )
    measure_only(policy, {"probe": ActivationPoint(probe, "output")})
    assert not policy.learn(make_windows(policy.config)).conflicts()["probe"].valid.any()


def test_tasks_side_by_side_have_the_gradients_of_one_after_another():
    found = []
    for threads in (1, 3):
        torch.manual_seed(0)
        shared, heads = (
            torch.nn.Linear(40, 30),
            torch.nn.ModuleList(torch.nn.Linear(30, 1) for _ in range(3)),
        )
        losses = []
        with torch_threads(1):  # what more threads change in these is not asked here
            for task in range(3):
                for half in range(2):
                    middle = shared(torch.randn(64, 40)).relu()
                    loss = heads[task](middle).square().mean()
                    losses.append(TaskLoss(task, loss, {"middle": [middle]}, 0.5, half))
        points = {
            "middle": ActivationPoint(shared, "output"),
            "weight": ParameterPoint(((shared.weight, None),)),
        }
        own = list(heads.parameters())
        with torch_threads(threads):
            gradients = TaskGradients.of(list(shared.parameters()), own, points, losses)
        assert gradients.half_ids == [0, 1, 2, 3, 4, 5]
        assert gradients.rows.count_nonzero(dim=1).min() > 0 and not gradients.rows.requires_grad
        found.append([gradients.rows, *(parameter.grad for parameter in own)])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (
            lambda policy: ActivationPoint(policy.model.encoder, "input"),
            "'mine', input of a Encoder: no tensor with a",
        ),
        (
            lambda policy: ActivationPoint(experts_of(policy), "output"),
            "'mine', output of a SwiGLU: the model never",
        ),
        (
            lambda policy: ParameterPoint(((experts_of(policy).w_in, -1),)),
            r"'mine' asks for slice -1 .* 0 to 3",
        ),
        (
            lambda policy: ParameterPoint(((experts_of(policy).w_in, 4),)),
            r"'mine' asks for slice 4 .* 0 to 3",
        ),
    ],
)
def test_points_where_nothing_can_be_measured_are_refused_by_name(point, message):
    policy = make_policy(make_config(EVERY))
    policy.measuring_points()["mine"] = point(policy)
    with pytest.raises(ValueError, match=message):
        policy.learn(make_windows(policy.config))


def experts_of(policy: UniZeroMTPolicy) -> torch.nn.Module:
    return policy.model.world_model.transformer.blocks[0].feed_forward.experts


def test_parameters_of_single_tasks_cannot_be_compared():
    policy = make_policy(make_config(EVERY))
    measure_only(policy, {"values": ParameterPoint.of(policy.model.world_model.value_head)})
    with pytest.raises(ValueError, match="'values'.*per-task heads.*share the heads"):
        policy.learn(make_windows(policy.config))


@pytest.mark.parametrize("kind", ["pcgrad", "cagrad", "upgrad"])
def test_aggregators_combine_the_tasks_gradients_as_torchjd_does(kind, monkeypatch):
    aggregation = pytest.importorskip("torchjd.aggregation")
    config = make_config({"policy": {"gradient_aggregator": kind, "gradient_conflict_interval": 0}})
    policy, windows = make_policy(config), make_windows(config)
    rows = {}
    monkeypatch.setattr(policy, "_step", lambda **_: torch.zeros(()))
    combine = TaskGradients.combine_

    def recording(self, weights):
        rows["all"] = self.rows.clone() * config.num_tasks
        combine(self, weights)

    monkeypatch.setattr(TaskGradients, "combine_", recording)
    torch.manual_seed(3)  # PCGrad draws an order
    result = policy.learn(windows)
    assert not result.measured, "nothing was to be measured"
    own = {id(parameter) for parameter in policy.model.task_parameters()}
    shared = [parameter for parameter in policy.model.parameters() if id(parameter) not in own]
    found = torch.cat([parameter.grad.flatten() for parameter in shared])
    jacobian = rows["all"].double()
    reference = {
        "pcgrad": aggregation.PCGrad(),
        "cagrad": aggregation.CAGrad(c=config.policy.cagrad_c),
        "upgrad": aggregation.UPGrad(),
    }[kind]
    torch.manual_seed(3)
    scale = jacobian.square().sum(dim=1).mean().sqrt()
    expected = reference(jacobian / scale) * scale / (config.num_tasks if kind == "pcgrad" else 1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5 * scale.item())
    if kind == "upgrad":
        assert (jacobian @ found.double() >= -1e-4 * scale**2).all(), "no task's loss rises"
    mean = jacobian.mean(dim=0)
    assert not torch.allclose(found.double(), mean, rtol=1e-2), "there was conflict to resolve"


ORTHOGONAL, SAME = torch.diag(torch.tensor([1.0, 1.0, 0.0, 1.0])), torch.ones(4, 4)


@pytest.mark.parametrize(
    ("kind", "gram", "weight"),
    [
        ("pcgrad", ORTHOGONAL, 0.25),
        ("upgrad", ORTHOGONAL, 0.25),
        ("upgrad", SAME, 0.25),
        ("cagrad", SAME, 1.4 * 0.25),
    ],
)
def test_without_conflict_tasks_weigh_the_same(kind, gram, weight):
    """And as much as in the mean; cagrad's step is 1 + c times as long, as in its paper."""
    pytest.importorskip("torchjd")
    for scale in (1.0, 1e-12):
        weights = Aggregator(kind, 0.4).weights(gram * scale)
        torch.testing.assert_close(
            weights, torch.where(gram.diagonal() > 0, weight, 0.0).double(), atol=1e-3, rtol=0
        )


@pytest.mark.parametrize("kind", ["pcgrad", "cagrad", "upgrad"])
def test_a_task_with_a_tiny_gradient_does_not_stop_the_others(kind):
    pytest.importorskip("torchjd")
    for length in (1e-3, 1e-5):
        gram = torch.tensor([[1.0, 0.5 * length], [0.5 * length, length**2]], dtype=torch.float64)
        weights = Aggregator(kind, 0.4).weights(gram)
        assert weights.isfinite().all() and weights[0] >= 0.4 and weights @ gram @ weights >= 0.2


def test_a_missing_package_names_the_install_line(monkeypatch):
    real = builtins.__import__

    def without_torchjd(name, *rest, **more):
        if name.startswith("torchjd"):
            raise ImportError("No module named 'torchjd'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_torchjd)
    with pytest.raises(
        AggregationError, match=r"gradient_aggregator='upgrad'.*pip install.*torchjd"
    ):
        make_policy(make_config({"policy": {"gradient_aggregator": "upgrad"}}))
