"""Figures 2, 3 and 4 of the paper, on simulated sessions, each with the numbers that it shows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy.typing import NDArray

from larscope import LatentVAR
from larscope._simulate.truth import Truth

from .comparisons import TRAININGS
from .table2 import take_apart
from .truth import coupling_precision, driving_precision, near
from .work import Work


def run_figure2(work: Work) -> None:
    """The autoencoder alone, with and without the skip connection."""
    truth, rows, models = work.truth("paper", work.size.seeds[0]), [], {}
    for skip in (True, False):
        more = {} if skip else {"skip": False}
        model = work.simulated_model("paper", work.size.seeds[0], training="sequential", **more)
        models["with skip connection" if skip else "without"] = model
        rows.append(
            {
                "skip": skip,
                "reconstruction_error": model.scores_["reconstruction_error"].mean(),
                "signal_to_noise": float(np.median(signal_to_noise(model, truth))),
            }
        )
    work.write("figure2", pd.DataFrame(rows))
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    grid = figure.subplots(2, 4, width_ratios=[1, 1, 1, 1.6])
    for row, (name, model) in zip(grid, models.items(), strict=True):
        frame = (
            int(np.argmax(((model.latents_[0] - model.latents_[0].mean(0)) ** 2).sum(1)[model.order :])) + model.order
        )
        latent = model.latents_[0][frame].reshape(model.network_.latent_shape)
        example = {name: model.dataset_[f"example_{name}"][0].to_numpy() for name in ("observed", "reconstruction")}
        limit = np.abs(latent - np.median(latent)).max()
        row[0].imshow(example["observed"], cmap="gray", vmin=0, vmax=np.quantile(example["observed"], 0.999))
        row[1].imshow(latent - np.median(latent), cmap="RdBu_r", vmin=-limit, vmax=limit)
        row[2].imshow(example["reconstruction"], cmap="gray", vmin=0, vmax=np.quantile(example["observed"], 0.999))
        best, cell = best_latent(model, truth)
        row[3].plot(standardise(truth.traces[0][:, cell]), color="0.6", linewidth=0.9, label="planted calcium")
        row[3].plot(standardise(best), color="#D55E00", linewidth=0.9, label="its best latent")
        row[3].set(xlabel="frame", ylabel="standard deviations")
        row[0].set_ylabel(name)
        for axes in row[:3]:
            axes.set(xticks=[], yticks=[])
    for axes, title in zip(grid[0], ("a frame", "latents about their median", "reconstruction", "a cell"), strict=True):
        axes.set_title(title, fontsize="medium")
    grid[0][3].legend(frameon=False, fontsize="small", loc="upper right")
    figure.suptitle("Fig. 2: the autoencoder alone (simulated)")
    figure.savefig(work.numbers / "figure2.png", dpi=110)


def signal_to_noise(model: LatentVAR, truth: Truth) -> Float[NDArray[np.float64], " cells"]:
    """r^2 / (1 - r^2) of each cell's planted calcium with the latent that follows it best, over all runs."""
    r2 = correlations(model, truth).max(1) ** 2
    return np.asarray(r2 / (1 - r2))


def correlations(model: LatentVAR, truth: Truth) -> Float[NDArray[np.float64], "cells K"]:
    """|r| between each cell's calcium and each latent, both about their means in each run."""
    latent = np.concatenate([one - one.mean(0) for one in model.latents_]).astype(np.float64)
    trace = np.concatenate([one - one.mean(0) for one in truth.traces]).astype(np.float64)
    scale = np.outer(np.linalg.norm(trace, axis=0), np.linalg.norm(latent, axis=0))
    return np.abs(np.divide(trace.T @ latent, scale, out=np.zeros_like(scale), where=scale > 0))


def best_latent(model: LatentVAR, truth: Truth) -> tuple[NDArray[np.float64], int]:
    """The latent of the cell that is followed best, in the first run, with the cell's sign; and the cell."""
    cell, latent = np.unravel_index(
        np.argmax(correlations(model, truth)), (len(truth.positions), model.coef_.shape[-1])
    )
    series = model.latents_[0][:, latent].astype(np.float64)
    sign = np.sign(np.corrcoef(series, truth.traces[0][:, cell])[0, 1])
    return sign * series, int(cell)


