"""Activity of the cells: couplings, drift between blocks, spikes and calcium."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy.random import Generator
from numpy.typing import NDArray

from larscope._simulate.truth import CONDITIONS

DRIVING_FRACTION = 0.25
"""Share of driving cells."""

TARGETS = 3
"""Cells driven by each driving cell."""

STRENGTH = (0.5, 0.8)
"""Range of couplings in the familiar condition: spikes caused by one spike."""

SPIKE_RATE = 0.06
"""Mean spikes per frame of every cell in every condition, so activity does not reveal drivers."""

BURN_IN = 100
"""Frames simulated and dropped before a run, so it begins in the stationary state."""


def plant_couplings(
    rng: Generator, n_cells: int, order: int, novel_strength: float
) -> dict[str, Float[NDArray[np.float64], "order cells cells"]]:
    """Deal cells to driving ones; no cell gets two drivers."""
    driving = rng.permutation(n_cells)[: max(2, round(DRIVING_FRACTION * n_cells))]
    familiar = np.zeros((order, n_cells, n_cells))
    for turn, driven in enumerate(rng.permutation(n_cells)[: TARGETS * len(driving)]):
        driver = driving[turn % len(driving)]
        if driver == driven:
            driver = driving[(turn + 1) % len(driving)]
        familiar[rng.integers(order - 1), driven, driver] = rng.uniform(*STRENGTH)
    return dict(zip(CONDITIONS, (familiar, novel_strength * familiar), strict=True))


@dataclass(frozen=True)
class BlockState:
    """Drifting quantities of a block."""

    couplings: Float[NDArray[np.float64], "order cells cells"]
    base: Float[NDArray[np.float64], "cells"]
    brightness: Float[NDArray[np.float64], "cells"]


def drift_block(
    rng: Generator, n_cells: int, couplings: Float[NDArray[np.float64], "order cells cells"], drift: float
) -> BlockState:
    """Draw a block's rates, couplings and brightness around the planted ones."""
    rate = SPIKE_RATE * np.exp(drift * rng.standard_normal(n_cells))
    # below 1, or activity would never end
    drifted = np.minimum(couplings * np.exp(drift * rng.standard_normal(couplings.shape)), 0.95)
    base = np.maximum(rate - drifted.sum(axis=0) @ rate, 0.1 * rate)
    return BlockState(drifted, base, np.exp(drift * rng.standard_normal(n_cells)))


def run_cells(
    rng: Generator, state: BlockState, decay: Float[NDArray[np.float64], "cells"], n_frames: int
) -> tuple[UInt8[NDArray[np.uint8], "frames cells"], Float32[NDArray[np.float32], "frames cells"]]:
    """Return spikes and calcium of a run from the stationary state."""
    spikes = _fire(rng, state, n_frames + BURN_IN)
    traces = _filter_calcium(spikes, decay)
    return spikes[BURN_IN:], traces[BURN_IN:]


def _fire(rng: Generator, state: BlockState, n_frames: int) -> UInt8[NDArray[np.uint8], "frames cells"]:
    """Return Poisson spikes, at rates raised by the cells' past spikes."""
    order, n_cells, _ = state.couplings.shape
    spikes = np.zeros((order + n_frames, n_cells))
    effects = np.ascontiguousarray(state.couplings[::-1].transpose(1, 0, 2)).reshape(n_cells, -1)
    for t in range(order, len(spikes)):
        spikes[t] = rng.poisson(state.base + effects @ spikes[t - order : t].ravel())
    return np.minimum(spikes[order:], 255).astype(np.uint8)


def _filter_calcium(
    spikes: UInt8[NDArray[np.uint8], "frames cells"], decay: Float[NDArray[np.float64], "cells"]
) -> Float32[NDArray[np.float32], "frames cells"]:
    """Return calcium: up by 1 with each spike, down by a fixed share with each frame."""
    traces = np.empty(spikes.shape, dtype=np.float32)
    calcium = np.zeros_like(decay)
    for t, now in enumerate(spikes):
        calcium = decay * calcium + now
        traces[t] = calcium
    return traces
