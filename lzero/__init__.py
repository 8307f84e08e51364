"""lzero: multi-task world models with mixture-of-experts blocks, tree search and gradient-conflict analysis."""

import os

__version__ = "0.2.0.dev0"

# OpenMP threads that spin while they wait make a search on 2 cores 10 times slower as soon as any other process wants a core;
# threads that sleep lose nothing in an update. Read when torch loads; a value of the user's own is kept.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
