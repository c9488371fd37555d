"""Which engine solves a problem, in which units, and what is said of answers that cannot be certified.

A problem comes in with the data as they are. Here they are checked, and brought to ordinary size by powers of two, so
that engines and certificate meet neither overflow nor underflow. Data of ordinary size keep their every bit.
"""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from larscope._errors import LarscopeError
from larscope.lasso import _certificate
from larscope.lasso._path import ConvergenceWarning, homotopy
from larscope.lasso._problem import GAP_PER_VIOLATION, Problem, check_values, in_units, measure

Engine = Literal["auto", "active_set", "path"]

# Largest relative KKT violation of a solution that counts as exact; its duality gap is at most 1e-6.
TOLERANCE = 1e-9
# Numbers in the designs that are solved together.
SIZE = 2**22


class NothingToLearnWarning(UserWarning):
    """A lasso fit whose coefficients are all zero, and so are its gradients."""


def solve(problem: Problem, init: Tensor | None, engine: Engine, learning: bool) -> Float[Tensor, "batch p k"]:
    """Solve without gradient, by the engine asked for; what one engine cannot certify, the other tries.

    Where gradients are asked for, `learning`, and there can be none, it warns.
    """
    sizes = check_values(problem)
    with torch.no_grad():
        if sizes.ordinary:
            coef = _solve(problem, init, engine)
        else:
            units = sizes.units
            coef = units.out_of(_solve(in_units(problem, units), init, engine))
    if learning:
        _warn_nothing_to_learn(coef)
    if not sizes.ordinary and not bool(coef.isfinite().all()):
        raise LarscopeError(
            "Coefficients must fit into float64: got some above 1.8e308, since columns of `X` are so much smaller "
            "than `y`. Rescale one of them."
        )
    return coef


