"""Loaded before any test."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test processes share the cores

import lzero  # noqa: E402, F401  (before torch: it sets how OpenMP threads wait)

LONGEST = "test_learning.py"


def pytest_collection_modifyitems(items):
    """The longest file begins first, so that the other test processes do not wait for it at the end."""
    items.sort(key=lambda item: item.path.name != LONGEST)
