"""The pages of one TIFF or BigTIFF file: their places, their completeness, their pixels.

The chain of pages is followed here rather than by tifffile, which ends a movie where the chain breaks, leaves pixels
beyond the end of the file at zero, and takes any page to be like the first. Pixels are decoded by tifffile.
"""

import logging
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tifffile
from jaxtyping import Shaped
from numpy.typing import NDArray

from larscope._errors import LarscopeError
from larscope._movies.readers.reader import unbelievable

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

FOREIGN = {"stk", "lsm", "fluoview", "nih", "svs", "scn", "bif", "ndpi", "philips", "avs", "qpi", "sis", "eer", "mdgel"}
"""Kinds of TIFF whose pages are not simply frames, by tifffile's names."""

ALIKE = {256, 257, 258, 259, 266, 277, 278, 284, 317, 322, 323, 338, 339, 347}
"""Tags for decoding pixels: size, type, compression, strips and tiles."""

OFFSETS, COUNTS = {273, 324}, {279, 325}
DESCRIPTION, SOFTWARE = 270, 305

ITEM_SIZE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}

MOST_TAGS = 4096

ROOM_FOR_TAGS = 4096
"""Most bytes after the pixels of a single image that are its directory, not the beginning of a lost frame."""


class BrokenPageError(OSError):
    """A page is not whole; the text says why."""


class Directory(NamedTuple):
    """The useful tags of a page: the values of `ALIKE`, the places of strips or tiles, and the next page."""

    alike: dict[int, Any]
    offsets: Sequence[int]
    counts: Sequence[int]
    next: int


class TiffBytes:
    """An open TIFF file, read by position and never short. One thread's: a file has one position."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        head = self.read(0, 16)
        self.order = "<" if head[:2] == b"II" else ">"
        self.big = struct.unpack(self.order + "H", head[2:4])[0] == 43
        self.first = int(struct.unpack_from(self.order + ("Q" if self.big else "I"), head, 8 if self.big else 4)[0])
        self._count = struct.Struct(self.order + ("Q" if self.big else "H"))
        self._next = struct.Struct(self.order + ("Q" if self.big else "I"))
        self._tag = struct.Struct(self.order + ("HHQ8s" if self.big else "HHI4s"))

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes; raise unless all of them are there."""
        if offset + size > self.size:
            raise BrokenPageError(f"{size} bytes from {offset} on lie beyond the end of the file ({self.size} bytes)")
        self._file.seek(offset)
        found = self._file.read(size)
        if len(found) < size:
            raise BrokenPageError(f"{size} bytes from {offset} on cannot be read")
        return found

    def tags(self, offset: int) -> tuple[list[tuple[int, int, int, bytes]], int]:
        """Return the tags of the directory at an offset (code, type, count, value) and the offset of the next."""
        (n_tags,) = self._count.unpack(self.read(offset, self._count.size))
        if n_tags > MOST_TAGS:
            raise BrokenPageError(f"its directory claims {n_tags} tags")
        n_bytes = n_tags * self._tag.size
        raw = self.read(offset + self._count.size, n_bytes + self._next.size)
        return list(self._tag.iter_unpack(raw[:n_bytes])), self._next.unpack(raw[n_bytes:])[0]

    def require(self, tag: tuple[int, int, int, bytes]) -> None:
        """Raise if a tag's value lies beyond the end of the file: something was cut off."""
        _, kind, count, inline = tag
        size = ITEM_SIZE.get(kind, 0) * count
        if size > len(inline) and self._next.unpack(inline)[0] + size > self.size:
            raise BrokenPageError(f"its directory leads beyond the end of the file ({self.size} bytes)")

    def value(self, tag: tuple[int, int, int, bytes]) -> Any:
        """Return integers as a tuple, anything else as bytes."""
        _, kind, count, inline = tag
        size = ITEM_SIZE.get(kind, 0) * count
        raw = inline[:size] if size <= len(inline) else self.read(self._next.unpack(inline)[0], size)
        return struct.unpack(f"{self.order}{count}{INTEGERS[kind]}", raw) if kind in INTEGERS else raw

    def directory(self, offset: int) -> Directory:
        """Return the useful tags of the page at an offset."""
        tags, following = self.tags(offset)
        for tag in tags:
            self.require(tag)
        found = {tag[0]: self.value(tag) for tag in tags if tag[0] in ALIKE or tag[0] in OFFSETS or tag[0] in COUNTS}
        offsets = next((found.pop(code) for code in OFFSETS if code in found), ())
        counts = next((found.pop(code) for code in COUNTS if code in found), ())
        return Directory(found, offsets, counts, following)

    def text(self, offset: int, code: int) -> str:
        """Return a text tag of the page at an offset, or an empty text."""
        for tag in self.tags(offset)[0]:
            if tag[0] == code and isinstance(raw := self.value(tag), bytes):
                return raw.split(b"\0")[0].decode("utf-8", errors="replace")
        return ""


