"""What to look at before you trust a VAR: whether it settles, and what its residuals have left."""

import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import scipy.special
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from larscope._dynamics.var import SMALLEST_RESIDUAL, VARFit

LEVEL = 0.05
"""Level of the test of residuals, over all latents together (Holm 1979)."""

LAGS = 10
"""Fewest lags of the test of residuals."""

DENSE = 600
"""Up to this size eigenvalues are computed all at once."""


@dataclass(frozen=True)
class Diagnostics:
    """Of one run's VAR.

    Attributes
    ----------
    spectral_radius
        Largest absolute eigenvalue of the companion matrix. From 1 on, forecasts of forecasts grow without bound.
    n_autocorrelated
        Latents whose residuals still depend on their own past (Ljung-Box, Holm): in 19 of 20 runs with white ones, 0.
    residual_correlation
        Largest absolute correlation of two latents' residuals in the same frame.
    residual_first, residual_second
        The two latents; -1 where there is no pair.
    """

    spectral_radius: float
    n_autocorrelated: int
    residual_correlation: float
    residual_first: int
    residual_second: int


def diagnose(latent: Float[Tensor, "T K"], fit: VARFit) -> Diagnostics:
    """Measure a fit to one run; frames without forecast are left out. Latents without residuals say nothing: NaN.

    Examples
    --------
    >>> from larscope import SparseVAR
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> latent = torch.randn(300, 4, dtype=torch.float64)
    >>> latent[:, 3] = latent[:, 1] + 0.5 * latent[:, 3]  # the same cell in two latents, say
    >>> found = diagnose(latent, SparseVAR(order=2, penalty=1.0)(latent))
    >>> found.residual_first, found.residual_second, round(found.residual_correlation, 1)
    (1, 3, 0.9)
    """
    target = latent[fit.order :].detach().double()
    residual = (target - fit.forecast.detach().double()).cpu().numpy()
    there: Bool[NDArray[np.bool_], " n"] = np.asarray(np.isfinite(residual).all(axis=1))
    spread = target.cpu().numpy()[there].std(axis=0)
    varies = np.flatnonzero(residual[there].std(axis=0) > SMALLEST_RESIDUAL * spread)
    correlation, first, second = strongest_correlation(residual[there][:, varies])
    p = ljung_box(residual[:, varies], max(LAGS, 2 * fit.order), fit.order)
    return Diagnostics(
        spectral_radius=spectral_radius(fit.coef.detach().double().cpu().numpy()),
        n_autocorrelated=count_rejected(p),
        residual_correlation=correlation,
        residual_first=int(varies[first]) if first >= 0 else -1,
        residual_second=int(varies[second]) if second >= 0 else -1,
    )


def spectral_radius(coef: Float[NDArray[np.float64], "order K K"]) -> float:
    """Return the largest absolute eigenvalue of the companion matrix.

    Latents that do not act back on each other, directly or through others, have their eigenvalues apart: so each group
    of those that do is solved by itself.

    Examples
    --------
    >>> round(spectral_radius(np.array([[[0.5, 0.3], [0.0, 0.9]]])), 6)
    0.9
    """
    n_groups, group = connected_components(scipy.sparse.csr_array((coef != 0).any(axis=0)), connection="strong")
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group, minlength=n_groups))[:-1])
    return max((_radius(coef[:, latents[:, None], latents]) for latents in members), default=0.0)


def _radius(coef: Float[NDArray[np.float64], "order K K"]) -> float:
    order, n, _ = coef.shape
    top = scipy.sparse.hstack([scipy.sparse.csr_array(one) for one in coef])
    below = scipy.sparse.eye_array((order - 1) * n, order * n)
    companion = scipy.sparse.csr_array(scipy.sparse.vstack([top, below]))
    if order * n > DENSE:
        try:
            start = np.ones(order * n)
            found = scipy.sparse.linalg.eigs(companion, k=6, ncv=60, v0=start, tol=1e-8, return_eigenvectors=False)
            return float(np.abs(found).max())
        except scipy.sparse.linalg.ArpackNoConvergence:
            pass  # eigenvalues too close together to be told apart by iterations
    return float(np.abs(np.linalg.eigvals(companion.toarray())).max())


def ljung_box(
    residual: Float[NDArray[np.float64], "n K"], n_lags: int, n_fitted: int
) -> Float[NDArray[np.float64], " K"]:
    r"""Return for each latent the p-value of white residuals, by Ljung and Box (1978).

    .. math:: Q = n (n + 2) \sum_k r_k^2 / n_k

    against chi square of `n_lags - n_fitted` degrees of freedom, with :math:`r_k` the autocorrelation at lag k over the
    :math:`n_k` pairs of frames that are both there: n - k of them without gaps, which is the test as printed.

    Parameters
    ----------
    residual
        NaN in all latents where there is none.
    n_lags, n_fitted
        Lags tested, and coefficients that were fitted to a latent's own past.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(size=(500, 2))
    >>> noise[1:, 1] += noise[:-1, 1]
    >>> ljung_box(noise, n_lags=10, n_fitted=0) < 0.01
    array([False,  True])
    """
    there: Bool[NDArray[np.bool_], " n"] = np.asarray(np.isfinite(residual).all(axis=1))
    n = int(there.sum())
    n_lags = min(n_lags, n // 2)
    if n_lags <= n_fitted:
        return np.full(residual.shape[1], math.nan)
    centred = np.where(there[:, None], residual - residual[there].mean(axis=0), 0)
    variance = np.square(centred).sum(axis=0)
    total = np.zeros(residual.shape[1])
    for lag in range(1, n_lags + 1):
        n_pairs = np.count_nonzero(there[lag:] & there[:-lag])
        r = np.einsum("tk,tk->k", centred[lag:], centred[:-lag]) / variance
        total += np.square(r) / max(n_pairs, 1)
    return np.asarray(scipy.special.chdtrc(n_lags - n_fitted, n * (n + 2) * total))


def count_rejected(p: Float[NDArray[np.float64], " K"]) -> int:
    """Count the p-values that Holm's step-down procedure rejects; NaN are not rejected.

    >>> count_rejected(np.array([0.001, 0.02, 0.03, 0.9]))
    1
    """
    rejected = np.sort(p) <= LEVEL / np.arange(len(p), 0, -1)
    return int(np.argmin(rejected)) if not rejected.all() else len(p)


def strongest_correlation(residual: Float[NDArray[np.float64], "n K"]) -> tuple[float, int, int]:
    """Return the largest absolute correlation of two columns, and which they are; NaN and -1 without two."""
    n, n_latents = residual.shape
    if n_latents < 2 or n < 3:
        return math.nan, -1, -1
    correlation = np.abs(np.corrcoef(residual.T))
    np.fill_diagonal(correlation, -1)
    first, second = np.unravel_index(correlation.argmax(), correlation.shape)
    return min(float(correlation[first, second]), 1.0), int(min(first, second)), int(max(first, second))
