"""The imaging series of an NWB file."""

from math import isclose
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from larscope._errors import LarscopeError, suggest
from larscope._movies.readers.hdf5 import Hdf5Movie, is_hdf5, opened
from larscope._movies.readers.reader import Request, choose, square

SERIES = ("TwoPhotonSeries", "OnePhotonSeries")

MICROMETRES = {"meters": 1e6, "meter": 1e6, "m": 1e6, "millimeters": 1e3, "mm": 1e3}
MICROMETRES |= {"micrometers": 1.0, "micrometer": 1.0, "microns": 1.0, "um": 1.0, "µm": 1.0, "\u03bcm": 1.0}


def is_nwb(path: Path, head: bytes) -> bool:
    """Whether a file is HDF5 and declares itself NWB."""
    if not is_hdf5(path, head):
        return False
    try:
        with opened(path) as file:
            return _text(file.attrs.get("neurodata_type")) == "NWBFile"
    except LarscopeError:
        return False  # said again, and louder, when it is opened


def open_nwb(path: Path, request: Request) -> Hdf5Movie:
    """Open a `TwoPhotonSeries` or `OnePhotonSeries`, by name if there are several.

    NWB's order is frames, width, height, and planes where there are any.
    """
    request.refuse(path, "An NWB file", "channel")
    with opened(path) as file:
        name = _choose(path, file, request.dataset)
        series = file[name]
        data = series.get("data")
        if "external_file" in series and (data is None or data.size == 0):
            others = ", ".join(_text(other) for other in series["external_file"][:10])
            raise LarscopeError(
                f"Expected frames in {path}; the frames of {name!r} are in other files: {others}. Name these in the "
                "`path` column."
            )
        if not isinstance(data, h5py.Dataset) or data.ndim not in (3, 4):
            raise LarscopeError(
                f"Expected frames, width, height in {name}/data of {path}; got {getattr(data, 'shape', data)}. Name "
                "another series in the `dataset` column."
            )
        if data.ndim == 3:
            request.refuse(path, "This series", "plane")
        n_planes = data.shape[3] if data.ndim == 4 else 1
        plane = choose(path, "plane", request.plane, [None] * n_planes) if data.ndim == 4 else None
        imaging_plane = series.get("imaging_plane")
        rate, size = _frame_rate(series, imaging_plane), _pixel_size(imaging_plane)
        stamps = np.asarray(series["timestamps"], np.float64) if "timestamps" in series else None
        subject = _text(_scalar(file.get("general/subject/subject_id"))) or None
    return Hdf5Movie(
        path,
        request,
        f"{name}/data",
        width_first=True,
        plane=plane,
        frame_rate=rate,
        pixel_size=size,
        subject=subject,
        timestamps=stamps,
    )


def _choose(path: Path, file: h5py.File, wanted: str | None) -> str:
    names: list[str] = []

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and _text(item.attrs.get("neurodata_type")) in SERIES:
            names.append(name)

    file.visititems(note)
    if not names:
        raise LarscopeError(f"Expected a {' or '.join(SERIES)} in {path}; it has none. Name another file.")
    if wanted is None:
        if len(names) == 1:
            return names[0]
        raise LarscopeError(f"{path} holds several series ({', '.join(names)}). Name one in the `dataset` column.")
    found = [name for name in names if wanted.strip("/") in (name, name.rsplit("/", 1)[-1])]
    if len(found) != 1:
        why = "which is more than one" if found else "which is none"
        raise LarscopeError(f"Expected a series of {path}; got dataset={wanted!r}, {why}. {suggest(wanted, names)}")
    return found[0]


def _frame_rate(series: h5py.Group, imaging_plane: h5py.Group | None) -> float | None:
    """Return frames per second: as declared, or from regular time stamps."""
    if "starting_time" in series:
        return _positive(series["starting_time"].attrs.get("rate"))
    if "timestamps" in series and series["timestamps"].size > 1:
        stamps = series["timestamps"]
        steps = np.diff(np.asarray(stamps[:1000], float))
        if len(steps) and isclose(steps.min(), steps.max(), rel_tol=0.01):
            return _positive(1 / steps.mean() if steps.mean() else None)
        return None
    return None if imaging_plane is None else _positive(_scalar(imaging_plane.get("imaging_rate")))


def _pixel_size(imaging_plane: h5py.Group | None) -> float | None:
    if imaging_plane is None or "grid_spacing" not in imaging_plane:
        return None
    spacing = imaging_plane["grid_spacing"]
    unit = MICROMETRES.get(_text(spacing.attrs.get("unit", "meters")))
    if unit is None or spacing.size < 2:
        return None
    x, y = (float(side) * unit for side in spacing[:2])
    return square(x, y)


def _scalar(item: Any) -> Any:
    return item[()] if isinstance(item, h5py.Dataset) and item.shape == () else None


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < 1e6 else None


def _text(value: Any) -> str:
    return (
        value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""
    )
