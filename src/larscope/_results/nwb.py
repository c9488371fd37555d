"""A result as NWB: coefficients, latents, forecasts, maps and tests in one processing module.

What a recording was is copied from its NWB file, or told by whoever exports; nothing is made up. So series are tables
of frames rather than of seconds: nothing in a session says when one run began after another.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from larscope._errors import LarscopeError, suggest
from larscope._results.comparison import ComparisonRecord, find_records, read_record
from larscope._results.folder import SCORES, Result, read_result, split_runs
from larscope._storage import creating, reading_hdf5

REQUIRED = ("session_description", "identifier", "session_start_time")
"""Fields required by NWB."""

FIELDS = (
    *REQUIRED,
    *("experimenter", "experiment_description", "session_id", "institution", "lab"),
    *("keywords", "notes", "pharmacology", "protocol", "related_publications", "slices", "data_collection"),
    *("surgery", "virus", "stimulus_notes"),
)
"""Fields copied from an input, or taken from a metadata file."""

TIMES = ("session_start_time", "date_of_birth")
"""Times; without a distance from UTC they would get this machine's."""

OBJECTS = ("device_models", "devices", "imaging_planes")
"""Objects copied from an input; each may refer to earlier ones."""

AXES = ("row", "column")

EXAMPLE = 'session_start_time = 2026-01-31T09:30:00+01:00, identifier = "..."'


def write_nwb(result: str | Path, path: str | Path, metadata: str | Path | None = None) -> Path:
    """Write a result folder and its comparisons as one NWB file, whole or not at all.

    Parameters
    ----------
    result
        Result folder.
    path
        The file to write; it must not exist, and end with `.nwb`.
    metadata
        A TOML file of NWB's general fields (`identifier`, `session_start_time`, `session_description`, `experimenter`,
        ... and a table `[subject]`). Needed if the inputs were not NWB; overrides them.

    Raises
    ------
    LarscopeError
        A field required by NWB is missing, inputs contradict each other, or the file exists already.
    """
    path = Path(path)
    if path.suffix != ".nwb":
        raise LarscopeError(f"The name of an NWB file ends with .nwb; got {path}. Rename it.")
    found = read_result(result)
    comparisons = [read_record(folder) for folder in find_records(result)]
    given = {} if metadata is None else _read_metadata(Path(metadata))
    try:
        import pynwb
    except ImportError as error:
        raise LarscopeError(
            "Writing NWB needs pynwb, but it is not installed. Run: pip install 'larscope[nwb]'"
        ) from error
    with _new_file(path) as filling:
        file = _describe_session(found, given)
        _add_results(file, found, comparisons)
        with pynwb.NWBHDF5IO(filling, "w") as out:
            out.write(file)
    return path


# ------------------------------------------------------------------------------------- what the session was


def _describe_session(result: Result, given: Mapping[str, Any]) -> Any:
    """Make an NWB file without data, with the metadata of the inputs, overridden by given ones."""
    from pynwb import NWBFile
    from pynwb.file import Subject

    inputs = {path: _read_input(path) for path in _nwb_inputs(result)}
    agreed = _agree(inputs, given)
    fields = {name: agreed[name] for name in FIELDS}
    subject = agreed["subject"] or _subject_of_runs(result)
    if fields["identifier"] is not None and "identifier" not in given:
        fields["identifier"] += "-larscope"  # an identifier is one file's, and this is another one
    missing = [name for name in REQUIRED if not fields[name]]
    if missing:
        raise LarscopeError(
            f"NWB requires {', '.join(f'`{name}`' for name in missing)}: "
            f"{'the inputs do not say' if inputs else 'the inputs were not NWB'}, and we never make it up. Write it "
            f"into a TOML file, such as {EXAMPLE}, and pass the file as `--metadata`."
        )
    for name, time in {**fields, **subject}.items():
        if name in TIMES and time is not None and (not isinstance(time, datetime) or time.tzinfo is None):
            raise LarscopeError(
                f"`{name}` must be a date and time with its distance from UTC; got {time}. Write it into the "
                "`--metadata` as 2026-01-31T09:30:00+01:00."
            )
    if result.dataset.attrs["simulated"]:
        fields["session_description"] = f"Simulated data; nothing was recorded. {fields['session_description']}"
    try:
        file = NWBFile(
            **{name: value for name, value in fields.items() if value is not None},
            subject=Subject(**subject) if subject else None,
        )
    except (TypeError, ValueError) as error:
        raise LarscopeError(
            f"NWB does not take this metadata: {error}. Correct the file given as `--metadata`."
        ) from error
    made: dict[tuple[type, str], Any] = {
        _key(description): None for kind in OBJECTS for description in agreed[kind].values()
    }
    for kind in OBJECTS:
        for description in agreed[kind].values():
            getattr(file, f"add_{kind[:-1]}")(_build(description, made))
    return file


