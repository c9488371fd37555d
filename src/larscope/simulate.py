"""Simulated sessions: two-photon-like movies whose dynamics are planted, and so known.

Image: soft discs with dim nuclei over a structured background with vessels, under a slow and smooth neuropil
haze, counted with photon shot noise. Dynamics, for cell j with spikes s and calcium trace c::

    s[t, j] ~ Poisson(base[j] + sum_k sum_l couplings[k-1, j, l] * s[t-k, l])
    c[t, j] = decay[j] * c[t-1, j] + s[t, j]

A planted coupling of lag k between spikes therefore shows between traces at the lags k and k + 1, and the
traces follow a sparse VAR exactly: `Truth.trace_coef`. No torch.
"""

import csv
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from jaxtyping import Bool, Float, Float32, UInt8, UInt16
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from larscope.errors import LarscopeError
from larscope.session import ArrayMovie, Run, Session

CONDITIONS = ("familiar", "novel")

SHORTEST, LONGEST, MEAN_LENGTH = 306, 1206, 435
"""Frames in the paper's runs (sec. 3.1)."""

FRAME_RATE = 10.0
"""Frames a second."""

PIXEL_SIZE = 2.0
"""Micrometres."""

PIXELS_PER_CELL = 400
"""Density of active cells when `n_cells` is not given."""

DRIVING_FRACTION = 0.25
"""The minority of cells that drive others."""

TARGETS = 3
"""Cells that one cell drives."""

STRENGTH = (0.5, 0.8)
"""Range of couplings in the familiar condition: spikes caused by one spike."""

SPIKE_RATE = 0.06
"""Mean spikes a frame of every cell in every condition: activity does not tell who drives whom."""

BURN_IN = 100
"""Frames simulated and thrown away before a run, so that it begins in the stationary state."""

BRIGHTEST = 40_000
"""Counts of the brightest pixel before shot noise."""

CHUNK = 64
"""Frames rendered at once."""

UPSCALE, MARGIN = 4, 16
"""Full-size files: every pixel is repeated UPSCALE x UPSCALE times, and MARGIN pixels frame the whole."""

CLASSIC_TIFF = 2**32 - 2**25
"""Bytes of pixels from which on a file is written as BigTIFF."""

Image = Float[NDArray[np.float64], "height width"]
Stack = UInt16[NDArray[np.uint16], "frames height width"]


@dataclass(frozen=True)
class Truth:
    """What was planted in a simulated session.

    Parameters
    ----------
    couplings
        For each condition, spikes of cell j at lag k caused by one spike of cell l: `couplings[k-1, j, l]`.
    positions
        Row and column of each cell's centre, in pixels.
    footprints
        Each cell's image, 1 at its brightest.
    driving
        The cells that drive others.
    decay
        Share of each cell's calcium left after one frame.
    traces
        For each run, calcium without noise; one spike adds 1.
    spikes
        For each run, spikes in each frame.
    parameters
        The arguments of `simulate_session`.
    """

    couplings: Mapping[str, Float[NDArray[np.float64], "order cells cells"]]
    positions: Float[NDArray[np.float64], "cells 2"]
    footprints: Float32[NDArray[np.float32], "cells height width"]
    driving: Bool[NDArray[np.bool_], "cells"]
    decay: Float[NDArray[np.float64], "cells"]
    traces: tuple[Float32[NDArray[np.float32], "_frames cells"], ...]
    spikes: tuple[UInt8[NDArray[np.uint8], "_frames cells"], ...]
    parameters: Mapping[str, Any]

    @property
    def masks(self) -> Bool[NDArray[np.bool_], "cells height width"]:
        """Pixels of each cell: at least half as bright as its brightest."""
        return self.footprints >= 0.5

    def trace_coef(self, condition: str) -> Float[NDArray[np.float64], "order cells cells"]:
        """Return the coefficients of the VAR that the traces of a condition follow.

        With C the couplings and g the decay, `s[t, l] = c[t, l] - g[l] c[t-1, l]` gives
        `A_k[j, l] = C_k[j, l] - C_{k-1}[j, l] g[l]`, and g on the diagonal of A_1.
        """
        planted = self.couplings[condition]
        coef = planted.copy()
        coef[1:] -= planted[:-1] * self.decay
        coef[0] += np.diag(self.decay)
        return coef


