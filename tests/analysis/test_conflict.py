"""Gradient conflict in one process against a reference in double precision, and its pictures."""

import numpy as np
import pytest
import torch

from lzero.analysis import conflict_heatmaps as pictures_module
from lzero.analysis.conflict import (
    GradientConflict,
    compute_gradient_conflict_distributed,
    compute_gradient_conflicts,
    compute_gradient_conflicts_batch,
    gram_matrices,
)
from lzero.analysis.conflict_heatmaps import (
    gradient_conflict_heatmap,
    log_gradient_conflict_heatmaps,
)
from tests.analysis.conflict_cases import SCORES, Pictures, reference_cosine
from tests.analysis.test_conflict_ranks import as_dict, assert_same_conflict


@pytest.mark.parametrize("seed", range(6))
def test_everything_equals_a_reference_in_double_precision(seed):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(6, 500)).astype(np.float32) * np.float32(10.0) ** rng.integers(
        -8, 9, (6, 1)
    )
    gradients[seed % 6] = 0
    conflict = compute_gradient_conflicts(torch.from_numpy(gradients))
    expected = reference_cosine(gradients)
    np.testing.assert_allclose(conflict.cosine_similarity_matrix, expected, atol=1e-9)
    pairs = [expected[i, j] for i in range(6) for j in range(i) if np.isfinite(expected[i, j])]
    norms = np.linalg.norm(gradients.astype(np.float64), axis=1)
    np.testing.assert_allclose(conflict.gradient_norms, norms, rtol=1e-12)
    assert conflict.avg_conflict_score == pytest.approx(-np.mean(pairs))
    assert conflict.max_conflict_score == pytest.approx(-np.min(pairs))
    assert conflict.min_conflict_score == pytest.approx(-np.max(pairs))
    assert conflict.conflict_rate == pytest.approx(np.mean(np.array(pairs) < 0))
    assert conflict.coverage == pytest.approx(5 / 6)
    for i, j in np.ndindex(6, 6):
        if np.isfinite(expected[i, j]):
            similarity = 2 * norms[i] * norms[j] / (norms[i] ** 2 + norms[j] ** 2)
            assert conflict.magnitude_similarity[i, j].item() == pytest.approx(similarity)
        else:
            assert conflict.magnitude_similarity[i, j].isnan()
    assert all(isinstance(getattr(conflict, name), float) for name in SCORES)


def test_symmetric_with_a_unit_diagonal_and_within_bounds():
    gradients = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    gradients[10:] = gradients[:10] * torch.logspace(-5, 5, 10)[:, None]  # parallel up to rounding
    cosine = compute_gradient_conflicts(gradients).cosine_similarity_matrix
    assert (
        torch.equal(cosine, cosine.T) and (cosine.diagonal() == 1).all() and cosine.abs().max() == 1
    )
    rounded = GradientConflict.from_gram(
        torch.tensor([[1.0, -1 - 1e-9], [-1 - 1e-9, 1.0]], dtype=torch.float64)
    )
    assert (
        rounded.cosine_similarity_matrix.tolist() == [[1, -1], [-1, 1]]
        and rounded.max_conflict_score == 1
    )


def test_scaling_changes_lengths_only():
    gradients = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    before = compute_gradient_conflicts(gradients)
    for factors in ([2.0, 0.5, 1e-30, 1e30], [3.7, 1e-3, 12.0, 0.1]):
        after = compute_gradient_conflicts(gradients * torch.tensor(factors)[:, None])
        torch.testing.assert_close(
            after.cosine_similarity_matrix, before.cosine_similarity_matrix, atol=1e-6, rtol=0
        )
        ratio = after.gradient_norms / before.gradient_norms
        torch.testing.assert_close(ratio, torch.tensor(factors).double(), rtol=1e-6, atol=0)
        assert [getattr(after, name) for name in SCORES] == pytest.approx(
            [getattr(before, name) for name in SCORES], abs=1e-6
        )


