"""What PPO draws, and what its updates measure.

Shape legend: N = environments of this rank, T = tasks of the run, P = parameters, Q = terms (:data:`TERMS`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lzero.analysis.conflict import GradientConflict, HalfGrams

TERMS = ("policy", "value", "entropy", "kl", "clipped")
"""Means over the steps of a task: the three terms of the loss, the approximate divergence from the policy that acted
(Schulman's estimator r − 1 − ln r), and the share of steps whose ratio is clipped."""


@dataclass(frozen=True)
class Acted:
    """What was drawn for N observations: ``action`` int64, ``log_prob`` of it, and the critic's ``value``, each ``(N,)``."""

    action: np.ndarray
    log_prob: Tensor
    value: Tensor


@dataclass(frozen=True)
class PPOResult:
    """What the updates of a round measured; tensors stay on the device until somebody reads them.

    Attributes:
        task_means: means of the terms over steps, ranks and updates ``(Q, T)``; NaN for a task that was not played.
        task_losses: loss of each task in the last update ``(T,)``.
        gradient_norms: of every parameter in the last update, before clipping ``(P,)``.
        grad_norm: mean over the updates, before clipping.
        similarity: mean cosine between the gradients of consecutive updates; NaN where there is none before.
        router_entropy: by mixture, mean over updates and tokens in nats, by task ``(T,)``.
        measured: scalar products of the tasks' gradients; None if no update measured conflict.
    """

    task_means: Tensor
    task_losses: Tensor
    gradient_norms: Tensor
    grad_norm: Tensor
    similarity: Tensor
    router_entropy: Mapping[str, Tensor]
    measured: HalfGrams | None

    def conflicts(self) -> dict[str, GradientConflict]:
        """Gradient conflict by measuring point; empty if no update measured it. Waits for the device."""
        return {} if self.measured is None else self.measured.conflicts()
