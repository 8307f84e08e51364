"""Loss terms against a loop over single steps; masks, illegal actions, entropy steering."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lzero.config import LossConfig
from lzero.distributed import Distributed
from lzero.model.unizero_world_models.world_model_multitask import WorldModelOutput
from lzero.nn.encoder import LatentNorm
from lzero.nn.scalars import ScalarSupport
from lzero.nn.tasks import TaskGroups
from lzero.policy.losses import (
    TERMS,
    EntropyWeight,
    add_up,
    latent_loss,
    latent_moments,
    loss_sums,
    masked_means,
    spread_shortfall,
    weighted_total,
)
from lzero.policy.parts import half_tasks, whole_tasks
from lzero.policy.targets import Batch
from tests.policy.unizero_cases import PREDICTIONS

B, H, A, D, BINS, T = 7, 3, 5, 16, 21, 4
TASK_ID = torch.tensor([0, 0, 1, 1, 1, 3, 3])  # task 2 has no window here
SUPPORT = ScalarSupport(BINS, -5.0, 5.0)


def random_case(seed: int = 0) -> tuple[WorldModelOutput, Batch]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    def flags(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator) < 0.7

    shapes = ((B, H + 1, A), (B, H + 1, BINS), (B, H, BINS), (B, H), (B, H, D))
    output = WorldModelOutput(*(normal(*shape) for shape in shapes), None)
    legal = torch.ones(B, A, dtype=torch.bool)
    legal[TASK_ID == 1, 3:] = False
    visits = torch.rand(B, H + 1, A, generator=generator) * legal[:, None]
    visits[0, 0] = torch.eye(A)[2]
    targets = Batch(
        groups=TaskGroups.of(TASK_ID, "cpu"),
        observation=torch.zeros(B, H + 1, 1),
        action=torch.zeros(B, H, dtype=torch.int64),
        episode=torch.zeros(B, H + 1, dtype=torch.int64),
        latent=LatentNorm("layer_norm")(torch.randn(B, H, D, generator=generator)),
        reward=torch.randn(B, H, generator=generator),
        terminated=flags(B, H),
        value=3 * torch.randn(B, H + 1, generator=generator),
        policy=visits / visits.sum(dim=-1, keepdim=True),
        acting=flags(B, H + 1),
        led_on=flags(B, H),
        legal=legal,
        weight=torch.rand(B, generator=generator),
    )
    return output, targets


def sums_of(output: WorldModelOutput, targets: Batch, norm: str = "layer_norm"):
    return loss_sums(torch.zeros(B, H + 1, D), output, targets, T, SUPPORT, LatentNorm(norm))


def means_of(output: WorldModelOutput, targets: Batch) -> torch.Tensor:
    sums = sums_of(output, targets)
    return masked_means(sums.terms, sums.counts)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def naive_means(output: WorldModelOutput, targets: Batch) -> dict[str, list[float]]:
    """The same means in plain Python, one window and one step at a time."""
    total = {term: [0.0] * T for term in TERMS}
    count = {term: [0] * T for term in TERMS}

    def add(term: str, task: int, value: float, weight: float) -> None:
        total[term][task] += weight * value
        count[term][task] += 1

    def scalar_loss(logits: torch.Tensor, x: torch.Tensor) -> float:
        return -float(
            SUPPORT.two_hot(x).numpy() @ np.log(softmax(logits.detach().double().numpy()))
        )

    for row, task in enumerate(TASK_ID.tolist()):
        weight = targets.weight[row].item()
        legal = targets.legal[row].numpy()
        for step in range(H):
            if targets.led_on[row, step]:
                predicted = output.next_latent[row, step].detach().double().numpy()
                predicted = (predicted - predicted.mean()) / np.sqrt(predicted.var() + 1e-5)
                difference = predicted - targets.latent[row, step].numpy()
                add("latent", task, float((difference**2).mean()), weight)
            if targets.acting[row, step]:
                add(
                    "reward",
                    task,
                    scalar_loss(output.reward[row, step], targets.reward[row, step]),
                    weight,
                )
                dies = 1 / (1 + np.exp(-output.termination[row, step].item()))
                add(
                    "termination",
                    task,
                    -np.log(dies if targets.terminated[row, step] else 1 - dies),
                    weight,
                )
        for step in range(H + 1):
            if targets.acting[row, step]:
                add(
                    "value",
                    task,
                    scalar_loss(output.value[row, step], targets.value[row, step]),
                    weight,
                )
                policy = softmax(output.policy[row, step].detach().double().numpy()[legal])
                wanted = targets.policy[row, step].numpy()[legal]
                add("policy", task, -float(wanted @ np.log(policy)), weight)
                add("entropy", task, -float(policy @ np.log(policy)), weight)
    return {term: [total[term][t] / max(1, count[term][t]) for t in range(T)] for term in TERMS}


@pytest.mark.parametrize("seed", range(3))
def test_means_equal_a_loop_over_single_steps(seed):
    output, targets = random_case(seed)
    means, expected = means_of(output, targets), naive_means(output, targets)
    for index, term in enumerate(TERMS):
        assert means[index].tolist() == pytest.approx(expected[term], rel=1e-4, abs=1e-6), term
    assert not means[:, 2].any(), "a task without windows contributes nothing"
    assert means[:, [0, 1, 3]].all()


def test_counts_are_steps_whatever_their_weight():
    output, targets = random_case()
    heavy = replace(targets, weight=3 * targets.weight)
    plain, weighted = sums_of(output, targets), sums_of(output, heavy)
    assert torch.equal(plain.counts, weighted.counts)
    torch.testing.assert_close(3 * plain.terms, weighted.terms)
    masks = (
        targets.led_on,
        targets.acting[:, :-1],
        targets.acting[:, :-1],
        targets.acting,
        targets.acting,
        targets.acting,
    )
    for row, mask in zip(plain.counts, masks, strict=True):
        assert row.tolist() == [mask[TASK_ID == task].sum() for task in range(T)]


def test_sums_of_parts_add_up():
    """Two ranks that hold parts of the windows get the whole's sums and counts by adding theirs."""
    output, targets = random_case()
    latent = torch.randn(B, H + 1, D)
    whole = loss_sums(latent, output, targets, T, SUPPORT, LatentNorm("layer_norm"))
    parts = []
    for rows in (torch.tensor([0, 2, 5]), torch.tensor([1, 3, 4, 6])):
        part = Batch(
            TaskGroups.of(TASK_ID[rows], "cpu"),
            *(tensor[rows] for tensor in list(vars(targets).values())[1:]),
        )
        predicted = WorldModelOutput(*(getattr(output, name)[rows] for name in PREDICTIONS), None)
        parts.append(loss_sums(latent[rows], predicted, part, T, SUPPORT, LatentNorm("layer_norm")))
    total = add_up(parts, Distributed())
    for name in ("terms", "counts", "moments"):
        torch.testing.assert_close(getattr(total, name), getattr(whole, name))
    assert not total.terms.requires_grad


