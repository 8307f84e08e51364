"""LightZero's functions of gradient conflict, on those of :mod:`lzero.analysis.conflict`.

Signatures and values are those of LightZero's ``lzero/policy/utils.py``. What differs on purpose in
ours: a task keeps its row whether it has a gradient or not (there rows without one are dropped, so
that row i is no longer task i), fewer than two gradients give NaN (there 0), and several ranks may
share a task (there every row is a task of its own).

Shape legend: L = rows of this rank, N = rows that count, D = length of a gradient.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from easydict import EasyDict
from torch import Tensor, distributed

from lzero import checks
from lzero.analysis import conflict as ours
from lzero.analysis.conflict_heatmaps import ImageLogger
from lzero.analysis.gram import Ranks, as_rows
from lzero.analysis.heatmap import heatmap_image

LEAST_NORM = 1e-8
"""LightZero's limit: a row whose length is not above it counts as no gradient."""
COLOR_LIMIT = 0.2
"""LightZero's: |cosine| from which on colours of its heatmaps are strongest."""
NOT_ROWS = -1  # what a rank tells the others that was given something else


def compute_gradient_conflicts(gradients: Sequence[Tensor]) -> EasyDict:
    """Conflict of gradients in this process, with LightZero's keys and values.

    ``avg_conflict_score``, ``max_conflict_score``, ``min_conflict_score`` (of −cosine over pairs),
    ``cosine_similarity_matrix`` and ``dot_product_matrix`` ``(N, N)`` on the gradients' device,
    ``gradient_norms`` (N floats), ``num_conflicting_pairs`` and ``avg_conflict_intensity``: the mean
    of minus the scalar product, not of the cosine, over pairs where it is negative; 0 without such a
    pair.

    Unlike :func:`lzero.analysis.conflict.compute_gradient_conflicts`, a gradient of zeros has cosine 0
    with every other and counts in the mean, and one gradient alone has scores 0.

    Args:
        gradients: N tensors of one shape, or a tensor ``(N, D)``.

    Raises:
        TypeError: if they are no tensors.
        ValueError: if shapes differ.
    """
    checks.instance("gradients", gradients, (Tensor, Sequence), "a tensor (N, D), or N tensors")
    if len(gradients) == 0:
        return _nothing(torch.device("cpu"))
    rows = as_rows(gradients)
    return _as_lightzero(ours.compute_gradient_conflicts(rows), rows)


def compute_gradient_conflict_distributed(
    local_grads: Tensor, multi_gpu: bool = True, device: Any = 0
) -> EasyDict:
    """Conflict of the rows of all ranks, those of rank 0 first; rows without a gradient are dropped.

    A collective where there is a process group and ``multi_gpu``. Only parts of the rows travel,
    where LightZero gathers all of them everywhere. Keys as of :func:`compute_gradient_conflicts`.

    Args:
        local_grads: gradients of this rank ``(L, D)``, a row per task; ``(0, D)`` without a task.
        multi_gpu: False looks at the rows of this rank alone.
        device: for LightZero's sake; results lie where ``local_grads`` lies.

    Returns:
        The same on every rank.

    Raises:
        TypeError: if ``local_grads`` is no tensor.
        ValueError: if it is not ``(L, D)``, or other ranks' rows have other lengths.
    """
    return compute_gradient_conflicts_batch({"rows": local_grads}, device, multi_gpu)["rows"]


def compute_gradient_conflicts_batch(
    gradient_groups: Mapping[str, Tensor], device: Any = 0, multi_gpu: bool = True
) -> dict[str, EasyDict]:
    """:func:`compute_gradient_conflict_distributed` of several components in one exchange.

    A component without rows on any rank has scores 0 and a matrix ``(1, 1)``; LightZero gives its
    ``avg_conflict_score`` alone.

    Args:
        gradient_groups: rows of this rank ``(L, D)`` by component; all ranks name the same ones. L and
            D may differ between components, and an empty tensor says that there is none here.
        device: for LightZero's sake; results lie where the rows lie.
        multi_gpu: False looks at the rows of this rank alone.

    Raises:
        TypeError: if a component is no tensor.
        ValueError: if one is not ``(L, D)``, or ranks do not fit each other.
    """
    checks.mapping("gradient_groups", gradient_groups, "tensors (L, D) by component")
    ranks = Ranks.of(None) if multi_gpu else Ranks()
    problem: TypeError | ValueError | None = None
    most = 0
    try:
        for name, rows in gradient_groups.items():
            checks.instance(f"gradient_groups[{name!r}]", rows, Tensor, "a tensor (L, D)")
            if rows.numel():
                checks.shape(f"gradient_groups[{name!r}]", rows, None, None)
                most = max(most, len(rows))
    except (TypeError, ValueError) as error:
        problem, most = (
            error,
            NOT_ROWS,
        )  # the other ranks wait in the exchange: they must hear of it
    counts = _of_every_rank(most, ranks)
    if problem is not None:
        raise problem
    if NOT_ROWS in counts:
        raise ValueError(
            f"gradient_groups: rank {counts.index(NOT_ROWS)} was given no tensors (L, D)"
        )
    total, before = sum(counts), sum(counts[: ranks.rank])
    if total == 0 or not gradient_groups:
        return {name: _nothing(rows.device) for name, rows in gradient_groups.items()}
    padded: dict[str, list[Tensor | None]] = {}
    for name, rows in gradient_groups.items():
        given: list[Tensor | None] = list(rows.detach()) if rows.numel() else []
        padded[name] = given + [None] * (most - len(given))
    if ranks.count > 1:
        ids = range(before, before + most)
        found = ours.compute_gradient_conflicts_batch(padded, ids, total)
    else:
        found = {name: ours.compute_gradient_conflicts(rows) for name, rows in padded.items()}
    results = {}
    for name, rows in gradient_groups.items():
        results[name] = _as_lightzero(found[name], rows, LEAST_NORM)
    return results