@dataclass(frozen=True)
class SimulatedSession(Session):
    """A session made by `simulate_session`, with its truth."""

    truth: Truth = field(kw_only=True, repr=False)

    def write(self, folder: str | Path, full_size: bool = False) -> Path:
        """Write the session as a user would have it on disk, and its truth.

        Parameters
        ----------
        folder
            Created, whole or not at all. Will hold one TIFF a run, `session.csv` for
            `larscope.io.read_session`, `truth.npz` for `read_truth`, and `truth.json` for the eye.
        full_size
            Repeat every pixel 4 x 4 times and frame the whole by 16 pixels: 192 x 128 becomes 800 x 544, and
            `prepare(session, crop=(768, 512), downscale=4)` gives back the pixels of this session. Files are
            compressed. The truth stays in pixels of this session.

        Returns
        -------
        Path
            The session table.

        Raises
        ------
        LarscopeError
            The folder exists already, or its parent does not.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> from larscope.io import read_session
        >>> session = simulate_session(n_runs=2, n_frames=20, frame_shape=(48, 48))
        >>> table = session.write(pathlib.Path(tempfile.mkdtemp()) / "simulated")
        >>> read_session(table).conditions
        ('familiar', 'novel')
        """
        folder = Path(folder)
        _require_new(folder)
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        partial.mkdir()
        try:
            for run in self:
                _write_movie(partial / f"{run.name}.tif", run, full_size)
            _write_table(partial / "session.csv", self, full_size)
            _write_truth(partial, self, full_size)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return folder / "session.csv"


