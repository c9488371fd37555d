"""Lone pixels: one value far above all others of a run, for one frame, with dark neighbours. A particle or a glitch."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Shaped
from numpy.typing import NDArray

FAR = 2.0
"""A lone pixel is over so many times as far above the run's lowest pixel as the brightest of nine frames in ten."""

MOST_SHARE = 0.01
"""Largest share of frames with lone pixels; more are no accident, but how the movie is."""

Frames = Shaped[NDArray[np.generic], "frames height width"]
LonePixel = tuple[int, int, int]
"""Frame, row and column."""


def find_lone(
    read: Callable[[int, int], Frames], low: float, highs: Float[NDArray[np.float64], " frames"]
) -> tuple[list[LonePixel], float]:
    """Find the lone pixels of a run, and the highest value without them.

    Parameters
    ----------
    read
        Returns frames `start` to `stop`; called for the few frames in question alone.
    low
        Lowest pixel of the run.
    highs
        Highest pixel of each frame; not finite for frames that do not count.

    Examples
    --------
    >>> frames = np.random.default_rng(0).poisson(20, (100, 8, 8))
    >>> highest = frames.max()
    >>> frames[7, 2, 3] = 9999
    >>> found = find_lone(lambda start, stop: frames[start:stop], frames.min(), frames.max(axis=(1, 2)).astype(float))
    >>> found == ([(7, 2, 3)], highest)
    True
    """
    known = np.isfinite(highs)
    top = float(highs[known].max(initial=-np.inf))
    limit = low + FAR * (float(np.quantile(highs[known], 0.9)) - low) if known.any() else np.inf
    suspects = np.flatnonzero(known & (highs > limit))
    # where nine frames in ten are dark, nothing says how bright is usual
    if not low < limit or not 0 < len(suspects) <= max(3, MOST_SHARE * len(highs)):
        return [], top
    found, top = [], float(highs[known & (highs <= limit)].max(initial=low))
    for frame in suspects.tolist():
        first = max(0, frame - 1)
        around = read(first, min(len(highs), frame + 2)).astype(np.float64)
        lone = _is_lone(around, frame - first, low, limit)
        found += [(frame, int(row), int(column)) for row, column in np.argwhere(lone)]
        top = max(top, float(np.nanmax(around[frame - first], initial=low, where=~lone)))
    return found, top


def _is_lone(
    around: Float[NDArray[np.float64], "few height width"], which: int, low: float, limit: float
) -> Bool[NDArray[np.bool_], "height width"]:
    """Return the pixels whose eight neighbours, and they themselves a frame before and after, reach less than half."""
    own = around[which]
    padded = np.pad(own, 1, constant_values=low)
    height, width = own.shape
    others = [
        padded[row : row + height, column : column + width]
        for row in range(3)
        for column in range(3)
        if (row, column) != (1, 1)
    ]
    others += [frame for number, frame in enumerate(around) if number != which]
    half = low + (own - low) / 2
    with np.errstate(invalid="ignore"):  # NaN is no neighbour
        return np.asarray((own > limit) & ~np.any([other > half for other in others], axis=0))
