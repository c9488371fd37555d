"""Traces from files: what suite2p, CaImAn or your own code has extracted, one session table for all runs."""

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from larscope._errors import LarscopeError
from larscope._movies.table import Row, parse_row, read_rows
from larscope._storage import reading_hdf5

NEUROPIL = 0.7
"""suite2p's share of the neuropil in a trace."""

HARMLESS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}
"""All that a pickle of suite2p's regions calls. Anything else could run a stranger's code."""

Footprints = Float[NDArray[np.float64], "K height width"]


@dataclass(frozen=True)
class RecordedTraces:
    """The traces of a session, one entry a run, and where the cells are if the files say so."""

    traces: list[Float[NDArray[np.float32], "_T K"]]
    names: list[str]
    condition: list[str]
    block: list[str] | None
    subject: list[str] | None
    files: list[Path]
    footprints: Footprints | None


def read_traces(table: str | Path) -> RecordedTraces:
    r"""Read a session table whose paths are files of traces, the same cells in each.

    A path is suite2p's folder (its cells, F - 0.7 Fneu) or one of its `F.npy` and `spks.npy` (all regions), an `.npy`
    of frames x cells, a `.csv` with a column a cell, or an `.nwb` with a `RoiResponseSeries` (`dataset` names one of
    several). `start` and `stop` cut runs, `stop` exclusive.

    Raises
    ------
    LarscopeError
        A file or a column is missing or unknown, or a file holds no traces.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> np.save(folder / "traces.npy", np.zeros((100, 3)))
    >>> table = folder / "session.csv"
    >>> _ = table.write_text("path,condition,start,stop\ntraces.npy,familiar,0,50\ntraces.npy,novel,50,100\n")
    >>> [trace.shape for trace in read_traces(table).traces]
    [(50, 3), (50, 3)]
    """
    table = Path(table)
    rows = [parse_row(table, number, row) for number, row in enumerate(read_rows(table), start=1)]
    files = [table.parent / row.path for row in rows]
    opened: dict[tuple[Path, str | None], tuple[Any, Footprints | None]] = {}
    traces, places = [], []
    for number, (row, path) in enumerate(zip(rows, files, strict=True), start=1):
        where = f"{table}, row {number}"
        try:
            whole, footprints = opened.setdefault((path, row.dataset), _open(path, row.dataset))
        except LarscopeError as error:
            raise LarscopeError(f"{where}: {error}") from error
        except (OSError, ValueError, EOFError, pickle.UnpicklingError, pd.errors.ParserError) as error:
            raise LarscopeError(
                f"{where}: expected traces in {path}; it cannot be read: {error}. Save it anew."
            ) from error
        traces.append(_cut(whole, row, f"{where}, {path}"))
        places.append(footprints)
    return RecordedTraces(
        traces,
        [row.run or str(number) for number, row in enumerate(rows, start=1)],
        [row.condition for row in rows],
        _column([row.block for row in rows]),
        _column([row.subject for row in rows]),
        files,
        # regions that were found anew in each file are not the same cells
        places[0] if len(set(files)) == 1 else None,
    )


def _column(values: Sequence[str | None]) -> list[str] | None:
    given = [value for value in values if value is not None]
    return given if given and len(given) == len(values) else None


def _cut(whole: Any, row: Row, where: str) -> Float[NDArray[np.float32], "_T K"]:
    if whole.ndim != 2 or not np.issubdtype(whole.dtype, np.number):
        raise LarscopeError(
            f"{where}: expected numbers in (frames, cells); got {whole.dtype} of shape {whole.shape}. Save one array."
        )
    start, stop = row.start or 0, len(whole) if row.stop is None else row.stop
    if not 0 <= start < stop <= len(whole):
        raise LarscopeError(
            f"{where}: `start` and `stop` must lie within its {len(whole)} frames; got {start} and {stop}. Correct "
            "both."
        )
    return np.asarray(whole[start:stop], np.float32)


def _open(path: Path, dataset: str | None) -> tuple[Any, Footprints | None]:
    if path.is_dir():
        return _open_suite2p(path)
    if not path.is_file():
        raise LarscopeError(f"expected traces; {path} does not exist. Correct the `path` column.")
    kind = path.suffix.lower()
    if kind == ".npy":
        whole = np.load(path, allow_pickle=False)
        return (whole.T if path.name in ("F.npy", "spks.npy", "Fneu.npy") else whole), None
    if kind == ".csv":
        return pd.read_csv(path, skipinitialspace=True, encoding="utf-8-sig").to_numpy(), None
    if kind in (".nwb", ".h5", ".hdf5"):
        return _open_nwb(path, dataset), None
    raise LarscopeError(
        f"expected traces in a suite2p folder, or in a file ending in .npy, .csv or .nwb; got {path}. Point at one."
    )


def _open_suite2p(folder: Path) -> tuple[Any, Footprints | None]:
    """Read suite2p's cells: regions that its classifier, or a person, called so."""
    inside = [folder, folder / "plane0", folder / "suite2p" / "plane0", folder / "combined"]
    plane = next((one for one in inside if (one / "F.npy").is_file()), None)
    if plane is None:
        raise LarscopeError(f"expected suite2p's F.npy in {folder}, or in plane0 there. Point at its folder.")
    missing = [name for name in ("Fneu.npy", "iscell.npy") if not (plane / name).is_file()]
    if missing:
        raise LarscopeError(f"expected {' and '.join(missing)} beside {plane / 'F.npy'}. Point at F.npy itself.")
    traces, neuropil, kept = (np.load(plane / name, allow_pickle=False) for name in ("F.npy", "Fneu.npy", "iscell.npy"))
    kept = kept[:, 0] > 0.5
    if not kept.any():
        raise LarscopeError(f"suite2p calls none of {len(kept)} regions in {plane} a cell. Point at F.npy for all.")
    stat = plane / "stat.npy"
    return (traces - NEUROPIL * neuropil)[kept].T, _footprints(stat, kept) if stat.is_file() else None


def _footprints(stat: Path, kept: NDArray[np.bool_]) -> Footprints:
    regions = _unpickle(stat)[kept]
    sides = [1 + max(int(np.max(region[axis])) for region in regions) for axis in ("ypix", "xpix")]
    images = np.zeros((len(regions), *sides))
    for image, region in zip(images, regions, strict=True):
        image[region["ypix"], region["xpix"]] = np.maximum(region["lam"], 0)
    return images


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it would call {module}.{name}, which no file of regions needs")
        return super().find_class(module, name)


def _unpickle(path: Path) -> Any:
    """Read an array of dictionaries of arrays, and call nothing but what makes arrays."""
    content = io.BytesIO(path.read_bytes())
    version = np.lib.format.read_magic(content)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    header(content)
    return np.asarray(_Unpickler(content).load(), dtype=object)


def _open_nwb(path: Path, dataset: str | None) -> Any:
    with reading_hdf5(path) as file:
        found: dict[str, Any] = {}

        def look(name: str, item: Any) -> None:
            if isinstance(item, h5py.Group) and item.attrs.get("neurodata_type") == "RoiResponseSeries":
                found[name] = item

        file.visititems(look)
        named = [name for name in found if dataset is None or dataset in (name, name.rpartition("/")[2])]
        if len(named) != 1:
            raise LarscopeError(
                f"expected one RoiResponseSeries in {path}; found {', '.join(named or found) or 'none'}. Name one in "
                "the column `dataset`."
            )
        return found[named[0]]["data"][()]
