"""What a comparison found: in sentences, and as figures. From its record alone."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from larscope._report.section import Picture, Section
from larscope._report.style import (
    BLACK,
    BLUE,
    GREEN,
    ON_IMAGE,
    VERMILION,
    conditions_of,
    counted,
    draw_arrow,
    label_pixels,
    largest,
    map_range,
    open_axes,
    plain_text,
    titled,
)
from larscope._results.comparison import LEVEL, ComparisonRecord
from larscope._results.folder import Result

TESTS = {"swap": "Coefficient swap", "influence": "Influence"}
SIDES = ("first", "second")
N_EDGES = 10
"""Edges that are drawn where none differs."""

FIRST, SECOND, BETWEEN = BLUE, VERMILION, BLACK


def conditions_section(result: Result, folder: Path, records: Mapping[Path, ComparisonRecord]) -> Section:
    """Say whether conditions differ, or which command finds out."""
    simulated = result.dataset.attrs["simulated"]
    title = "Do conditions differ?"
    if not records:
        return Section("conditions", title, [], shown={"compared": [], "advice": _advice(result)})
    pictures = {at: pictures_of(record, at.relative_to(folder).as_posix()) for at, record in records.items()}
    compared = [
        {
            "title": f"{record.summary['first']} against {record.summary['second']}",
            "sentences": describe_comparison(record),
            "numbers": _numbers(record),
            "pictures": pictures[at],
        }
        for at, record in records.items()
    ]
    all_pictures = [picture for of_one in pictures.values() for picture in of_one.values()]
    kind = "Simulated data. " if simulated else ""
    return Section(
        "conditions", title, [kind + HOW_TO_READ], all_pictures, shown={"compared": compared, "advice": None}
    )


HOW_TO_READ = (
    "Two tests, each with two p-values. That by permuting labels counts how many ways of naming the runs separate them "
    "as well as the true names do, and respects blocks; the paper's rank-sum test takes pairs of runs as independent, "
    "which they are not, and may reject far too often, or hardly ever. A p-value can be no smaller than the number of "
    "ways allows."
)


def _advice(result: Result) -> dict[str, str | None]:
    names = list(conditions_of(result.dataset))
    if len(names) < 2:
        return {"text": "All runs are of one condition: there is nothing to compare.", "command": None}
    return {
        # a page is written before its result gets its place, and results are moved: it cannot know its folder's name
        "text": "Nothing was compared yet. This does it, and writes this page anew; `result` is this result's folder:",
        "command": shlex.join(["larscope", "compare", "result", *names[:2]]),
    }


def _numbers(record: ComparisonRecord) -> dict[str, Any]:
    """Return headings and rows of the table of both tests."""
    headings = ["test", "effect, %", "95 % interval", "p, permuted labels", "smallest possible p"]
    headings += ["p, rank-sum", "ANOSIM R"]
    rows = []
    for name, test in record.summary["tests"].items():
        low, high = test["effect_interval"]
        interval = "" if low is None else f"{low:.1f} to {high:.1f}"
        ps = (_p(test[key]) for key in ("pvalue", "min_pvalue", "pvalue_ranksum"))
        effect = "" if test["effect_size"] is None else f"{test['effect_size']:.1f}"
        rows.append([TESTS[name], effect, interval, *ps, f"{test['anosim_r']:.2f}"])
    return {"headings": headings, "rows": rows}


def pictures_of(record: ComparisonRecord, at: str) -> dict[str, Picture]:
    """Return the figures of a comparison by name; `at` is its folder in the result."""
    return {
        name: Picture(f"{at}/{name}.png", plot(record), caption) for name, (plot, caption) in COMPARISON_FIGURES.items()
    }


def describe_comparison(record: ComparisonRecord) -> list[str]:
    """Return sentences: who was compared, what both tests say, how large it is, where it is, and what limits it."""
    return [_design(record), *_tests(record), _pixels(record), _edges(record), *warnings_of(record)]


def summarise_comparison(record: ComparisonRecord) -> str:
    """Return one sentence: how likely both tests would find such a difference by chance, and what limits that."""
    summary = record.summary
    tests = " and ".join(f"p = {_p(test['pvalue'])} ({TESTS[name].lower()})" for name, test in summary["tests"].items())
    least = _p(summary["tests"]["swap"]["min_pvalue"])
    limits = f"; {counted(warned, 'warning')}, see below" if (warned := warnings_of(record)) else ""
    return (
        f"{summary['first']} against {summary['second']}, by permuting labels: {tests}; the smallest that this design "
        f"can reach is {least}{limits}."
    )


def warnings_of(record: ComparisonRecord) -> list[str]:
    """Return each warning of both tests and of the maps, once, named after the test where only one gave it."""
    found: dict[str, list[str]] = {}
    for name, test in record.summary["tests"].items():
        for text in test["warnings"]:
            found.setdefault(text, []).append(TESTS[name])
    said = [text if len(names) == len(TESTS) else f"{names[0]}: {text}" for text, names in found.items()]
    return [f"Warning. {text}" for text in (*said, *record.summary["warnings"])]


def _design(record: ComparisonRecord) -> str:
    summary = record.summary
    sides = " against ".join(f"{summary[side]} ({counted(summary['runs'][summary[side]], 'run')})" for side in SIDES)
    test = summary["tests"]["swap"]
    kind = "Simulated data: " if summary["simulated"] else ""
    return (
        f"{kind}{sides}. {test['units']} The smallest p-value that this design can reach is {_p(test['min_pvalue'])}."
    )


def _tests(record: ComparisonRecord) -> Iterator[str]:
    for name, test in record.summary["tests"].items():
        low, high = test["effect_interval"]
        size = (
            "Forecast errors under coefficients from the other group exceed those under another run of the same group, "
            f"by {test['effect_size']:.1f} % of the run's own error"
            if name == "swap"
            else "Influence vectors within the groups are all alike, so that distances between the groups have no scale"
            if test["effect_size"] is None
            else "Squared distances of influence vectors between the groups exceed those within them, "
            f"by {test['effect_size']:.1f} %"
        )
        interval = "" if low is None else f" (95 % interval {low:.1f} to {high:.1f} %; 0: no difference)"
        spread = (
            ""
            if test["permdisp_pvalue"] is None
            else f"; difference in spread, PERMDISP: p = {_p(test['permdisp_pvalue'])}"
        )
        yield (
            f"{TESTS[name]}: {size}{interval}. p = {_p(test['pvalue'])} by permuting labels, "
            f"{_p(test['pvalue_ranksum'])} by the paper's rank-sum test, which takes pairs of runs as independent; "
            f"ANOSIM R = {test['anosim_r']:.2f} (0: no separation, 1: complete){spread}."
        )


def _pixels(record: ComparisonRecord) -> str:
    found = record.summary["map"]
    return (
        f"Contribution maps: {found['n_different']} of {found['n_pixels']} pixels differ at p <= {LEVEL}, corrected "
        f"for their number (smallest p: {_p(found['smallest_pvalue'])})."
    )


def _edges(record: ComparisonRecord) -> str:
    found = record.summary["edges"]
    if not found["n_tested"]:
        return "Edges: none is present in two runs, so none can be compared."
    first = record.edges.iloc[0]
    return (
        f"Edges: {found['n_different']} of {found['n_tested']} coefficients present in two runs or more differ at "
        f"p <= {LEVEL}, corrected for their number. The one that differs most has p = {_p(first['pvalue'])}: from "
        f"{_place(first, 'source')} to {_place(first, 'target')} (row, column in input pixels), "
        f"lag {int(first['lag'])}, difference {first['difference']:+.2g}."
    )


def _place(edge: Any, end: str) -> str:
    return f"({edge[f'{end}_row']:g}, {edge[f'{end}_column']:g})"


def _p(value: float) -> str:
    """Write a p-value with two significant digits.

    >>> _p(0.0123), _p(0.1428), _p(1.0), _p(0.00001)
    ('0.012', '0.14', '1', '1e-05')
    """
    return f"{value:.2g}"


# ------------------------------------------------------------------------------------------------- figures


def plot_null(record: ComparisonRecord) -> Figure:
    """Draw the statistic under every permuted labeling, and the observed one."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, 2), TESTS.items(), strict=True):
        test = record.summary["tests"][name]
        permuted = record.dataset[f"{name}_permuted"].to_numpy()
        observed, n = permuted[0], len(permuted)
        # labelings may give the same statistic but for rounding, and bins have a least width
        middle, half = (permuted.max() + permuted.min()) / 2, (permuted.max() - permuted.min()) / 2
        half = max(half, 1e-6 * abs(middle), 1e-12)
        shown = (middle - half, middle + half)
        bins = min(41, max(11, n // 3 | 1))
        axes.hist(permuted, bins=bins, range=shown, color="0.75", label="permuted labels")
        axes.axvline(observed, color=FIRST, linewidth=2, label="observed labels")
        reached = round(test["pvalue"] * n)
        axes.set_title(
            f"{title}: p = {_p(test['pvalue'])}\n"
            f"{reached:,} of {n:,} labelings reach the observed value\n"
            f"(smallest possible p = {_p(test['min_pvalue'])}; the paper's rank-sum p = {_p(test['pvalue_ranksum'])})",
            fontsize="medium",
        )
        axes.set_xlabel(f"mean between - mean within, {_unit(record, name)}")
        axes.set_ylabel("labelings")
        axes.yaxis.get_major_locator().set_params(integer=True)
        open_axes(axes)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(titled(record.summary["simulated"], "How unusual are the observed labels?"))
    return figure


def plot_pairs(record: ComparisonRecord) -> Figure:
    """Draw every pair of runs: those within either group, and those between the two."""
    rng = np.random.default_rng(0)
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, 2), TESTS.items(), strict=True):
        inter, intra, where = (
            record.dataset[f"{name}_{part}"].to_numpy() for part in ("inter", "intra", "intra_condition")
        )
        scale = 100 if name == "swap" and record.summary["options"]["relative"] else 1
        columns = [
            (f"within\n{plain_text(record.summary['first'])}", intra[where == 0], FIRST),
            (f"within\n{plain_text(record.summary['second'])}", intra[where == 1], SECOND),
            ("between", inter, BETWEEN),
        ]
        for position, (_, values, colour) in enumerate(columns):
            jitter = rng.uniform(-0.22, 0.22, len(values))
            axes.scatter(position + jitter, scale * values, s=14, color=colour, alpha=0.6, linewidths=0)
            if len(values):
                mean = scale * values.mean()
                axes.plot([position - 0.33, position + 0.33], [mean, mean], color=colour, linewidth=2)
        axes.set_xticks(range(3), [f"{label}\n{counted(values, 'pair')}" for label, values, _ in columns])
        axes.set_xlim(-0.5, 2.5)
        axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axes.set_ylabel(_pair_label(record, name))
        axes.set_title(title)
        open_axes(axes)
    figure.suptitle(titled(record.summary["simulated"], "Pairs of runs: within a group and between groups (bar: mean)"))
    return figure


