"""Runs, sessions, training windows and preprocessing (sec. 3.1). No torch, no file formats.

A movie is anything with a shape, a dtype and `read(start, stop)`; `larscope.io` makes them from files.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray

from larscope.errors import LarscopeError

POOLING = 8
"""Frame sides must be multiples of this: three 2x2 poolings."""

READ_FRAMES = 256
"""Frames read from a movie at once."""


@runtime_checkable
class Movie(Protocol):
    """Frames that are read by range, in the dtype of their file."""

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
    """A movie that is an array, in memory or mapped from a file."""

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
        Where the frames come from.
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

    def __post_init__(self) -> None:
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
    >>> from larscope.session import ArrayMovie, Run, Session
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
                    f"{_times(first.movie.shape[1:])} pixels, {run.label} has {_times(run.movie.shape[1:])}. "
                    "Crop the movies to one size, or analyse these runs as two sessions."
                )

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


@dataclass(frozen=True)
class Preprocessing:
    """Centre crop, nearest-neighbour downscale, and intensities to [0, 1] with one scale for the session.

    `(x - low) / (high - low)`, where `low` and `high` are the extremes of the session that the network was
    trained on, after the crop. Frames of another session may leave [0, 1]; nothing is clipped.

    Parameters
    ----------
    crop
        Height and width in input pixels, cut from the centre.
    downscale
        Every `downscale`-th pixel is kept, as nearest-neighbour interpolation by an integer factor does.
    low, high
        Intensities that become 0 and 1.
    """

    crop: tuple[int, int]
    downscale: int = 1
    low: float = 0.0
    high: float = 1.0

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Height and width of the preprocessed frames."""
        return self.crop[0] // self.downscale, self.crop[1] // self.downscale

    def offset(self, frame_shape: Sequence[int]) -> tuple[int, int]:
        """Return row and column of the crop's first pixel in frames of a given size."""
        return (frame_shape[0] - self.crop[0]) // 2, (frame_shape[1] - self.crop[1]) // 2

    def cut(
        self, frames: Shaped[NDArray[np.generic], "frames height width"]
    ) -> Shaped[NDArray[np.generic], "frames cropped_height cropped_width"]:
        """Crop the centre."""
        top, left = self.offset(frames.shape[1:])
        return frames[:, top : top + self.crop[0], left : left + self.crop[1]]

    def shrink(
        self, frames: Shaped[NDArray[np.generic], "frames height width"]
    ) -> Shaped[NDArray[np.generic], "frames small_height small_width"]:
        """Keep the nearest pixel of every downscaled one."""
        return frames[:, :: self.downscale, :: self.downscale]

    def normalise(
        self, frames: Shaped[NDArray[np.generic], "frames height width"]
    ) -> Float[NDArray[np.float32], "frames height width"]:
        """Scale intensities."""
        scaled = (frames.astype(np.float64) - self.low) / (self.high - self.low)
        return np.asarray(scaled, dtype=np.float32)


@dataclass(frozen=True)
class PreparedSession:
    """The cropped and downscaled frames of a session, kept in their file's dtype until they are used."""

    session: Session
    preprocessing: Preprocessing
    stacks: tuple[Shaped[NDArray[np.generic], "_frames height width"], ...]

    def frames(self, run: int, start: int = 0, stop: int | None = None) -> Float[NDArray[np.float32], "t h w"]:
        """Return frames `start` to `stop` of run number `run`, in [0, 1]."""
        return self.preprocessing.normalise(self.stacks[run][start:stop])

    def mean_frame(self) -> Float[NDArray[np.float32], "height width"]:
        """Return the mean over runs of each run's mean over time: runs weigh equally, whatever their lengths."""
        means = [stack.mean(axis=0, dtype=np.float64) for stack in self.stacks]
        return self.preprocessing.normalise(np.mean(means, axis=0)[np.newaxis]).squeeze(axis=0)