def test_parts_by_task_are_the_windows_of_each_task():
    _, targets = random_case()
    parts = [part.batch for part in whole_tasks(targets)]
    assert [part.groups.task_id.tolist() for part in parts] == [[0, 0], [1, 1, 1], [3, 3]]
    assert [part.groups.present.tolist() for part in parts] == [[0], [1], [3]]
    for name, whole in list(vars(targets).items())[1:]:
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), whole), name


def test_halves_are_the_windows_of_each_task_cut_in_two():
    _, targets = random_case()  # tasks of 2, 3 and 2 windows
    parts, sizes = half_tasks(targets, T, Distributed())
    assert [(part.task, part.half) for part in parts] == [
        *((0, 0), (0, 1), (1, 0), (1, 1), (3, 0), (3, 1))
    ]
    assert sizes.tolist() == [[1, 1], [2, 1], [0, 0], [1, 1]]
    assert [part.share for part in parts] == pytest.approx(
        [1 / 2, 1 / 2, 2 / 3, 1 / 3, 1 / 2, 1 / 2]
    )
    assert [(part.rows.first, part.rows.count, part.rows.most) for part in parts] == [
        *((0, 1, 3), (1, 1, 3), (0, 2, 3), (2, 1, 3), (0, 1, 3), (1, 1, 3))
    ]
    for name, whole in list(vars(targets).items())[1:]:
        assert torch.equal(torch.cat([getattr(part.batch, name) for part in parts]), whole), name


