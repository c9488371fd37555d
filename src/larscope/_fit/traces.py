"""Traces in place of movies: whoever has regions of interest can use the dynamics, the tests and the report.

The traces are drawn with their footprints, so that whatever looks at frames has some to look at; nothing is encoded.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray

from larscope._errors import LarscopeError
from larscope._movies.preprocessing import PreparedRun, PreparedSession, Preprocessing
from larscope._movies.session import Run, Session
from larscope._network.cells import CellNetwork
from larscope._network.footprints import Parts, Windows

TILE = 4
"""Side of the square, with a margin of one pixel, that stands for a trace without a footprint."""

Traces = Sequence[Float[NDArray[np.floating], "_T K"]]


@dataclass(frozen=True)
class DrawnTraces:
    """A movie of regions whose brightness is that of their traces."""

    traces: Float[NDArray[np.float32], "T K"]
    network: CellNetwork

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height and width."""
        height, width = self.network.mean_frame.shape
        return len(self.traces), height, width

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of a pixel."""
        return np.dtype(np.float32)

    def read(self, start: int, stop: int) -> Shaped[NDArray[np.generic], "frames height width"]:
        """Return frames `start` to `stop` (exclusive)."""
        latent = torch.from_numpy(np.nan_to_num(self.traces[start:stop]))
        rest = latent.new_zeros(len(latent), 0), latent.new_zeros(())
        return self.network.decode(latent, rest).numpy()


def draw_traces(
    traces: Traces,
    condition: Sequence[str],
    block: Sequence[Hashable] | None,
    subject: Sequence[Hashable] | None,
    footprints: Float[NDArray[np.floating], "K height width"] | None,
    order: int,
    names: Sequence[str] | None = None,
) -> tuple[CellNetwork, PreparedSession]:
    """Return a network that has these footprints, and a session of these traces.

    Raises
    ------
    LarscopeError
        Traces, conditions and footprints do not fit together, or a trace has no value in some frames where others do.
    """
    series = _require_traces(traces, order)
    _require_one_a_run(len(series), condition=condition, block=block, subject=subject, names=names)
    network = _network_of(footprints, series[0].shape[1])
    runs = tuple(
        Run(
            name=f"run-{number:0{len(str(len(series)))}d}" if names is None else str(names[number - 1]),
            condition=str(condition[number - 1]),
            movie=DrawnTraces(one, network),
            block=None if block is None else str(block[number - 1]),
            subject=None if subject is None else str(subject[number - 1]),
        )
        for number, one in enumerate(series, start=1)
    )
    height, width = network.mean_frame.shape
    low, high = (float(extreme(one)) for extreme, one in ((np.nanmin, series[0]), (np.nanmax, series[0])))
    prepared = [
        PreparedRun(run.movie, np.asarray(np.isnan(one).all(1)), low, high)
        for run, one in zip(runs, series, strict=True)
    ]
    return network, PreparedSession(Session(runs), Preprocessing((height, width)), tuple(prepared))


def _require_traces(traces: Traces, order: int) -> list[Float[NDArray[np.float32], "T K"]]:
    series = [np.asarray(one, np.float32) for one in traces]
    if not series:
        raise LarscopeError("`traces` must have one array a run: got none. Pass a list of (frames, cells).")
    for run, one in enumerate(series):
        if one.ndim != 2 or one.shape[1] != series[0].shape[-1] or len(one) < order + 2:
            raise LarscopeError(
                f"`traces` must be arrays of (frames, cells), with as many cells in every run and at least {order + 2} "
                f"frames (order {order} and two to forecast): got shape {one.shape} for run {run} and "
                f"{series[0].shape} for run 0. Transpose suite2p's arrays, which are (cells, frames)."
            )
        missing = np.isnan(one)
        if np.isinf(one).any() or (missing.any(1) & ~missing.all(1)).any():
            raise LarscopeError(
                f"`traces` must be finite, or NaN in a whole frame that is missing: run {run} has others. Leave those "
                "cells or frames out."
            )
    return series


def _require_one_a_run(n_runs: int, **columns: Sequence[Hashable] | None) -> None:
    for name, values in columns.items():
        if values is not None and len(values) != n_runs:
            raise LarscopeError(
                f"`{name}` must have one value a run: got {len(values)} for {n_runs} runs. Pass those of the runs of "
                "`traces`, in the same order."
            )


def _network_of(footprints: Float[NDArray[np.floating], "K height width"] | None, n_cells: int) -> CellNetwork:
    images = _tiles(n_cells) if footprints is None else np.asarray(footprints, np.float64)
    if images.ndim != 3 or len(images) != n_cells or not np.isfinite(images).all() or (images < 0).any():
        raise LarscopeError(
            f"`footprints` must be {n_cells} images, one for each column of the traces, finite and not negative: got "
            f"shape {images.shape}. Pass (cells, height, width), in the order of the traces."
        )
    peaks = images.max((1, 2))
    if (peaks == 0).any():
        raise LarscopeError(
            f"Every footprint needs pixels: number {int(peaks.argmin())} has none. Leave that cell out."
        )
    images = images / peaks[:, None, None]
    extent = max(int(np.ptp(places)) for image in images for places in np.nonzero(image))
    cells = Windows.around(images, extent + 1)
    height, width = images.shape[1:]
    parts = Parts(cells, np.zeros((0, height, width), np.float32), np.zeros(0))
    return CellNetwork(torch.from_numpy(images.max(0).astype(np.float32)), parts)


def _tiles(n_cells: int) -> Float[NDArray[np.float64], "K height width"]:
    """Return a square for each cell, row by row."""
    across = int(np.ceil(np.sqrt(n_cells)))
    images = np.zeros((n_cells, TILE * -(-n_cells // across), TILE * across))
    for cell, image in enumerate(images):
        row, column = (TILE * at for at in divmod(cell, across))
        image[row : row + TILE - 1, column : column + TILE - 1] = 1
    return images
