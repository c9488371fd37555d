"""The result folder: written once, read by report, viewer and export alike. No pickle.

====================  ==================================================================
`config.toml`         the settings, as `larscope fit --config` reads them
`provenance.json`     inputs with their hashes, versions, seed, time taken
`log.jsonl`           one line a training step
`model.safetensors`   the network's weights
`results.nc`          latents, forecasts, coefficients and errors; readable in R and MATLAB
`digests.json`        the SHA-256 of each of these, checked when it is read
====================  ==================================================================
"""

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import xarray as xr
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from larscope._errors import LarscopeError
from larscope._results.schema import SCHEMA_VERSION, migrate
from larscope._results.validation import check_log, check_provenance, check_result, check_settings
from larscope._settings import DEFAULT_PENALTY, REFITTED, Settings
from larscope._storage import check_digest, put_in_place, reading_hdf5, unfinished, write_digests, write_text

PACKED = ("clip_observed", "clip_reconstruction")
"""Images for viewing, kept with 16 bits."""

FILES = ("config.toml", "provenance.json", "log.jsonl", "model.safetensors", "results.nc")

MAP_UNITS = "influence (sum of absolute couplings)"

SCORES = {
    "reconstruction_error": ("reconstruction error", "mean squared difference, intensities in [0, 1]"),
    "forecast_error": ("forecast error", "mean squared difference of decoded forecasts, intensities in [0, 1]"),
    "var_error": ("VAR error", "squared forecast error / squared signal of the latents, mean over frames, in sample"),
    "var_explained": ("VAR explained", "1 - squared error / variance of the latents, pooled, in sample"),
    "var_error_heldout": ("VAR error, held out", "VAR error on the last 20 % of the run, fitted to the first 80 %"),
    "own_error_heldout": ("own past alone, held out", "the same for each latent's own past, without couplings"),
    "n_active": ("active coefficients", "non-zero coefficients of the run's VAR"),
    "n_couplings": ("couplings", "non-zero coefficients between different latents, of the run's own fit"),
    "n_chance": ("by chance", "the same, after shifting each latent in time"),
    "spectral_radius": ("spectral radius", "largest absolute eigenvalue of the VAR; from 1 on, it does not die out"),
    "n_autocorrelated": ("not white", "latents whose forecast errors are correlated in time (Ljung-Box, Holm, 5 %)"),
    "residual_correlation": ("shared errors", "largest correlation of two latents' forecast errors in one frame"),
}
"""What is measured of each run: heading and meaning."""

RESIDUAL_PAIR = {
    "residual_first": "the pair of latents with the largest correlation of forecast errors: one; -1 without a pair",
    "residual_second": "the other",
}
"""Which latents share their forecast errors most, in each run; results of before this was measured have neither."""

SHARED = "shared_"
"""Prefix of names about coefficients shared by runs."""

ATTRIBUTES = ("title", "simulated", "order", "crop", "crop_offset", "downscale", "intensity_low", "intensity_high")
"""Attributes of `results.nc` in every version."""


@dataclass(frozen=True)
class Result:
    """The content of a result folder.

    Attributes
    ----------
    settings
        Every setting of the fit that is not None.
    provenance
        How it was made.
    log
        One entry a training step.
    weights
        The network's parameters and buffers by name.
    dataset
        Everything else; see `docs/result.md` for its variables.
    """

    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    log: list[dict[str, Any]]
    weights: Mapping[str, NDArray[Any]]
    dataset: xr.Dataset

    @property
    def penalty(self) -> float:
        """The penalty of the fits to single runs: a setting, or the choice of `penalty="auto"`."""
        attributes = self.dataset.attrs
        # results of earlier versions have the setting alone
        return float(attributes["penalty"] if "penalty" in attributes else self.settings["penalty"])

    @property
    def shared_penalty(self) -> float | None:
        """The penalty chosen for coefficients shared by the runs of a condition, if any."""
        penalty = self.dataset.attrs.get("shared_penalty")
        return None if penalty is None else float(penalty)

    @property
    def training(self) -> Mapping[str, Any]:
        """The settings of the training; for a refit, those of another result."""
        trained = dict(self.provenance.get("refitted_from", {}).get("settings", self.settings))
        return trained | ({"penalty": DEFAULT_PENALTY} if trained.get("penalty", "auto") == "auto" else {})

    @property
    def trained_otherwise(self) -> dict[str, Any]:
        """Settings of the dynamics with another value in training than in the final fits."""
        trained, fitted = self.training, {**self.settings, "penalty": self.penalty}
        # a training fits each window by itself, whatever `coefficients` says
        names = [name for name in REFITTED if name != "coefficients" and trained.get(name) != fitted.get(name)]
        return {name: trained.get(name) for name in names}


