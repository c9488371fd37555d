"""The contract of a reader, and its request from the session table."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import isclose
from pathlib import Path
from typing import Any, Literal

from larscope._errors import LarscopeError, suggest
from larscope._movies.session import Movie

OnTruncated = Literal["error", "keep"]

LARGE = 2**26
MOST_PACKED = 5000
"""Above `LARGE` bytes, packing by more than this factor counts as damage."""

TIME = "time"
"""Word for a `channel` or `plane` column: the file's channels or planes are the frames."""


@dataclass(frozen=True)
class Request:
    """The request of a session-table row to a movie file.

    Parameters
    ----------
    dataset
        Name of the frames inside a file with several stacks.
    channel, plane
        Number, from 0, or name of one of its channels and planes.
    on_truncated
        A movie cut short is an error, or is kept up to its last whole frame.
    """

    dataset: str | None = None
    channel: str | None = None
    plane: str | None = None
    on_truncated: OnTruncated = "error"

    def refuse(self, path: Path, form: str, *columns: str) -> None:
        """Raise if a column is filled without use for the format."""
        for column in columns:
            if (value := getattr(self, column)) is not None:
                raise LarscopeError(f"{form} has no {column}s; got {column}={value!r} for {path}. Leave it empty.")

    def whole_frames(self, path: Path, found: int, expected: int | None, why: str) -> int:
        """Return `found`, the number of whole frames of a cut movie, with a warning; or raise.

        Parameters
        ----------
        path, why
            The file, and the fault of its first broken frame.
        found, expected
            Number of frames; `expected` is None if the file does not say.
        """
        if self.on_truncated == "error" or found == 0:
            number = f"frame {found}" + ("" if expected is None else f" of {expected}")
            lost = f"{number} is not whole" if found != expected else f"its {found} frames are whole, but no more is"
            remedy = f", or keep the {found} frames before it with `--on-truncated keep`" if found else ""
            raise LarscopeError(f"{path} is truncated: {lost}: {why}. Restore the file{remedy}.")
        of = "" if expected is None else f" of {expected}"
        warnings.warn(f"{path} is truncated: kept its first {found}{of} frames ({why}).", UserWarning, stacklevel=2)
        return found


@dataclass(frozen=True)
class Reader:
    """How a format is recognised and opened.

    Parameters
    ----------
    name
        As messages say it.
    extensions
        For people: content decides.
    recognises
        Whether a path, with the first 64 bytes of the file (none of a folder), is of this format.
    open
        Open the movie. Raises `LarscopeError` where it is damaged or the request does not fit it.
    """

    name: str
    extensions: tuple[str, ...]
    recognises: Callable[[Path, bytes], bool]
    open: Callable[[Path, Request], Movie]


def choose(path: Path, column: str, wanted: str | None, names: Sequence[str | None], hint: str = "") -> int:
    """Return the number of the requested channel or plane.

    Parameters
    ----------
    path
        The file, for messages.
    column
        `"channel"` or `"plane"`.
    wanted
        Number, from 0, or name; None where the table leaves it empty, which only a file with a single one allows.
    names
        Of what is there; None where the file gives none.
    hint
        What else may be done where nothing was chosen.

    Examples
    --------
    >>> choose(Path("movie.tif"), "channel", "red", ["green", "red"])
    1
    """
    if wanted is None and len(names) == 1:
        return 0
    known = [name for name in names if name]
    if wanted is not None and known.count(wanted) == 1:
        return list(names).index(wanted)
    if wanted is not None and wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    there = ", ".join(str(number) + (f" ({name})" if name else "") for number, name in enumerate(names[:50]))
    there += ", ..." if len(names) > 50 else ""
    if wanted is None:
        raise LarscopeError(
            f"{path} holds {len(names)} {column}s: {there}. Choose one by number (from 0) or name in the `{column}` "
            f"column{hint}."
        )
    remedy = suggest(wanted, known) if known else "Choose one by its number, from 0."
    raise LarscopeError(f"{path} holds the {column}s {there}; got {column}={wanted!r}. {remedy}")


def square(x: float, y: float) -> float | None:
    """Return the side of a pixel; None if it is not square, or no number."""
    return x if isclose(x, y, rel_tol=0.01) and 0 < x < float("inf") else None


def unbelievable(n_bytes: int, packed: int) -> bool:
    """Return whether so many bytes cannot have been packed into so few: a damaged header would exhaust the memory."""
    return n_bytes > LARGE and n_bytes > MOST_PACKED * packed


def load_library(name: str, extra: str, path: Path) -> Any:
    """Import a library of an extra, or raise with the install command."""
    try:
        return import_module(name)
    except ImportError as error:
        raise LarscopeError(
            f"Reading {path} needs the package {name}, but it cannot be imported ({error}). Install it with: pip "
            f'install "larscope[{extra}]"'
        ) from error
