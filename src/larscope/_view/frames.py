"""The movies of a result: found again, checked, and shown a stretch of frames at a time beside their forecasts.

A result folder holds no frames. They are read by range from the files that were fitted, and decoded when they are
looked at; what was decoded lately is kept.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from larscope._errors import LarscopeError
from larscope._fit.estimator import LatentVAR
from larscope._movies.preprocessing import PreparedSession, prepare
from larscope._movies.readers.formats import open_movie
from larscope._movies.session import Run, Session
from larscope._movies.table import read_session
from larscope._storage import describe_inputs

DECODED_FRAMES = 16
"""Frames decoded at once: few, for a quick first one."""

KEPT_BYTES = 512 << 20
"""Decoded frames kept in memory, at most."""

ELSEWHERE = "Pass `--session` with a table of the movies' present places."

Images = Float[NDArray[np.float32], "frames height width"]


def find_runs(model: LatentVAR, folder: Path, table: Path | None = None) -> list[Run | LarscopeError]:
    """Open the movie of each fitted run again; for a failure, return the error.

    Movies are looked for in `table`, where a session table is given; else where they were when they were fitted,
    relative to the working folder and to the one that the result lies in; else in `movies/` of the result, where
    `larscope demo` leaves what it has simulated.
    """
    kept = folder / "movies" / "session.csv"
    if table is None and model.runs_["path"].isna().all() and kept.is_file():
        table = kept
    listed = None if table is None else {run.name: run for run in read_session(table)}
    found: list[Run | LarscopeError] = []
    for number, row in enumerate(model.runs_.to_dict("records")):
        try:
            run = _reopen(row, folder) if listed is None else _choose(row, listed)
            _require_fitted(run, model, number)
            found.append(run)
        except LarscopeError as error:
            found.append(error)
    return found


def _choose(row: Mapping[Any, Any], listed: Mapping[str, Run]) -> Run:
    if row["run"] not in listed:
        raise LarscopeError(
            f"The session table must list every run of the fit: run {row['run']!r} is not among {', '.join(listed)}. "
            "Name the runs as in the table of the fit."
        )
    return listed[row["run"]]


def _reopen(row: Mapping[Any, Any], folder: Path) -> Run:
    name = row["run"]
    if pd.isna(row["path"]):
        raise LarscopeError(f"The movie of run {name!r} was made in memory and is in no file. {ELSEWHERE}")
    path = Path(row["path"])
    which = {key: None if pd.isna(row.get(key)) else row[key] for key in ("dataset", "channel", "plane")}
    errors = []
    for place in (path, folder.resolve().parent / path):
        try:
            movie = open_movie(place, on_truncated="keep", **which)
            return Run(name, row["condition"], movie, int(row["start"]), int(row["stop"]), place)
        except LarscopeError as error:
            errors.append(error)
    raise LarscopeError(
        f"The movie of run {name!r} cannot be opened at its place during the fit: {errors[0]} {ELSEWHERE}"
    )


def _require_fitted(run: Run, model: LatentVAR, number: int) -> None:
    """Raise unless a run has the fitted number of frames, among them the one kept by the result."""
    n_frames, frame = len(model.latents_[number]), int(model.dataset_["example_frame"][number])
    if run.n_frames != n_frames:
        raise LarscopeError(f"{run.label} must have the {n_frames} frames of the fit; it has {run.n_frames}.")
    kept = model.dataset_["example_observed"].to_numpy()[number]
    image = _preprocess(model, run, frame, frame + 1)[0]
    # pixels that are NaN in the file were bridged by the fit
    if image.shape != kept.shape or not np.allclose(np.where(np.isfinite(image), image, kept), kept, atol=1e-6):
        raise LarscopeError(
            f"{run.label} must be the fitted movie: frame {frame} of the run is not the one kept by the result. "
            f"{ELSEWHERE}"
        )


def _preprocess(model: LatentVAR, run: Run, start: int, stop: int) -> Images:
    how = model.preprocessing_
    return how.normalise(how.shrink(how.cut(run.read(start, stop))))


def changed_files(runs: Sequence[Run | LarscopeError], inputs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence about each file unlike all inputs of the result.

    Reads every file, so it may take as long as the fit took to read them.
    """
    fitted = {(entry["bytes"], entry["sha256"]) for entry in inputs}
    files = [path for run in runs if isinstance(run, Run) for path in run.files]
    return [
        f"{entry['path']} has changed since the fit: its content is not in provenance.json."
        for entry in (describe_inputs(files) if fitted else [])
        if (entry["bytes"], entry["sha256"]) not in fitted
    ]


