"""Conflict without the noise of gradients, against simulations whose truth is known."""

import numpy as np
import pytest
import torch

from lzero.analysis.conflict import (
    GradientConflict,
    compute_gradient_conflicts,
    compute_gradient_conflicts_batch,
)
from lzero.analysis.noise import (
    MOST_PATTERNS,
    HalfProducts,
    expected_maximum,
    jackknife_interval,
    sign_patterns,
)

COSINE = 0.6


def true_gradients(cosine: float, columns: int, num_tasks: int = 2) -> np.ndarray:
    """Unit vectors ``(T, D)`` with one cosine between any two."""
    cosines = np.full((num_tasks, num_tasks), cosine)
    np.fill_diagonal(cosines, 1.0)
    basis = np.linalg.qr(np.random.default_rng(5).normal(size=(columns, num_tasks)))[0]
    return np.linalg.cholesky(cosines) @ basis.T


def halves(truth: np.ndarray, reliability: float, shape: tuple[int, ...], rng) -> np.ndarray:
    """Gradients of halves ``(*shape, 2, T, D)`` whose noise gives that reliability."""
    deviation = np.sqrt((1 - reliability) / reliability / truth.shape[1])
    return truth + deviation * rng.normal(size=(*shape, 2, *truth.shape))


def test_bias_is_small_where_the_raw_cosine_is_off_by_half_and_intervals_cover_the_truth():
    rng = np.random.default_rng(0)
    pairs = halves(true_gradients(COSINE, 64), 0.33, (1000, 16), rng)  # draws, measurements
    whole = pairs.mean(axis=2)
    products = (whole[..., 0, :] * whole[..., 1, :]).sum(axis=-1)
    signals = (pairs[:, :, 0] * pairs[:, :, 1]).sum(axis=-1)
    raw = products / np.linalg.norm(whole, axis=-1).prod(axis=-1)
    assert raw.mean() == pytest.approx(COSINE / 2, abs=0.02)
    denoised, covered = [], []
    for product, (first, second) in zip(products, signals.transpose(0, 2, 1), strict=True):
        low, high = jackknife_interval(product, first, second, 0.95)
        denoised.append(product.sum() / np.sqrt(first.sum() * second.sum()))
        covered.append(low <= COSINE <= high)
    assert np.mean(denoised) == pytest.approx(COSINE, abs=0.02)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_pooling_adds_up_before_it_divides():
    pairs = halves(true_gradients(COSINE, 40, 3), 0.4, (12,), np.random.default_rng(1))
    measured = [compute_gradient_conflicts(*map(torch.from_numpy, pair)) for pair in pairs]
    pooled = GradientConflict.pooled(measured)
    whole = pairs.mean(axis=1)  # (K, T, D)
    gram = np.einsum("kid,kjd->kij", whole, whole)
    signal = (pairs[:, 0] * pairs[:, 1]).sum(axis=-1)
    lengths = np.linalg.norm(pairs, axis=-1)
    low, high = pooled.denoised_cosine_interval()
    for i, j in ((0, 1), (0, 2), (1, 2)):
        raw = gram[:, i, j].sum() / np.sqrt(gram[:, i, i].sum() * gram[:, j, j].sum())
        assert pooled.cosine_similarity_matrix[i, j].item() == pytest.approx(raw)
        clean = gram[:, i, j].sum() / np.sqrt(signal[:, i].sum() * signal[:, j].sum())
        assert pooled.denoised_cosine[i, j].item() == pytest.approx(clean)
        ends = jackknife_interval(gram[:, i, j], signal[:, i], signal[:, j], 0.95)
        assert (low[j, i].item(), high[i, j].item()) == pytest.approx(ends)
    np.testing.assert_allclose(
        pooled.reliability,
        signal.sum(axis=0) / np.sqrt((lengths**2).sum(axis=0).prod(axis=0)),
    )
    np.testing.assert_allclose(
        pooled.gradient_norms, np.sqrt((np.linalg.norm(whole, axis=-1) ** 2).mean(axis=0))
    )
    assert pooled.num_pairs == 3 and pooled.undenoised == ("", "", "")
    again = GradientConflict.pooled(
        [GradientConflict.pooled(measured[:5]), GradientConflict.pooled(measured[5:])]
    )
    torch.testing.assert_close(again.denoised_cosine, pooled.denoised_cosine)
    narrow = pooled.denoised_cosine_interval(0.5)
    assert (narrow[0][0, 1] > low[0, 1]) and (narrow[1][0, 1] < high[0, 1])