def plot_maps(record: ComparisonRecord) -> Figure:
    """Draw the contribution map of either group, and their difference with the outline of where it is significant."""
    data = record.dataset
    extent = _extent(record)
    wide = (extent[1] - extent[0]) / (extent[2] - extent[3])
    figure = Figure(figsize=(max(3 * (3.4 * wide + 1.5), 9), 4.6), layout="constrained")
    panels = figure.subplots(1, 3)
    shown = [data[name].to_numpy() for name in ("map_first", "map_second", "difference")]
    common = map_range(shown[:2])
    first, second = (plain_text(record.summary[side]) for side in SIDES)
    for axes, image, title in zip(panels, shown, (first, second, f"{first} - {second}"), strict=True):
        drawn = _diverging(axes, image, largest(image), extent)
        axes.set_title(title)
        if axes is not panels[2]:
            drawn.set(cmap="viridis", clim=common)
        figure.colorbar(drawn, ax=axes, shrink=0.85)
    mask = data["difference_pvalue"].to_numpy() <= LEVEL
    if mask.any():
        panels[2].contour(data["column"], data["row"], mask.astype(float), levels=[0.5], colors=GREEN, linewidths=1.8)
    found = record.summary["map"]
    said = (
        f"green outline: {found['n_different']} pixels differ at p <= {LEVEL}"
        if mask.any()
        else f"no pixel differs at p <= {LEVEL} (smallest p = {_p(found['smallest_pvalue'])})"
    )
    figure.supxlabel(f"Difference: {said}, corrected for {found['n_pixels']} pixels", fontsize="medium")
    title = f"Where couplings come from: {data['difference'].attrs['units']}"
    figure.suptitle(titled(record.summary["simulated"], title))
    return figure