def test_permuting_tasks_permutes_rows_and_columns():
    gradients = torch.randn(5, 30, generator=torch.Generator().manual_seed(2))
    gradients[3] = 0
    order = torch.tensor([2, 3, 0, 4, 1])
    before, after = (
        compute_gradient_conflicts(gradients),
        compute_gradient_conflicts(gradients[order]),
    )
    for name in ("cosine_similarity_matrix", "magnitude_similarity"):
        expected = getattr(before, name)[order][:, order]
        torch.testing.assert_close(
            getattr(after, name), expected, atol=1e-12, rtol=0, equal_nan=True
        )
    assert torch.equal(after.valid, before.valid[order])
    assert [getattr(after, name) for name in SCORES] == pytest.approx(
        [getattr(before, name) for name in SCORES]
    )
    named = compute_gradient_conflict_distributed(gradients[order], order.tolist(), 5)
    torch.testing.assert_close(
        named.cosine_similarity_matrix, before.cosine_similarity_matrix, equal_nan=True
    )


def test_opposite_gradients_conflict_as_much_as_can_be():
    gradient = torch.randn(3, 7)
    conflict = compute_gradient_conflicts([gradient, -2 * gradient])
    scores = (conflict.max_conflict_score, conflict.avg_conflict_score, conflict.min_conflict_score)
    assert scores == pytest.approx((1, 1, 1), abs=1e-12)
    assert conflict.conflict_rate == 1 and conflict.magnitude_similarity[
        0, 1
    ].item() == pytest.approx(0.8)
    agreeing = compute_gradient_conflicts([gradient, 2 * gradient])
    assert (
        agreeing.max_conflict_score == pytest.approx(-1, abs=1e-12) and agreeing.conflict_rate == 0
    )
    apart = compute_gradient_conflicts(torch.eye(3))
    assert (apart.max_conflict_score, apart.conflict_rate, apart.coverage) == (0, 0, 1)


@pytest.mark.parametrize("gone", [0.0, None, float("nan"), float("inf")])
def test_a_task_without_a_usable_gradient_is_nan_and_leaves_the_others_alone(gone):
    gradients = list(torch.randn(3, 40, generator=torch.Generator().manual_seed(3)))
    expected = compute_gradient_conflicts(gradients)
    broken = (
        None
        if gone is None
        else gradients[0].clone().fill_(0)
        if gone == 0
        else gradients[0].clone()
    )
    if gone:
        broken[5] = gone
    conflict = compute_gradient_conflicts([gradients[0], broken, *gradients[1:]])
    assert conflict.valid.tolist() == [True, False, True, True] and conflict.coverage == 0.75
    others = torch.tensor([0, 2, 3])
    for name in ("cosine_similarity_matrix", "magnitude_similarity"):
        matrix = getattr(conflict, name)
        assert matrix[1].isnan().all() and matrix[:, 1].isnan().all()
        torch.testing.assert_close(matrix[others][:, others], getattr(expected, name))
    assert [getattr(conflict, name) for name in SCORES[:4]] == pytest.approx(
        [getattr(expected, name) for name in SCORES[:4]]
    )
    assert (conflict.gradient_norms[1] == 0).item() == (gone in (0.0, None))


@pytest.mark.parametrize(
    "gradients", [[torch.ones(2), None], [None, None], torch.zeros(3, 2), torch.ones(1, 2)]
)
def test_fewer_than_two_valid_tasks_have_no_score(gradients):
    conflict = compute_gradient_conflicts(gradients)
    assert np.isnan([getattr(conflict, name) for name in SCORES[:4]]).all()
    assert conflict.coverage == conflict.valid.double().mean().item() and conflict.valid.sum() < 2


def test_lists_tensors_and_number_formats_give_the_same():
    gradients = torch.randn(3, 4, 5).bfloat16()
    expected = compute_gradient_conflicts(gradients.double().flatten(1))
    shaped = [gradient.clone().requires_grad_() for gradient in gradients]
    for given in (shaped, gradients.flatten(1), gradients.flatten(1).float()):
        torch.testing.assert_close(
            compute_gradient_conflicts(given).cosine_similarity_matrix,
            expected.cosine_similarity_matrix,
        )


