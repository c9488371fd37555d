"""Figures of the page: the movie beside its forecast, couplings as arrows, traces, and the lasso path."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from bokeh.events import Tap
from bokeh.models import ColumnDataSource, HoverTool, LinearColorMapper, Range1d
from bokeh.models.annotations import Span
from bokeh.palettes import Greys256, RdBu11, interp_palette
from bokeh.plotting import figure
from jaxtyping import Float
from numpy.typing import NDArray

from larscope._report.style import LOWERS, RAISES
from larscope._view.couplings import LatentPath

Image = Float[NDArray[np.float32], "height width"]
Positions = Float[NDArray[np.float64], "K 2"]

OBSERVED, FORECAST = "#888888", "#D55E00"
NOTHING = "#88888866"
"""Text for a frame without forecast."""

DIVERGING = interp_palette(RdBu11, 255)
ARROW_GAP = 2.5
"""Pixels between an arrow's end and the centre of a latent."""


def _canvas(shape: tuple[int, int], name: str) -> Any:
    """Return an empty figure of an image: row 0 on top, square pixels, nothing around it."""
    height, width = shape
    plot = figure(
        name=name,
        x_range=Range1d(start=-0.5, end=width - 0.5),
        y_range=Range1d(start=height - 0.5, end=-0.5),
        aspect_ratio=width / height,
        sizing_mode="scale_width",
        min_border=0,
        tools="",
        toolbar_location=None,
    )
    plot.axis.visible = False
    plot.grid.visible = False
    plot.outline_line_color = None
    return plot


def _pick_latent(plot: Any, positions: Positions, pick: Callable[[int], object]) -> None:
    """Report the nearest latent to a click."""

    def picked(event: Tap) -> None:
        pick(int(np.hypot(*(positions - [event.y, event.x]).T).argmin()))

    plot.on_event(Tap, picked)


def _outline_latent(plot: Any, place: ColumnDataSource, positions: Positions) -> None:
    """Mark where the chosen latent is, so that it shows on dark and bright ground."""
    apart = np.linalg.norm(positions[:, None] - positions, axis=2)
    side = np.median(np.where(apart > 0, apart, np.inf).min(axis=1)) if len(positions) > 1 else 8.0
    for colour, width in (("white", 4), ("black", 1.5)):
        plot.rect("x", "y", side, side, source=place, fill_alpha=0, line_color=colour, line_width=width, line_alpha=0.9)


def _hover(tooltips: Sequence[tuple[str, str]], renderers: list[Any]) -> HoverTool:
    return HoverTool(tooltips=list(tooltips), renderers=renderers, point_policy="follow_mouse")


class MoviePanels:
    """Frame, forecast and residual side by side, on the same scale for every frame of every run.

    Parameters
    ----------
    mean_frame
        The static image, which `as_change` subtracts.
    top
        Brightness that is white.
    spread
        Change, either way, that is fully coloured.
    positions
        Row and column of each latent.
    """

    names = ("observed", "forecast", "residual")

    def __init__(self, mean_frame: Image, top: float, spread: float, positions: Positions) -> None:
        self._mean_frame = mean_frame
        self._positions = positions
        self._place = ColumnDataSource({"x": [], "y": []})
        nothing = np.full_like(mean_frame, np.nan)
        self._source = ColumnDataSource({name: [nothing] for name in self.names})
        self._brightness = LinearColorMapper(palette=Greys256, low=0, high=top, nan_color=NOTHING)
        self._change = LinearColorMapper(palette=DIVERGING, low=-spread, high=spread, nan_color=NOTHING)
        height, width = mean_frame.shape
        self.plots, self._images = [], []
        for name in self.names:
            plot = _canvas((height, width), name)
            image = plot.image(
                name, x=-0.5, y=-0.5, dw=width, dh=height, source=self._source, color_mapper=self._change
            )
            plot.add_tools(_hover([("row, column", "$y{0}, $x{0}"), ("value", f"@{name}{{0.0000}}")], [image]))
            _outline_latent(plot, self._place, self._positions)
            self.plots.append(plot)
            self._images.append(image)

    def on_pick(self, pick: Callable[[int], object]) -> None:
        """Report the clicked latent."""
        for plot in self.plots:
            _pick_latent(plot, self._positions, pick)

    def outline(self, latent: int) -> None:
        """Mark a latent."""
        row, column = self._positions[latent]
        self._place.data = {"x": [column], "y": [row]}

    def clear(self, as_change: bool) -> None:
        """Draw no frame."""
        nothing = np.full_like(self._mean_frame, np.nan)
        self.show(nothing, nothing, as_change)

    def show(self, observed: Image, forecast: Image, as_change: bool) -> None:
        """Draw a frame and its forecast: their brightness, or how they differ from the mean frame."""
        static = self._mean_frame if as_change else np.float32(0)
        mapper = self._change if as_change else self._brightness
        for image in self._images[:2]:
            image.glyph.color_mapper = mapper
        self._source.data = {
            "observed": [observed - static],
            "forecast": [forecast - static],
            "residual": [observed - forecast],
        }


