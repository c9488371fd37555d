"""Shared by all figures: colours, labels, places in the image, safe printing of names."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy.typing import NDArray

# Okabe and Ito's colours, which readers with colour-blindness can tell apart
BLACK, BLUE, VERMILION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
RAISES, LOWERS = VERMILION, BLUE
ON_IMAGE = {True: VERMILION, False: "#56B4E9"}
"""Colours of raising and lowering couplings, visible on black and on grey."""
CONDITIONS = (BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9")
"""Colours of the conditions, in order of their first appearance."""

MAX_NAME = 24
"""Longest name in a figure, in characters."""


@dataclass(frozen=True)
class Places:
    """Places of pixels and latents in the recorded movie, in input pixels (centres are whole numbers).

    Attributes
    ----------
    row, column
        Centres of the rows and columns of the preprocessed frame.
    latent_row, latent_column
        Centres of the latents' fields.
    """

    row: Float[NDArray[np.float64], " height"]
    column: Float[NDArray[np.float64], " width"]
    latent_row: Float[NDArray[np.float64], " K"]
    latent_column: Float[NDArray[np.float64], " K"]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of the image."""
        half = (self.row[1] - self.row[0]) / 2
        return self.column[0] - half, self.column[-1] + half, self.row[-1] + half, self.row[0] - half

    @property
    def wide(self) -> float:
        """Width of the image in units of its height."""
        left, right, bottom, top = self.extent
        return (right - left) / (bottom - top)


def places_of(data: xr.Dataset) -> Places:
    """Return the places of a result's pixels and latents."""
    height, width = data["mean_frame"].shape
    step = int(data.attrs["downscale"])
    top, left = (int(offset) for offset in data.attrs["crop_offset"])

    def at(index: Any, first: int) -> NDArray[np.float64]:
        return np.asarray(first + (np.asarray(index, float) + 0.5) * step - 0.5)

    rows, columns = at(np.arange(height), top), at(np.arange(width), left)
    return Places(rows, columns, at(data["latent_row"], top), at(data["latent_column"], left))


def conditions_of(data: xr.Dataset) -> dict[str, NDArray[np.int64]]:
    """Return the runs of each condition, in order of first appearance."""
    names = data["condition"].to_numpy()
    return {str(name): np.flatnonzero(names == name) for name in dict.fromkeys(names)}


def colour_of(position: int) -> str:
    """Return the colour of a condition; they are used again where there are more conditions than colours."""
    return CONDITIONS[position % len(CONDITIONS)]


def plain_text(name: object) -> str:
    r"""Return a name as matplotlib should print it: it comes from strangers, is no formula, and may be long.

    >>> plain_text("$x$"), len(plain_text("x" * 100))
    ('\\$x\\$', 24)
    """
    text = str(name)
    if len(text) > MAX_NAME:
        text = f"{text[: MAX_NAME - 11]}...{text[-8:]}"
    return text.replace("$", r"\$")


def name_ticks(axes: Axes, names: Iterable[str]) -> None:
    """Label the ticks 0, 1, ... of an axis; long names are slanted."""
    texts = [plain_text(name) for name in names]
    slanted: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(texts)), texts, **(slanted if sum(map(len, texts)) > MAX_NAME else {}))
    axes.set_xlim(-0.6, len(texts) - 0.4)


def titled(simulated: object, text: str) -> str:
    """Mark the title of a figure of simulated data."""
    return f"{text} (simulated)" if simulated else text


def counted(items: Any, noun: str) -> str:
    """Say how many there are.

    >>> counted([1], "run"), counted([1, 2], "run")
    ('1 run', '2 runs')
    """
    return f"{len(items):,} {noun}{'s' * (len(items) != 1)}"


def listed(items: Iterable[str]) -> str:
    """Join names as in a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    *before, last = items
    return f"{', '.join(before)} and {last}" if before else last


def percent(value: float) -> str:
    """Write a share in percent, or "not measurable".

    >>> percent(0.123), percent(float("nan"))
    ('12 %', 'not measurable')
    """
    return f"{value:.0%}".replace("%", " %") if math.isfinite(value) else "not measurable"


def label_pixels(axes: Axes) -> None:
    """Name the axes of an image."""
    axes.set_xlabel("column (input pixels)")
    axes.set_ylabel("row (input pixels)")


def open_axes(axes: Axes) -> None:
    """Leave only the left and the lower frame of a panel."""
    axes.spines[["top", "right"]].set_visible(False)


def largest(values: Any) -> float:
    """Return the largest absolute value, as the limit of a colour scale: never zero, whatever is missing.

    >>> largest(np.array([1.0, -2.0, np.nan])), largest(np.zeros(3)) > 0
    (2.0, True)
    """
    finite = np.abs(np.asarray(values, float))
    return max(float(finite[np.isfinite(finite)].max(initial=0.0)), float(np.finfo(np.float32).tiny))


def map_range(maps: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """Return the limits of one colour scale for several maps, from zero; maps of old results go below.

    >>> map_range([np.array([0.2, 1.0]), np.array([0.5, np.nan])]), map_range([np.array([-0.5, 1.0])])
    ((0.0, 1.0), (-0.5, 1.0))
    """
    return min(0.0, *(float(np.nanmin(one, initial=0.0)) for one in maps)), largest(np.stack(maps))


def draw_arrow(
    axes: Axes, source: tuple[float, float], target: tuple[float, float], colour: str, strength: float, line: str = "-"
) -> None:
    """Draw a coupling from one (column, row) to another, or a circle if both are the same.

    `strength`, from 0 to 1, widens the line.
    """
    style: dict[str, Any] = {"color": colour, "linewidth": 0.8 + 2 * strength, "linestyle": line}
    if source == target:
        axes.plot(*source, marker="o", markersize=13, fillstyle="none", markeredgewidth=style["linewidth"], **style)
    else:
        arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "connectionstyle": "arc3,rad=0.12", **style}
        axes.annotate("", xy=target, xytext=source, arrowprops=arrow)