def prepare(
    session: Session,
    crop: tuple[int, int] | None = None,
    downscale: int = 1,
    preprocessing: Preprocessing | None = None,
    on_run: Callable[[Run], None] = lambda run: None,
) -> PreparedSession:
    """Read and preprocess a session (sec. 3.1; the paper's sizes: `crop=(768, 512)`, `downscale=4`).

    Parameters
    ----------
    session
        Runs to read.
    crop
        Height and width in pixels; None takes the largest that three poolings allow after downscaling.
    downscale
        Integer factor.
    preprocessing
        A finished preprocessing, to treat a new session exactly as the one it came from.
    on_run
        Called after each run, to show progress.

    Raises
    ------
    LarscopeError
        A crop that does not fit, NaN or infinite pixels (run, file and first frame are named), or a
        session whose pixels all have one value.
    """
    if preprocessing is None:
        preprocessing = Preprocessing(_resolve_crop(session.frame_shape, crop, downscale), downscale)
        fixed_scale = False
    else:
        _require_fit(session.frame_shape, preprocessing.crop)
        fixed_scale = True
    low, high = np.inf, -np.inf
    stacks = []
    for run in session:
        parts = []
        for start in range(0, run.n_frames, READ_FRAMES):
            raw = preprocessing.cut(run.read(start, min(start + READ_FRAMES, run.n_frames)))
            _require_finite(raw, run, start)
            low, high = min(low, float(raw.min())), max(high, float(raw.max()))
            parts.append(np.ascontiguousarray(preprocessing.shrink(raw)))
        stacks.append(np.concatenate(parts))
        on_run(run)
    if not fixed_scale:
        if low == high:
            raise LarscopeError(
                f"The frames must vary: every pixel of the session is {low:g} after the crop. "
                "Check that the files hold the recorded movie."
            )
        preprocessing = replace(preprocessing, low=low, high=high)
    return PreparedSession(session, preprocessing, tuple(stacks))


def _resolve_crop(frame_shape: tuple[int, int], crop: tuple[int, int] | None, downscale: int) -> tuple[int, int]:
    if min(downscale, *(crop or (1, 1))) < 1:
        raise LarscopeError(
            f"`crop` and `downscale` must be positive; got crop={crop}, downscale={downscale}. Pass at least 1."
        )
    unit = POOLING * downscale
    if crop is None:
        crop = (frame_shape[0] // unit * unit, frame_shape[1] // unit * unit)
        if 0 in crop:
            raise LarscopeError(
                f"Frames must have at least {unit} x {unit} pixels (three poolings, downscale {downscale}); got "
                f"{_times(frame_shape)}. Use a smaller `downscale` or larger frames."
            )
    _require_fit(frame_shape, crop)
    if crop[0] % unit or crop[1] % unit:
        fitting = (max(crop[0] // unit, 1) * unit, max(crop[1] // unit, 1) * unit)
        raise LarscopeError(
            f"`crop` must be multiples of {unit} (three poolings, downscale {downscale}); got {_times(crop)}. "
            f"Pass crop=({fitting[0]}, {fitting[1]})."
        )
    return crop


def _require_fit(frame_shape: tuple[int, int], crop: tuple[int, int]) -> None:
    if crop[0] > frame_shape[0] or crop[1] > frame_shape[1]:
        raise LarscopeError(
            f"The crop must fit into the frames: got {_times(crop)} for frames of {_times(frame_shape)} pixels. "
            "Pass a smaller `crop`."
        )


def _require_finite(frames: NDArray[np.generic], run: Run, start: int) -> None:
    if frames.dtype.kind != "f":
        return
    finite = np.isfinite(frames).all(axis=(1, 2))
    if not finite.all():
        bad = int(np.argmin(finite))
        raise LarscopeError(
            f"Pixels must be finite: {run.label} has NaN or infinite values, first in frame {start + bad} of the "
            f"run (frame {run.start + start + bad} of the movie), in {int((~finite).sum())} of the "
            f"{len(finite)} frames read with it. Repair or cut these frames; they are never filled in silently."
        )


def _times(sizes: Sequence[int]) -> str:
    return " x ".join(str(size) for size in sizes)