def first_texts(path: Path) -> tuple[str, str]:
    """Return description and software of a TIFF's first page; empty if unreadable."""
    try:
        with path.open("rb") as file:
            tiff = TiffBytes(file)
            return tiff.text(tiff.first, DESCRIPTION), tiff.text(tiff.first, SOFTWARE)
    except (OSError, BrokenPageError, struct.error):
        return "", ""


class TiffPages:
    """The pages of a TIFF file, all alike. The file is not held open.

    Attributes
    ----------
    path
        The file.
    n_pages
        Number of pages that are whole.
    broken
        Why the page after them is not whole; None where the chain of pages ends as it should.
    frame_shape, n_samples, dtype
        Height and width, values a pixel, and their type.
    resolution
        Pixels in a unit of length, along width and height; None where the file does not say.
    unit
        What tifffile calls the unit of length: 1 for none, 2 for inch, 3 for centimetre.

    Raises
    ------
    LarscopeError
        The first page cannot be read, or the pages are not alike.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._decode: Callable[..., Any] | None = None
        self._contiguous = False
        self.broken: str | None = None
        try:
            with path.open("rb") as file:
                tiff = TiffBytes(file)
                self.size = tiff.size
                self._first = tiff.directory(tiff.first)
                self._look_at_first()
                self._walk(tiff)
        except LarscopeError:
            raise
        except Exception as error:  # a damaged file can make a parser raise anything
            raise LarscopeError(
                f"Expected a whole TIFF; {path} cannot be read, from frame 0 on: {error}. Restore it."
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_decode": None}

    @property
    def n_pages(self) -> int:
        """Number of whole pages."""
        return len(self._offsets)

    @property
    def ends_with_first(self) -> bool:
        """Whether nothing that could be the next frame follows the pixels of the first page."""
        if not self._raw:
            return not self._first.next
        ends = [offset + count for offset, count in zip(self._first.offsets, self._first.counts, strict=False)]
        return not self._first.next and self.size - max(ends) < min(self._frame_bytes, ROOM_FOR_TAGS)

    def text(self, code: int = DESCRIPTION) -> str:
        """Return a text tag of the first page, whole or not."""
        with self.open() as tiff:
            return tiff.text(tiff.first, code)

    def texts(self, code: int = DESCRIPTION) -> list[str]:
        """Return a text tag of every page."""
        with self.open() as tiff:
            return [tiff.text(int(offset), code) for offset in self._offsets]

    @contextmanager
    def open(self) -> Iterator[TiffBytes]:
        """Open the file for `read`."""
        with self.path.open("rb") as file:
            yield TiffBytes(file)

    def stretch(self, n_pages: int) -> bool:
        """Use the first page for `n_pages` consecutive ones, as written by ImageJ and tifffile.

        Only where the chain has fewer pages and does not contradict: no directory may lie between the frames. Return
        whether it was done.
        """
        if self.n_pages >= n_pages or not self._raw or not self._first.offsets or not self._in_one_piece:
            return False
        start, following = self._first.offsets[0], self._first.next
        if following and (self.broken is None or following < start + n_pages * self._frame_bytes):
            return False
        whole = (self.size - start) // self._frame_bytes
        self._offsets = start + self._frame_bytes * np.arange(min(n_pages, whole))
        self._contiguous = True
        if whole < n_pages:
            self.broken = f"its pixels lie beyond the end of the file ({self.size} bytes)"
        return True

    def read(self, tiff: TiffBytes, page: int, sample: int) -> Shaped[NDArray[np.generic], "height width"]:
        """Return a page's pixels, from the file as `open` gives it."""
        if tiff.size != self.size:
            raise BrokenPageError("the file has changed its size since it was opened")
        if self._contiguous:
            return self._view(tiff.read(int(self._offsets[page]), self._frame_bytes))
        directory = tiff.directory(int(self._offsets[page]))
        counts = self._counts(directory)
        if self._raw:
            return self._view(b"".join(map(tiff.read, directory.offsets, counts)))
        if unbelievable(self._frame_bytes, sum(counts)):
            raise BrokenPageError(f"{self._frame_bytes} bytes cannot be packed into {sum(counts)}")
        frame = np.empty(self._shaped, self.dtype)
        for index, (offset, count) in enumerate(zip(directory.offsets, counts, strict=True)):
            pixels, (plane, _, top, left, _), _ = self._decoder()(tiff.read(offset, count), index, **self._tables)
            height, width = min(pixels.shape[1], self._shaped[2] - top), min(pixels.shape[2], self._shaped[3] - left)
            frame[plane, 0, top : top + height, left : left + width] = pixels[0, :height, :width]
        return np.asarray(frame[sample, 0, :, :, 0] if self._shaped[0] > 1 else frame[0, 0, :, :, sample])

    def _view(self, raw: bytes) -> NDArray[np.generic]:
        return np.frombuffer(raw, self._stored, prod(self.frame_shape)).reshape(self.frame_shape)

    def _decoder(self) -> Callable[..., Any]:
        if self._decode is None:  # after pickling
            self._look_at_first()
        assert self._decode is not None
        return self._decode

    def _look_at_first(self) -> None:
        """Let tifffile say how pages are decoded."""
        with _quiet(), tifffile.TiffFile(self.path) as tiff:
            page = tiff.pages.first
            foreign = FOREIGN & {flag.lower() for flag in page.flags}
            if foreign or page.imagedepth != 1 or page.dtype is None:
                kind = f"a {foreign.pop().upper()} file" if foreign else "volumetric or of an unknown type of pixel"
                raise LarscopeError(
                    f"Expected one frame per page; {self.path} is {kind}, with other meanings of a page. Export it "
                    "as OME-TIFF, for instance with Fiji."
                )
            self._shaped: tuple[int, ...] = page.shaped
            self.frame_shape: tuple[int, int] = (page.imagelength, page.imagewidth)
            self.n_samples = page.shaped[0] * page.shaped[-1]
            self.dtype: np.dtype[np.generic] = np.dtype(page.dtype)
            self.resolution = page.resolution if 282 in page.tags and 283 in page.tags else None
            self.unit = int(page.resolutionunit)
            self._stored = self.dtype.newbyteorder(tiff.byteorder)
            self._frame_bytes = prod(page.shaped) * self.dtype.itemsize
            self._n_segments = prod(page.chunked)
            self._raw = (
                (page.compression, page.predictor, page.fillorder) == (1, 1, 1)
                and self.n_samples == 1
                and not page.is_tiled
                and page.bitspersample == 8 * self.dtype.itemsize
            )
            self._tables = {"jpegtables": page.jpegtables} if page.compression in (6, 7, 34892, 33007) else {}
            self._decode = page.decode
        if self._frame_bytes == 0:
            raise BrokenPageError("its frames have no pixels")

    @property
    def _in_one_piece(self) -> bool:
        counts = self._first.counts
        ends = [offset + count for offset, count in zip(self._first.offsets, counts, strict=False)]
        return len(self._first.offsets) == 1 or list(self._first.offsets[1:]) == ends[:-1]

    def _counts(self, directory: Directory) -> Sequence[int]:
        """Return the bytes of each strip or tile; raise if they contradict the size of a frame."""
        counts = directory.counts
        if self._raw and self._n_segments == len(directory.offsets) == 1:
            counts = (self._frame_bytes,)  # some writers leave the number out, or cannot fit it into 32 bits
        if not len(directory.offsets) == len(counts) == self._n_segments:
            raise BrokenPageError(f"it has {len(directory.offsets)} of {self._n_segments} strips or tiles")
        if 0 in directory.offsets or 0 in counts:
            raise BrokenPageError("its pixels were never written")
        if self._raw and sum(counts) < self._frame_bytes:
            raise BrokenPageError(f"it has {sum(counts)} of {self._frame_bytes} bytes")
        return counts

    def _walk(self, tiff: TiffBytes) -> None:
        """Follow the chain of pages as far as they are whole."""
        offset, offsets, seen = tiff.first, list[int](), set[int]()
        try:
            while offset:
                if offset in seen:
                    raise BrokenPageError("its page is an earlier one")
                seen.add(offset)
                directory = tiff.directory(offset)
                if directory.alike != self._first.alike:
                    self._refuse_mixture(len(offsets), directory)
                ends = map(int.__add__, directory.offsets, self._counts(directory))
                if max(ends) > tiff.size:
                    raise BrokenPageError(f"its pixels lie beyond the end of the file ({tiff.size} bytes)")
                offsets.append(offset)
                offset = directory.next
        except BrokenPageError as error:
            self.broken = str(error)
        self._offsets = np.array(offsets, np.int64)

    def _refuse_mixture(self, page: int, directory: Directory) -> None:
        sizes = [
            " x ".join(str(number) for code in (257, 256) for number in tags.get(code, "?"))
            for tags in (self._first.alike, directory.alike)
        ]
        raise LarscopeError(
            f"Expected one stack of frames; {self.path} holds images of different sizes or types: page 0 has "
            f"{sizes[0]} pixels, page {page} {sizes[1]}. Save the movie as a file of its own."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep tifffile's complaints about damaged files out of the log: they come as errors."""
    logger = logging.getLogger("tifffile")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