def standardise(series: NDArray[np.floating]) -> NDArray[np.floating]:
    return (series - series.mean()) / series.std()


def describe_figure2(table: pd.DataFrame) -> list[str]:
    lines = [
        "| skip connection | L_rec, 1e-5 | paper | signal to noise of the latents |",
        "|---|---|---|---|",
    ]
    for row in table.itertuples():
        paper = 8.08 if row.skip else 9.20
        lines.append(
            f"| {'with' if row.skip else 'without'} | {row.reconstruction_error * 1e5:.2f} | {paper} | "
            f"{row.signal_to_noise:.2f} |"
        )
    return [*lines, "", "Signal to noise: r^2 / (1 - r^2) of a cell's planted calcium with its best latent, median."]


def run_figure3(work: Work) -> None:
    """Contribution maps of both conditions and their difference, for the trainings that Table 1 compares."""
    truth = work.truth("paper", work.size.seeds[0])
    driving = near(truth)[truth.driving].any(0)
    figure, rows = Figure(figsize=(10, 4.7 * len(TRAININGS)), layout="constrained"), []
    for axes, (training, settings) in zip(figure.subplots(len(TRAININGS), 3), TRAININGS.items(), strict=True):
        model = work.simulated_model("paper", work.size.seeds[0], **settings)
        maps = {name: model.contribution_map(name) for name in ("familiar", "novel")}
        maps["familiar - novel"] = maps["familiar"] - maps["novel"]
        edges = coupling_precision(model, truth)
        rows += [
            {
                "training": training,
                "map": name,
                "hoyer": hoyer(image),
                **localisation(image, driving),
                "driving": driving_precision(image, truth),
                "edges": edges,
            }
            for name, image in maps.items()
        ]
        draw_maps(axes, maps, truth)
        axes[0].set_ylabel(f"{training}\nrow (pixels)")
    figure.suptitle("Fig. 3: contribution maps (simulated); orange: cells that drive others, grey: cells that do not")
    work.write("figure3", pd.DataFrame(rows))
    figure.savefig(work.numbers / "figure3.png", dpi=110)
    alone = Figure(figsize=(8.2, 5.3), layout="constrained")
    draw_maps(alone.subplots(1, 3), maps, truth)
    alone.axes[0].set_ylabel("row (pixels)")
    alone.suptitle("Where couplings come from, by condition (simulated); orange: cells that drive others", fontsize=11)
    alone.savefig(work.numbers / "figure3-default.png", dpi=110)


def draw_maps(row: Sequence[Any], maps: dict[str, NDArray[np.floating]], truth: Truth) -> None:
    highest = max(maps[name].max() for name in ("familiar", "novel"))
    for axes, (name, image) in zip(row, maps.items(), strict=True):
        limit = np.abs(image).max()
        colours: dict[str, Any] = {"cmap": "viridis", "vmin": 0, "vmax": highest}
        if "-" in name:
            colours = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
        drawn = axes.imshow(image, **colours)
        axes.figure.colorbar(drawn, ax=axes, location="bottom", label="influence")
        for mask, drives in zip(truth.masks, truth.driving, strict=True):
            axes.contour(mask, levels=[0.5], colors="#D55E00" if drives else "0.7", linewidths=1.4 if drives else 0.6)
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel("column (pixels)")


def hoyer(image: NDArray[np.floating]) -> float:
    """Hoyer's sparsity, from 0 (all pixels equal) to 1 (a single pixel)."""
    values = np.abs(image).ravel()
    norm = np.linalg.norm(values)
    root = np.sqrt(values.size)
    return float((root - values.sum() / norm) / (root - 1)) if norm > 0 else float("nan")


def localisation(image: NDArray[np.floating], driving: NDArray[np.bool_]) -> dict[str, float]:
    """Share of the map's energy near driving cells, and the share of the image that they are."""
    energy = np.asarray(image, np.float64) ** 2
    return {"energy_near_driving": float(energy[driving].sum() / energy.sum()), "area_near_driving": driving.mean()}


