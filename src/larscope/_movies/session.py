"""Runs, sessions and training windows (sec. 3.1).

A movie is anything with a shape, a dtype and `read(start, stop)`; `larscope._movies.readers` makes them from files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Shaped
from numpy.typing import NDArray

from larscope._errors import LarscopeError

POOLING = 8
"""Frame sides must be multiples of this: three 2x2 poolings."""


@runtime_checkable
class Movie(Protocol):
    """Frames read by range, in the dtype of their file."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height and width."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of a pixel."""

    def read(self, start: int, stop: int) -> Shaped[NDArray[np.generic], "frames height width"]:
        """Return frames `start` to `stop` (exclusive)."""


@dataclass(frozen=True)
class ArrayMovie:
    """A movie from an array, in memory or mapped from a file."""

    array: Shaped[NDArray[np.generic], "frames height width"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height and width."""
        frames, height, width = self.array.shape
        return frames, height, width

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of a pixel."""
        return self.array.dtype

    def read(self, start: int, stop: int) -> Shaped[NDArray[np.generic], "frames height width"]:
        """Return frames `start` to `stop` (exclusive)."""
        return np.asarray(self.array[start:stop])


@dataclass(frozen=True)
class Run:
    """One recording: frames `start` to `stop` of a movie, and the experimental condition it belongs to.

    Parameters
    ----------
    name
        Unique within the session.
    condition
        Experimental group.
    movie
        The frames.
    start, stop
        Range of frames, `stop` exclusive; `stop=None` is the movie's end.
    path
        The file, for messages and provenance; None for a movie made in memory.
    block
        Runs of one block are only exchangeable together (see `comparison`).
    subject
        The animal.
    frame_rate, pixel_size
        Frames a second, and micrometres a pixel; None when unknown.
    dataset, channel, plane
        The choice in a file with more than one movie.
    """

    name: str
    condition: str
    movie: Movie
    start: int = 0
    stop: int | None = None
    path: Path | None = None
    block: str | None = None
    subject: str | None = None
    frame_rate: float | None = None
    pixel_size: float | None = None
    dataset: str | None = None
    channel: str | None = None
    plane: str | None = None

    def __post_init__(self) -> None:
        if 0 in self.movie.shape[1:]:
            raise LarscopeError(
                f"{self.label}: frames need pixels; got frames of {times(self.movie.shape[1:])}. Check how the movie "
                "was written."
            )
        available = self.movie.shape[0]
        stop = available if self.stop is None else self.stop
        if not 0 <= self.start < stop <= available:
            raise LarscopeError(
                f"{self.label}: `start` and `stop` must satisfy 0 <= start < stop <= {available}, the number of "
                f"frames in the movie; got start={self.start}, stop={stop}. Correct the session table."
            )
        object.__setattr__(self, "stop", stop)
        if self.movie.dtype.kind not in "iuf":
            raise LarscopeError(
                f"{self.label}: pixels must be integers or floating-point numbers; got dtype {self.movie.dtype}. "
                "Convert the movie."
            )

    @property
    def label(self) -> str:
        """The run and its file, as messages name them."""
        return f"run {self.name!r}" + (f" ({self.path})" if self.path else "")

    @property
    def files(self) -> tuple[Path, ...]:
        """Files or folders of the frames; none for a movie made in memory."""
        parts: tuple[Path, ...] | None = getattr(self.movie, "paths", None)
        return parts or (() if self.path is None else (self.path,))

    def columns(self) -> dict[str, Any]:
        """Return all but the frames, as a row of a table with the columns `RUN_COLUMNS`."""
        row = {name: getattr(self, name) for name in RUN_COLUMNS if name != "run"}
        return {"run": self.name, **row, "path": None if self.path is None else str(self.path)}

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        assert self.stop is not None  # set in __post_init__
        return self.stop - self.start

    def read(self, start: int, stop: int) -> Shaped[NDArray[np.generic], "frames height width"]:
        """Return frames `start` to `stop` (exclusive), counted from the run's own first frame."""
        frames = self.movie.read(self.start + start, self.start + stop)
        if len(frames) != stop - start:
            raise LarscopeError(
                f"{self.label}: expected {stop - start} frames from frame {self.start + start} on; got "
                f"{len(frames)}. The file is truncated: restore it, or shorten the run with the `stop` column."
            )
        return frames


