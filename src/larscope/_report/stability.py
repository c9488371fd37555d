"""Section "Would another training find the same?", from `stability.nc` alone."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from larscope._report.section import Picture, Section
from larscope._report.style import open_axes, plain_text, titled
from larscope._results.folder import read_dataset


def read_stability(result: str | Path) -> xr.Dataset | None:
    """Read the trainings with other seeds; None for a result with one."""
    path = Path(result) / "stability.nc"
    return read_dataset(path) if path.is_file() else None


def stability_section(data: xr.Dataset) -> Section:
    """Say how often other trainings find the same."""
    picture = Picture("figures/stability.png", plot_stability(data), STABILITY_CAPTION)
    return Section("stability", "Would another training find the same?", describe_stability(data), [picture])


def describe_stability(data: xr.Dataset) -> list[str]:
    """Return the definition of a found edge and pixel, then a sentence for each condition."""
    n_seeds = data.sizes["seed"]
    sentences = [f"Trained {n_seeds} times. An edge is found: {data.attrs['edge']}. A pixel: {data.attrs['pixel']}."]
    for name in data["condition"].to_numpy():
        one = data.sel(condition=name)
        found = one["edges_found"].to_numpy()
        always = float((one["pixel_frequency"] >= 1 - 1e-6).mean())
        sentences.append(
            f"{name}: {_in_every_training(found)} between different latents. All {n_seeds} find the same "
            f"{int(one['edges_in_all'])} (by chance: {float(one['edges_in_all_by_chance']):.2g}), and {always:.1%} of "
            "the pixels."
        )
    return sentences


def _in_every_training(found: NDArray[np.integer[Any]]) -> str:
    """Say how many edges trainings find.

    >>> _in_every_training(np.array([51, 51])), _in_every_training(np.array([48, 51]))
    ('51 edges in every training', '48 to 51 edges per training')
    """
    low, high = found.min(), found.max()
    return f"{low} edges in every training" if low == high else f"{low} to {high} edges per training"


def plot_stability(data: xr.Dataset) -> Figure:
    """Draw how often trainings find each pixel and each edge, in each condition."""
    names = data["condition"].to_numpy()
    n_seeds = data.sizes["seed"]
    figure = Figure(figsize=(9, 3.8 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 2, squeeze=False)
    for (image, bars), name in zip(panels, names, strict=True):
        one = data.sel(condition=name)
        drawn = image.imshow(one["pixel_frequency"], cmap="viridis", vmin=0, vmax=1)
        figure.colorbar(drawn, ax=image, label="share of trainings")
        image.set_title(f"{plain_text(name)}: pixels among the map's highest 5 %", fontsize="medium")
        image.set_xlabel("column (pixels of the preprocessed frame)")
        image.set_ylabel("row (pixels of the preprocessed frame)")
        times = np.rint(one["edge_frequency"].to_numpy() * n_seeds).astype(int)
        off_diagonal = ~np.eye(len(times), dtype=bool)
        counts = np.bincount(times[off_diagonal], minlength=n_seeds + 1)[1:]
        bars.margins(y=0.1)
        drawn_bars = bars.bar(np.arange(1, n_seeds + 1), counts, color="#0072B2")
        bars.bar_label(drawn_bars)
        bars.set_xticks(np.arange(1, n_seeds + 1))
        bars.set_xlabel(f"number of trainings with the edge, of {n_seeds}")
        bars.set_ylabel("edges between different latents")
        chance = float(one["edges_in_all_by_chance"])
        bars.set_title(f"by chance, all {n_seeds} share {chance:.2g} edges", fontsize="medium")
        open_axes(bars)
    figure.suptitle(titled(data.attrs["simulated"], f"Agreement of {n_seeds} trainings with different seeds"))
    return figure


STABILITY_CAPTION = (
    "The same analysis with other training seeds. Left: share of trainings with the pixel among the highest of the "
    "map. Right: number of edges by the number of trainings with them."
)
