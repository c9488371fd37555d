"""The needs of a fit, estimated before it starts: memory, disk and time."""

import time
import warnings
from dataclasses import dataclass
from math import prod
from pathlib import Path
from shutil import disk_usage

import torch
from pydantic import ByteSize
from torch.nn import functional as F

from larscope._errors import LarscopeError
from larscope._fit.training import TrainingStep, build_var, n_epochs
from larscope._movies.preprocessing import chunk_ranges, prepared_bytes, resolve_crop
from larscope._movies.session import Session, require_frames, windows
from larscope._network.autoencoder import Autoencoder
from larscope._network.footprints import search_bytes
from larscope._settings import Settings

PROGRAM = 800 << 20
"""Bytes of Python with torch, the compiled lasso and the report's libraries, before any frame: measured."""

COMPILING = 1400 << 20
"""Peak of the smallest fit, if it is the first on a machine and compiles the lasso: 1.15 to 1.29 GiB were measured."""

STEP_PLANES, LEAN_STEP_PLANES = 125, 110
"""Float32 copies of a window at the peak of a training step, measured from 96 x 64 to 256 x 256 pixels: if freed memory
is kept for the next step, and if it is handed back."""

USUAL_DIAMETER = 7.4
"""Diameter of a cell, in pixels, where that is to be measured: of a larger one, the search needs less memory."""

FIT_DESIGNS = 5
"""Float64 copies of a run's lag matrix at the peak of its VAR fit: measured."""

COUPLING_ROWS, COUPLING_DESIGNS = 3, 5
"""Float64 copies of all runs' lagged frames that the couplings of maps need: of those that are condensed at once, and
of what remains (`larscope._dynamics.var.condense`)."""


@dataclass(frozen=True)
class Estimate:
    """The needs of a fit.

    Attributes
    ----------
    memory, lean_memory
        Peak resident bytes of the process: at full speed, and when freed memory is handed back after every operation.
    disk
        Bytes that the prepared frames take in the cache.
    n_latents, n_steps
        K, or with cells a rough guess of it; and the number of training steps.
    """

    memory: int
    lean_memory: int
    disk: int
    n_latents: int
    n_steps: int

    def may_keep_memory(self, max_memory: int | None) -> bool:
        """Say whether a step's freed memory may be kept for the next one under a limit on the whole process.

        Raises
        ------
        LarscopeError
            The fit does not fit into the limit even if all of it is handed back.
        """
        if max_memory is None or self.memory <= max_memory:
            return True
        if self.lean_memory <= max_memory:
            return False
        raise LarscopeError(
            f"The fit must stay below {size(max_memory)} (`--max-memory`); it would need about "
            f"{size(self.lean_memory)}. Raise the limit, or make the frames smaller with `--downscale` or `--crop`, or "
            "the windows with `--window`."
        )


def estimate_fit(settings: Settings, session: Session, cached: bool) -> Estimate:
    """Estimate the needs of a fit, from sizes alone.

    Parameters
    ----------
    settings, session
        Of the fit.
    cached
        Whether prepared frames are kept on disk instead of in memory.

    Raises
    ------
    LarscopeError
        A run is too short, or the crop does not fit.

    Examples
    --------
    >>> from larscope._simulate.session import simulate_session
    >>> session = simulate_session(n_runs=2, n_frames=80, frame_shape=(48, 48), seed=0)
    >>> estimate = estimate_fit(Settings(window=64), session, cached=True)
    >>> estimate.n_latents, estimate.n_steps, estimate.disk == 2 * 80 * 48 * 48 * 2
    (11, 0, True)
    """
    require_frames(session, settings.n_frames_needed, f"order {settings.largest_order} + window {settings.window}")
    shape = _frame_shape(settings, session)
    cells = settings.latents == "cells"
    diameter = settings.cell_diameter or USUAL_DIAMETER
    n_latents = round(prod(shape) / (4 * diameter**2)) if cells else prod(shape) // settings.patch**2
    n_windows = sum(len(windows(run.n_frames, settings.window)) for run in session)
    prepared = prepared_bytes(session, settings.crop, settings.downscale)
    longest = max(run.n_frames for run in session)
    # the frames of one chunk as read, cropped and checked
    chunks = [prod(run.movie.shape[1:]) * chunk_ranges(run.movie, run.n_frames)[0][1] for run in session]
    reading = 3 * max(run.movie.dtype.itemsize * chunk for run, chunk in zip(session, chunks, strict=True))
    plane = settings.window * prod(shape) * 4  # of a step's windows, a process has one at a time
    step, lean_step = STEP_PLANES * plane, LEAN_STEP_PLANES * plane
    if cells:  # nothing is trained: products of pixels, and a few frames at a time
        step = lean_step = search_bytes(shape, diameter)
    design = longest * settings.largest_order * n_latents * 8
    fitting = FIT_DESIGNS * design + 3 * settings.largest_order * n_latents**2 * 8
    total, width = sum(run.n_frames for run in session), (settings.largest_order + 1) * n_latents
    rows = max(COUPLING_ROWS * min(total, 2 * width + longest), COUPLING_DESIGNS * min(total, width))
    couplings = rows * width * 8
    # latents and forecasts of every run are kept
    kept = 3 * total * n_latents * 4 + (0 if cached else 2 * prepared)
    # memory that is kept for the next step lies in pieces, between which later work may not fit
    peak = PROGRAM + max(reading, step, fitting) + couplings
    lean = PROGRAM + max(reading, lean_step, fitting, couplings)
    peak, lean = (max(COMPILING, needed) + kept for needed in (peak, lean))
    n_steps = 0 if cells else n_epochs(settings, n_windows) * -(-n_windows // settings.batch_size)
    return Estimate(peak, lean, prepared if cached else 0, n_latents, n_steps)


def require_disk(estimate: Estimate, folder: Path) -> None:
    """Raise unless the prepared frames have room in the cache folder to be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = disk_usage(there).free
    if estimate.disk > free:
        raise LarscopeError(
            f"The prepared frames need {size(estimate.disk)} in {folder}; {size(free)} are free. Free some space, or "
            "pass another `--cache`."
        )


def time_training(settings: Settings, session: Session, n_windows: int) -> float:
    """Return the seconds of training on so many windows on this machine, by timing one of random frames."""
    shape = _frame_shape(settings, session)
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand((1, settings.window, *shape), generator=generator)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = Autoencoder(
            frames.mean((0, 1)), precision=settings.precision, patch=settings.patch, shortcut=settings.shortcut
        )
        step = TrainingStep(network, build_var(settings, network), settings)
        for _ in range(2):  # the first compiles and fills the allocator
            started = time.monotonic()
            rendered, target = step.output(frames)
            F.mse_loss(rendered, target).backward()
            seconds = time.monotonic() - started
    return n_windows * seconds


def size(n_bytes: int) -> str:
    """Write a number of bytes for people.

    >>> size(3 << 30), size(5_000_000)
    ('3.0 GiB', '4.8 MiB')
    """
    return ByteSize(n_bytes).human_readable(separator=" ")


def duration(seconds: float) -> str:
    """Write a length of time for people.

    >>> duration(42), duration(600), duration(5400)
    ('42 s', '10 min', '1.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _frame_shape(settings: Settings, session: Session) -> tuple[int, int]:
    crop = resolve_crop(session.frame_shape, settings.crop, settings.downscale)
    return crop[0] // settings.downscale, crop[1] // settings.downscale