RUN_COLUMNS = ("run", *(field.name for field in fields(Run) if field.name not in ("name", "movie")), "n_frames")
"""Columns of a table of runs."""


@dataclass(frozen=True)
class Session:
    """All runs of an analysis.

    Parameters
    ----------
    runs
        The recordings.
    simulated
        Whether the movies were simulated; everything made from them then says so.

    Raises
    ------
    LarscopeError
        No runs, two runs of one name, or frames of different sizes.

    Examples
    --------
    >>> import numpy as np
    >>> from larscope._movies.session import ArrayMovie, Run, Session
    >>> movie = ArrayMovie(np.zeros((20, 16, 16), np.uint16))
    >>> session = Session((Run("a", "familiar", movie, 0, 10), Run("b", "novel", movie, 10, 20)))
    >>> session.conditions
    ('familiar', 'novel')
    """

    runs: tuple[Run, ...]
    simulated: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", tuple(self.runs))
        if not self.runs:
            raise LarscopeError("A session needs at least one run; got none. Add rows to the session table.")
        names = [run.name for run in self.runs]
        for name in names:
            if names.count(name) > 1:
                raise LarscopeError(
                    f"Run names must be unique; got {name!r} {names.count(name)} times. Rename all but one."
                )
        first = self.runs[0]
        for run in self.runs:
            if run.movie.shape[1:] != first.movie.shape[1:]:
                raise LarscopeError(
                    f"All frames of a session must have one size: {first.label} has "
                    f"{times(first.movie.shape[1:])} pixels, {run.label} has {times(run.movie.shape[1:])}. "
                    "Crop the movies to one size, or analyse these runs as two sessions."
                )

    def __repr__(self) -> str:
        counts = [f"{sum(run.condition == name for run in self.runs)} {name}" for name in self.conditions]
        simulated = ", simulated" if self.simulated else ""
        return (
            f"{type(self).__name__}({len(self.runs)} run{'s' * (len(self.runs) != 1)}: {', '.join(counts)}; "
            f"{sum(run.n_frames for run in self.runs):,} frames of {times(self.frame_shape)} pixels{simulated})"
        )

    def _repr_html_(self) -> str:
        """Show a notebook the table of runs."""
        table = pd.DataFrame([run.columns() for run in self.runs]).dropna(axis="columns", how="all")
        return f"<p>{escape(repr(self))}</p>{table.to_html(index=False, max_rows=20)}"

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Distinct conditions, in order of appearance."""
        return tuple(dict.fromkeys(run.condition for run in self.runs))

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Height and width of the frames, before preprocessing."""
        return self.runs[0].movie.shape[1:]


def windows(n_frames: int, length: int) -> list[tuple[int, int]]:
    """Return the ranges of the consecutive, not overlapping windows of a run (sec. 3.1).

    A tail shorter than `length` frames belongs to no window.

    >>> windows(150, 64)
    [(0, 64), (64, 128)]
    """
    return [(start, start + length) for start in range(0, n_frames - length + 1, length)]


def require_frames(session: Session, n_frames: int, why: str) -> None:
    """Raise unless every run has at least `n_frames` frames."""
    for run in session:
        if run.n_frames < n_frames:
            raise LarscopeError(
                f"Every run needs at least {n_frames} frames ({why}); {run.label} has {run.n_frames}. "
                "Drop the run, or lower `order` or `window`."
            )


def times(sizes: Sequence[int]) -> str:
    """Write sizes as messages do.

    >>> times((768, 512))
    '768 x 512'
    """
    return " x ".join(str(size) for size in sizes)
