"""lzero: multi-task world models with mixture-of-experts blocks, tree search and gradient-conflict analysis."""

__version__ = "0.1.0"
