"""One lasso problem in canonical form, and the checks made where data enters.

Every engine, the gradient and the certificate receive a `Problem`: all of them minimise, for each batch
entry b and target k,

    1/(2n) ||y - X w||^2 + alpha sum_j v_j |w_j| + l2/2 ||w||^2 .
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from larscope._errors import LarscopeError

DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Problem:
    """Float64 tensors with one batch dimension; `weights` is 0 for unpenalised, inf for excluded features."""

    X: Float[Tensor, "batch n p"]
    y: Float[Tensor, "batch n k"]
    alpha: Float[Tensor, "batch k"]
    weights: Float[Tensor, "batch p k"]
    positive: bool = False
    l2: float = 0.0

    @property
    def n_samples(self) -> int:
        """Number of rows n."""
        return self.X.shape[-2]

    @property
    def n_features(self) -> int:
        """Number of columns p."""
        return self.X.shape[-1]

    def correlation(self, coef: Float[Tensor, "batch p k"]) -> Float[Tensor, "batch p k"]:
        """Negative gradient of the smooth part, `X'(y - X w)/n - l2 w`."""
        residual = self.y - self.X @ coef
        return self.X.mT @ residual / self.n_samples - self.l2 * coef

    def detach(self) -> Problem:
        """Return the same problem, cut from the autograd graph."""
        return Problem(
            self.X.detach(),
            self.y.detach(),
            self.alpha.detach(),
            self.weights.detach(),
            self.positive,
            self.l2,
        )


@dataclass(frozen=True)
class Layout:
    """How the caller's shapes map to a `Problem` and back."""

    batch: tuple[int, ...]
    single_target: bool
    dtype: torch.dtype

    def coef(self, coef: Float[Tensor, "batch p k"]) -> Tensor:
        """Give coefficients the caller's shape and dtype."""
        coef = coef.reshape(*self.batch, *coef.shape[1:]).to(self.dtype)
        return coef[..., 0] if self.single_target else coef

    def per_target(self, value: Tensor) -> Tensor:
        """Give one value per target, (batch, k), the caller's shape."""
        value = value.reshape(*self.batch, value.shape[-1])
        return value[..., 0] if self.single_target else value


def canonical(
    X: Tensor,
    y: Tensor,
    alpha: float | Tensor,
    weights: Tensor | None = None,
    mask: Bool[Tensor, "*features"] | None = None,
    positive: bool = False,
    l2: float = 0.0,
) -> tuple[Problem, Layout]:
    """Check shapes and types and bring a lasso problem to canonical form."""
    _check_design(X, y)
    n, p = X.shape[-2:]
    single_target = y.ndim == X.ndim - 1
    targets = y.unsqueeze(-1) if single_target else y
    batch, k = X.shape[:-2], targets.shape[-1]

    alpha = torch.as_tensor(alpha, dtype=torch.float64, device=X.device)
    try:
        alphas = alpha.expand(*batch, k)
    except RuntimeError:
        raise LarscopeError(
            f"`alpha` must be a number or broadcast to {(*batch, k)}, one value per target: got shape "
            f"{tuple(alpha.shape)}. Pass a scalar, or a tensor with one penalty per column of `y`."
        ) from None
    if not 0.0 <= l2 < math.inf:
        raise LarscopeError(f"`l2` must be a finite number >= 0: got {l2}. Pass 0.0 for the plain lasso.")

    layout = Layout(tuple(batch), single_target, X.dtype)
    problem = Problem(
        X=X.to(torch.float64).reshape(-1, n, p),
        y=targets.to(torch.float64).reshape(-1, n, k),
        alpha=alphas.reshape(-1, k),
        weights=_penalty_weights(weights, mask, X, k),
        positive=positive,
        l2=float(l2),
    )
    return problem, layout


def broadcast_features(name: str, value: Tensor, X: Tensor, k: int) -> Float[Tensor, "batch p k"]:
    """Broadcast one value per feature, or per feature and target, to (batch, p, k)."""
    p = X.shape[-1]
    value = torch.as_tensor(value, dtype=torch.float64, device=X.device)
    column = value.unsqueeze(-1) if value.ndim == 1 and value.shape[0] == p else value
    try:
        full = column.expand(*X.shape[:-2], p, k)
    except RuntimeError:
        raise LarscopeError(
            f"`{name}` must broadcast to (p, K) = ({p}, {k}): got shape {tuple(value.shape)}. "
            "Pass one value per feature, shape (p,), or one per feature and target, shape (p, K)."
        ) from None
    if X.ndim == 2:
        return full[None]
    # A broadcast view cannot always be reshaped without a copy: keep one batch entry where all are the same.
    if column.ndim <= 2:
        return column.expand(p, k)[None].expand(math.prod(X.shape[:-2]), p, k)
    return full.reshape(-1, p, k)