class CouplingMap:
    """The couplings of a latent as arrows over the mean frame: orange raises, blue lowers.

    Parameters
    ----------
    mean_frame
        The static image.
    positions
        Row and column of each latent.
    name
        Of the figure.
    """

    def __init__(self, mean_frame: Image, positions: Positions, name: str) -> None:
        height, width = mean_frame.shape
        self._place = ColumnDataSource({"x": [], "y": []})
        self.plot = plot = _canvas((height, width), name)
        self._positions = positions
        self._arrows = ColumnDataSource(self._arrow_columns(pd.DataFrame(columns=["source", "target", "lag", "coef"])))
        self._own = ColumnDataSource({name: [] for name in ("x", "y", "colour", "coef", "lags")})
        low, high = np.quantile(mean_frame, [0.001, 0.999])
        grey = LinearColorMapper(palette=Greys256, low=float(low), high=float(high))
        plot.image([mean_frame], x=-0.5, y=-0.5, dw=width, dh=height, color_mapper=grey)
        plot.scatter(positions[:, 1], positions[:, 0], size=3, color="white", alpha=0.6, line_color=None)
        _outline_latent(plot, self._place, self._positions)
        # a white casing keeps both colours visible on any ground
        ends = {"x0": "x0", "y0": "y0", "x1": "x1", "y1": "y1", "source": self._arrows}
        plot.segment(**ends, line_color="white", line_width="casing", line_alpha=0.85)
        head = {"x": "x1", "y": "y1", "angle": "angle", "marker": "triangle", "source": self._arrows}
        plot.scatter(**head, size="casing_head", color="white", alpha=0.85)
        arrows = plot.segment(**ends, line_color="colour", line_width="width")
        heads = plot.scatter(**head, size="head", color="colour")
        own = plot.scatter(
            "x", "y", size=26, fill_alpha=0, line_color="colour", line_width=3.5, source=self._own, name="own"
        )
        edge = [("from latent", "@source"), ("to latent", "@target"), ("coefficient", "@coef{0.000}"), ("lag", "@lags")]
        plot.add_tools(_hover(edge, [arrows, heads]))
        plot.add_tools(_hover([("own past", "@coef{0.000}"), ("lag", "@lags")], [own]))

    def on_pick(self, pick: Callable[[int], object]) -> None:
        """Report the clicked latent."""
        _pick_latent(self.plot, self._positions, pick)

    def show(self, couplings: pd.DataFrame, latent: int, most: int | None = None) -> tuple[int, int]:
        """Draw one arrow a pair of latents, for its strongest lag; its own past as a ring around the latent.

        Returns how many arrows were drawn, `most` at most, and how many pairs there are.
        """
        row, column = self._positions[latent]
        self._place.data = {"x": [column], "y": [row]}
        own = couplings["source"] == couplings["target"]
        past = couplings[own].head(1)
        self._own.data = {
            "x": [column] * len(past),
            "y": [row] * len(past),
            "coef": past["coef"].tolist(),
            "colour": _colours(past["coef"]),
            "lags": [", ".join(map(str, couplings[own]["lag"]))] * len(past),
        }
        arrows = self._arrow_columns(couplings[~own])
        self._arrows.data = {name: column[:most] for name, column in arrows.items()}
        return len(self._arrows.data["x0"]), len(arrows["x0"])

    def _arrow_columns(self, couplings: pd.DataFrame) -> dict[str, Any]:
        pairs = couplings.groupby(["source", "target"], sort=False)
        strongest = pairs.first().reset_index()  # rows come strongest first
        lags = [", ".join(map(str, lags)) for lags in pairs["lag"].agg(list)] if len(couplings) else []
        coef = strongest["coef"].to_numpy(float)
        start = self._positions[strongest["source"].to_numpy(int)]
        end = self._positions[strongest["target"].to_numpy(int)]
        along = end - start
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        aside = along[:, ::-1] * [0.8, -0.8]  # so that two arrows of one pair lie side by side
        start, end = start + ARROW_GAP * along + aside, end - ARROW_GAP * along + aside
        width = 1 + 4 * np.abs(coef) / max(np.abs(coef).max(initial=0), np.finfo(float).tiny)
        return {
            "x0": start[:, 1],
            "y0": start[:, 0],
            "x1": end[:, 1],
            "y1": end[:, 0],
            "angle": np.arctan2(-along[:, 0], along[:, 1]) - np.pi / 2,
            "width": width,
            "casing": width + 2.5,
            "head": 7 + 2 * width,
            "casing_head": 10.5 + 2 * width,
            "colour": _colours(coef),
            "coef": coef,
            "source": strongest["source"].tolist(),
            "target": strongest["target"].tolist(),
            "lags": lags,
        }


