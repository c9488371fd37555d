"""The yardstick: how much of a run nobody has seen is forecast, in pixels, beside what a user would do instead."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from larscope import LatentVAR, read_session
from larscope._movies.preprocessing import PreparedSession, prepare
from larscope._movies.session import Session
from larscope._settings import DEFAULT_PENALTY

from .baselines import BASELINES, Movie, explained, least_squares
from .table2 import MODES
from .work import UNTRAINED, Size, Work, folds_of, one_condition, score_unseen, subset

ORDER = 5
PRESETS: dict[str, Mapping[str, Any]] = {
    "larscope, as in the paper": {"preset": "paper"},
    "larscope, default": {},
    "larscope, default, before training": UNTRAINED,
    "larscope, patches of 4": {"patch": 4},
    "larscope, patches of 2": {"patch": 2},
}
MOST_LATENTS = 1024
"""Smaller patches than the default's are tried on recorded movies, where they are no more."""
READOUT = "the default's latents, ridge VAR, readout"
"""Its encoder without its VAR and its decoder: what they lose is the difference."""


def run_fold(work: Work, name: str, fold: int) -> None:
    """Leave out a quarter of the simulated session (`simulated`), or of a recorded movie."""
    session = session_of(work, name)
    if session is not None:
        table = f"yardstick-{name}"
        measure(work, table, name, session, fold, folds_of(session.runs)[fold])
        work.draw(table, lambda rows: plot(rows, name))


def run_without(work: Work, name: str, left_out: Sequence[str]) -> None:
    """Leave out the runs of these names."""
    session = session_of(work, name)
    if session is not None:
        unseen = [run for run, about in enumerate(session) if about.name in left_out]
        table = "-".join(["yardstick", name, *left_out])
        measure(work, table, name, session, 0, unseen)
        work.draw(table, lambda rows: plot(rows, f"{name} without {', '.join(left_out)}"))


def session_of(work: Work, name: str) -> Session | None:
    if name == "simulated":
        return work.session("half", work.size.seeds[0])
    return one_condition(read_session(work.recorded[name])) if name in work.recorded else None


def measure(work: Work, table: str, name: str, session: Session, fold: int, unseen: list[int]) -> None:
    settings = work.size.shortened if name == "simulated" else work.size.recorded_training
    prepared = prepare(session, crop=settings.get("crop"))
    movies = [prepared.frames(run, 0, about.n_frames) for run, about in enumerate(session)]
    training = [run for run in range(len(session)) if run not in unseen]
    for method in (*baselines_of(work.size), *presets_for(name, prepared), READOUT):
        if work.has(table, fold=fold, method=method):
            continue
        if method in BASELINES:
            forecast = BASELINES[method]([movies[run] for run in training], ORDER)
            rows = measure_pixels(session, movies, unseen, lambda run, forecast=forecast: forecast(movies[run]))
        else:
            model = work.model(
                f"{table}-fold{fold}",
                subset(session, training),
                **{**settings, **PRESETS.get(method, {}), "seed": 0},
            )
            if method == READOUT:
                rows = measure_readout(model, session, movies, training, unseen)
            else:
                rows = score_unseen(model, subset(session, unseen))
        work.add(table, rows.assign(fold=fold, method=method))


def baselines_of(size: Size) -> list[str]:
    """Return the names of the baselines; the PCA ones begin with the number of their components."""
    return [name for name in BASELINES if not name[0].isdigit() or int(name.split()[0]) <= size.most_components]


def presets_for(name: str, prepared: PreparedSession) -> list[str]:
    """Return the names of the presets that a movie is small enough for."""
    n_pixels = math.prod(prepared.preprocessing.frame_shape)
    few = 0 if name == "simulated" else MOST_LATENTS
    return [method for method, how in PRESETS.items() if "patch" not in how or n_pixels / how["patch"] ** 2 <= few]


def measure_pixels(
    session: Session, movies: list[Movie], left_out: list[int], forecast: Callable[[int], Movie]
) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"run": session.runs[run].name, "forecast_explained": explained(movies[run], forecast(run))}
            for run in left_out
        ]
    )


def measure_readout(
    model: LatentVAR, session: Session, movies: list[Movie], training: list[int], left_out: list[int]
) -> pd.DataFrame:
    latents = [latent - latent.mean(0) for latent in model.transform(session)]
    frames = [(movie - movie.mean(0)).reshape(len(movie), -1) for movie in movies]
    learned = least_squares([latents[run] for run in training], [frames[run] for run in training], ORDER)

    def forecast(run: int) -> Movie:
        return learned(latents[run]).reshape(-1, *movies[run].shape[1:]) + movies[run].mean(0)

    return measure_pixels(session, movies, left_out, forecast)


