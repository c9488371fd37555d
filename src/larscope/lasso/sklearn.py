"""The lasso and the elastic net as a scikit-learn estimator: many targets, alpha chosen for each.

Needs scikit-learn: `pip install larscope[sklearn]`.
"""
# scikit-learn has no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.model_selection import check_cv
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from larscope._errors import LarscopeError
from larscope.lasso import _engines, alpha_max, lasso, lasso_path
from larscope.lasso._problem import canonical

Array = NDArray[Any]

# The smallest of the penalties that "cv" chooses from, as a share of the largest.
LEAST = 1e-3
# Coefficients of all penalties that are held at once.
HELD = 2**25


class MultiTargetLasso(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Exact lasso or elastic net for one or many targets, each with its own penalty.

    Each target minimises ::

        1/(2 sum_i s_i) sum_i s_i (y_i - x_i'w - b)^2 + alpha (l1_ratio ||w||_1 + (1 - l1_ratio)/2 ||w||^2) ,

    with s the sample weights, as scikit-learn's `Lasso` and `ElasticNet` do.

    Parameters
    ----------
    alpha : float, array of shape (n_targets,), or {"aic", "bic", "cv"}
        The penalty, or one for each target; or how to choose it, for each target separately. "aic" and "bic" minimise
        `RSS / noise_variance + c * n_active` over the knots of the exact lasso path, with c = 2 or log(n), as
        `LassoLarsIC` does; "cv" minimises the mean squared error of held-out folds over `alphas`, as `LassoCV` does.
    l1_ratio : float
        1 is the lasso, 0 is ridge regression.
    fit_intercept : bool
        Fit b, unpenalised.
    positive : bool
        Require w >= 0.
    cv : int or scikit-learn splitter
        Folds of `alpha="cv"`.
    alphas : int or array
        Penalties that "cv" chooses from: so many for each target, from its largest one down to a thousandth of it, or
        those given.
    noise_variance : float, optional
        For "aic" and "bic". Estimated by least squares where there are more samples than features.

    Attributes
    ----------
    coef_ : array, shape (n_features,) or (n_targets, n_features)
    intercept_ : float or array, shape (n_targets,)
    alpha_ : float or array, shape (n_targets,)
        The penalty used.
    certificate_ : LassoInfo
        How exact the coefficients are, for each target. Those of float32 data are rounded after it.
    alphas_ : array, shape (n_alphas,) or (n_targets, n_alphas)
        The penalties that "cv" chose from, falling.
    mse_path_ : array, shape (n_alphas, n_folds) or (n_targets, n_alphas, n_folds)
        Held-out mean squared error of each of them.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from larscope.lasso.sklearn import MultiTargetLasso
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = MultiTargetLasso(alpha="bic").fit(X, y)
    >>> int((model.coef_ != 0).sum())
    7
    """

    def __init__(
        self,
        alpha: Any = 1.0,
        *,
        l1_ratio: float = 1.0,
        fit_intercept: bool = True,
        positive: bool = False,
        cv: Any = 5,
        alphas: Any = 100,
        noise_variance: float | None = None,
    ) -> None:
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.positive = positive
        self.cv = cv
        self.alphas = alphas
        self.noise_variance = noise_variance

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> MultiTargetLasso:
        """Fit to X (n, n_features) and y (n,) or (n, n_targets).

        Parameters
        ----------
        X, y : array
            float32 or float64. The fit is solved in float64, and the results have the type of `X`.
        sample_weight : array, shape (n,), optional
            Weight of each sample, in folds too. Only their ratios matter.
        groups : array, shape (n,), optional
            Passed to the splitter `cv`, such as `GroupKFold`.

        Raises
        ------
        ValueError
            On arrays that do not fit, an `alpha` that is not a number >= 0 or a known criterion, or an `l1_ratio`
            outside 0 to 1.
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=[np.float64, np.float32])
        X = np.asarray(X)
        single, number = np.ndim(y) == 1, X.dtype
        rows, targets = X.astype(np.float64), np.asarray(y, dtype=np.float64).reshape(len(X), -1)
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
        if weight is not None and (weight < 0).any():
            raise LarscopeError(f"`sample_weight` must be >= 0: got {weight.min()}. Use 0 for a sample to leave out.")
        self._check_l1_ratio()
        samples = self._samples(rows, targets, weight)
        alphas = self._choose_alphas(rows, targets, weight, samples, groups)
        coef, self.certificate_ = self._solve(samples, alphas, single)
        self.coef_: Array = coef.astype(number)
        intercept = samples.y_mean - (coef.reshape(len(alphas), -1) @ samples.X_mean)
        self.intercept_: float | Array = number.type(intercept[0]) if single else intercept.astype(number)
        self.alpha_: float | Array = float(alphas[0]) if single else alphas
        return self

    def predict(self, X: ArrayLike) -> Array:
        """Predict, shape (n,) or (n, n_targets)."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        prediction: Array = np.asarray(X) @ self.coef_.T + self.intercept_
        return prediction

    def _samples(self, X: Array, Y: Array, weight: Array | None) -> _Samples:
        """Centre, and weight, what is fitted."""
        X_mean, Y_mean = np.zeros(X.shape[1]), np.zeros(Y.shape[1])
        if self.fit_intercept:
            X_mean, Y_mean = np.average(X, axis=0, weights=weight), np.average(Y, axis=0, weights=weight)
        X, Y = X - X_mean, Y - Y_mean
        if weight is not None:
            root = np.sqrt(weight * (len(weight) / weight.sum()))[:, None]
            X, Y = X * root, Y * root
        return _Samples(torch.from_numpy(X), torch.from_numpy(Y), X_mean, Y_mean)

    def _solve(self, samples: _Samples, alphas: Array, single: bool) -> tuple[Array, Any]:
        options: dict[str, Any] = {"gradient": None, "positive": self.positive, "return_info": True}
        if len(alphas) == 1 or self.l1_ratio == 1:
            y, alpha = (samples.y[:, 0], alphas[0].item()) if single else (samples.y, torch.from_numpy(alphas))
            ridge = float(alphas[0]) * (1 - self.l1_ratio) if self.l1_ratio != 1 else 0.0
            coef, certificate = lasso(samples.X, y, alpha * self.l1_ratio, l2=ridge, **options)
            return coef.numpy().T.copy(), certificate
        # Every target has a ridge of its own.
        each = [
            lasso(samples.X, y, alpha * self.l1_ratio, l2=alpha * (1 - self.l1_ratio), **options)
            for y, alpha in zip(samples.y.T, alphas.tolist(), strict=True)
        ]
        fields = {name: torch.stack([getattr(info, name) for _, info in each]) for name in vars(each[0][1])}
        return np.stack([coef.numpy() for coef, _ in each]), type(each[0][1])(**fields)

    def _check_l1_ratio(self) -> None:
        ratio = self.l1_ratio
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float, np.number)) or not 0 <= ratio <= 1:
            raise LarscopeError(
                f"`l1_ratio` must be a number from 0 to 1: got {ratio!r}. Use 1 for the lasso, less for an elastic net."
            )

    def _choose_alphas(
        self, X: Array, Y: Array, weight: Array | None, samples: _Samples, groups: ArrayLike | None
    ) -> Array:
        if isinstance(self.alpha, str):
            if self.alpha == "cv":
                return self._by_cross_validation(X, Y, weight, samples, groups)
            if self.alpha in ("aic", "bic"):
                return self._by_criterion(samples)
        else:
            alphas = np.asarray(self.alpha)
            numbers = np.issubdtype(alphas.dtype, np.integer) or np.issubdtype(alphas.dtype, np.floating)
            if numbers and alphas.shape in ((), (Y.shape[1],)) and (alphas >= 0).all() and np.isfinite(alphas).all():
                return np.broadcast_to(alphas.astype(np.float64), Y.shape[1]).copy()
        raise LarscopeError(
            f'`alpha` must be a number >= 0, one for each of {Y.shape[1]} targets, "aic", "bic" or "cv": got '
            f'{self.alpha!r}. Use "cv" if you do not know the penalty.'
        )

    def _by_criterion(self, samples: _Samples) -> Array:
        """Minimise the criterion over knots: between two of them RSS falls at a constant number active."""
        if self.l1_ratio != 1:
            raise LarscopeError(
                f'`alpha="{self.alpha}"` must have l1_ratio=1: got {self.l1_ratio}. Use alpha="cv" for an elastic net.'
            )
        X, Y = samples.X.numpy(), samples.y.numpy()
        cost = 2.0 if self.alpha == "aic" else np.log(len(X))
        noise = self._noise_variance(X, Y)
        path = lasso_path(samples.X, samples.y, positive=self.positive)
        residual = samples.y.T[:, :, None] - samples.X @ path.coefs
        rss, n_active = residual.square().sum(dim=1).numpy(), (path.coefs != 0).sum(dim=1).numpy()
        best = np.argmin(rss / noise[:, None] + cost * n_active, axis=1)
        chosen: Array = path.alphas.numpy()[np.arange(len(best)), best]
        return chosen

    def _noise_variance(self, X: Array, Y: Array) -> Array:
        if self.noise_variance is not None:
            return np.full(Y.shape[1], float(self.noise_variance))
        n, p = X.shape
        freedom = n - p - int(self.fit_intercept)
        if freedom <= 0:
            raise LarscopeError(
                f'`alpha="{self.alpha}"` must know the noise: got {n} samples, too few for a least squares fit '
                f'of {p} features. Pass `noise_variance`, or use alpha="cv".'
            )
        residual = Y - X @ np.linalg.lstsq(X, Y, rcond=None)[0]
        variance: Array = (residual**2).sum(axis=0) / freedom
        return np.maximum(variance, np.finfo(float).tiny)

    def _by_cross_validation(
        self, X: Array, Y: Array, weight: Array | None, samples: _Samples, groups: ArrayLike | None
    ) -> Array:
        """Minimise the mean of the folds' held-out errors over a grid of penalties; one pass down the grid a fold."""
        grid = self._grid(samples)
        folds = list(check_cv(self.cv).split(X, Y, groups))
        error = np.empty((*grid.shape, len(folds)))
        size = max(1, HELD // (grid.shape[1] * X.shape[1]))
        for f, (train, test) in enumerate(folds):
            fold = self._samples(X[train], Y[train], None if weight is None else weight[train])
            held_out = None if weight is None else weight[test]
            for lo in range(0, len(grid), size):
                some = slice(lo, lo + size)
                problem, _ = canonical(fold.X, fold.y[:, some], 0.0, positive=self.positive)
                coef = _engines.solve_grid(problem, torch.from_numpy(grid[some]), float(self.l1_ratio)).numpy()
                miss = (Y[test][:, some] - fold.y_mean[some]).T[:, None] - coef @ (X[test] - fold.X_mean).T
                error[some, :, f] = np.average(miss**2, axis=-1, weights=held_out)
        single = len(grid) == 1
        self.alphas_: Array = grid[0] if single else grid
        self.mse_path_: Array = error[0] if single else error
        # The largest of equally good penalties.
        chosen: Array = grid[np.arange(len(grid)), error.mean(axis=-1).argmin(axis=1)]
        return chosen

    def _grid(self, samples: _Samples) -> Array:
        """Penalties to choose from, falling: (n_targets, n_alphas)."""
        given, k = np.asarray(self.alphas), samples.y.shape[1]
        if given.ndim == 0 and np.issubdtype(given.dtype, np.integer) and given >= 1:
            if self.l1_ratio == 0:
                raise LarscopeError(
                    "`alphas` must be given for ridge regression: got l1_ratio=0, where no penalty is the largest "
                    "that matters. Pass an array of penalties."
                )
            largest = alpha_max(samples.X, samples.y, positive=self.positive).numpy() / self.l1_ratio
            largest = np.maximum(largest, np.finfo(np.float64).resolution)
            return np.ascontiguousarray(np.geomspace(largest, LEAST * largest, int(given)).T)
        numbers = np.issubdtype(given.dtype, np.integer) or np.issubdtype(given.dtype, np.floating)
        if numbers and given.ndim == 1 and given.size and (given >= 0).all() and np.isfinite(given).all():
            return np.tile(np.sort(given.astype(np.float64))[::-1], (k, 1))
        raise LarscopeError(
            f"`alphas` must be a number of penalties, or an array of some >= 0: got {self.alphas!r}. Use 100."
        )


@dataclass(frozen=True)
class _Samples:
    """What is fitted: centred, and weighted; and what was taken off."""

    X: torch.Tensor
    y: torch.Tensor
    X_mean: Array
    y_mean: Array
