"""TIFF and BigTIFF stacks, through tifffile."""

from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Shaped
from numpy.typing import NDArray

from larscope.errors import LarscopeError


class TiffMovie:
    """A TIFF or BigTIFF file whose pages are the frames of one movie.

    The file is checked when it is opened: one grey-scale plane a page, and every page's pixels present.
    tifffile would otherwise leave pixels beyond the end of a truncated file at zero.
    """

    def __init__(self, path: Path, dataset: str | None = None) -> None:
        if dataset is not None:
            raise LarscopeError(
                f"A TIFF has no datasets; got dataset={dataset!r} for {path}. Leave it empty."
            )
        self._path = path
        try:
            with tifffile.TiffFile(path) as tiff:
                series = tiff.series[0]
                self.shape = _stack_shape(path, series)
                self.dtype: np.dtype[np.generic] = np.dtype(series.dtype)
                _require_whole(path, tiff, series)
        except (tifffile.TiffFileError, ValueError, IndexError, KeyError, OSError, TypeError) as error:
            if isinstance(error, LarscopeError):
                raise
            raise LarscopeError(
                f"Expected a whole TIFF; {path} cannot be read: {error}. Restore it."
            ) from error

    def read(self, start: int, stop: int) -> Shaped[NDArray[np.generic], "frames height width"]:
        """Return frames `start` to `stop` (exclusive)."""
        if start >= stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        try:
            with tifffile.TiffFile(self._path) as tiff:
                frames = tiff.asarray(key=slice(start, stop), series=0)
        except (tifffile.TiffFileError, ValueError, IndexError, RuntimeError, OSError) as error:
            raise LarscopeError(
                f"Expected frames {start} to {stop} of {self._path}; they cannot be read: {error}. Restore the file."
            ) from error
        return np.asarray(frames).reshape(-1, *self.shape[1:])


def _stack_shape(path: Path, series: tifffile.TiffPageSeries) -> tuple[int, int, int]:
    shape = tuple(series.shape)
    if len(shape) == 2:
        shape = (1, *shape)
    if len(shape) != 3 or "S" in series.axes or "C" in series.axes:
        raise LarscopeError(
            f"Expected a stack of grey-scale frames; {path} has axes {series.axes} of shape {shape}. "
            "Save the wanted channel and plane as a stack of its own."
        )
    return shape


def _require_whole(path: Path, tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> None:
    """Raise when a page's pixels would lie beyond the end of the file."""
    size = path.stat().st_size
    n_frames = 1 if len(series.shape) == 2 else series.shape[0]
    if series.dataoffset is not None:
        expected = series.dataoffset + series.nbytes
        if expected > size:
            raise LarscopeError(
                f"{path} is truncated: its frames end at byte {expected}, the file at byte {size}. Restore it."
            )
        return
    if len(series.pages) != n_frames:
        raise LarscopeError(
            f"{path} is truncated: expected {n_frames} frames, found {len(series.pages)} pages. Restore the file."
        )
    for frame, page in enumerate(series.pages):
        ends = [o + c for o, c in zip(page.dataoffsets, page.databytecounts, strict=True)] if page else []
        if not ends or max(ends) > size or 0 in page.dataoffsets:
            raise LarscopeError(
                f"{path} is truncated: the pixels of frame {frame} of {n_frames} lie beyond the end of the file "
                f"({size} bytes). Restore the file, or end the run before that frame with the `stop` column."
            )
