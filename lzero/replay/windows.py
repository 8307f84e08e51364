"""What is drawn from the replay: windows of consecutive rows.

Shape legend: A = actions, B = windows, K = rows of a window (unroll steps + td steps + 1), P = rows of its past, ``(…)`` =
shape of one observation. What a row is, and what its flags mean: :mod:`lzero.replay.rings`.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ReplayWindows:
    """B windows of K consecutive rows, sorted by task id, and what was seen and done before them."""

    observation: Tensor
    """``(B, P+K, …)`` in the buffer's dtype; images ``(B, P+K, C, H, W)`` as views of channels-last
    memory.
    """
    action: Tensor
    """int64 ``(B, P+K)``."""
    reward: Tensor
    """float32 ``(B, K)``."""
    terminated: Tensor
    """bool ``(B, K)``: the row's action ended the episode by death (or cost a life)."""
    truncated: Tensor
    """bool ``(B, K)``: the row's action ended the episode by a limit."""
    reset: Tensor
    """bool ``(B, K)``: the row is a final observation, its action does not count."""
    visits: Tensor
    """float32 ``(B, K, A)``: visit distribution."""
    root_value: Tensor
    """float32 ``(B, K)``."""
    task_id: Tensor
    """int64 ``(B,)``."""
    weight: Tensor
    """float32 ``(B,)``: importance weights, at most 1; all 1 when sampling is uniform."""
    index: Tensor
    """int64 ``(B, 2)``: ring and absolute step of the first row, for ``update_priorities``."""
    age: Tensor
    """int64 ``(B,)``: env steps taken in the ring since (and with) the first row."""
    episode: Tensor
    """int64 ``(B, P+K)``: number of the episode that a row belongs to, counted along the window; −1 for
    a row that was overwritten or lost and means nothing."""
