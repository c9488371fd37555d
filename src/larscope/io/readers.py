"""The table of readers, and the choice among them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from larscope.errors import LarscopeError
from larscope.io.hdf5 import Hdf5Movie
from larscope.io.npy import open_npy
from larscope.io.tiff import TiffMovie
from larscope.session import Movie


@dataclass(frozen=True)
class Reader:
    """How a format is recognised and opened."""

    name: str
    extensions: tuple[str, ...]
    magic: tuple[bytes, ...]
    open: Callable[[Path, str | None], Movie]


READERS: tuple[Reader, ...] = (
    Reader("TIFF", (".tif", ".tiff", ".btf"), (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffMovie),
    Reader("NumPy", (".npy",), (b"\x93NUMPY",), open_npy),
    Reader("HDF5", (".h5", ".hdf5", ".nwb"), (b"\x89HDF\r\n\x1a\n",), Hdf5Movie),
)
"""Known formats. To add one: write its reader in its own file here, and a line in this table."""


def open_movie(path: Path, dataset: str | None = None) -> Movie:
    """Open a movie; its content, not its extension, decides how.

    Parameters
    ----------
    path
        TIFF or BigTIFF, .npy, or HDF5 file.
    dataset
        The dataset inside an HDF5 file, such as `"imaging/frames"`.

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
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise LarscopeError(f"Expected a movie file; {path} {found}. Correct the `path` column.")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise LarscopeError(f"Expected a movie that can be read; {path}: {error}. Change its permissions.") from error
    for reader in READERS:
        if head.startswith(reader.magic):
            return reader.open(path, dataset)
    known = ", ".join(f"{reader.name} ({' '.join(reader.extensions)})" for reader in READERS)
    raise LarscopeError(
        f"Expected a movie in a known format; {path} begins with {head[:8]!r}, which is none of: {known}. "
        "Convert the movie to one of these."
    )
