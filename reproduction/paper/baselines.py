"""What a user would do instead: forecasts of the next frame, without a network.

Each baseline learns from the training runs and forecasts every frame order .. T - 1 of a run it has not seen, from the
frames before it. All are granted the run's own mean frame, as `larscope._fit.evaluation.explain_frames` grants it.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.linear_model import LassoCV, Ridge
from sklearn.utils.extmath import randomized_svd

Movie = Float[NDArray[np.float32], "t height width"]
Forecast = Callable[[Movie], Movie]
BLOCK = 8
"""Pixels of a block's side: those of a latent."""


def explained(movie: Movie, forecast: Movie) -> float:
    """1 - squared error / variance over all forecast frames and pixels, each pixel's mean granted."""
    target = movie[len(movie) - len(forecast) :]
    error = target - forecast
    residual = ((error - error.mean(0)) ** 2).sum(dtype=np.float64)
    return float(1 - residual / ((target - target.mean(0)) ** 2).sum(dtype=np.float64))


def persistence(_: Sequence[Movie], order: int) -> Forecast:
    """The frame before."""
    return lambda movie: movie[order - 1 : -1]


def pixel_ar(training: Sequence[Movie], order: int) -> Forecast:
    """Least squares on its own past for each pixel."""
    coef = _own_ar([_flat(_centred(movie)) for movie in training], order)

    def forecast(movie: Movie) -> Movie:
        mean = movie.mean(0)
        return _apply_own_ar(coef, _flat(movie - mean)).reshape(-1, *mean.shape) + mean

    return forecast


def block_ar(training: Sequence[Movie], order: int) -> Forecast:
    """Least squares on its own past for the mean dF/F of each block of 8 x 8 pixels, painted over the whole block."""
    coef = _own_ar([_flat(_blocks(_relative(movie))) for movie in training], order)

    def forecast(movie: Movie) -> Movie:
        mean = movie.mean(0)
        blocks = _blocks(_relative(movie))
        small = _apply_own_ar(coef, _flat(blocks)).reshape(-1, *blocks.shape[1:])
        return (1 + small.repeat(BLOCK, axis=1).repeat(BLOCK, axis=2)) * mean

    return forecast


def pca_var(n_components: int, kind: str) -> Callable[[Sequence[Movie], int], Forecast]:
    """Principal components of the centred frames, and a VAR of their scores: lasso, its penalty by cross-validation, or
    ridge."""

    def learn(training: Sequence[Movie], order: int) -> Forecast:
        frames = [_flat(_centred(movie)) for movie in training]
        axes = principal_axes(frames, n_components)
        scores = [part @ axes.T for part in frames]
        scale = np.concatenate(scores).std()
        design = np.concatenate([lags(score, order) for score in scores]) / scale
        target = np.concatenate([score[order:] for score in scores]) / scale
        if kind == "ridge":
            coef = Ridge(alpha=0.1 * len(design), fit_intercept=False).fit(design, target).coef_
        else:
            coef = lasso_coef(design, target)

        def forecast(movie: Movie) -> Movie:
            mean = movie.mean(0)
            predicted = lags(_flat(movie - mean) @ axes.T, order) @ coef.T
            return (predicted @ axes).reshape(-1, *mean.shape) + mean

        return forecast

    return learn


def block_means(training: Sequence[Movie], order: int) -> Forecast:
    """The means of blocks of 8 x 8 pixels, as many as larscope has latents, by `least_squares`."""
    learned = least_squares(
        [_flat(_blocks(_centred(movie))) for movie in training], [_flat(_centred(movie)) for movie in training], order
    )

    def forecast(movie: Movie) -> Movie:
        mean = movie.mean(0)
        return learned(_flat(_blocks(movie - mean))).reshape(-1, *mean.shape) + mean

    return forecast


