"""TIFF and BigTIFF movies: frames, planes and channels out of the pages of one or several files."""

import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from jaxtyping import Int64, Shaped
from numpy.typing import NDArray

from larscope._errors import LarscopeError
from larscope._movies.readers.pages import MAGIC, TiffPages
from larscope._movies.readers.reader import TIME, Request, choose

MOST_PAGES = 10**7
"""A damaged text may claim more: none has been seen."""

Table = Int64[NDArray[np.int64], "frames planes channels"]


@dataclass(frozen=True)
class Layout:
    """The map from pages to frames.

    Attributes
    ----------
    stacks
        The files.
    pages
        Page of each frame, plane and channel; -1 where the file has none.
    files
        Which of the files each page is in; None where there is only one.
    expected
        Number of frames that the file declares; None where it does not.
    channels
        Names of the channels.
    frame_rate, pixel_size
        Frames a second, micrometres a pixel; None where the file does not say.
    excused
        Pages of each file that no frame uses, for a reason that the reader knows: fly-back, another image.
    rows
        First and last row (exclusive) of the pages that are the frame; None for all.
    """

    stacks: tuple[TiffPages, ...]
    pages: Table
    files: Table | None = None
    expected: int | None = None
    channels: tuple[str | None, ...] = ()
    frame_rate: float | None = None
    pixel_size: float | None = None
    excused: tuple[Int64[NDArray[np.int64], " pages"], ...] = ()
    rows: tuple[int, int] | None = None


class TiffMovie:
    """Frames of one channel and plane of a TIFF.

    Each read opens the file, reads the pages that it needs, and closes it: a movie holds no handle, may be pickled,
    and may be used after a fork.

    Parameters
    ----------
    path
        The file named in the session table.
    layout
        Which pages are which frames.
    request
        What the session table asks for.
    """

    def __init__(self, path: Path, layout: Layout, request: Request) -> None:
        if not layout.stacks[0].n_pages:
            request.whole_frames(path, 0, layout.expected, layout.stacks[0].broken or "it has no page")
        _tell_unused(layout)
        layout = _channels_as_time(path, _planes_as_time(path, layout, request), request)
        self._path, self._stacks = path, layout.stacks
        first = layout.stacks[0]
        planes = [None] * layout.pages.shape[1]
        hint = f"; `{TIME}` if they are the frames" if len(layout.pages) == 1 else ""
        plane = choose(path, "plane", None if request.plane == TIME else request.plane, planes, hint)
        channel, self._sample = _choose_channel(path, layout, request)
        self._pages = layout.pages[:, plane, channel]
        self._files = np.zeros_like(self._pages) if layout.files is None else layout.files[:, plane, channel]
        n_frames = self._n_whole()
        broken = next((stack.broken for stack in self._stacks if stack.broken), None)
        if n_frames < len(self._pages) or broken:
            why = broken or "it has no page"
            n_frames = request.whole_frames(path, n_frames, layout.expected, why)
        self._rows = slice(*(layout.rows or (0, first.frame_shape[0])))
        self.shape: tuple[int, int, int] = (n_frames, self._rows.stop - self._rows.start, first.frame_shape[1])
        self.dtype: np.dtype[np.generic] = first.dtype
        self.frame_rate = layout.frame_rate
        self.pixel_size = layout.pixel_size
        self.paths = tuple(stack.path for stack in layout.stacks)

    def _n_whole(self) -> int:
        """Count frames before the first incomplete page."""
        n_pages = np.array([stack.n_pages for stack in self._stacks])
        missing = (self._pages < 0) | (self._pages >= n_pages[self._files])
        return int(np.argmax(missing)) if missing.any() else len(missing)

    def read(self, start: int, stop: int) -> Shaped[NDArray[np.generic], "frames height width"]:
        """Return frames `start` to `stop` (exclusive)."""
        stop = max(start, min(stop, self.shape[0]))
        try:
            frames = np.empty((stop - start, *self.shape[1:]), self.dtype)
            with ExitStack() as files:
                opened = {
                    number: files.enter_context(self._stacks[number].open()) for number in set(self._files[start:stop])
                }
                for frame, page, number in zip(frames, self._pages[start:stop], self._files[start:stop], strict=True):
                    frame[:] = self._stacks[number].read(opened[number], page, self._sample)[self._rows]
        except Exception as error:  # a decoder can raise anything
            raise LarscopeError(
                f"Expected frames {start} to {stop} of {self._path}; they cannot be read: {error}. Restore the file."
            ) from error
        return frames


