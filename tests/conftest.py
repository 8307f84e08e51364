"""Loaded before any test."""

import lzero  # noqa: F401  (before torch: it sets how OpenMP threads wait)
