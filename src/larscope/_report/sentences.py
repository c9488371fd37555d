"""A result in plain sentences."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from larscope._report.cells import describe_cells, has_cells
from larscope._report.style import percent
from larscope._results.folder import SHARED, Result

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
    return [_dynamics(result), *shared]


def _data(result: Result) -> str:
    data = result.dataset
    conditions = data["condition"].to_numpy()
    counted = ", ".join(f"{(conditions == name).sum()} {name}" for name in dict.fromkeys(conditions))
    height, width = data["mean_frame"].shape
    kind = "Simulated data" if data.attrs["simulated"] else "Data"
    return (
        f"{kind}: {data.sizes['run']} runs ({counted}), {data.sizes['frame']} frames of {height} x {width} pixels, "
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
    in_sample = (
        f"{forecasts} explain {percent(explained.mean())} of the latents' variance in sample (runs: "
        f"{percent(explained.min())} to {percent(explained.max())})"
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


def _dynamics(result: Result) -> str:
    data = result.dataset
    active = data["n_active"].to_numpy()
    possible = int(data.attrs["order"]) * data.sizes["latent"] ** 2
    own = float((data["coef_target"].to_numpy() == data["coef_source"].to_numpy()).mean()) if active.sum() else 0.0
    return (
        f"A run has {active.mean():.0f} active coefficients of {possible} ({active.mean() / possible:.2%}; "
        f"from {active.min()} to {active.max()}). Of these, {own:.0%} link a latent to its own past."
    )


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
