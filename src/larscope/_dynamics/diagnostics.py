"""What a fit leaves over, and whether it is stable: the diagnostics that a time-series journal asks for."""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import bmat, csr_array, eye_array
from scipy.sparse.linalg import ArpackError, eigs
from scipy.special import gammaincc
from torch import Tensor

DENSE = 600
"""Companion matrices up to this side are taken apart whole; of larger ones, only the largest eigenvalue is sought."""

LAGS = 10
"""Lags of the Ljung-Box test."""

LEVEL = 0.05
"""Level of that test, over all latents together (Holm 1979)."""


def spectral_radius(coef: Float[Tensor, "order K K"]) -> float:
    r"""Return the largest absolute eigenvalue of a VAR's companion matrix: below 1, its dynamics die out.

    .. math:: \begin{pmatrix} A_1 & \cdots & A_{p-1} & A_p \\ I & & & 0 \\ & \ddots & & \vdots \\
              & & I & 0 \end{pmatrix}

    (Luetkepohl 2005, eq. 2.1.8). NaN where the search for it does not end.

    Examples
    --------
    >>> round(spectral_radius(torch.tensor([[[0.5, 1.0], [0.0, 0.9]]])), 6)
    0.9
    """
    order, n_latents, _ = coef.shape
    top = csr_array(coef.double().cpu().permute(1, 0, 2).reshape(n_latents, -1).numpy())
    below = [] if order == 1 else [[eye_array(n_latents * (order - 1), n_latents * order)]]
    companion = csr_array(bmat([[top], *below]))
    side = n_latents * order
    if side <= DENSE:
        return float(np.abs(np.linalg.eigvals(companion.toarray())).max())
    try:
        start = np.ones(side)  # not a random one: the same fit has the same number
        return float(np.abs(eigs(companion, k=1, which="LM", v0=start, return_eigenvectors=False)).max())
    except ArpackError:
        return float("nan")


def autocorrelated(residual: Float[NDArray[np.floating], "n K"]) -> int:
    r"""Count the series that are not white noise, by the test of Ljung and Box (1978) and Holm's correction.

    .. math:: Q = n (n + 2) \sum_{k=1}^{10} \rho_k^2 / (n - k)

    is compared with a chi-squared distribution of 10 degrees of freedom.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> noise = rng.standard_normal((500, 3))
    >>> autocorrelated(noise), autocorrelated(noise[1:] + noise[:-1])
    (0, 3)
    """
    n = len(residual)
    lags = min(LAGS, n // 5)
    centred = residual - residual.mean(0)
    energy = np.square(centred).sum(0)
    varies = energy > 0
    if not lags or not varies.any():
        return 0
    centred, energy = centred[:, varies], energy[varies]
    rho = np.stack([(centred[k:] * centred[:-k]).sum(0) / energy for k in range(1, lags + 1)])
    q = n * (n + 2) * (np.square(rho) / (n - np.arange(1, lags + 1))[:, None]).sum(0)
    p = np.sort(gammaincc(lags / 2, q / 2))  # the upper tail of chi-squared
    rejected = p <= LEVEL / np.arange(len(p), 0, -1)
    return int(np.argmin(rejected)) if not rejected.all() else len(p)


def residual_correlation(residual: Float[NDArray[np.floating], "n K"]) -> float:
    """Return the largest absolute correlation of two residuals in the same frame; NaN where there are no two.

    A large one says that something else drives both, or that one cell is in both.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> noise = rng.standard_normal((500, 3))
    >>> noise[:, 2] += noise[:, 0]
    >>> 0.6 < residual_correlation(noise) < 0.8
    True
    """
    varying = residual[:, residual.std(0) > 0]
    if varying.shape[1] < 2:
        return float("nan")
    correlation = np.abs(np.corrcoef(varying.T))
    np.fill_diagonal(correlation, 0)
    return float(correlation.max())
