"""Checkpoints: written whole or not at all, and read only if they still are what was written."""

from lzero.checkpoint.manager import DAMAGED, LEFT, CheckpointManager, free_space
from lzero.checkpoint.manifest import (
    MANIFEST_FILE,
    CheckpointError,
    Manifest,
    config_sha256,
    damaged_files,
    read_manifest,
)
from lzero.checkpoint.random_state import rng_state, set_rng_state
from lzero.checkpoint.tensors import (
    STATE_FILE,
    load_arrays,
    load_optimizer_state_,
    load_state,
    load_tensors,
    optimizer_state_to_tensors,
)
from lzero.run_paths import list_checkpoints, train_iter_of

__all__ = [
    "DAMAGED",
    "LEFT",
    "MANIFEST_FILE",
    "STATE_FILE",
    "CheckpointError",
    "CheckpointManager",
    "Manifest",
    "config_sha256",
    "damaged_files",
    "free_space",
    "list_checkpoints",
    "load_arrays",
    "load_optimizer_state_",
    "load_state",
    "load_tensors",
    "optimizer_state_to_tensors",
    "read_manifest",
    "rng_state",
    "set_rng_state",
    "train_iter_of",
]
