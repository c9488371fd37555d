"""Planted truth: which couplings and which driving cells are found, beside what a user would do instead."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import average_precision_score

from larscope import LatentVAR
from larscope._movies.preprocessing import prepare
from larscope._movies.session import Session
from larscope._simulate.truth import Truth

from .baselines import lags, lasso_coef, principal_axes
from .table2 import COLOURS, MODES, trained
from .work import UNTRAINED, Work

REACH = 8
"""A cell's value in a map is the largest one this near to its mask, in pixels: the width of a latent's patch."""

DEFAULT = "larscope's default"
SEQUENTIAL = "the same, but sequential"
BEFORE = "the same, before training"
WITHOUT = "the same, but without the shortcut"
DEFAULTS: dict[str, Mapping[str, Any]] = {
    DEFAULT: {},
    SEQUENTIAL: {"training": "sequential"},
    BEFORE: UNTRAINED,
    WITHOUT: {"shortcut": False},
}

Strength = Float[NDArray[np.float64], "cells cells"]


def planted(truth: Truth) -> Bool[NDArray[np.bool_], "cells cells"]:
    """Entry (target, source): whether a coupling was planted, at any lag."""
    return np.asarray(truth.couplings["familiar"].sum(0) > 0)


def edge_precision(strength: Strength, truth: Truth) -> float:
    """Average precision of the strengths of all ordered pairs of cells for the planted couplings."""
    pairs = ~np.eye(len(strength), dtype=bool)
    return float(average_precision_score(planted(truth)[pairs], strength[pairs]))


def cells_of_latents(coef: Float[NDArray[np.floating], "order K K"], truth: Truth) -> Strength:
    """Sum |coef| over lags, and over the latents whose pixels a cell's mask covers, by the share it covers."""
    strength = np.abs(coef).sum(0)
    np.fill_diagonal(strength, 0)
    masks = truth.masks
    n_cells, height, width = masks.shape
    side = math.isqrt(height * width // len(strength))
    share = masks.reshape(n_cells, height // side, side, width // side, side).mean((2, 4)).reshape(n_cells, -1)
    share = share / share.max(1, keepdims=True)
    return np.asarray(share @ strength @ share.T)


def near(truth: Truth) -> Bool[NDArray[np.bool_], "cells height width"]:
    return np.stack([distance_transform_edt(~mask) <= REACH for mask in truth.masks])


def driving_precision(image: Float[NDArray[np.floating], "height width"], truth: Truth) -> float:
    """Average precision of the map's maximum near each cell for driving among all active cells."""
    return float(average_precision_score(truth.driving, [image[pixels].max() for pixels in near(truth)]))


def coupling_precision(model: LatentVAR, truth: Truth) -> float:
    """Average precision of the runs' mean coefficients, cell by cell, for the planted couplings."""
    return edge_precision(np.mean([cells_of_latents(coef, truth) for coef in model.coef_], axis=0), truth)


def judge_model(model: LatentVAR, truth: Truth) -> dict[str, float]:
    image = np.mean([model.contribution_map(name) for name in dict.fromkeys(model.runs_["condition"])], axis=0)
    return {"edges": coupling_precision(model, truth), "driving": driving_precision(image, truth)}


def judge_default(work: Work, seed: int, truth: Truth, method: str) -> list[dict[str, Any]]:
    model = work.simulated_model("half", seed, preset="default", **DEFAULTS[method])
    return [{"method": method} | judge_model(model, truth)]


def judge_paper(work: Work, seed: int, truth: Truth) -> list[dict[str, Any]]:
    """The paper's settings with centred latents, in the three ways of training."""
    return [
        {"method": model.training, "penalty": penalty} | judge_model(model, truth)
        for penalty in work.size.penalties
        for model in trained(work, "half", seed, True, penalty)
    ]


def judge_others(work: Work, seed: int, truth: Truth) -> list[dict[str, Any]]:
    others = judge_alternatives(work.session("half", seed), truth, 5, work.size.most_components)
    return [{"method": method} | values for method, values in others.items()]


def judge_alternatives(session: Session, truth: Truth, order: int, n_components: int) -> dict[str, dict[str, float]]:
    """Cell traces with known masks, and PCA scores, each with scikit-learn's cross-validated lasso VAR on all runs."""
    prepared = prepare(session)
    movies = [prepared.frames(run, 0, about.n_frames).reshape(about.n_frames, -1) for run, about in enumerate(session)]
    centred = [movie - movie.mean(0) for movie in movies]
    masks = truth.masks.reshape(len(truth.masks), -1).astype(np.float32)
    masks /= masks.sum(1, keepdims=True)
    traces = [movie @ masks.T for movie in centred]
    few = [part[:: max(1, sum(map(len, centred)) // 3000)] for part in centred]
    axes = principal_axes(few, n_components)
    loading = np.abs(masks @ axes.T)
    found = {}
    for name, series, to_cells in (
        ("cell traces (masks known), lasso VAR", traces, np.eye(len(masks))),
        (f"{len(axes)} PCA scores, lasso VAR", [part @ axes.T for part in centred], loading),
    ):
        scaled = [(part - part.mean(0)) / part.std(0) for part in series]
        coef = lasso_coef(
            np.concatenate([lags(part, order) for part in scaled]), np.concatenate([part[order:] for part in scaled])
        )
        n_series = scaled[0].shape[1]
        strength = np.abs(coef).reshape(n_series, order, n_series).sum(1)
        if to_cells.shape[0] == to_cells.shape[1]:
            np.fill_diagonal(strength, 0)
        cells = to_cells @ strength @ to_cells.T
        np.fill_diagonal(cells, 0)
        outflow = cells.sum(0)
        found[name] = {
            "edges": edge_precision(cells, truth),
            "driving": float(average_precision_score(truth.driving, outflow)),
        }
    variance = np.mean([part.var(0) for part in traces], axis=0)
    found["cells' variance"] = {
        "edges": edge_precision(np.add.outer(variance, variance), truth),
        "driving": float(average_precision_score(truth.driving, variance)),
    }
    pairs = planted(truth)[~np.eye(len(masks), dtype=bool)]
    found["chance"] = {"edges": float(pairs.mean()), "driving": float(truth.driving.mean())}
    return found


JUDGES: dict[str, Callable[[Work, int, Truth], list[dict[str, Any]]]] = {
    **{method: partial(judge_default, method=method) for method in DEFAULTS},
    "end-to-end": judge_paper,
    "chance": judge_others,
}
"""What gives rows of methods, by one of them."""


def run(work: Work, seed: int) -> None:
    truth = work.truth("half", seed)
    for method, judge in JUDGES.items():
        if not work.has("truth", seed=seed, method=method):
            work.add("truth", pd.DataFrame(judge(work, seed, truth)).assign(seed=seed))
    work.draw("truth", plot)


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """The paper's modes, larscope's default, and what a user would do instead."""
    places = {method: place for place, method in enumerate(DEFAULTS)}
    place = np.where(table["penalty"].notna(), -1, table["method"].map(places).fillna(len(places)))
    return table.iloc[np.argsort(place, kind="stable")]


def plot(table: pd.DataFrame) -> Figure:
    """Draw every seed's precision, a method a row."""
    table = ordered(table)
    labels: dict[str, pd.DataFrame] = {}
    for (mode, penalty), rows in table.dropna(subset="penalty").groupby(["method", "penalty"]):
        labels[f"{mode}, penalty {penalty:g}"] = rows
    order = sorted(labels, key=lambda label: (MODES.index(label.split(",")[0]), label))
    for method, rows in table[table["penalty"].isna()].groupby("method", sort=False):
        labels[method] = rows
        order.append(method)
    figure = Figure(figsize=(9, 0.32 * len(order) + 1), layout="constrained")
    for axes, column, title in zip(
        figure.subplots(1, 2, sharey=True), ("edges", "driving"), ("planted couplings", "driving cells"), strict=True
    ):
        for height, label in enumerate(reversed(order)):
            values = labels[label][column]
            colour = COLOURS.get(label.split(",")[0], "#009E73" if label in DEFAULTS else "0.5")
            axes.plot(values, np.full(len(values), height), "o", color=colour, alpha=0.5, markersize=4)
            axes.plot(values.mean(), height, "|", color=colour, markersize=14, markeredgewidth=2)
        axes.set_yticks(range(len(order)), list(reversed(order)))
        axes.set(xlim=(0, 1.02), xlabel="average precision")
        axes.set_title(title, fontsize="medium")
    figure.suptitle("How much of the planted truth is found (simulated; a dot a session, a bar their mean)")
    return figure


def describe(table: pd.DataFrame) -> list[str]:
    lines = ["| method | penalty | planted couplings | driving cells |", "|---|---|---|---|"]
    for (method, penalty), rows in ordered(table).groupby(["method", "penalty"], sort=False, dropna=False):
        shown = " | ".join(
            f"{rows[name].mean():.2f} ({rows[name].min():.2f} to {rows[name].max():.2f})"
            for name in ("edges", "driving")
        )
        lines.append(f"| {method} | {'' if pd.isna(penalty) else f'{penalty:g}'} | {shown} |")
    return lines