def test_halves_of_a_task_on_two_ranks_are_those_of_one():
    _, targets = random_case()
    ranks = []
    for rank, rows in enumerate(
        (slice(0, 3), slice(3, 7))
    ):  # task 1 has one window here, two there
        tensors = [tensor[rows] for tensor in list(vars(targets).values())[1:]]
        own = Batch(TaskGroups.of(TASK_ID[rows], "cpu"), *tensors)
        counts = [np.array([2, 1, 0, 0]), np.array([0, 2, 0, 2])]
        ranks.append(half_tasks(own, T, FakeRanks(rank, counts)))
    assert [(part.task, part.half, part.rows.first) for part in ranks[0][0]] == [
        *((0, 0, 0), (0, 1, 1), (1, 0, 0))
    ]
    assert [(part.task, part.half, part.rows.first) for part in ranks[1][0]] == [
        *((1, 0, 1), (1, 1, 2), (3, 0, 0), (3, 1, 1))
    ]
    assert torch.equal(ranks[0][1], ranks[1][1])


class FakeRanks:
    """Two ranks, of which one asks what both have."""

    def __init__(self, rank: int, counts: list[np.ndarray]) -> None:
        self.rank, self.counts = rank, counts

    def all_gather_array(self, array: np.ndarray) -> list[np.ndarray]:
        np.testing.assert_array_equal(array, self.counts[self.rank])
        return self.counts


def test_a_task_is_blind_to_other_tasks():
    """Its loss stays when the windows of others change, and its gradient touches no other's predictions."""
    output, targets = random_case(0)
    other_output, other_targets = random_case(1)
    mine = TASK_ID == 1

    def mixed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.where(mine.view(-1, *(1,) * (a.dim() - 1)), a, b)

    mixed_predictions = (
        mixed(getattr(output, name), getattr(other_output, name)) for name in PREDICTIONS
    )
    changed_output = WorldModelOutput(*mixed_predictions, None)
    tensors = {
        name: tensor for name, tensor in vars(targets).items() if name not in ("groups", "legal")
    }
    changed = replace(
        targets,
        **{name: mixed(tensor, getattr(other_targets, name)) for name, tensor in tensors.items()},
    )
    before, after = means_of(output, targets), means_of(changed_output, changed)
    assert torch.equal(before[:, 1], after[:, 1])
    assert (before[:, [0, 3]] != after[:, [0, 3]]).all()

    before[:, 1].sum().backward()
    for name in PREDICTIONS:
        gradient = getattr(output, name).grad
        assert gradient[mine].any() and not gradient[~mine].any(), name


def test_masked_steps_are_without_effect_whatever_they_hold():
    output, targets = random_case()
    poisoned = replace(
        targets,
        reward=targets.reward.masked_fill(~targets.acting[:, :-1], torch.nan),
        value=targets.value.masked_fill(~targets.acting, torch.inf),
        policy=targets.policy.masked_fill(~targets.acting[..., None], torch.nan),
        latent=targets.latent.masked_fill(~targets.led_on[..., None], torch.nan),
    )
    assert torch.equal(means_of(output, poisoned), means_of(output, targets))


