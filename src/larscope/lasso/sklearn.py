"""The lasso as a scikit-learn estimator: many targets, alpha chosen for each along its exact path.

Needs scikit-learn: `pip install larscope[sklearn]`.
"""
# scikit-learn has no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.model_selection import check_cv
from sklearn.utils.validation import check_is_fitted, validate_data

from larscope._errors import LarscopeError
from larscope.lasso import lasso, lasso_path

Array = NDArray[np.float64]


class MultiTargetLasso(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Exact lasso for one or many targets, each with its own penalty.

    Each target minimises `1/(2n) ||y - Xw - b||^2 + alpha ||w||_1`.

    Parameters
    ----------
    alpha : float, array of shape (n_targets,), or {"aic", "bic", "cv"}
        The penalty, or one for each target; or how to choose it, for each target separately, along the exact lasso
        path. "aic" and "bic" minimise `RSS / noise_variance + c * n_active` over the knots, with c = 2 or log(n); "cv"
        minimises the mean squared error of held-out folds over the knots of all folds.
    fit_intercept : bool
        Fit b, unpenalised.
    positive : bool
        Require w >= 0.
    cv : int or scikit-learn splitter
        Folds of `alpha="cv"`.
    noise_variance : float, optional
        For "aic" and "bic". Estimated by least squares where there are more samples than features.

    Attributes
    ----------
    coef_ : array, shape (n_features,) or (n_targets, n_features)
    intercept_ : float or array, shape (n_targets,)
    alpha_ : float or array, shape (n_targets,)
        The penalty used.

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
        fit_intercept: bool = True,
        positive: bool = False,
        cv: Any = 5,
        noise_variance: float | None = None,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.positive = positive
        self.cv = cv
        self.noise_variance = noise_variance

    def fit(self, X: ArrayLike, y: ArrayLike) -> MultiTargetLasso:
        """Fit to X (n, n_features) and y (n,) or (n, n_targets).

        Raises
        ------
        ValueError
            On arrays that do not fit, or an `alpha` that is not a number >= 0 or a known criterion.
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64)
        X, Y = np.asarray(X), np.asarray(y, dtype=np.float64).reshape(len(X), -1)
        X_mean, Y_mean = self._means(X, Y)
        alphas = self._choose_alphas(X, Y)
        coef = lasso(
            torch.tensor(X - X_mean),
            torch.tensor(Y - Y_mean),
            torch.tensor(alphas),
            gradient=None,
            positive=self.positive,
        )
        weights = coef.numpy().T.copy()
        intercept = Y_mean - weights @ X_mean
        one = np.ndim(y) == 1
        self.coef_: Array = weights[0] if one else weights
        self.intercept_: float | Array = float(intercept[0]) if one else intercept
        self.alpha_: float | Array = float(alphas[0]) if one else alphas
        return self

    def predict(self, X: ArrayLike) -> Array:
        """Predict, shape (n,) or (n, n_targets)."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        prediction: Array = np.asarray(X) @ self.coef_.T + self.intercept_
        return prediction

    def _means(self, X: Array, Y: Array) -> tuple[Array, Array]:
        if self.fit_intercept:
            return X.mean(axis=0), Y.mean(axis=0)
        return np.zeros(X.shape[1]), np.zeros(Y.shape[1])

    def _choose_alphas(self, X: Array, Y: Array) -> Array:
        if isinstance(self.alpha, str):
            if self.alpha == "cv":
                return self._by_cross_validation(X, Y)
            if self.alpha in ("aic", "bic"):
                return self._by_criterion(X, Y)
        else:
            alphas = np.asarray(self.alpha)
            numbers = np.issubdtype(alphas.dtype, np.integer) or np.issubdtype(alphas.dtype, np.floating)
            if numbers and alphas.shape in ((), (Y.shape[1],)) and (alphas >= 0).all() and np.isfinite(alphas).all():
                return np.broadcast_to(alphas.astype(np.float64), Y.shape[1]).copy()
        raise LarscopeError(
            f'`alpha` must be a number >= 0, one for each of {Y.shape[1]} targets, "aic", "bic" or "cv": got '
            f'{self.alpha!r}. Use "cv" if you do not know the penalty.'
        )

    def _by_criterion(self, X: Array, Y: Array) -> Array:
        """Minimise the criterion over knots: between two of them RSS falls at a constant number active."""
        n = len(X)
        cost = 2.0 if self.alpha == "aic" else np.log(n)
        noise = self._noise_variance(X, Y)
        chosen = np.empty(Y.shape[1])
        for t in range(Y.shape[1]):
            alphas, fitted, n_active = self._along_path(X, Y[:, t], X)
            rss = ((Y[:, [t]] - fitted) ** 2).sum(axis=0)
            chosen[t] = alphas[np.argmin(rss / noise[t] + cost * n_active)]
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
        X_mean, Y_mean = self._means(X, Y)
        fit = np.linalg.lstsq(X - X_mean, Y - Y_mean, rcond=None)[0]
        residual = Y - Y_mean - (X - X_mean) @ fit
        variance: Array = (residual**2).sum(axis=0) / freedom
        return np.maximum(variance, np.finfo(float).tiny)

    def _by_cross_validation(self, X: Array, Y: Array) -> Array:
        """Minimise held-out error at every fold's knots; predictions are linear in alpha between knots."""
        folds = list(check_cv(self.cv).split(X))
        chosen = np.empty(Y.shape[1])
        for t in range(Y.shape[1]):
            paths = [(test, *self._along_path(X[train], Y[train, t], X[test])) for train, test in folds]
            grid = np.unique(np.concatenate([alphas for _, alphas, _, _ in paths]))
            error = np.zeros(len(grid))
            for test, alphas, predicted, _ in paths:
                at_grid = np.stack([np.interp(grid, alphas[::-1], row[::-1]) for row in predicted])
                error += ((Y[test, [t]][:, None] - at_grid) ** 2).mean(axis=0)
            # The largest of equally good penalties.
            chosen[t] = grid[len(grid) - 1 - np.argmin(error[::-1])]
        return chosen

    def _along_path(self, X: Array, y: Array, at: Array) -> tuple[Array, Array, Array]:
        """Knots, predictions at `at` (rows) for each knot (columns), and active features at each knot."""
        X_mean, y_mean = self._means(X, y[:, None])
        path = lasso_path(torch.tensor(X - X_mean), torch.tensor(y - y_mean), positive=self.positive)
        predicted = (at - X_mean) @ path.coefs.numpy() + y_mean
        return path.alphas.numpy(), predicted, (path.coefs != 0).sum(dim=0).numpy()
