"""An array of a Zarr store, format 2 or 3."""

import json
import os
from collections.abc import Iterator
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray

from larscope._errors import LarscopeError, suggest
from larscope._movies.readers.reader import Request, load_library, unbelievable

METADATA = (".zarray", "zarr.json")
GROUPS = (".zgroup", ".zmetadata")

CODECS = (
    *("blosc", "zstd", "gzip", "zlib", "bz2", "lzma", "lz4", "delta", "shuffle", "bitround", "fixedscaleoffset"),
    *("quantize", "astype", "crc32", "crc32c", "adler32", "fletcher32", "bytes", "transpose", "sharding_indexed"),
)
"""Codecs for computing only. Others, such as `pickle`, can run code from a store."""

MISSING = 2**64 - 1
"""Offset and size of a chunk missing from a shard."""


def is_zarr(path: Path, head: bytes) -> bool:
    """Return whether a folder is a Zarr store."""
    return path.is_dir() and any((path / name).is_file() for name in (*METADATA, *GROUPS))


def open_zarr(path: Path, request: Request) -> "ZarrMovie":
    """Open an array of frames, height, width; `request.dataset` may be None for a single one."""
    request.refuse(path, "A Zarr store", "channel", "plane")
    arrays = {name: folder for name, folder, described in _arrays(path) if len(described.get("shape", ())) == 3}
    if not arrays:
        raise LarscopeError(f"Expected an array of frames, height, width in {path}; it has none with 3 dimensions.")
    wanted = (request.dataset or "").strip("/")
    if request.dataset is None and len(arrays) > 1:
        raise LarscopeError(f"{path} holds several stacks ({', '.join(arrays)}). Name one in the `dataset` column.")
    if request.dataset is not None and wanted not in arrays:
        raise LarscopeError(
            f"Expected a three-dimensional array {request.dataset!r} in {path}. {suggest(wanted, arrays)}"
        )
    return ZarrMovie(path, arrays[wanted] if request.dataset is not None else next(iter(arrays.values())), request)


