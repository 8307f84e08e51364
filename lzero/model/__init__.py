"""World models."""

from lzero.model.unizero_model_multitask import UniZeroMTModel

__all__ = ["UniZeroMTModel"]