def open_tiff(path: Path, request: Request, arrange: Callable[[Path, TiffPages], Layout]) -> TiffMovie:
    """Open a TIFF with pages arranged by a function."""
    request.refuse(path, "A TIFF of this kind", "dataset")
    return TiffMovie(path, arrange(path, TiffPages(path)), request)


def require_alike(stacks: Sequence[TiffPages]) -> None:
    """Raise unless the files have pages of one size and type."""
    first, *others = stacks
    for other in others:
        if (other.frame_shape, other.dtype, other.n_samples) != (first.frame_shape, first.dtype, first.n_samples):
            raise LarscopeError(
                f"Expected files of one size and type: {first.path} has {first.frame_shape[0]} x "
                f"{first.frame_shape[1]} pixels of {first.dtype}, {other.path} {other.frame_shape[0]} x "
                f"{other.frame_shape[1]} of {other.dtype}. Restore the files."
            )


def _tell_unused(layout: Layout) -> None:
    """Warn of pages that are in no frame of any channel or plane."""
    for number, stack in enumerate(layout.stacks):
        used = np.zeros(stack.n_pages, bool)
        here = layout.pages if layout.files is None else layout.pages[layout.files == number]
        for pages in (here, *layout.excused[number : number + 1]):
            used[pages[(pages >= 0) & (pages < stack.n_pages)]] = True
        if not used.all():
            unused = np.flatnonzero(~used)
            warnings.warn(
                f"{stack.path} has {stack.n_pages} pages, but its text gives no place to {len(unused)} of them, the "
                f"first page {unused[0]}: they are left out. If they are frames, save the movie again, for instance "
                "with Fiji.",
                UserWarning,
                stacklevel=2,
            )


def is_tiff(path: Path, head: bytes) -> bool:
    """Return whether a file begins as a TIFF does."""
    return head.startswith(MAGIC)


