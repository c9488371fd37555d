"""Section "Do conditions differ?": a comparison in sentences and figures, from its record alone."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
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

TESTS = {"coupling": "Couplings", "swap": "Coefficient swap", "influence": "Influence"}
"""The primary test first; results of before version 6 have the other two alone."""

SIDES = ("first", "second")
FIRST, SECOND, BETWEEN = BLUE, VERMILION, BLACK


def conditions_section(result: Result, folder: Path, records: Mapping[Path, ComparisonRecord]) -> Section:
    """Say whether conditions differ, or give the command to compare them."""
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
    "The answer is that of the test of couplings: whether couplings between latents differ, whatever the latents' "
    "activity. The paper's two, coefficient swap and influence, ask whether coefficients or activity differ. Condition "
    "labels are shuffled between runs, or between whole blocks, and p is the share of shuffles with conditions as far "
    "apart as the real ones. So the number of possible shuffles limits p. The paper's rank-sum test treats pairs of "
    "runs as independent. They are not, so it may reject far too often, or hardly ever."
)


def _advice(result: Result) -> dict[str, str | None]:
    names = list(conditions_of(result.dataset))
    if len(names) < 2:
        return {"text": "All runs have one condition: there is nothing to compare.", "command": None}
    return {
        # a page is written before its result gets its place, and results are moved: it cannot know its folder's name
        "text": "Nothing was compared yet. This command compares, and updates this page (`result` is your folder):",
        "command": shlex.join(["larscope", "compare", "result", *names[:2]]),
    }


def _numbers(record: ComparisonRecord) -> dict[str, Any]:
    """Return headings and rows of the table of all tests."""
    headings = ["test", "effect, %", "95 % interval", "p, permuted labels", "smallest possible p"]
    headings += ["p, rank-sum", "ANOSIM R"]
    rows = []
    for name, test in record.summary["tests"].items():
        low, high = test["effect_interval"]
        interval = "too few units" if low is None or cannot_tell(test) else f"{low:.1f} to {high:.1f}"
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
    """Return sentences on the groups, the answer, all tests with effect sizes, the places, and warnings."""
    return [_design(record), *_answer(record), *_tests(record), _pixels(record), _edges(record), *warnings_of(record)]


def summarise_comparison(record: ComparisonRecord) -> str:
    """Return one sentence: the p-values of all tests, the smallest possible one, and the number of warnings."""
    summary = record.summary
    tests = " and ".join(f"p = {_p(test['pvalue'])} ({TESTS[name].lower()})" for name, test in summary["tests"].items())
    least = _p(_primary(record)["min_pvalue"])
    limits = f"; {counted(warned, 'warning')}, see below" if (warned := warnings_of(record)) else ""
    return (
        f"{summary['first']} against {summary['second']}, by permuting labels: {tests}; the smallest p of this design "
        f"is {least}{limits}."
    )


def warnings_of(record: ComparisonRecord) -> list[str]:
    """Return each warning of the tests and maps once; a warning of one test alone begins with its name."""
    found: dict[str, list[str]] = {}
    for name, test in record.summary["tests"].items():
        for text in test["warnings"]:
            found.setdefault(text, []).append(TESTS[name])
    n_tests = len(record.summary["tests"])
    said = [text if len(names) == n_tests else f"{names[0]}: {text}" for text, names in found.items()]
    return [f"Warning. {text}" for text in (*said, *record.summary["warnings"])]


def _design(record: ComparisonRecord) -> str:
    summary = record.summary
    sides = " against ".join(f"{summary[side]} ({counted(summary['runs'][summary[side]], 'run')})" for side in SIDES)
    test = _primary(record)
    kind = "Simulated data: " if summary["simulated"] else ""
    return f"{kind}{sides}. {test['units']} The smallest possible p-value of this design is {_p(test['min_pvalue'])}."


def _primary(record: ComparisonRecord) -> Mapping[str, Any]:
    tests = record.summary["tests"]
    primary: Mapping[str, Any] = tests.get("coupling", tests["swap"])
    return primary


def _answer(record: ComparisonRecord) -> Iterator[str]:
    """Say whether couplings differ, in one sentence."""
    test = record.summary["tests"].get("coupling")
    if test is None:
        return
    first, second = (record.summary[side] for side in SIDES)
    if cannot_tell(test):
        yield too_few_units(test)
    elif test["pvalue"] <= LEVEL:
        yield f"Couplings differ between {first} and {second} (p = {_p(test['pvalue'])})."
    else:
        yield (
            f"Couplings of {first} and {second} are not distinguishable from no difference (p = {_p(test['pvalue'])}): "
            "differences of this size come about when labels are shuffled."
        )


def _tests(record: ComparisonRecord) -> Iterator[str]:
    for name, test in record.summary["tests"].items():
        low, high = test["effect_interval"]
        size = (
            swapped_forecasts(record) or "no run's forecast could be measured"
            if name == "swap"
            else _further_apart(test["effect_size"], {"coupling": "couplings", "influence": "influence"}[name])
        )
        interval = (
            " (too few units for an interval)"
            if low is None or cannot_tell(test)
            else f" (95 % interval {low:.1f} to {high:.1f} %; 0: no difference)"
        )
        spread = (
            ""
            if test["permdisp_pvalue"] is None
            else f"; difference in spread, PERMDISP: p = {_p(test['permdisp_pvalue'])}"
        )
        yield (
            f"{TESTS[name]}: {size}{interval}. {shuffled_as_well(record, name)} The paper's rank-sum test gives "
            f"p = {_p(test['pvalue_ranksum'])}, as if pairs of runs were independent. ANOSIM "
            f"R = {test['anosim_r']:.2f} (0: no separation, 1: complete){spread}."
        )


def swapped_forecasts(record: ComparisonRecord) -> str | None:
    """Say how much worse a run is forecast with the other group's couplings; None where nothing was measured."""
    effect = record.summary["tests"]["swap"]["effect_size"]
    if effect is None:
        return None
    first, second = (record.summary[side] for side in SIDES)
    worse = f"{abs(effect):.1f} % {'worse' if effect >= 0 else 'better'}"
    return (
        f"{first} runs are forecast {worse} with the couplings of {second} runs than with those of other {first} runs, "
        "and vice versa, on average"
    )