def _colours(coef: Any) -> list[str]:
    return [RAISES if value > 0 else LOWERS for value in coef]


def _chart(name: str, x_label: str, y_label: str, height: int, **how: Any) -> Any:
    """Return an empty line chart."""
    plot = figure(
        name=name,
        height=height,
        sizing_mode="stretch_width",
        x_axis_label=x_label,
        y_axis_label=y_label,
        tools="box_zoom,reset,save",
        active_drag=None,
        toolbar_location="right",
        **how,
    )
    plot.toolbar.logo = None
    plot.outline_line_color = None
    plot.grid.grid_line_color, plot.grid.grid_line_alpha = "#888888", 0.25
    return plot


class Trace:
    """A latent over the frames of a run beside its forecast, with the movie's present frame."""

    def __init__(self) -> None:
        self.plot = _chart("trace", "frame", "latent", height=200)
        self._latent = ColumnDataSource({"frame": [], "value": []})
        self._forecast = ColumnDataSource({"frame": [], "value": []})
        self.plot.line("frame", "value", source=self._latent, color=OBSERVED, line_width=2)
        self.plot.line("frame", "value", source=self._forecast, color=FORECAST, line_width=1.5)
        self._now = Span(location=0, dimension="height", line_color=LOWERS, line_width=2)
        self.plot.add_layout(self._now)

    def on_pick(self, pick: Callable[[float], object]) -> None:
        """Report the clicked frame."""
        self.plot.on_event(Tap, lambda event: pick(event.x))

    def show(self, latent: Float[NDArray[np.float32], " T"], forecast: Float[NDArray[np.float32], " n"]) -> None:
        """Draw a series and the forecasts of its last n frames."""
        frame = np.arange(len(latent))
        self._latent.data = {"frame": frame, "value": latent}
        self._forecast.data = {"frame": frame[len(latent) - len(forecast) :], "value": forecast}

    def mark(self, frame: int) -> None:
        """Draw the movie's present frame."""
        self._now.location = frame


class PathPlot:
    """The lasso path of one latent: each coefficient over the penalty, high on the left and low on the right."""

    def __init__(self, fitted: float) -> None:
        self.plot = _chart(
            "path",
            "penalty",
            "coefficient",
            height=300,
            x_axis_type="log",
            x_range=Range1d(start=2 * fitted, end=fitted / 2),
        )
        self._lines = ColumnDataSource({name: [] for name in ("x", "y", "colour", "source", "lag")})
        lines = self.plot.multi_line("x", "y", source=self._lines, color="colour", line_width=1.8, line_alpha=0.8)
        self.plot.add_tools(_hover([("from latent", "@source"), ("lag", "@lag")], [lines]))
        self._now = Span(location=fitted, dimension="height", line_color="#009E73", line_width=2.5)
        own = Span(location=fitted, dimension="height", line_color=OBSERVED, line_dash="dashed", line_width=1.5)
        self.plot.add_layout(own)
        self.plot.add_layout(self._now)

    def on_pick(self, pick: Callable[[float], object]) -> None:
        """Report the clicked penalty."""
        self.plot.on_event(Tap, lambda event: pick(event.x))

    def show(self, path: LatentPath, penalties: tuple[float, float]) -> None:
        """Draw a path over a range of penalties, from the largest to the smallest."""
        self.plot.x_range.start, self.plot.x_range.end = penalties
        x, coefs = path.penalties, path.path.coefs.numpy()
        first = np.maximum((coefs != 0).argmax(axis=1) - 1, 0)  # the knot at which a feature joins, still at zero
        largest = np.take_along_axis(coefs, np.abs(coefs).argmax(axis=1)[:, np.newaxis], axis=1)[:, 0]
        self._lines.data = {
            "x": [x[start:] for start in first],
            "y": [coef[start:] for start, coef in zip(first, coefs, strict=True)],
            "colour": _colours(largest),
            "source": path.source.tolist(),
            "lag": path.lag.tolist(),
        }

    def mark(self, penalty: float) -> None:
        """Draw the slider's penalty."""
        self._now.location = penalty
