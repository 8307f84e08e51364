"""The analysis of a model that is none of ours: an actor-critic with our mixture of experts, and
nothing patched.

Every number is compared with an independent computation that walks through the tokens one by one.
"""

import copy
import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lzero.analysis.conflict import GradientConflict
from lzero.analysis.expert_recorder import ExpertSelectionRecorder
from lzero.analysis.gram import gram_matrices
from lzero.analysis.parameter_norms import norms_by_module, parameter_norms
from lzero.analysis.plasticity import measure_plasticity
from lzero.analysis.points import (
    ActivationPoint,
    MeasuringPoint,
    ParameterPoint,
    captured,
    expert_points,
)
from lzero.analysis.task_gradients import TaskGradients, TaskLoss
from lzero.config import MoEConfig
from lzero.distributed import Distributed
from lzero.nn.moe import MoELayer, SwiGLU

TASKS, FEATURES, WIDTH, ACTIONS = 3, 6, 8, 4
TASK_ID = (0, 2, 1, 0, 2, 2, 1, 0, 0)  # rows of the tasks lie mixed and are not equally many
TAU = 0.5  # high enough that units of a fresh network are dormant


class ActorCritic(nn.Module):
    """A linear encoder, a mixture of experts around which the input goes too, policy and value on
    top.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(FEATURES, WIDTH)
        self.rectifier = nn.ReLU()
        self.noise = nn.Dropout(0.5)
        self.experts = MoELayer(MoEConfig(num_experts=4, top_k=2, renormalise=True), WIDTH, TASKS)
        self.policy = nn.Linear(WIDTH, ACTIONS)
        self.value = nn.Linear(WIDTH, 1)

    def forward(self, observation: Tensor, task_id: Tensor) -> tuple[Tensor, Tensor]:
        """Policy logits ``(B, A)`` and values ``(B,)`` of observations ``(B, F)``."""
        hidden = self.noise(self.rectifier(self.encoder(observation)))
        mixed, _ = self.experts(x=hidden, task_id=task_id)
        joined = hidden + mixed
        return self.policy(joined), self.value(joined)[:, 0]


@dataclass(frozen=True)
class Rollout:
    observation: Tensor
    task_id: Tensor
    action: Tensor
    outcome: Tensor

    def rows_of(self, task: int) -> "Rollout":
        rows = self.task_id == task
        return Rollout(
            self.observation[rows], self.task_id[rows], self.action[rows], self.outcome[rows]
        )


def make_model() -> ActorCritic:
    torch.manual_seed(0)
    model = ActorCritic()
    model.noise.eval()  # a part that somebody froze
    return model


def make_rollout(seed: int = 0) -> Rollout:
    generator = torch.Generator().manual_seed(seed)
    rows = len(TASK_ID)
    observation = torch.randn(rows, FEATURES, generator=generator)
    action = torch.randint(ACTIONS, (rows,), generator=generator)
    return Rollout(
        observation, torch.tensor(TASK_ID), action, torch.randn(rows, generator=generator)
    )


def loss_of(logits: Tensor, value: Tensor, rollout: Rollout) -> Tensor:
    """Policy gradient with the value as baseline, and the value's own squared error."""
    advantage = rollout.outcome - value.detach()
    chosen = logits.log_softmax(dim=-1).gather(1, rollout.action[:, None])[:, 0]
    return (0.5 * (value - rollout.outcome) ** 2 - advantage * chosen).mean()


# The reference: token by token and expert by expert, from the weights alone.


@dataclass
class Walked:
    """What a walk through the tokens has seen."""

    joined: list[Tensor] = field(default_factory=list)
    rectified: list[Tensor] = field(default_factory=list)
    hidden_of: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    entropies: list[float] = field(default_factory=list)
    counts: np.ndarray = field(default_factory=lambda: np.zeros((TASKS, 4), np.int64))


def gated(token: Tensor, w_in: Tensor) -> Tensor:
    a, b = (token @ w_in).chunk(2)
    return a * torch.sigmoid(a) * b


def walk(model: ActorCritic, encoded: Tensor, task_id: Tensor) -> Walked:
    """From outputs of the encoder ``(B, D)`` to what enters policy and value."""
    seen, layer = Walked(), model.experts
    stack, router = layer.experts, layer.router
    assert isinstance(stack, SwiGLU) and router is not None
    for row, task in zip(encoded, task_id.tolist(), strict=True):
        token = row.clamp_min(0)
        seen.rectified.append(token)
        shared = layer.shared_experts[0]
        units = gated(token, shared.w_in)
        seen.hidden_of["moe/shared"].append(units)
        total = token + units @ shared.w_out
        scores = torch.softmax(router.weight @ token, dim=0)
        seen.entropies.append(-sum(score * math.log(score) for score in scores.tolist()))
        chosen = sorted(range(4), key=lambda expert: -scores[expert].item())[:2]
        for expert in chosen:
            units = gated(token, stack.w_in[expert])
            seen.hidden_of[f"moe/expert_{expert}"].append(units)
            total = total + scores[expert] / scores[chosen].sum() * (units @ stack.w_out[expert])
            seen.counts[task, expert] += 1
        seen.joined.append(total)
    return seen


