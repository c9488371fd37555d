"""What training again with other seeds found: in sentences, and as a figure. From `stability.nc` alone."""

from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from larscope._report.section import Picture, Section
from larscope._report.style import open_axes, plain_text, titled
from larscope._results.folder import read_dataset


def read_stability(result: str | Path) -> xr.Dataset | None:
    """Read what other seeds found; None where a result has only one."""
    path = Path(result) / "stability.nc"
    return read_dataset(path) if path.is_file() else None


def stability_section(data: xr.Dataset) -> Section:
    """Say what other trainings found too."""
    picture = Picture("figures/stability.png", plot_stability(data), STABILITY_CAPTION)
    return Section("stability", "Would another training find the same?", describe_stability(data), [picture])


def describe_stability(data: xr.Dataset) -> list[str]:
    """Return a sentence on how often the same was found, for each condition, after one on what counts as found."""
    n_seeds = data.sizes["seed"]
    sentences = [f"Trained {n_seeds} times. An edge is found: {data.attrs['edge']}. A pixel: {data.attrs['pixel']}."]
    for name in data["condition"].to_numpy():
        one = data.sel(condition=name)
        found = one["edges_found"].to_numpy()
        always = float((one["pixel_frequency"] >= 1 - 1e-6).mean())
        sentences.append(
            f"{name}: each training finds {found.min()} to {found.max()} edges between different latents; "
            f"{int(one['edges_in_all'])} are found by all {n_seeds} "
            f"(by chance: {float(one['edges_in_all_by_chance']):.2g}). {always:.1%} of the pixels are found by all."
        )
    return sentences


def plot_stability(data: xr.Dataset) -> Figure:
    """Draw how often each pixel is found, and how many edges are found how often, in each condition."""
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
        bars.set_xlabel(f"trainings that find the edge, of {n_seeds}")
        bars.set_ylabel("edges between different latents")
        chance = float(one["edges_in_all_by_chance"])
        bars.set_title(f"by chance, {chance:.2g} edges would be found by all {n_seeds}", fontsize="medium")
        open_axes(bars)
    figure.suptitle(titled(data.attrs["simulated"], f"What {n_seeds} trainings with different seeds agree on"))
    return figure


STABILITY_CAPTION = (
    "The same analysis with other training seeds. Left: how often each pixel is among the highest of the contribution "
    "map. Right: how many edges are found how often."
)
