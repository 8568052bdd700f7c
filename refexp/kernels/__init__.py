"""Loops that NumPy and PyTorch have no words for, compiled by numba.

Each kernel stands beside nothing but arrays: it knows no proposals, classes or files. The tests hold each one against a
plain version of the same loop (tests/kernels). The first call compiles a kernel, and numba keeps the result in the
`__pycache__` folder beside it, or in the user's cache if that folder cannot be written. numba compiles a kernel anew if
its own file changes, not if a kernel of another file does. So a kernel calls only kernels of its file and of this one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop over arrays. Arithmetic is IEEE's, in the order of the source: no `fastmath`."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither folder of the cache can be written, so each process compiles for itself
        return numba.njit(nogil=True)(function)


def any_compiled() -> bool:
    """Whether a kernel has been compiled on this machine before."""
    folder = grown.stats.cache_path  # type: ignore[attr-defined]
    return folder is not None and any(Path(folder).glob("*.nbi"))


@compiled
def grown(values):
    """Return an array of twice the length that begins with `values`."""
    more = np.empty(2 * len(values), values.dtype)
    more[: len(values)] = values
    return more
