"""Latents that are cells: where they are, and what is said of them instead of a training."""

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy.typing import NDArray

from larscope._report.section import Picture
from larscope._report.style import label_pixels, places_of, titled
from larscope._results.folder import Result

OUTLINE = 0.3
"""Cells are outlined where their footprint is this share of its brightest pixel."""


def has_cells(data: xr.Dataset) -> bool:
    """Say whether a result's latents are cells."""
    return "footprint" in data


def noun_of(data: xr.Dataset) -> str:
    """Return what a latent stands for."""
    return "cell" if has_cells(data) else "place"


def cells_picture(result: Result) -> Picture:
    """Show every cell on the mean frame."""
    return Picture(
        "figures/cells.png",
        plot_cells(result),
        f"Outlines of the cells on the mean frame, at {OUTLINE:.0%} of each cell's brightest pixel. A number is that "
        "of the latent.",
    )


def plot_cells(result: Result) -> Figure:
    """Draw the outline of each cell on the mean frame."""
    data = result.dataset
    places = places_of(data)
    figure = Figure(figsize=(6.5 * min(places.wide, 1.6) + 1, 6.5), layout="constrained")
    axes = figure.subplots()
    image = data["mean_frame"].to_numpy()
    axes.imshow(image, cmap="gray", vmax=np.quantile(image, 0.995), extent=places.extent)
    for latent in range(data.sizes["latent"]):
        axes.contour(places.column, places.row, footprint_of(data, latent), [OUTLINE], colors="#E69F00", linewidths=0.8)
        axes.text(
            places.latent_column[latent],
            places.latent_row[latent],
            str(latent),
            color="white",
            fontsize="xx-small",
            ha="center",
            va="center",
        )
    label_pixels(axes)
    axes.set_title(titled(data.attrs["simulated"], f"{data.sizes['latent']} cells"))
    return figure


def footprint_of(data: xr.Dataset, latent: int) -> Float[NDArray[np.float32], "height width"]:
    """Return where a cell is: 1 at its brightest pixel, 0 where it is not."""
    image = np.zeros(data["mean_frame"].shape, np.float32)
    own = data["footprint_latent"].to_numpy() == latent
    image[data["footprint_row"].to_numpy()[own], data["footprint_column"].to_numpy()[own]] = data["footprint"][own]
    return image


def was_sought(data: xr.Dataset) -> bool:
    """Say whether cells were found in the movie, rather than given with their traces."""
    return bool(data.attrs["cell_diameter"] > 0)


def describe_cells(result: Result) -> str:
    """Say what latents are, where there was no training."""
    if not was_sought(result.dataset):
        return f"Latents are the traces of {result.dataset.sizes['latent']} cells that you gave: nothing was trained."
    data = result.dataset
    return (
        f"Latents are {data.sizes['latent']} cells of about {data.attrs['cell_diameter']:.2g} pixels, found in the "
        "movie and kept as found: nothing was trained."
    )
