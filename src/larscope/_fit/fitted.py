"""What a fit found, as one dataset: the same in memory as in `results.nc`; and its parts as Python shows them."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment  # type: ignore[attr-defined]

from larscope._dynamics.coefficients import SparseCoefficients
from larscope._dynamics.penalty import OrderChoice, PenaltyChoice, PenaltyCurve
from larscope._fit.coupling_table import COLUMNS
from larscope._fit.evaluation import Clip, RunEvaluation
from larscope._movies.preprocessing import PreparedSession, Preprocessing
from larscope._movies.session import RUN_COLUMNS, Session
from larscope._results.folder import MAP_UNITS, RESIDUAL_PAIR, SCORES, SHARED, split_runs

CURVES = ("n_active", "explained", "explained_heldout")
"""Measures of a `PenaltyCurve`."""

MATCHED = 0.7
"""Correlation of a footprint with a planted one from which on it is that cell's."""


def build_dataset(
    prepared: PreparedSession,
    mean_frame: Float[NDArray[np.float32], "height width"],
    positions: Float[NDArray[np.float64], "K 2"],
    evaluations: Sequence[RunEvaluation],
    clips: Mapping[int, Clip],
    curves: Mapping[int, PenaltyCurve],
    penalty: float,
    choices: Mapping[str, PenaltyChoice | None],
    order_choice: OrderChoice | None = None,
) -> xr.Dataset:
    """Name and describe what `results.nc` holds; `docs/result.md` explains each variable.

    Parameters
    ----------
    prepared
        The session and how its frames were prepared.
    mean_frame, positions
        The static image; row and column of each latent's centre, in pixels of the prepared frames.
    evaluations
        One a run.
    clips, curves
        Those of some runs, by the run's number.
    penalty, choices
        The penalty of the fits to single runs; what it was chosen from (`""`), and what that of coefficients which runs
        share was chosen from (`SHARED`).
    order_choice
        What the order was chosen from.
    """
    session, preprocessing = prepared.session, prepared.preprocessing
    coef = SparseCoefficients.join([evaluation.coef for evaluation in evaluations])
    coef_run, coef_lag, coef_target, coef_source = coef.nonzero
    row, column = positions.T
    in_pixels = {"units": "pixels of the preprocessed frame"}
    intensity = {"units": "intensity, [0, 1] of the session"}
    chosen = {name: choice for name, choice in choices.items() if choice is not None}
    return xr.Dataset(
        {
            **_run_variables(session),
            **score_variables(evaluations),
            **{
                f"example_{name}": (
                    ("run", "row", "column")[: 1 if name == "frame" else 3],
                    np.stack([getattr(evaluation.example, name) for evaluation in evaluations]),
                )
                for name in ("frame", "observed", "reconstruction", "forecast")
            },
            "clip_run": ("clip", np.repeat(list(clips), [len(clip.frame) for clip in clips.values()])),
            "clip_frame": ("clip", np.concatenate([clip.frame for clip in clips.values()])),
            **{
                f"clip_{name}": (
                    ("clip", "row", "column"),
                    np.concatenate([getattr(clip, name) for clip in clips.values()]),
                    intensity,
                )
                for name in ("observed", "reconstruction")
            },
            "curve_run": ("curve", list(curves)),
            **{
                f"curve_{name}": (("curve", "penalty"), [getattr(curve, name) for curve in curves.values()])
                for name in CURVES
            },
            **{f"{whose}tried_penalty": (f"{whose}tried", choice.tried) for whose, choice in chosen.items()},
            **{f"{whose}tried_explained": (f"{whose}tried", choice.explained) for whose, choice in chosen.items()},
            **(
                {
                    "tried_order": ("tried_orders", order_choice.tried),
                    "tried_order_explained": ("tried_orders", order_choice.explained),
                }
                if order_choice is not None
                else {}
            ),
            "latent_series": (
                ("frame", "latent"),
                np.concatenate([evaluation.latent for evaluation in evaluations]),
                {"long_name": "latents of all runs"},
            ),
            "forecast_series": (
                ("forecast_frame", "latent"),
                np.concatenate([evaluation.forecast for evaluation in evaluations]),
            ),
            "mean_frame": (("row", "column"), mean_frame),
            "coef_run": ("entry", coef_run),
            "coef_lag": ("entry", coef_lag + 1),
            "coef_target": ("entry", coef_target),
            "coef_source": ("entry", coef_source),
            "coef": ("entry", coef.value, {"long_name": "effect of latent coef_source on coef_target at coef_lag"}),
            "latent_row": ("latent", row, in_pixels),
            "latent_column": ("latent", column, in_pixels),
        },
        coords={
            "run": _for_netcdf([run.name for run in session]),
            "latent": np.arange(len(row)),
            "penalty": next(iter(curves.values())).penalty,
        },
        attrs={
            "title": "larscope result" + (" of a simulated session" if session.simulated else ""),
            "simulated": int(session.simulated),
            "order": coef.shape[1],
            "penalty": penalty,
            **({f"{SHARED}penalty": chosen[SHARED].penalty} if SHARED in chosen else {}),
            "crop": list(preprocessing.crop),
            "crop_offset": list(preprocessing.offset(session.frame_shape)),
            "downscale": preprocessing.downscale,
            "intensity_low": preprocessing.low,
            "intensity_high": preprocessing.high,
        },
    )


