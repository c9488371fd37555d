"""Compilation of kernels by numba: the one way in which Python calls them, and what it may assume of numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz", "arcp"}}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile what Python calls; keep the machine code on disk where a place for it can be written.

    Kernels release the GIL, and may add in any order: NaN and infinity stay what they are.

    Examples
    --------
    >>> @compiled
    ... def double(x):
    ...     return 2 * x
    >>> double(3.0)
    6.0
    """
    try:
        kernel: Callable[..., Any] = numba.njit(cache=True, **OPTIONS)(function)
    except RuntimeError:
        kernel = numba.njit(**OPTIONS)(function)
    return kernel
