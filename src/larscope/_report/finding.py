"""What was found, before all else: a verdict in a few sentences, and the picture of which cell forecasts which."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy.stats import binom, binomtest  # type: ignore[attr-defined]

from larscope._report.cells import OUTLINE, footprint_of, has_cells, noun_of
from larscope._report.comparison import cannot_tell, shuffled_as_well, swapped_forecasts, too_few_units
from larscope._report.data import complaints_of, describe_checks
from larscope._report.section import Picture
from larscope._report.sentences import FDR, SETTLED, loss_change
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

MANY_CELLS = 30
"""With more cells than this, their numbers are small."""

MOST_PANELS = 3
"""Conditions drawn side by side."""

Standing = Literal["good", "caution", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """One line of the verdict: a question, how its answer stands, and a sentence with the numbers."""

    question: str
    standing: Standing
    sentence: str

    @property
    def answer(self) -> str:
        """The standing in words, for whoever does not see its colour."""
        return {"good": "yes", "caution": "with care", "unknown": "not shown"}[self.standing]


@dataclass(frozen=True)
class Found:
    """The couplings of a condition that are beyond chance, strongest evidence first."""

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    effect: NDArray[np.float64]
    n_runs: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.source)

    @property
    def pairs(self) -> set[tuple[int, int]]:
        """Source and target of each."""
        return set(zip(self.source.tolist(), self.target.tolist(), strict=True))


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
    lines = [*_truth(data), _movies(result), *_training(result), *_couplings(data), *_replication(data)]
    return [*lines, *_forecasts(data), *map(verdict_of, records)]


# --------------------------------------------------------------------------------------------------- sentences


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


def others(number: int) -> str:
    """Count the couplings that were not planted."""
    return f"{number} other{'s' * (number != 1)}"


def _truth(data: xr.Dataset) -> Iterator[Verdict]:
    planted, found = planted_in(data), found_in(data)
    if not planted:
        return
    said: list[str] = []
    good = True
    for condition, pairs in planted.items():
        there = found[condition].pairs if condition in found else set()
        right, wrong = len(there & pairs), len(there - pairs)
        what = "" if said else "planted connections found "
        said.append(f"{right} of {len(pairs)} {what}in {condition}, {others(wrong)}")
        good &= right >= 0.8 * len(pairs) and wrong <= 0.2 * max(len(there), 1)
    yield Verdict(
        "Is the planted truth found?",
        "good" if good else "caution",
        f"{'; '.join(said)}. The session is simulated, so the answer is known.",
    )


def _movies(result: Result) -> Verdict:
    if result.provenance.get("checks") is None:
        return Verdict("Are the movies fine?", "unknown", describe_checks(result))
    return Verdict("Are the movies fine?", "caution" if complaints_of(result) else "good", describe_checks(result))


def _training(result: Result) -> Iterator[Verdict]:
    """Say whether training helped. Cells are kept as they were found, so nothing is said of them."""
    if has_cells(result.dataset) or not result.log:
        return
    moving = abs(loss_change(result)) >= SETTLED
    yield Verdict(
        "Did training help?",
        "caution" if moving else "unknown",
        f"The loss of the training {'is still moving: train longer' if moving else 'has levelled off'}. That alone "
        "does not show that training helped: the untrained network was not measured.",
    )


def _couplings(data: xr.Dataset) -> Iterator[Verdict]:
    found, what = found_in(data), noun_of(data)
    if not found:
        return
    question, total = f"Do {what}s forecast each other?", sum(map(len, found.values()))
    if not total:
        yield Verdict(question, "unknown", f"No coupling between {what}s is beyond chance.")
        return
    each = listed(f"{len(one)} in {name}" for name, one in found.items()) if len(found) > 1 else str(total)
    yield Verdict(
        question,
        "good",
        f"Couplings between {what}s beyond chance: {each}. About {max(round(FDR * total), 1)} of these "
        f"{counted(range(total), 'coupling')} may be chance (q <= {FDR}).",
    )


def _replication(data: xr.Dataset) -> Iterator[Verdict]:
    found, runs = found_in(data), conditions_of(data)
    if not any(map(len, found.values())):
        return
    question = "Are couplings found again in other runs?"
    several = {name: one for name, one in found.items() if len(runs[name]) > 1 and len(one)}
    if not several:
        yield Verdict(question, "unknown", "Their condition has one run, so it is not known whether they replicate.")
        return
    n_runs = np.concatenate([one.n_runs for one in several.values()])
    again = int((n_runs >= 2).sum())
    chance = ""
    if "n_chance" in data:
        n_pairs = data.sizes["latent"] * (data.sizes["latent"] - 1)
        rates = {name: data["n_chance"].to_numpy()[runs[name]].mean() / n_pairs for name in several}
        expected = sum(len(one) * binom.sf(1, len(runs[name]), min(rates[name], 1)) for name, one in several.items())
        chance = f"; by chance alone {f'about {expected:.0f}' if expected >= 1 else 'less than one'} would be"
    yield Verdict(
        question,
        "good" if again >= len(n_runs) / 2 else "caution",
        f"{again} of {counted(n_runs, 'coupling')} are found in two or more runs by each run's own fit{chance}.",
    )


def _forecasts(data: xr.Dataset) -> Iterator[Verdict]:
    if "own_error_heldout" not in data:
        return
    question = f"Do couplings add to each {noun_of(data)}'s own past?"
    whole, alone = (data[name].to_numpy() for name in ("var_error_heldout", "own_error_heldout"))
    there = np.isfinite(whole) & np.isfinite(alone)
    if not there.any():
        yield Verdict(
            question, "unknown", "No frames could be held out, so it is not known what couplings add to a forecast."
        )
        return
    whole, alone = whole[there], alone[there]
    gain, n_better = 1 - whole.mean() / alone.mean(), int((whole < alone).sum())
    numbers = (
        f"squared error {whole.mean():.3f} of the signal with couplings, {alone.mean():.3f} with each "
        f"{noun_of(data)}'s own past alone; lower with couplings in {n_better} of {counted(whole, 'run')}"
    )
    if gain <= 0 or not n_better:
        yield Verdict(question, "unknown", f"Couplings add nothing to the forecast of held-out frames ({numbers}).")
        return
    # as many runs would get better by the toss of a coin
    by_chance = binomtest(n_better, len(whole), alternative="greater").pvalue
    yield Verdict(
        question,
        "good" if by_chance <= LEVEL else "caution",
        f"Couplings lower the error of held-out forecasts by {100 * gain:.1f} % ({numbers}).",
    )


def verdict_of(record: ComparisonRecord) -> Verdict:
    """Say whether conditions differ: yes, not found, or this design cannot tell."""
    summary = record.summary
    primary = "coupling" if "coupling" in summary["tests"] else "swap"
    test, first, second = summary["tests"][primary], summary["first"], summary["second"]
    question = f"Do {first} and {second} differ?"
    if cannot_tell(test):
        return Verdict(question, "unknown", too_few_units(test))
    what = "couplings" if primary == "coupling" else "coefficients or activity"
    shuffled = shuffled_as_well(record, primary)
    if test["pvalue"] > LEVEL:
        return Verdict(question, "unknown", f"No difference found in the {what} of {first} and {second}. {shuffled}")
    swapped = swapped_forecasts(record)
    worse = "" if swapped is None else f" {swapped[0].upper()}{swapped[1:]}."
    limits = f" {counted(test['warnings'], 'warning')}: see below." if test["warnings"] else ""
    return Verdict(
        question,
        "caution" if limits else "good",
        f"The {what} of {first} and {second} differ.{worse} {shuffled}{limits}",
    )


# ------------------------------------------------------------------------------------------------------ tables


def cell_table(data: xr.Dataset) -> pd.DataFrame:
    """Return one row a cell: number, centre in input pixels, size, and how many cells it forecasts, or forecast it."""
    places, n_latents = places_of(data), data.sizes["latent"]
    pairs = sorted(set().union(*(one.pairs for one in found_in(data).values())))
    source, target = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    table = pd.DataFrame(
        {
            "cell": np.arange(n_latents),
            "row": places.latent_row,
            "column": places.latent_column,
            "n_outgoing": np.bincount(source, minlength=n_latents),
            "n_incoming": np.bincount(target, minlength=n_latents),
        }
    )
    if has_cells(data):
        table.insert(3, "n_pixels", [int((footprint_of(data, cell) >= OUTLINE).sum()) for cell in range(n_latents)])
    return table


def edge_table(data: xr.Dataset) -> pd.DataFrame:
    """Return one row a coupling with evidence: condition, source, target, lag, effect, runs found in, q-value."""
    names = ("condition", "source", "target", "lag", "effect", "n_runs", "qvalue")
    table = pd.DataFrame({name: data[f"coupling_{name}"].to_numpy() for name in names})
    n_runs = {name: len(runs) for name, runs in conditions_of(data).items()}
    table.insert(6, "of_runs", table["condition"].map(n_runs))
    if planted := planted_in(data):
        pairs = zip(table["condition"], table["source"], table["target"], strict=True)
        table["planted"] = [(source, target) in planted.get(condition, set()) for condition, source, target in pairs]
    return table


# ----------------------------------------------------------------------------------------------------- picture


def finding_picture(result: Result) -> Picture | None:
    """Show which cell forecasts which; None for latents without outlines."""
    data = result.dataset
    found = found_in(data)
    if not has_cells(data) or not found:
        return None
    caption = (
        "Which cell forecasts which: an arrow leads from a cell to one whose brightness it forecasts, beyond chance "
        "over all runs of a condition. A coupling is a forecast, not a synapse, and common input can make one."
    )
    if planted_in(data):
        caption += " Green arrows are planted connections, orange ones are not; planted and missed ones are dotted."
    elif any(map(len, found.values())):
        caption += " Orange arrows raise what they lead to, blue ones lower it; the wider, the stronger."
    else:
        caption = "The cells, outlined and numbered on the mean frame. No coupling between them is beyond chance."
    return Picture("figures/finding.png", plot_finding(data), caption)


def plot_finding(data: xr.Dataset) -> Figure:
    """Draw the couplings beyond chance of each condition, over the cells."""
    found, planted, places = found_in(data), planted_in(data), places_of(data)
    shown = list(found)[:MOST_PANELS]
    height = 5.6
    width = height * min(places.wide, 1.4) + 0.6
    figure = Figure(figsize=(max(width * len(shown), 4.5), height + 0.8), layout="compressed")
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
        there = found[name].pairs
        for source, target in pairs - there:
            if min(source, target) >= 0:
                _draw_arrow(axes, data, source, target, color=GREEN, linewidth=1.2, linestyle=":")
        title = f"{plain_text(name)}: {len(arrows)} couplings"
        if pairs:
            title = f"{plain_text(name)}: {len(there & pairs)} of {len(pairs)} planted, {others(len(there - pairs))}"
        elif len(arrows) > MOST_ARROWS:
            title += f", the strongest {MOST_ARROWS}"
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("column (input pixels)")
    label_pixels(panels[0])
    if planted or any(map(len, found.values())):
        handles = _legend(bool(planted))
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return figure


def _legend(planted: bool) -> list[Line2D]:
    kinds: tuple[tuple[str, Literal["-", ":"], str], ...] = ((RAISES, "-", "raises"), (LOWERS, "-", "lowers"))
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
            fontsize="small" if data.sizes["latent"] <= MANY_CELLS else "xx-small",
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=1.5, foreground="black")],  # cells are bright
            zorder=5,
        )


def _draw_arrow(axes: Axes, data: xr.Dataset, source: int, target: int, **style: Any) -> None:
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
