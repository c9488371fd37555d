"""The figures of a result. Each function takes the result and returns a matplotlib figure."""

from collections.abc import Callable

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from larscope.result import Result, split_runs

N_TRACES = 6
SMOOTHING = 20
"""Steps that the training curve's moving average spans."""

# Okabe and Ito's colours, which readers with colour-blindness can tell apart
OBSERVED, FORECAST, ACCENT = "#000000", "#D55E00", "#0072B2"
RAISES, LOWERS = "#D55E00", "#0072B2"


def plot_mean_frame(result: Result) -> Figure:
    """Draw the static image: mean over runs of each run's mean over time."""
    mean_frame = result.dataset["mean_frame"].to_numpy()
    figure = Figure(figsize=(5, 4.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(mean_frame, cmap="gray")
    _label_pixels(axes)
    axes.set_title(_title(result, "Mean frame"))
    figure.colorbar(image, ax=axes, label="intensity, [0, 1] of the session")
    return figure


def plot_training(result: Result) -> Figure:
    """Draw the loss of every step and its moving average."""
    loss = np.array([row["loss"] for row in result.log])
    step = np.array([row["step"] for row in result.log])
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(step, loss, color="0.7", linewidth=0.8, label="each step")
    span = min(SMOOTHING, len(loss))
    smooth = np.convolve(loss, np.full(span, 1 / span), mode="valid")
    axes.plot(step[span - 1 :], smooth, color=ACCENT, label=f"mean of {span} steps")
    axes.set_yscale("log")
    axes.set_xlabel("training step")
    axes.set_ylabel("mean squared error")
    axes.set_title(_title(result, f"Training, {len(loss)} steps"))
    axes.legend(frameon=False)
    return figure


def plot_latents(result: Result) -> Figure:
    """Draw the latents that vary most, each beside its one-step-ahead forecast, in one run of each condition."""
    data = result.dataset
    order = int(data.attrs["order"])
    lengths = data["n_frames"].to_numpy()
    latents = split_runs(data["latent_series"].to_numpy(), lengths)
    forecasts = split_runs(data["forecast_series"].to_numpy(), lengths - order)
    runs = _one_run_per_condition(data)
    # the same latents in every column, so that conditions compare
    spread = np.mean([latents[run].var(axis=0) for run in runs.values()], axis=0)
    chosen = np.argsort(spread)[::-1][: min(N_TRACES, len(spread))]
    figure = Figure(figsize=(5.2 * len(runs), 1.1 * len(chosen) + 0.9), layout="constrained")
    panels = figure.subplots(len(chosen), len(runs), sharex="col", sharey="row", squeeze=False)
    for column, (condition, run) in enumerate(runs.items()):
        time, unit = _time_axis(data, run)
        for row, latent in enumerate(chosen):
            axes = panels[row, column]
            axes.plot(time, latents[run][:, latent], color=OBSERVED, linewidth=0.9, label="latent")
            axes.plot(time[order:], forecasts[run][:, latent], color=FORECAST, linewidth=0.9, label="forecast")
            axes.spines[["top", "right"]].set_visible(False)
            if column == 0:
                place = ", ".join(f"{float(data[name][latent]):.0f}" for name in ("latent_row", "latent_column"))
                axes.set_ylabel(f"latent {latent}\n({place})", rotation=0, ha="right", va="center")
        panels[0, column].set_title(f"run {plain_text(data['run'].to_numpy()[run])}, {plain_text(condition)}")
        panels[-1, column].set_xlabel(unit)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(_title(result, "Latents and forecasts (row, column of each latent's centre, in pixels)"))
    return figure


def plot_reconstruction(result: Result) -> Figure:
    """Draw the liveliest frame of one run of each condition, its reconstruction, and what is left."""
    data = result.dataset
    runs = _one_run_per_condition(data)
    figure = Figure(figsize=(13, 3.7 * len(runs)), layout="constrained")
    panels = figure.subplots(len(runs), 4, squeeze=False)
    mean_frame = data["mean_frame"].to_numpy()
    for row, (condition, run) in enumerate(runs.items()):
        observed, rendered = (data[f"example_{name}"].to_numpy()[run] for name in ("observed", "reconstruction"))
        top = np.quantile(observed, 0.999)
        spread = np.quantile(np.abs(observed - mean_frame), 0.999)
        frame = int(data["example_frame"][run])
        shown: list[tuple[str, NDArray[np.float32], dict[str, object]]] = [
            (
                f"{plain_text(condition)}: frame {frame} of run {plain_text(data['run'].to_numpy()[run])}",
                observed,
                {"vmin": 0, "vmax": top},
            ),
            ("reconstruction", rendered, {"vmin": 0, "vmax": top}),
            ("reconstruction - mean frame", rendered - mean_frame, {"vmin": -spread, "vmax": spread}),
            ("frame - reconstruction", observed - rendered, {"vmin": -spread, "vmax": spread}),
        ]
        for axes, (title, image, limits) in zip(panels[row], shown, strict=True):
            cmap = "gray" if limits["vmin"] == 0 else "RdBu_r"
            drawn = axes.imshow(image, cmap=cmap, **limits)
            axes.set_title(title, fontsize="medium")
            _label_pixels(axes)
            figure.colorbar(drawn, ax=axes, shrink=0.8, extend="both" if cmap != "gray" else "max")
    figure.suptitle(_title(result, "Frame beside reconstruction, intensities in [0, 1] of the session"))
    return figure


def plot_coefficients(result: Result) -> Figure:
    """Draw the coefficients of each condition: mean over its runs, strongest lag of each pair of latents."""
    data = result.dataset
    conditions = data["condition"].to_numpy()
    names = list(dict.fromkeys(conditions))
    n_latents = data.sizes["latent"]
    shape = (int(data.attrs["order"]), n_latents, n_latents)
    means = [_mean_coef(data, conditions == name, shape) for name in names]
    strongest = [np.take_along_axis(mean, np.abs(mean).argmax(0)[np.newaxis], 0)[0] for mean in means]
    limit = max(float(np.abs(np.stack(strongest)).max()), np.finfo(float).tiny)
    figure = Figure(figsize=(5.2 * len(names), 5.6), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False, sharex=True, sharey=True)[0]
    for axes, name, coef in zip(panels, names, strongest, strict=True):
        for sign, colour in ((1, RAISES), (-1, LOWERS)):
            target, source = np.nonzero(sign * coef > 0)
            strength = np.abs(coef[target, source]) / limit
            axes.scatter(source, target, s=4 + 60 * strength, color=colour, alpha=0.7, linewidths=0)
        axes.set_xlim(-0.5, n_latents - 0.5)
        axes.set_ylim(n_latents - 0.5, -0.5)
        axes.set_aspect("equal")
        n_runs = int((conditions == name).sum())
        n_pairs = np.count_nonzero(coef)
        axes.set_title(
            f"{plain_text(name)}: {n_pairs} of {n_latents**2} pairs, mean of {n_runs} run{'s' * (n_runs > 1)}"
        )
        axes.set_xlabel("source latent")
    panels[0].set_ylabel("target latent")
    handles = [Line2D([], [], marker="o", linestyle="", color=colour) for colour in (RAISES, LOWERS)]
    figure.legend(handles, ["raises", "lowers"], loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(_title(result, f"Coefficients at each pair's strongest lag (area: size, largest {limit:.2g})"))
    return figure


FIGURES: dict[str, tuple[Callable[[Result], Figure], str]] = {
    "training": (plot_training, "Did training work? The loss should have levelled off."),
    "mean_frame": (plot_mean_frame, "The static image, which the skip connection carries past the network."),
    "reconstruction": (
        plot_reconstruction,
        "The frame of each run in which the latents moved most, what the network makes of it, and what is left.",
    ),
    "latents": (plot_latents, "The latents that vary most, beside their one-step-ahead forecasts (in sample)."),
    "coefficients": (
        plot_coefficients,
        "Which latent forecasts which: orange raises, blue lowers. The diagonal is each latent's own past.",
    ),
}
"""Every figure by the name of its file, with its caption, in the order of a reader's questions."""


def _title(result: Result, text: str) -> str:
    return f"{text} (simulated)" if result.dataset.attrs["simulated"] else text


def plain_text(name: str) -> str:
    """Return a name as matplotlib should print it: names come from strangers and are not formulas."""
    return name.replace("$", r"\$")


def _label_pixels(axes: Axes) -> None:
    axes.set_xlabel("column (pixels)")
    axes.set_ylabel("row (pixels)")


def _one_run_per_condition(data: xr.Dataset) -> dict[str, int]:
    """Return the first run of each condition."""
    conditions = data["condition"].to_numpy().tolist()
    return {name: conditions.index(name) for name in dict.fromkeys(conditions)}


def _time_axis(data: xr.Dataset, run: int) -> tuple[NDArray[np.float64], str]:
    frames = np.arange(int(data["n_frames"][run]), dtype=np.float64)
    rate = float(data["frame_rate"][run])
    return (frames / rate, "time (s)") if np.isfinite(rate) else (frames, "frame")


def _mean_coef(data: xr.Dataset, runs: NDArray[np.bool_], shape: tuple[int, int, int]) -> NDArray[np.float64]:
    used = runs[data["coef_run"].to_numpy()]
    lag, target, source = (data[f"coef_{name}"].to_numpy()[used] for name in ("lag", "target", "source"))
    total = np.zeros(shape)
    np.add.at(total, (lag - 1, target, source), data["coef"].to_numpy()[used])
    mean: NDArray[np.float64] = total / runs.sum()
    return mean