def methods_in(table: pd.DataFrame) -> list[str]:
    return [method for method in (*BASELINES, *PRESETS, READOUT) if method in set(table["method"])]


def plot(table: pd.DataFrame, title: str) -> Figure:
    methods = methods_in(table)[::-1]
    figure = Figure(figsize=(8, 0.34 * len(methods) + 1.1), layout="constrained")
    axes = figure.subplots()
    for height, method in enumerate(methods):
        rows = table[table["method"] == method]
        colour = "#D55E00" if method in PRESETS else "0.35"
        axes.plot(rows["forecast_explained"], np.full(len(rows), height), "o", color=colour, alpha=0.4, markersize=4)
        axes.plot(rows["forecast_explained"].mean(), height, "|", color=colour, markersize=15, markeredgewidth=2)
        if method in PRESETS:
            axes.plot(rows["ceiling_explained"].mean(), height, "|", color="0.6", markersize=15, markeredgewidth=2)
    axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(methods)), methods)
    lowest = table.loc[table["method"] != "persistence", "forecast_explained"].min()
    left, _ = axes.set_xlim(left=min(-0.05, 1.1 * lowest))
    for height, method in enumerate(methods):
        mean = table.loc[table["method"] == method, "forecast_explained"].mean()
        if mean < left:
            axes.annotate(
                f"\N{LEFTWARDS ARROW} {mean:.2f}",
                (left, height),
                (3, 0),
                textcoords="offset points",
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.6},
            )
    axes.set_xlabel("share of unseen frames' variance (dots: runs)")
    axes.set_title(f"{title}; grey bars: the decoder given the true latents", fontsize="medium")
    return figure


def describe(table: pd.DataFrame) -> list[str]:
    n_folds = table["fold"].nunique()
    split = f"{n_folds} folds, each leaving out whole blocks" if n_folds > 1 else "One split"
    lines = [
        f"{split}; means over the runs that were left out.",
        "",
        "| method | forecast explained | lowest and highest run | ceiling |",
        "|---|---|---|---|",
    ]
    for method in methods_in(table):
        rows = table[table["method"] == method]
        values = rows["forecast_explained"]
        ceiling = f"{rows['ceiling_explained'].mean():.3f}" if rows["ceiling_explained"].notna().any() else ""
        lines.append(f"| {method} | {values.mean():.3f} | {values.min():.3f} to {values.max():.3f} | {ceiling} |")
    return lines


def run_modes(work: Work, seed: int) -> None:
    """The three modes on a recorded movie, over seeds: does training through the fit forecast better?"""
    session = session_of(work, "mouse_2p")
    if session is None:
        return
    folds = folds_of(session.runs)
    fold = seed % len(folds)  # each seed its own quarter: what is said is of the recording, not of one part of it
    unseen = subset(session, folds[fold])
    seen = subset(session, [run for run in range(len(session)) if run not in folds[fold]])
    for mode in MODES:
        if work.has("modes-mouse_2p", training=mode, seed=seed):
            continue
        # without the shortcut, what the modes make of the latents is training's alone; one penalty for all
        how = {"seed": seed, "shortcut": False, "penalty": DEFAULT_PENALTY}
        settings = {**work.size.recorded_training, **how}
        if mode != "end-to-end":
            settings["training"] = mode
        model = work.model(f"yardstick-mouse_2p-fold{fold}", seen, **settings)
        rows = score_unseen(model, unseen).assign(fold=fold, training=mode, seed=seed)
        work.add("modes-mouse_2p", rows.join(model.score(unseen)[["var_explained", "var_error", "n_active"]]))


def describe_modes(table: pd.DataFrame) -> list[str]:
    lines = [
        "| training | seeds | forecast explained, pixels | ceiling | explained of the latents of unseen runs |",
        "|---|---|---|---|---|",
    ]
    for mode, rows in table.groupby("training", sort=False):
        seeds = rows.groupby("seed")[["forecast_explained", "ceiling_explained", "var_explained"]].mean()
        shown = " | ".join(
            f"{seeds[name].mean():.3f}" + (f" ± {seeds[name].std():.3f}" if len(seeds) > 1 else "") for name in seeds
        )
        lines.append(f"| {mode} | {len(seeds)} | {shown} |")
    return lines
