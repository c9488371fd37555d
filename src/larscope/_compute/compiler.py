"""Compilation by numba: one way to call kernels from Python, and the assumptions about numbers."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz", "arcp"}}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function for Python callers; keep the machine code on disk if a folder is writable.

    Kernels release the GIL, and may add in any order: NaN and infinity stay what they are.

    Examples
    --------
    >>> @compiled
    ... def double(x):
    ...     return 2 * x
    >>> double(3.0)
    6.0
    """
    kernel: Any = numba.njit(**OPTIONS)(function)
    with suppress(RuntimeError):  # there is no such place
        kernel._cache = _MachineCode(function)
    return kernel  # type: ignore[no-any-return]


def describe_cache() -> str:
    """Say where machine code is kept, or why it is not."""
    try:
        cache = _MachineCode(describe_cache)
    except RuntimeError:
        return "made anew by every process: no folder for it can be written. Set NUMBA_CACHE_DIR to one that can"
    try:
        cache._impl.locator.ensure_cache_path()
    except OSError as error:
        return f"made anew by every process: {error}. Set NUMBA_CACHE_DIR to a folder that can be written"
    return f"kept in {cache.cache_path}"


class _MachineCode(FunctionCache):
    """The files that keep a kernel's machine code. Where they cannot be read or written, it is compiled in memory."""

    complained = False

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file.__class__ = _CheckedFile

    def load_overload(self, *signature: Any) -> Any:
        try:
            return super().load_overload(*signature)
        except Exception as error:  # unpickling can raise anything
            self._complain(error)
            with suppress(Exception):
                self.flush()  # so that it can be kept again
            return None

    def save_overload(self, *kernel: Any) -> None:
        try:
            super().save_overload(*kernel)
        except Exception as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        """Warn once in this process."""
        if not _MachineCode.complained:
            _MachineCode.complained = True
            warnings.warn(
                f"Compiled code is kept in {self.cache_path}, which cannot be used ({type(error).__name__}: {error}): "
                "it is compiled again. If this comes back, free some space there, or set NUMBA_CACHE_DIR to another "
                "folder.",
                UserWarning,
                stacklevel=2,
            )


class _CheckedFile(IndexDataCacheFile):
    """Machine code with its digest at the end, which unpickling ignores: damaged code could compute anything."""

    def _save_data(self, name: str, content: Any) -> None:
        dumped = self._dump(content)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(dumped + hashlib.sha256(dumped).digest())

    def _load_data(self, name: str) -> Any:
        kept = Path(self._data_path(name)).read_bytes()
        if hashlib.sha256(kept[:-32]).digest() != kept[-32:]:
            raise ValueError(f"{name} is damaged")
        return super()._load_data(name)
