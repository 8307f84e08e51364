"""The compiled search step: :mod:`lzero.native.search_step.cpp` as a shared library, where it was built.

``pip install`` builds it for several kinds of processor where there is a C++ compiler, and goes on without it
where there is none; lzero then searches with torch alone.
"""

import ctypes
import functools
import importlib.util
import logging

import torch

logger = logging.getLogger(__name__)

# Builds of one source, widest vectors first, each with the processors (as torch names them) that run it.
BUILDS = {
    "lzero.native._search_step_avx512": ("AVX512",),
    "lzero.native._search_step_avx2": ("AVX512", "AVX2"),
    "lzero.native._search_step": None,
}


@functools.cache
def search_step() -> ctypes.CDLL | None:
    """The library for this processor; None where it was not built."""
    capability = torch.backends.cpu.get_cpu_capability()
    for name, processors in BUILDS.items():
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            continue
        if processors is not None and capability not in processors:
            continue
        try:
            return opened(found.origin)
        except OSError as error:  # built elsewhere, as by an older system's wheel
            logger.info("%s cannot be loaded (%s)", found.origin, error)
    logger.info(
        "the search step is not compiled: searching with torch (make setup builds it where g++ is)"
    )
    return None


def opened(path: str) -> ctypes.CDLL:
    """The library in a file, with its functions' types; calls release the GIL."""
    library = ctypes.CDLL(path)
    library.panel_width.restype = library.scratch_width.restype = ctypes.c_int64
    library.expand.restype = None
    return library
