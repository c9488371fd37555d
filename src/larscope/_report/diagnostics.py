"""What the diagnostics of each run's VAR say, in sentences."""

import math

import numpy as np
from numpy.typing import NDArray

from larscope._report.style import percent
from larscope._results.folder import RESIDUAL_PAIR, Result

MUCH = 0.1
"""Share of latents with autocorrelated residuals that is worth more lags."""

STRONG = 0.5
"""Correlation of residuals from which two latents share a quarter of what the past does not explain."""


def describe_diagnostics(result: Result) -> list[str]:
    """Return one sentence on each: stability, whiteness, correlation in the same frame. None of old results."""
    data = result.dataset
    names = ("spectral_radius", "n_autocorrelated", "residual_correlation", *RESIDUAL_PAIR)
    if any(name not in data for name in names):
        return []
    radius, coloured, strongest, first, second = (data[name].to_numpy() for name in names)
    runs = data["run"].to_numpy().tolist()
    sentences = [_stability(radius, runs)]
    sentences.append(_whiteness(coloured / data.sizes["latent"], int(data.attrs["order"])))
    if np.isfinite(strongest).any():
        at = int(np.nanargmax(strongest))
        n_pairs = math.comb(data.sizes["latent"], 2)
        frames = int(data["n_frames"].to_numpy()[at]) - int(data.attrs["order"])
        by_chance = math.sqrt(2 * math.log(max(2 * n_pairs, 2)) / frames)
        sentences.append(
            f"In the same frame, residuals of two latents correlate by up to {strongest[at]:.2f} (latents {first[at]} "
            f"and {second[at]} in run {runs[at]}; about {min(by_chance, 1):.2f} by chance). "
            + (
                "Input common to both, or one cell in two latents, makes such a correlation, and it can look like a "
                "coupling."
                if strongest[at] >= STRONG
                else "No pair shares much that the past does not explain."
            )
        )
    return sentences


def _stability(radius: NDArray[np.float64], names: list[str]) -> str:
    unstable = [name for name, one in zip(names, radius, strict=True) if one >= 1]
    reached = f"the largest spectral radius is {radius.max():.2f}"
    if not unstable:
        return f"The dynamics of every run are stable: {reached}, below 1."
    return (
        f"The dynamics of {len(unstable)} of {len(names)} runs do not settle ({', '.join(unstable[:3])}"
        f"{', ...' if len(unstable) > 3 else ''}): {reached}, where a stable model stays below 1. Forecast one frame "
        "ahead with them, and do not simulate."
    )


def _whiteness(coloured: NDArray[np.float64], order: int) -> str:
    mean = float(coloured.mean())
    sentence = (
        f"Residuals still depend on their own past in {percent(mean)} of latents (Ljung-Box, corrected by Holm; none "
        "by chance, in 19 of 20 runs)"
    )
    if mean <= MUCH:
        return f"{sentence}, so {order} past frames are enough."
    return f"{sentence}. More past frames may help: `order='auto'` chooses their number by held-out frames."
