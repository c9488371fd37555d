"""The outcome of one comparison as files: `result/comparisons/<first>-<second>/`. No pickle.

====================  ==================================================================
`comparison.json`     all tests: p-values, effect sizes, who traded labels, warnings
`comparison.nc`       contribution maps and their difference; permuted statistics; pairs of runs; edges
`edges.csv`           every tested coefficient with its image positions, most significant first
`digests.json`        the SHA-256 of each of these, checked when it is read
`*.png`               figures (`larscope._report.comparison`)
====================  ==================================================================
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray

from larscope._errors import LarscopeError
from larscope._results.folder import MAP_UNITS, read_dataset, write_dataset, write_json
from larscope._results.schema import SCHEMA_VERSION, migrate
from larscope._results.validation import check_comparison, check_summary
from larscope._statistics.comparison import Comparison
from larscope._statistics.differences import EdgeDifferences
from larscope._statistics.permutation import MaxT
from larscope._storage import DIGESTS, check_digest, remove, replacing, require_inside, write_digests

LEVEL = 0.05
"""Largest p-value of a different pixel or edge."""

ARRAYS = ("permuted", "inter", "intra", "intra_condition")
"""Arrays of a `Comparison` for `comparison.nc`; the rest goes into `comparison.json`."""

FILES = ("comparison.json", "comparison.nc", "edges.csv")


@dataclass(frozen=True)
class ComparisonRecord:
    """The content of a comparison's folder.

    Attributes
    ----------
    summary
        `first` and `second`, the groups' names; `runs`, those in each; `tests`, the numbers and warnings of the
        `coupling`, the `swap` and the `influence` test; `simulated`.
    dataset
        Arrays: see `docs/result.md`.
    edges
        One row a tested coefficient.
    """

    summary: Mapping[str, Any]
    dataset: xr.Dataset
    edges: pd.DataFrame


def build_record(
    *,
    first: str,
    second: str,
    runs: Mapping[str, Sequence[str]],
    tests: Mapping[str, Comparison],
    maps: Mapping[str, Float[NDArray[np.floating], "height width"]],
    difference: MaxT,
    edges: EdgeDifferences,
    mean_frame: Float[NDArray[np.floating], "height width"],
    rows: Float[NDArray[np.floating], " height"],
    columns: Float[NDArray[np.floating], " width"],
    simulated: bool,
    options: Mapping[str, Any],
    warnings: Sequence[str] = (),
) -> ComparisonRecord:
    """Name and describe all findings of a comparison.

    Parameters
    ----------
    first, second
        Names of the groups; differences are first minus second.
    runs
        Names of the runs of each group.
    tests
        `"coupling"`, the primary one, `"swap"` and `"influence"`.
    maps
        Mean contribution map of each group.
    difference, edges
        Where the groups differ.
    mean_frame, rows, columns
        The static image, and where its pixels' centres lie in input pixels.
    simulated, options, warnings
        Whether the session was simulated; how the comparison was made; what limits the maps.
    """
    arrays = {f"{name}_{key}": getattr(test, key) for name, test in tests.items() for key in ARRAYS}
    table = pd.DataFrame(edges.columns())
    summary = {
        "first": first,
        "second": second,
        "simulated": simulated,
        "runs": {name: list(members) for name, members in runs.items()},
        "options": dict(options),
        "tests": {name: _scalars(test) for name, test in tests.items()},
        "map": {
            "n_pixels": int(difference.pvalue.size),
            "n_different": int((difference.pvalue <= LEVEL).sum()),
            "smallest_pvalue": float(difference.pvalue.min()),
            "min_pvalue": difference.min_pvalue,
        },
        "edges": {
            "n_tested": len(table),
            "n_different": int((table["pvalue"] <= LEVEL).sum()),
            "smallest_pvalue": float(table["pvalue"].min()) if len(table) else None,
        },
        "warnings": list(warnings),
    }
    image = ("row", "column")
    dataset = xr.Dataset(
        {
            "map_first": (image, maps[first]),
            "map_second": (image, maps[second]),
            "difference": (image, difference.difference),
            "difference_statistic": (image, difference.statistic),
            "difference_pvalue": (image, difference.pvalue),
            "mean_frame": (image, mean_frame),
            **{name: (f"{name.removesuffix('_condition')}_number", value) for name, value in arrays.items()},
            **{f"edge_{_column(name, first, second)}": ("edge", table[name].to_numpy()) for name in table},
        },
        coords={"row": rows, "column": columns},
        attrs={
            "title": f"larscope comparison of {first} and {second}" + (" (simulated session)" if simulated else ""),
            "first": first,
            "second": second,
            "simulated": int(simulated),
        },
    )
    for name in ("map_first", "map_second", "difference"):
        dataset[name].attrs["units"] = MAP_UNITS
    for name in image:
        dataset[name].attrs["units"] = "input pixels"
    return ComparisonRecord(summary, dataset, table)


def write_record(record: ComparisonRecord, result: str | Path) -> Path:
    """Write a comparison into its folder inside a result folder, each file whole or not at all; return the folder.

    Raises
    ------
    LarscopeError
        The folder lies outside the result, or cannot be written.
    """
    folder = record_folder(result, record.summary["first"], record.summary["second"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # without digests while files are replaced: those of the files before would call the new ones damaged
        remove(folder / DIGESTS)
        with replacing(folder / "comparison.json") as path:
            write_json({"schema_version": SCHEMA_VERSION, **record.summary}, path)
        with replacing(folder / "comparison.nc") as path:
            write_dataset(record.dataset, path)
        with replacing(folder / "edges.csv") as path:
            record.edges.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
        write_digests(folder, FILES)
    except OSError as error:
        raise LarscopeError(
            f"The comparison must be written to {folder}: {error}. Free some space, or copy the result to a writable "
            "folder."
        ) from error
    return folder


def read_record(folder: str | Path) -> ComparisonRecord:
    """Read the folder of a comparison.

    Raises
    ------
    LarscopeError
        A file is missing, cannot be read, or was written by a newer larscope.
    """
    folder = Path(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise LarscopeError(
            f"Expected a comparison at {folder}; it lacks {', '.join(missing)}. Run `larscope compare` again."
        )
    try:
        for name in FILES:
            check_digest(folder / name)
        summary = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
        version = summary.pop("schema_version", 1)
        edges = pd.read_csv(folder / "edges.csv")
    except LarscopeError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise LarscopeError(
            f"Expected a whole comparison at {folder}; it cannot be read: {error}. Run `larscope compare` again."
        ) from error
    summary = migrate(summary, version, folder / "comparison.json")
    check_summary(summary, folder / "comparison.json")
    dataset = read_dataset(folder / "comparison.nc")
    check_comparison(dataset, summary, folder / "comparison.nc")
    edges = migrate(edges, version, folder / "edges.csv")
    if len(edges) != summary["edges"]["n_tested"]:
        raise LarscopeError(
            f"Expected {summary['edges']['n_tested']} edges in {folder / 'edges.csv'}; got {len(edges)}. Run `larscope "
            "compare` again."
        )
    return ComparisonRecord(summary, dataset, edges)


def find_records(result: str | Path) -> list[Path]:
    """Return the folders of all complete comparisons of a result, by name."""
    folders = sorted((Path(result) / "comparisons").glob("*/"))
    return [folder for folder in folders if all((folder / name).is_file() for name in FILES)]


def find_incomplete(result: str | Path) -> list[Path]:
    """Return the folders of comparisons that lack files, by name: they are in no report."""
    folders = sorted((Path(result) / "comparisons").glob("*/"))
    return [folder for folder in folders if not all((folder / name).is_file() for name in FILES)]


def record_folder(result: str | Path, first: str, second: str) -> Path:
    """Return the folder of a comparison, always inside the result, whatever the groups' names.

    Letters, digits, `_` and spaces of the names are kept; where others had to go, a digest of both names is
    added, so that no two comparisons share a folder.

    >>> record_folder("result", "familiar", "novel").name
    'familiar-novel'
    >>> record_folder("result", "../../etc", "a/b").name
    'etc-a_b-6c12a914'
    """
    kept = [re.sub(r"[^A-Za-z0-9_ ]+", "_", name)[:40].strip("_ ") or "group" for name in (first, second)]
    name = "-".join(kept)
    if kept != [first, second]:
        name += "-" + hashlib.sha256(json.dumps([first, second]).encode()).hexdigest()[:8]
    return require_inside(Path(result) / "comparisons" / name, result)


def _scalars(test: Comparison) -> dict[str, Any]:
    """Return the numbers of a comparison except arrays, as JSON."""
    values = {field.name: getattr(test, field.name) for field in fields(test) if field.name not in ARRAYS}
    return {name: _for_json(value) for name, value in values.items()}


def _for_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_for_json(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _column(name: str, first: str, second: str) -> str:
    """Name an edge's variable without the groups' names: NetCDF may not allow them."""
    return {f"mean_{first}": "mean_first", f"mean_{second}": "mean_second"}.get(name, name)
