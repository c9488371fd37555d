"""Section "Did training work?": the loss, errors of each run, latents and forecasts, a movie and its reconstruction."""

import base64
import io
import math
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from larscope._report.cells import cells_picture, has_cells
from larscope._report.section import Picture, Section
from larscope._report.style import (
    BLACK,
    BLUE,
    VERMILION,
    colour_of,
    conditions_of,
    label_pixels,
    largest,
    name_ticks,
    open_axes,
    places_of,
    plain_text,
    titled,
)
from larscope._results.folder import SCORES, Result, split_runs

N_TRACES = 6
SMOOTHING = 20
"""Steps in the training curve's moving average."""

MAX_COLUMNS = 3
"""Most conditions in the figures of latents (columns) and of frames (rows)."""

MOVIE_BYTES = 1_200_000
"""Largest size of all movies of a page. To stay below, first their quality falls, then their number."""

MOVIE_SIDE = 256
"""Longest side of a movie, in pixels; larger ones shrink."""

QUALITIES = (85, 70, 50, 30)


def training_section(result: Result, sentences: list[str]) -> Section:
    """Show whether training worked."""
    data = result.dataset
    pictures = [
        cells_picture(result) if has_cells(data) else loss_picture(result),
        Picture("figures/errors.png", plot_errors(result), "Each run's errors, by condition (bar: mean)."),
        Picture(
            "figures/reconstruction.png",
            plot_reconstruction(result),
            "The run's frame with the most latent change, its reconstruction, and the difference.",
        ),
        Picture(
            "figures/latents.png",
            plot_latents(result),
            "The most variable latents and their forecasts one frame ahead, in sample. Gaps are masked frames.",
        ),
    ]
    return Section(
        "training",
        "Which cells, and how well are they forecast?" if has_cells(data) else "Did training work?",
        sentences,
        pictures,
        explored={"errors": errors_of(data), "movies": movies_of(data)},
        shown={"scores": score_table(data), "rendered": _rendered(result)},
    )


def loss_picture(result: Result) -> Picture:
    """Show the loss."""
    return Picture(
        "figures/training.png",
        plot_training(result),
        "The loss of every training step, and its moving average. It should level off.",
    )


def _rendered(result: Result) -> str:
    if result.settings["training"] == "sequential" and not has_cells(result.dataset):
        return "The reconstruction decodes the frame's own latents."
    order = result.dataset.attrs["order"]
    return f"The reconstruction decodes the forecast from the {order} frames before."


def errors_of(data: xr.Dataset) -> dict[str, Any]:
    """Return every measure of every run, for the script."""
    return {
        "runs": data["run"].to_numpy().tolist(),
        "conditions": data["condition"].to_numpy().tolist(),
        "measures": [
            {"label": label, "meaning": meaning, "values": data[name].to_numpy().tolist()}
            for name, (label, meaning) in SCORES.items()
            if name in data
        ],
    }


def score_table(data: xr.Dataset) -> dict[str, Any]:
    """Return headings and rows of the table of errors."""
    names = [name for name in SCORES if name in data]
    columns = [data[name].to_numpy().tolist() for name in ("run", "condition")]
    columns += [[_cell(name, value) for value in data[name].to_numpy().tolist()] for name in names]
    return {
        "headings": ["run", "condition", *(SCORES[name][0] for name in names)],
        "rows": list(zip(*columns, strict=True)),
        "meanings": [SCORES[name] for name in names],
    }


def _cell(name: str, value: float) -> str:
    if not math.isfinite(value):
        return ""
    if name.startswith("n_"):
        return f"{value:.0f}"
    return f"{value:.2e}" if name in ("reconstruction_error", "forecast_error") else f"{value:.3f}"


# ------------------------------------------------------------------------------------------------- movies


def movies_of(data: xr.Dataset) -> list[dict[str, Any]]:
    """Return the clips of a result as strips of images, one below the other: frames, reconstructions, residuals.

    The strips are compressed with losses until all fit; residuals are taken before.
    """
    runs = dict.fromkeys(data["clip_run"].to_numpy().tolist()) if "clip_run" in data else {}
    painted = [_paint(data, run) for run in runs]
    for n_clips in range(len(painted), 0, -1):
        for quality in QUALITIES:
            strips = [{name: _webp(strip, quality) for name, strip in clip.items()} for _, clip in painted[:n_clips]]
            if sum(len(image) for clip in strips for image in clip.values()) <= MOVIE_BYTES:
                return [{**facts, "strips": clip} for (facts, _), clip in zip(painted, strips, strict=False)]
    return []


