"""A result in plain sentences."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from larscope._report.cells import describe_cells, has_cells
from larscope._report.style import percent
from larscope._results.folder import SHARED, Result

FDR = 0.1
"""Couplings with a q-value up to this are beyond chance."""

SETTLED = 0.05
"""Largest change of the loss, over the last fifth of training, to count as levelled off."""


def describe(result: Result) -> list[str]:
    """Return sentences on the data, the training and the dynamics."""
    return [_data(result), *describe_training(result), *describe_dynamics(result)]


def describe_training(result: Result) -> list[str]:
    """Return sentences on the loss and the errors."""
    return [_training(result), _errors(result)]


def describe_dynamics(result: Result) -> list[str]:
    """Return sentences on the coefficients."""
    shared = (
        [
            "Couplings, maps and comparisons use each run's own coefficients. Forecasts, errors and the number of "
            "active coefficients use one matrix, shared by all runs of a condition."
        ]
        if result.settings.get("coefficients") == "condition"
        else []
    )
    return [*_dynamics(result), *shared]


def _data(result: Result) -> str:
    data = result.dataset
    conditions = data["condition"].to_numpy()
    counted = ", ".join(f"{(conditions == name).sum()} {name}" for name in dict.fromkeys(conditions))
    height, width = data["mean_frame"].shape
    kind = "Simulated data" if data.attrs["simulated"] else "Data"
    return (
        f"{kind}: {data.sizes['run']} run{'s' * (data.sizes['run'] != 1)} ({counted}), {data.sizes['frame']} frames "
        f"of {height} x {width} pixels, "
        f"{data.sizes['latent']} latents."
    )


def _training(result: Result) -> str:
    if has_cells(result.dataset):
        return describe_cells(result)
    change = loss_change(result)
    settled = "has levelled off" if abs(change) < SETTLED else "is still moving: train longer"
    return (
        f"Training ({result.settings['training']}, {len(result.log)} steps): the loss {settled}. It changed by "
        f"{change:+.1%} over the last fifth of the steps."
    )


def loss_change(result: Result) -> float:
    """Return the relative change of the mean loss from the fourth to the last fifth of training."""
    loss = np.array([row["loss"] for row in result.log])
    fifth = max(len(loss) // 5, 1)
    before, after = loss[-2 * fifth : -fifth], loss[-fifth:]
    return float(after.mean() / before.mean() - 1) if len(before) else float("nan")


def _errors(result: Result) -> str:
    data = result.dataset
    # a run without variance, or with too few frames between masked ones, has no number
    explained, heldout = (
        values[np.isfinite(values)]
        for values in (data[name].to_numpy() for name in ("var_explained", "var_error_heldout"))
    )
    forecasts = f"Forecasts from the past {data.attrs['order']} frames"
    span = f" (runs: {percent(explained.min())} to {percent(explained.max())})" if len(explained) > 1 else ""
    in_sample = (
        f"{forecasts} explain {percent(explained.mean())} of the latents' variance in sample{span}"
        if len(explained)
        else f"{forecasts} have nothing to explain: no run's latents vary"
    )
    return f"{in_sample}; {_held_out(float(heldout.mean()) if len(heldout) else None)}."


def _held_out(error: float | None) -> str:
    """Say how much of held-out frames is forecast; an error of 1 is as good as no forecast."""
    if error is None:
        return "no run could be held out"
    kept = "on the last fifth of each run, which was not fitted, they"
    if error >= 1:
        return f"{kept} explain nothing: their squared error is {error:.2f} of the signal, mean over frames"
    return f"{kept} explain {percent(1 - error)}, mean over frames"


def _dynamics(result: Result) -> list[str]:
    """Count own pasts and couplings apart, each beside chance where the result knows it."""
    data = result.dataset
    n_latents, order = data.sizes["latent"], int(data.attrs["order"])
    own = data["coef_target"].to_numpy() == data["coef_source"].to_numpy()
    of_run = np.bincount(data["coef_run"].to_numpy()[~own], minlength=data.sizes["run"])
    possible = order * n_latents * (n_latents - 1)
    sentence = (
        f"A run has {of_run.mean():.0f} couplings between latents of {possible:,} possible"
        f"{f' (from {of_run.min()} to {of_run.max()})' if len(of_run) > 1 else ''}"
    )
    if "n_chance" in data:
        sentence += f"; {data['n_chance'].to_numpy().mean():.0f} are expected by chance"
    sentence += f". Coefficients of a latent's own past: {own.sum() / data.sizes['run']:.0f} of {order * n_latents:,}."
    return [sentence, *_beyond_chance(result)]


def _beyond_chance(result: Result) -> list[str]:
    """Say how many couplings of each condition are beyond chance, over all of its runs."""
    data = result.dataset
    if "coupling_qvalue" not in data:
        return []
    kept = data["coupling_condition"].to_numpy()[data["coupling_qvalue"].to_numpy() <= FDR]
    counts = {name: int((kept == name).sum()) for name in dict.fromkeys(data["condition"].to_numpy().tolist())}
    said = ", ".join(f"{name} {count or 'none beyond chance'}" for name, count in counts.items())
    meaning = "a tenth of these is expected to be chance. " if any(counts.values()) else ""
    return [
        f"Couplings beyond chance over all runs of a condition (q <= {FDR}): {said}. {meaning.capitalize()}"
        "A coupling is a forecast, not a synapse, and common input can make one."
    ]


@dataclass(frozen=True)
class Choice:
    """A penalty chosen after training: its candidates, its fits, and the held-out frames used to choose."""

    penalty: float
    tried: NDArray[np.float64]
    explained: NDArray[np.float64]
    shared: bool
    held_out: str


def choices_of(result: Result) -> list[Choice]:
    """Return the penalties chosen after training: for single runs, and for coefficients shared by runs."""
    choices = []
    for begin, penalty in (("", result.penalty), (SHARED, result.shared_penalty)):
        if penalty is None or f"{begin}tried_penalty" not in result.dataset:
            continue
        tried, explained = (result.dataset[f"{begin}tried_{name}"].to_numpy() for name in ("penalty", "explained"))
        # before version 5 one penalty was chosen, for both
        together = result.settings.get("coefficients") == "condition" and result.shared_penalty is None
        held_out = (
            "left-out runs by coefficients of other runs of their condition (with fewer than three, the last fifth of "
            "each)"
            if begin or together
            else "the last fifth of each run by coefficients of the rest"
        )
        choices.append(Choice(penalty, tried, explained, bool(begin), held_out))
    return choices