def plot_edges(record: ComparisonRecord) -> Figure:
    """Draw the edges that differ, as arrows from source to target on the mean frame."""
    extent = _extent(record)
    wide = (extent[1] - extent[0]) / (extent[2] - extent[3])
    figure = Figure(figsize=(max(6 * wide + 1, 5.2), 7), layout="constrained")
    axes = figure.subplots()
    mean_frame = record.dataset["mean_frame"].to_numpy()
    axes.imshow(mean_frame, cmap="gray", extent=extent, vmax=float(np.quantile(mean_frame, 0.995)))
    differs = record.edges[record.edges["pvalue"] <= LEVEL]
    drawn = differs if len(differs) else record.edges.head(N_EDGES)
    limit = largest(drawn["difference"])
    for edge in drawn.to_dict("records"):
        source, target = ((edge[f"{end}_column"], edge[f"{end}_row"]) for end in ("source", "target"))
        draw_arrow(
            axes,
            source,
            target,
            ON_IMAGE[edge["difference"] > 0],
            abs(edge["difference"]) / limit,
            "-" if len(differs) else ":",
        )
    label_pixels(axes)
    first, second = (plain_text(record.summary[side]) for side in SIDES)
    for colour, larger in ((ON_IMAGE[True], first), (ON_IMAGE[False], second)):
        axes.plot([], [], color=colour, linewidth=2, label=f"larger in {larger}")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    said = (
        f"{len(differs)} of {len(record.edges)} edges differ at p <= {LEVEL}, corrected"
        if len(differs)
        else f"none of {len(record.edges)} edges differs at p <= {LEVEL}, corrected;\n"
        f"dotted: the {len(drawn)} that differ most"
    )
    axes.set_title(f"{said}\n(arrow: source to target; circle: own past)", fontsize="medium")
    figure.suptitle(titled(record.summary["simulated"], f"Edges, {first} - {second}"))
    return figure


