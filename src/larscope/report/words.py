"""What a result says, in plain sentences."""

import numpy as np

from larscope.result import Result

SETTLED = 0.05
"""A loss that fell by less than this share over the last fifth of training counts as levelled off."""


def describe(result: Result) -> list[str]:
    """Return sentences that say what the data were, whether training worked, and what dynamics were found."""
    return [_data(result), _training(result), _errors(result), _dynamics(result)]


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
    change = loss_change(result)
    settled = "has levelled off" if abs(change) < SETTLED else "is still moving: train longer"
    return (
        f"Training ({result.settings['training']}, {len(result.log)} steps): the loss changed by {change:+.1%} over "
        f"the last fifth of the steps; it {settled}."
    )


def loss_change(result: Result) -> float:
    """Return the relative change of the mean loss from the fourth to the last fifth of training."""
    loss = np.array([row["loss"] for row in result.log])
    fifth = max(len(loss) // 5, 1)
    before, after = loss[-2 * fifth : -fifth], loss[-fifth:]
    return float(after.mean() / before.mean() - 1) if len(before) else float("nan")


def _errors(result: Result) -> str:
    data = result.dataset
    explained, heldout = (data[name].to_numpy() for name in ("var_explained", "var_error_heldout"))
    return (
        f"Forecasts from the past {data.attrs['order']} frames explain {explained.mean():.0%} of the latents' variance "
        f"in sample (runs: {explained.min():.0%} to {explained.max():.0%}); on the last fifth of each run, unseen by "
        f"the fit, their squared error is {heldout.mean():.2f} of the signal's energy, frame by frame."
    )


def _dynamics(result: Result) -> str:
    data = result.dataset
    active = data["n_active"].to_numpy()
    possible = int(data.attrs["order"]) * data.sizes["latent"] ** 2
    own = float((data["coef_target"].to_numpy() == data["coef_source"].to_numpy()).mean()) if active.sum() else 0.0
    return (
        f"A run has {active.mean():.0f} active coefficients of {possible} ({active.mean() / possible:.2%}; "
        f"from {active.min()} to {active.max()}); {own:.0%} of them link a latent to its own past."
    )
