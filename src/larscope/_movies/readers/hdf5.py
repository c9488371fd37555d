"""A dataset of an HDF5 file."""

import io
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray

from larscope._errors import LarscopeError, suggest
from larscope._movies.readers.reader import Request, unbelievable
from larscope._storage import reading_hdf5

MAGIC = b"\x89HDF\r\n\x1a\n"

END_OF_FILE = {0: 40, 1: 44, 2: 28, 3: 28}
"""Place of the file length in each version of the superblock."""


def is_hdf5(path: Path, head: bytes) -> bool:
    """Return whether a file begins as HDF5 files do."""
    return head.startswith(MAGIC)


def open_hdf5(path: Path, request: Request) -> "Hdf5Movie":
    """Open a dataset of frames, height, width; `request.dataset` may be None for a single one."""
    request.refuse(path, "An HDF5 file", "channel", "plane")
    with opened(path) as file:
        name = _choose(path, _stacks(file), request.dataset)
    return Hdf5Movie(path, request, name)


class Hdf5Movie:
    """A dataset of an HDF5 file. Each read opens the file: it is not held open.

    Parameters
    ----------
    path
        The file.
    request
        Whether a file that was cut short is an error.
    name
        Of the dataset: frames, height, width.
    width_first
        Whether it is frames, width, height.
    plane
        Which plane of a dataset with a fourth dimension.
    frame_rate, pixel_size, subject
        What the file says of the recording.
    timestamps
        When each frame was taken, in seconds, where the file says so.
    """

    def __init__(
        self,
        path: Path,
        request: Request,
        name: str,
        *,
        width_first: bool = False,
        plane: int | None = None,
        frame_rate: float | None = None,
        pixel_size: float | None = None,
        subject: str | None = None,
        timestamps: Float[NDArray[np.float64], " frames"] | None = None,
    ) -> None:
        self.paths = (path,)
        self.timestamps = timestamps
        self._path, self._name, self._width_first, self._plane = path, name, width_first, plane
        self.frame_rate, self.pixel_size, self.subject = frame_rate, pixel_size, subject
        with opened(path) as file:
            stack = file[name]
            n_frames, *sizes = (int(size) for size in stack.shape)
            height, width = sizes[1::-1] if width_first else sizes[:2]
            self.dtype: np.dtype[np.generic] = stack.dtype.newbyteorder("=")
            whole, why = _whole_frames(path, stack)
        if (whole == n_frames and (why := _cut(path))) or whole < n_frames:
            n_frames = request.whole_frames(path, whole, n_frames, why)
        self.shape: tuple[int, int, int] = (n_frames, height, width)

    def read(self, start: int, stop: int) -> Shaped[NDArray[np.generic], "frames height width"]:
        """Return frames `start` to `stop` (exclusive)."""
        stop = max(start, min(stop, self.shape[0]))
        try:
            with _file(self._path) as file:
                stack = file[self._name]
                frames = stack[start:stop] if self._plane is None else stack[start:stop, :, :, self._plane]
        except Exception as error:  # a damaged file can make the library raise anything
            raise LarscopeError(
                f"Expected frames {start} to {stop} of {self._path}; they cannot be read: {error}. Restore the file."
            ) from error
        frames = np.asarray(frames, self.dtype)
        return np.ascontiguousarray(frames.swapaxes(1, 2)) if self._width_first else frames


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file; every error names it."""
    try:
        with _file(path) as file:
            yield file
    except LarscopeError:
        raise
    except Exception as error:  # a damaged file can make the library raise anything
        raise LarscopeError(
            f"Expected a whole HDF5 file; {path} cannot be read, from frame 0 on: {error}. Restore it."
        ) from error


@contextmanager
def _file(path: Path) -> Iterator[h5py.File]:
    """Open a file even without its end, refused by the library."""
    if not _cut(path):
        with reading_hdf5(path) as file:
            yield file
    else:
        with path.open("rb") as raw, reading_hdf5(path, _Prefix(raw, _declared_size(path))) as file:
            yield file


def _cut(path: Path) -> str:
    """Return how much of a file is left, or nothing if it is whole."""
    size, declared = path.stat().st_size, _declared_size(path)
    return f"the file has {size} of {declared} bytes" if size < declared else ""


def _declared_size(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(64)
    if len(head) < 64 or head[8] not in END_OF_FILE:
        return 0
    at = END_OF_FILE[head[8]]
    declared = int.from_bytes(head[at : at + 8], "little")
    return declared if declared < 2**62 else 0


class _Prefix(io.RawIOBase):
    """A file without its end, at its full length. Missing bytes cannot be read."""

    def __init__(self, file: io.BufferedReader, size: int) -> None:
        self._file, self._size, self._position = file, size, 0
        self._found = os.fstat(file.fileno()).st_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if self._position + len(view) > self._found:
            raise OSError(f"the file ends after {self._found} of {self._size} bytes")
        self._file.seek(self._position)
        view[:] = self._file.read(len(view))
        self._position += len(view)
        return len(view)


def _whole_frames(path: Path, stack: h5py.Dataset) -> tuple[int, str]:
    """Return the number of frames in the file, and the reason for missing ones: HDF5 would read zeros for these."""
    if stack.dtype.kind not in "iuf" or min(stack.shape[1:]) < 1:
        raise LarscopeError(
            f"Expected numbers; {stack.name!r} in {path} has shape {stack.shape} of {stack.dtype}. Name another "
            "dataset."
        )
    if stack.is_virtual:
        return _whole_elsewhere(path, stack)
    size = path.stat().st_size
    frame_bytes = prod(stack.shape[1:]) * stack.dtype.itemsize
    if stack.chunks is None:
        start = stack.id.get_offset()
        if stack.size == 0 or (start is None and stack.id.get_storage_size() >= stack.size * stack.dtype.itemsize):
            return stack.shape[0], ""  # empty, or so small that it lies in the directory
        whole = 0 if start is None else max(0, size - start) // frame_bytes
        whole = min(whole, stack.id.get_storage_size() // frame_bytes, stack.shape[0])
        return whole, "it was never written" if start is None else f"the file ends after {size} bytes"
    chunk_bytes = prod(stack.chunks) * stack.dtype.itemsize
    filtered = stack.id.get_create_plist().get_nfilters() > 0
    found: Counter[int] = Counter()

    def note(chunk: Any) -> None:
        if unbelievable(chunk_bytes, chunk.size):
            raise LarscopeError(
                f"Expected pieces of {chunk_bytes} bytes; {path} has one in {chunk.size}. It is damaged: restore it."
            )
        if chunk.byte_offset + chunk.size <= size and (filtered or chunk.size >= chunk_bytes):
            found[chunk.chunk_offset[0] // stack.chunks[0]] += 1

    stack.id.chunk_iter(note)
    needed = prod(-(-length // chunk) for length, chunk in zip(stack.shape[1:], stack.chunks[1:], strict=True))
    rows = 0
    while found[rows] == needed:
        rows += 1
    n_chunks = needed * -(-stack.shape[0] // stack.chunks[0])
    return (
        min(rows * stack.chunks[0], stack.shape[0]),
        f"found {found.total()} of {n_chunks} chunks, and the rest would read as zeros",
    )


def _whole_elsewhere(path: Path, stack: h5py.Dataset) -> tuple[int, str]:
    """Require all frames stored in other files of the folder."""
    covered = 0
    for source in stack.virtual_sources():
        file_name = path if source.file_name == "." else path.parent / source.file_name
        with opened(file_name) as file:
            if source.dset_name not in file:
                raise LarscopeError(
                    f"Expected {source.dset_name!r} in {file_name}, for {path}; it has none. Restore it."
                )
            part = file[source.dset_name]
            whole, why = (0, "it is virtual again") if part.is_virtual else _whole_frames(file_name, part)
            if whole < part.shape[0]:
                raise LarscopeError(f"Expected all of {part.name!r} in {file_name}, for {path}: {why}. Restore it.")
        covered += source.vspace.get_select_npoints()
    if covered < stack.size:
        raise LarscopeError(
            f"Expected all of {stack.name!r} in {path}; {stack.size - covered} of {stack.size} pixels lie nowhere and "
            "would read as zeros. Save the frames as one HDF5 file."
        )
    return stack.shape[0], ""


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
