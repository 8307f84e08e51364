"""What a policy is made of between two updates, as tensors for a checkpoint."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lzero.checkpoint import load_optimizer_state_, optimizer_state_to_tensors

if TYPE_CHECKING:
    from lzero.policy.unizero_multitask import UniZeroMTPolicy


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


def is_finite(policy: "UniZeroMTPolicy") -> bool:
    """Whether all parameters are numbers; waits for the device."""
    return bool(torch.stack(torch._foreach_norm(list(policy.model.parameters()))).isfinite().all())
