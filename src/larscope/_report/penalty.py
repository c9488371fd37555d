"""Section "How does it depend on the penalty?": coefficients and explained variance under other penalties."""

import warnings
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from larscope._report.section import Picture, Section
from larscope._report.sentences import Choice, choices_of
from larscope._report.style import colour_of, conditions_of, counted, open_axes, percent, plain_text, titled
from larscope._results.folder import Result

MEASURES = {
    "n_active": "active coefficients",
    "explained": "explained, in sample",
    "explained_heldout": "explained, held out",
}
"""Curves over the penalty; the latter two share their axes."""


def penalty_section(result: Result) -> Section:
    """Show the outcome of other penalties."""
    data = result.dataset
    title = "How does it depend on the penalty?"
    if "curve_run" not in data:
        return Section("penalty", title, ["This result holds no curves over the penalty. Fit again to get them."])
    picture = Picture(
        "figures/penalty.png",
        plot_curves(result),
        "The VAR of single runs, refitted with other penalties. Bold: mean. Dashed line: the penalty of the fits.",
    )
    return Section("penalty", title, _sentences(result), [picture], explored={"curves": curves_of(result)})


def curves_of(result: Result) -> dict[str, Any]:
    """Return the curves of every run, for the script."""
    data = result.dataset
    runs = data["curve_run"].to_numpy()
    names = list(conditions_of(data))
    return {
        "penalty": data["penalty"].to_numpy().tolist(),
        "chosen": result.penalty,
        "measures": list(MEASURES.values()),
        "runs": [
            {
                "run": str(data["run"].to_numpy()[run]),
                "condition": str(data["condition"].to_numpy()[run]),
                "colour": names.index(str(data["condition"].to_numpy()[run])),
                "values": [data[f"curve_{name}"].to_numpy()[place].tolist() for name in MEASURES],
            }
            for place, run in enumerate(runs)
        ],
    }


def plot_curves(result: Result) -> Figure:
    """Draw active coefficients and explained variance, in sample and held out, over the penalty."""
    data = result.dataset
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    panels = figure.subplots(1, 3)
    panels[2].sharey(panels[1])
    panels[0].set_yscale("symlog", linthresh=1)
    for axes, (name, label) in zip(panels, MEASURES.items(), strict=True):
        _draw_curves(axes, data, name)
        axes.axvline(result.penalty, color="0.4", linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.set_xlabel("penalty")
        axes.set_ylabel(label)
        open_axes(axes)
    for axes in panels[1:]:
        axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    for position, name in enumerate(conditions_of(data)):
        panels[0].plot([], [], color=colour_of(position), label=plain_text(name))
    _label_counts(panels[0])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5), frameon=False)
    figure.suptitle(titled(data.attrs["simulated"], f"Penalty, {counted(data['curve_run'], 'run')}"))
    return figure


def _label_counts(axes: Axes) -> None:
    """Label a count's axis by powers of ten; over less than two of them also by their twice and five times."""
    low, high = axes.get_ylim()
    steps = (1, 2, 5) if high < 100 * max(low, 1) else (1,)
    ticks = [0, *(step * 10**power for power in range(9) for step in steps)]
    axes.set_yticks([tick for tick in ticks if low <= tick <= high])
    axes.set_yticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:,.0f}")


def _draw_curves(axes: Axes, data: xr.Dataset, name: str) -> None:
    penalty, values = data["penalty"].to_numpy(), data[f"curve_{name}"].to_numpy()
    run_condition = data["condition"].to_numpy()[data["curve_run"].to_numpy()]
    for position, condition in enumerate(conditions_of(data)):
        of_condition = values[run_condition == condition]
        for curve in of_condition:
            axes.plot(penalty, curve, color=colour_of(position), alpha=0.35, linewidth=1)
        if len(of_condition):
            axes.plot(penalty, _mean(of_condition), color=colour_of(position), linewidth=2.2, marker="o", markersize=4)


def _sentences(result: Result) -> list[str]:
    data = result.dataset
    chosen = result.penalty
    penalties = data["penalty"].to_numpy()
    at = int(np.argmin(np.abs(np.log(penalties / chosen))))
    active, explained, heldout = (_mean(data[f"curve_{name}"].to_numpy()) for name in MEASURES)
    shown, all_runs = data.sizes["curve"], data.sizes["run"]
    of_runs = "every run" if shown == all_runs else f"{shown} of the {all_runs} runs (conditions taking turns)"
    sentences = [
        *(_describe_choice(choice) for choice in choices_of(result)),
        f"The VAR of {of_runs} was refitted with {len(penalties)} penalties, from {penalties[0]:.3g} to "
        f"{penalties[-1]:.3g}. Each point is an exact fit of a run's own coefficients. The latents were "
        f"learned at {result.training['penalty']:g}; training with another penalty gives other latents.",
        f"At {chosen:.3g}, the penalty of the fits, there are {active[at]:.0f} active coefficients. They explain "
        f"{percent(explained[at])} of the latents' variance in sample, and {percent(heldout[at])} on the last fifth of "
        "a run, which was not fitted (means over these runs).",
    ]
    if np.isfinite(heldout).any():
        best = int(np.nanargmax(heldout))
        sentences.append(
            f"Held out, {penalties[best]:.3g} explains most: {percent(heldout[best])}, with "
            f"{active[best]:.0f} active coefficients."
            if heldout[best] > 0
            else "Held out, no penalty forecasts better than the mean of the fitted frames."
        )
    return sentences


def _describe_choice(choice: Choice) -> str:
    """Say how a penalty was chosen."""
    tried, explained, penalty = choice.tried, choice.explained, f"{choice.penalty:.3g}"
    what = "The penalty of the coefficients shared by runs" if choice.shared else "The penalty"
    if not tried.size:
        return (
            f"{what} was not chosen, because no frames could be held out. It stayed at the training penalty, {penalty}."
        )
    share = percent(explained[int(np.argmin(np.abs(tried - choice.penalty)))])
    if explained.max() > explained[0]:
        return (
            f"{what} was chosen after training, among {len(tried)} from {tried[0]:.3g} (no coupling left) "
            f"to {tried[-1]:.3g}. Exact fits at {penalty} best forecast {choice.held_out}, and explain {share} of "
            "their signal."
        )
    return (
        f"{what}: of {len(tried)} tried, none was better than no couplings at all at forecasting {choice.held_out}. "
        f"{penalty} was taken, the best with couplings in every run. It explains {share} of the held-out signal: trust "
        "no single coupling."
    )


def _mean(values: Any) -> Any:
    """Return the mean over runs; runs without a value do not count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no run may have one
        return np.nanmean(values, axis=0)