def describe_figure3(table: pd.DataFrame) -> list[str]:
    lines = [
        "| training | map | sparsity (Hoyer) | energy near driving cells | their share of the image | driving, AP |",
        "|---|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        lines.append(
            f"| {row.training} | {row.map} | {row.hoyer:.2f} | {row.energy_near_driving:.0%} | "
            f"{row.area_near_driving:.0%} | {row.driving:.2f} |"
        )
    edges = ", ".join(f"{rows['edges'].iloc[0]:.2f} {name}" for name, rows in table.groupby("training", sort=False))
    return [
        *lines,
        "",
        "AP: average precision of driving among all active cells, by the map's maximum within 8 pixels. That of the "
        f"coefficients for planted couplings: {edges}.",
    ]


def run_figure4(work: Work) -> None:
    """End-to-end training over the whole range of penalties."""
    seed, rows, models = work.size.seeds[0], [], {}
    for penalty in work.size.all_penalties:
        model = work.simulated_model("half", seed, training="end-to-end", penalty=penalty, center=True)
        models[penalty] = model
        apart = pd.DataFrame([take_apart(*series) for series in zip(model.latents_, model.forecasts_, strict=True)])
        rows.append(
            {
                "penalty": penalty,
                "active_share": model.scores_["n_active"].mean() / (model.order * model.coef_.shape[-1] ** 2),
                "reconstruction_error": model.scores_["reconstruction_error"].mean(),
                "var_error": model.scores_["var_error"].mean(),
                "pooled_centred": apart["pooled_centred"].mean(),
            }
        )
    work.write("figure4", pd.DataFrame(rows))
    first, *_, last = models
    figure = Figure(figsize=(10, 7), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.5, 1])
    for row, penalty in zip(above.subplots(2, 3, width_ratios=[2.4, 1, 1]), (first, last), strict=True):
        draw_dynamics(row, models[penalty], penalty)
    curves = pd.DataFrame(rows)
    for axes, (column, label) in zip(
        below.subplots(1, 3),
        (
            ("active_share", "active share of coefficients"),
            ("var_error", "R_var (solid), pooled (dashed)"),
            ("reconstruction_error", "L_rec, 1e-3"),
        ),
        strict=True,
    ):
        scale = 1e3 if column == "reconstruction_error" else 1
        axes.plot(curves["penalty"], scale * curves[column], "o-", color="#D55E00")
        if column == "var_error":
            axes.plot(curves["penalty"], curves["pooled_centred"], "o--", color="#D55E00", mfc="none")
        axes.set(xscale="log", xlabel="penalty", ylabel=label)
        axes.set_xticks(curves["penalty"], [f"{penalty:g}" for penalty in curves["penalty"]], fontsize="small")
        axes.minorticks_off()
        axes.set_yscale("log" if column == "active_share" else "linear")
    figure.suptitle("Fig. 4: end-to-end training at different penalties (simulated)")
    figure.savefig(work.numbers / "figure4.png", dpi=110)


def draw_dynamics(row: Sequence[Any], model: LatentVAR, penalty: float) -> None:
    latent, forecast = model.latents_[0], model.forecasts_[0]
    liveliest = np.argsort(latent.var(0))[::-1][:3]
    for offset, one in enumerate(liveliest):
        scale = latent[:, one].std()
        shift = 6 * offset - latent[:, one].mean() / scale
        row[0].plot(np.arange(len(latent)), latent[:, one] / scale + shift, color="0.6", linewidth=0.8)
        row[0].plot(
            np.arange(model.order, len(latent)), forecast[:, one] / scale + shift, color="#D55E00", linewidth=0.8
        )
    row[0].set(yticks=[], xlabel="frame", ylabel=f"penalty {penalty:g}")
    row[0].set_title("three liveliest latents (grey) and forecasts", fontsize="medium")
    observed, rendered = (model.dataset_[f"example_{name}"][0].to_numpy() for name in ("observed", "forecast"))
    for axes, image, title in ((row[1], observed, "a frame"), (row[2], rendered, "its forecast")):
        axes.imshow(image, cmap="gray", vmin=0, vmax=np.quantile(observed, 0.999))
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize="medium")


def describe_figure4(table: pd.DataFrame) -> list[str]:
    lines = ["| penalty | active | L_rec, 1e-3 | R_var | pooled ratio |", "|---|---|---|---|---|"]
    for row in table.itertuples():
        lines.append(
            f"| {row.penalty:g} | {row.active_share:.2%} | {row.reconstruction_error * 1e3:.3f} | "
            f"{row.var_error:.3f} | {row.pooled_centred:.3f} |"
        )
    return lines