def log_gradient_conflict_heatmaps_distributed_fast(
    tb_logger: ImageLogger, matrix_list: Sequence[tuple[str, Tensor | None]], step: int
) -> None:
    """Log a picture ``gradient_conflict_matrix/{tag}`` of every matrix, with LightZero's limits of
    colours, ±0.2, and without the diagonal.

    Rank 0 draws all of them and no rank waits; in LightZero every rank draws its share into a log of
    its own. Pictures are uint8 ``(3, H, W)``, red where gradients conflict and blue where they agree;
    LightZero's are floats and blue alone.

    Args:
        tb_logger: TensorBoard's ``SummaryWriter``, or what has ``add_image(tag, image, step)``.
        matrix_list: pairs of tag and matrix ``(N, M)``; None and empty matrices are passed over.
        step: of the x-axis.

    Raises:
        TypeError: if ``tb_logger`` takes no pictures.
        ValueError: if a matrix has other axes.
    """
    if Ranks.of(None).rank != 0:
        return
    if not hasattr(tb_logger, "add_image"):
        raise TypeError(
            f"tb_logger={checks.shown(tb_logger)}: allowed is what has add_image(tag, image, step)"
        )
    for tag, matrix in matrix_list:
        if matrix is None or matrix.numel() == 0:
            continue
        checks.shape(f"matrix_list[{tag!r}]", matrix, None, None)
        cells = matrix.detach().to("cpu", torch.float64).numpy().copy()
        if cells.shape[0] == cells.shape[1]:
            np.fill_diagonal(cells, np.nan)
        rows, columns = (list(map(str, range(length))) for length in cells.shape)
        picture = heatmap_image(
            {"cosine similarity of gradients": cells},
            rows,
            columns,
            title=tag,
            limits=(-COLOR_LIMIT, COLOR_LIMIT),
            colors="RdBu",
        )
        tb_logger.add_image(f"gradient_conflict_matrix/{tag}", picture, step)


def _of_every_rank(number: int, ranks: Ranks) -> list[int]:
    if ranks.count == 1:
        return [number]
    on_gpu = distributed.get_backend(ranks.group) == "nccl"
    mine = torch.tensor([number], device="cuda" if on_gpu else "cpu")
    everybody = [torch.empty_like(mine) for _ in range(ranks.count)]
    distributed.all_gather(everybody, mine, group=ranks.group)
    return torch.cat(everybody).tolist()


def _as_lightzero(
    found: ours.GradientConflict, rows: Tensor, least_norm: float | None = None
) -> EasyDict:
    """Our result with LightZero's keys; rows that are not longer than ``least_norm`` are dropped."""
    kept = torch.ones_like(found.valid) if least_norm is None else found.gradient_norms > least_norm
    norms = found.gradient_norms[kept]
    products = found.products.gram[0][kept][:, kept]
    if len(norms) < 2:
        return _nothing(rows.device, norms.tolist())
    cosine = found.cosine_similarity_matrix[kept][:, kept].clone()
    absent = norms == 0
    cosine[absent] = 0.0  # ours are NaN
    cosine[:, absent] = 0.0
    scores = -cosine[~torch.eye(len(cosine), dtype=torch.bool)]
    against = products[torch.triu(products < 0, diagonal=1)]
    dtype = rows.dtype if rows.is_floating_point() else torch.float32
    return EasyDict(
        avg_conflict_score=scores.mean().item(),
        max_conflict_score=scores.max().item(),
        min_conflict_score=scores.min().item(),
        num_conflicting_pairs=len(against),
        avg_conflict_intensity=-against.mean().item() if len(against) else 0.0,
        gradient_norms=norms.tolist(),
        dot_product_matrix=products.to(rows.device, dtype),
        cosine_similarity_matrix=cosine.to(rows.device, dtype),
    )


def _nothing(device: torch.device, norms: Sequence[float] = ()) -> EasyDict:
    """LightZero's result of fewer than two gradients."""
    return EasyDict(
        avg_conflict_score=0.0,
        max_conflict_score=0.0,
        min_conflict_score=0.0,
        num_conflicting_pairs=0,
        avg_conflict_intensity=0.0,
        gradient_norms=list(norms),
        dot_product_matrix=torch.zeros(1, 1, device=device),
        cosine_similarity_matrix=torch.zeros(1, 1, device=device),
    )
