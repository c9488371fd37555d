"""Section "What dynamics?": couplings over the mean frame, coefficient matrices, sparsity."""

import base64
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from larscope._report.section import Picture, Section
from larscope._report.style import (
    LOWERS,
    ON_IMAGE,
    RAISES,
    Places,
    colour_of,
    conditions_of,
    counted,
    draw_arrow,
    label_pixels,
    largest,
    name_ticks,
    open_axes,
    places_of,
    plain_text,
    titled,
)
from larscope._results.folder import Result

MAX_EDGES = 6000
"""Most couplings on the page, the largest of each condition; as many again of latents' own past."""

DRAWN = 40
"""Couplings per condition in the static figure."""


def dynamics_section(result: Result, sentences: list[str]) -> Section:
    """Show the couplings."""
    data = result.dataset
    edges = mean_edges(data)
    pictures = [
        Picture(
            "figures/network.png",
            plot_network(result, edges),
            f"The largest couplings between different latents (up to {DRAWN}), mean over the runs of a condition.",
        ),
        Picture(
            "figures/coefficients.png",
            plot_coefficients(result, edges),
            "Which latent forecasts which: orange raises, blue lowers. The diagonal is each latent's own past.",
        ),
        Picture(
            "figures/sparsity.png",
            plot_sparsity(result),
            "Number of non-zero coefficients in each run, and at each lag (mean over runs).",
        ),
    ]
    return Section(
        "dynamics",
        "What dynamics?",
        sentences,
        pictures,
        explored={"network": network_of(data, edges)},
        shown={"order": int(data.attrs["order"]), "conditions": list(edges)},
    )