def cannot_tell(test: Mapping[str, Any]) -> bool:
    """Say whether a design is too small for any finding: then sizes have no interval, and no edge is singled out."""
    return bool(test["min_pvalue"] > LEVEL)


def too_few_units(test: Mapping[str, Any]) -> str:
    """Say that a design cannot tell, and which one could."""
    units = test["units"]
    noun = next((noun for noun in ("blocks", "subjects") if f"whole {noun}" in units), "runs")
    # four of each under free permutation have 70 labelings, 2 of them as good as the observed one: p = 0.029
    advice = f"Record more {noun}." if " within " in units else f"Four {noun} of each condition would do."
    return f"This design cannot tell: p is at least {_p(test['min_pvalue'])}, whatever the data. {advice}"


def _further_apart(effect: float | None, what: str) -> str:
    if effect is None:
        verb = "are" if what == "couplings" else "is"
        return f"{what} {verb} the same in all runs of a group, so distances between the groups have no scale"
    return (
        f"squared distances of {what} are {abs(effect):.1f} % {'larger' if effect >= 0 else 'smaller'} between the "
        "groups than within them"
    )


def shuffled_as_well(record: ComparisonRecord, name: str) -> str:
    """Say how many ways to shuffle the labels separate the runs as well as the real ones."""
    p, n = record.summary["tests"][name]["pvalue"], len(record.dataset[f"{name}_permuted"])
    ways = f"all {n:,}" if n == record.summary["tests"][name]["n_labelings"] else f"{n:,} random"
    return (
        f"Of {ways} ways to shuffle the labels, {round(p * n):,} separate the groups as well as the real ones "
        f"(p = {_p(p)})."
    )


def _pixels(record: ComparisonRecord) -> str:
    found = record.summary["map"]
    return (
        f"Contribution maps: {found['n_different']} of {found['n_pixels']} pixels differ (p <= {LEVEL}, corrected for "
        f"their number; smallest p: {_p(found['smallest_pvalue'])})."
    )


def _edges(record: ComparisonRecord) -> str:
    found = record.summary["edges"]
    if not found["n_tested"]:
        return "Edges: no edge is present in two runs, so none can be compared."
    counts = (
        f"Edges: {found['n_different'] or 'none'} of {found['n_tested']} coefficients differ (p <= {LEVEL}, corrected "
        "for their number), among those present in two runs or more."
    )
    if not found["n_different"]:
        return counts
    first = record.edges.iloc[0]
    return (
        f"{counts} The most significant difference, "
        f"{first['difference']:+.2g} at lag {int(first['lag'])}, has p = {_p(first['pvalue'])} and leads from "
        f"{_place(first, 'source')} to {_place(first, 'target')} (row, column in input pixels)."
    )


def _place(edge: Any, end: str) -> str:
    return f"({edge[f'{end}_row']:.1f}, {edge[f'{end}_column']:.1f})"


def _p(value: float) -> str:
    """Write a p-value with two significant digits.

    >>> _p(0.0123), _p(0.1428), _p(1.0), _p(0.00001)
    ('0.012', '0.14', '1', '1e-05')
    """
    return f"{value:.2g}"


# ------------------------------------------------------------------------------------------------- figures