def least_squares(
    series: Sequence[NDArray[np.floating]], frames: Sequence[NDArray[np.floating]], order: int
) -> Callable[[NDArray[np.floating]], NDArray[np.floating]]:
    """What series can do linearly: a ridge VAR of them, and pixels by ridge from what it forecasts.

    The strength of both is that which forecasts the last quarter of the runs best.
    """
    first = max(1, 3 * len(series) // 4)

    def error(strength: float) -> float:
        learned = _ridge_forecast(series[:first], frames[:first], order, strength)
        unseen = zip(series[first:], frames[first:], strict=True)
        return sum(float(((part[order:] - learned(one)) ** 2).sum()) for one, part in unseen)

    return _ridge_forecast(series, frames, order, min((0.01, 0.1, 1.0, 10.0), key=error))


def _ridge_forecast(
    series: Sequence[NDArray[np.floating]], frames: Sequence[NDArray[np.floating]], order: int, strength: float
) -> Callable[[NDArray[np.floating]], NDArray[np.floating]]:
    scale = np.concatenate(series).std()
    design = np.concatenate([lags(part, order) for part in series]) / scale
    target = np.concatenate([part[order:] for part in series]) / scale
    seen = np.concatenate([part[order:] for part in frames])
    ridge = Ridge(alpha=strength * len(design), fit_intercept=False)
    var, readout = ridge.fit(design, target).coef_.T, ridge.fit(target, seen).coef_.T
    return lambda unseen: lags(unseen, order) / scale @ var @ readout


def lasso_coef(design: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float64]:
    """One cross-validated lasso a target, folds in consecutive stretches: (targets, features)."""
    coefs = []
    for y in target.T:
        alphas = np.abs(design.T @ y).max() / len(y) * np.geomspace(1, 1e-3, 20)
        coefs.append(LassoCV(alphas=alphas, cv=4, fit_intercept=False, max_iter=3000, tol=1e-3).fit(design, y).coef_)
    return np.stack(coefs)


def principal_axes(frames: Sequence[NDArray[np.floating]], n_components: int) -> NDArray[np.floating]:
    """(components, pixels)."""
    return np.asarray(randomized_svd(np.concatenate(frames), n_components, n_iter=10, random_state=0)[2])


def lags(series: NDArray[np.floating], order: int) -> NDArray[np.floating]:
    """(T - order, order * K), the latest lag first."""
    return np.hstack([series[order - k : len(series) - k] for k in range(1, order + 1)])


BASELINES: dict[str, Callable[[Sequence[Movie], int], Forecast]] = {
    "persistence": persistence,
    "AR of each pixel": pixel_ar,
    "AR of 8 x 8 blocks, dF/F": block_ar,
    "20 PCA scores, lasso VAR": pca_var(20, "lasso"),
    "50 PCA scores, lasso VAR": pca_var(50, "lasso"),
    "50 PCA scores, ridge VAR": pca_var(50, "ridge"),
    "means of 8 x 8 blocks, ridge VAR, readout": block_means,
}


def _centred(movie: Movie) -> Movie:
    return movie - movie.mean(0)


def _relative(movie: Movie) -> Movie:
    """dF/F; 0 in pixels that are always dark."""
    mean = movie.mean(0)
    return np.divide(movie - mean, mean, out=np.zeros_like(movie), where=mean > 0)


def _flat(movie: NDArray[np.floating]) -> NDArray[np.floating]:
    return movie.reshape(len(movie), -1)


def _blocks(movie: Movie) -> Movie:
    n_frames, height, width = movie.shape
    return movie.reshape(n_frames, height // BLOCK, BLOCK, width // BLOCK, BLOCK).mean((2, 4))


def _own_ar(series: Sequence[NDArray[np.floating]], order: int) -> NDArray[np.float64]:
    """(order, series): each series' least squares on its own past, all runs together."""
    n_series = series[0].shape[1]
    gram, cross = np.zeros((n_series, order, order)), np.zeros((n_series, order))
    for part in series:
        past = np.stack([part[order - k : len(part) - k] for k in range(1, order + 1)])
        gram += np.einsum("ktj,ltj->jkl", past, past, optimize=True)
        cross += np.einsum("ktj,tj->jk", past, part[order:], optimize=True)
    # a pixel that never changes has nothing to forecast
    gram += 1e-9 * np.maximum(np.trace(gram, axis1=1, axis2=2), 1e-30)[:, None, None] * np.eye(order)
    return np.linalg.solve(gram, cross[..., None])[..., 0].T


def _apply_own_ar(coef: NDArray[np.float64], series: NDArray[np.floating]) -> NDArray[np.floating]:
    order = len(coef)
    past = (coef[k - 1].astype(series.dtype) * series[order - k : len(series) - k] for k in range(1, order + 1))
    return sum(past, start=np.zeros_like(series[order:]))