def add_maps(dataset: xr.Dataset, maps: Float[NDArray[np.float32], "runs height width"]) -> None:
    """Put the contribution map of each run into the dataset of a fit."""
    dataset["contribution_map"] = ("run", "row", "column"), maps, {"units": MAP_UNITS}


def add_footprints(
    dataset: xr.Dataset, footprints: Float[NDArray[np.floating], "K height width"], diameter: float
) -> None:
    """Put latent, row, column and brightness of every pixel of every cell into the dataset of a fit."""
    dataset.attrs["cell_diameter"] = diameter
    places = np.nonzero(footprints)
    for name, place in zip(("latent", "row", "column"), places, strict=True):
        dataset[f"footprint_{name}"] = "pixel", place
    dataset["footprint"] = "pixel", footprints[places]


def add_truth(dataset: xr.Dataset, truth: Any, footprints: Float[NDArray[np.floating], "K height width"]) -> None:
    """Put the planted connections of a simulated session into the dataset of a fit, by the cells that were found.

    A planted cell is the one whose footprint correlates with its own most, at least by `MATCHED`, one to one; -1 is
    none.
    """
    top, left = crop_offset_of(dataset)
    step, (height, width) = int(dataset.attrs["downscale"]), footprints.shape[1:]
    planted = truth.footprints[:, top : top + height * step : step, left : left + width * step : step]
    flat = np.concatenate([images.reshape(len(images), -1) for images in (footprints, planted)])
    correlation = np.nan_to_num(np.corrcoef(flat)[: len(footprints), len(footprints) :], nan=-1.0)
    cell = np.full(len(planted), -1)
    for found, one in zip(*linear_sum_assignment(-correlation), strict=True):
        if correlation[found, one] >= MATCHED:
            cell[one] = found
    rows = [
        (condition, cell[source], cell[target])
        for condition, couplings in truth.couplings.items()
        for target, source in zip(*np.nonzero((couplings != 0).any(0)), strict=True)
        if target != source
    ]
    for name, values in zip(("condition", "source", "target"), zip(*rows, strict=True), strict=False):
        dataset[f"planted_{name}"] = "planted", _for_netcdf(list(values))


def add_couplings(dataset: xr.Dataset, couplings: pd.DataFrame) -> None:
    """Put the couplings of each condition (`tabulate_couplings`) into the dataset of a fit."""
    for name in couplings.columns:
        dataset[f"coupling_{name}"] = "coupling", _for_netcdf(couplings[name].tolist())


def couplings_of(dataset: xr.Dataset) -> pd.DataFrame:
    """Return the couplings of each condition; results of before version 6 have none."""
    table = _table(dataset, [f"coupling_{name}" for name in COLUMNS])
    return table.rename(columns=lambda name: name.removeprefix("coupling_"))