def _nwb_inputs(result: Result) -> list[Path]:
    """Return the inputs with NWB content."""
    paths = [Path(described["path"]) for described in result.provenance["inputs"]]
    for path in paths:
        if path.suffix == ".nwb" and not path.is_file():
            raise LarscopeError(
                f"The input {path} was NWB, so its metadata are copied, but the file is gone. Restore it, or export "
                "from the folder of the fit."
            )
    return [path for path in paths if path.is_file() and h5py.is_hdf5(path) and _is_nwb(path)]


def _is_nwb(path: Path) -> bool:
    with reading_hdf5(path) as file:
        return "nwb_version" in file.attrs


def _read_input(path: Path) -> dict[str, Any]:
    """Return the metadata of an NWB file as plain values and descriptions of objects."""
    from pynwb import NWBHDF5IO

    try:
        with NWBHDF5IO(path, "r", load_namespaces=True) as source:
            file = source.read()
            found = {name: _plain(getattr(file, name)) for name in FIELDS}
            found["subject"] = _describe(file.subject)[1] if file.subject else {}
            for kind in OBJECTS:
                found[kind] = {name: _describe(held) for name, held in getattr(file, kind).items()}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LarscopeError(f"Expected NWB in the input {path}; it cannot be read: {error}. Restore it.") from error
    return found


