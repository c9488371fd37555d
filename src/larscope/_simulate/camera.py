"""From dynamics to counts: haze, bleaching and motion, photons and their noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt8, UInt16
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from larscope._simulate.activity import BlockState, run_cells
from larscope._simulate.tissue import Tissue

FRAME_RATE = 10.0
"""Frames a second."""

PIXEL_SIZE = 2.0
"""Micrometres."""

BRIGHTEST = 40_000
"""Counts of the brightest pixel before shot noise."""

CHUNK = 64
"""Frames rendered at once."""

Stack = UInt16[NDArray[np.uint16], "frames height width"]


@dataclass(frozen=True)
class Recording:
    """One run before it is rendered."""

    spikes: UInt8[NDArray[np.uint8], "frames cells"]
    traces: Float32[NDArray[np.float32], "frames cells"]
    brightness: Float[NDArray[np.float64], "cells"]
    haze: Float[NDArray[np.float64], "frames patterns"]
    lamp: Float[NDArray[np.float64], "frames"]
    shifts: Float[NDArray[np.float64], "frames 2"]
    photon_seed: int


@dataclass(frozen=True)
class Camera:
    """Photons and counts for one unit of brightness; no photons, no noise."""

    photons: float | None
    counts: float


def record(
    rng: Generator, tissue: Tissue, state: BlockState, n_frames: int, bleaching: float, motion: float
) -> Recording:
    """Return the varying parts of one run, not yet an image."""
    spikes, traces = run_cells(rng, state, tissue.decay, n_frames)
    return Recording(
        spikes=spikes,
        traces=traces,
        brightness=tissue.brightness * state.brightness,
        haze=_wander(rng, n_frames, len(tissue.haze), time_constant=30),
        lamp=(1 - bleaching) ** np.linspace(0, 1, n_frames),
        shifts=motion / np.sqrt(2) * _wander(rng, n_frames, 2, time_constant=3),
        photon_seed=int(rng.integers(2**63)),
    )


def calibrate(tissue: Tissue, recordings: Sequence[Recording], noise: float) -> Camera:
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
    return Camera(photons, BRIGHTEST / high)


def expose(tissue: Tissue, recording: Recording, camera: Camera) -> Stack:
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


def _render(
    tissue: Tissue, recording: Recording, frames: slice | NDArray[np.intp]
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
    """Shift a frame down and right by fractions of a pixel; new pixels repeat the edge."""
    for axis, distance in enumerate(shift):
        last = frame.shape[axis] - 1
        source = np.clip(np.arange(last + 1) - distance, 0, last)
        before = source.astype(int)
        share = np.expand_dims((source - before).astype(np.float32), 1 - axis)
        after = np.minimum(before + 1, last)
        frame = frame.take(before, axis) * (1 - share) + frame.take(after, axis) * share
    return frame


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
