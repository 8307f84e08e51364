"""lzero: multi-task world models with mixture-of-experts blocks, tree search and gradient-conflict analysis."""

import os

__version__ = "0.1.0"

# OpenMP threads that spin for long while they wait turn a 0.4 s search into 10 s as soon as another process wants a core.
# A short spin keeps small operations fast on an idle machine. Read when torch loads; a value of the user's own is kept.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
