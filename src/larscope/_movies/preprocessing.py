"""Preprocessing (sec. 3.1): centre crop, downscale, intensities to [0, 1]; prepared frames in memory or on disk.

A movie is read once, a few frames at a time, and what is left of it kept in its file's dtype until a frame is used.
With a cache folder it is kept there, so that movies may be larger than memory; an entry's name is a digest of
everything that decided its content.
"""

import hashlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, groupby
from math import prod
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Bool, Float, Shaped
from numpy.typing import NDArray
from rich.progress import Progress

from larscope._compute import workers
from larscope._errors import LarscopeError
from larscope._movies.lone import LonePixel, find_lone
from larscope._movies.readers.npy import NpyMovie
from larscope._movies.session import POOLING, ArrayMovie, Movie, Run, Session, times
from larscope._storage import (
    describe_home,
    describe_inputs,
    digest_code,
    digest_file,
    fingerprint,
    put_in_place,
    unfinished,
    write_text,
)

CHUNK_BYTES = 32 << 20
"""Bytes of raw frames read at once, the same for every memory limit, so sums round alike."""

LARGEST = 2**53
"""Whole numbers beyond this are not exact in double precision; no detector counts so far."""

LIBRARIES = ("numpy", "tifffile", "imagecodecs", "h5py", "zarr", "av", "roiextractors")
"""Installed libraries for decoding frames."""

CROP_BORDERS = (
    "Motion correction leaves NaN at the borders: keep only the centre with a smaller crop (`--crop HEIGHT WIDTH`); or "
    "drop the run from the session table."
)

MAX_GAP = 10
"""Most consecutive frames bridged by `nan="interpolate"`."""

NOT_BRIDGED = (
    "Leave the frames out (`--nan mask`), cut the run with the `start` and `stop` columns, or, if the NaN lie at the "
    "borders, keep only the centre with a smaller crop (`--crop HEIGHT WIDTH`)."
)

NaN = Literal["error", "mask", "interpolate"]
Frames = Shaped[NDArray[np.generic], "frames height width"]


class Watcher(Protocol):
    """Sees the frames of a run as they are read, part by part from the first on, before any are cropped."""

    def add(self, frames: Frames) -> None:
        """See the next ones."""

    def finish(self) -> Any:
        """Return what was seen, once all were."""


def _ignore(n_frames: int) -> None:
    """Show no progress."""


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

    def cut(self, frames: Frames) -> Shaped[NDArray[np.generic], "frames cropped_height cropped_width"]:
        """Crop the centre."""
        top, left = self.offset(frames.shape[1:])
        return frames[:, top : top + self.crop[0], left : left + self.crop[1]]

    def shrink(self, frames: Frames) -> Shaped[NDArray[np.generic], "frames small_height small_width"]:
        """Keep the nearest pixel of every downscaled one."""
        return frames[:, :: self.downscale, :: self.downscale]

    def normalise(self, frames: Frames) -> Float[NDArray[np.float32], "frames height width"]:
        """Scale intensities."""
        scaled = (frames.astype(np.float64) - self.low) / (self.high - self.low)
        return np.asarray(scaled, dtype=np.float32)


@dataclass(frozen=True)
class PreparedRun:
    """The cropped and downscaled frames of a run, in their file's dtype.

    Attributes
    ----------
    movie
        The frames.
    missing
        Which frames are masked: `nan="mask"`. Their pixels mean nothing.
    low, high
        Extremes after the crop, before downscaling, of the frames that are not missing; lone pixels do not count.
    lone
        Frame, row and column of the lone pixels, in prepared frames (`find_lone`).
    """

    movie: Movie
    missing: Bool[NDArray[np.bool_], " frames"]
    low: float
    high: float
    lone: tuple[LonePixel, ...] = ()

    def read(self, start: int, stop: int) -> Frames:
        """Return frames `start` to `stop`; a lone pixel has the highest value of the others."""
        frames = self.movie.read(start, stop)
        here = [(frame - start, row, column) for frame, row, column in self.lone if start <= frame < stop]
        if here:
            frames = np.array(frames)
            frames[tuple(np.transpose(here))] = self.high
        return frames

    @property
    def n_frames(self) -> int:
        """Number of frames, missing ones included."""
        return self.movie.shape[0]

    @property
    def stretches(self) -> list[tuple[int, int]]:
        """Ranges of consecutive frames between the missing ones."""
        return true_ranges(~self.missing)

    def batches(self, size: int) -> list[tuple[int, int]]:
        """Ranges of at most `size` consecutive frames, none of them missing."""
        return [
            (start, min(start + size, stop)) for first, stop in self.stretches for start in range(first, stop, size)
        ]


