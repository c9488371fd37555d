"""How far frames have moved against the mean of their run, and how much of a movie is noise."""

import numpy as np
import scipy.fft
from jaxtyping import Float, Int
from numpy.typing import NDArray

REACH = 16
"""Largest possible shift, in pixels, along each side."""

TINY = 1e-30
"""Amplitudes below are none: their reciprocals would not fit into single precision."""

BLUR = 1.0
"""Standard deviation, in pixels, of the blur against whitened-up pixel noise."""

CERTAIN = 5.0
"""A shift counts if its correlation beats no shift by this many standard deviations of pixel noise."""

Image = Float[NDArray[np.float64], "height width"]
Stack = Float[NDArray[np.float32], "frames height width"]


LIKENESS = (0.5, 5.0)
"""A shift counts if it gains this many times as much as the mean itself would by the same shift.

A cell that lights up gains less, or far more where there is little at rest to be seen, as in dF/F.
"""

SMALLEST_SIDE = 16
"""Fewest pixels along each side for estimating shifts."""


def estimate_shifts(stack: Stack, noise: float) -> Float[NDArray[np.float64], "frames 2"]:
    """Estimate the rigid shift of each frame against the mean of all, in rows and columns.

    The shift s maximises the correlation C(s) of the frame with the mean, whitened by the mean's amplitude spectrum
    and blurred; a parabola through the neighbours gives fractions of a pixel. Pixel noise of standard deviation
    sigma gives C(s) - C(0) the variance 2 sigma^2 (R(0) - R(s)), where R is the autocorrelation of the filtered
    mean. A shift whose gain is less than `CERTAIN` times its standard deviation may be the noise's, one whose gain is
    not as the mean's would be (`LIKENESS`) the activity's: these are given as 0.

    Parameters
    ----------
    stack
        Frames of at least `SMALLEST_SIDE` pixels in both directions.
    noise
        Standard deviation of the pixels' noise.

    Returns
    -------
    shifts
        Rows and columns, in pixels.

    Examples
    --------
    >>> still = np.random.default_rng(0).random((64, 64), np.float32)
    >>> shifts = estimate_shifts(np.stack([still] * 9 + [np.roll(still, (3, -2), (0, 1))]), noise=0.0)
    >>> np.rint(shifts[-2:]).tolist()
    [[0.0, 0.0], [3.0, -2.0]]
    """
    height, width = stack.shape[1:]
    taper = np.sqrt(np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])).astype(np.float32)
    blur = _blur(height, width)
    mean = _spectrum(stack.mean(axis=0), taper)
    amplitude = np.abs(mean)
    template = np.divide(np.conj(mean) * blur, amplitude, out=np.zeros_like(mean), where=amplitude > TINY)
    own = _surface(np.abs(template) ** 2, height, width)
    rest = (own.shape[0] // 2, own.shape[1] // 2)
    alike = _surface(mean * template, height, width)
    alike = alike[rest] - alike
    spread = np.sqrt(2 * np.maximum(own[rest] - own, 0)) * noise * np.sqrt(np.mean(taper**2))
    shifts = np.zeros((len(stack), 2))
    for number, frame in enumerate(stack):
        gain = _surface(_spectrum(frame, taper) * template, height, width)
        rounding = 1e-4 * np.abs(gain[rest])
        gain -= gain[rest]
        row, column = np.unravel_index(gain.argmax(), gain.shape)
        least, most = (factor * alike[row, column] for factor in LIKENESS)
        if CERTAIN * spread[row, column] + rounding < gain[row, column] and least < gain[row, column] < most:
            shifts[number] = (
                row - rest[0] + _vertex(gain[:, column], int(row)),
                column - rest[1] + _vertex(gain[row], int(column)),
            )
    return shifts


def noise_power(stack: Stack, numbers: Int[NDArray[np.int64], " frames"]) -> tuple[Image, Image]:
    """Return each pixel's variance over time, and how much of it is noise: half the mean square of its changes.

    Parameters
    ----------
    stack
        Frames.
    numbers
        Their numbers in the run; only changes between neighbours count.
    """
    neighbours = np.flatnonzero(np.diff(numbers) == 1)
    mean = stack.mean(axis=0, dtype=np.float64)
    noise, variance = np.zeros((2, *stack.shape[1:]))
    for frame in stack:
        variance += np.square(frame - mean) / len(stack)
    for number in neighbours:
        noise += np.square(stack[number + 1] - stack[number], dtype=np.float64)
    return variance, noise / max(2 * len(neighbours), 1)


def _blur(height: int, width: int) -> Image:
    rows, columns = np.fft.fftfreq(height)[:, np.newaxis], np.fft.rfftfreq(width)
    return np.exp(-2 * (np.pi * BLUR) ** 2 * (rows**2 + columns**2)).astype(np.float32)


def _spectrum(image: NDArray[np.float32], taper: NDArray[np.float32]) -> NDArray[np.complex64]:
    return np.asarray(scipy.fft.rfft2((image - image.mean()) * taper))


def _surface(spectrum: NDArray[np.generic], height: int, width: int) -> NDArray[np.float32]:
    """Return the correlations of shifts within reach, no shift in the middle."""
    surface = scipy.fft.irfft2(spectrum, (height, width))
    down, right = (min(REACH, (side - 1) // 4) for side in (height, width))
    rows, columns = np.arange(-down, down + 1), np.arange(-right, right + 1)
    return np.asarray(surface[np.ix_(rows, columns)])


def _vertex(values: NDArray[np.float32], peak: int) -> float:
    """Return the top of the parabola through a peak and its two neighbours, relative to the peak."""
    if not 0 < peak < len(values) - 1:
        return 0.0
    before, at, after = (float(value) for value in values[peak - 1 : peak + 2])
    curvature = before - 2 * at + after
    return 0.5 * (before - after) / curvature if curvature < 0 else 0.0
