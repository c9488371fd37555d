"""Recordings in several files, one after the other."""

import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray

from larscope._errors import LarscopeError
from larscope._movies.readers.pages import MAGIC
from larscope._movies.readers.reader import Request
from larscope._movies.session import Movie

MOST_OPEN = 16
"""Parts with page tables in memory; the others are opened again for reading."""

TIFF_SUFFIXES = {".tif", ".tiff", ".btf"}

Open = Callable[[Path, Request], Movie]


class JoinedMovie:
    """Movies of one size and type, one after the other.

    Parameters
    ----------
    paths
        The parts, in order.
    request
        What the session table asks of each.
    open_part
        Opens one.

    Raises
    ------
    LarscopeError
        A part cannot be opened, or is of another size or type than the first; it is named.
    """

    def __init__(self, paths: Sequence[Path], request: Request, open_part: Open) -> None:
        self.paths = tuple(paths)
        self._request, self._open_part = request, open_part
        self._opened: OrderedDict[int, Movie] = OrderedDict()
        self._cut: int | None = None
        first = self._part_or_prefix(0)
        self.dtype: np.dtype[np.generic] = first.dtype
        self.frame_rate: float | None = getattr(first, "frame_rate", None)
        self.pixel_size: float | None = getattr(first, "pixel_size", None)
        self.subject: str | None = getattr(first, "subject", None)
        lengths = [first.shape[0]]
        while len(lengths) < len(self.paths) and self._cut is None:
            try:
                part = self._part_or_prefix(len(lengths))
            except LarscopeError as error:
                if request.on_truncated == "error":
                    raise
                warnings.warn(str(error), UserWarning, stacklevel=2)
                break
            self._require_like(first, part, self.paths[len(lengths)])
            lengths.append(part.shape[0])
        left_out = self.paths[len(lengths) :]
        if left_out:
            warnings.warn(
                f"The movie ends in {self.paths[len(lengths) - 1]}: the {len(left_out)} parts after it are left out, "
                f"from {left_out[0].name} on.",
                UserWarning,
                stacklevel=2,
            )
        self._starts = np.cumsum([0, *lengths])
        self.shape: tuple[int, int, int] = (int(self._starts[-1]), *first.shape[1:])

    def read(self, start: int, stop: int) -> Shaped[NDArray[np.generic], "frames height width"]:
        """Return frames `start` to `stop` (exclusive)."""
        stop = max(start, min(stop, self.shape[0]))
        frames = np.empty((stop - start, *self.shape[1:]), self.dtype)
        position = start
        while position < stop:
            number = int(np.searchsorted(self._starts, position, side="right")) - 1
            offset, end = int(self._starts[number]), min(stop, int(self._starts[number + 1]))
            found = self._part(number).read(position - offset, end - offset)
            if found.shape != (end - position, *self.shape[1:]) or found.dtype != self.dtype:
                raise LarscopeError(
                    f"Expected {end - position} frames of {self.paths[number]}; it has changed since it was opened. "
                    "Restore it."
                )
            frames[position - start : end - start] = found
            position = end
        return frames

    def _part_or_prefix(self, number: int) -> Movie:
        """Open a part; if it was cut short, and you allow it, up to its last whole frame."""
        try:
            return self._part(number)
        except LarscopeError:
            if self._request.on_truncated == "error":
                raise
        self._cut = number
        try:
            return self._part(number)
        except LarscopeError:
            self._cut = None
            raise

    def _part(self, number: int) -> Movie:
        if number not in self._opened:
            # prefixes followed by another part would leave a gap: only the last may be one
            request = self._request if number == self._cut else replace(self._request, on_truncated="error")
            self._opened[number] = self._open_part(self.paths[number], request)
            if len(self._opened) > MOST_OPEN:
                self._opened.popitem(last=False)
        self._opened.move_to_end(number)
        return self._opened[number]

    @staticmethod
    def _require_like(first: Movie, part: Movie, path: Path) -> None:
        if (part.shape[1:], part.dtype) != (first.shape[1:], first.dtype):
            raise LarscopeError(
                f"Expected parts of one size and type: the first has {first.shape[1]} x {first.shape[2]} pixels of "
                f"{first.dtype}, {path} has {part.shape[1]} x {part.shape[2]} of {part.dtype}. Take it out, or convert "
                "it."
            )


def join(paths: Sequence[Path], request: Request, open_part: Open) -> Movie:
    """Open files as the parts of one movie, or as the first one names them."""
    if len(paths) == 1 or (others := _named_by(open_part, paths[0], request) & set(paths[1:])) == set(paths[1:]):
        return open_part(paths[0], request)
    if others:
        raise LarscopeError(
            f"Expected the parts of one recording; {paths[0]} belongs with {len(others)} of the other "
            f"{len(paths) - 1} files and says itself how. Name {paths[0]} alone."
        )
    return JoinedMovie(paths, request, open_part)


def _named_by(open_part: Open, path: Path, request: Request) -> set[Path]:
    try:
        return set(getattr(open_part(path, replace(request, on_truncated="error")), "paths", ()))
    except LarscopeError:
        return set()  # said again, and louder, when the part is opened


def matching(pattern: Path) -> list[Path]:
    """Return the files and folders of a pattern such as `day1_*.tif`, in natural order.

    Only the last part of the path may have `*`, `?` and `[...]`.
    """
    if not pattern.parent.is_dir() or not set(pattern.name) & set("*?["):
        return []
    return sorted((path for path in _visible(pattern.parent) if fnmatchcase(path.name, pattern.name)), key=natural)


def tiffs_in(folder: Path) -> list[Path]:
    """Return the TIFFs of a folder by name, in natural order, damaged ones included."""
    return sorted((path for path in _visible(folder) if path.is_file() and _looks_like_tiff(path)), key=natural)


def natural(path: Path) -> list[tuple[int, str]]:
    """Order names as people count: frame2 before frame10.

    >>> sorted(map(Path, ["frame10.tif", "frame2.tif"]), key=natural)[0].name
    'frame2.tif'
    """
    return [(int(text), "") if text.isdecimal() else (0, text) for text in re.split("([0-9]+)", path.name)]


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _looks_like_tiff(path: Path) -> bool:
    if path.suffix.lower() in TIFF_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(4) in MAGIC
    except OSError:
        return False
