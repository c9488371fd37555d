"""The public function `lasso`, its module shell `Lasso`, and `alpha_max`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from larscope._errors import LarscopeError
from larscope.lasso import certificate
from larscope.lasso.gradient import implicit_lasso
from larscope.lasso.path import ConvergenceWarning, homotopy
from larscope.lasso.problem import Layout, Problem, broadcast_features, canonical, check_values

Gradient = Literal["implicit", "unrolled"] | None
Engine = Literal["auto", "active_set", "path"]

# Largest relative KKT violation of a solution that counts as exact.
TOLERANCE = 1e-9


@dataclass(frozen=True)
class LassoInfo:
    """What is known about each target's solution; all fields have shape (...) or (..., K).

    Attributes
    ----------
    kkt : Tensor
        Relative KKT violation over all p features (see `larscope.lasso.certificate.violation`), of the
        float64 solution: float32 coefficients are that solution, rounded.
    gap : Tensor
        Duality gap, relative to the objective at zero.
    n_active : Tensor
        Number of coefficients that are not zero.
    n_kinks : Tensor
        Number of zero coefficients whose correlation is at the penalty: the solution has a kink there, and
        the gradient is the one-sided derivative that keeps them at zero.
    converged : Tensor
        Whether `kkt` is at most 1e-9.
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
    l2: float = ...,
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
    l2: float = ...,
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
    l2: float = 0.0,
    init: Float[Tensor, "*features"] | None = None,
    return_info: bool = False,
) -> Tensor | tuple[Tensor, LassoInfo]:
    """Solve many l1-penalised regressions that share a design, exactly and differentiably.

    Each target (column of `y`) minimises ::

        1/(2n) ||y - X w||^2 + alpha sum_j v_j |w_j| + l2/2 ||w||^2 .

    Parameters
    ----------
    X : Tensor, shape (..., n, p)
        Design, float32 or float64; solved in float64.
    y : Tensor, shape (..., n) or (..., n, K)
        One target or K targets, with the leading dimensions of `X`.
    alpha : float or Tensor, shape () or (K,)
        Penalty, in scikit-learn's units. From `alpha_max(X, y)` on, the solution is zero.
    gradient : {"implicit", "unrolled", None}
        How autograd passes: through the optimality conditions on the active set (no path is stored), through
        every step of the path, or not at all.
    engine : {"auto", "active_set", "path"}
        Compiled active-set method on the CPU, or the path in torch on the device of `X`; "auto" is the first for
        tensors on the CPU and the second for others. The choice does not change the answer beyond its certificate.
    weights : Tensor, broadcast to (p, K)
        v: penalty weights; 0 leaves a feature unpenalised, inf excludes it. Not differentiated.
    mask : boolean Tensor, broadcast to (p, K)
        True where a coefficient is allowed.
    positive : bool
        Require w >= 0, of unpenalised coefficients too.
    l2 : float
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

    Warns
    -----
    ConvergenceWarning
        Naming targets whose solution could not be certified.

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
    start = None if init is None else broadcast_features("init", init, X, problem.y.shape[-1]).detach()
    coef = _METHODS[gradient](problem, start, engine)
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
) -> Float[Tensor, "*targets"]:
    """Smallest penalty at which every penalised coefficient is zero, `max_j |X_j'y| / (n v_j)`.

    Parameters
    ----------
    X, y, weights, mask, positive
        As in `lasso`. With unpenalised features (weight 0), y is replaced by its residual on them.

    Returns
    -------
    Tensor, shape (...) or (..., K)
        One number per target.

    Raises
    ------
    ValueError
        On shapes that do not fit.

    Examples
    --------
    >>> import torch
    >>> from larscope import alpha_max
    >>> alpha_max(torch.eye(2), torch.tensor([3.0, -8.0])).item()
    4.0
    """
    problem, layout = canonical(X, y, 0.0, weights, mask, positive)
    residual = problem.y
    if bool((problem.weights == 0).any()):
        only_free = torch.where(problem.weights == 0, 0.0, torch.inf).to(torch.float64)
        free = Problem(problem.X, problem.y, problem.alpha, only_free, positive)
        residual = problem.y - problem.X @ homotopy(free).coef
    correlation = problem.X.mT @ residual / problem.n_samples
    size = correlation if positive else correlation.abs()
    penalised = problem.weights > 0
    entry = torch.where(penalised, size / torch.where(penalised, problem.weights, 1.0), 0.0)
    return layout.per_target(_round_up(entry.amax(dim=-2).clamp(min=0.0), X.dtype))


def _round_up(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert, never below `value`."""
    rounded = value.to(dtype)
    above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(rounded < value, above, rounded)


class Lasso(nn.Module):
    """`lasso` as a module without parameters: `Lasso(alpha)(X, y)`.

    Parameters
    ----------
    alpha : float
        Penalty.
    **options
        Keyword arguments of `lasso`.

    Examples
    --------
    >>> import torch
    >>> from larscope import Lasso
    >>> Lasso(alpha=0.5)(torch.eye(2), torch.tensor([3.0, 0.5])).round(decimals=4).tolist()
    [2.0, 0.0]
    """

    def __init__(self, alpha: float, **options: Any) -> None:
        super().__init__()
        self.alpha = alpha
        self.options = options

    def forward(self, X: Tensor, y: Tensor) -> Any:
        """Return `lasso(X, y, alpha, **options)`."""
        return lasso(X, y, self.alpha, **self.options)

    def extra_repr(self) -> str:
        """Show the penalty and the options."""
        return ", ".join([f"alpha={self.alpha}", *(f"{k}={v!r}" for k, v in self.options.items())])