def solve_grid(problem: Problem, grid: Float[Tensor, "k steps"], l1_ratio: float) -> Float[Tensor, "k steps p"]:
    """Solve each target of one design at each of its penalties, falling from the first; `problem.alpha` is not used.

    A penalty alpha is `alpha l1_ratio` on the absolute values and `alpha (1 - l1_ratio)` on the squares.
    """
    (k, steps), p = grid.shape, problem.n_features
    penalty, ridge = (grid * share for share in (l1_ratio, 1 - l1_ratio))
    coef, missing = torch.zeros(k, steps, p, dtype=torch.float64), torch.ones(k, steps, dtype=torch.bool)
    if l1_ratio == 1 and check_values(problem).ordinary:
        from larscope.lasso import _active_set

        coef, defect = _active_set.follow(problem, grid)
        missing = ~(defect <= TOLERANCE)
    # Every ridge is a design of its own.
    target, step = missing.nonzero(as_tuple=True)
    size = max(1, SIZE // problem.X[0].numel())
    for some in torch.arange(len(target)).split(size):
        t, s = target[some], step[some]
        each = Problem(
            problem.X.expand(len(some), -1, -1),
            problem.y[0].mT[t].unsqueeze(-1),
            penalty[t, s].unsqueeze(-1),
            problem.weights[..., :1].expand(len(some), p, 1),
            ridge[t, s].unsqueeze(-1).expand(-1, p),
            positive=problem.positive,
        )
        coef[t, s] = solve(each, None, "auto", learning=False)[..., 0]
    return coef


def unroll(problem: Problem, engine: Engine) -> Float[Tensor, "batch p k"]:
    """Solve by the path, whose every step autograd follows."""
    if engine == "active_set":
        raise LarscopeError(
            '`gradient="unrolled"` must follow the path: got engine="active_set". '
            'Use engine="auto", or gradient="implicit" with the compiled engine.'
        )
    units = check_values(problem.detach()).units
    scaled = in_units(problem, units)
    coef = homotopy(scaled).coef
    with torch.no_grad():
        _warn_uncertified(_certificate.defect(scaled.detach(), coef.detach()))
        _warn_nothing_to_learn(coef)
    return units.out_of(coef)


def pull_back(
    problem: Problem, coef: Float[Tensor, "batch p k"], grad: Float[Tensor, "batch p k"], with_penalties: bool
) -> tuple[Tensor | None, ...] | None:
    """Compute the gradients of a problem's tensors, compiled; None where this must be done by the plain formula.

    Those of weights and l2 are None unless asked for, `with_penalties`.
    """
    if problem.X.device.type != "cpu":
        return None
    from larscope.lasso import _active_set

    sizes = measure(problem)
    if sizes.ordinary:
        return _active_set.pull_back(problem, coef, grad, with_penalties)
    units = sizes.units
    found = _active_set.pull_back(in_units(problem, units), units.into(coef), units.out_of(grad), with_penalties)
    if found is None:
        return None
    columns, targets = units.columns, units.targets
    scales = (
        columns.unsqueeze(-2),
        targets.unsqueeze(-2),
        targets,
        columns.unsqueeze(-1),
        columns.square(),
    )
    return tuple(None if g is None else g * scale for g, scale in zip(found, scales, strict=True))


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


def _solve(problem: Problem, init: Tensor | None, engine: Engine) -> Float[Tensor, "batch p k"]:
    chosen = choose_engine(engine, problem.X.device)
    coef, defect = (_follow_path if chosen == "path" else _active_set)(problem, init)
    if not bool((defect <= TOLERANCE).all()):
        coef, defect = _second_attempt(problem, coef, defect, chosen)
    _warn_uncertified(defect)
    return coef


def _active_set(problem: Problem, init: Tensor | None) -> tuple[Tensor, Tensor]:
    # Imported here, because numba is slow to import and the path does not need it.
    from larscope.lasso import _active_set

    return _active_set.solve(problem, init)


def _follow_path(problem: Problem, init: Tensor | None) -> tuple[Tensor, Tensor]:
    coef = homotopy(problem).coef
    return coef, _certificate.defect(problem, coef)


def _second_attempt(
    problem: Problem, coef: Tensor, defect: Tensor, engine: Engine
) -> tuple[Float[Tensor, "batch p k"], Float[Tensor, "batch k"]]:
    """Solve uncertified targets by the other engine, one by one, and keep the better answers."""
    for b, t in (~(defect <= TOLERANCE)).nonzero().tolist():
        other, worst = (_active_set if engine == "path" else _follow_path)(problem.target(b, t), None)
        if bool(worst < defect[b, t]):
            coef[b, :, t], defect[b, t] = other[0, :, 0], worst[0, 0]
    return coef, defect


def _warn_uncertified(defect: Float[Tensor, "batch k"]) -> None:
    bad = ~(defect <= TOLERANCE)
    if not bool(bad.any()):
        return
    named = ", ".join([*(str(tuple(i)) for i in bad.nonzero()[:5].tolist()), *(["..."] if bad.sum() > 5 else [])])
    warnings.warn(
        f"{int(bad.sum())} of {bad.numel()} lasso solutions have a relative KKT violation above {TOLERANCE:g} or a "
        f"duality gap above {TOLERANCE * GAP_PER_VIOLATION:g}, {defect.max() / TOLERANCE:.2g} times as much at worst; "
        f"(batch, target): {named}. "
        "Rescale the features, raise `alpha`, or add a small `l2`.",
        ConvergenceWarning,
        stacklevel=_caller()[0],
    )


def _warn_nothing_to_learn(coef: Float[Tensor, "batch p k"]) -> None:
    if not coef.numel() or bool(coef.any()):
        return
    level, module = _caller()
    if module.startswith("larscope."):  # training counts such fits, and says so in its own words
        return
    warnings.warn(
        "Gradients were asked for, but every coefficient is zero, and so is every gradient: nothing can be learned "
        "from this fit. Lower `alpha`, best to a fraction of `alpha_max(X, y)`.",
        NothingToLearnWarning,
        stacklevel=level,
    )


def _caller() -> tuple[int, str]:
    """Find the line that called `lasso`, for which Python shows a warning once: frames up to it, and its module."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _module(frame).startswith(("larscope.lasso", "torch.")):
        frame, level = frame.f_back, level + 1
    return level, _module(frame)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
