"""Entry points: training and evaluation."""

from lzero.entry.callbacks import (
    Callback,
    CheckpointEvent,
    EvaluationEvent,
    Event,
    RoundEvent,
    Stop,
    StopEvent,
    UpdateEvent,
)
from lzero.entry.result import TrainResult
from lzero.entry.train_ppo_moe import train_ppo_moe
from lzero.entry.train_unizero_multitask_segment_ddp import train_unizero_multitask_segment_ddp

__all__ = [
    "Callback",
    "CheckpointEvent",
    "EvaluationEvent",
    "Event",
    "RoundEvent",
    "Stop",
    "StopEvent",
    "TrainResult",
    "UpdateEvent",
    "train_ppo_moe",
    "train_unizero_multitask_segment_ddp",
]
