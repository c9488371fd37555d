"""NumPy's .npy files, read by range."""

import os
import warnings
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray

from larscope._errors import LarscopeError
from larscope._movies.readers.reader import Request

PLAIN = Request()


class NpyMovie:
    """A three-dimensional .npy array (frames, height, width).

    Frames are read, not mapped: those that were read do not stay in the resident memory of the process. The file is
    not held open; a movie may be pickled and used after a fork.

    Parameters
    ----------
    path
        The file.
    request
        Whether a file that was cut short is an error.

    Raises
    ------
    LarscopeError
        The header is damaged, the array has another number of dimensions or is pickled, or the file is shorter than
        its header says.
    """

    def __init__(self, path: Path, request: Request = PLAIN) -> None:
        self._path = path
        self.paths = (path,)
        try:
            with path.open("rb") as file:
                shape, self._fortran, dtype = _read_header(file)
                self._offset = file.tell()
                size = os.fstat(file.fileno()).st_size
        except Exception as error:  # a damaged header makes its parser raise more than ValueError
            raise LarscopeError(
                f"Expected a whole .npy array; {path} cannot be read, from frame 0 on: {error}. Restore it."
            ) from error
        if len(shape) != 3 or shape[0] < 0 or min(shape[1:]) < 1:
            raise LarscopeError(f"Expected an array of frames, height, width; {path} has shape {shape}.")
        self.shape: tuple[int, int, int] = shape
        self.dtype: np.dtype[np.generic] = dtype.newbyteorder("=")
        self._stored = dtype
        self._n_pixels = shape[1] * shape[2]
        expected = self._offset + prod(shape) * dtype.itemsize
        if size < expected:
            # in Fortran order each pixel's last frames are lost with the last pixel
            whole = 0 if self._fortran else (size - self._offset) // (self._n_pixels * dtype.itemsize)
            whole = request.whole_frames(path, whole, shape[0], f"the file has {size} of {expected} bytes")
            self.shape = (whole, *shape[1:])

    def read(self, start: int, stop: int) -> Shaped[NDArray[np.generic], "frames height width"]:
        """Return frames `start` to `stop` (exclusive)."""
        stop = min(stop, self.shape[0])
        if start >= stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        try:
            frames = self._gather(start, stop) if self._fortran else self._copy(start, stop)
        except (OSError, ValueError) as error:
            raise LarscopeError(
                f"Expected frames {start} to {stop} of {self._path}; they cannot be read: {error}. Restore the file."
            ) from error
        return frames.astype(self.dtype, copy=False)

    def _copy(self, start: int, stop: int) -> NDArray[np.generic]:
        frame_bytes = self._n_pixels * self._stored.itemsize
        first = self._offset + start * frame_bytes
        count = (stop - start) * self._n_pixels
        pixels: NDArray[np.generic] = np.fromfile(self._path, self._stored, count, offset=first)
        return pixels.reshape(stop - start, *self.shape[1:])

    def _gather(self, start: int, stop: int) -> NDArray[np.generic]:
        """Read frames of a Fortran-ordered array: each pixel has its whole time course in one piece."""
        item = self._stored.itemsize
        n_frames, height, width = self.shape
        with self._path.open("rb") as file:
            courses = []
            for pixel in range(self._n_pixels):
                file.seek(self._offset + (pixel * n_frames + start) * item)
                courses.append(file.read((stop - start) * item))
        pixels = np.frombuffer(b"".join(courses), self._stored)
        return np.ascontiguousarray(pixels.reshape(width, height, stop - start).T)


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers written by Python 2 are legal
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:  # version 3 is for field names that are not Latin-1
            raise ValueError(f"version {version} of the format holds no plain numbers")
    if dtype.kind not in "iuf":
        raise ValueError(f"its pixels are of type {dtype}, not integers or floating-point numbers")
    return shape, fortran, dtype


def is_npy(path: Path, head: bytes) -> bool:
    """Return whether a file begins as .npy files do."""
    return head.startswith(b"\x93NUMPY")


def open_npy(path: Path, request: Request) -> NpyMovie:
    """Open a three-dimensional .npy array (frames, height, width)."""
    request.refuse(path, "A .npy file", "dataset", "channel", "plane")
    return NpyMovie(path, request)
