"""A fitted `LatentVAR` in Python: its figures, which are those of the report, and itself in a few lines."""

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from larscope._errors import LarscopeError
from larscope._fit.parameters import HasSettings
from larscope._report.cells import has_cells, noun_of, plot_cells
from larscope._report.dynamics import mean_edges, plot_network
from larscope._report.finding import Verdict, found_in, plot_finding, verdict_on
from larscope._report.maps import plot_maps
from larscope._report.style import conditions_of, counted, listed
from larscope._report.training import plot_latents
from larscope._results.folder import Result


class ShowsItself(HasSettings):
    """The figures of a fitted `LatentVAR`, as the report has them, and itself in a few lines."""

    dataset_: xr.Dataset
    log_: list[dict[str, Any]]
    provenance_: dict[str, Any]

    def plot_cells(self) -> list[Axes]:
        """Draw the outline and number of each cell on the mean frame.

        Raises
        ------
        LarscopeError
            Latents are those of a grid.
        """
        if not has_cells(self.dataset_):
            raise LarscopeError(
                "`plot_cells` draws cells: this fit has latents='grid', one for each patch of pixels. Fit with "
                "latents='cells'."
            )
        return _panels(plot_cells(self._result()))

    def plot_network(self) -> list[Axes]:
        """Draw which cell forecasts which, one panel a condition; for a grid, the largest couplings between places."""
        if has_cells(self.dataset_) and found_in(self.dataset_):
            return _panels(plot_finding(self.dataset_))
        return _panels(plot_network(self._result(), mean_edges(self.dataset_)))

    def plot_maps(self) -> list[Axes]:
        """Draw the mean contribution map of each condition."""
        return _panels(plot_maps(self._result()))

    def plot_traces(self) -> list[Axes]:
        """Draw the liveliest latents with their forecasts, in one run of each condition."""
        return _panels(plot_latents(self._result()))

    def _result(self) -> Result:
        """Return this fit as the report reads it: all but the network."""
        weights: Mapping[str, Any] = {}
        return Result(self.settings.as_dict(), self.provenance_, self.log_, weights, self.dataset_)

    def _verdict(self) -> list[Verdict]:
        return verdict_on(self._result(), [])

    def __repr__(self) -> str:
        settings = super().__repr__()
        if "dataset_" not in self.__dict__:
            return settings
        data = self.dataset_
        groups = listed(f"{len(runs)} {name}" for name, runs in conditions_of(data).items())
        kind = "simulated " if data.attrs["simulated"] else ""
        what = f"{settings}, fitted to {counted(data['run'], kind + 'run')} ({groups}): "
        what += counted(data["latent"], noun_of(data))
        if found := found_in(data):
            what += f", {counted(range(sum(map(len, found.values()))), 'coupling')} beyond chance"
        if "own_error_heldout" in data:
            whole, alone = (
                float(np.nanmean(data[name])) if np.isfinite(data[name]).any() else float("nan")
                for name in ("var_error_heldout", "own_error_heldout")
            )
            what += f", held-out error {whole:.3f} (own past alone {alone:.3f})"
        return what

    def _repr_html_(self) -> str:
        """Show a notebook what was found, as the report says it."""
        if "dataset_" not in self.__dict__:
            return f"<p>{escape(repr(self))}, not fitted</p>"
        lines = "".join(
            f"<li>{escape(one.question)} <b>{one.answer}</b><br>{escape(one.sentence)}</li>" for one in self._verdict()
        )
        return f"<p>{escape(repr(self))}</p><ul>{lines}</ul>"


def _panels(figure: Figure) -> list[Axes]:
    """Return the panels of a figure, made one of pyplot's so that a notebook shows it."""
    import matplotlib.pyplot as plt  # here: it looks for a display

    plt.figure(FigureClass=lambda **_: figure)  # type: ignore[arg-type]
    return [axes for axes in figure.axes if axes.get_visible() and axes.get_label() != "<colorbar>"]