COMPARISON_FIGURES: dict[str, tuple[Callable[[ComparisonRecord], Figure], str]] = {
    "null": (
        plot_null,
        "The statistic under every permuted labeling (grey) and as observed (blue). It is the mean over pairs between "
        "the groups minus the average of the groups' own means, over pairs of runs that only chance and condition can "
        "set apart: with groups of different sizes, or blocks, not the difference of two pooled means.",
    ),
    "pairs": (
        plot_pairs,
        "Every pair of runs. Swap: how much worse one run is forecast under the other's coefficients. Influence: how "
        "far apart their influence vectors are. If the groups differ, pairs between them lie higher.",
    ),
    "maps": (
        plot_maps,
        "Where in the image the couplings come from, on average over the runs of each group, and the difference (where "
        "labels trade within blocks or subjects, that within them).",
    ),
    "edges": (plot_edges, "Coefficients that differ, drawn from their source to their target on the mean frame."),
}
"""Every figure of a comparison by the name of its file, with its caption."""


def _diverging(axes: Axes, image: NDArray[np.floating[Any]], limit: float, extent: tuple[float, ...]) -> AxesImage:
    label_pixels(axes)
    return axes.imshow(
        image, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=(extent[0], extent[1], extent[2], extent[3])
    )


def _extent(record: ComparisonRecord) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top of the image, in input pixels."""
    row, column = (record.dataset[name].to_numpy() for name in ("row", "column"))
    half = (row[1] - row[0]) / 2
    return column[0] - half, column[-1] + half, row[-1] + half, row[0] - half


def _unit(record: ComparisonRecord, test: str) -> str:
    if test == "influence":
        return "squared distance"
    return "relative $\\Delta$" if record.summary["options"]["relative"] else "$\\Delta$, squared latent units"


def _pair_label(record: ComparisonRecord, test: str) -> str:
    if test == "influence":
        return "squared distance of influence vectors"
    relative = record.summary["options"]["relative"]
    return "$\\Delta$: excess error, " + ("% of the run's own error" if relative else "squared latent units")
