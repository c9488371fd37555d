"""What was found, before all else: a verdict in a few sentences, and the picture of which cell drives which."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from numpy.typing import NDArray

from larscope._report.cells import OUTLINE, footprint_of, has_cells
from larscope._report.data import complaints_of, describe_checks
from larscope._report.section import Picture
from larscope._report.sentences import FDR
from larscope._report.style import (
    GREEN,
    LOWERS,
    RAISES,
    VERMILION,
    conditions_of,
    counted,
    label_pixels,
    listed,
    places_of,
    plain_text,
)
from larscope._results.comparison import LEVEL, ComparisonRecord
from larscope._results.folder import Result

MOST_ARROWS = 60
"""Arrows of a panel; with more, the strongest are drawn."""

MOST_PANELS = 3
"""Conditions drawn side by side."""

Standing = Literal["good", "caution", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """One line of the verdict: how it stands, and a sentence with the numbers."""

    standing: Standing
    sentence: str


@dataclass(frozen=True)
class Found:
    """The couplings of a condition that are beyond chance, strongest evidence first."""

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    effect: NDArray[np.float64]
    n_runs: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.source)


def found_in(data: xr.Dataset) -> dict[str, Found]:
    """Return the couplings beyond chance of each condition; nothing for results that do not know chance."""
    if "coupling_qvalue" not in data:
        return {}
    beyond = data["coupling_qvalue"].to_numpy() <= FDR
    of_condition = data["coupling_condition"].to_numpy()
    columns = [data[f"coupling_{name}"].to_numpy() for name in ("source", "target", "effect", "n_runs")]
    return {
        name: Found(*(column[beyond & (of_condition == name)] for column in columns)) for name in conditions_of(data)
    }


def verdict_on(result: Result, records: Sequence[ComparisonRecord]) -> list[Verdict]:
    """Return what a reader has to know first, in order."""
    data = result.dataset
    return [*_truth(data), *_movies(result), *_couplings(data), *_forecasts(data), *map(_conditions, records)]


# --------------------------------------------------------------------------------------------------- sentences


def _movies(result: Result) -> Iterator[Verdict]:
    if complaints_of(result):
        yield Verdict("caution", describe_checks(result))


def planted_in(data: xr.Dataset) -> Mapping[str, set[tuple[int, int]]]:
    """Return the planted pairs of each condition by the number of the cells found; -1 is a cell that was not."""
    if "planted_source" not in data:
        return {}
    rows = zip(
        *(data[f"planted_{name}"].to_numpy().tolist() for name in ("condition", "source", "target")), strict=True
    )
    planted: dict[str, set[tuple[int, int]]] = {}
    for number, (condition, source, target) in enumerate(rows):
        # two pairs of cells that were not found are still two
        pair = (source, target) if min(source, target) >= 0 else (-1 - number, -1)
        planted.setdefault(condition, set()).add(pair)
    return planted


def _truth(data: xr.Dataset) -> Iterator[Verdict]:
    planted, found = planted_in(data), found_in(data)
    if not planted:
        return
    said, good = [], True
    for condition, pairs in planted.items():
        there = set(zip(found[condition].source.tolist(), found[condition].target.tolist(), strict=True))
        said.append(f"{condition} {len(there & pairs)} of {len(pairs)}, and {len(there - pairs)} others")
        good &= len(there & pairs) >= 0.8 * len(pairs) and len(there - pairs) <= 0.2 * max(len(there), 1)
    yield Verdict(
        "good" if good else "caution",
        f"This session is simulated, so the answer is known. Planted connections found: {'; '.join(said)}.",
    )


def _couplings(data: xr.Dataset) -> Iterator[Verdict]:
    found = found_in(data)
    if not found:
        return
    total = sum(map(len, found.values()))
    what = "cells" if has_cells(data) else "latents"
    if not total:
        yield Verdict("unknown", f"No coupling between {what} is beyond chance.")
        return
    each = listed(f"{len(one)} in {name}" for name, one in found.items())
    runs = {name: len(runs) for name, runs in conditions_of(data).items()}
    several = {name: one.n_runs[one.n_runs >= 2] for name, one in found.items() if runs[name] > 1}
    again = sum(map(len, several.values()))
    possible = sum(len(found[name]) for name in several)
    replicated = (
        f" {again} of {possible} are found in two runs or more by themselves."
        if possible
        else " There is one run a condition, so none can be replicated."
    )
    yield Verdict(
        "good" if possible and again >= possible / 2 else "caution",
        f"Couplings between {what} beyond chance: {each}; a tenth of them is expected to be chance.{replicated}",
    )


def _forecasts(data: xr.Dataset) -> Iterator[Verdict]:
    if "own_error_heldout" not in data:
        return
    whole, alone = (data[name].to_numpy() for name in ("var_error_heldout", "own_error_heldout"))
    there = np.isfinite(whole) & np.isfinite(alone)
    if not there.any():
        yield Verdict("unknown", "No frames could be held out, so it is not known what couplings add to a forecast.")
        return
    whole, alone = whole[there], alone[there]
    gain, better = 1 - whole.mean() / alone.mean(), int((whole < alone).sum())
    numbers = (
        f"error {whole.mean():.2f} of the signal with couplings, {alone.mean():.2f} by each one's own past alone; lower "
        f"in {better} of {counted(whole, 'run')}"
    )
    if gain > 0 and better > len(whole) / 2:
        yield Verdict("good", f"Couplings forecast held-out frames {gain:.1%} better than without ({numbers}).")
    else:
        yield Verdict("unknown", f"Couplings add nothing to the forecast of held-out frames ({numbers}).")


def _conditions(record: ComparisonRecord) -> Verdict:
    summary = record.summary
    test = summary["tests"].get("coupling", summary["tests"]["swap"])
    sides, p, least = f"{summary['first']} and {summary['second']}", test["pvalue"], test["min_pvalue"]
    what = "Couplings" if "coupling" in summary["tests"] else "Coefficients or activity"
    if least > LEVEL:
        return Verdict(
            "unknown",
            f"This design cannot tell whether {sides} differ: its smallest possible p is {least:.2g}. Four runs a "
            "condition, of four blocks if runs are recorded in blocks, would do.",
        )
    if p <= LEVEL:
        return Verdict("good", f"{what} differ between {sides} (p = {p:.2g}; the smallest possible is {least:.2g}).")
    return Verdict("unknown", f"{sides} are not distinguishable from no difference (p = {p:.2g}).")


# ----------------------------------------------------------------------------------------------------- picture


def finding_picture(result: Result) -> Picture | None:
    """Show which cell drives which; None for latents without outlines."""
    data = result.dataset
    if not has_cells(data) or not found_in(data):
        return None
    truth = (
        " Green arrows are planted connections, orange ones are not; planted ones that were not found are dotted."
        if planted_in(data)
        else " Orange arrows raise what they lead to, blue ones lower it; the wider, the stronger."
    )
    return Picture(
        "figures/finding.png",
        plot_finding(data),
        "Which cell drives which: arrows lead from a cell to those whose brightness it forecasts, beyond chance over all "
        f"runs of a condition. The mean frame lies behind the cells' outlines and numbers.{truth}",
    )


def plot_finding(data: xr.Dataset) -> Figure:
    """Draw the couplings beyond chance of each condition, over the cells."""
    found, planted, places = found_in(data), planted_in(data), places_of(data)
    shown = list(found)[:MOST_PANELS]
    height = 5.6
    width = height * min(places.wide, 1.4) + 0.6
    figure = Figure(figsize=(max(width * len(shown), 4.5), height + 0.8), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
    for axes, name in zip(panels, shown, strict=True):
        _draw_cells(axes, data)
        pairs = planted.get(name, set())
        arrows = list(zip(found[name].source.tolist(), found[name].target.tolist(), found[name].effect, strict=True))
        largest = max((abs(effect) for *_, effect in arrows), default=1.0)
        for source, target, effect in arrows[:MOST_ARROWS]:
            colour = RAISES if effect > 0 else LOWERS
            if planted:
                colour = GREEN if (source, target) in pairs else VERMILION
            _draw_arrow(axes, data, source, target, color=colour, linewidth=0.8 + 2 * abs(effect) / largest)
        there = {(source, target) for source, target, _ in arrows}
        for source, target in pairs - there:
            if min(source, target) >= 0:
                _draw_arrow(axes, data, source, target, color=GREEN, linewidth=1.2, linestyle=":")
        title = f"{plain_text(name)}: {len(arrows)} couplings"
        if pairs:
            title = f"{plain_text(name)}: {len(there & pairs)} of {len(pairs)} planted, {len(there - pairs)} others"
        elif len(arrows) > MOST_ARROWS:
            title += f", the strongest {MOST_ARROWS}"
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("column (input pixels)")
    label_pixels(panels[0])
    figure.legend(handles=_legend(bool(planted)), loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return figure


def _legend(planted: bool) -> list[Line2D]:
    kinds: tuple[tuple[str, str, str], ...] = ((RAISES, "-", "raises"), (LOWERS, "-", "lowers"))
    if planted:
        kinds = (
            (GREEN, "-", "planted and found"),
            (VERMILION, "-", "found, not planted"),
            (GREEN, ":", "planted, not found"),
        )
    return [Line2D([], [], color=colour, linestyle=style, linewidth=2, label=label) for colour, style, label in kinds]


def _draw_cells(axes: Axes, data: xr.Dataset) -> None:
    places, image = places_of(data), data["mean_frame"].to_numpy()
    low, high = np.quantile(image, [0.01, 0.999])
    axes.imshow(image, cmap="gray", vmin=low, vmax=high * 1.3, extent=places.extent)
    for cell in range(data.sizes["latent"]):
        axes.contour(places.column, places.row, footprint_of(data, cell), [OUTLINE], colors="white", linewidths=0.6)
        axes.text(
            places.latent_column[cell],
            places.latent_row[cell],
            str(cell),
            color="white",
            fontsize="x-small",
            ha="center",
            va="center",
        )


def _draw_arrow(axes: Axes, data: xr.Dataset, source: int, target: int, **style: object) -> None:
    places = places_of(data)
    ends = [(places.latent_column[cell], places.latent_row[cell]) for cell in (source, target)]
    axes.add_patch(
        FancyArrowPatch(
            *ends,
            connectionstyle="arc3,rad=0.15",  # there and back are two arrows
            arrowstyle="-|>",
            mutation_scale=9,
            shrinkA=7,
            shrinkB=7,
            **style,
        )
    )