def _implicit(problem: Problem, init: Tensor | None, engine: Engine) -> Tensor:
    return implicit_lasso(
        problem.X,
        problem.y,
        problem.alpha,
        problem.weights,
        init,
        problem.positive,
        problem.l2,
        partial(_solve, engine=engine),
    )


def _constant(problem: Problem, init: Tensor | None, engine: Engine) -> Tensor:
    return _implicit(problem.detach(), init, engine)


def _unrolled(problem: Problem, init: Tensor | None, engine: Engine) -> Tensor:
    if engine == "active_set":
        raise LarscopeError(
            '`gradient="unrolled"` must follow the path: got engine="active_set". '
            'Use engine="auto", or gradient="implicit" with the compiled engine.'
        )
    check_values(problem.detach())
    coef = homotopy(problem).coef
    with torch.no_grad():
        _warn_uncertified(certificate.violation(problem.detach(), coef))
    return coef


_METHODS: dict[Gradient, Callable[[Problem, Tensor | None, Engine], Tensor]] = {
    "implicit": _implicit,
    "unrolled": _unrolled,
    None: _constant,
}


def _solve(problem: Problem, init: Tensor | None, engine: Engine) -> Float[Tensor, "batch p k"]:
    """Solve without gradient, by the engine asked for; what one engine cannot certify, the other tries."""
    check_values(problem)
    chosen = choose_engine(engine, problem.X.device)
    with torch.no_grad():
        coef, kkt = (_follow_path if chosen == "path" else _active_set)(problem, init)
        if bool((kkt > TOLERANCE).any()):
            coef, kkt = _second_attempt(problem, coef, kkt, chosen)
    _warn_uncertified(kkt)
    return coef


def choose_engine(engine: Engine, device: torch.device) -> Literal["active_set", "path"]:
    """Return the engine that is meant: "auto" is the compiled one where it runs, else the one that runs anywhere.

    Examples
    --------
    >>> choose_engine("auto", torch.device("cpu")), choose_engine("auto", torch.device("cuda"))
    ('active_set', 'path')
    """
    if engine == "auto":
        return "active_set" if device.type == "cpu" else "path"
    return engine


def _active_set(problem: Problem, init: Tensor | None) -> tuple[Tensor, Tensor]:
    # Imported here, because numba is slow to import and the path does not need it.
    from larscope.lasso import active_set

    return active_set.solve(problem, init)


def _follow_path(problem: Problem, init: Tensor | None) -> tuple[Tensor, Tensor]:
    coef = homotopy(problem).coef
    return coef, certificate.violation(problem, coef)


def _second_attempt(
    problem: Problem, coef: Tensor, kkt: Tensor, engine: Engine
) -> tuple[Float[Tensor, "batch p k"], Float[Tensor, "batch k"]]:
    """Solve uncertified targets by the other engine, one by one, and keep the better answers."""
    for b, t in (kkt > TOLERANCE).nonzero().tolist():
        part = Problem(
            problem.X[b : b + 1],
            problem.y[b : b + 1, :, t : t + 1],
            problem.alpha[b : b + 1, t : t + 1],
            problem.weights[b : b + 1, :, t : t + 1],
            problem.positive,
            problem.l2,
        )
        other, worst = (_active_set if engine == "path" else _follow_path)(part, None)
        if bool(worst < kkt[b, t]):
            coef[b, :, t], kkt[b, t] = other[0, :, 0], worst[0, 0]
    return coef, kkt


def _warn_uncertified(kkt: Float[Tensor, "batch k"]) -> None:
    bad = (kkt > TOLERANCE) | kkt.isnan()
    if not bool(bad.any()):
        return
    named = ", ".join(str(tuple(i)) for i in bad.nonzero()[:5].tolist())
    warnings.warn(
        f"{int(bad.sum())} of {bad.numel()} lasso solutions have a relative KKT violation above {TOLERANCE:g}, "
        f"at worst {kkt.max().item():.1e}; (batch, target): {named}{', ...' if bad.sum() > 5 else ''}. "
        "Rescale the features, raise `alpha`, or add a small `l2`.",
        ConvergenceWarning,
        stacklevel=6,
    )


def _info(problem: Problem, coef: Tensor, layout: Layout) -> LassoInfo:
    correlation = problem.correlation(coef)
    kkt = certificate.violation(problem, coef, correlation)
    values = (
        kkt,
        certificate.duality_gap(problem, coef),
        (coef != 0).sum(dim=-2),
        certificate.count_kinks(problem, coef, correlation),
        kkt <= TOLERANCE,
    )
    return LassoInfo(*(layout.per_target(value) for value in values))


def _check_options(gradient: object, engine: object) -> None:
    if gradient not in ("implicit", "unrolled", None):
        raise LarscopeError(
            f'`gradient` must be "implicit", "unrolled" or None: got {gradient!r}. '
            'Use "implicit" unless you compare with the paper.'
        )
    if engine not in ("auto", "active_set", "path"):
        raise LarscopeError(
            f'`engine` must be "auto", "active_set" or "path": got {engine!r}. Use "auto" to let larscope choose.'
        )