def mean_edges(data: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Return the coefficients of each condition, mean over its runs, largest first.

    Columns are lag, target, source, coef, and `runs`: the number of runs with a non-zero coefficient.
    """
    names = ("lag", "target", "source")
    table = pd.DataFrame({name: data[f"coef_{name}"].to_numpy() for name in ("run", *names)})
    table["coef"] = data["coef"].to_numpy()
    found = {}
    for condition, runs in conditions_of(data).items():
        grouped = table[table["run"].isin(runs)].groupby(list(names))["coef"].agg(["sum", "count"]).reset_index()
        grouped["coef"] = grouped.pop("sum") / len(runs)
        grouped["runs"] = grouped.pop("count")
        found[condition] = grouped.sort_values("coef", key=np.abs, ascending=False, ignore_index=True)
    return found


def network_of(data: xr.Dataset, edges: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Return mean frame, places and couplings, for the script."""
    places = places_of(data)
    groups = conditions_of(data)
    return {
        "image": _png(data["mean_frame"].to_numpy()),
        "extent": list(places.extent),
        "row": places.latent_row.tolist(),
        "column": places.latent_column.tolist(),
        "order": int(data.attrs["order"]),
        "conditions": [
            {
                "name": name,
                "n_runs": len(groups[name]),
                "n_edges": len(table),
                **_columns(_largest(table, MAX_EDGES // len(edges))),
            }
            for name, table in edges.items()
        ],
    }


def _largest(table: pd.DataFrame, n_edges: int) -> pd.DataFrame:
    own = table["target"] == table["source"]
    kept: pd.DataFrame = pd.concat([table[~own].head(n_edges), table[own].head(n_edges)])
    return kept


def _columns(table: pd.DataFrame) -> dict[str, list[Any]]:
    columns = {name: table[name].tolist() for name in ("lag", "target", "source", "runs")}
    return {**columns, "coef": [float(f"{value:.4g}") for value in table["coef"]]}


def _png(image: NDArray[np.floating[Any]]) -> str:
    """Return the mean frame as a grey image without axes."""
    top = largest(np.quantile(image, 0.995))
    buffer = io.BytesIO()
    Image.fromarray((np.clip(image / top, 0, 1) * 255).astype(np.uint8)).save(buffer, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


# ------------------------------------------------------------------------------------------------- figures


def plot_network(result: Result, edges: dict[str, pd.DataFrame]) -> Figure:
    """Draw the largest couplings of each condition as arrows over the mean frame."""
    data = result.dataset
    places = places_of(data)
    mean_frame = data["mean_frame"].to_numpy()
    drawn = {name: table[table["target"] != table["source"]].head(DRAWN) for name, table in edges.items()}
    limit = largest(np.concatenate([table["coef"].to_numpy() for table in drawn.values()]))
    columns = min(len(edges), 3)
    rows = -(-len(edges) // columns)
    panel = 4.2 * min(places.wide, 1.6)
    figure = Figure(figsize=(max(panel * columns + 1, 6), 4.8 * rows + 0.8), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, table) in zip(panels, drawn.items(), strict=False):
        axes.imshow(mean_frame, cmap="gray", extent=places.extent, vmax=largest(np.quantile(mean_frame, 0.995)))
        for edge in table.itertuples():
            ends = _place(places, edge.source), _place(places, edge.target)
            draw_arrow(axes, *ends, ON_IMAGE[edge.coef > 0], abs(edge.coef) / limit)
        n_between = int((edges[name]["target"] != edges[name]["source"]).sum())
        axes.set_title(f"{plain_text(name)}\n{len(table)} of {n_between:,}", fontsize="medium")
        label_pixels(axes)
    for axes in panels[len(drawn) :]:
        axes.set_visible(False)
    _sign_legend(figure, ON_IMAGE.values(), linestyle="-")
    title = f"Largest couplings between latents\nsource to target (width: size, widest {limit:.2g})"
    figure.suptitle(titled(data.attrs["simulated"], title))
    return figure


def plot_coefficients(result: Result, edges: dict[str, pd.DataFrame]) -> Figure:
    """Draw the coefficients of each condition: mean over its runs, strongest lag of each pair of latents."""
    data = result.dataset
    n_latents = data.sizes["latent"]
    n_runs = {name: len(runs) for name, runs in conditions_of(data).items()}
    # sorted by size: the first of each pair is its strongest lag
    strongest = {name: table.drop_duplicates(["target", "source"]) for name, table in edges.items()}
    limit = largest(np.concatenate([table["coef"].to_numpy() for table in strongest.values()]))
    columns = min(len(edges), 3)
    rows = -(-len(edges) // columns)
    figure = Figure(figsize=(max(5.2 * columns, 7), 5.4 * rows + 1.1), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, (name, table) in zip(panels, strongest.items(), strict=False):
        for sign, colour in ((1, RAISES), (-1, LOWERS)):
            shown = table[sign * table["coef"] > 0]
            strength = shown["coef"].abs() / limit
            axes.scatter(shown["source"], shown["target"], s=3 + 60 * strength, color=colour, alpha=0.7, linewidths=0)
        axes.set_xlim(-0.5, n_latents - 0.5)
        axes.set_ylim(n_latents - 0.5, -0.5)
        axes.set_aspect("equal")
        runs = counted(range(n_runs[name]), "run")
        said = f"{len(table):,} of {n_latents**2:,} pairs, mean of {runs}"
        axes.set_title(f"{plain_text(name)}\n{said}", fontsize="medium")
        axes.set_xlabel("source latent")
    for axes in panels[len(strongest) :]:
        axes.set_visible(False)
    panels[0].set_ylabel("target latent")
    _sign_legend(figure, (RAISES, LOWERS), marker="o", linestyle="")
    title = f"Coefficients at each pair's strongest lag (area: size, largest {limit:.2g})"
    figure.suptitle(titled(data.attrs["simulated"], title))
    return figure


def plot_sparsity(result: Result) -> Figure:
    """Draw the number of coefficients in each run and at each lag."""
    data = result.dataset
    groups = conditions_of(data)
    order, n_runs = int(data.attrs["order"]), data.sizes["run"]
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    of_runs, of_lags = figure.subplots(1, 2)
    active = data["n_active"].to_numpy()
    rng = np.random.default_rng(0)
    for position, runs in enumerate(groups.values()):
        jitter = rng.uniform(-0.15, 0.15, len(runs))
        of_runs.scatter(position + jitter, active[runs], s=18, color=colour_of(position), alpha=0.7)
        of_runs.plot([position - 0.3, position + 0.3], [active[runs].mean()] * 2, color=colour_of(position))
    name_ticks(of_runs, groups)
    of_runs.set_ylim(bottom=0)
    of_runs.set_xlabel("condition")
    of_runs.set_ylabel("active coefficients of a run")
    possible = order * data.sizes["latent"] ** 2
    of_runs.set_title(f"Each run, of {possible:,} possible", fontsize="medium")
    lag = data["coef_lag"].to_numpy()
    own = data["coef_target"].to_numpy() == data["coef_source"].to_numpy()
    lags = np.arange(1, order + 1)
    counts = [np.bincount(lag[part], minlength=order + 1)[1:] / n_runs for part in (own, ~own)]
    of_lags.bar(lags, counts[0], color="0.55", label="own past")
    of_lags.bar(lags, counts[1], bottom=counts[0], color="#56B4E9", label="other latents")
    of_lags.set_xticks(lags)
    of_lags.set_xlabel("lag (frames)")
    of_lags.set_ylabel("active coefficients, mean over runs")
    of_lags.set_title("Each lag", fontsize="medium")
    of_lags.legend(frameon=False)
    for axes in (of_runs, of_lags):
        open_axes(axes)
    figure.suptitle(titled(data.attrs["simulated"], "Sparsity"))
    return figure


def _place(places: Places, latent: int) -> tuple[float, float]:
    return float(places.latent_column[latent]), float(places.latent_row[latent])


def _sign_legend(figure: Figure, colours: Iterable[str], **style: Any) -> None:
    handles = [Line2D([], [], color=colour, **style) for colour in colours]
    figure.legend(handles, ["raises", "lowers"], loc="outside lower center", ncols=2, frameon=False)
