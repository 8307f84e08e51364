"""Entry points: training and evaluation."""

from lzero.entry.result import TrainResult
from lzero.entry.train_ppo_moe import train_ppo_moe
from lzero.entry.train_unizero_multitask_segment_ddp import train_unizero_multitask_segment_ddp

__all__ = ["TrainResult", "train_ppo_moe", "train_unizero_multitask_segment_ddp"]
