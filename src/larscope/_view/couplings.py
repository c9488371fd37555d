"""The couplings of one latent: of the fit, and at any penalty along the exact path."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray

from larscope._fit.estimator import LatentVAR
from larscope.lasso import alpha_max, lasso_path
from larscope.lasso._path import LassoPath

DEPTH = 30
"""A path ends at its largest penalty divided by this, or at a fifth of the fit's own penalty if that is lower."""


def couplings_of(model: LatentVAR, run: int, latent: int) -> pd.DataFrame:
    """Return the coefficients from and to a latent in a run, strongest first.

    One row a coefficient: `coef` is the effect of latent `source` on latent `target`, `lag` frames later.
    """
    of_run, lag, target, source = model.coef_.nonzero
    mine = (of_run == run) & ((target == latent) | (source == latent))
    return _table(source[mine], target[mine], lag[mine] + 1, model.coef_.value[mine])


def _table(source: Any, target: Any, lag: Any, coef: Any) -> pd.DataFrame:
    table = pd.DataFrame({"source": source, "target": target, "lag": lag, "coef": coef})
    return table.sort_values("coef", key=np.abs, ascending=False, kind="stable", ignore_index=True)


@dataclass(frozen=True)
class LatentPath:
    """The exact lasso path of one latent's sources in one run.

    Attributes
    ----------
    latent
        The target.
    path
        Only of the features that ever enter; features are lagged latents.
    source, lag
        What those features are.
    alpha_per_penalty
        The setting `penalty` times this is the path's alpha.
    """

    latent: int
    path: LassoPath
    source: Int[NDArray[np.int64], " n"]
    lag: Int[NDArray[np.int64], " n"]
    alpha_per_penalty: float

    @property
    def penalties(self) -> Float[NDArray[np.float64], " knots"]:
        """The knots, from the smallest penalty without any penalised source downwards."""
        penalties: NDArray[np.float64] = self.path.alphas.numpy() / self.alpha_per_penalty
        return penalties

    def at(self, penalty: float) -> pd.DataFrame:
        """Return the couplings at a penalty, as `couplings_of` does; below the path's end, those at its end."""
        alpha = max(penalty * self.alpha_per_penalty, float(self.path.alphas[-1]))
        coef = self.path(alpha).numpy()
        there = coef != 0
        return _table(self.source[there], self.latent, self.lag[there], coef[there])

    def last_event(self, penalty: float) -> tuple[float, list[str]] | None:
        """Return the last knot above a penalty and its event; None before the first."""
        knot = int((self.penalties > penalty).sum()) - 1
        if knot < 0:
            return None
        # what appears begins at zero; what is not penalised was there before
        before = self.path.active[:, knot - 1] if knot else self.path.coefs[:, 0] != 0
        after = self.path.active[:, knot]
        events = [
            f"latent {self.source[i]} at lag {self.lag[i]} {'appears' if after[i] else 'leaves'}"
            for i in (before != after).nonzero()[:, 0].tolist()
        ]
        return float(self.penalties[knot]), events


def follow_path(model: LatentVAR, run: int, latent: int) -> LatentPath:
    """Compute the exact path of the coefficients to a latent: seconds, with hundreds of latents."""
    var, series = model.var_, torch.from_numpy(model.latents_[run]).double()
    rows = var._rows(series, series.isnan().any(1))
    target = rows.target[:, latent]
    n_latents = series.shape[1]
    feature = torch.arange(rows.design.shape[1])
    how: dict[str, Any] = {"mask": None if var.mask is None else var.mask[:, latent]}
    if var.own_weight != 1:
        how["weights"] = torch.where(feature % n_latents == latent, var.own_weight, 1.0).double()
    alpha = float(var.alpha(rows.design, rows.target)[latent])
    path = lasso_path(rows.design, target, min(float(alpha_max(rows.design, target, **how)) / DEPTH, alpha / 5), **how)
    ever = path.active.any(-1)
    lag, source = np.divmod(feature[ever].numpy(), n_latents)
    only = replace(path, coefs=path.coefs[ever], signs=path.signs[ever])
    return LatentPath(latent, only, source, lag + 1, alpha / var.penalty)
