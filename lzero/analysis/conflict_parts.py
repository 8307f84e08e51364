"""What the parts of a layer have of its conflict: the shared expert, each routed expert and the router.

A cosine has no size: a part with little gradient may have any. Scalar products have, and those of the parts add up to the
layer's, so that they can be shared out. And a routed expert is used by some of the games only: its largest conflict is the
largest of fewer pairs, and may be compared with another part's on the same pairs alone.

Shape legend: K = measurements, T = tasks.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lzero import checks
from lzero.analysis.conflict import GradientConflict

ROUTED_EXPERT = re.compile(r"expert_\d+")
SHARED_EXPERT = "shared_expert"
ROUTER = "router"


@dataclass(frozen=True)
class ConflictShare:
    """One part's share in a layer; NaN where the layer has none.

    Attributes:
        conflict: of the negative scalar products between tasks' gradients, added over pairs, 0 to 1.
        norm: of the tasks' squared gradient norms, 0 to 1.
        excess: ``conflict / norm``: above 1 the part carries more conflict than its size explains.
    """

    conflict: float
    norm: float
    excess: float


@dataclass(frozen=True)
class MatchedConflict:
    """Largest conflicts on the same pairs of tasks, those that a routed expert has; means over the experts that have any.

    Attributes:
        shared: of the shared expert.
        routed: of the routed experts.
        num_experts: how many have a pair.
        num_pairs: that they have, on average.
    """

    shared: float
    routed: float
    num_experts: int
    num_pairs: float


def parts_by_layer(components: Sequence[str]) -> dict[str, dict[str, str]]:
    """The parts of every mixture-of-experts layer: by layer (``layer0``) and part (``expert_3``), the component's name.

    Args:
        components: names as measuring points have them: ``shared_expert/layer0``, ``expert_3/layer0``, ``router/layer0``;
            others are left out.

    Raises:
        TypeError: if they are no names.
    """
    checks.names("components", list(components))
    layers: dict[str, dict[str, str]] = {}
    for component in components:
        part, _, layer = component.partition("/")
        if layer and (part in (SHARED_EXPERT, ROUTER) or ROUTED_EXPERT.fullmatch(part)):
            layers.setdefault(layer, {})[part] = component
    return layers


def conflict_shares(parts: Mapping[str, GradientConflict]) -> dict[str, ConflictShare]:
    """How much of a layer's conflict and of its gradient lies in each part.

    With pooled conflicts scalar products are added over the measurements first, so that noise, which makes them negative as
    often as positive, averages out.

    Args:
        parts: conflict in each part of one layer.

    Raises:
        TypeError: if it is no mapping of conflicts.
        ValueError: if the parts are of other numbers of tasks.
    """
    checks.mapping("parts", parts, "GradientConflict by part")
    negative, squares = {}, {}
    for part, conflict in parts.items():
        checks.instance(f"parts[{part!r}]", conflict, GradientConflict, "a GradientConflict")
        # what is no number, of a task whose loss was none, is in no sum
        gram = np.nan_to_num(conflict.products.gram.numpy(), posinf=0.0, neginf=0.0).sum(axis=0)
        pairs = np.triu(gram, 1)
        negative[part] = -pairs[pairs < 0].sum()
        squares[part] = gram.trace()
    numbers = {len(conflict.valid) for conflict in parts.values()}
    if len(numbers) > 1:
        raise ValueError(f"parts are of {sorted(numbers)} tasks: give those of one layer")
    all_negative, all_squares = sum(negative.values()), sum(squares.values())
    shares = {}
    for part in parts:
        conflict_share = float(negative[part] / all_negative) if all_negative > 0 else np.nan
        norm_share = float(squares[part] / all_squares) if all_squares > 0 else np.nan
        excess = conflict_share / norm_share if norm_share > 0 else np.nan
        shares[part] = ConflictShare(conflict_share, norm_share, excess)
    return shares


def matched_conflict(cosines: Mapping[str, np.ndarray]) -> MatchedConflict:
    """Largest conflict of the shared and of the routed experts of a layer, compared on the same pairs.

    For each routed expert: its maximum negative cosine, and that of the shared expert over the pairs of tasks that have a
    cosine in both.

    Args:
        cosines: ``(T, T)`` by part, NaN where a task has no gradient.

    Returns:
        NaN without a shared expert, or where no routed expert has a pair.

    Raises:
        TypeError: if it is no mapping of arrays.
        ValueError: if they are no square matrices of one size.
    """
    checks.mapping("cosines", cosines, "cosine matrices by part")
    sizes = [len(matrix) for matrix in cosines.values() if isinstance(matrix, np.ndarray)]
    for part, matrix in cosines.items():
        checks.instance(f"cosines[{part!r}]", matrix, np.ndarray, "an array (T, T)")
        checks.shape(f"cosines[{part!r}]", matrix, sizes[0], sizes[0])
    shared_values, routed_values, numbers = [], [], []
    if SHARED_EXPERT in cosines:
        shared = cosines[SHARED_EXPERT]
        above = np.triu(np.ones(shared.shape, bool), 1)
        for part, own in cosines.items():
            both = above & np.isfinite(own) & np.isfinite(shared)
            if ROUTED_EXPERT.fullmatch(part) and both.any():
                shared_values.append(-shared[both].min())
                routed_values.append(-own[both].min())
                numbers.append(both.sum())
    if not numbers:
        return MatchedConflict(np.nan, np.nan, 0, 0.0)
    return MatchedConflict(
        float(np.mean(shared_values)),
        float(np.mean(routed_values)),
        len(numbers),
        float(np.mean(numbers)),
    )
