"""The public function `lasso`, its module shell `Lasso`, and `alpha_max`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from larscope._errors import LarscopeError
from larscope.lasso import _certificate, _engines
from larscope.lasso._engines import TOLERANCE, Engine
from larscope.lasso._gradient import implicit_lasso
from larscope.lasso._path import homotopy
from larscope.lasso._problem import (
    GAP_PER_VIOLATION,
    Layout,
    Problem,
    canonical,
    check_number,
    check_values,
    features,
    in_units,
    measure,
    values_known,
)

Gradient = Literal["implicit", "unrolled"] | None


@dataclass(frozen=True)
class LassoInfo:
    """What is known about each target's solution; all fields have shape (...) or (..., K).

    Attributes
    ----------
    kkt : Tensor
        Relative KKT violation over all p features (see `larscope.lasso._certificate.violation`), of the
        float64 solution: float32 coefficients are that solution, rounded.
    gap : Tensor
        Duality gap, relative to the objective at zero.
    n_active : Tensor
        Number of coefficients that are not zero.
    n_kinks : Tensor
        Number of zero coefficients whose correlation is at the penalty: the solution has a kink there, and
        the gradient is the one-sided derivative that keeps them at zero.
    converged : Tensor
        Whether `kkt` is at most 1e-9 and `gap` at most 1e-6.
    """

    kkt: Float[Tensor, "*targets"]
    gap: Float[Tensor, "*targets"]
    n_active: Int[Tensor, "*targets"]
    n_kinks: Int[Tensor, "*targets"]
    converged: Bool[Tensor, "*targets"]


@overload
def lasso(
    X: Tensor,
    y: Tensor,
    alpha: float | Tensor,
    *,
    gradient: Gradient = ...,
    engine: Engine = ...,
    weights: Tensor | None = ...,
    mask: Tensor | None = ...,
    positive: bool = ...,
    l2: float | Tensor = ...,
    init: Tensor | None = ...,
    return_info: Literal[False] = ...,
) -> Tensor: ...
@overload
def lasso(
    X: Tensor,
    y: Tensor,
    alpha: float | Tensor,
    *,
    gradient: Gradient = ...,
    engine: Engine = ...,
    weights: Tensor | None = ...,
    mask: Tensor | None = ...,
    positive: bool = ...,
    l2: float | Tensor = ...,
    init: Tensor | None = ...,
    return_info: Literal[True],
) -> tuple[Tensor, LassoInfo]: ...
def lasso(
    X: Float[Tensor, "*batch n p"],
    y: Float[Tensor, "*targets"],
    alpha: float | Float[Tensor, "*k"],
    *,
    gradient: Gradient = "implicit",
    engine: Engine = "auto",
    weights: Float[Tensor, "*features"] | None = None,
    mask: Bool[Tensor, "*features"] | None = None,
    positive: bool = False,
    l2: float | Float[Tensor, ""] = 0.0,
    init: Float[Tensor, "*features"] | None = None,
    return_info: bool = False,
) -> Tensor | tuple[Tensor, LassoInfo]:
    """Solve many l1-penalised regressions that share a design, exactly and differentiably.

    Each target (column of `y`) minimises ::

        1/(2n) ||y - X w||^2 + alpha sum_j v_j |w_j| + l2/2 ||w||^2 .

    Parameters
    ----------
    X : Tensor, shape (..., n, p)
        Design, float32 or float64; solved in float64. Under autocast half precision is taken as float32.
    y : Tensor, shape (..., n) or (..., n, K)
        One target or K targets, with the leading dimensions of `X`. One `X` (n, p) may be shared by all of
        `y` (..., n, K).
    alpha : float or Tensor, broadcast to (...) or (..., K), one value per target
        Penalty, in scikit-learn's units. From `alpha_max(X, y)` on, which has that shape, the solution is zero. For a
        batch of B, (B, 1) is one penalty for each entry, (K,) one for each column of `y`.
    gradient : {"implicit", "unrolled", None}
        How autograd passes: through the optimality conditions on the active set (no path is stored), through
        every step of the path, or not at all.
    engine : {"auto", "active_set", "path"}
        Compiled active-set method on the CPU, or the path in torch on the device of `X`; "auto" is the first for
        tensors on the CPU and the second for others. The choice does not change the answer beyond its certificate.
    weights : Tensor, broadcast to (p, K)
        v: penalty weights; 0 leaves a feature unpenalised, inf excludes it.
    mask : boolean Tensor, broadcast to (p, K)
        True where a coefficient is allowed.
    positive : bool
        Require w >= 0, of unpenalised coefficients too.
    l2 : float or Tensor, shape ()
        Ridge penalty.
    init : Tensor, broadcast to (p, K)
        Coefficients to start from, usually an earlier solution. Changes the time, not the answer.
    return_info : bool
        Also return a `LassoInfo`.

    Returns
    -------
    coef : Tensor, shape (..., p) or (..., p, K)
    info : LassoInfo
        Only with `return_info=True`.

    Raises
    ------
    ValueError
        On shapes that do not fit, values that are not finite, or negative penalties.
    TypeError
        On options of another type.

    Warns
    -----
    ConvergenceWarning
        Naming targets whose solution could not be certified.
    NothingToLearnWarning
        Where gradients are asked for and every coefficient is zero: so are the gradients.

    Examples
    --------
    >>> import torch
    >>> from larscope import lasso
    >>> X = torch.eye(2, dtype=torch.float64, requires_grad=True)
    >>> coef = lasso(X, torch.tensor([3.0, 0.5]).double(), alpha=0.5)
    >>> coef.round(decimals=6).tolist()
    [2.0, 0.0]
    >>> coef.sum().backward()
    >>> X.grad.round(decimals=6).tolist()
    [[-1.0, 0.0], [0.5, 0.0]]
    """
    _check_options(gradient, engine)
    problem, layout = canonical(X, y, alpha, weights, mask, positive, l2)
    if gradient == "unrolled":
        coef = _engines.unroll(problem, engine)
    else:
        start = None if init is None else features("init", init, X, layout).detach()
        tensors = problem.detach().tensors if gradient is None else problem.tensors
        learning = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        coef = implicit_lasso(*tensors, start, positive, engine, learning)
    if not return_info:
        return layout.coef(coef)
    with torch.no_grad():
        info = _info(problem.detach(), coef.detach(), layout)
    return layout.coef(coef), info


def alpha_max(
    X: Float[Tensor, "*batch n p"],
    y: Float[Tensor, "*targets"],
    *,
    weights: Float[Tensor, "*features"] | None = None,
    mask: Bool[Tensor, "*features"] | None = None,
    positive: bool = False,
    l2: float | Float[Tensor, ""] = 0.0,
) -> Float[Tensor, "*targets"]:
    """Smallest penalty at which every penalised coefficient is zero, `max_j |X_j'y| / (n v_j)`.

    Parameters
    ----------
    X, y, weights, mask, positive, l2
        As in `lasso`. With unpenalised features (weight 0), y is replaced by its residual on them
        (where there are none, l2 makes no difference).

    Returns
    -------
    Tensor, shape (...) or (..., K)
        One number per target.

    Raises
    ------
    ValueError
        On shapes that do not fit, or values that are not finite.

    Examples
    --------
    >>> import torch
    >>> from larscope import alpha_max
    >>> alpha_max(torch.eye(2), torch.tensor([3.0, -8.0])).item()
    4.0
    """
    problem, layout = canonical(X, y, 0.0, weights, mask, positive, l2)
    known = values_known(problem.X) and values_known(problem.y)
    units = (check_values if known else measure)(problem.detach()).units
    problem = in_units(problem, units)
    residual = problem.y
    if weights is not None and bool((problem.weights == 0).any()):
        only_free = torch.where(problem.weights == 0, 0.0, torch.inf).to(torch.float64)
        residual = problem.y - problem.X @ homotopy(replace(problem, weights=only_free)).coef
    correlation = problem.X.mT @ residual / problem.n_samples
    size = correlation if positive else correlation.abs()
    penalised = problem.weights > 0
    entry = torch.where(penalised, size / torch.where(penalised, problem.weights, 1.0), 0.0)
    largest = entry.amax(dim=-2).clamp(min=0.0) / units.targets
    return layout.per_target(_round_up(largest, X.dtype))


def _round_up(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert, never below `value`."""
    rounded = value.to(dtype)
    above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(rounded < value, above, rounded)