def test_illegal_actions_get_no_probability_and_no_gradient():
    output, targets = random_case()
    mine, illegal = TASK_ID == 1, slice(3, None)
    loud = output.policy.detach().clone()
    loud[mine, :, illegal] = 1e4
    raised = replace(output, policy=loud.requires_grad_())
    assert torch.equal(means_of(raised, targets)[:, 1], means_of(output, targets)[:, 1])
    sums = sums_of(raised, targets).terms
    assert sums.isfinite().all()
    sums.sum().backward()
    assert raised.policy.grad.isfinite().all()
    assert not raised.policy.grad[mine, :, illegal].any()
    assert raised.policy.grad[mine, :, :3].any()


def test_a_single_legal_action_has_no_loss_and_no_entropy():
    output, targets = random_case()
    legal = torch.zeros(B, A, dtype=torch.bool)
    legal[:, 4] = True
    only = replace(targets, legal=legal, policy=legal[:, None].float().expand(B, H + 1, A))
    means = means_of(output, only)
    assert (
        means[TERMS.index("policy")].tolist() == means[TERMS.index("entropy")].tolist() == [0.0] * T
    )


def test_policy_loss_is_least_at_the_visit_distribution():
    output, targets = random_case()
    exact = replace(output, policy=targets.policy.clamp_min(1e-12).log())
    index, noise = TERMS.index("policy"), torch.Generator().manual_seed(0)
    best = means_of(exact, targets)[index]
    for _ in range(5):
        nearby = replace(
            exact, policy=exact.policy + 0.3 * torch.randn(exact.policy.shape, generator=noise)
        )
        assert (means_of(nearby, targets)[index] > best)[[0, 1, 3]].all()


@pytest.mark.parametrize("kind", ["layer_norm", "sim_norm"])
def test_latent_loss_is_least_at_the_target(kind):
    norm, generator = LatentNorm(kind), torch.Generator().manual_seed(0)
    raw = torch.randn(B, H, D, generator=generator)
    target = norm(raw)
    exact = raw.clone().requires_grad_()
    best = latent_loss(exact, target, norm)
    assert best.shape == (B, H)
    best.sum().backward()
    assert exact.grad.abs().max() < 1e-4
    for _ in range(5):
        direction = torch.randn(B, H, D, generator=generator)
        previous = best.detach()
        for distance in (0.1, 0.3, 1.0):
            loss = latent_loss(raw + distance * direction, target, norm)
            assert (loss > previous).all(), "the loss grows along every line away from the target"
            previous = loss
    entropy = (
        -(target * target.log()).unflatten(-1, (-1, 8)).sum(-1).mean(-1)
        if kind == "sim_norm"
        else 0 * best
    )
    torch.testing.assert_close(best, entropy, atol=1e-4, rtol=1e-4)


def test_total_is_the_weighted_sum_of_the_terms():
    config = LossConfig(
        latent=2.0, reward=3.0, value=5.0, policy=7.0, spread=11.0, termination=13.0
    )
    means, spread = torch.randn(len(TERMS), T), torch.randn(T)
    entropy_weight = torch.tensor([0.0, 0.5, 1.0, 2.0])
    total = weighted_total(means, spread, config, entropy_weight)
    for task in range(T):
        latent, reward, termination, value, policy, entropy = means[:, task].tolist()
        expected = (
            2 * latent + 3 * reward + 5 * value + 7 * policy - entropy_weight[task].item() * entropy
        )
        expected += 11 * spread[task].item() + 13 * termination
        assert total[task].item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def naive_shortfall(latent: torch.Tensor, task_id: torch.Tensor, target: float) -> torch.Tensor:
    """Written as the definition, to be differentiated by autograd."""
    values = []
    for task in range(T):
        frames = latent[task_id == task].flatten(0, 1)
        deviation = (
            frames.var(dim=0, correction=0).clamp_min(1e-6).sqrt()
            if len(frames)
            else torch.full((D,), 9.0)
        )
        values.append((target - deviation).clamp_min(0).mean())
    return torch.stack(values)


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_spread_shortfall_and_its_gradient_are_those_of_the_definition(num_ranks):
    """On one rank, and as a sum over ranks that hold unequal parts; some dimensions and one task are wide enough."""
    generator = torch.Generator().manual_seed(0)
    task_id = torch.tensor([0, 0, 0, 1, 1, 3, 3, 3])  # nobody plays task 2
    latent = torch.randn(len(task_id), 5, D, generator=generator) * torch.linspace(0.01, 1.2, D)
    latent[task_id == 3] *= 100.0
    latent.requires_grad_()
    expected = naive_shortfall(latent, task_id, 0.5)
    assert (expected[:2] > 0).all() and (expected[2:] == 0).all()
    weight = torch.rand(T, generator=generator)
    (expected_gradient,) = torch.autograd.grad((weight * expected).sum(), latent)

    rows = torch.arange(len(task_id)).tensor_split(num_ranks)
    moments = sum(latent_moments(latent[part], task_id[part], T) for part in rows)
    parts = [spread_shortfall(latent[part], task_id[part], moments, 0.5) for part in rows]
    for value in parts:
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-4)
    (gradient,) = torch.autograd.grad(sum((weight * value).sum() for value in parts), latent)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-6, rtol=1e-3)


