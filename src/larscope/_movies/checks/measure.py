"""One pass over a run in bounded memory, for all measures of its checks."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt64
from numpy.typing import NDArray

from larscope._movies.checks.motion import SMALLEST_SIDE, Stack, estimate_shifts, noise_power
from larscope._movies.lone import LonePixel, find_lone
from larscope._movies.preprocessing import chunk_ranges
from larscope._movies.session import Run

SAMPLE_FRAMES = 500
"""Frames of a run in the sample for motion, noise and clipped values."""

SAMPLE_BYTES = 32 << 20
"""Largest size of the sample."""

SAMPLE_SIDE = 256
"""Pixels of the centre in the sample, along each side."""

SAMPLE_PIXELS = 4_000_000
"""Pixels of the sample for counting values."""

AT_REST = 2.0
"""Least variance of the mean image, in units of the activity's, to see motion in movies below zero."""

LARGEST = 2.0**53
"""Whole numbers beyond this lose digits as double-precision numbers; no detector counts so far."""

LEVEL_PIXELS = 4096
"""About so many pixels of a frame tell its level."""

SPIKE = 3.0
"""A value stands apart if it is this many times as frequent as each of its `NEIGHBOURS` nearest values."""

NEIGHBOURS = 5

FEW = 20
"""Fewest pixels for comparing frequencies."""

Frames = Shaped[NDArray[np.generic], "frames height width"]


@dataclass(frozen=True)
class Measures:
    """The measures of one pass over a run.

    Attributes
    ----------
    run
        The run.
    mean, low, high
        Of each frame's finite pixels; NaN where it has none.
    level
        Of each frame, the mean of the middle half of its pixels, which few active cells do not change.
    nonfinite, oversized, zeros
        Pixels of each frame that are NaN or infinite, that are larger than `LARGEST`, and that are zero.
    digest
        64 bits of the content of each frame; equal for frames that are equal bit for bit.
    brightest
        How many pixels have the highest value of the run.
    constant, image
        Which pixels never change; their value, and the lowest of every other pixel.
    sampled
        The frames that the following comes from, a crop of their centre.
    shifts
        Rows and columns that each of them has moved against their mean; None where that cannot be seen.
    mean_image
        Mean of these frames.
    variance
        Of the pixels over time, their mean.
    noise
        The part of it that neighbouring frames do not share, the median over pixels, which few active ones change.
    ceiling, clipped_at_zero
        Whether the highest value, and zero, are far more frequent than the values next to them.
    lone
        Frame, row and column of pixels far above all others.
    """

    run: Run
    mean: Float[NDArray[np.float64], " frames"]
    low: Float[NDArray[np.float64], " frames"]
    high: Float[NDArray[np.float64], " frames"]
    level: Float[NDArray[np.float64], " frames"]
    nonfinite: Int[NDArray[np.int64], " frames"]
    oversized: Int[NDArray[np.int64], " frames"]
    zeros: Int[NDArray[np.int64], " frames"]
    digest: UInt64[NDArray[np.uint64], " frames"]
    brightest: int
    constant: Bool[NDArray[np.bool_], "height width"]
    image: Shaped[NDArray[np.generic], "height width"]
    sampled: Int[NDArray[np.int64], " sample"]
    shifts: Float[NDArray[np.float64], "sample 2"] | None
    mean_image: Float[NDArray[np.float64], "sample_height sample_width"]
    variance: float
    noise: float
    ceiling: bool
    clipped_at_zero: bool
    lone: list[LonePixel]

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.mean)

    @property
    def n_pixels(self) -> int:
        """Pixels of all frames."""
        return self.n_frames * self.constant.size

    @property
    def repeated(self) -> Bool[NDArray[np.bool_], " frames"]:
        """Which frames are equal, bit for bit, to the one before."""
        return np.concatenate([[False], self.digest[1:] == self.digest[:-1]])

    @property
    def uniform(self) -> Bool[NDArray[np.bool_], " frames"]:
        """Which frames have one value in all pixels."""
        return np.asarray((self.low == self.high) & (self.nonfinite == 0))

    @property
    def brightness(self) -> float:
        """Scale for changes of the mean.

        The mean itself; where pixels are negative, so that zero is not darkness, the pixels' standard deviation
        over time if that is larger.
        """
        mean = abs(float(np.nanmean(self.mean))) if np.isfinite(self.mean).any() else 0.0
        return max(mean, float(np.sqrt(self.variance))) if np.nanmin(self.low, initial=0) < 0 else mean