@dataclass(frozen=True)
class PreparedSession:
    """The frames of a session as the network sees them."""

    session: Session
    preprocessing: Preprocessing
    runs: tuple[PreparedRun, ...]

    def frames(self, run: int, start: int = 0, stop: int | None = None) -> Float[NDArray[np.float32], "t h w"]:
        """Return frames `start` to `stop` of run number `run`, in [0, 1]."""
        one = self.runs[run]
        return self.preprocessing.normalise(one.read(start, one.n_frames if stop is None else stop))

    def each_run(self) -> Iterator["PreparedSession"]:
        """Yield each run alone, without its raw movie, for workers anywhere."""
        for about, run in zip(self.session, self.runs, strict=True):
            alone = replace(about, movie=run.movie, start=0, stop=None)
            yield replace(self, session=replace(self.session, runs=(alone,)), runs=(run,))

    def require_stretches(self, window: int, order: int) -> None:
        """Raise unless masked frames have left a window to train on, and in every run a frame to forecast.

        Raises
        ------
        LarscopeError
            No run has `window` consecutive frames, or a run has not `order` + 1.
        """
        longest = [max((stop - start for start, stop in run.stretches), default=0) for run in self.runs]
        for run, about, n_frames in zip(self.runs, self.session, longest, strict=True):
            if n_frames <= order:
                raise LarscopeError(
                    f"Every run needs {order + 1} consecutive unmasked frames (order {order} + 1); {about.label} has "
                    f"{n_frames}, with {int(run.missing.sum())} of its {run.n_frames} frames masked. Lower `order`. "
                    f"{CROP_BORDERS}"
                )
        if max(longest) < window:
            raise LarscopeError(
                f"Training needs {window} consecutive unmasked frames (`window`) in at least one run; the longest "
                f"stretch has {max(longest)}. Lower `window`, or bridge gaps (`--nan interpolate`)."
            )

    def mean_frame(self) -> Float[NDArray[np.float32], "height width"]:
        """Return the mean over runs of each run's mean over time: runs weigh equally, whatever their lengths."""
        means = [_mean_over_time(run) for run in self.runs]
        return self.preprocessing.normalise(np.mean(means, axis=0)[np.newaxis]).squeeze(axis=0)


