"""Loops that NumPy and PyTorch have no words for, compiled by numba.

Each kernel stands beside nothing but arrays: it knows no proposals, classes or files. The tests hold each one against a
plain version of the same loop (tests/kernels). The first call compiles a kernel, and numba keeps the result in the
`__pycache__` folder beside it, or in the user's cache if that folder cannot be written.
"""

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop over arrays. Arithmetic is IEEE's, in the order of the source: no `fastmath`."""
    return numba.njit(cache=True, nogil=True)(function)
