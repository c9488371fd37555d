"""The coefficient-swap test: forecast every run with the coefficients of every other."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from larscope._compute.compiler import compiled
from larscope._compute.workers import hand_out
from larscope._errors import LarscopeError
from larscope._statistics.comparison import Comparison, compare_pairs, warned
from larscope._statistics.maps import Coefs, check_coefs
from larscope._statistics.pairs import PairDistances
from larscope._statistics.permutation import exchangeable_units
from larscope._statistics.pitfalls import check_fitted_separately, condition_imbalances, silent_runs
from larscope._statistics.scaling import rounding_energy

PIECES = 16
"""How many pieces the runs are handed out in."""


def coefficient_swap_test(
    latents: Sequence[Float[np.ndarray, "_frames K"]],
    coefs: Coefs,
    condition: Sequence[Hashable],
    block: Sequence[Hashable] | None = None,
    relative: bool = True,
    center: bool = True,
    n_permutations: int = 9999,
    seed: int = 0,
    *,
    subject: Sequence[Hashable] | None = None,
    position: Sequence[float] | None = None,
    equal_length: bool = True,
    scale: Literal["series", "latent"] = "series",
) -> Comparison:
    r"""Test whether forecasts get worse under coefficients from the other condition.

    With E[s, r] the error of series s under the coefficients of run r (`swap_errors`),

    .. math::
        \Delta[s, r] = E[s, r] / E[s, s] - 1 \quad\text{(default)}, \qquad
        \Delta[s, r] = E[s, r] - E[s, s] \quad\text{(relative=False, section 2.3)}

    over ordered pairs of different runs. A raw Delta grows with the noise of the run it is measured on; the
    relative one does not.

    Parameters
    ----------
    latents
        One series (frames, K) a run.
    coefs
        One array (order, K, K) a run, fitted to that run alone, on the same number of frames in every run;
        `SparseCoefficients` will do.
    condition, block, subject
        Design of the session, one entry a run: see `larscope._statistics.permutation.exchangeable_units`.
    relative
        False for the paper's Delta.
    center
        Subtract each series' mean over time, as the fit did.
    n_permutations, seed
        Random labelings to draw if there are more than 10,000, and their seed.
    position
        When each run was recorded: see `larscope._statistics.comparison.compare_pairs`.
    equal_length
        Measure every run on as many frames as the shortest one has.
    scale
        The `scale` of the fit: see `larscope.SparseVAR`.

    Returns
    -------
    comparison
        See `Comparison`.

    Raises
    ------
    LarscopeError
        If shapes do not match, two runs of a condition have identical coefficients, or no condition has two
        runs.

    Warns
    -----
    ComparisonWarning
        If the design cannot reach p = 0.05, or if run length or signal-to-noise differ by condition.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> coefs = np.array([[[[0.5, a], [0.0, 0.5]]] for a in rng.normal([0.8] * 5 + [-0.8] * 5, 0.05)])
    >>> latents = np.zeros((10, 200, 2))
    >>> for z, coef in zip(latents, coefs):
    ...     for t in range(1, 200):
    ...         z[t] = coef[0] @ z[t - 1] + rng.normal(size=2)
    >>> test = coefficient_swap_test(latents, coefs, ["a"] * 5 + ["b"] * 5)
    >>> test.units, round(test.pvalue, 3)
    ('Labels are permuted over runs (5 a, 5 b): 252 labelings.', 0.008)
    """
    units = exchangeable_units(condition, block, subject)
    check_coefs(coefs, len(units.label))
    check_fitted_separately(coefs, units)
    _check_latents(latents, coefs)
    pairs = swap_deltas(latents, coefs, relative, center, equal_length, scale)
    found = compare_pairs(pairs, condition, block, subject, n_permutations, seed, position=position, warn=False)
    noticed = condition_imbalances(latents, condition, block, subject) + silent_runs(coefs)
    return warned(replace(found, warnings=found.warnings + noticed))


def swap_deltas(
    latents: Sequence[Float[np.ndarray, "_frames K"]],
    coefs: Coefs,
    relative: bool = True,
    center: bool = True,
    equal_length: bool = True,
    scale: Literal["series", "latent"] = "series",
) -> PairDistances:
    """Excess error of every run under the coefficients of every run, relative to its own error or raw.

    See `coefficient_swap_test` for the formula and `swap_errors` for the parameters.

    Raises
    ------
    LarscopeError
        If a run is forecast without error by its own coefficients, so that nothing can be relative to it.

    Examples
    --------
    >>> latents = [np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [1.0], [2.0]])]
    >>> coefs = [np.array([[[2.0]]]), np.array([[[1.0]]])]
    >>> swap_deltas(latents, coefs, center=False).value
    array([[0., 1.],
           [0., 0.]])
    """
    errors = swap_errors(latents, coefs, center, equal_length, scale)
    own = errors.diagonal()[:, None]
    if (own <= 0).any():
        run = int(np.argmin(own))
        raise LarscopeError(
            f"Every run must vary beyond its own forecasts: got error {own[run, 0]} in run {run}. Leave the run out "
            "if its latents are constant, or pass the latents of the fit."
        )
    excess = errors - own
    return PairDistances(excess / own if relative else excess, excess / own, symmetric=False)


def swap_errors(
    latents: Sequence[Float[np.ndarray, "_frames K"]],
    coefs: Coefs,
    center: bool = True,
    equal_length: bool = True,
    scale: Literal["series", "latent"] = "series",
) -> Float[np.ndarray, "runs runs"]:
    r"""Forecast every run with the coefficients of every run.

    .. math::
        E[s, r] = \frac{1}{K (T - p)} \sum_{t=p+1}^{T} \| z^{(s)}_t - \hat z_t \|^2, \qquad
        \hat z_t = \sigma_z \sum_{k=1}^{p} A^{(r)}_k \, z^{(s)}_{t-k} / \sigma_z

    With one scale :math:`\sigma_z` for the whole series it cancels; with one for each latent
    (`scale="latent"`, if the fit had it) it does not.

    Parameters
    ----------
    latents
        One series (frames, K) a run; a frame that is NaN in all latents is missing, and errors leave it out.
    coefs
        One array (order, K, K) a run.
    center
        Subtract each series' mean over time first.
    equal_length
        Keep of every run as many frames, from its start, as the shortest one has.
    scale
        The `scale` of the fit.

    Returns
    -------
    errors
        E[s, r], in squared units of the latents.

    Raises
    ------
    LarscopeError
        If shapes do not match or a run has too few frames.

    Examples
    --------
    >>> latents = [np.array([[1.0], [2.0], [4.0]]), np.array([[1.0], [1.0], [1.0]])]
    >>> coefs = [np.array([[[2.0]]]), np.array([[[1.0]]])]
    >>> swap_errors(latents, coefs, center=False)
    array([[0. , 2.5],
           [1. , 0. ]])
    """
    _check_latents(latents, coefs)
    order = len(coefs[0])
    series_of = equally_long(latents) if equal_length else latents
    matrices = [_coef_matrix(coef) for coef in coefs]
    size = -(-len(series_of) // PIECES)
    pieces = ((start, series_of[start : start + size]) for start in range(0, len(series_of), size))
    forecast = partial(_errors_of_piece, matrices, order, center, scale)
    return np.concatenate(list(hand_out(forecast, pieces)))


def _errors_of_piece(
    matrices: list[scipy.sparse.csr_array],
    order: int,
    center: bool,
    scale: Literal["series", "latent"],
    piece: tuple[int, Sequence[Float[np.ndarray, "_frames K"]]],
) -> Float[np.ndarray, "some runs"]:
    """Forecast some runs, from the one of that number on, with the coefficients of every run."""
    first, series_of = piece
    errors = np.empty((len(series_of), len(matrices)))
    for s, latent in enumerate(series_of):
        series = np.asarray(latent, float).T
        energy = np.nanmean(series**2, axis=1, keepdims=True)
        if center:
            series = series - np.nanmean(series, axis=1, keepdims=True)
        sigma = np.ones((len(series), 1))
        if scale == "latent":
            sigma = _scale(series, energy, np.asarray(latent).dtype)
        lags = _lagged(series / sigma, order)
        there = np.isfinite(lags).all(axis=0) & np.isfinite(series[:, order:]).all(axis=0)
        lags, target = np.ascontiguousarray(lags[:, there]), series[:, order:][:, there]
        n_frames = target.shape[1]
        # a target with few sources needs no forecast of every frame: products of its sources will do
        few = [np.square(np.diff(m.indptr), dtype=float).sum() < m.nnz * n_frames for m in matrices]
        gram, cross, total = (lags @ lags.T, target @ lags.T, np.vdot(target, target)) if any(few) else (None,) * 3
        for r, matrix in enumerate(matrices):
            if few[r] and r != first + s:  # its own error may be as small as rounding makes the sums
                gain = _gain(matrix.indptr, matrix.indices, matrix.data, gram, cross, sigma[:, 0])
                errors[s, r] = (total - gain) / target.size
            else:
                product = (matrix if matrix.nnz < 0.05 * np.prod(matrix.shape) else matrix.toarray()) @ lags
                residual = target - sigma * product
                errors[s, r] = np.vdot(residual, residual) / target.size
    return errors


@compiled
def _gain(
    starts: Int[np.ndarray, " K_plus_1"],
    sources: Int[np.ndarray, " entries"],
    values: Float[np.ndarray, " entries"],
    gram: Float[np.ndarray, "p p"],
    cross: Float[np.ndarray, "K p"],
    sigma: Float[np.ndarray, " K"],
) -> float:
    """Return how much less the squared error of forecasts is than that of none, from sums over frames."""
    gain = 0.0
    for target in range(len(starts) - 1):
        linear, quadratic = 0.0, 0.0
        for i in range(starts[target], starts[target + 1]):
            row = gram[sources[i]]
            inner = 0.5 * values[i] * row[sources[i]]
            for j in range(starts[target], i):
                inner += values[j] * row[sources[j]]
            quadratic += values[i] * inner
            linear += values[i] * cross[target, sources[i]]
        gain += 2 * sigma[target] * (linear - sigma[target] * quadratic)
    return gain


def equally_long(latents: Sequence[Float[np.ndarray, "_frames K"]]) -> list[Float[np.ndarray, "_frames K"]]:
    """Cut every series to as many frames, from its start, as the shortest has: not counting missing (NaN) ones.

    >>> [len(z) for z in equally_long([np.array([[1.0], [2.0]]), np.array([[1.0], [np.nan], [2.0], [3.0]])])]
    [2, 3]
    """
    there = [np.cumsum(np.isfinite(latent).all(axis=1)) for latent in latents]
    shortest = min(count[-1] for count in there)
    return [latent[: int(np.searchsorted(count, shortest)) + 1] for latent, count in zip(latents, there, strict=True)]


def _check_latents(latents: Sequence[Any], coefs: Coefs) -> None:
    if len(latents) != len(coefs):
        raise LarscopeError(
            f"`latents` must have one series a run: got {len(latents)} series and {len(coefs)} arrays of coefficients. "
            "Pass both for the same runs, in the same order."
        )
    n_lags, n_latents, _ = coefs[0].shape
    for run, latent in enumerate(latents):
        shape = np.shape(latent)
        if len(shape) != 2 or shape[1] != n_latents or shape[0] <= n_lags:
            raise LarscopeError(
                f"`latents` must be series (frames, K) with K={n_latents} and more than order={n_lags} frames: got "
                f"shape {shape} for run {run}. Drop the run, or pass the latents of the fit."
            )
        missing = np.isnan(latent).all(axis=1)
        if not np.isfinite(np.asarray(latent)[~missing]).all():
            raise LarscopeError(
                "`latents` must be finite, or NaN in all latents of a missing frame: got NaN or infinity in run "
                f"{run}. Drop these frames or the run."
            )
        there = np.lib.stride_tricks.sliding_window_view(~missing, n_lags + 1).all(axis=1)
        if not there.any():
            raise LarscopeError(
                f"Every run needs {n_lags + 1} consecutive frames: run {run} has too many missing. Drop the run."
            )


def _lagged(series: Float[np.ndarray, "K frames"], order: int) -> Float[np.ndarray, "p n"]:
    """Stack the series' past, lag by lag: the transpose of `larscope._dynamics.var.lag_matrix`."""
    n_frames = series.shape[1]
    return np.concatenate([series[:, order - k : n_frames - k] for k in range(1, order + 1)])


def _scale(
    series: Float[np.ndarray, "K frames"], energy: Float[np.ndarray, "K 1"], dtype: np.dtype[Any]
) -> Float[np.ndarray, "K 1"]:
    """Return the scale of each latent, given its mean square before centring; 1 for one that is constant."""
    variance = np.nanvar(series, axis=1, keepdims=True)
    eps = np.finfo(dtype if dtype.kind == "f" else float).eps
    return np.sqrt(np.where(variance <= rounding_energy(energy, eps), 1.0, variance))


def _coef_matrix(coef: Float[np.ndarray, "order K K"]) -> scipy.sparse.csr_array:
    """Coefficients as one sparse matrix (K, order * K), row the target, column the source lag by lag."""
    return scipy.sparse.csr_array(np.concatenate(list(np.asarray(coef, float)), axis=1))
