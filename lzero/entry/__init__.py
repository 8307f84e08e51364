"""Entry points: training and evaluation."""

from lzero.entry.train_unizero_multitask_segment_ddp import (
    TrainResult,
    train_unizero_multitask_segment_ddp,
)

__all__ = ["TrainResult", "train_unizero_multitask_segment_ddp"]