class Lasso(nn.Module):
    """`lasso` as a module: `Lasso(alpha)(X, y)`.

    Parameters
    ----------
    alpha : float, Tensor or torch.nn.Parameter
        Penalty. A parameter is learned.
    weights, mask : Tensor, broadcast to (p, K)
        As in `lasso`: buffers, which move with the module and are saved with it.
    **options
        Other keyword arguments of `lasso`.

    Raises
    ------
    ValueError
        On a negative penalty, or an unknown gradient or engine.

    Examples
    --------
    >>> import torch
    >>> from larscope import Lasso
    >>> Lasso(alpha=0.5)(torch.eye(2), torch.tensor([3.0, 0.5])).round(decimals=4).tolist()
    [2.0, 0.0]
    """

    weights: Tensor | None
    mask: Tensor | None

    def __init__(
        self, alpha: float | Tensor, *, weights: Tensor | None = None, mask: Tensor | None = None, **options: Any
    ) -> None:
        super().__init__()
        check_number("alpha", alpha)
        check_number("l2", options.get("l2", 0.0))
        _check_options(options.get("gradient", "implicit"), options.get("engine", "auto"))
        if isinstance(alpha, Tensor) and not isinstance(alpha, nn.Parameter):
            self.register_buffer("alpha", alpha)
        else:
            self.alpha = alpha
        self.register_buffer("weights", weights)
        self.register_buffer("mask", mask)
        self.options = options

    def forward(self, X: Tensor, y: Tensor) -> Any:
        """Return `lasso(X, y, alpha, **options)`."""
        return lasso(X, y, self.alpha, weights=self.weights, mask=self.mask, **self.options)

    def extra_repr(self) -> str:
        """Show the penalty and the options."""
        alpha = tuple(self.alpha.shape) if isinstance(self.alpha, Tensor) else self.alpha
        return ", ".join([f"alpha={alpha}", *(f"{k}={v!r}" for k, v in self.options.items())])


def _info(problem: Problem, coef: Tensor, layout: Layout) -> LassoInfo:
    units = measure(problem).units
    problem, coef = in_units(problem, units), units.into(coef)
    correlation = problem.correlation(coef)
    kkt, gap = _certificate.violation(problem, coef, correlation), _certificate.duality_gap(problem, coef)
    values = (
        kkt,
        gap,
        (coef != 0).sum(dim=-2),
        _certificate.count_kinks(problem, coef, correlation),
        (kkt <= TOLERANCE) & (gap <= TOLERANCE * GAP_PER_VIOLATION),
    )
    return LassoInfo(*(layout.per_target(value) for value in values))


def _check_options(gradient: object, engine: object) -> None:
    if gradient is not None and not (isinstance(gradient, str) and gradient in ("implicit", "unrolled")):
        raise LarscopeError(
            f'`gradient` must be "implicit", "unrolled" or None: got {gradient!r}. '
            'Use "implicit" unless you compare with the paper.'
        )
    if not (isinstance(engine, str) and engine in ("auto", "active_set", "path")):
        raise LarscopeError(
            f'`engine` must be "auto", "active_set" or "path": got {engine!r}. Use "auto" to let larscope choose.'
        )
