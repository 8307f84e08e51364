"""Loaded before any test."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test processes share the cores

import lzero  # noqa: E402, F401  (before torch: it sets how OpenMP threads wait)

LONGEST = (
    "test_learning.py",
    "test_kills.py",
    "test_lost_rank.py",
    "test_full_disk.py",
    "test_presets_start.py",
    "test_train_ppo_moe.py",
    "test_soak.py",
)


def pytest_collection_modifyitems(items):
    """The longest files begin first, so that the other test processes do not wait for them at the end."""
    items.sort(
        key=lambda item: (
            LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST)
        )
    )
