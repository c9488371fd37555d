"""TIFF and BigTIFF stacks, through tifffile."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Shaped
from numpy.typing import NDArray

from larscope.errors import LarscopeError


class TiffMovie:
    """A TIFF or BigTIFF file whose pages are the frames of one movie.

    The file is checked when it is opened: one grey-scale plane a page, every page present, and its pixels too.
    tifffile would otherwise stop at the first missing page, and leave pixels beyond the end of the file at zero.
    """

    def __init__(self, path: Path, dataset: str | None = None) -> None:
        if dataset is not None:
            raise LarscopeError(f"A TIFF has no datasets; got dataset={dataset!r} for {path}. Leave it empty.")
        self._path = path
        self._size = path.stat().st_size
        try:
            with tifffile.TiffFile(path) as tiff:
                _require_directories(path, tiff)
                self.shape = _stack_shape(path, tiff)
                self.dtype: np.dtype[np.generic] = np.dtype(tiff.series[0].dtype)
                _require_pixels(path, tiff)
                self._stored = self.dtype.newbyteorder(tiff.byteorder)
                # a writer called once a frame, or once a chunk of frames, leaves many series: then count pages
                self._series = 0 if len(tiff.series) == 1 else None
                self._offset = tiff.series[0].dataoffset if len(tiff.series) == 1 else None
        except LarscopeError:
            raise
        except Exception as error:  # a damaged file can make a parser raise anything
            raise LarscopeError(f"Expected a whole TIFF; {path} cannot be read: {error}. Restore it.") from error

    def read(self, start: int, stop: int) -> Shaped[NDArray[np.generic], "frames height width"]:
        """Return frames `start` to `stop` (exclusive)."""
        stop = min(stop, self.shape[0])
        if start >= stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        try:
            if self._path.stat().st_size != self._size:
                raise OSError("the file has changed its size since it was opened")
            frames = self._decode(start, stop) if self._offset is None else self._copy(self._offset, start, stop)
        except Exception as error:  # a decoder likewise
            raise LarscopeError(
                f"Expected frames {start} to {stop} of {self._path}; they cannot be read: {error}. Restore the file."
            ) from error
        return frames.reshape(-1, *self.shape[1:])

    def _decode(self, start: int, stop: int) -> NDArray[np.generic]:
        with tifffile.TiffFile(self._path) as tiff:
            return np.asarray(tiff.asarray(key=slice(start, stop), series=self._series))

    def _copy(self, offset: int, start: int, stop: int) -> NDArray[np.generic]:
        """Read frames that lie one after the other, uncompressed; some files have one page for all of them."""
        n_pixels = self.shape[1] * self.shape[2]
        first = offset + start * n_pixels * self.dtype.itemsize
        pixels = np.fromfile(self._path, self._stored, (stop - start) * n_pixels, offset=first)
        return pixels.astype(self.dtype, copy=False)


def _stack_shape(path: Path, tiff: tifffile.TiffFile) -> tuple[int, int, int]:
    shapes = [_series_shape(path, series) for series in tiff.series]
    kinds = {(shape[1:], np.dtype(series.dtype)) for shape, series in zip(shapes, tiff.series, strict=True)}
    n_frames = sum(shape[0] for shape in shapes)
    if len(kinds) > 1:
        raise LarscopeError(
            f"Expected one stack of frames; {path} holds {len(shapes)} images of different sizes or types, the first "
            f"two of shape {shapes[0]} and {shapes[1]}. Save the movie as a file of its own."
        )
    in_one_piece = len(shapes) == 1 and tiff.series[0].dataoffset is not None
    n_pages = len(tiff.series[0].pages) if len(shapes) == 1 else len(tiff.pages)
    if n_frames != n_pages and not in_one_piece:
        raise LarscopeError(
            f"Expected one page a frame; {path} has {n_pages} pages for {n_frames} frames. Save the movie again, one "
            "page a frame."
        )
    return n_frames, *shapes[0][1:]


def _series_shape(path: Path, series: tifffile.TiffPageSeries) -> tuple[int, int, int]:
    shape = tuple(series.shape)
    if len(shape) == 2:
        shape = (1, *shape)
    if len(shape) != 3 or "S" in series.axes or "C" in series.axes:
        raise LarscopeError(
            f"Expected a stack of grey-scale frames; {path} has axes {series.axes} of shape {shape}. "
            "Save the wanted channel and plane as a stack of its own, with axes TYX."
        )
    return shape


def _require_directories(path: Path, tiff: tifffile.TiffFile) -> None:
    """Raise when the chain of pages leads beyond the end of the file: tifffile just ends the movie there."""
    form, size = tiff.tiff, path.stat().st_size
    with path.open("rb") as file:

        def number(width: int) -> int:
            return int.from_bytes(file.read(width), "little" if form.byteorder == "<" else "big")

        file.seek(form.offsetsize)
        offset, seen = number(form.offsetsize), set[int]()
        while offset:
            file.seek(offset)
            end = offset + form.tagnosize + number(form.tagnosize) * form.tagsize + form.offsetsize
            if end > size or offset in seen:
                raise LarscopeError(
                    f"{path} is truncated: the page of frame {len(seen)} lies beyond the end of the file ({size} "
                    "bytes). Restore the file."
                )
            seen.add(offset)
            file.seek(end - form.offsetsize)
            offset = number(form.offsetsize)


def _require_pixels(path: Path, tiff: tifffile.TiffFile) -> None:
    """Raise when a page's pixels would lie beyond the end of the file."""
    size = path.stat().st_size
    for frame, end in enumerate(_ends_of_frames(tiff)):
        if end is None or end > size:
            raise LarscopeError(
                f"{path} is truncated: the pixels of frame {frame} lie beyond the end of the file ({size} bytes). "
                "Restore the file."
            )


def _ends_of_frames(tiff: tifffile.TiffFile) -> Iterator[int | None]:
    for series in tiff.series:
        n_frames = 1 if len(series.shape) == 2 else series.shape[0]
        if series.dataoffset is not None:
            for frame in range(n_frames):
                yield series.dataoffset + (frame + 1) * series.nbytes // n_frames
        else:
            for page in series.pages:
                segments = list(zip(page.dataoffsets, page.databytecounts, strict=True)) if page else []
                missing = not segments or any(offset == 0 for offset, _ in segments)
                yield None if missing else max(offset + length for offset, length in segments)