def plot_null(record: ComparisonRecord) -> Figure:
    """Draw the statistic under every permuted labeling, and the observed one."""
    tests = record.summary["tests"]
    figure = Figure(figsize=(5 * len(tests), 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(tests)), tests, strict=True):
        title = TESTS[name]
        test = record.summary["tests"][name]
        permuted = record.dataset[f"{name}_permuted"].to_numpy()
        observed, n = permuted[0], len(permuted)
        # labelings may give the same statistic but for rounding
        middle, half = (permuted.max() + permuted.min()) / 2, (permuted.max() - permuted.min()) / 2
        shown = (middle - half, middle + half)
        if half <= 1e-6 * max(abs(middle), 1e-6):
            axes.set(xticks=[], yticks=[])  # an axis would show rounding alone
            said = f"all {n:,} labelings give the same value" if n > 1 else "there is one labeling"
            axes.text(0.5, 0.5, f"{said}:\nnothing to tell apart", ha="center", va="center", transform=axes.transAxes)
        else:
            bins = min(41, max(11, n // 3 | 1))
            axes.hist(permuted, bins=bins, range=shown, color="0.75")
            axes.axvline(observed, color=FIRST, linewidth=2)
            axes.yaxis.get_major_locator().set_params(integer=True)
        reached = round(test["pvalue"] * n)
        axes.set_title(
            f"{title}: p = {_p(test['pvalue'])}\n"
            f"{reached:,} of {n:,} labelings reach the observed value\n"
            f"(smallest possible p = {_p(test['min_pvalue'])}; the paper's rank-sum p = {_p(test['pvalue_ranksum'])})",
            fontsize="medium",
        )
        axes.set_xlabel(f"mean between - mean within, {_unit(record, name)}")
        axes.set_ylabel("labelings")
        open_axes(axes)
    handles = [Patch(color="0.75", label="permuted labels"), Line2D([], [], color=FIRST, label="observed labels")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(titled(record.summary["simulated"], "How unusual are the observed labels?"))
    return figure


def plot_pairs(record: ComparisonRecord) -> Figure:
    """Draw every pair of runs, within and between the groups."""
    rng = np.random.default_rng(0)
    tests = record.summary["tests"]
    figure = Figure(figsize=(5 * len(tests), 4.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(tests)), tests, strict=True):
        title = TESTS[name]
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
    """Draw the contribution map of each group, and their difference with an outline of its significant pixels."""
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
    title = f"How strongly each place drives others: {data['difference'].attrs['units']}"
    figure.suptitle(titled(record.summary["simulated"], title))
    return figure


def plot_edges(record: ComparisonRecord) -> Figure:
    """Draw the different edges, as arrows from source to target on the mean frame."""
    extent = _extent(record)
    wide = (extent[1] - extent[0]) / (extent[2] - extent[3])
    figure = Figure(figsize=(max(6 * wide + 1, 5.2), 7), layout="constrained")
    axes = figure.subplots()
    mean_frame = record.dataset["mean_frame"].to_numpy()
    axes.imshow(mean_frame, cmap="gray", extent=extent, vmax=float(np.quantile(mean_frame, 0.995)))
    differs = record.edges[record.edges["pvalue"] <= LEVEL]
    limit = largest(differs["difference"])
    for edge in differs.to_dict("records"):
        source, target = ((edge[f"{end}_column"], edge[f"{end}_row"]) for end in ("source", "target"))
        draw_arrow(
            axes,
            source,
            target,
            ON_IMAGE[edge["difference"] > 0],
            abs(edge["difference"]) / limit,
        )
    label_pixels(axes)
    first, second = (plain_text(record.summary[side]) for side in SIDES)
    for colour, larger in ((ON_IMAGE[True], first), (ON_IMAGE[False], second)):
        axes.plot([], [], color=colour, linewidth=2, label=f"larger in {larger}")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    said = f"{len(differs) or 'none'} of {len(record.edges)} edges differ at p <= {LEVEL}, corrected"
    meaning = "\n(arrow: source to target; circle: own past)" if len(differs) else ""
    axes.set_title(f"{said}{meaning}", fontsize="medium")
    figure.suptitle(titled(record.summary["simulated"], f"Edges, {first} - {second}"))
    return figure


COMPARISON_FIGURES: dict[str, tuple[Callable[[ComparisonRecord], Figure], str]] = {
    "null": (
        plot_null,
        "The statistic under every shuffle of the labels (grey) and as observed (blue). It is the mean over pairs of "
        "runs between the groups, minus the average of the two groups' own means. Only comparable pairs count.",
    ),
    "pairs": (
        plot_pairs,
        "Every pair of runs. Couplings: distance of their couplings. Swap: excess error of one run under the other's "
        "coefficients. Influence: distance of their influence vectors. If the groups differ, pairs between them lie "
        "higher.",
    ),
    "maps": (
        plot_maps,
        "How strongly the cells at each pixel drive others: mean over the runs of each group, and the difference "
        "(within blocks or subjects, if their runs trade labels).",
    ),
    "edges": (plot_edges, "Different coefficients, from source to target on the mean frame."),
}
"""Figures of a comparison by file name, with their captions."""


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
    if test != "swap":
        return "squared distance"
    return "relative $\\Delta$" if record.summary["options"]["relative"] else "$\\Delta$, squared latent units"


def _pair_label(record: ComparisonRecord, test: str) -> str:
    if test != "swap":
        return f"squared distance of {'couplings' if test == 'coupling' else 'influence vectors'}"
    relative = record.summary["options"]["relative"]
    return "$\\Delta$: excess error, " + ("% of the run's own error" if relative else "squared latent units")