def check_values(problem: Problem) -> None:
    """Raise ValueError where a number makes the problem meaningless."""
    for name, value in (("X", problem.X), ("y", problem.y)):
        # A sum that is finite says the same of all it adds up, and takes a tenth of the time.
        if not torch.isfinite(value.sum()) and not torch.isfinite(value).all():
            count = int((~torch.isfinite(value)).sum())
            raise LarscopeError(
                f"`{name}` must be finite: got {count} NaN or infinite values. Remove or impute them before the fit."
            )
    if not (torch.isfinite(problem.alpha) & (problem.alpha >= 0)).all():
        worst = problem.alpha[~(problem.alpha >= 0) | ~torch.isfinite(problem.alpha)][0].item()
        raise LarscopeError(
            f"`alpha` must be finite and >= 0: got {worst}. Pass a penalty between 0 and `alpha_max(X, y)`."
        )
    # Where all targets share their weights, one column holds them all.
    shared = problem.weights.stride(-1) == 0
    if not ((problem.weights[..., :1] if shared else problem.weights) >= 0).all():
        raise LarscopeError(
            f"`weights` must be >= 0: got {problem.weights.min().item()}. "
            "Use 0 for an unpenalised feature and inf for an excluded one."
        )


def _check_design(X: Tensor, y: Tensor) -> None:
    for name, value in (("X", X), ("y", y)):
        if not isinstance(value, Tensor):
            raise TypeError(
                f"`{name}` must be a torch.Tensor: got {type(value).__name__}. Convert it with torch.as_tensor({name})."
            )
    if X.ndim < 2 or 0 in X.shape[-2:]:
        raise LarscopeError(
            f"`X` must have shape (..., n, p) with n, p >= 1: got {tuple(X.shape)}. "
            "Pass samples in rows and features in columns."
        )
    if X.dtype not in DTYPES or y.dtype != X.dtype:
        raise LarscopeError(
            f"`X` and `y` must both be float32 or both float64: got {X.dtype} and {y.dtype}. "
            "Convert one of them with `.to(dtype)`."
        )
    if X.device != y.device:
        raise LarscopeError(
            f"`X` and `y` must be on one device: got {X.device} and {y.device}. Move one with `.to(device)`."
        )
    rows = X.shape[:-1]
    if not (y.shape == rows or (y.ndim == X.ndim and y.shape[:-1] == rows and y.shape[-1] >= 1)):
        raise LarscopeError(
            f"`y` must have shape (..., n) or (..., n, K) with the leading shape {tuple(rows)} of `X`: "
            f"got {tuple(y.shape)}. Give both the same leading dimensions and number of rows."
        )


def _penalty_weights(weights: Tensor | None, mask: Tensor | None, X: Tensor, k: int) -> Float[Tensor, "batch p k"]:
    v = torch.ones(1, dtype=torch.float64, device=X.device) if weights is None else weights
    if mask is not None:
        mask = torch.as_tensor(mask, device=X.device)
        if mask.dtype != torch.bool:
            raise LarscopeError(
                f"`mask` must be boolean, True where a coefficient is allowed: got {mask.dtype}. "
                "Use `weights` for numeric penalties."
            )
        v = torch.as_tensor(v, dtype=torch.float64, device=X.device)
        if v.ndim == 1 and mask.ndim >= 2 and v.shape[0] == X.shape[-1]:
            v = v.unsqueeze(-1)
        if mask.ndim == 1 and v.ndim >= 2:
            mask = mask.unsqueeze(-1)
        try:
            v = torch.where(mask, v, math.inf)
        except RuntimeError:
            raise LarscopeError(
                f"`mask` must broadcast to (p, K) = ({X.shape[-1]}, {k}): got shape {tuple(mask.shape)}. "
                "Pass shape (p,) or (p, K)."
            ) from None
    return broadcast_features("weights" if mask is None else "mask", v, X, k)