def simulate_session(
    *,
    n_runs: int = 40,
    n_frames: int | Sequence[int] | None = None,
    frame_shape: tuple[int, int] = (192, 128),
    n_cells: int | None = None,
    cell_diameter: float = 7.0,
    order: int = 5,
    runs_per_block: int | None = None,
    novel_strength: float = 0.4,
    noise: float = 1e-4,
    bleaching: float = 0.0,
    drift: float = 0.0,
    motion: float = 0.0,
    overlapping: float = 0.0,
    seed: int = 0,
) -> SimulatedSession:
    """Simulate a session with planted sparse dynamics; the defaults have the shape of the paper's (sec. 3.1).

    Parameters
    ----------
    n_runs
        Number of runs. Blocks alternate between "familiar" and "novel".
    n_frames
        Frames of every run, or of each; None draws lengths like the paper's, from 306 to 1206 with mean 435.
    frame_shape
        Height and width in pixels.
    n_cells
        Number of active cells; None takes one for every 400 pixels. A quarter of them drive three others each;
        no cell is driven by more than one.
    cell_diameter
        In pixels.
    order
        Order of the VAR that the traces follow. Couplings between spikes have lags from 1 to `order` - 1.
    runs_per_block
        Consecutive runs of one condition; None makes eight blocks, as in the paper. Blocks of one run are not
        marked as blocks.
    novel_strength
        Couplings in "novel" relative to those in "familiar". Mean activity is the same in both.
    noise
        Mean squared shot noise of a pixel once the session is scaled to [0, 1]; 0 for none.
    bleaching
        Share of the brightness lost from the first to the last frame of each run.
    drift
        Standard deviation, in logarithms, of each cell's brightness and spike rate and of each coupling from
        block to block. `truth.couplings` holds what they drift about.
    motion
        Root mean square of the residual motion, in pixels.
    overlapping
        Share of the cells that lie over half of another one.
    seed
        Same seed, same session.

    Returns
    -------
    SimulatedSession
        A session with 16-bit movies in memory, and `truth`.

    Raises
    ------
    LarscopeError
        A parameter out of its range, or more cells than fit into the frame.

    Examples
    --------
    >>> session = simulate_session(n_runs=4, n_frames=50, frame_shape=(64, 48), seed=1)
    >>> [(run.name, run.condition) for run in session][:2]
    [('simulated-01', 'familiar'), ('simulated-02', 'novel')]
    >>> session.truth.traces[0].shape
    (50, 7)
    """
    parameters = _plain(locals())
    if n_cells is None:
        n_cells = max(4, frame_shape[0] * frame_shape[1] // PIXELS_PER_CELL)
    if runs_per_block is None:
        runs_per_block = max(1, n_runs // 8)
    _require_valid(parameters | {"n_cells": n_cells, "runs_per_block": runs_per_block})
    anatomy_seed, wiring_seed, length_seed, blocks_seed, runs_seed = SeedSequence(seed).spawn(5)

    tissue = _grow_tissue(default_rng(anatomy_seed), frame_shape, n_cells, cell_diameter, overlapping)
    couplings = _plant_couplings(default_rng(wiring_seed), n_cells, order, novel_strength)
    lengths = _run_lengths(default_rng(length_seed), n_runs, n_frames)
    blocks = [number // runs_per_block for number in range(n_runs)]
    block_seeds = blocks_seed.spawn(max(blocks) + 1)

    recordings = []
    for length, block, run_seed in zip(lengths, blocks, runs_seed.spawn(n_runs), strict=True):
        state = _drift_block(default_rng(block_seeds[block]), n_cells, couplings[CONDITIONS[block % 2]], drift)
        recordings.append(_record(default_rng(run_seed), tissue, state, length, bleaching, motion))
    camera = _calibrate(tissue, recordings, noise)

    runs = tuple(
        Run(
            name=f"simulated-{number:02d}",
            condition=CONDITIONS[block % 2],
            movie=ArrayMovie(_expose(tissue, recording, camera)),
            block=f"simulated-block-{block + 1}" if runs_per_block > 1 else None,
            subject="simulated",
            frame_rate=FRAME_RATE,
            pixel_size=PIXEL_SIZE,
        )
        for number, (block, recording) in enumerate(zip(blocks, recordings, strict=True), start=1)
    )
    truth = Truth(
        couplings=couplings,
        positions=tissue.positions,
        footprints=tissue.footprints,
        driving=couplings[CONDITIONS[0]].sum(axis=(0, 1)) > 0,
        decay=tissue.decay,
        traces=tuple(recording.traces for recording in recordings),
        spikes=tuple(recording.spikes for recording in recordings),
        parameters=parameters,
    )
    return SimulatedSession(runs, simulated=True, truth=truth)


def read_truth(folder: str | Path) -> Truth:
    """Read the truth that `SimulatedSession.write` left in a folder.

    Raises
    ------
    LarscopeError
        The folder holds no truth.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp()) / "simulated"
    >>> _ = simulate_session(n_runs=2, n_frames=20, frame_shape=(48, 48)).write(folder)
    >>> read_truth(folder).positions.shape
    (5, 2)
    """
    folder = Path(folder)
    missing = [name for name in ("truth.npz", "truth.json") if not (folder / name).is_file()]
    if missing:
        raise LarscopeError(
            f"Expected a folder written by `larscope simulate`; {folder} has no {' and no '.join(missing)}. "
            "Check the path; a recorded session has no planted truth."
        )
    description = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    with np.load(folder / "truth.npz", allow_pickle=False) as arrays:
        return Truth(
            couplings={condition: arrays[f"couplings_{condition}"] for condition in CONDITIONS},
            positions=arrays["positions"],
            footprints=arrays["footprints"],
            driving=arrays["driving"],
            decay=arrays["decay"],
            traces=tuple(arrays[f"traces_{name}"] for name in description["runs"]),
            spikes=tuple(arrays[f"spikes_{name}"] for name in description["runs"]),
            parameters=description["parameters"],
        )


# Arguments


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments as JSON keeps them."""
    plain = {}
    for name, value in arguments.items():
        array = np.asarray(value)
        plain[name] = value if value is None else array.tolist()
    return plain


def _require_valid(parameters: Mapping[str, Any]) -> None:
    _require_at_least(parameters, n_runs=2, n_cells=4, order=2, runs_per_block=1, seed=0)
    _require_at_least(parameters, cell_diameter=1, noise=0, drift=0, motion=0)
    for name in ("novel_strength", "bleaching", "overlapping"):
        if not 0 <= parameters[name] <= 1:
            raise LarscopeError(f"`{name}` must lie in [0, 1]; got {parameters[name]}. Pass a share.")
    if parameters["bleaching"] == 1:
        raise LarscopeError("`bleaching` must leave some brightness; got 1. Pass a share below 1.")
    if parameters["n_runs"] <= parameters["runs_per_block"]:
        raise LarscopeError(
            f"`runs_per_block` must leave runs for both conditions: got {parameters['runs_per_block']} of "
            f"{parameters['n_runs']} runs. Lower it."
        )


def _require_at_least(parameters: Mapping[str, Any], **smallest: float) -> None:
    for name, limit in smallest.items():
        if not limit <= parameters[name] < np.inf:
            raise LarscopeError(f"`{name}` must be at least {limit}; got {parameters[name]}. Pass a larger value.")


def _run_lengths(rng: Generator, n_runs: int, n_frames: int | Sequence[int] | None) -> list[int]:
    if n_frames is None:
        return _draw_lengths(rng, n_runs)
    each = [n_frames] * n_runs if isinstance(n_frames, int | np.integer) else n_frames
    lengths = [int(length) for length in each]
    if len(lengths) != n_runs or min(lengths, default=0) < 1:
        raise LarscopeError(
            f"`n_frames` must be one positive number, or one for each of the {n_runs} runs; got {n_frames}. Correct it."
        )
    return lengths


def _draw_lengths(rng: Generator, n_runs: int) -> list[int]:
    """Return shuffled quantiles of a power law between the paper's shortest and longest run, with its mean."""
    share = np.linspace(0, 1, n_runs)
    mean = (MEAN_LENGTH - SHORTEST) / (LONGEST - SHORTEST)
    if n_runs * mean <= 1:  # too few runs for both extremes and the mean
        return [MEAN_LENGTH] * n_runs
    exponents = np.arange(0.1, 100, 0.01)
    means = np.mean(share ** exponents[:, np.newaxis], axis=1)
    exponent = exponents[np.argmin(np.abs(means - mean))]
    lengths = SHORTEST + np.rint((LONGEST - SHORTEST) * share**exponent)
    return [int(length) for length in rng.permutation(lengths)]


# Tissue: everything that stays where it is


@dataclass(frozen=True)
class _Tissue:
    """Brightness in arbitrary units; a resting cell is about 1."""

    background: Image
    positions: Float[NDArray[np.float64], "cells 2"]
    footprints: Float32[NDArray[np.float32], "cells height width"]
    brightness: Float[NDArray[np.float64], "cells"]
    amplitude: Float[NDArray[np.float64], "cells"]
    decay: Float[NDArray[np.float64], "cells"]
    haze: Float32[NDArray[np.float32], "patterns height width"]


def _grow_tissue(rng: Generator, shape: tuple[int, int], n_cells: int, diameter: float, overlapping: float) -> _Tissue:
    positions = _place_cells(rng, shape, n_cells, diameter, overlapping)
    bystanders = rng.uniform((0, 0), shape, (n_cells, 2))
    background = _draw_background(rng, shape, diameter, bystanders)
    haze = [0.03 * background * _smooth_noise(rng, shape, max(shape) / 8) for _ in range(6)]
    return _Tissue(
        background=background,
        positions=positions,
        footprints=np.stack([_draw_cell(rng, shape, position, diameter) for position in positions]),
        brightness=0.6 * np.exp(0.3 * rng.standard_normal(n_cells)),
        amplitude=rng.uniform(0.5, 0.9, n_cells),
        decay=np.exp(-1 / rng.uniform(4, 8, n_cells)),
        haze=np.stack(haze).astype(np.float32),
    )


def _place_cells(
    rng: Generator, shape: tuple[int, int], n_cells: int, diameter: float, overlapping: float
) -> Float[NDArray[np.float64], "cells 2"]:
    """Throw darts that keep 1.2 diameters apart, then lay the overlapping cells over some of them."""
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
    """Return noise of mean 0 and variance 1 that is smooth over `scale` pixels."""
    frequencies = np.fft.fftfreq(shape[0])[:, np.newaxis] ** 2 + np.fft.rfftfreq(shape[1]) ** 2
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) * np.exp(-2 * (np.pi * scale) ** 2 * frequencies)
    smooth = np.fft.irfft2(spectrum, shape)
    return np.asarray((smooth - smooth.mean()) / smooth.std())


# Dynamics: who drives whom


def _plant_couplings(
    rng: Generator, n_cells: int, order: int, novel_strength: float
) -> dict[str, Float[NDArray[np.float64], "order cells cells"]]:
    """Deal the cells out to the driving ones, so that none is driven by two."""
    driving = rng.permutation(n_cells)[: max(2, round(DRIVING_FRACTION * n_cells))]
    familiar = np.zeros((order, n_cells, n_cells))
    for turn, driven in enumerate(rng.permutation(n_cells)[: TARGETS * len(driving)]):
        driver = driving[turn % len(driving)]
        if driver == driven:
            driver = driving[(turn + 1) % len(driving)]
        familiar[rng.integers(order - 1), driven, driver] = rng.uniform(*STRENGTH)
    return dict(zip(CONDITIONS, (familiar, novel_strength * familiar), strict=True))


@dataclass(frozen=True)
class _BlockState:
    """What drifts from block to block."""

    couplings: Float[NDArray[np.float64], "order cells cells"]
    base: Float[NDArray[np.float64], "cells"]
    brightness: Float[NDArray[np.float64], "cells"]


def _drift_block(
    rng: Generator, n_cells: int, couplings: Float[NDArray[np.float64], "order cells cells"], drift: float
) -> _BlockState:
    rate = SPIKE_RATE * np.exp(drift * rng.standard_normal(n_cells))
    # below 1, or activity would never end
    drifted = np.minimum(couplings * np.exp(drift * rng.standard_normal(couplings.shape)), 0.95)
    base = np.maximum(rate - drifted.sum(axis=0) @ rate, 0.1 * rate)
    return _BlockState(drifted, base, np.exp(drift * rng.standard_normal(n_cells)))


def _fire(rng: Generator, state: _BlockState, n_frames: int) -> UInt8[NDArray[np.uint8], "frames cells"]:
    """Return spikes: Poisson, with a rate that the cells' past spikes raise."""
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


def _wander(
    rng: Generator, n_frames: int, n_series: int, time_constant: float
) -> Float[NDArray[np.float64], "frames n"]:
    """Return stationary AR(1) series of variance 1."""
    keep = np.exp(-1 / time_constant)
    series = rng.standard_normal((n_frames, n_series))
    series[1:] *= np.sqrt(1 - keep**2)
    for t in range(1, n_frames):
        series[t] += keep * series[t - 1]
    return series


# Recording: from dynamics to counts


@dataclass(frozen=True)
class _Recording:
    """One run before it is rendered."""

    spikes: UInt8[NDArray[np.uint8], "frames cells"]
    traces: Float32[NDArray[np.float32], "frames cells"]
    brightness: Float[NDArray[np.float64], "cells"]
    haze: Float[NDArray[np.float64], "frames patterns"]
    lamp: Float[NDArray[np.float64], "frames"]
    shifts: Float[NDArray[np.float64], "frames 2"]
    photon_seed: int


@dataclass(frozen=True)
class _Camera:
    """Photons and counts for one unit of brightness; no photons, no noise."""

    photons: float | None
    counts: float


def _record(
    rng: Generator, tissue: _Tissue, state: _BlockState, n_frames: int, bleaching: float, motion: float
) -> _Recording:
    spikes = _fire(rng, state, n_frames + BURN_IN)
    traces = _filter_calcium(spikes, tissue.decay)
    return _Recording(
        spikes=spikes[BURN_IN:],
        traces=traces[BURN_IN:],
        brightness=tissue.brightness * state.brightness,
        haze=_wander(rng, n_frames, len(tissue.haze), time_constant=30),
        lamp=(1 - bleaching) ** np.linspace(0, 1, n_frames),
        shifts=motion / np.sqrt(2) * _wander(rng, n_frames, 2, time_constant=3),
        photon_seed=int(rng.integers(2**63)),
    )


def _render(
    tissue: _Tissue, recording: _Recording, frames: slice | NDArray[np.intp]
) -> Float32[NDArray[np.float32], "frames height width"]:
    """Return frames without noise or motion."""
    cells = recording.brightness * (1 + tissue.amplitude * recording.traces[frames])
    weights = np.hstack([cells, recording.haze[frames]]).astype(np.float32)
    patterns = np.concatenate([tissue.footprints, tissue.haze]).reshape(weights.shape[1], -1)
    image = (weights @ patterns).reshape(-1, *tissue.background.shape)
    image += tissue.background.astype(np.float32)
    image *= recording.lamp[frames, np.newaxis, np.newaxis].astype(np.float32)
    return np.asarray(np.maximum(image, 0), dtype=np.float32)


def _move(
    frame: Float32[NDArray[np.float32], "height width"], shift: Float[NDArray[np.float64], "2"]
) -> Float32[NDArray[np.float32], "height width"]:
    """Shift a frame down and right by fractions of a pixel; what comes in repeats the edge."""
    for axis, distance in enumerate(shift):
        last = frame.shape[axis] - 1
        source = np.clip(np.arange(last + 1) - distance, 0, last)
        before = source.astype(int)
        share = np.expand_dims((source - before).astype(np.float32), 1 - axis)
        after = np.minimum(before + 1, last)
        frame = frame.take(before, axis) * (1 - share) + frame.take(after, axis) * share
    return frame


def _calibrate(tissue: _Tissue, recordings: Sequence[_Recording], noise: float) -> _Camera:
    """Choose how many photons a unit of brightness is, for the noise asked for.

    With brightness u and q photons a unit, the noise of u has variance u / q, and that of a session scaled to
    [0, 1] has mean(u) / (q (max u - min u)^2).
    """
    low, high, mean = np.inf, 0.0, 0.0
    for recording in recordings:
        peaks = _render(tissue, recording, np.unique(recording.traces.argmax(axis=0)))
        low, high = min(low, float(peaks.min())), max(high, float(peaks.max()))
        typical = _render(tissue, recording, np.linspace(0, len(recording.traces) - 1, CHUNK).astype(int))
        mean += float(typical.mean()) / len(recordings)
    photons = mean / (noise * (high - low) ** 2) if noise else None
    return _Camera(photons, BRIGHTEST / high)


def _expose(tissue: _Tissue, recording: _Recording, camera: _Camera) -> Stack:
    """Return the run's frames as a detector counts them."""
    rng = default_rng(recording.photon_seed)
    n_frames = len(recording.traces)
    movie = np.empty((n_frames, *tissue.background.shape), dtype=np.uint16)
    for start in range(0, n_frames, CHUNK):
        frames = slice(start, min(start + CHUNK, n_frames))
        image = _render(tissue, recording, frames)
        if recording.shifts.any():
            for frame, shift in zip(image, recording.shifts[frames], strict=True):
                frame[:] = _move(frame, shift)
        if camera.photons is not None:
            image[:] = rng.poisson(image * camera.photons) / camera.photons
        movie[frames] = np.minimum(np.rint(image * camera.counts), 65535)
    return movie


# Files


def _require_new(folder: Path) -> None:
    if folder.exists():
        raise LarscopeError(f"Expected a new folder; {folder} exists already. Choose another, or delete it.")
    if not folder.parent.is_dir():
        raise LarscopeError(f"Expected to create {folder.name} in {folder.parent}, which does not exist. Create it.")


def _write_movie(path: Path, run: Run, full_size: bool) -> None:
    height, width = run.movie.shape[1:]
    if full_size:
        height, width = (UPSCALE * size + 2 * MARGIN for size in (height, width))
    shape = (run.n_frames, height, width)
    with tifffile.TiffWriter(path, bigtiff=2 * math.prod(shape) > CLASSIC_TIFF) as writer:
        writer.write(
            _frames(run, full_size),
            shape=shape,
            dtype=np.uint16,
            photometric="minisblack",
            compression="zlib" if full_size else None,
            compressionargs={"level": 1} if full_size else None,
            description="Simulated two-photon movie (larscope)",
            metadata=None,
        )


def _frames(run: Run, full_size: bool) -> Iterator[UInt16[NDArray[np.uint16], "height width"]]:
    for number in range(run.n_frames):
        frame = run.read(number, number + 1)[0]
        if full_size:
            frame = np.pad(frame.repeat(UPSCALE, axis=0).repeat(UPSCALE, axis=1), MARGIN, mode="edge")
        yield frame


def _write_table(path: Path, session: Session, full_size: bool) -> None:
    rows = [
        {
            "path": f"{run.name}.tif",
            "condition": run.condition,
            "run": run.name,
            "block": run.block,
            "subject": run.subject,
            "frame_rate": FRAME_RATE,
            "pixel_size": PIXEL_SIZE / UPSCALE if full_size else PIXEL_SIZE,
        }
        for run in session
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_truth(folder: Path, session: SimulatedSession, full_size: bool) -> None:
    truth, names = session.truth, [run.name for run in session]
    arrays: dict[str, Any] = {
        "positions": truth.positions,
        "footprints": truth.footprints,
        "driving": truth.driving,
        "decay": truth.decay,
    }
    arrays |= {f"couplings_{condition}": coupling for condition, coupling in truth.couplings.items()}
    arrays |= {f"traces_{name}": trace for name, trace in zip(names, truth.traces, strict=True)}
    arrays |= {f"spikes_{name}": spikes for name, spikes in zip(names, truth.spikes, strict=True)}
    np.savez_compressed(folder / "truth.npz", **arrays)
    description = {
        "description": "Simulated session: planted truth (larscope). Not recorded data.",
        "parameters": truth.parameters,
        "upscale": UPSCALE if full_size else 1,
        "margin": MARGIN if full_size else 0,
        "runs": names,
        "positions": np.round(truth.positions, 2).tolist(),
        "driving": np.flatnonzero(truth.driving).tolist(),
        "couplings": {condition: _list_couplings(truth.couplings[condition]) for condition in CONDITIONS},
    }
    text = json.dumps(description, indent=1)
    (folder / "truth.json").write_text(text + "\n", encoding="utf-8")


def _list_couplings(couplings: Float[NDArray[np.float64], "order cells cells"]) -> list[dict[str, Any]]:
    return [
        {"lag": int(k) + 1, "from": int(driver), "to": int(driven), "spikes": round(float(strength), 4)}
        for (k, driven, driver), strength in np.ndenumerate(couplings)
        if strength
    ]
