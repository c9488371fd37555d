"""Static tissue: cells, the background behind them, the haze over them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from numpy.random import Generator
from numpy.typing import NDArray

from larscope._errors import LarscopeError

Image = Float[NDArray[np.float64], "height width"]


@dataclass(frozen=True)
class Tissue:
    """Brightness in arbitrary units; a resting cell is about 1."""

    background: Image
    positions: Float[NDArray[np.float64], "cells 2"]
    footprints: Float32[NDArray[np.float32], "cells height width"]
    brightness: Float[NDArray[np.float64], "cells"]
    amplitude: Float[NDArray[np.float64], "cells"]
    decay: Float[NDArray[np.float64], "cells"]
    haze: Float32[NDArray[np.float32], "patterns height width"]


def grow_tissue(
    rng: Generator, shape: tuple[int, int], n_cells: int, diameter: float, overlapping: float, haze: float = 1.0
) -> Tissue:
    """Draw cells, the background with its bystanders, and patterns of haze."""
    positions = _place_cells(rng, shape, n_cells, diameter, overlapping)
    bystanders = rng.uniform((0, 0), shape, (n_cells, 2))
    background = _draw_background(rng, shape, diameter, bystanders)
    patterns = [0.03 * haze * background * _smooth_noise(rng, shape, max(shape) / 8) for _ in range(6)]
    return Tissue(
        background=background,
        positions=positions,
        footprints=np.stack([_draw_cell(rng, shape, position, diameter) for position in positions]),
        brightness=0.6 * np.exp(0.3 * rng.standard_normal(n_cells)),
        amplitude=rng.uniform(0.5, 0.9, n_cells),
        decay=np.exp(-1 / rng.uniform(4, 8, n_cells)),
        haze=np.stack(patterns).astype(np.float32),
    )


def _place_cells(
    rng: Generator, shape: tuple[int, int], n_cells: int, diameter: float, overlapping: float
) -> Float[NDArray[np.float64], "cells 2"]:
    """Throw darts 1.2 diameters apart, then lay the overlapping cells over some of them."""
    margin = diameter / 2 + 1
    low, high = (margin, margin), (shape[0] - 1 - margin, shape[1] - 1 - margin)
    n_apart = n_cells - min(round(overlapping * n_cells), n_cells // 2)
    placed: list[NDArray[np.float64]] = []
    for dart in rng.uniform(low, high, (300 * n_apart, 2)) if min(high) > margin else ():
        if len(placed) == n_apart:
            break
        if all(np.hypot(*(dart - other)) >= 1.2 * diameter for other in placed):
            placed.append(dart)
    if len(placed) < n_apart:
        raise LarscopeError(
            f"{n_apart} cells of {diameter:g} pixels must fit side by side into frames of {shape[0]} x {shape[1]}; "
            f"only {len(placed)} did. Lower `n_cells` or `cell_diameter`, or enlarge `frame_shape`."
        )
    for below in placed[: n_cells - n_apart]:
        angle = rng.uniform(0, 2 * np.pi)
        above = below + diameter / 2 * np.array([np.sin(angle), np.cos(angle)])
        placed.append(np.clip(above, low, high))
    return np.array(placed)


def _draw_cell(
    rng: Generator, shape: tuple[int, int], position: NDArray[np.float64], diameter: float
) -> Float32[NDArray[np.float32], "height width"]:
    """Return a soft ellipse with a dim nucleus, 1 at its brightest."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.2)
    down, right = rows - position[0], columns - position[1]
    along = (np.cos(angle) * down + np.sin(angle) * right) / stretch
    across = (np.cos(angle) * right - np.sin(angle) * down) * stretch
    distance = np.hypot(along, across) / (diameter / 2)
    soma = 1 / (1 + np.exp(np.clip((distance - 1) * 6, -50, 50)))
    nucleus = 0.5 * np.exp(-((distance / 0.45) ** 2))
    cell = np.where(soma > 0.01, soma * (1 - nucleus), 0)
    return np.asarray(cell / cell.max(), dtype=np.float32)


def _draw_background(
    rng: Generator, shape: tuple[int, int], diameter: float, bystanders: Float[NDArray[np.float64], "cells 2"]
) -> Image:
    """Return uneven illumination times fine neuropil, with silent cells, crossed by dark vessels."""
    illumination = np.exp(0.25 * _smooth_noise(rng, shape, max(shape) / 5))
    neuropil = 1 + 0.22 * _smooth_noise(rng, shape, 0.9) + 0.15 * _smooth_noise(rng, shape, diameter / 3)
    silent = sum(rng.uniform(0.05, 0.35) * _draw_cell(rng, shape, cell, diameter) for cell in bystanders)
    vessels = np.ones(shape)
    for width in (0.5 * diameter, 0.3 * diameter, 0.3 * diameter):
        vessels *= 1 - 0.65 * np.exp(-((_distance_to_vessel(rng, shape) / width) ** 2))
    return np.asarray(0.45 * np.maximum(illumination * neuropil + silent, 0.2) * vessels)


def _distance_to_vessel(rng: Generator, shape: tuple[int, int]) -> Image:
    """Return each pixel's distance to a winding line across the frame."""
    length = 2 * sum(shape)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(0.06 * rng.standard_normal(length))
    steps = np.stack([np.sin(heading), np.cos(heading)], axis=1)
    path = np.cumsum(steps, axis=0)
    path += rng.uniform(0.2, 0.8, 2) * shape - path[length // 2]
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    nearest = np.full(shape, np.inf)
    for row, column in path:
        np.minimum(nearest, (rows - row) ** 2 + (columns - column) ** 2, out=nearest)
    return np.asarray(np.sqrt(nearest))


def _smooth_noise(rng: Generator, shape: tuple[int, int], scale: float) -> Image:
    """Return noise of mean 0 and variance 1, smooth over `scale` pixels."""
    frequencies = np.fft.fftfreq(shape[0])[:, np.newaxis] ** 2 + np.fft.rfftfreq(shape[1]) ** 2
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) * np.exp(-2 * (np.pi * scale) ** 2 * frequencies)
    smooth = np.fft.irfft2(spectrum, shape)
    return np.asarray((smooth - smooth.mean()) / smooth.std())