def test_pooling_one_measurement_changes_nothing():
    pair = halves(true_gradients(0.2, 30, 3), 0.5, (), np.random.default_rng(2))
    one = compute_gradient_conflicts(*map(torch.from_numpy, pair))
    pooled = GradientConflict.pooled([one])
    torch.testing.assert_close(pooled.cosine_similarity_matrix, one.cosine_similarity_matrix)
    torch.testing.assert_close(pooled.denoised_cosine, one.denoised_cosine, equal_nan=True)
    assert pooled.max_conflict_null == pytest.approx(one.max_conflict_null)
    assert pooled.denoised_cosine_interval()[0].isnan().all()


def test_reliability_is_the_cosine_of_gradients_from_other_rows():
    """Against brute force: gradients of a regression from many batches of which none is split."""
    rng = np.random.default_rng(3)
    weight = torch.zeros(20, requires_grad=True, dtype=torch.float64)

    def gradient(rows: int) -> torch.Tensor:
        x = torch.from_numpy(rng.normal(size=(rows, 20)))
        y = x @ torch.ones(20, dtype=torch.float64) + torch.from_numpy(rng.normal(size=rows))
        return torch.autograd.grad((x @ weight - y).square().mean(), weight)[0]

    def cosine_of_sums(rows: int) -> float:
        product, squares = 0.0, np.zeros(2)
        for _ in range(600):
            first, second = gradient(rows), gradient(rows)
            product += float(first @ second)
            squares += float(first @ first), float(second @ second)
        return product / np.sqrt(squares.prod())

    measured = [compute_gradient_conflicts([gradient(16)], [gradient(16)]) for _ in range(600)]
    reliability = GradientConflict.pooled(measured).reliability.item()
    assert reliability == pytest.approx(cosine_of_sums(16), abs=0.04) and 0.2 < reliability < 0.8
    of_all_rows = 2 * reliability / (1 + reliability)
    assert of_all_rows == pytest.approx(cosine_of_sums(32), abs=0.04)


def test_halves_of_unequal_size_have_no_bias():
    """Five rows are split three to two: a half adds its share of the rows to the gradient."""
    rng = np.random.default_rng(4)
    truth = true_gradients(COSINE, 12)
    products = []
    for _ in range(3000):
        rows = truth[:, None] + rng.normal(size=(2, 5, 12))  # (T, rows, D)
        contributed = np.stack([rows[:, :3].sum(axis=1), rows[:, 3:].sum(axis=1)], axis=1) / 5
        flat = contributed.reshape(4, 12)
        products.append(flat @ flat.T)
    found = HalfProducts.of(torch.from_numpy(np.stack(products)), torch.tensor([[3, 2], [3, 2]]))
    assert found.signal.mean(dim=0).tolist() == pytest.approx([1, 1], abs=0.05)
    assert found.gram[:, 0, 1].mean().item() == pytest.approx(COSINE, abs=0.05)
    # noise of a row has 12 numbers of variance 1; that of the difference is 12 (1/3 + 1/2)
    assert found.noise[:, 0, 0].mean().item() == pytest.approx(10, abs=0.3)
    assert found.noise[:, 0, 1].mean().item() == pytest.approx(0, abs=0.3)
    norms = found.half_norms.square().mean(dim=0)[0].tolist()
    assert norms == pytest.approx([1 + 12 / 3, 1 + 12 / 2], abs=0.3)


@pytest.mark.parametrize(("num_tasks", "columns"), [(2, 16), (3, 8), (3, 128), (8, 8), (8, 32)])
def test_the_null_is_the_maximum_among_unrelated_gradients(num_tasks, columns):
    rng = np.random.default_rng(6)
    first, second = np.triu_indices(num_tasks, 1)
    pair = np.zeros((1, 1, num_tasks, num_tasks), bool)
    pair[..., first, second] = True
    largest, nulls = [], []
    for _ in range(400):
        unrelated = rng.normal(size=(num_tasks, columns))
        units = unrelated / np.linalg.norm(unrelated, axis=1, keepdims=True)
        largest.append((-units @ units.T)[first, second].max())
        noise = rng.normal(size=(num_tasks, columns))
        nulls.append(expected_maximum((noise @ noise.T)[None, None], pair)[0])
    tolerance = 4 * np.std(largest) / np.sqrt(len(largest))
    assert np.mean(nulls) == pytest.approx(np.mean(largest), abs=tolerance)
    if num_tasks == 8:
        assert np.mean(nulls) > 2 * tolerance


def test_the_null_of_related_gradients_is_that_of_unrelated_ones():
    """It comes from the noise alone: what the gradients have in common does not enter."""
    rng, nulls = np.random.default_rng(7), {}
    for cosine in (0.0, 0.9):
        pairs = halves(true_gradients(cosine, 32, 4), 0.4, (300,), rng)
        found = [
            compute_gradient_conflicts(*map(torch.from_numpy, pair)).max_conflict_null
            for pair in pairs
        ]
        nulls[cosine] = np.mean(found)
    assert nulls[0.9] == pytest.approx(nulls[0.0], abs=0.02) and nulls[0.0] > 0.1


