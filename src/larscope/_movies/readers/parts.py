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

NUMBER = re.compile("([0-9]+)")

NO_TIME = re.compile(
    "(?:(?<![A-Za-z])(?i:ch|chan|channel|plane|slice|roi|c|z)|(?<=[a-z0-9])(?:Ch|Chan|Channel|Plane|Slice|R[Oo][Ii]))"
    "[ _-]?$"
)
"""Ends with a word whose number tells of a place or a colour, so that it never runs over time."""

MOST_LISTED = 6

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


def join(path: Path, paths: Sequence[Path], request: Request, open_part: Open) -> Movie:
    """Open files as the parts of one movie, or as the first one names them; `path` is what the table says."""
    if len(paths) == 1 or (others := _named_by(open_part, paths[0], request) & set(paths[1:])) == set(paths[1:]):
        return open_part(paths[0], request)
    if others:
        raise LarscopeError(
            f"Expected the parts of one recording; {paths[0]} belongs with {len(others)} of the other "
            f"{len(paths) - 1} files and says itself how. Name {paths[0]} alone."
        )
    require_one_series(path, paths)
    return JoinedMovie(paths, request, open_part)


def _named_by(open_part: Open, path: Path, request: Request) -> set[Path]:
    try:
        return set(getattr(open_part(path, replace(request, on_truncated="error")), "paths", ()))
    except LarscopeError:
        return set()  # said again, and louder, when the part is opened


def require_one_series(path: Path, parts: Sequence[Path]) -> None:
    """Raise unless the parts' names differ in one running number alone; warn where it leaves out some.

    Other names tell of something else: another channel, cycle or plane, a preview, an average, a corrected copy.
    """
    groups = series(parts)
    if len(groups) > 1 and path.name.count("#") != 1:  # you may say yourself which number runs
        listed = "; ".join(
            name if len(files) == 1 else f"{name} ({len(files)} files, {files[0].name} to {files[-1].name})"
            for name, files in list(groups.items())[:MOST_LISTED]
        )
        more = f"; and {len(groups) - MOST_LISTED} more" if len(groups) > MOST_LISTED else ""
        raise LarscopeError(
            f"Expected the parts of one recording, their names alike but for one running number; {path} holds "
            f"{len(groups)} groups: {listed}{more}. Name one of them in the `path` column (`#` stands for the number)."
        )
    before, number, after = (path.name if path.name.count("#") == 1 else next(iter(groups))).partition("#")
    if not number or "#" in after:  # a single file, or a name with this sign
        return
    numbers = [int(part.name[len(before) : len(part.name) - len(after)]) for part in parts]
    steps = np.diff(np.array(numbers, object))
    if (steps == 0).any():
        twice = int(np.argmax(steps == 0))
        raise LarscopeError(
            f"Expected one file for each number; {path} holds both {parts[twice].name} and {parts[twice + 1].name}. "
            "Take one out, or rename it."
        )
    gaps = np.flatnonzero(steps > 1)
    if len(gaps) and np.median(steps) == 1:
        warnings.warn(
            f"{path}: the numbers of the files leave out {int((steps[gaps] - 1).sum())}, first between "
            f"{parts[gaps[0]].name} and {parts[gaps[0] + 1].name}. Look for missing files: a lag across a gap is "
            "longer than it seems.",
            UserWarning,
            stacklevel=2,
        )


def series(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Group files whose names differ in one running number, and write it `#`.

    If several numbers differ, the one with most values runs, of these the last; never a channel's or a plane's.

    >>> list(series([Path(f"a_Ch{channel}_{frame}.tif") for channel in (1, 2) for frame in (1, 2, 3)]))
    ['a_Ch1_#.tif', 'a_Ch2_#.tif']
    """
    alike: dict[tuple[str, ...], list[list[str]]] = {}
    for path in paths:
        pieces = NUMBER.split(path.name)
        alike.setdefault(tuple(pieces[::2]), []).append(pieces)
    groups: dict[str, list[Path]] = {}
    for names in alike.values():
        values = [
            1 if NO_TIME.search(word) else len(set(column))
            for word, *column in zip(names[0][:-1:2], *(pieces[1::2] for pieces in names), strict=True)
        ]
        most = max(values, default=1)
        running = None if most == 1 else 1 + 2 * (len(values) - 1 - values[::-1].index(most))
        for pieces in names:
            shown = ["#" if number == running else piece for number, piece in enumerate(pieces)]
            groups.setdefault("".join(shown), []).append(paths[0].with_name("".join(pieces)))
    return groups


def matching(pattern: Path) -> list[Path]:
    """Return the files and folders of a pattern such as `day1_*.tif` or `day1_#.tif`, in natural order.

    Only the last part of the path may have `*`, `?` and `[...]`; or `#`, a number, with all others as they are.
    """
    if not pattern.parent.is_dir() or not set(pattern.name) & set("*?[#"):
        return []
    inside = _visible(pattern.parent)
    if "#" in pattern.name:
        number = re.compile("[0-9]+".join(map(re.escape, pattern.name.split("#"))))
        found = [path for path in inside if number.fullmatch(path.name)]
    else:
        found = [path for path in inside if fnmatchcase(path.name, pattern.name)]
    return sorted(found, key=natural)


def tiffs_in(folder: Path) -> list[Path]:
    """Return the TIFFs of a folder by name, in natural order, damaged ones included."""
    return sorted((path for path in _visible(folder) if path.is_file() and _looks_like_tiff(path)), key=natural)


def natural(path: Path) -> list[tuple[int, str]]:
    """Order names as people count: frame2 before frame10.

    >>> sorted(map(Path, ["frame10.tif", "frame2.tif"]), key=natural)[0].name
    'frame2.tif'
    """
    return [(int(text), "") if text.isdecimal() else (0, text) for text in NUMBER.split(path.name)]


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
