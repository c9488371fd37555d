"""Section "Where in the image?": contribution maps of the conditions and their differences."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.spatial import KDTree

from larscope._report.cells import has_cells
from larscope._report.section import Picture, Section
from larscope._report.sentences import FDR
from larscope._report.style import (
    conditions_of,
    counted,
    label_pixels,
    largest,
    map_range,
    places_of,
    plain_text,
    titled,
)
from larscope._results.comparison import LEVEL, ComparisonRecord
from larscope._results.folder import Result

MAX_MAPS = 8
"""Most maps on the page: of the conditions first, then differences."""

MAX_PIXELS = 128 * 192
"""Most pixels of a map; larger ones are averaged over blocks."""


def where_section(result: Result, records: Sequence[ComparisonRecord]) -> Section:
    """Show the contribution maps, with the differences found by comparisons."""
    picture = Picture(
        "figures/maps.png",
        plot_maps(result),
        "How strongly the cells at each pixel drive others, mean over the runs of each condition.",
    )
    return Section(
        "where",
        "Where in the image?",
        [_sentence(result), *(_difference(record) for record in records)],
        [picture],
        explored={"maps": maps_of(result.dataset, records)},
        shown={"compared": len(records) > 0},
    )


def _sentence(result: Result) -> str:
    if has_cells(result.dataset):
        return (
            "A contribution map shows how strongly each cell acts on others: its influence is the sum of its absolute "
            "couplings over lags and targets, its own past left out, drawn in its footprint. Couplings are between "
            "latents of unit variance, selected on all runs together and measured in each. A coupling is a forecast, "
            "not a synapse."
        )
    patch = result.settings["patch"]
    squares = (
        f" Squares of {patch} x {patch} pixels in a map are the latents' patches, not tissue."
        if result.settings["shortcut"]
        else ""
    )
    empty = not result.dataset["contribution_map"].to_numpy().any()
    none = " Here there are none beyond chance, so the maps are empty." if empty else ""
    return (
        "A contribution map shows how strongly the cells at each pixel drive others. A latent's influence is the sum "
        "of its absolute couplings to others, over lags and targets. A pixel has the mean influence of the latents "
        "shown there by the decoder. Maps use a separate fit: unit-variance latents, couplings beyond chance in all "
        f"runs together (q <= {FDR}), measured in each run. A coupling is a forecast, not a synapse.{none}{squares}"
    )


def _difference(record: ComparisonRecord) -> str:
    found, first, second = record.summary["map"], record.summary["first"], record.summary["second"]
    if found["n_different"]:
        return (
            f"{first} - {second}: {found['n_different']:,} of {found['n_pixels']:,} pixels differ (p <= {LEVEL}, "
            "corrected for their number). They have a green outline."
        )
    return (
        f"{first} - {second}: no pixel differs at p <= {LEVEL}, corrected for their number (smallest p: "
        f"{found['smallest_pvalue']:.2g}; smallest that this design can reach: {found['min_pvalue']:.2g})."
    )


def maps_of(data: xr.Dataset, records: Sequence[ComparisonRecord]) -> dict[str, Any]:
    """Return maps and differences with their places, for the script."""
    places = places_of(data)
    step = _step(data["mean_frame"].shape)
    means = [
        {"title": f"{name} (mean of {counted(runs, 'run')})", "name": name, "values": _mean_map(data, runs)}
        for name, runs in conditions_of(data).items()
    ]
    low, high = map_range([_mean_map(data, runs) for runs in conditions_of(data).values()])
    panels: list[dict[str, Any]] = [{**one, "low": low, "high": high} for one in means]
    for record in records:
        name = f"{record.summary['first']} - {record.summary['second']}"
        values = record.dataset["difference"].to_numpy()
        pvalue = record.dataset["difference_pvalue"].to_numpy()
        panels.append(
            {
                "title": f"difference, {name}",
                "name": name,
                "values": values,
                "pvalue": pvalue,
                "low": -largest(values),
                "high": largest(values),
                "level": LEVEL,
                "significant": bool((pvalue <= LEVEL).any()),
            }
        )
    for panel in panels[:MAX_MAPS]:
        for name in {"values", "pvalue"} & panel.keys():
            # of a block of pixels the smallest p-value is kept, lest a significant one vanish
            panel[name] = _packed(_blocks(panel[name], step, np.min if name == "pvalue" else np.mean))
    row, column = _blocks_of(places.row, step), _blocks_of(places.column, step)
    if has_cells(data):
        pixels = np.stack(np.meshgrid(row, column, indexing="ij"), axis=-1)
        tree = KDTree(np.stack([places.latent_row, places.latent_column], axis=1))
        latent_at = tree.query(pixels)[1]
    else:
        latent_at = np.arange(data.sizes["latent"]).reshape(-1, len(np.unique(data["latent_column"])))
    return {
        "row": row.tolist(),
        "column": column.tolist(),
        "latents": {
            "index": latent_at.tolist(),
            "row": places.latent_row.tolist(),
            "column": places.latent_column.tolist(),
        },
        "unit": data["contribution_map"].attrs["units"],
        "panels": panels[:MAX_MAPS],
        "left_out": max(len(panels) - MAX_MAPS, 0),
    }


def _mean_map(data: xr.Dataset, runs: NDArray[np.int64]) -> Float[NDArray[np.floating], "height width"]:
    mean: Float[NDArray[np.floating], "height width"] = data["contribution_map"].to_numpy()[runs].mean(axis=0)
    return mean


def _step(shape: Sequence[int]) -> int:
    step = 1
    while (shape[0] // step) * (shape[1] // step) > MAX_PIXELS:
        step += 1
    return step


def _blocks(image: NDArray[Any], step: int, reduce: Any) -> NDArray[np.float32]:
    height, width = (size // step for size in image.shape)
    cut = image[: height * step, : width * step].reshape(height, step, width, step)
    return np.asarray(reduce(cut, axis=(1, 3)), dtype=np.float32)


def _blocks_of(centres: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    n_blocks = len(centres) // step
    return np.asarray(centres[: n_blocks * step].reshape(n_blocks, step).mean(axis=1))


def _packed(image: NDArray[np.float32]) -> dict[str, Any]:
    """Return an image as the script unpacks it: little-endian 32-bit numbers, row by row."""
    return {"shape": list(image.shape), "float32": base64.b64encode(image.astype("<f4").tobytes()).decode()}


def plot_maps(result: Result) -> Figure:
    """Draw the mean contribution map of each condition, with one colour scale."""
    data = result.dataset
    places = places_of(data)
    maps = {name: (_mean_map(data, runs), counted(runs, "run")) for name, runs in conditions_of(data).items()}
    low, high = map_range([image for image, _ in maps.values()])
    columns = min(len(maps), 3)
    rows = -(-len(maps) // columns)
    figure = Figure(
        figsize=(max(3.6 * min(places.wide, 1.6) * columns + 1.6, 6), 4.2 * rows + 0.5), layout="constrained"
    )
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, (image, runs)) in zip(panels, maps.items(), strict=False):
        drawn = axes.imshow(image, cmap="viridis", vmin=low, vmax=high, extent=places.extent)
        axes.set_title(f"{plain_text(name)}\nmean of {runs}", fontsize="medium")
        label_pixels(axes)
    for axes in panels[len(maps) :]:
        axes.set_visible(False)
    figure.colorbar(drawn, ax=panels.tolist(), shrink=0.8, label=data["contribution_map"].attrs["units"])
    figure.suptitle(titled(data.attrs["simulated"], "Contribution maps"))
    return figure