def test_signs_of_many_tasks_are_drawn():
    assert sign_patterns(3).tolist() == [[1, 1, 1], [1, 1, -1], [1, -1, 1], [1, -1, -1]]
    assert sign_patterns(10).shape == (512, 10)
    many = sign_patterns(26)
    assert many.shape == (MOST_PATTERNS, 26) and set(np.unique(many)) == {-1, 1}


def test_what_cannot_be_known_is_no_number_and_says_why():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    b = torch.tensor([[1.0, 1.0], [0.1, -1.0], [1.0, 0.0], [0.0, 0.0]])
    conflict = compute_gradient_conflicts(a, b)
    assert conflict.undenoised == (
        "",
        "the gradients of its two halves have no positive product",
        "",
        "it has no gradient",
    )
    assert (
        conflict.denoised_cosine.isnan()[1].all() and conflict.denoised_cosine.isnan()[:, 3].all()
    )
    # ⟨f_0, f_2⟩ = ⟨(1, ½), (1, ½)⟩ = 1.25 of √(1 · 1): beyond 1, and not clipped
    assert conflict.denoised_cosine[0, 2].item() == pytest.approx(1.25)
    assert conflict.reliability[:3].tolist() == pytest.approx([2**-0.5, -1 / 1.01**0.5, 2**-0.5])
    assert conflict.num_pairs == 3 and conflict.reliability[3].isnan()

    unsplit = compute_gradient_conflicts(a)
    assert unsplit.undenoised[0] == "its rows were not split into two halves"
    assert unsplit.denoised_cosine.isnan().all() and unsplit.reliability.isnan().all()
    assert np.isnan(unsplit.max_conflict_null) and unsplit.num_pairs == 3
    alike = torch.eye(4) + 0.5
    one_row = GradientConflict.from_half_grams(alike[None], torch.tensor([[1, 0], [2, 2]]))
    assert one_row[0].undenoised[0] == "its rows were not split into two halves"
    assert one_row[0].reliability.isnan().tolist() == [True, False]


def test_halves_with_nothing_in_common_tell_no_signal_from_noise():
    """Flattened activations: each half has places of its own, so that the product is 0 by construction."""
    rng = np.random.default_rng(0)
    first, second = torch.zeros(2, 3, 10)
    first[:, :5], second[:, 5:] = torch.from_numpy(rng.normal(size=(2, 3, 5)))
    for conflict in (
        compute_gradient_conflicts(first, second),
        GradientConflict.pooled([compute_gradient_conflicts(first, second)] * 2),
    ):
        assert conflict.reliability.isnan().all() and conflict.valid.all()
        assert {reason.partition(",")[0] for reason in conflict.undenoised} == {
            "the gradients of its two halves have nothing in common"
        }
        assert np.isfinite(conflict.max_conflict_score)


def test_an_absent_task_leaves_the_others_of_other_measurements_alone():
    pairs = halves(true_gradients(COSINE, 20, 3), 0.5, (6,), np.random.default_rng(8))
    measured = []
    for number, pair in enumerate(pairs):
        gradients = [list(map(torch.from_numpy, half)) for half in pair]
        if number % 2:
            gradients[0][1] = gradients[1][1] = None
        measured.append(compute_gradient_conflicts(*gradients))
    pooled, even = GradientConflict.pooled(measured), GradientConflict.pooled(measured[::2])
    for name in ("cosine_similarity_matrix", "denoised_cosine"):
        found, of_even = getattr(pooled, name), getattr(even, name)
        torch.testing.assert_close(found[0, 1], of_even[0, 1], rtol=1e-12, atol=0.0)
        assert abs(found[0, 2] - of_even[0, 2]) > 1e-6
    assert pooled.num_pairs == 3 and measured[1].num_pairs == 1


def test_halves_in_a_batch_are_each_components_own():
    generator = torch.Generator().manual_seed(9)
    first = {name: torch.randn(3, size, generator=generator) for name, size in (("b", 5), ("a", 9))}
    second = {
        name: part + torch.randn(part.shape, generator=generator) for name, part in first.items()
    }
    batch = compute_gradient_conflicts_batch(first, second_half=second)
    for name, conflict in batch.items():
        alone = compute_gradient_conflicts(first[name], second[name])
        torch.testing.assert_close(conflict.denoised_cosine, alone.denoised_cosine, equal_nan=True)
        torch.testing.assert_close(conflict.reliability, alone.reliability)
        whole = compute_gradient_conflicts((first[name] + second[name]) / 2)
        torch.testing.assert_close(
            conflict.cosine_similarity_matrix, whole.cosine_similarity_matrix
        )
        torch.testing.assert_close(conflict.gradient_norms, whole.gradient_norms)
