"""How the fit of a run depends on the penalty: the same latents, refitted with larger and smaller ones.

The latents were learned at one penalty, so this says what the VAR makes of them at another, not what a training with
another penalty would have found.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from larscope.var import HELD_OUT, SparseVAR, complete_rows

FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""The penalties of a curve, in units of the one that was chosen."""

MAX_CURVES = 8
"""Runs that curves are traced for, at most."""


@dataclass(frozen=True)
class PenaltyCurve:
    """One run, fitted with several penalties; every sequence has one entry a penalty.

    Attributes
    ----------
    penalty
        In the units of the setting.
    n_active
        Non-zero coefficients of the fit to the whole run.
    explained
        1 - squared error / variance, in sample, pooled over frames and latents.
    explained_heldout
        The same on the last 20 % of the frames, with coefficients from the first 80 %, whose mean the variance is
        about; NaN where one of the two parts has nothing to fit or to forecast.
    """

    penalty: list[float]
    n_active: list[int]
    explained: list[float]
    explained_heldout: list[float]


def trace_penalties(var: SparseVAR, latent: Float[Tensor, "T K"], factors: Sequence[float] = FACTORS) -> PenaltyCurve:
    """Fit a run's latents with several penalties, each a multiple of `var.penalty`; masked frames are NaN.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> latent = torch.randn(200, 4, dtype=torch.float64).cumsum(0)
    >>> curve = trace_penalties(SparseVAR(order=2, penalty=0.01), latent, factors=(1, 10))
    >>> curve.penalty, curve.n_active[0] > curve.n_active[1]
    ([0.01, 0.1], True)
    """
    missing = latent.isnan().any(1)
    split = round(len(latent) * (1 - HELD_OUT))
    late, centre = latent[split - var.order :], latent[:split].nanmean(0)
    can_hold_out = bool(complete_rows(missing[:split], var.order).any())
    curve = PenaltyCurve([], [], [], [])
    for factor in factors:
        tried = copy.copy(var)
        tried.penalty = factor * var.penalty
        with torch.no_grad():
            fit = tried(latent, missing)
            early = tried(latent[:split], missing[:split]) if can_hold_out else None
        curve.penalty.append(tried.penalty)
        curve.n_active.append(int(fit.n_active))
        curve.explained.append(_explained(latent[var.order :], fit.forecast))
        curve.explained_heldout.append(
            math.nan if early is None else _explained(late[var.order :], early.predict(late), centre)
        )
    return curve


def chosen_runs(conditions: Sequence[str], n_runs: int = MAX_CURVES) -> list[int]:
    """Return the runs that curves are traced for: conditions take turns, so that each is shown.

    >>> chosen_runs(["a", "a", "a", "b"], n_runs=3)
    [0, 1, 3]
    """
    turn = [conditions[:run].count(name) for run, name in enumerate(conditions)]
    return sorted(sorted(range(len(conditions)), key=lambda run: (turn[run], run))[:n_runs])


def _explained(target: Tensor, forecast: Tensor, centre: Tensor | None = None) -> float:
    there = torch.isfinite(target).all(1) & torch.isfinite(forecast).all(1)
    target, forecast = target[there].double(), forecast[there].double()
    spread = (target - (target.mean(0) if centre is None else centre.double())).square().sum()
    return float(1 - (target - forecast).square().sum() / spread) if spread > 0 else math.nan