def score_session(session: Session, evaluations: Sequence[RunEvaluation]) -> pd.DataFrame:
    """Return the scores of a session as the table that `scores_of` reads from a fit."""
    coords = {"run": _for_netcdf([run.name for run in session])}
    return scores_of(xr.Dataset({**_run_variables(session), **score_variables(evaluations)}, coords=coords))


def runs_of(dataset: xr.Dataset) -> pd.DataFrame:
    """Return the table of runs: what results of earlier versions lack is left out."""
    return _table(dataset, RUN_COLUMNS)


def scores_of(dataset: xr.Dataset) -> pd.DataFrame:
    """Return one row of scores a run."""
    return _table(dataset, ("run", "condition", "n_frames", *SCORES, *RESIDUAL_PAIR))


def series_of(dataset: xr.Dataset) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Return latents and forecasts of each run."""
    lengths = dataset["n_frames"].to_numpy()
    return (
        split_runs(dataset["latent_series"].to_numpy(), lengths),
        split_runs(dataset["forecast_series"].to_numpy(), lengths - int(dataset.attrs["order"])),
    )


def coefficients_of(dataset: xr.Dataset) -> SparseCoefficients:
    """Return each run's own coefficients."""
    n_latents = dataset.sizes["latent"]
    index = np.stack([dataset[f"coef_{name}"].to_numpy() for name in ("run", "lag", "target", "source")])
    index[1] -= 1
    shape = (dataset.sizes["run"], int(dataset.attrs["order"]), n_latents, n_latents)
    return SparseCoefficients(shape, index, dataset["coef"].to_numpy())


def choice_of(dataset: xr.Dataset, whose: str = "") -> PenaltyChoice | None:
    """Return what a penalty was chosen from; None where none was chosen."""
    if f"{whose}tried_penalty" not in dataset:
        return None
    tried, explained = (dataset[f"{whose}tried_{name}"].to_numpy().tolist() for name in ("penalty", "explained"))
    return PenaltyChoice(float(dataset.attrs[f"{whose}penalty"]), tried, explained)


def order_choice_of(dataset: xr.Dataset) -> OrderChoice | None:
    """Return what the order was chosen from; None where it was not chosen."""
    if "tried_order" not in dataset:
        return None
    tried, explained = (dataset[name].to_numpy().tolist() for name in ("tried_order", "tried_order_explained"))
    return OrderChoice(int(dataset.attrs["order"]), tried, explained)


def preprocessing_of(dataset: xr.Dataset) -> Preprocessing:
    """Return how the frames were prepared."""
    height, width = (int(side) for side in dataset.attrs["crop"])
    low, high = (float(dataset.attrs[f"intensity_{end}"]) for end in ("low", "high"))
    return Preprocessing((height, width), int(dataset.attrs["downscale"]), low, high)


def crop_offset_of(dataset: xr.Dataset) -> tuple[int, int]:
    """Return row and column of the crop's first pixel."""
    top, left = dataset.attrs["crop_offset"]
    return int(top), int(left)


def score_variables(evaluations: Sequence[RunEvaluation]) -> dict[str, Any]:
    """Return a variable a score, and those of the residuals' pair, over the runs."""
    meanings = {name: meaning for name, (_, meaning) in SCORES.items()} | RESIDUAL_PAIR
    return {
        name: ("run", np.array([evaluation.scores[name] for evaluation in evaluations]), {"long_name": meaning})
        for name, meaning in meanings.items()
    }


def _run_variables(session: Session) -> dict[str, Any]:
    rows = [run.columns() for run in session]
    return {name: ("run", _for_netcdf([row[name] for row in rows])) for name in RUN_COLUMNS if name != "run"}


def _for_netcdf(column: Sequence[Any]) -> NDArray[Any]:
    """NetCDF has no missing text: an absent text becomes empty, an absent number NaN."""
    if all(isinstance(value, Integral) for value in column):
        return np.array(column, dtype=np.int64)
    if all(value is None or isinstance(value, Real) for value in column):
        return np.array(column, dtype=np.float64)
    return np.array(["" if value is None else str(value) for value in column], dtype=object)


def _table(dataset: xr.Dataset, names: Sequence[str]) -> pd.DataFrame:
    table = pd.DataFrame({name: dataset[name].to_numpy() for name in names if name in dataset})
    return table.replace({"": None})
