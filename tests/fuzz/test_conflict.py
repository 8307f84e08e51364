"""Conflict of any gradients: what it is by definition, in any order, at any scale."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lzero.analysis.conflict import (
    GradientConflict,
    compute_gradient_conflict_distributed,
    compute_gradient_conflicts,
    compute_gradient_conflicts_batch,
)

# Squares of these neither vanish nor overflow in float32.
NUMBERS = st.floats(-(2.0**50), 2.0**50, width=32).filter(lambda x: x == 0 or abs(x) > 1e-15)
ANY_NUMBER = st.floats(width=32)


@st.composite
def gradients(draw, numbers=NUMBERS):
    """(T, D), some of them zero."""
    num_tasks, length = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    rows = draw(
        st.lists(
            st.lists(numbers, min_size=length, max_size=length),
            min_size=num_tasks,
            max_size=num_tasks,
        )
    )
    return torch.tensor(rows, dtype=torch.float32)


def check(conflict: GradientConflict) -> None:
    """What holds of every conflict."""
    cosine, valid = conflict.cosine_similarity_matrix, conflict.valid
    assert torch.equal(cosine.isnan(), ~(valid[:, None] & valid))
    known = cosine[valid][:, valid]
    assert ((known >= -1) & (known <= 1)).all() and torch.equal(known, known.mT)
    assert (known.diagonal() == 1).all()
    likeness = conflict.magnitude_similarity[valid][:, valid]
    assert ((likeness >= 0) & (likeness <= 1 + 1e-12)).all()
    assert conflict.coverage == valid.double().mean()
    scores = -known[torch.ones_like(known).triu(1) == 1]
    if len(scores):
        assert conflict.max_conflict_score == scores.max()
        assert conflict.min_conflict_score == scores.min()
        assert np.isclose(conflict.avg_conflict_score, scores.mean(), rtol=0, atol=1e-12)
        assert np.isclose(conflict.conflict_rate, (scores > 0).double().mean())
    else:
        assert np.isnan(conflict.avg_conflict_score) and np.isnan(conflict.max_conflict_score)


@given(gradients())
def test_cosines_are_those_of_the_definition(grads):
    conflict = compute_gradient_conflicts(grads)
    check(conflict)
    rows = grads.double().numpy()
    norms = np.linalg.norm(rows, axis=1)
    assert (conflict.valid.numpy() == (norms > 0)).all()
    for one in range(len(rows)):
        for other in range(len(rows)):
            if norms[one] > 0 and norms[other] > 0:
                wanted = rows[one] @ rows[other] / norms[one] / norms[other]
                # float32 products round where they cancel
                assert abs(conflict.cosine_similarity_matrix[one, other] - wanted) < 1e-5


@given(gradients(ANY_NUMBER))
def test_no_numbers_stay_apart(grads):
    """NaN, infinities and squares that overflow cost their tasks alone."""
    conflict = compute_gradient_conflicts(grads)
    check(conflict)
    assert not conflict.valid[~grads.isfinite().all(dim=1)].any()
    good = conflict.valid
    if good.any():
        alone = compute_gradient_conflicts(grads[good])
        torch.testing.assert_close(
            alone.cosine_similarity_matrix,
            conflict.cosine_similarity_matrix[good][:, good],
            rtol=0,
            atol=1e-6,  # a product of fewer rows may add in another order
        )


@given(gradients(), st.randoms(use_true_random=False))
def test_order_names_and_rows_do_not_matter(grads, random):
    order = list(range(len(grads)))
    random.shuffle(order)
    whole = compute_gradient_conflicts(grads)
    shuffled = compute_gradient_conflict_distributed(grads[order], order, len(grads))
    torch.testing.assert_close(
        whole.cosine_similarity_matrix,
        shuffled.cosine_similarity_matrix,
        rtol=0,
        atol=1e-6,
        equal_nan=True,
    )
    both = compute_gradient_conflicts_batch({"b": grads, "a": grads[order]})
    assert list(both) == ["b", "a"]
    torch.testing.assert_close(
        both["b"].cosine_similarity_matrix, whole.cosine_similarity_matrix, equal_nan=True
    )
