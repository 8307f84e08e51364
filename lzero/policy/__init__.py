"""The UniZero multi-task policy: targets, losses, updates, acting."""

from lzero.policy.unizero_multitask import UniZeroMTPolicy

__all__ = ["UniZeroMTPolicy"]