def _paint(data: xr.Dataset, run: int) -> tuple[dict[str, Any], dict[str, UInt8[NDArray[np.uint8], "nh w 3"]]]:
    of_run = data["clip_run"].to_numpy() == run
    observed, rendered = (_shrink(data[f"clip_{name}"].to_numpy()[of_run]) for name in ("observed", "reconstruction"))
    residual = observed - rendered
    top, spread = float(np.quantile(observed, 0.999)), float(np.quantile(np.abs(residual), 0.995))
    top, spread = (max(value, float(np.finfo(np.float32).tiny)) for value in (top, spread))
    rate = float(data["frame_rate"][run])
    facts = {
        "run": str(data["run"].to_numpy()[run]),
        "condition": str(data["condition"].to_numpy()[run]),
        "frames": data["clip_frame"].to_numpy()[of_run].tolist(),
        "rate": rate if math.isfinite(rate) else None,
        "height": observed.shape[1],
        "width": observed.shape[2],
        "top": top,
        "spread": spread,
    }
    return facts, {
        "frame": _colour(observed / top, "gray"),
        "reconstruction": _colour(rendered / top, "gray"),
        "residual": _colour((residual / spread + 1) / 2, "RdBu_r"),
    }


def _shrink(frames: Float[NDArray[np.floating], "n h w"]) -> Float[NDArray[np.floating], "n h w"]:
    """Average blocks of pixels, so that no side is longer than a page shows."""
    step = -(-max(frames.shape[1:]) // MOVIE_SIDE)
    height, width = (size // step for size in frames.shape[1:])
    cut = frames[:, : height * step, : width * step]
    blocks: Float[NDArray[np.floating], "n h w"] = cut.reshape(-1, height, step, width, step).mean(axis=(2, 4))
    return blocks


def _colour(values: Float[NDArray[np.floating], "n h w"], cmap: str) -> UInt8[NDArray[np.uint8], "nh w 3"]:
    strip = values.reshape(-1, values.shape[-1])
    return np.asarray(colormaps[cmap](np.clip(strip, 0, 1), bytes=True)[..., :3])


def _webp(strip: UInt8[NDArray[np.uint8], "nh w 3"], quality: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, format="webp", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


# ------------------------------------------------------------------------------------------------- figures


def plot_training(result: Result) -> Figure:
    """Draw the loss of every step and its moving average."""
    loss = np.array([row["loss"] for row in result.log], dtype=float)
    step = np.array([row["step"] for row in result.log])
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(step, loss, color="0.7", linewidth=0.8, label="each step")
    span = min(SMOOTHING, len(loss))
    smooth = np.convolve(loss, np.full(span, 1 / span), mode="valid")
    middle = step[(span - 1) // 2 :][: len(smooth)]
    axes.plot(middle, smooth, color=BLUE, label=f"mean of {span} steps")
    axes.set_yscale("log")
    axes.set_xlabel("training step")
    axes.set_ylabel("mean squared error")
    axes.set_title(titled(result.dataset.attrs["simulated"], f"Training, {len(loss):,} steps"))
    axes.legend(frameon=False)
    open_axes(axes)
    return figure


def plot_errors(result: Result) -> Figure:
    """Draw every measure of every run, by condition."""
    data = result.dataset
    names = [name for name in SCORES if name in data]
    groups = conditions_of(data)
    rng = np.random.default_rng(0)
    figure = Figure(figsize=(11, 2.9 * -(-len(names) // 3)), layout="constrained")
    panels = figure.subplots(-(-len(names) // 3), 3, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        for position, runs in enumerate(groups.values()):
            values = data[name].to_numpy()[runs].astype(float)
            colour = colour_of(position)
            axes.scatter(position + rng.uniform(-0.15, 0.15, len(runs)), values, s=16, color=colour, alpha=0.7)
            if np.isfinite(values).any():
                axes.plot([position - 0.3, position + 0.3], [np.nanmean(values)] * 2, color=colour, linewidth=2)
        name_ticks(axes, groups)
        axes.set_ylabel(SCORES[name][0])
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4), useMathText=True)
        open_axes(axes)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("condition", fontsize="medium")
    figure.suptitle(titled(data.attrs["simulated"], "Errors of each run"))
    return figure


def plot_latents(result: Result) -> Figure:
    """Draw the most variable latents with their one-step-ahead forecasts, in one run of each condition."""
    data = result.dataset
    order = int(data.attrs["order"])
    lengths = data["n_frames"].to_numpy()
    latents = split_runs(data["latent_series"].to_numpy(), lengths)
    forecasts = split_runs(data["forecast_series"].to_numpy(), lengths - order)
    runs = _one_run_per_condition(data)
    # the same latents in every column, so that conditions compare
    spread = np.mean([np.nanvar(latents[run], axis=0) for run in runs.values()], axis=0)
    chosen = np.argsort(spread)[::-1][: min(N_TRACES, len(spread))]
    figure = Figure(figsize=(max(5.2 * len(runs), 7), 1.1 * len(chosen) + 0.9), layout="constrained")
    panels = figure.subplots(len(chosen), len(runs), sharex="col", sharey="row", squeeze=False)
    places = places_of(data)
    for column, (condition, run) in enumerate(runs.items()):
        time, unit = _time_axis(data, run)
        for row, latent in enumerate(chosen):
            axes = panels[row, column]
            axes.plot(time, latents[run][:, latent], color=BLACK, linewidth=0.9, label="latent")
            axes.plot(time[order:], forecasts[run][:, latent], color=VERMILION, linewidth=0.9, label="forecast")
            open_axes(axes)
            if column == 0:
                place = f"({places.latent_row[latent]:g}, {places.latent_column[latent]:g})"
                axes.set_ylabel(f"latent {latent}\n{place}", rotation=0, ha="right", va="center")
        panels[0, column].set_title(f"run {plain_text(data['run'].to_numpy()[run])}, {plain_text(condition)}")
        panels[-1, column].set_xlabel(unit)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    title = "Latents and forecasts (row, column of each latent's centre, in input pixels)"
    figure.suptitle(titled(data.attrs["simulated"], title))
    return figure


def plot_reconstruction(result: Result) -> Figure:
    """Draw the liveliest frame of one run of each condition, its reconstruction, and the difference."""
    data = result.dataset
    places = places_of(data)
    runs = _one_run_per_condition(data)
    figure = Figure(figsize=(13, (12 / 4 / places.wide + 0.8) * len(runs)), layout="constrained")
    panels = figure.subplots(len(runs), 4, squeeze=False)
    mean_frame = data["mean_frame"].to_numpy()
    for row, (condition, run) in enumerate(runs.items()):
        observed, rendered = (data[f"example_{name}"].to_numpy()[run] for name in ("observed", "reconstruction"))
        top = largest(np.quantile(observed, 0.999))
        spread = largest(np.quantile(np.abs(observed - mean_frame), 0.999))
        frame = int(data["example_frame"][run])
        shown: list[tuple[str, NDArray[np.float32], dict[str, object]]] = [
            (
                f"{plain_text(condition)}: frame {frame}\nof run {plain_text(data['run'].to_numpy()[run])}",
                observed,
                {"vmin": 0, "vmax": top},
            ),
            ("reconstruction", rendered, {"vmin": 0, "vmax": top}),
            ("reconstruction - mean frame", rendered - mean_frame, {"vmin": -spread, "vmax": spread}),
            ("frame - reconstruction", observed - rendered, {"vmin": -spread, "vmax": spread}),
        ]
        for axes, (title, image, limits) in zip(panels[row], shown, strict=True):
            cmap = "gray" if limits["vmin"] == 0 else "RdBu_r"
            drawn = axes.imshow(image, cmap=cmap, extent=places.extent, **limits)
            axes.set_title(title, fontsize="medium")
            label_pixels(axes)
            figure.colorbar(drawn, ax=axes, shrink=0.8, extend="both" if cmap != "gray" else "max")
    title = "Frame beside reconstruction, intensities in [0, 1] of the session"
    figure.suptitle(titled(data.attrs["simulated"], title))
    return figure


def _one_run_per_condition(data: xr.Dataset) -> dict[str, int]:
    """Return the first run of each of the first conditions."""
    return {name: int(runs[0]) for name, runs in list(conditions_of(data).items())[:MAX_COLUMNS]}


def _time_axis(data: xr.Dataset, run: int) -> tuple[NDArray[np.float64], str]:
    frames = np.arange(int(data["n_frames"][run]), dtype=np.float64)
    rate = float(data["frame_rate"][run])
    return (frames / rate, "time (s)") if np.isfinite(rate) else (frames, "frame")
