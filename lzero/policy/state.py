"""What a policy is made of between two updates, as tensors for a checkpoint."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from lzero.analysis.expert_recorder import ExpertSelectionRecorder
from lzero.checkpoint import load_optimizer_state_, optimizer_state_to_tensors

if TYPE_CHECKING:
    from lzero.policy.unizero_multitask import UniZeroMTPolicy


class TrainedPolicy(Protocol):
    """What a run asks of a policy, whatever it learns with.

    Attributes:
        device: where its networks are.
        train_iter: updates so far.
        skipped_in_a_row: of the last updates those whose loss or gradient was no number, a scalar.
        expert_statistics: which tasks chose which experts.
    """

    device: torch.device
    train_iter: int
    skipped_in_a_row: Tensor
    expert_statistics: ExpertSelectionRecorder

    @property
    def state_groups(self) -> tuple[str, ...]:
        """Groups of its state that a checkpoint keeps as files of tensors; ``counters`` is one more, which goes into the
        checkpoint's JSON.
        """

    @property
    def model(self) -> nn.Module:
        """Its online network."""

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Everything but environments, data and random generators, in groups of tensors; collective."""

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from what :meth:`state_dict` gave."""


def state_of(policy: "UniZeroMTPolicy") -> dict[str, dict[str, Tensor]]:
    """Networks, optimizer, counters and statistics in groups of tensors, one for each file of a checkpoint.

    Collective: every rank must call it. Not in it are replay, environments and random generators.
    """
    return {
        "model": policy.model.state_dict(),
        "target": policy.target.state_dict(),
        "optimizer": optimizer_state_to_tensors(policy.optimizer, policy.model.named_parameters()),
        "entropy": {"log_weight": policy.entropy_weight.log_weight},
        "expert_selection": policy.expert_statistics.state(),
        "counters": {
            "train_iter": torch.tensor(policy.train_iter),
            "skipped": policy.skipped.cpu(),
            "skipped_in_a_row": policy.skipped_in_a_row.cpu(),
        },
    }


def load_state_of_(policy: "UniZeroMTPolicy", state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Continue from what :func:`state_of` gave.

    Raises:
        CheckpointError: if the optimizer's state does not fit the model.
        RuntimeError: if a network's parameters do not.
    """
    policy.model.load_state_dict(state["model"])
    policy.target.load_state_dict(state["target"])
    load_optimizer_state_(policy.optimizer, policy.model.named_parameters(), state["optimizer"])
    policy.entropy_weight.log_weight = state["entropy"]["log_weight"]
    policy.expert_statistics.load_state(state["expert_selection"], is_main=policy.dist.is_main)
    counters = state["counters"]
    policy.train_iter = int(counters["train_iter"])
    policy.skipped = counters["skipped"].to(policy.device)
    policy.skipped_in_a_row = counters["skipped_in_a_row"].to(policy.device)


def is_finite(policy: TrainedPolicy) -> bool:
    """Whether all parameters are numbers; waits for the device."""
    return bool(torch.stack(torch._foreach_norm(list(policy.model.parameters()))).isfinite().all())
