"""Conflict without noise, and the parts of a layer."""

import numpy as np
import torch

from lzero.analysis.conflict import (
    GradientConflict,
    compute_gradient_conflict_distributed,
    compute_gradient_conflicts,
    compute_gradient_conflicts_batch,
)
from lzero.analysis.conflict_parts import conflict_shares, matched_conflict, parts_by_layer
from tests.bad_calls.bad import Bad

G = torch.eye(2)
ONE, TWO = compute_gradient_conflicts(torch.eye(3)), compute_gradient_conflicts(G, G)
from_halves = GradientConflict.from_half_grams

CASES = {
    "halves: one row less": Bad(
        lambda: compute_gradient_conflicts(G, torch.ones(1, 2)), "1 rows.*2 task_ids"
    ),
    "halves: other columns": Bad(
        lambda: compute_gradient_conflicts(G, torch.ones(2, 3)), r"halves.*\(2, 2\).*\(2, 3\)"
    ),
    "halves: a number": Bad(lambda: compute_gradient_conflicts(G, 0.5), "gradients=0.5", TypeError),
    "halves of ranks: other columns": Bad(
        lambda: compute_gradient_conflict_distributed(G, [0, 1], 2, second_half=torch.ones(2, 5)),
        r"halves.*\(2, 5\)",
    ),
    "halves of a batch: another component": Bad(
        lambda: compute_gradient_conflicts_batch({"a": G}, second_half={"b": G}),
        r"\['b'\].*\['a'\]",
    ),
    "halves of a batch: a tensor": Bad(
        lambda: compute_gradient_conflicts_batch({"a": G}, second_half=G), "second_half", TypeError
    ),
    "half Gram matrices of whole tasks": Bad(
        lambda: from_halves(torch.ones(1, 3, 3), torch.ones(2, 2)), r"grams.*\(1, 3, 3\)"
    ),
    "half Gram matrices as an array": Bad(
        lambda: from_halves(np.ones((1, 4, 4)), torch.ones(2, 2)), "grams=ndarray", TypeError
    ),
    "half Gram matrices: a number of rows for each task": Bad(
        lambda: from_halves(torch.ones(1, 4, 4), torch.ones(2)), "sizes.*two numbers of rows"
    ),
    "half Gram matrices: fewer rows than none": Bad(
        lambda: from_halves(torch.ones(1, 2, 2), torch.tensor([[1, -1]])), r"sizes=\[\[1, -1\]\]"
    ),
    "half Gram matrices: numbers of rows in a list": Bad(
        lambda: from_halves(torch.ones(1, 2, 2), [[1, 1]]), r"sizes=\[\[1, 1\]\]", TypeError
    ),
    "pooling nothing": Bad(lambda: GradientConflict.pooled([]), "0 conflicts"),
    "pooling other numbers of tasks": Bad(
        lambda: GradientConflict.pooled([ONE, TWO]), r"2 conflicts of \[2, 3\] tasks"
    ),
    "pooling one conflict that is in no list": Bad(
        lambda: GradientConflict.pooled(ONE), "conflicts=GradientConfl.*a list", TypeError
    ),
    "pooling matrices": Bad(
        lambda: GradientConflict.pooled([torch.eye(2)]), r"conflicts\[0\]=Tensor", TypeError
    ),
    "measurements that are none": Bad(
        lambda: GradientConflict.from_measurements(torch.eye(2)), "products=Tensor", TypeError
    ),
    "interval of two": Bad(lambda: TWO.denoised_cosine_interval(2.0), "confidence=2"),
    "interval of a text": Bad(
        lambda: TWO.denoised_cosine_interval("95 %"), "confidence='95 %'", TypeError
    ),
    "parts of layers without names": Bad(lambda: parts_by_layer([3]), "components", TypeError),
    "shares of a list": Bad(lambda: conflict_shares([ONE]), "parts", TypeError),
    "shares of matrices": Bad(
        lambda: conflict_shares({"router": torch.eye(2)}), r"parts\['router'\]=Tensor", TypeError
    ),
    "shares of other numbers of tasks": Bad(
        lambda: conflict_shares({"router": ONE, "expert_0": TWO}), r"\[2, 3\] tasks"
    ),
    "matched conflict of a list": Bad(lambda: matched_conflict([np.eye(2)]), "cosines", TypeError),
    "matched conflict of tensors": Bad(
        lambda: matched_conflict({"shared_expert": torch.eye(2)}),
        "shared_expert.*Tensor",
        TypeError,
    ),
    "matched conflict of other sizes": Bad(
        lambda: matched_conflict({"shared_expert": np.eye(2), "expert_0": np.eye(3)}),
        r"expert_0.*\(3, 3\)",
    ),
}