def test_frames_that_are_all_the_same_give_a_finite_gradient():
    latent = torch.ones(3, 4, D, requires_grad=True)
    task_id = torch.zeros(3, dtype=torch.int64)
    value = spread_shortfall(latent, task_id, latent_moments(latent, task_id, T), 0.5)
    assert value[0].item() == pytest.approx(0.499) and value[1:].eq(0).all()
    value.sum().backward()
    assert latent.grad.eq(0).all()


LEGAL = torch.tensor([2, 18, 6, 1])


def test_entropy_weight_is_constant_by_default():
    weight = EntropyWeight(LossConfig(entropy=3e-4), LEGAL)
    for entropy in (torch.zeros(T), 5 * torch.ones(T)):
        weight.update_(entropy, train_iter=10)
        torch.testing.assert_close(weight.weight(), torch.full((T,), 3e-4))
    assert not LossConfig().adaptive_entropy
    assert not EntropyWeight(LossConfig(entropy=0.0), LEGAL).weight().any()


def test_adaptive_entropy_weight_pulls_towards_the_target_entropy():
    config = LossConfig(
        entropy=1e-3, adaptive_entropy=True, entropy_target_start=0.5, entropy_target_end=0.5
    )
    weight = EntropyWeight(config, LEGAL)
    before = weight.weight()
    target = 0.5 * LEGAL.float().log()
    weight.update_(
        torch.stack([target[0] - 0.2, target[1] + 0.5, target[2], target[3]]), train_iter=0
    )
    after = weight.weight()
    assert after[0] > before[0], "too little entropy: a larger bonus"
    assert after[1] < before[1], "too much entropy: a smaller bonus"
    torch.testing.assert_close(after[2:], before[2:])
    for _ in range(10_000):
        weight.update_(torch.tensor([0.0, 2.0, 0.0, 0.0]), train_iter=0)
    assert math.exp(weight.LOG_LIMITS[0]) <= weight.weight().min() < 1e-4
    assert weight.weight().max() <= math.exp(weight.LOG_LIMITS[1])


def test_target_entropy_falls_linearly():
    """At the target entropy the weight stays put, just below it grows."""
    config = LossConfig(entropy=1e-3, adaptive_entropy=True, entropy_target_updates=100)
    for train_iter, share in ((0, 0.98), (50, 0.54), (100, 0.1), (1000, 0.1)):
        weight = EntropyWeight(config, LEGAL)
        weight.update_(share * LEGAL.float().log(), train_iter)
        torch.testing.assert_close(weight.weight(), torch.full((T,), 1e-3))
        weight.update_((share - 0.01) * LEGAL.float().log(), train_iter)
        assert (weight.weight() > 1e-3)[:3].all()
