"""A simulated session on disk: its movies, its table, and its truth."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from jaxtyping import Float, UInt16
from numpy.typing import NDArray

from larscope._errors import LarscopeError
from larscope._movies.session import Run, Session
from larscope._simulate.camera import FRAME_RATE, PIXEL_SIZE
from larscope._simulate.truth import CONDITIONS, Truth
from larscope._storage import replacing, write_text

UPSCALE, MARGIN = 4, 16
"""Full-size files: every pixel is repeated UPSCALE x UPSCALE times, and MARGIN pixels frame the whole."""

CLASSIC_TIFF = 2**32 - 2**25
"""Bytes of pixels from which a file becomes BigTIFF."""


def write_session(folder: Path, session: Session, truth: Truth, full_size: bool) -> Path:
    """Write a session and its truth, whole or not at all: see `SimulatedSession.write`."""
    _require_new(folder)
    with replacing(folder) as partial:
        partial.mkdir()
        for run in session:
            _write_movie(partial / f"{run.name}.tif", run, full_size)
        _write_table(partial / "session.csv", session, full_size)
        _write_truth(partial, truth, [run.name for run in session], full_size)
    return folder / "session.csv"


def _require_new(folder: Path) -> None:
    if folder.exists():
        raise LarscopeError(f"Expected a new folder; {folder} exists already. Choose another, or delete it.")
    if not folder.parent.is_dir():
        raise LarscopeError(
            f"Expected to create {folder.name} in {folder.parent}, but this folder does not exist. Create it."
        )


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


def _write_truth(folder: Path, truth: Truth, names: list[str], full_size: bool) -> None:
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
    write_text(folder / "truth.json", text + "\n")


def _list_couplings(couplings: Float[NDArray[np.float64], "order cells cells"]) -> list[dict[str, Any]]:
    return [
        {"lag": int(k) + 1, "from": int(driver), "to": int(driven), "spikes": round(float(strength), 4)}
        for (k, driven, driver), strength in np.ndenumerate(couplings)
        if strength
    ]


def read_truth(folder: str | Path) -> Truth:
    """Read the truth written by `SimulatedSession.write`.

    Raises
    ------
    LarscopeError
        The folder holds no truth.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from larscope._simulate.session import simulate_session
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