class ZarrMovie:
    """An array of a Zarr store: frames, height, width. Chunks filled in by Zarr count as missing frames.

    Parameters
    ----------
    path
        The store.
    folder
        Of the array in it.
    request
        Whether a store that was cut short is an error.
    """

    def __init__(self, path: Path, folder: Path, request: Request) -> None:
        self.paths = (path,)
        self._path, self._folder = path, folder
        described = _read_json(folder)
        _require_harmless(folder, described)
        self._array: Any = None
        try:
            array = self._opened()
            n_frames, height, width = (int(size) for size in array.shape)
            self.shape: tuple[int, int, int] = (n_frames, height, width)
            self.dtype: np.dtype[np.generic] = np.dtype(array.dtype).newbyteorder("=")
            self._pieces: tuple[int, ...] = tuple(array.shards or array.chunks)  # what a file holds
            self._packed = _piece_bytes(array, described)
            self._blosc = not array.shards and list(_codecs(described))[-1:] == ["blosc"]
        except LarscopeError:
            raise
        except Exception as error:  # damaged metadata can make the library raise anything
            raise LarscopeError(f"Expected a Zarr array; {folder} cannot be opened: {error}. Restore it.") from error
        if self.dtype.kind not in "iuf" or min(self.shape[1:]) < 1:
            raise LarscopeError(
                f"Expected numbers; {folder} has shape {self.shape} of {self.dtype}. Name another array."
            )
        whole, why = self._first_missing(0, n_frames)
        if whole == n_frames and request.on_truncated == "keep" and self._packed is None:
            whole, why = self._first_undecodable()
        if whole < n_frames:
            self.shape = (request.whole_frames(path, whole, n_frames, why), *self.shape[1:])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_array": None}

    def read(self, start: int, stop: int) -> Shaped[NDArray[np.generic], "frames height width"]:
        """Return frames `start` to `stop` (exclusive)."""
        stop = max(start, min(stop, self.shape[0]))
        try:
            whole, why = self._first_missing(start, stop)
            if whole < stop:
                raise OSError(f"frame {whole} is not whole: {why}")
            return np.asarray(self._opened()[start:stop], self.dtype)
        except Exception as error:  # a decoder can raise anything
            raise LarscopeError(
                f"Expected frames {start} to {stop} of {self._folder}; they cannot be read: {error}. Restore them."
            ) from error

    def _opened(self) -> Any:
        if self._array is None:
            library = load_library("zarr", "zarr", self._path)
            self._array = library.open_array(str(self._folder), mode="r")
        return self._array

    def _first_missing(self, start: int, stop: int) -> tuple[int, str]:
        """Return the first missing frame of a range, or the end of the range; and the reason."""
        across = [range(-(-size // piece)) for size, piece in zip(self.shape[1:], self._pieces[1:], strict=True)]
        for row in range(start // self._pieces[0], -(-stop // self._pieces[0])):
            for place in product(*across):
                why = self._lacks((row, *place))
                if why:
                    return max(start, row * self._pieces[0]), why
        return stop, ""

    def _lacks(self, place: tuple[int, ...]) -> str:
        """Return the fault of the chunk file at a place of the grid, or an empty text."""
        name = self._opened().metadata.encode_chunk_key(place)
        try:
            size = (self._folder / name).stat().st_size
        except OSError:
            return (
                f"{name} does not exist and would read as {self._opened().fill_value}; if Zarr left out a chunk of "
                "this value, write it again with write_empty_chunks=True"
            )
        if self._packed is not None and size != self._packed:
            return f"{name} has {size} of {self._packed} bytes"
        if self._packed is None and unbelievable(prod(self._pieces) * self.dtype.itemsize, size):
            return f"{name} has {size} bytes, too few to hold it"
        if self._blosc and (found := _blosc_bytes(self._folder / name)) != size:
            return f"{name} has {size} of {found} bytes"  # the decoder would read on behind its end
        missing = self._missing_in_shard(place, self._folder / name, size) if self._opened().shards else 0
        return f"{name} lacks {missing} chunks" if missing else ""

    def _missing_in_shard(self, place: tuple[int, ...], file: Path, size: int) -> int:
        """Count the chunks missing from a shard's index: Zarr would fill them in."""
        array = self._opened()
        grid = [shard // chunk for shard, chunk in zip(self._pieces, array.chunks, strict=True)]
        inside = tuple(  # a shard at the edge has places for chunks beyond it
            slice(-(-(min(total, (number + 1) * shard) - number * shard) // chunk))
            for total, number, shard, chunk in zip(self.shape, place, self._pieces, array.chunks, strict=True)
        )
        sharding = array.metadata.codecs[0]
        checked = any(type(codec).__name__ == "Crc32cCodec" for codec in sharding.index_codecs)
        n_bytes = 16 * prod(grid)
        if size < n_bytes + 4 * checked:
            return prod(grid)
        with file.open("rb") as opened:
            if getattr(sharding.index_location, "value", sharding.index_location) == "end":
                opened.seek(-n_bytes - 4 * checked, os.SEEK_END)
            index = np.frombuffer(opened.read(n_bytes), "<u8").reshape(*grid, 2)[inside]
        start, length = index[..., 0], index[..., 1]
        return int(((start == MISSING) | (length == MISSING) | (start > size) | (length > size - start)).sum())

    def _first_undecodable(self) -> tuple[int, str]:
        for start in range(0, self.shape[0], self._pieces[0]):
            try:
                self.read(start, start + self._pieces[0])
            except LarscopeError as error:
                return start, str(error)
        return self.shape[0], ""


def _arrays(store: Path) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """Yield name, folder and metadata of each array; their chunks are not looked at."""
    for folder, inside, files in os.walk(store):
        if any(name in files for name in METADATA):
            described = _read_json(Path(folder))
            if "shape" in described:
                inside.clear()
                name = "" if folder == str(store) else Path(folder).relative_to(store).as_posix()
                yield name, Path(folder), described


def _read_json(folder: Path) -> dict[str, Any]:
    file = next(folder / name for name in METADATA if (folder / name).is_file())
    try:
        described = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise LarscopeError(
            f"Expected the description of an array; {file} cannot be read: {error}. Restore it."
        ) from error
    return described if isinstance(described, dict) else {}


def _require_harmless(folder: Path, described: dict[str, Any]) -> None:
    unknown = [name for name in _codecs(described) if name.removeprefix("numcodecs.") not in CODECS]
    if unknown:
        raise LarscopeError(
            f"Expected compression codecs only; {folder} asks for {', '.join(map(repr, unknown))}, and these might "
            f"run code. Write the array with one of: {', '.join(CODECS)}."
        )


def _codecs(described: Any) -> Iterator[str]:
    """Yield the names of codecs, in order, wherever metadata can name them, shards included."""
    if isinstance(described, dict):
        for key in ("filters", "compressor", "codecs", "index_codecs", "configuration"):
            inner = described.get(key)
            for codec in inner if isinstance(inner, list) else [inner]:
                if isinstance(codec, dict):
                    if key != "configuration":
                        yield str(codec.get("id", codec.get("name")))
                    yield from _codecs(codec)


def _piece_bytes(array: Any, described: dict[str, Any]) -> int | None:
    """Return the size of every file of an uncompressed array; None for a compressed one."""
    if set(_codecs(described)) <= {"bytes", "transpose"}:
        return int(prod(array.chunks) * np.dtype(array.dtype).itemsize)
    return None


def _blosc_bytes(file: Path) -> int:
    """Return the bytes of a chunk packed by Blosc."""
    with file.open("rb") as opened:
        return int.from_bytes(opened.read(16)[12:], "little")
