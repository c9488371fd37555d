"""A simulated session, from its parameters to movies in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng

from larscope._errors import LarscopeError
from larscope._movies.session import ArrayMovie, Run, Session
from larscope._simulate.activity import drift_block, plant_couplings
from larscope._simulate.camera import FRAME_RATE, PIXEL_SIZE, calibrate, expose, record
from larscope._simulate.files import write_session
from larscope._simulate.tissue import grow_tissue
from larscope._simulate.truth import CONDITIONS, Truth

SHORTEST, LONGEST, MEAN_LENGTH = 306, 1206, 435
"""Frames in the paper's runs (sec. 3.1)."""

PIXELS_PER_CELL = 400
"""Density of active cells when `n_cells` is not given."""


@dataclass(frozen=True, repr=False)
class SimulatedSession(Session):
    """A session made by `simulate_session`, with its truth."""

    truth: Truth = field(kw_only=True, repr=False)

    def write(self, folder: str | Path, full_size: bool = False) -> Path:
        """Write the session as a user would have it on disk, and its truth.

        Parameters
        ----------
        folder
            Created, whole or not at all. Will hold one TIFF a run, `session.csv` for
            `larscope._movies.readers.read_session`, `truth.npz` for `read_truth`, and `truth.json` for the eye.
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
        >>> from larscope._movies.table import read_session
        >>> session = simulate_session(n_runs=2, n_frames=20, frame_shape=(48, 48))
        >>> table = session.write(pathlib.Path(tempfile.mkdtemp()) / "simulated")
        >>> read_session(table).conditions
        ('familiar', 'novel')
        """
        return write_session(Path(folder), self, self.truth, full_size)


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
    haze: float = 1.0,
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
        Order of the traces' VAR. Couplings between spikes have lags from 1 to `order` - 1.
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
        Share of cells lying half over another one.
    haze
        Brightness of the haze: 1 is 3 % of the background for each of six patterns.
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

    tissue = grow_tissue(default_rng(anatomy_seed), frame_shape, n_cells, cell_diameter, overlapping, haze)
    couplings = plant_couplings(default_rng(wiring_seed), n_cells, order, novel_strength)
    lengths = _run_lengths(default_rng(length_seed), n_runs, n_frames)
    blocks = [number // runs_per_block for number in range(n_runs)]
    block_seeds = blocks_seed.spawn(max(blocks) + 1)

    recordings = []
    for length, block, run_seed in zip(lengths, blocks, runs_seed.spawn(n_runs), strict=True):
        state = drift_block(default_rng(block_seeds[block]), n_cells, couplings[CONDITIONS[block % 2]], drift)
        recordings.append(record(default_rng(run_seed), tissue, state, length, bleaching, motion))
    camera = calibrate(tissue, recordings, noise)

    runs = tuple(
        Run(
            name=f"simulated-{number:02d}",
            condition=CONDITIONS[block % 2],
            movie=ArrayMovie(expose(tissue, recording, camera)),
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


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments as JSON keeps them."""
    plain = {}
    for name, value in arguments.items():
        array = np.asarray(value)
        plain[name] = value if value is None else array.tolist()
    return plain


def _require_valid(parameters: Mapping[str, Any]) -> None:
    _require_at_least(parameters, n_runs=2, n_cells=4, order=2, runs_per_block=1, seed=0)
    _require_at_least(parameters, cell_diameter=1, noise=0, drift=0, motion=0, haze=0)
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
