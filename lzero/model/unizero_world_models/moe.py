"""The mixture of experts under the address that its users know; it lives in :mod:`lzero.nn.moe`."""

from lzero.nn.moe import MoELayer, Router, SwiGLU

__all__ = ["MoELayer", "Router", "SwiGLU"]