class Measurement:
    """Measures a run while its frames are read, whoever reads them: part by part, from the first on."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._sampled = _choose_sample(run)
        self._parts: list[tuple[NDArray[Any], ...]] = []
        self._sample: list[NDArray[Any]] = []
        self._lowest: NDArray[Any] | None = None
        self._highest: NDArray[Any] | None = None
        self._top, self._brightest, self._n_frames = -np.inf, 0, 0

    def add(self, frames: Frames) -> None:
        """Measure the frames after those before."""
        frames = _native(frames)
        mean, low, high, nonfinite, oversized = _statistics(frames)
        zeros = prod(frames.shape[1:]) - np.count_nonzero(frames, axis=(1, 2))
        self._parts.append((mean, low, high, _levels(frames), nonfinite, oversized, zeros, _digests(frames)))
        if (here := float(np.max(high, initial=-np.inf, where=~np.isnan(high)))) >= self._top:
            self._brightest = (self._brightest if here == self._top else 0) + int(np.count_nonzero(frames == here))
            self._top = here
        with np.errstate(invalid="ignore"):  # NaN stays NaN
            below, above = frames.min(axis=0), frames.max(axis=0)
            self._lowest = below if self._lowest is None else np.minimum(self._lowest, below)
            self._highest = above if self._highest is None else np.maximum(self._highest, above)
        start, self._n_frames = self._n_frames, self._n_frames + len(frames)
        chosen = self._sampled[(self._sampled >= start) & (self._sampled < self._n_frames)]
        self._sample.append(_centre(frames)[chosen - start])

    def finish(self) -> Measures:
        """Return what was measured, once all frames are."""
        assert self._lowest is not None  # a run has at least one frame
        mean, low, high, level, nonfinite, oversized, zeros, digest = map(
            np.concatenate, zip(*self._parts, strict=True)
        )
        constant = np.asarray(self._lowest == self._highest)
        kept = np.concatenate(self._sample)
        values, counts = _count_values(kept, constant)
        return Measures(
            run=self._run,
            mean=mean,
            low=low,
            high=high,
            level=level,
            nonfinite=nonfinite,
            oversized=oversized,
            zeros=zeros,
            digest=digest,
            brightest=self._brightest,
            constant=constant,
            image=self._lowest,
            sampled=self._sampled,
            **_follow(kept, self._sampled),
            ceiling=bool(len(values)) and float(values[-1]) == self._top and _is_apart(counts, len(counts) - 1),
            clipped_at_zero=_is_apart(counts, int(np.searchsorted(values, 0))) if 0 in values else False,
            lone=find_lone(self._run.read, float(np.nanmin(low, initial=np.inf)), high)[0],
        )


def measure_run(run: Run, on_frames: Callable[[int], None] = lambda n_frames: None) -> Measures:
    """Read a run once, about 32 MiB at a time.

    Parameters
    ----------
    run
        The run.
    on_frames
        Called with the number of frames after each part, to show progress.

    Raises
    ------
    LarscopeError
        Frames cannot be read.
    """
    measurement = Measurement(run)
    for start, stop in chunk_ranges(run.movie, run.n_frames):
        measurement.add(run.read(start, stop))
        on_frames(stop - start)
    return measurement.finish()


def _choose_sample(run: Run) -> Int[NDArray[np.int64], " sample"]:
    """Choose the sample: all frames of a short run, else evenly spread pairs of neighbours, to estimate noise."""
    height, width = (min(side, SAMPLE_SIDE) for side in run.movie.shape[1:])
    n_sample = min(SAMPLE_FRAMES, SAMPLE_BYTES // max(height * width * run.movie.dtype.itemsize, 1))
    if run.n_frames <= n_sample:
        return np.arange(run.n_frames)
    first = np.linspace(0, run.n_frames - 2, n_sample // 2).astype(np.int64)
    return np.unique(np.concatenate([first, first + 1]))


def _centre(frames: NDArray[Any]) -> NDArray[Any]:
    """Cut the sample's centre out of frames, or of one."""
    top, left = (max(0, (side - SAMPLE_SIDE) // 2) for side in frames.shape[-2:])
    return frames[..., top : top + SAMPLE_SIDE, left : left + SAMPLE_SIDE]


def _native(frames: Frames) -> Frames:
    """Return frames in one piece, in this machine's byte order: equal frames have equal bytes."""
    return np.ascontiguousarray(frames, dtype=frames.dtype.newbyteorder("="))


def _statistics(frames: Frames) -> tuple[NDArray[Any], ...]:
    """Return mean, lowest and highest pixel, and the numbers of non-finite and of too large pixels."""
    flat = frames.reshape(len(frames), -1)
    mean, low, high = np.full((3, len(frames)), np.nan)
    nonfinite, oversized = np.zeros((2, len(frames)), np.int64)
    if frames.dtype.kind != "f" and frames.dtype.itemsize < 8:  # every pixel is a number of modest size
        mean, low, high = flat.mean(axis=1, dtype=np.float64), flat.min(axis=1), flat.max(axis=1)
        return mean, low.astype(np.float64), high.astype(np.float64), nonfinite, oversized
    for frame, pixels in enumerate(flat):  # one by one: the masks of all would need more memory than the frames
        finite = np.isfinite(pixels)
        nonfinite[frame] = len(pixels) - np.count_nonzero(finite)
        if nonfinite[frame]:
            pixels = pixels[finite]
        if not len(pixels):
            continue
        low[frame], high[frame] = pixels.min(), pixels.max()
        if max(-low[frame], high[frame]) > LARGEST:
            oversized[frame] = np.count_nonzero(np.abs(pixels.astype(np.float64)) > LARGEST)
        else:
            mean[frame] = pixels.mean(dtype=np.float64)
    return mean, low, high, nonfinite, oversized


def _levels(frames: Frames) -> Float[NDArray[np.float64], " frames"]:
    """Return the mean of the middle half of each frame's pixels, of a few thousand; NaN where many are not finite."""
    flat = frames.reshape(len(frames), -1)
    pixels = flat[:, :: (flat.shape[1] // LEVEL_PIXELS) | 1]  # an odd step meets every column
    first = pixels.shape[1] // 4
    last = pixels.shape[1] - first
    middle = np.partition(pixels, (first, last - 1), axis=1)[:, first:last].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        level = middle.mean(axis=1)
    return np.where(np.isfinite(level), level, np.nan)


def _digests(frames: Frames) -> UInt64[NDArray[np.uint64], " frames"]:
    digests = b"".join(hashlib.blake2b(frame, digest_size=8).digest() for frame in frames)
    return np.frombuffer(digests, np.uint64)


def _count_values(
    sample: NDArray[Any], constant: NDArray[Any]
) -> tuple[Shaped[NDArray[np.generic], " values"], Int[NDArray[np.int64], " values"]]:
    """Return the distinct finite values of changing pixels and their counts, without blank frames."""
    some = sample[:: 1 + sample.size // SAMPLE_PIXELS]
    some = some[some.min(axis=(1, 2)) != some.max(axis=(1, 2))]
    pixels = some[:, ~_centre(constant)]
    return np.unique(pixels[np.isfinite(pixels)], return_counts=True)


def _is_apart(counts: Int[NDArray[np.int64], " values"], which: int) -> bool:
    """Whether a value is far more frequent than its neighbours."""
    below, above = counts[max(0, which - NEIGHBOURS) : which], counts[which + 1 : which + 1 + NEIGHBOURS]
    next_to_it = np.concatenate([below, above])
    if len(next_to_it) < NEIGHBOURS or counts[which] < FEW:
        return False
    return bool(counts[which] > SPIKE * next_to_it.max())


def _follow(sample: Frames, sampled: Int[NDArray[np.int64], " sample"]) -> dict[str, Any]:
    """Estimate shifts, variance and noise from a sample."""
    stack, level = _as_numbers(sample)
    variance, noise = noise_power(stack, sampled)
    moving = float(np.mean(variance - noise))
    # where the baseline was taken off, as in dF/F, little may be left at rest for the active cells to be told from
    visible = float(np.nanmin(sample, initial=0)) >= 0 or float(stack.mean(axis=0).var()) > AT_REST * moving
    shifts = None
    if visible and min(stack.shape[1:]) >= SMALLEST_SIDE and len(stack) >= FEW:
        shifts = estimate_shifts(stack, float(np.sqrt(noise.mean())))
    return {
        "shifts": shifts,
        "mean_image": level + stack.mean(axis=0, dtype=np.float64),
        "variance": float(variance.mean()),
        "noise": float(np.median(noise)),
    }


def _as_numbers(sample: Frames) -> tuple[Stack, float]:
    """Return frames in single precision less their level, and the level; useless pixels are at the level."""
    stack = np.empty(sample.shape, np.float32)
    level: float | None = None
    for number, frame in enumerate(sample):
        pixels = frame.astype(np.float64)
        usable = np.abs(pixels) <= LARGEST  # NaN is not
        if level is None and usable.any():
            level = float(pixels[usable].mean())
        stack[number] = np.where(usable, pixels - (level or 0.0), 0)
    return stack, level or 0.0