def write_result(result: Result, folder: str | Path) -> Path:
    """Write a result folder, whole or not at all: it is filled under another name and then renamed.

    Raises
    ------
    LarscopeError
        `folder` exists and is not empty, or cannot be written.
    """
    folder = Path(folder)
    require_free(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(folder) as filling:
            filling.mkdir()
            _write_files(result, filling)
            publish_result(filling, folder)
    except OSError as error:
        raise LarscopeError(
            f"The result must be written to {folder}: {error}. Nothing was left behind; free some space or pass "
            "another folder."
        ) from error
    return folder


def _write_files(result: Result, folder: Path) -> None:
    version = {"schema_version": SCHEMA_VERSION}
    write_text(folder / "config.toml", tomli_w.dumps({**version, **result.settings}))
    write_json({**version, **result.provenance}, folder / "provenance.json")
    log = [{**version, **row} for row in result.log[:1]] + result.log[1:]
    write_text(folder / "log.jsonl", "".join(json.dumps(row) + "\n" for row in log))
    weights = {name: np.ascontiguousarray(value) for name, value in result.weights.items()}
    metadata = {name: str(value) for name, value in version.items()}
    (folder / "model.safetensors").write_bytes(save(weights, metadata))
    write_dataset(result.dataset, folder / "results.nc")
    write_digests(folder, FILES)


def read_result(folder: str | Path) -> Result:
    """Read a result folder.

    Raises
    ------
    LarscopeError
        The folder is missing or incomplete, or was written by a newer larscope.
    """
    folder = Path(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise LarscopeError(
            f"Expected a result folder at {folder}; it lacks {', '.join(missing)}. "
            "Pass a folder written by `larscope fit --out`."
        )
    try:
        return _read_files(folder)
    except LarscopeError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise LarscopeError(
            f"Expected a whole result at {folder}; it cannot be read: {error}. Restore the folder, or fit again."
        ) from error


def _read_files(folder: Path) -> Result:
    config, provenance, log, model, results = (folder / name for name in FILES)
    for path in (config, provenance, log, model):
        check_digest(path)
    made_with = json.loads(provenance.read_text(encoding="utf-8"))
    version = made_with.pop("schema_version")  # that of a file of 0.1.0 that does not say its own
    settings = tomllib.loads(config.read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    with safe_open(model, framework="numpy") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
        weights_version = (file.metadata() or {}).get("schema_version", version)
    settings = migrate(settings, settings.pop("schema_version", version), config)
    if "seed" not in settings:
        raise ValueError(f"{config} was cut off: it ends before `seed`, the last setting")
    check_settings(settings, config)
    made_with = migrate(made_with, version, provenance)
    check_provenance(made_with, provenance)
    rows = migrate(rows, rows[0].pop("schema_version", version) if rows else version, log)
    check_log(rows, log, trained=settings["latents"] == "grid")
    damaged = [name for name, value in weights.items() if not np.isfinite(value).all()]
    if damaged:
        raise LarscopeError(
            f"{model}: weights must be finite; those of {damaged[0]} are not. Restore it, or fit again."
        )
    dataset = _require_whole(read_dataset(results), results)
    check_result(dataset, results)
    if settings.get("order", Settings().order) not in ("auto", int(dataset.attrs["order"])):
        raise LarscopeError(
            f"Expected one `order` in a result: {config} says {settings.get('order')}, and {results} "
            f"{dataset.attrs['order']}. Restore the folder, or fit again."
        )
    return Result(
        provenance=made_with,
        settings={**Settings().as_dict(), **settings},
        log=rows,
        weights=migrate(weights, weights_version, model),
        dataset=dataset,
    )


def _require_whole(dataset: xr.Dataset, path: Path) -> xr.Dataset:
    missing = [name for name in ATTRIBUTES if name not in dataset.attrs]
    if missing:
        raise LarscopeError(
            f"Expected a whole result in {path}; it lacks {', '.join(missing)}. Restore it, or fit again."
        )
    return dataset


def publish_result(finished: Path, folder: Path) -> None:
    """Move a finished result folder to its place, new or empty, in one step.

    Raises
    ------
    LarscopeError
        `folder` holds something, or cannot be written.
    """
    require_free(folder)
    try:
        put_in_place(finished, folder)
    except OSError as error:
        raise LarscopeError(
            f"The result must be moved to {folder}: {error}. It is whole in {finished}: move it yourself, or give the "
            "same command again."
        ) from error


def find_fit(folder: Path) -> str | None:
    """Return the fit behind a result folder (`identify_fit`); None without a result."""
    try:
        found: str | None = json.loads((folder / "provenance.json").read_text(encoding="utf-8")).get("fit")
    except (OSError, ValueError, AttributeError):
        return None
    return found


def require_free(folder: str | Path) -> None:
    """Raise unless a result can be written to `folder`: it does not exist, or is an empty folder."""
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        what = "another result" if (folder / "results.nc").is_file() else "other files"
        raise LarscopeError(
            f"The result needs a folder of its own; {folder} holds {what}. Pass another `--out`, or remove it first."
        )
    if os.path.ismount(folder):
        raise LarscopeError(
            f"The result needs a folder it can rename; {folder} is a mount point. Pass a folder inside it."
        )
    if folder.exists() and not folder.is_dir():
        raise LarscopeError(f"The result needs a folder; {folder} is a file. Pass another `--out`.")
    # the nearest folder that exists must take the new one
    parent = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not os.access(parent, os.W_OK):
        raise LarscopeError(f"The result must be written to {folder}; {parent} is read-only. Pass another `--out`.")


def write_dataset(dataset: xr.Dataset, path: Path) -> None:
    """Write NetCDF with compressed arrays and its version."""
    encoding = {
        name: {"zlib": True, "complevel": 4, **(_packing(variable) if name in PACKED else {})}
        for name, variable in dataset.data_vars.items()
        if variable.ndim and variable.dtype.kind in "fiu"
    }
    dataset.assign_attrs(schema_version=SCHEMA_VERSION).to_netcdf(path, engine="h5netcdf", encoding=encoding)


def read_dataset(path: Path) -> xr.Dataset:
    """Read NetCDF of this or an older version.

    Raises
    ------
    LarscopeError
        A newer larscope wrote it, or it cannot be read.
    """
    try:
        check_digest(path)
        with reading_hdf5(path):
            dataset = xr.load_dataset(path, engine="h5netcdf")
    except LarscopeError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise LarscopeError(
            f"Expected NetCDF at {path}; it cannot be read: {error}. Restore the file, or make it again."
        ) from error
    current: xr.Dataset = migrate(dataset, dataset.attrs.pop("schema_version", 1), path)
    return current


def _packing(images: xr.DataArray) -> dict[str, Any]:
    """Return how images become 16-bit integers; readers of NetCDF turn them back into intensities."""
    low, high = float(images.min()), float(images.max())
    levels = 2**16 - 1
    scale = (high - low or 1.0) / (levels - 1)
    return {"dtype": "uint16", "scale_factor": scale, "add_offset": low, "_FillValue": levels}


def split_runs(joined: NDArray[Any], lengths: NDArray[Any]) -> list[NDArray[Any]]:
    """Cut joined series into those of the runs."""
    return np.split(joined, np.cumsum(lengths)[:-1])


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write readable JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