def test_a_long_sum_keeps_its_digits():
    """Two gradients whose products nearly cancel over a million columns; float32 sums would be off
    by 1e-4.
    """
    first = torch.rand(1_000_000, generator=torch.Generator().manual_seed(4)) + 1
    second = first * torch.tensor([1.0, -1.0]).repeat(500_000)
    gram = gram_matrices(torch.stack([first, second]), [1_000_000], [0, 1], 2)[0].numpy()
    expected = np.dot(first.double().numpy(), second.double().numpy())
    assert abs(gram[0, 1] - expected) < 1e-12 * gram[0, 0]


def test_batch_is_each_component_by_itself():
    generator = torch.Generator().manual_seed(5)
    groups = {
        name: torch.randn(4, size, generator=generator)
        for name, size in (("z", 3), ("a", 70), ("m", 1))
    }
    groups["list"] = [None, *torch.randn(3, 2, 2, generator=generator)]
    batch = compute_gradient_conflicts_batch(groups)
    assert list(batch) == list(groups)
    for name, gradients in groups.items():
        assert_same_conflict(as_dict(batch[name]), as_dict(compute_gradient_conflicts(gradients)))
    other = compute_gradient_conflicts_batch(
        {"z": groups["z"]}, task_ids=[3, 0, 1, 5], num_tasks=6
    )["z"]
    assert other.valid.tolist() == [True, True, False, True, False, True]
    assert other.cosine_similarity_matrix[0, 5] == batch["z"].cosine_similarity_matrix[1, 3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compute_gradient_conflicts([]), "no gradients"),
        (lambda: compute_gradient_conflicts(torch.zeros(0, 3)), "no gradients"),
        (lambda: compute_gradient_conflicts([torch.zeros(2), torch.zeros(3)]), r"shapes \[\(2,\), \(3,\)\]"),
        (lambda: compute_gradient_conflicts(torch.zeros(2, 3, 4)), r"shape \(2, 3, 4\)"),
        (lambda: compute_gradient_conflicts(torch.zeros(2, 0)), r"shape \(2, 0\)"),
        (lambda: compute_gradient_conflict_distributed(torch.zeros(2, 3), [0, 2], 2), r"task_ids=\[0, 2\].* = 1$"),
        (lambda: compute_gradient_conflict_distributed(torch.zeros(2, 3), [-1, 0], 2), r"task_ids=\[-1, 0\]"),
        (lambda: compute_gradient_conflict_distributed(torch.zeros(2, 3), [0], 2), "2 rows of gradients, 1 task_ids"),
        (lambda: compute_gradient_conflicts_batch({}), "groups={}"),
        (lambda: compute_gradient_conflicts_batch({}, [], 2), "at least one component"),
        (lambda: compute_gradient_conflicts_batch({"a": torch.ones(2, 1), "b": torch.ones(3, 1)}), "3 rows"),
        (lambda: gram_matrices(torch.zeros(3), [3], [0], 1), r"rows has shape \(3,\)"),
        (lambda: gram_matrices(torch.zeros(1, 3), [1, 1], [0], 1), r"lengths=\[1, 1\] for 3 columns"),
        (lambda: gram_matrices(torch.zeros(1, 3), [3, 0], [0], 1), r"lengths=\[3, 0\]"),
        (lambda: gram_matrices(torch.zeros(1, 0), [], [0], 1), r"lengths=\[\]"),
        (lambda: GradientConflict.from_gram(torch.zeros(2, 3)), r"shape \(2, 3\)"),
        (lambda: GradientConflict.from_gram(torch.zeros(0, 0)), r"shape \(0, 0\)"),
        (lambda: gradient_conflict_heatmap(compute_gradient_conflicts(torch.eye(3)), ["a", "b"], ""), "2 names: 3"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_row_i_of_the_picture_is_task_i():
    """Tasks are told apart by the ink of their names and, in the same row, by the colours of their
    cosines.
    """
    names = ["mmmm", "m", "mmmmmmmmm"]
    angles = np.deg2rad([0.0, 40.0, 180.0])
    conflict = compute_gradient_conflicts(
        torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    )
    for order in ([0, 1, 2], [2, 0, 1]):
        gradients = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], axis=1))[order]
        conflict = compute_gradient_conflicts(gradients)
        picture = gradient_conflict_heatmap(
            conflict, [names[task] for task in order], "Title"
        ).transpose(1, 2, 0)
        red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
        strongest = (
            (blue > 80) & (red < 20) & (green < 60)
        )  # cosine 1, nowhere else but in the colour bar
        rows, columns = np.nonzero(strongest[:, : -picture.shape[1] // 4])
        left, top, size = columns.min(), rows.min(), (rows.max() + 1 - rows.min()) / 3
        widths = []
        for i in range(3):
            band = slice(round(top + i * size), round(top + (i + 1) * size))
            ink = np.flatnonzero((picture[band, : left - 2].max(axis=2) < 128).any(axis=0))
            widths.append(np.ptp(ink) + 1)
            for j in range(3):
                r, g, b = picture[round(top + i * size) + 4, round(left + j * size) + 4].astype(int)
                assert np.sign(b - r) == np.sign(np.cos(angles[order[i]] - angles[order[j]])), (
                    i,
                    j,
                )
        assert (
            np.argsort(widths).tolist() == np.argsort([len(names[task]) for task in order]).tolist()
        )


def test_pictures_are_logged_by_component():
    conflict = compute_gradient_conflicts([torch.ones(2), None, -torch.ones(2)])
    pictures = Pictures()
    log_gradient_conflict_heatmaps(
        pictures, {"encoder": conflict, "expert_0/layer1": conflict}, ["a", "b", "c"], 30
    )
    assert [(tag, step) for tag, _, step in pictures.added] == [
        ("gradient_conflict_matrix/encoder", 30),
        ("gradient_conflict_matrix/expert_0/layer1", 30),
    ]
    for _, image, _ in pictures.added:
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[0] == 3


def conflict_of(*cosines: float) -> GradientConflict:
    """Of three tasks whose pairs (0, 1), (0, 2), (1, 2) have these cosines."""
    gram = torch.eye(3, dtype=torch.float64)
    gram[[0, 0, 1], [1, 2, 2]] = gram[[1, 2, 2], [0, 0, 1]] = torch.tensor(cosines).double()
    return GradientConflict.from_gram(gram)


@pytest.mark.parametrize(
    ("conflict", "largest"),
    [
        (conflict_of(0.02, -0.05, 0.01), 0.05),
        (conflict_of(1.0, 0.5, 0.2), 1.0),
        (conflict_of(0.0, 1e-3, 0.0), 1e-3),
        (conflict_of(0.0, 0.0, 0.0), 1.0),
        (conflict_of(1e-9, -1e-9, 0.0), 1.0),  # what single precision leaves of nothing
        (compute_gradient_conflicts([torch.tensor([1.0, 0.1]), None, torch.tensor([0.0, 1.0])]), 0.1 / 1.01**0.5),
        (compute_gradient_conflicts([torch.ones(2)]), 1.0),
        (compute_gradient_conflicts([None, None]), 1.0),
    ],
)  # fmt: skip
def test_an_automatic_limit_is_the_largest_cosine_between_two_tasks(conflict, largest, monkeypatch):
    asked = {}
    monkeypatch.setattr(pictures_module, "heatmap_image", lambda *_, **style: asked.update(style))
    tasks = ["a", "b", "c"][: len(conflict.valid)]
    gradient_conflict_heatmap(conflict, tasks, "", limit="auto")
    assert asked["limits"] == pytest.approx((-largest, largest), rel=1e-6)
    assert asked["bar_note"] == "(auto)"
    gradient_conflict_heatmap(conflict, tasks, "", limit=0.3)
    assert asked["limits"] == (-0.3, 0.3) and asked["bar_note"] == ""
    gradient_conflict_heatmap(conflict, tasks, "")
    assert asked["limits"] == (-1.0, 1.0)


def test_small_cosines_have_strong_colours_where_limits_are_theirs():
    conflict = conflict_of(-0.05, 0.0, 0.0)
    reddest, pictures = {}, Pictures()
    for limit in (1.0, 0.5, "auto"):
        log_gradient_conflict_heatmaps(pictures, {"a": conflict}, ["x", "y", "z"], 0, limit=limit)
        red, _, blue = pictures.added[-1][1].astype(int)
        # the bar has every colour, but few pixels of each
        reddest[limit] = ((red < 120) & (red > blue + 50)).sum()
    assert reddest["auto"] > 5 * max(reddest[1.0], reddest[0.5])
