"""The table of readers, and the choice among them."""

import warnings
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path

from larscope._errors import LarscopeError
from larscope._movies.readers.hdf5 import is_hdf5, open_hdf5
from larscope._movies.readers.imagej import arrange_imagej, is_imagej
from larscope._movies.readers.npy import is_npy, open_npy
from larscope._movies.readers.nwb import is_nwb, open_nwb
from larscope._movies.readers.ome import is_ome, open_ome
from larscope._movies.readers.parts import join, matching, require_one_series, tiffs_in
from larscope._movies.readers.reader import OnTruncated, Reader, Request
from larscope._movies.readers.roiextractors import BY_EXTENSION, PREFIX, is_extractable, open_extractor
from larscope._movies.readers.scanimage import is_scanimage, open_scanimage
from larscope._movies.readers.suite2p import is_suite2p, open_suite2p
from larscope._movies.readers.tiff import arrange_plain, is_tiff, open_tiff
from larscope._movies.readers.video import VideoMovie, is_video
from larscope._movies.readers.zarr import is_zarr, open_zarr
from larscope._movies.session import Movie

ENTRY_POINTS = "larscope.readers"
"""Entry-point group for a `Reader` of another package."""

HEAD = 64
"""First bytes of a file, given to readers for recognising it."""


def is_tiff_folder(path: Path, head: bytes) -> bool:
    """Return whether a folder holds TIFFs."""
    return path.is_dir() and bool(tiffs_in(path))


def open_tiff_folder(path: Path, request: Request) -> Movie:
    """Open the TIFFs of a folder, in natural order, as one movie."""
    return _open_parts(path, tiffs_in(path), request)


def _open_parts(path: Path, parts: list[Path], request: Request) -> Movie:
    """Open files as one movie; ScanImage's may be cut anywhere in a volume, so their pages are laid out together."""
    if len(parts) > 1 and all(is_scanimage(part, _head(part)) for part in parts):
        require_one_series(path, parts)
        return open_scanimage(path, request, parts)
    return join(path, parts, request, _open)


READERS: tuple[Reader, ...] = (
    Reader("OME-TIFF", (".ome.tif",), is_ome, open_ome),
    Reader("ScanImage", (".tif",), is_scanimage, open_scanimage),
    Reader("ImageJ", (".tif",), is_imagej, partial(open_tiff, arrange=arrange_imagej)),
    Reader("TIFF", (".tif", ".tiff", ".btf"), is_tiff, partial(open_tiff, arrange=arrange_plain)),
    Reader("NumPy", (".npy",), is_npy, open_npy),
    Reader("NWB", (".nwb",), is_nwb, open_nwb),
    Reader("HDF5", (".h5", ".hdf5"), is_hdf5, open_hdf5),
    Reader("video", (".avi", ".mp4", ".mov"), is_video, VideoMovie),
    Reader("Zarr", (".zarr",), is_zarr, open_zarr),
    Reader("suite2p", (".bin",), is_suite2p, open_suite2p),
    Reader("folder of TIFFs", (), is_tiff_folder, open_tiff_folder),
    Reader("roiextractors", tuple(BY_EXTENSION), is_extractable, open_extractor),
)
"""Known formats; the first to recognise a file opens it. To add one, write its reader in its own file here, and a line
in this table. From another package, use an entry point of the group `larscope.readers`."""


def is_movie(path: Path) -> bool:
    """Say whether a file or folder is of a known format, by its content."""
    if not path.is_file() and not path.is_dir():
        return False
    head = _head(path)
    try:
        return any(reader.recognises(path, head) for reader in (*_installed_readers(), *READERS))
    except Exception:  # a damaged file can make a parser raise anything; opening it says what is wrong
        return True


def open_movie(
    path: Path,
    dataset: str | None = None,
    *,
    channel: str | None = None,
    plane: str | None = None,
    on_truncated: OnTruncated = "error",
) -> Movie:
    """Open a movie; its content, not its extension, decides how.

    Parameters
    ----------
    path
        A file; a folder of TIFFs, a Zarr store or a folder of suite2p's; or a pattern such as `day1_*.tif` or
        `day1_#.tif` (`#`: a number), whose files are joined in natural order if one number tells them apart.
    dataset
        The dataset inside an HDF5 file, such as `"imaging/frames"`; the series of an NWB file, the array of a Zarr
        store, the image of an OME-TIFF.
    channel, plane
        Number, from 0, or name; needed where the file has more than one. `"time"` where what the file calls its
        channels or planes are its frames.
    on_truncated
        A movie that was cut short is an `"error"`, or `"keep"` its whole frames up to there, with a warning.

    Returns
    -------
    Movie
        Lazy: frames are read by range.

    Raises
    ------
    LarscopeError
        The file is missing, of no known format, damaged, or not a stack of grey-scale frames.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "movie.npy"
    >>> np.save(path, np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5))
    >>> open_movie(path).shape
    (3, 4, 5)
    """
    request = Request(dataset, channel, plane, on_truncated)
    try:
        parts = [] if path.exists() else matching(path)
    except (OSError, ValueError) as error:  # too long a name, or one with a null byte
        raise LarscopeError(
            f"Expected the path of a movie; got {str(path)!r}: {error}. Correct the `path` column."
        ) from error
    return _open_parts(path, parts, request) if parts else _open(path, request)


def _open(path: Path, request: Request) -> Movie:
    if not path.is_file() and not path.is_dir():
        found = "matches no file" if set(path.name) & set("*?[#") else "does not exist"
        raise LarscopeError(f"Expected a movie file; {path} {found}. Correct the `path` column.")
    try:
        if (request.dataset or "").startswith(PREFIX):
            return open_extractor(path, request)
        head = _head(path)
        for reader in (*_installed_readers(), *READERS):
            if reader.recognises(path, head):
                return reader.open(path, request)
    except LarscopeError:
        raise
    except Exception as error:  # a damaged file can make a parser raise anything
        raise LarscopeError(
            f"Expected a readable movie; {path} cannot be read, from frame 0 on: {type(error).__name__}: {error}. "
            "Restore it, or change its permissions."
        ) from error
    known = ", ".join(" ".join((reader.name, *reader.extensions)) for reader in READERS)
    found = "is a folder without any" if path.is_dir() else f"begins with {head[:8]!r}, which is none"
    raise LarscopeError(
        f"Expected a movie in a known format; {path} {found} of: {known}. Convert the movie to one of these."
    )


def _head(path: Path) -> bytes:
    if path.is_dir():
        return b""
    with path.open("rb") as file:
        return file.read(HEAD)


@cache
def _installed_readers() -> tuple[Reader, ...]:
    """Return the readers of installed packages; they come first, since you installed them on purpose."""
    readers = []
    for point in entry_points(group=ENTRY_POINTS):
        try:
            reader = point.load()
        except Exception as error:  # any package may be broken in any way
            warnings.warn(f"The reader {point.name!r} ({point.value}) cannot be loaded: {error}.", stacklevel=2)
            continue
        if isinstance(reader, Reader):
            readers.append(reader)
        else:
            warnings.warn(f"{point.value}, offered as a reader of movies, is not a `larscope.Reader`.", stacklevel=2)
    return tuple(readers)