def _agree(inputs: Mapping[Path, Mapping[str, Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return every field: given, or agreed by all inputs with it; subject and objects are combined over inputs."""
    agreed: dict[str, Any] = {}
    apart = []
    for name in (*FIELDS, "subject", *OBJECTS):
        said = [fields[name] for fields in inputs.values() if fields[name]]
        if name in FIELDS:
            said = [given[name]] if name in given else said
            agreed[name] = said[0] if said else None
            differ = any(value != agreed[name] for value in said)
        else:
            overruled = given.get(name, {})
            agreed[name] = {part: value for fields in said for part, value in fields.items()} | overruled
            differ = any(agreed[name][part] != fields[part] for fields in said for part in fields.keys() - overruled)
        if differ:
            apart.append(f"`{name}`")
    if apart:
        raise LarscopeError(
            f"An NWB file is of one session; the inputs {', '.join(map(str, inputs))} differ in {', '.join(apart)}. "
            "Give one value for all in `--metadata`, or fit and export them separately."
        )
    return agreed


def _subject_of_runs(result: Result) -> dict[str, Any]:
    """Return the one subject of the session table; with several, the table of runs names each."""
    names = set(_texts(result.dataset, "subject"))
    return {"subject_id": names.pop()} if len(names) == 1 and "" not in names else {}


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LarscopeError(
            f"Expected NWB's general fields in TOML; {path} cannot be read: {error}. For example: {EXAMPLE}."
        ) from error
    if not isinstance(given.get("subject", {}), dict):
        raise LarscopeError(
            f"{path}: `subject` must be a table; got {given['subject']!r}. Write [subject], and under it its fields."
        )
    for name in sorted(given.keys() - {"subject", *FIELDS}):
        raise LarscopeError(f"{path}: unknown field {name!r}. {suggest(name, ['subject', *FIELDS])}")
    return given


def _describe(held: Any) -> tuple[type, dict[str, Any]]:
    """Return the class of an NWB object and the arguments for another one like it."""
    names = [argument["name"] for argument in type(held).__init__.__docval__["args"]]
    values = {name: _plain(getattr(held, name, None)) for name in names}
    return type(held), {name: value for name, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    from pynwb.core import NWBContainer

    if isinstance(value, NWBContainer):
        return _describe(value)
    if isinstance(value, h5py.Dataset | np.ndarray):
        return np.asarray(value[()]).tolist()
    if isinstance(value, dict):  # of named objects
        return [_plain(part) for part in value.values()]
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def _build(described: tuple[type, dict[str, Any]], made: dict[tuple[type, str], Any]) -> Any:
    """Make an NWB object from its description: those of `made` once, others as parts of one object."""
    kind, values = described
    key = _key(described)
    if made.get(key) is None:
        built = kind(**{name: _built(value, made) for name, value in values.items()})
        if key not in made:
            return built
        made[key] = built
    return made[key]


def _key(described: tuple[type, dict[str, Any]]) -> tuple[type, str]:
    kind, values = described
    return kind, str(values.get("name"))


def _built(value: Any, made: dict[tuple[type, str], Any]) -> Any:
    if isinstance(value, tuple):
        return _build(value, made)
    return [_built(part, made) for part in value] if isinstance(value, list) else value


# ------------------------------------------------------------------------------------------ what was found


def _add_results(file: Any, result: Result, comparisons: Sequence[ComparisonRecord]) -> None:
    simulated = "simulated data" if result.dataset.attrs["simulated"] else "recorded movies"
    settings = ", ".join(f"{name}={value}" for name, value in result.settings.items())
    module = file.create_processing_module(
        name="ophys",
        description=f"Sparse dynamics found by larscope {version('larscope')} in {simulated} (arXiv 2603.02899): "
        f"{settings}.",
    )
    data, runs = result.dataset, _runs_table(result)
    tables = [runs, _latents_table(data), *_series_tables(data, runs)]
    if data.sizes["entry"]:
        tables.append(_coefficient_table(data, runs))
    if comparisons:
        tables.append(_test_table(comparisons))
    if any(len(record.edges) for record in comparisons):
        tables.append(_edge_table(comparisons))
    for container in (*tables, _images(data, comparisons)):
        module.add(container)


RUN_COLUMNS = {
    "condition": "experimental group",
    "block": "runs of one block are only exchangeable together",
    "subject": "the animal",
    "path": "the input file",
    "start": "first frame of the run in its movie",
    "stop": "the frame after its last",
    "n_frames": "number of frames",
    "frame_rate": "frames a second",
    "pixel_size": "micrometres",
    **{name: meaning for name, (_, meaning) in SCORES.items()},
}

EDGE_TESTS = "Permutation test of each coefficient for a difference between two groups, corrected by max-T."

EDGE_COLUMNS = {
    "first": "name of the first group",
    "second": "name of the second group",
    "lag": "frames",
    "source": "source latent: row of LarscopeLatents",
    "target": "target latent: row of LarscopeLatents",
    **{f"{end}_{axis}": "in pixels of the recorded movie" for end in ("source", "target") for axis in AXES},
    "mean_first": "mean coefficient in the first group",
    "mean_second": "mean coefficient in the second group",
    "difference": "first minus second",
    "statistic": "the difference in units of its spread",
    "pvalue": "corrected for the number of coefficients",
}

TEST_COLUMNS = {
    "first": "name of the first group",
    "second": "name of the second group",
    "test": "swap: do forecasts get worse with the other group's coefficients; influence: do influence vectors differ",
    "statistic": "mean between groups - mean within groups",
    "pvalue": "by permuting labels",
    "pvalue_ranksum": "one-sided rank-sum test over pairs of runs, as if these were independent",
    "min_pvalue": "smallest possible p-value of this design",
    "n_labelings": "number of labelings of this design",
    "effect_size": "percent",
    "effect_low": "lower end of the 95 % bootstrap interval, percent",
    "effect_high": "upper end of the 95 % bootstrap interval, percent",
    "anosim_r": "ANOSIM R",
    "permdisp_pvalue": "permutation test for a difference in spread",
    "units": "what traded labels",
    "warnings": "limits of the comparison",
}


def _runs_table(result: Result) -> Any:
    data = result.dataset
    columns: dict[str, Any] = {"run": _texts(data, "run")}
    for name in RUN_COLUMNS:
        if name in data:
            columns[name] = data[name].to_numpy() if data[name].dtype.kind in "iuf" else _texts(data, name)
    return _table("LarscopeRuns", "The runs of the session, and how well the model fits each.", columns, RUN_COLUMNS)


def _positions(data: xr.Dataset) -> dict[str, NDArray[np.float64]]:
    """Return row and column of the centre of each latent's field, in pixels of the recorded movie."""
    downscale, offset = int(data.attrs["downscale"]), dict(zip(AXES, data.attrs["crop_offset"], strict=True))
    return {axis: int(offset[axis]) + (data[f"latent_{axis}"].to_numpy() + 0.5) * downscale - 0.5 for axis in AXES}


def _latents_table(data: xr.Dataset) -> Any:
    described = dict.fromkeys(AXES, "centre of the latent's field, in pixels of the recorded movie")
    return _table("LarscopeLatents", "Places of the latents in the image.", _positions(data), described)


def _series_tables(data: xr.Dataset, runs: Any) -> Iterator[Any]:
    """Give the latent series of all runs and their forecasts: one row a frame, one column a latent."""
    order = int(data.attrs["order"])
    lengths, starts = data["n_frames"].to_numpy(), data["start"].to_numpy()
    for name, variable, first, what in (
        ("LarscopeLatentSeries", "latent_series", 0, "Latents of every frame."),
        (
            "LarscopeForecastSeries",
            "forecast_series",
            order,
            f"Forecasts of the latents from the {order} frames before.",
        ),
    ):
        frames = [np.arange(start + first, start + length) for start, length in zip(starts, lengths, strict=True)]
        parts = split_runs(data[variable].to_numpy(), lengths - first)
        columns = {
            "run": (runs, np.repeat(np.arange(len(lengths)), [len(part) for part in parts])),
            "frame": np.concatenate(frames),
            "value": np.concatenate(parts),
        }
        described = {"run": "row of LarscopeRuns", "frame": "in the run's movie", "value": "of each of LarscopeLatents"}
        yield _table(name, what, columns, described)


def _coefficient_table(data: xr.Dataset, runs: Any) -> Any:
    ends = {end: data[f"coef_{end}"].to_numpy() for end in ("source", "target")}
    columns = {
        "run": (runs, data["coef_run"].to_numpy()),
        "lag": data["coef_lag"].to_numpy(),
        **ends,
        **{f"{end}_{axis}": at[ends[end]] for end in ends for axis, at in _positions(data).items()},
        "coef": data["coef"].to_numpy(),
    }
    described = {**EDGE_COLUMNS, "run": "row of LarscopeRuns", "coef": "effect of source on target, `lag` frames later"}
    return _table("LarscopeCoefficients", "All non-zero coefficients of the VAR of each run.", columns, described)


def _test_table(comparisons: Sequence[ComparisonRecord]) -> Any:
    rows = []
    for record in comparisons:
        for test, found in record.summary["tests"].items():
            low, high = found["effect_interval"]
            limits = " ".join([*found["warnings"], *record.summary["warnings"]]) or "none"
            own = {"test": test, "effect_low": low, "effect_high": high, "warnings": limits}
            rows.append({**found, **own, "first": record.summary["first"], "second": record.summary["second"]})
    table = pd.DataFrame(rows)[list(TEST_COLUMNS)]
    what = "Tests of whether the dynamics of two groups of runs differ."
    # what no comparison has is None in all rows: without numbers, but no text
    table = table.apply(lambda column: column.astype(float) if column.isna().all() else column)
    return _table("LarscopeComparisons", what, _columns(table), TEST_COLUMNS)


def _edge_table(comparisons: Sequence[ComparisonRecord]) -> Any:
    tested = [
        pd.DataFrame(
            {
                "first": record.summary["first"],
                "second": record.summary["second"],
                **{name: record.dataset[f"edge_{name}"] for name in list(EDGE_COLUMNS)[2:]},
            }
        )
        for record in comparisons
        if len(record.edges)
    ]
    return _table("LarscopeEdgeTests", EDGE_TESTS, _columns(pd.concat(tested, ignore_index=True)), EDGE_COLUMNS)


def _columns(table: pd.DataFrame) -> dict[str, Any]:
    return {
        str(name): column.to_numpy() if column.dtype.kind in "iuf" else [str(cell) for cell in column]
        for name, column in table.items()
    }


def _images(data: xr.Dataset, comparisons: Sequence[ComparisonRecord]) -> Any:
    """Give the mean frame and all maps. NWB's images are width by height, so they are transposed."""
    from pynwb.base import Images
    from pynwb.image import GrayscaleImage

    added = data["contribution_map"].attrs["units"]
    images = [("mean_frame", "Mean over runs of each run's mean over time, [0, 1]", data["mean_frame"])]
    for number, (run, found) in enumerate(zip(_texts(data, "run"), data["contribution_map"], strict=True)):
        images.append(
            (f"contribution_map_{number}", f"How strongly each place of run {run} drives others: {added}", found)
        )
    for number, record in enumerate(comparisons):
        pair = record.summary["first"], record.summary["second"]
        for name, what in (
            ("map_first", f"Mean contribution map of {pair[0]}: {added}"),
            ("map_second", f"Mean contribution map of {pair[1]}: {added}"),
            ("difference", f"Contribution map of {pair[0]} minus the map of {pair[1]}: {added}"),
            ("difference_pvalue", f"p-value of the difference of {pair[0]} and {pair[1]}, corrected by max-T"),
        ):
            images.append((f"comparison_{number}_{name}", what, record.dataset[name]))
    made = [
        GrayscaleImage(name=name, data=_packed(np.ascontiguousarray(image.to_numpy().T)), description=f"{what}.")
        for name, what, image in images
    ]
    return Images(name="LarscopeMaps", images=made, description="Images of the preprocessed size, width by height.")


def _table(name: str, what: str, columns: Mapping[str, Any], described: Mapping[str, str]) -> Any:
    """Make a table; a column is an array, or a table with the rows meant. Empty columns are left out."""
    from hdmf.common import DynamicTable, DynamicTableRegion, VectorData

    made = []
    for title, values in columns.items():
        about = described.get(title, "name")
        if isinstance(values, tuple):
            table, rows = values
            rows = rows.astype(np.int32)
            made.append(DynamicTableRegion(name=title, data=_packed(rows), description=about, table=table))
        elif not _is_empty(values):
            made.append(VectorData(name=title, description=about, data=_packed(values)))
    return DynamicTable(name=name, description=what, columns=made)


def _is_empty(values: Any) -> bool:
    if isinstance(values, list):
        return not any(values)
    return values.dtype.kind == "f" and bool(np.isnan(values).all())


def _packed(values: Any) -> Any:
    from hdmf.backends.hdf5.h5_utils import H5DataIO

    return values if isinstance(values, list) else H5DataIO(values, compression="gzip")


def _texts(data: xr.Dataset, name: str) -> list[str]:
    """Return a column of text; empty if nobody filled it in."""
    values: NDArray[Any] = data[name].to_numpy()
    return ["" if pd.isna(value) else str(value) for value in values]


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes `path` at the end unless that exists by then."""
    try:
        with creating(path) as filling:
            yield filling
    except FileExistsError:
        raise LarscopeError(
            f"A file is never overwritten; {path} exists. Pass another name, or remove it first."
        ) from None
    except OSError as error:
        raise LarscopeError(
            f"The NWB file must be written to {path}: {error}. Nothing was left behind; pass another place."
        ) from error
