"""Compiled functions whose machine code is kept on disk, where there is a place for it."""

import logging
from collections.abc import Callable
from typing import Any

from numba import njit

logger = logging.getLogger(__name__)

_warned = False


def compiled(function: Callable[..., Any]) -> Any:
    """``function`` compiled by numba without the interpreter's lock; numba keeps the result beside the source or in the home
    folder. Where neither can be written (a container with a read-only image, a user without home) every process compiles
    anew.
    """
    global _warned  # noqa: PLW0603 (one warning for all functions)
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        if not _warned:
            logger.warning(
                "compiled functions cannot be kept (%s): every start takes some seconds more; set NUMBA_CACHE_DIR to a "
                "folder that can be written",
                error,
            )
            _warned = True
        return njit(nogil=True)(function)