@dataclass(frozen=True)
class Stretch:
    """Consecutive frames of a run, in [0, 1] of the session, beside their one-step-ahead forecasts.

    `forecast` is NaN for frames without one: the first `order` of a run, and those after a masked frame.
    """

    start: int
    observed: Images
    forecast: Images


class Screen:
    """Renders stretches of frames and keeps the latest. Threads may share it.

    Parameters
    ----------
    model
        The fit.
    runs
        Each run's movie, as `find_runs` returns them.
    """

    def __init__(self, model: LatentVAR, runs: Sequence[Run | LarscopeError]) -> None:
        self.model = model
        self.runs = list(runs)
        self._cuts = [_cuts(model, number) for number in range(len(model.latents_))]
        self._kept: OrderedDict[tuple[int, int], Stretch] = OrderedDict()
        self._bridged: dict[int, PreparedSession] = {}
        self._lock = Lock()

    def range_of(self, run: int, frame: int) -> tuple[int, int]:
        """Return the stretch of a frame: its first frame, and the one after its last."""
        after = bisect_right(self._cuts[run], frame)
        return self._cuts[run][after - 1], self._cuts[run][after]

    def kept(self, run: int, frame: int) -> Stretch | None:
        """Return the stretch of a frame, if it was rendered lately."""
        with self._lock:
            key = run, self.range_of(run, frame)[0]
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def render(self, run: int, frame: int) -> Stretch:
        """Return the stretch of a frame; reads and decodes it if needed.

        Raises
        ------
        LarscopeError
            The run has no movie, or its frames cannot be read.
        """
        if (kept := self.kept(run, frame)) is not None:
            return kept
        stretch = self._decode(run, *self.range_of(run, frame))
        with self._lock:
            self._kept[run, stretch.start] = stretch
            while sum(one.observed.nbytes + one.forecast.nbytes for one in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        return stretch

    def _decode(self, number: int, start: int, stop: int) -> Stretch:
        model = self.model
        lag = model.settings.pooling_lag
        first = max(start - lag - model.network_.history, 0)
        frames = self._frames(number, first, stop)
        observed = frames[start - first :]
        latent = model.forecasts_[number][max(start - model.var_.order, 0) : stop - model.order]
        if start < model.var_.order or not np.isfinite(latent).all():
            return Stretch(start, observed, np.full_like(observed, np.nan))
        with torch.no_grad():
            _, rest = model.network_.encode(torch.from_numpy(frames[: len(frames) - lag]))
            forecast = model.network_.decode(torch.from_numpy(latent), tuple(one[-len(latent) :] for one in rest))
        return Stretch(start, observed, forecast.numpy())

    def _frames(self, number: int, start: int, stop: int) -> Images:
        run = self.runs[number]
        if isinstance(run, LarscopeError):
            raise run
        if self.model.nan != "interpolate":
            return _preprocess(self.model, run, start, stop)
        # a frame that was bridged needs frames around it
        if number not in self._bridged:
            self._bridged[number] = prepare(Session((run,)), preprocessing=self.model.preprocessing_, nan="interpolate")
        return self._bridged[number].frames(0, start, stop)


def _cuts(model: LatentVAR, run: int) -> list[int]:
    """Return the limits of the stretches of a run: frames with and without forecast apart.

    Where batch norm sees the frames at hand, they are cut as the fit's evaluation cut them.
    """
    size = DECODED_FRAMES if model.batch_norm == "running" else model.window
    forecast = np.isfinite(model.forecasts_[run]).all(axis=1)
    there = np.concatenate([np.zeros(model.var_.order, bool), forecast])
    changes = [0, *(np.flatnonzero(there[1:] != there[:-1]) + 1).tolist(), len(there)]
    starts = [start for first, last in pairwise(changes) for start in range(first, last, size)]
    return [*starts, len(there)]