def independent_gradients(model: ActorCritic, rollout: Rollout) -> dict[str, np.ndarray]:
    """Gradient of every task's loss at every point ``(T, D)``, each on a copy of the model."""
    by_point = defaultdict(list)
    for task in range(TASKS):
        own, part = copy.deepcopy(model), rollout.rows_of(task)
        encoded = part.observation @ own.encoder.weight.T + own.encoder.bias
        encoded.retain_grad()
        joined = torch.stack(walk(own, encoded, part.task_id).joined)
        logits = joined @ own.policy.weight.T + own.policy.bias
        value = (joined @ own.value.weight.T + own.value.bias)[:, 0]
        loss_of(logits, value, part).backward()
        stack, shared, router = (
            own.experts.experts,
            own.experts.shared_experts[0],
            own.experts.router,
        )
        assert stack is not None and router is not None
        found = {
            "encoded": [encoded.grad.mean(dim=0)],
            "everything": [parameter.grad for parameter in own.parameters()],
            "shared_expert": [shared.w_in.grad, shared.w_out.grad],
            "router": [router.weight.grad],
        }
        for expert in range(4):
            found[f"expert_{expert}"] = [stack.w_in.grad[expert], stack.w_out.grad[expert]]
        for name, gradients in found.items():
            by_point[name].append(
                torch.cat([gradient.flatten() for gradient in gradients]).double().numpy()
            )
    return {name: np.stack(rows) for name, rows in by_point.items()}


def points_of(model: ActorCritic) -> dict[str, MeasuringPoint]:
    return {
        "everything": ParameterPoint.of(model),
        "encoded": ActivationPoint(model.encoder, "output"),
        **expert_points(model.experts),
    }


def gradients_of_tasks(
    model: ActorCritic, rollout: Rollout, points: dict[str, MeasuringPoint]
) -> TaskGradients:
    """The same with the library."""
    losses = []
    for task in range(TASKS):
        part = rollout.rows_of(task)
        with captured(points) as activations:
            logits, value = model(part.observation, part.task_id)
        losses.append(TaskLoss(task, loss_of(logits, value, part), activations, torch.tensor(1.0)))
    return TaskGradients.of(list(model.parameters()), [], points, losses)


def test_conflict_of_tasks_is_that_of_independent_gradients():
    model, rollout = make_model(), make_rollout()
    found = gradients_of_tasks(model, rollout, points_of(model))
    grams = found.layout.component_grams(
        gram_matrices(found.rows, found.layout.lengths, found.tasks, TASKS)
    )
    expected = independent_gradients(model, rollout)
    assert grams.keys() == expected.keys() and len(grams) == 8
    for name, rows in expected.items():
        np.testing.assert_allclose(
            grams[name].numpy(), rows @ rows.T, rtol=1e-4, atol=1e-8, err_msg=name
        )
        lengths = np.linalg.norm(rows, axis=1)
        conflict = GradientConflict.from_gram(grams[name])
        with np.errstate(
            invalid="ignore"
        ):  # a task that never chose an expert has no gradient there
            cosines = rows @ rows.T / np.outer(lengths, lengths)
        np.testing.assert_allclose(
            conflict.cosine_similarity_matrix.numpy(), cosines, atol=1e-4, err_msg=name
        )
        pairs = cosines[np.triu_indices(TASKS, k=1)]
        pairs = pairs[np.isfinite(pairs)]
        assert conflict.coverage == np.mean(lengths > 0) and pairs.size, name
        assert conflict.max_conflict_score == pytest.approx(-pairs.min(), abs=1e-4)
        assert conflict.conflict_rate == pytest.approx((pairs < 0).mean())


def test_the_tasks_gradients_add_up_to_one_update():
    model, rollout = make_model(), make_rollout()
    found = gradients_of_tasks(model, rollout, points_of(model))
    assert all(parameter.grad is None for parameter in model.parameters())
    found.combine_(torch.full((TASKS,), 1 / TASKS))
    whole = independent_gradients(model, rollout)["everything"].mean(axis=0)
    combined = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    np.testing.assert_allclose(combined.numpy(), whole, rtol=1e-4, atol=1e-7)


def test_what_enters_a_module_by_name_is_captured():
    model, rollout = make_model(), make_rollout()
    with captured({"mixed": ActivationPoint(model.experts, "input")}) as activations:
        model(rollout.observation, rollout.task_id)
    [seen] = activations["mixed"]
    assert torch.equal(seen, model.encoder(rollout.observation).relu())


def test_calls_without_gradient_are_not_captured():
    """As of frames that are only a window's past."""
    model, rollout = make_model(), make_rollout()
    points = {side: ActivationPoint(model.encoder, side) for side in ("input", "output")}
    observation = rollout.observation.clone().requires_grad_()
    with captured(points) as activations:
        model(observation, rollout.task_id)
        with torch.no_grad():
            model(observation, rollout.task_id)
    assert [len(seen) for seen in activations.values()] == [1, 1]


