"""Compiled functions where nothing can be kept."""

import os
import subprocess
import sys
from pathlib import Path

import lzero

ROOT = Path(lzero.__file__).parents[1]
PROGRAM = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes.clear()  # a package folder that cannot be written, and no home
import lzero.entry, lzero.mcts.search
from lzero.replay.sum_tree import SumTree
import numpy as np
tree = SumTree(4)
tree.update(np.array([1]), np.array([2.0]))
print(tree.range_mass(0, 4))
"""


def test_a_package_that_cannot_be_written_works():
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout.strip() == "2.0", done.stderr
    assert done.stderr.count("NUMBA_CACHE_DIR") == 1, "one warning for all functions"
