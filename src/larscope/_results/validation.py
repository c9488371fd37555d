"""What each file of a result must hold: checked here, for everything that reads results."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import numpy as np
import xarray as xr
from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

# pydantic reads this one on Python 3.11 alone
from typing_extensions import TypedDict

from larscope._errors import LarscopeError
from larscope._movies.checks.findings import Level
from larscope._settings import Settings, explain_validation

STRICT = ConfigDict(strict=True, extra="allow")
Share = Annotated[float, Field(ge=0, le=1)]


class _Input(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]
    path: str
    bytes: NotRequired[NonNegativeInt]
    sha256: NotRequired[str]


class _Finding(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]
    run: str | None
    check: str
    level: Level
    message: str
    advice: str


class _Trained(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]
    settings: dict[str, Any]


class _Provenance(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]
    created: str
    seconds: NonNegativeFloat
    command: list[str]
    simulated: bool
    inputs: list[_Input]
    versions: dict[str, str]
    checks: NotRequired[list[_Finding] | None]
    refitted_from: NotRequired[_Trained]


class _Step(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]
    step: PositiveInt
    epoch: NonNegativeInt
    loss: float
    n_active: NonNegativeInt


class _Test(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]
    statistic: float | None
    pvalue: Share
    pvalue_ranksum: Share | None
    min_pvalue: Share
    n_labelings: PositiveInt
    effect_size: float | None
    effect_interval: Annotated[list[float | None], Field(min_length=2, max_length=2)]
    anosim_r: float | None
    permdisp_pvalue: Share | None
    units: str
    warnings: list[str]


class _Map(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]
    n_pixels: NonNegativeInt
    n_different: NonNegativeInt
    smallest_pvalue: Share
    min_pvalue: Share


class _Edges(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]
    n_tested: NonNegativeInt
    n_different: NonNegativeInt
    smallest_pvalue: Share | None


class _Options(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]
    relative: bool


class _Summary(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]
    first: str
    second: str
    simulated: bool
    runs: dict[str, list[str]]
    options: _Options
    tests: dict[Literal["coupling", "swap", "influence"], _Test]
    map: _Map
    edges: _Edges
    warnings: list[str]


_PROVENANCE = TypeAdapter(_Provenance)
_LOG = TypeAdapter(list[_Step])
_SUMMARY = TypeAdapter(_Summary)
_SETTINGS = TypeAdapter(Settings)

RESULT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("condition", "block", "subject", "path", "start", "stop", "frame_rate", "pixel_size"), ("run",)),
    **dict.fromkeys(("run", "n_frames", "n_active", "example_frame"), ("run",)),
    **dict.fromkeys(("reconstruction_error", "forecast_error", "var_error", "var_explained"), ("run",)),
    "var_error_heldout": ("run",),
    **{f"example_{name}": ("run", "row", "column") for name in ("observed", "reconstruction", "forecast")},
    "latent_series": ("frame", "latent"),
    "forecast_series": ("forecast_frame", "latent"),
    "mean_frame": ("row", "column"),
    "contribution_map": ("run", "row", "column"),
    **dict.fromkeys(("coef", "coef_run", "coef_lag", "coef_target", "coef_source"), ("entry",)),
    **dict.fromkeys(("latent_row", "latent_column"), ("latent",)),
}
"""Variables of `results.nc` in every version, and their dimensions."""

LATER: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("clip_run", "clip_frame"), ("clip",)),
    **dict.fromkeys(("clip_observed", "clip_reconstruction"), ("clip", "row", "column")),
    "curve_run": ("curve",),
    **dict.fromkeys(("curve_n_active", "curve_explained", "curve_explained_heldout"), ("curve", "penalty")),
    **dict.fromkeys(("coupling_source", "coupling_target", "coupling_lag", "coupling_effect"), ("coupling",)),
    **dict.fromkeys(("coupling_condition", "coupling_n_runs", "coupling_qvalue"), ("coupling",)),
    **dict.fromkeys(("footprint", "footprint_latent", "footprint_row", "footprint_column"), ("pixel",)),
}
"""Variables that newer versions or some settings add."""

COMPARISON: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("map_first", "map_second", "difference", "difference_statistic"), ("row", "column")),
    **dict.fromkeys(("difference_pvalue", "mean_frame"), ("row", "column")),
}
"""Variables of `comparison.nc`; each test adds its own."""

INDICES = {
    "coef_run": "run",
    "coef_target": "latent",
    "coef_source": "latent",
    "clip_run": "run",
    "curve_run": "run",
    "coupling_target": "latent",
    "coupling_source": "latent",
    "footprint_latent": "latent",
    "footprint_row": "row",
    "footprint_column": "column",
}
"""Variables that count along a dimension, from 0."""

SHARES = ("difference_pvalue", "edge_pvalue", "coupling_qvalue")


def check_settings(settings: Mapping[str, Any], path: Path) -> None:
    """Raise unless these are settings of a fit."""
    try:
        _SETTINGS.validate_json(json.dumps(settings, default=str), strict=True)
    except ValidationError as error:
        raise LarscopeError(f"{path}: {explain_validation(error)}") from None


def check_provenance(content: Any, path: Path) -> None:
    """Raise unless this tells how a result was made."""
    _check(_PROVENANCE, content, path, "fit again")
    if "refitted_from" in content:
        check_settings(content["refitted_from"]["settings"], path)


def check_log(content: Any, path: Path, trained: bool) -> None:
    """Raise unless this is one entry a training step, and there are some where a network was trained."""
    _check(_LOG, content, path, "fit again")
    if trained and not content:
        raise LarscopeError(f"{path} is empty; expected a line for each training step. Restore it, or fit again.")


def check_summary(content: Any, path: Path) -> None:
    """Raise unless these are the numbers of a comparison."""
    _check(_SUMMARY, content, path, "compare again")
    missing = [content[side] for side in ("first", "second") if content[side] not in content["runs"]]
    if missing or not content["tests"]:
        what = f"the runs of {missing[0]!r}" if missing else "a test"
        raise LarscopeError(f"{path} lacks {what}. Restore it, or compare again.")


def check_result(dataset: xr.Dataset, path: Path) -> None:
    """Raise unless `results.nc` holds what it should, of fitting sizes, with indices in their ranges."""
    fault = _attributes(dataset) or _variables(dataset, RESULT, LATER) or _ranges(dataset) or _lengths(dataset)
    if fault:
        raise LarscopeError(f"Expected a whole result in {path}; {fault}. Restore it, or fit again.")


def check_comparison(dataset: xr.Dataset, summary: Mapping[str, Any], path: Path) -> None:
    """Raise unless `comparison.nc` holds what it should, in its ranges."""
    tests = {
        f"{test}_{name}": (f"{test}_{name.removesuffix('_condition')}_number",)
        for test in summary["tests"]
        for name in ("permuted", "inter", "intra", "intra_condition")
    }
    fault = _variables(dataset, {**COMPARISON, **tests}, {}) or _ranges(dataset)
    if fault:
        raise LarscopeError(f"Expected a whole comparison in {path}; {fault}. Compare again.")


def _check(shape: TypeAdapter[Any], content: Any, path: Path, remedy: str) -> None:
    try:
        shape.validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "its content"
        got = "" if first["type"] == "missing" else f"; got {str(first['input'])[:80]!r}"
        raise LarscopeError(f"{path}: {place}: {first['msg'].lower()}{got}. Restore it, or {remedy}.") from None


def _attributes(dataset: xr.Dataset) -> str | None:
    attributes = dataset.attrs
    if not isinstance(attributes["title"], str):
        return f"`title` must be text, not {attributes['title']!r}"
    for name, least, size in (
        ("simulated", 0, 1),
        ("order", 1, 1),
        ("crop", 1, 2),
        ("crop_offset", 0, 2),
        ("downscale", 1, 1),
    ):
        value = np.asarray(attributes[name])
        if value.dtype.kind not in "iu" or value.size != size or (value < least).any():
            return f"`{name}` must be {size} whole number{'s' * (size > 1)} from {least} on, not {attributes[name]!r}"
    for name in ("intensity_low", "intensity_high", "penalty", "shared_penalty"):
        value = np.asarray(attributes.get(name, 1.0))
        if value.dtype.kind not in "iuf" or value.size != 1 or not np.isfinite(value).all():
            return f"`{name}` must be a number, not {attributes[name]!r}"
        if "penalty" in name and value <= 0:
            return f"`{name}` must be above 0, not {attributes[name]!r}"
    return None


def _variables(
    dataset: xr.Dataset, needed: Mapping[str, tuple[str, ...]], others: Mapping[str, tuple[str, ...]]
) -> str | None:
    missing = [name for name in needed if name not in dataset.variables]
    if missing:
        return f"it lacks {', '.join(missing)}"
    for name, dims in {**needed, **others}.items():
        if name in dataset.variables and dataset[name].dims != dims:
            return f"`{name}` must have dimensions {_joined(dims)}, not {_joined(dataset[name].dims)}"
    return None


def _ranges(dataset: xr.Dataset) -> str | None:
    bounds: dict[str, tuple[float, float]] = {name: (0, dataset.sizes.get(dim, 0) - 1) for name, dim in INDICES.items()}
    if "order" in dataset.attrs:
        order = int(dataset.attrs["order"])
        bounds |= {"coef_lag": (1, order), "coupling_lag": (1, order), "n_frames": (1, math.inf)}
    for name, (low, high) in bounds.items():
        if name in dataset.variables and (fault := _whole(dataset[name], low, high)):
            return fault
    for name in SHARES:
        if name in dataset.variables:
            values = dataset[name].to_numpy()
            if values.dtype.kind != "f" or not ((values >= 0) & (values <= 1)).all():
                return f"`{name}` must lie in 0 .. 1"
    for name in ("coef", "mean_frame", "contribution_map", "latent_row", "latent_column", "footprint"):
        if name in dataset.variables:
            values = dataset[name].to_numpy()
            if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
                return f"`{name}` must hold finite numbers"
    return None


def _whole(variable: xr.DataArray, low: float, high: float) -> str | None:
    values = variable.to_numpy()
    if values.dtype.kind not in "iu":
        return f"`{variable.name}` must hold whole numbers, not {values.dtype}"
    wrong = values[(values < low) | (values > high)]
    return f"`{variable.name}` must lie in {low} .. {high}, not {wrong[0]}" if wrong.size else None


def _lengths(dataset: xr.Dataset) -> str | None:
    lengths, order = dataset["n_frames"].to_numpy().astype(object), int(dataset.attrs["order"])
    if not len(lengths):
        return "it holds no runs"
    if order >= min(lengths):
        return f"`order` is {order}, and a run has {min(lengths)} frames"
    for dim, expected in (("frame", sum(lengths)), ("forecast_frame", sum(lengths) - order * len(lengths))):
        if dataset.sizes[dim] != expected:
            return f"`n_frames` says that it holds {expected} in `{dim}`, not {dataset.sizes[dim]}"
    example = dataset["example_frame"].to_numpy()
    if example.dtype.kind not in "iu" or (example < 0).any() or (example >= lengths).any():
        return "`example_frame` must be a frame of its run"
    return None


def _joined(dims: Sequence[Any]) -> str:
    return f"({', '.join(map(str, dims))})"