def prepare(
    session: Session,
    crop: tuple[int, int] | None = None,
    downscale: int = 1,
    preprocessing: Preprocessing | None = None,
    *,
    nan: NaN = "error",
    cache: Path | None = None,
    on_frames: Callable[[int], None] = _ignore,
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
    nan
        Frames with NaN or infinite pixels inside the crop: `"error"` refuses them, `"mask"` leaves them out (no
        window spans one), `"interpolate"` draws those pixels on a line between the nearest whole frames before
        and after, at most 10 frames apart.
    cache
        Folder for the prepared frames, shared by any number of sessions; None keeps them in memory. What is found
        there is used again only if file contents, settings and larscope's code are the same.
    on_frames
        Called with the number of frames read since the last call, to show progress.

    Raises
    ------
    LarscopeError
        A crop that does not fit, NaN or infinite pixels (run, file and first frame are named), a session whose
        pixels all have one value, a cache that cannot be written, or a file that changes while it is read.
    """
    return prepare_watched(session, None, crop, downscale, preprocessing, nan=nan, cache=cache, on_frames=on_frames)[0]


def prepare_watched(
    session: Session,
    watch: Callable[[Run], Watcher] | None,
    crop: tuple[int, int] | None = None,
    downscale: int = 1,
    preprocessing: Preprocessing | None = None,
    *,
    nan: NaN = "error",
    cache: Path | None = None,
    on_frames: Callable[[int], None] = _ignore,
) -> tuple[PreparedSession, list[Any]]:
    """Prepare a session, and show each run's frames, as they are read, to what `watch` makes for it.

    What that finished with is returned; None for a run whose prepared frames were in the cache, so that nothing was
    read.
    """
    if preprocessing is None:
        preprocessing = Preprocessing(resolve_crop(session.frame_shape, crop, downscale), downscale)
        fixed_scale = False
    else:
        _require_fit(session.frame_shape, preprocessing.crop)
        fixed_scale = True
    if cache is not None and workers.are_open():
        # a bar cannot travel: it moves on by whole runs
        store = partial(_find_or_store, folder=cache)
        found = []
        for run, seen in workers.hand_out(store, [_Chunks(run, preprocessing, nan, watch) for run in session]):
            on_frames(run.n_frames)
            found.append((run, seen))
    else:
        chunks = [_Chunks(run, preprocessing, nan, watch, on_frames) for run in session]
        found = [one.keep_in_memory() if cache is None else _find_or_store(one, cache) for one in chunks]
    runs = tuple(run for run, _ in found)
    if not fixed_scale:
        low, high = min(run.low for run in runs), max(run.high for run in runs)
        if low == high:
            raise LarscopeError(
                f"The frames must vary: every pixel of the session is {low:g} after the crop. Make sure the files "
                "hold the recorded movie."
            )
        preprocessing = replace(preprocessing, low=low, high=high)
    return PreparedSession(session, preprocessing, runs), [seen for _, seen in found]


def prepared_bytes(session: Session, crop: tuple[int, int] | None, downscale: int) -> int:
    """Return the size of a session's prepared frames, in memory or on disk, without reading any."""
    shape = Preprocessing(resolve_crop(session.frame_shape, crop, downscale), downscale).frame_shape
    return sum(run.n_frames * prod(shape) * run.movie.dtype.itemsize for run in session)


def chunk_ranges(movie: Movie, n_frames: int) -> list[tuple[int, int]]:
    """Return the ranges for reading `n_frames` frames of a movie: about 32 MiB each."""
    step = max(1, CHUNK_BYTES // max(prod(movie.shape[1:]) * movie.dtype.itemsize, 1))
    return [(start, min(start + step, n_frames)) for start in range(0, n_frames, step)]


class _Chunks:
    """The prepared frames of one run, chunk by chunk, with their measures."""

    def __init__(
        self,
        run: Run,
        preprocessing: Preprocessing,
        nan: NaN,
        watch: Callable[[Run], Watcher] | None = None,
        on_frames: Callable[[int], None] = _ignore,
    ) -> None:
        self.run = run
        self.watch = watch
        self.seen: Any = None
        self.preprocessing = preprocessing
        self.nan = nan
        self.on_frames = on_frames
        self.low, self.high = np.inf, -np.inf
        self.lone: tuple[LonePixel, ...] = ()
        self._highs = np.full(run.n_frames, -np.inf)
        self.missing = np.zeros(run.n_frames, dtype=np.bool_)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.run.n_frames, *self.preprocessing.frame_shape

    def __iter__(self) -> Iterator[Frames]:
        watcher = None if self.watch is None else self.watch(self.run)
        for start, stop in chunk_ranges(self.run.movie, self.run.n_frames):
            whole = self.run.read(start, stop)
            if watcher is not None:
                watcher.add(whole)
            frames = self.preprocessing.cut(whole)
            if frames.dtype.kind == "f":
                frames = self._treat_nonfinite(frames, start)
            seen = frames[~self.missing[start:stop]] if self.missing[start:stop].any() else frames
            if len(seen):
                highs = seen.max(axis=(1, 2))
                self._highs[start:stop][~self.missing[start:stop]] = highs
                self.low, self.high = min(self.low, float(seen.min())), max(self.high, float(highs.max()))
                self._require_exact(start)
            self.on_frames(stop - start)
            yield np.ascontiguousarray(self.preprocessing.shrink(frames))
        self.seen = None if watcher is None else watcher.finish()
        if self.missing.all():
            raise LarscopeError(f"A run must have frames without NaN: {self.run.label} has none. {CROP_BORDERS}")
        lone, self.high = find_lone(
            lambda start, stop: self.preprocessing.cut(self.run.read(start, stop)), self.low, self._highs
        )
        step = self.preprocessing.downscale
        self.lone = tuple(
            (frame, row // step, column // step) for frame, row, column in lone if not (row % step or column % step)
        )

    def _require_exact(self, start: int) -> None:
        if max(-self.low, self.high) > LARGEST:
            raise LarscopeError(
                f"Pixels must be at most {LARGEST:.0f} in size, or they lose digits: {self.run.label} has one of "
                f"{max(-self.low, self.high):g}, in the frames from {start} on. Find out how the file was written; "
                "`larscope check` names the frame."
            )

    def _treat_nonfinite(self, frames: Frames, start: int) -> Frames:
        bad = np.asarray(~np.isfinite(frames).all(axis=(1, 2)))
        if not bad.any():
            return frames
        if self.nan == "error":
            first = start + int(np.argmax(bad))
            raise LarscopeError(
                f"Pixels must be finite: {self.run.label} has NaN or infinite values, first in frame {first} of the "
                f"run (frame {self.run.start + first} of the movie), in {int(bad.sum())} of the {len(bad)} frames "
                "read with it. Leave these frames out (`--nan mask`), bridge them (`--nan interpolate`), or, if they "
                "lie at the borders, keep only the centre with a smaller crop (`--crop HEIGHT WIDTH`)."
            )
        if self.nan == "mask":
            self.missing[start : start + len(frames)] = bad
            return frames
        filled = np.array(frames)
        for first, last in true_ranges(bad):
            filled[first:last] = self._bridge(start + first, start + last)
        return filled

    def _bridge(self, first: int, last: int) -> Frames:
        """Return frames `first` to `last` with their non-finite pixels on a line between the whole frames around."""
        if last - first > MAX_GAP:
            raise LarscopeError(
                f'nan="interpolate" bridges at most {MAX_GAP} frames between two whole ones: {self.run.label} has NaN '
                f"in the {last - first} frames {first} to {last - 1} of the run. "
                + (CROP_BORDERS if last - first == self.run.n_frames else NOT_BRIDGED)
            )
        before, after = max(0, last - MAX_GAP - 1), min(self.run.n_frames, first + MAX_GAP + 1)
        around = self.preprocessing.cut(self.run.read(before, after)).astype(np.float64)
        whole = before + np.flatnonzero(np.isfinite(around).all(axis=(1, 2)))
        left, right = whole[whole < first], whole[whole >= last]
        if not (left.size and right.size and right[0] - left[-1] <= MAX_GAP + 1):
            raise LarscopeError(
                f'nan="interpolate" bridges at most {MAX_GAP} frames between two whole ones: {self.run.label} has '
                f"none near enough to frames {first} to {last - 1} of the run. {NOT_BRIDGED}"
            )
        step = (np.arange(first, last) - left[-1]) / (right[0] - left[-1])
        ends = around[left[-1] - before], around[right[0] - before]
        line = ends[0] + step[:, np.newaxis, np.newaxis] * (ends[1] - ends[0])
        own = around[first - before : last - before]
        return np.where(np.isfinite(own), own, line).astype(self.run.movie.dtype)

    def keep_in_memory(self) -> tuple[PreparedRun, Any]:
        frames = np.concatenate(list(self))
        return PreparedRun(ArrayMovie(frames), self.missing, self.low, self.high, self.lone), self.seen


FACTS, FRAMES = "facts.json", "frames.npy"


def _find_or_store(chunks: _Chunks, folder: Path) -> tuple[PreparedRun, Any]:
    """Return a run's prepared frames from the cache, after putting them there unless they are there already.

    With them, what has watched the frames as they were read, if they were.

    A movie without a file has no content to address it by before it is read: its frames are written anew.
    """
    files = chunks.run.files
    if files and (found := _load(folder / _address(chunks))) is not None:
        chunks.on_frames(chunks.run.n_frames)
        return found, None
    before = fingerprint(files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with unfinished(folder / "entry") as filling:
            filling.mkdir()
            content = _store(chunks, filling)
            if fingerprint(files) != before:
                raise LarscopeError(
                    f"A movie must stay as it is while it is read: {chunks.run.label} has changed. Wait until it is "
                    "whole."
                )
            entry = folder / (_address(chunks) if files else content)
            _move(filling, entry)
    except OSError as error:
        raise LarscopeError(
            f"Prepared frames must be written to {folder}: {error}. Free some space, or pass another `cache`."
        ) from error
    stored = _load(entry)
    if stored is None:
        raise LarscopeError(f"Prepared frames must stay in {entry} while they are used; they are gone. Start again.")
    return stored, chunks.seen


def _address(chunks: _Chunks) -> str:
    """Return the digest of a run's prepared frames: everything they depend on."""
    run, preprocessing = chunks.run, chunks.preprocessing
    contents = [(entry["bytes"], entry["sha256"]) for entry in describe_inputs(run.files)]
    movie = [list(run.movie.shape), run.movie.dtype.str, run.dataset, run.channel, run.plane, run.start, run.stop]
    decisive = [
        contents,
        movie,
        preprocessing.crop,
        preprocessing.downscale,
        chunks.nan,
        _code(),
        describe_home(run.movie),
    ]
    return _digest(decisive)


@cache
def _code() -> str:
    """Return a digest of the code behind prepared frames: this file, the readers and their libraries."""
    here = Path(__file__)
    sources = (
        here,
        here.with_name("lone.py"),
        here.with_name("session.py"),
        *sorted((here.parent / "readers").glob("*.py")),
    )
    return digest_code(sources, LIBRARIES)


def _store(chunks: _Chunks, filling: Path) -> str:
    """Write a run's prepared frames and their measures, with digests; return one digest of all."""
    dtype, header, written = chunks.run.movie.dtype, io.BytesIO(), hashlib.sha256()
    described = {"descr": dtype.str, "fortran_order": False, "shape": chunks.shape}
    np.lib.format.write_array_header_1_0(header, described)
    with (filling / FRAMES).open("wb") as file:
        for part in chain([header.getvalue()], (np.asarray(frames, dtype).tobytes() for frames in chunks)):
            file.write(part)
            written.update(part)
        file.flush()
        os.fsync(file.fileno())
    facts = {
        "low": chunks.low,
        "high": chunks.high,
        "missing": np.flatnonzero(chunks.missing).tolist(),
        "lone": chunks.lone,
        "frames": written.hexdigest(),
    }
    digest = _digest(facts)
    write_text(filling / FACTS, json.dumps({**facts, "facts": digest}))
    return digest


def _load(entry: Path) -> PreparedRun | None:
    """Return the content of a cache entry; None if missing, or damaged, with a warning."""
    if not entry.exists():
        return None
    try:
        facts = json.loads((entry / FACTS).read_text(encoding="utf-8"))
        whole = facts.pop("facts") == _digest(facts) and facts["frames"] == digest_file(entry / FRAMES)
        movie = NpyMovie(entry / FRAMES)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        whole = False
    if not whole:
        warnings.warn(f"Prepared frames in {entry} are damaged: they are prepared again.", UserWarning, stacklevel=2)
        return None
    missing = np.zeros(movie.shape[0], dtype=np.bool_)
    missing[facts["missing"]] = True
    return PreparedRun(movie, missing, facts["low"], facts["high"], tuple(map(tuple, facts["lone"])))


def _digest(decisive: Any) -> str:
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:32]


def _move(filling: Path, entry: Path) -> None:
    """Give an entry its name, unless another process has just made the same one."""
    try:
        put_in_place(filling, entry)
    except OSError:
        if _load(entry) is not None:
            return
        shutil.rmtree(entry, ignore_errors=True)  # damaged
        put_in_place(filling, entry)


def _mean_over_time(run: PreparedRun) -> Float[NDArray[np.float64], "height width"]:
    total = np.zeros(run.movie.shape[1:])
    for start, stop in chunk_ranges(run.movie, run.n_frames):
        total += run.read(start, stop)[~run.missing[start:stop]].sum(axis=0, dtype=np.float64)
    return total / np.count_nonzero(~run.missing)


def true_ranges(which: Bool[NDArray[np.bool_], " n"]) -> list[tuple[int, int]]:
    """Return the ranges of consecutive true entries.

    >>> true_ranges(np.array([True, True, False, True]))
    [(0, 2), (3, 4)]
    """
    groups = [(value, len(list(group))) for value, group in groupby(which.tolist())]
    stops = np.cumsum([length for _, length in groups]).tolist()
    return [(stop - length, stop) for (value, length), stop in zip(groups, stops, strict=True) if value]


def resolve_crop(frame_shape: tuple[int, int], crop: tuple[int, int] | None, downscale: int) -> tuple[int, int]:
    """Return the given crop, or the largest that three poolings allow.

    >>> resolve_crop((100, 70), None, downscale=2)
    (96, 64)
    """
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
                f"{times(frame_shape)}. Use a smaller `downscale` or larger frames."
            )
    _require_fit(frame_shape, crop)
    if crop[0] % unit or crop[1] % unit:
        fitting = (max(crop[0] // unit, 1) * unit, max(crop[1] // unit, 1) * unit)
        raise LarscopeError(
            f"`crop` must be multiples of {unit} (three poolings, downscale {downscale}); got {times(crop)}. "
            f"Pass crop=({fitting[0]}, {fitting[1]})."
        )
    return crop


def _require_fit(frame_shape: tuple[int, int], crop: tuple[int, int]) -> None:
    if crop[0] > frame_shape[0] or crop[1] > frame_shape[1]:
        raise LarscopeError(
            f"The crop must fit into the frames: got {times(crop)} for frames of {times(frame_shape)} pixels. "
            "Pass a smaller `crop`."
        )


def prepare_showing(session: Session, progress: bool, **how: Any) -> PreparedSession:
    """Prepare a session with a bar over its frames."""
    with Progress(disable=not progress) as bar:
        task = bar.add_task("Reading", total=sum(run.n_frames for run in session))
        return prepare(session, on_frames=lambda n_frames: bar.advance(task, n_frames), **how)
