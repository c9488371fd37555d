"""A dataset of an HDF5 file."""

from math import prod
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray

from larscope.errors import LarscopeError, suggest
from larscope.io.reader import Request

MAGIC = b"\x89HDF\r\n\x1a\n"


class Hdf5Movie:
    """A three-dimensional dataset (frames, height, width) of an HDF5 file.

    `dataset` may be None where the file has exactly one such dataset.
    """

    def __init__(self, path: Path, request: Request) -> None:
        request.refuse(path, "An HDF5 file", "channel", "plane")
        self._path = path
        self.paths = (path,)
        try:
            with h5py.File(path, "r") as file:
                self._name = _choose(path, _stacks(file), request.dataset)
                stack = file[self._name]
                self.shape: tuple[int, int, int] = stack.shape
                self.dtype: np.dtype[np.generic] = stack.dtype
                _require_written(path, stack)
        except OSError as error:
            raise LarscopeError(f"Expected a whole HDF5 file; {path} cannot be opened: {error}. Restore it.") from error

    def read(self, start: int, stop: int) -> Shaped[NDArray[np.generic], "frames height width"]:
        """Return frames `start` to `stop` (exclusive)."""
        try:
            with h5py.File(self._path, "r") as file:
                return np.asarray(file[self._name][start:stop])
        except OSError as error:
            raise LarscopeError(
                f"Expected frames {start} to {stop} of {self._path}; they cannot be read: {error}. Restore the file."
            ) from error


def is_hdf5(path: Path, head: bytes) -> bool:
    """Return whether a file begins as HDF5 files do."""
    return head.startswith(MAGIC)


def _require_written(path: Path, stack: h5py.Dataset) -> None:
    """Raise when parts of the dataset were reserved but never written: HDF5 would read them as zeros."""
    if stack.is_virtual:
        return  # its chunks are in other files
    if stack.chunks is None:
        written = stack.id.get_storage_size() > 0 or stack.size == 0
        found = "nothing"
    else:
        n_chunks = prod(-(-size // chunk) for size, chunk in zip(stack.shape, stack.chunks, strict=True))
        written = stack.id.get_num_chunks() == n_chunks
        found = f"{stack.id.get_num_chunks()} of {n_chunks} chunks"
    if not written:
        raise LarscopeError(
            f"Expected all of {stack.name!r} in {path} to be written; found {found}, and the rest would read as zeros. "
            "The recording or copy was cut short: restore the file, or save the frames that exist."
        )


def _stacks(file: h5py.File) -> list[str]:
    names: list[str] = []

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 3:
            names.append(name)

    file.visititems(note)
    return names


def _choose(path: Path, stacks: list[str], dataset: str | None) -> str:
    if not stacks:
        raise LarscopeError(f"Expected a dataset of frames, height, width in {path}; it has none with 3 dimensions.")
    if dataset is None:
        if len(stacks) == 1:
            return stacks[0]
        raise LarscopeError(f"{path} holds several stacks ({', '.join(stacks)}). Name one in the `dataset` column.")
    name = dataset.strip("/")
    if name not in stacks:
        raise LarscopeError(f"Expected a three-dimensional dataset {dataset!r} in {path}. {suggest(name, stacks)}")
    return name