def test_expert_selection_is_what_the_tokens_chose():
    model = make_model()
    recorder = ExpertSelectionRecorder({0: model.experts})
    expected = np.zeros((TASKS, 4), np.int64)
    for seed in range(3):
        rollout = make_rollout(seed)
        model(rollout.observation, rollout.task_id)
        recorder.record()
        expected += walk(model, model.encoder(rollout.observation), rollout.task_id).counts
    assert expected.sum() == 3 * 2 * len(TASK_ID) and len(set(expected.sum(axis=0))) > 1
    for task, windows in recorder.stats()[0].items():
        statistics = windows["immediate"]
        np.testing.assert_array_equal(statistics["total_counts"], expected[task])
        np.testing.assert_allclose(statistics["frequencies"], expected[task] / expected[task].sum())
        assert statistics["data_points"] == 3


def dormant(samples: list[Tensor]) -> tuple[int, int]:
    """Dormant units and units."""
    activity = torch.stack(samples).abs().double().mean(dim=0)
    return int((activity <= TAU * activity.mean()).sum()), len(activity)


@torch.no_grad()
def test_plasticity_of_modules_that_the_model_names():
    model, rollout = make_model(), make_rollout()
    units = {"first": model.rectifier, "moe": model.experts}
    got = measure_plasticity(
        model, units, (rollout.observation, rollout.task_id), Distributed(), TAU
    )
    seen = walk(model, model.encoder(rollout.observation), rollout.task_id)
    counted = {"first": dormant(seen.rectified)}
    for name, samples in seen.hidden_of.items():
        counted[name] = dormant(samples)
    routed = [count for name, count in counted.items() if "expert_" in name]
    counted["moe/routed"] = tuple(np.sum(routed, axis=0).tolist())
    counted["all"] = tuple(
        np.sum([counted["first"], counted["moe/shared"], counted["moe/routed"]], axis=0).tolist()
    )
    expected = {
        f"plasticity/dormant_ratio/{name}": dead / of for name, (dead, of) in counted.items()
    }
    assert 0 < counted["all"][0] < counted["all"][1]
    expected["plasticity/router_entropy/moe"] = sum(seen.entropies) / len(seen.entropies)
    assert got == pytest.approx(expected, abs=1e-6)


def test_every_part_is_left_in_the_mode_it_was_in():
    model, rollout = make_model(), make_rollout()
    before = [module.training for module in model.modules()]
    assert any(before) and not all(before)
    measure_plasticity(
        model, {"moe": model.experts}, (rollout.observation, rollout.task_id), Distributed()
    )
    assert [module.training for module in model.modules()] == before
    assert not model.experts.selection_counts.any(), "measuring is no choice of an update"


def test_norms_of_modules_are_those_of_their_parameters():
    model = make_model()
    modules = []
    for name, _ in model.named_parameters():
        modules.append(name.partition(".")[0])
    norms = norms_by_module(modules, parameter_norms(model))
    assert norms.keys() == {"encoder", "experts", "policy", "value"}
    for name, norm in norms.items():
        squares = [
            np.square(parameter.detach().numpy()).sum()
            for parameter in getattr(model, name).parameters()
        ]
        assert norm == pytest.approx(math.sqrt(sum(squares)), rel=1e-5), name


class ByName(nn.Module):
    """Takes its input by name alone."""

    def forward(self, *, x: Tensor) -> Tensor:
        return 2 * x


def test_maps_of_convolutions_have_channels_as_units():
    """Their gradient is averaged over pictures and places; the axis is the point's to say."""
    torch.manual_seed(0)
    conv, scale = nn.Conv2d(2, 5, 3), ByName()
    points: dict[str, MeasuringPoint] = {
        "maps": ActivationPoint(conv, "output", axis=1),
        "by name": ActivationPoint(scale, "input", axis=1),
    }
    losses, expected = [], []
    for task in range(2):
        pictures, target = torch.randn(3, 2, 6, 8), torch.randn(3, 5, 4, 6)
        with captured(points) as seen:
            loss = (scale(x=conv(pictures)) - target).square().sum()
        (at_maps,) = torch.autograd.grad(loss, seen["maps"], retain_graph=True)
        channels = [at_maps[:, channel].mean().item() for channel in range(5)]
        expected.append(torch.tensor(channels))
        losses.append(TaskLoss(task, loss, seen, torch.tensor(1.0)))
    found = TaskGradients.of([], [], points, losses)
    assert found.rows.shape == (2, 10)
    for row, channels in zip(found.rows, expected, strict=True):
        torch.testing.assert_close(row[:5], channels)
        torch.testing.assert_close(row[5:], channels)


def test_a_rank_without_tasks_has_no_gradients_to_take():
    with pytest.raises(ValueError, match="losses is empty; give one for every task"):
        TaskGradients.of([], [], {}, [])