def interleave(stack: TiffPages | SimpleNamespace, sizes: dict[str, int | None]) -> tuple[Table, int | None]:
    """Return the number of each page, for a regular order.

    Parameters
    ----------
    stack
        Their file.
    sizes
        Of T (time), Z (planes) and C (channels), slowest first. The first may be None: it has as many as there are.

    Returns
    -------
    pages, expected
        As in `Layout`.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> stack = SimpleNamespace(n_pages=12, broken=None)
    >>> interleave(stack, {"T": None, "Z": 3, "C": 2})[0][:, 1, 0]
    array([2, 8])
    """
    known = [size for size in sizes.values() if size is not None]
    if prod(known) > MOST_PAGES or min(known, default=1) < 1:
        raise LarscopeError(
            f"Expected numbers of frames, planes and channels; {stack.path} says {sizes}. Its description is damaged: "
            "restore the file."
        )
    if len(known) < len(sizes):
        # a file that breaks off has at least one page more than can be found
        n_pages = stack.n_pages + (stack.broken is not None)
        known = [-(-n_pages // prod(known)), *known]
    pages = np.arange(prod(known)).reshape(known)
    order = [*sizes, *(axis for axis in "TZC" if axis not in sizes)]
    pages = pages.reshape(*known, *(1 for _ in order[len(known) :]))
    pages = pages.transpose([order.index(axis) for axis in "TZC"])
    return pages, None if None in sizes.values() else len(pages)


def _planes_as_time(path: Path, layout: Layout, request: Request) -> Layout:
    if request.plane != TIME:
        return layout
    _require_one_frame(path, "plane", layout)
    swap = partial(np.swapaxes, axis1=0, axis2=1)
    files = None if layout.files is None else swap(layout.files)
    return replace(layout, pages=swap(layout.pages), files=files, expected=layout.pages.shape[1])


def _channels_as_time(path: Path, layout: Layout, request: Request) -> Layout:
    if request.channel != TIME:
        return layout
    _require_one_frame(path, "channel", layout)
    swap = partial(np.swapaxes, axis1=0, axis2=2)
    files = None if layout.files is None else swap(layout.files)
    return replace(layout, pages=swap(layout.pages), files=files, expected=layout.pages.shape[2], channels=())


def _require_one_frame(path: Path, column: str, layout: Layout) -> None:
    if len(layout.pages) > 1:
        raise LarscopeError(
            f"The {column}s may be the frames only in a file with a single frame; {path} has {len(layout.pages)} "
            f"frames, got {column}={TIME!r}. Choose a {column}."
        )


def _choose_channel(path: Path, layout: Layout, request: Request) -> tuple[int, int]:
    """Return the channel, and the value of each pixel to take."""
    wanted = None if request.channel == TIME else request.channel
    n_channels, n_samples = layout.pages.shape[2], layout.stacks[0].n_samples
    if n_samples == 1:
        hint = f"; `{TIME}` if they are the frames" if len(layout.pages) == 1 else ""
        return choose(path, "channel", wanted, layout.channels or (None,) * n_channels, hint), 0
    if n_channels > 1:
        raise LarscopeError(
            f"Expected one value a pixel, or one channel; {path} has {n_channels} channels of {n_samples} values. Save "
            "the wanted channel as a movie of its own."
        )
    names = ("red", "green", "blue", "alpha")[:n_samples] if n_samples in (3, 4) else (None,) * n_samples
    return 0, choose(path, "channel", wanted, names)


def arrange_plain(path: Path, stack: TiffPages) -> Layout:
    """Take pages for frames in order, unless tifffile's JSON describes them."""
    described = _parse_shape(path, stack, stack.text())
    if described is None:
        pages, expected = interleave(stack, {"T": None})
        return Layout((stack,), pages, expected=expected)
    n_pages = prod(described.values())
    stretched = stack.stretch(n_pages)
    sizes: dict[str, int | None] = {**described}
    if not stretched and (stack.n_pages > n_pages or (stack.n_pages == n_pages and stack.broken)):
        n_pages = _count_calls(path, stack)  # written in several
        sizes = {"T": None if stack.broken and n_pages == stack.n_pages else n_pages}
    pages, expected = interleave(stack, sizes)
    return Layout((stack,), pages, expected=expected)


def _count_calls(path: Path, stack: TiffPages) -> int:
    """Count the pages of several calls to a writer, each with its own description."""
    starts, position, texts = set[int](), 0, stack.texts()
    while position < len(texts):
        starts.add(position)
        described = _parse_shape(path, stack, texts[position])
        position += 1 if described is None else prod(described.values())
    described_pages = {page for page, text in enumerate(texts) if _parse_shape(path, stack, text) is not None}
    if not described_pages <= starts:
        raise LarscopeError(
            f"Expected one page per frame; {path} has pages with several. Save the movie again, one page per frame."
        )
    return position


def _parse_shape(path: Path, stack: TiffPages, text: str) -> dict[str, int] | None:
    """Return tifffile's description of the pages, for `interleave`; None for another text."""
    if not text.startswith('{"shape":'):
        return None
    try:
        described = json.loads(text)
        shape = tuple(int(size) for size in described["shape"])
        axes = str(described.get("axes", ""))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    frame = (*stack.frame_shape, stack.n_samples) if stack.n_samples > 1 else stack.frame_shape
    n_values = prod(frame)
    n_leading = 0
    while prod(shape[n_leading:]) > n_values and n_leading < len(shape):
        n_leading += 1
    if prod(shape[n_leading:]) != n_values or prod(shape[:n_leading]) > MOST_PAGES:
        raise LarscopeError(
            f"Expected frames of {frame[0]} x {frame[1]} pixels; the description of {path} says shape {shape}. It is "
            "damaged: restore the file."
        )
    sizes: dict[str, int] = {}
    for axis, size in zip(axes.ljust(len(shape), "?")[:n_leading], shape, strict=False):
        if size > 1 or axis in "TZC":
            name = axis if axis in "TZC" else "T"
            if name in sizes:
                raise LarscopeError(
                    f"Expected a stack of grey-scale frames; {path} has shape {shape} and does not name every axis. "
                    "Save it with axes such as TZCYX, or as plain pages (tifffile: `metadata=None`), one a frame."
                )
            sizes[name] = size
    return sizes
