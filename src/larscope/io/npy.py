"""NumPy's .npy files, mapped rather than read."""

from pathlib import Path

import numpy as np

from larscope.errors import LarscopeError
from larscope.session import ArrayMovie


def open_npy(path: Path, dataset: str | None = None) -> ArrayMovie:
    """Map a three-dimensional .npy array (frames, height, width)."""
    if dataset is not None:
        raise LarscopeError(f"A .npy file has no datasets; got dataset={dataset!r} for {path}. Leave it empty.")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise LarscopeError(f"Expected a whole .npy array; {path} cannot be read: {error}. Restore it.") from error
    if array.ndim != 3:
        raise LarscopeError(f"Expected an array of frames, height, width; {path} has shape {array.shape}.")
    return ArrayMovie(array)
