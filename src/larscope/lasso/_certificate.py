"""How far coefficients are from the lasso solution, from the data alone.

`violation` measures the Karush-Kuhn-Tucker conditions, `duality_gap` bounds the excess of the objective.
Neither knows how the coefficients were found.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from larscope.lasso._problem import GAP_PER_VIOLATION, Problem

# Correlations this close to the penalty, relatively, mark a point where the solution has a kink.
KINK = 1e-7
# The share of the terms of a correlation that violations are measured against where there is no penalty.
FLOOR = 1e-6
# Correlations are known to this share of `||X_j|| ||y|| / n`: what float64 leaves of a sum.
ROUNDING = 1e-15


def defect(problem: Problem, coef: Float[Tensor, "batch p k"]) -> Float[Tensor, "batch k"]:
    """Return the larger of `violation` and a thousandth of `duality_gap`: a solution must have both small."""
    return torch.maximum(violation(problem, coef), duality_gap(problem, coef) / GAP_PER_VIOLATION)


def violation(
    problem: Problem, coef: Float[Tensor, "batch p k"], correlation: Tensor | None = None
) -> Float[Tensor, "batch k"]:
    """Relative KKT violation of each target, that of its worst feature.

    With `c = X'(y - Xw)/n - l2 w`, it is `|c_j - alpha v_j sign(w_j)|` on the support and `(|c_j| - alpha v_j)+` off
    it. Each feature is measured against its own penalty and norm, `alpha v_j + 1e-6 ||X_j|| (||y|| + sum_l ||X_l||
    |w_l|) / n`: no other feature's penalty hides it, and it stays meaningful as alpha goes to zero. The sum is there
    because y - Xw is known no better than the terms that it is made of.
    """
    c = problem.correlation(coef) if correlation is None else correlation
    penalty = _penalty(problem)
    outside = (c if problem.positive else c.abs()) - penalty
    off = torch.where(problem.weights.isinf(), 0.0, outside.clamp(min=0.0))
    on = (c - penalty * coef.sign()).abs()
    if problem.positive:
        on = torch.where(coef < 0, torch.inf, on)
    columns = torch.linalg.vector_norm(problem.X, dim=-2).unsqueeze(-1)
    drawn = (columns * coef.abs()).sum(-2, keepdim=True)
    scale = penalty + FLOOR * (_norms(problem) + columns * drawn / problem.n_samples)
    return _relative(torch.where(coef == 0, off, on), scale).amax(dim=-2)


def duality_gap(problem: Problem, coef: Float[Tensor, "batch p k"]) -> Float[Tensor, "batch k"]:
    """Primal minus dual objective of each target, relative to the objective at zero, `||y||^2 / (2n)`.

    It bounds how much better any other coefficients could be. The dual point is the residual, scaled into
    `|X_j'r| / n <= alpha v_j` to within what rounding hides. Unpenalised features are taken as exactly orthogonal to
    it; `violation` says how true that is.
    """
    n, l2 = problem.n_samples, problem.l2.unsqueeze(-1)
    residual = problem.y - problem.X @ coef
    c = problem.X.mT @ residual / n - l2 * coef
    size = (c if problem.positive else c.abs()) - ROUNDING * _norms(problem)
    penalty = _penalty(problem)
    penalised = (penalty > 0) & ~problem.weights.isinf() & (size > 0)
    room = torch.where(penalised, penalty / torch.where(penalised, size, 1.0), torch.inf).amin(dim=-2)

    energy = residual.square().sum(-2) + n * (l2 * coef.square()).sum(-2)
    fit = (problem.y * residual).sum(-2)
    scale = torch.minimum(_relative(fit, energy).clamp(min=0.0), room)
    dual = (scale * fit - scale.square() * energy / 2) / n
    primal = energy / (2 * n) + torch.where(coef == 0, 0.0, penalty * coef.abs()).sum(-2)
    return _relative((primal - dual).clamp(min=0.0), problem.y.square().sum(-2) / (2 * n))


def count_kinks(
    problem: Problem, coef: Float[Tensor, "batch p k"], correlation: Tensor | None = None
) -> Int[Tensor, "batch k"]:
    """Count the zero coefficients whose correlation sits at the penalty, where w(alpha) has a kink."""
    c = problem.correlation(coef) if correlation is None else correlation
    penalty = _penalty(problem)
    at_bound = (c if problem.positive else c.abs()) >= penalty * (1 - KINK)
    return ((coef == 0) & (problem.weights > 0) & at_bound & (penalty > 0)).sum(dim=-2)


def _penalty(problem: Problem) -> Float[Tensor, "batch p k"]:
    penalty = problem.alpha.unsqueeze(-2) * problem.weights
    return torch.where(problem.weights.isinf(), torch.inf, penalty)


def _norms(problem: Problem) -> Float[Tensor, "batch p k"]:
    """Compute `||X_j|| ||y|| / n`, the largest that a correlation can be."""
    columns = torch.linalg.vector_norm(problem.X, dim=-2)
    targets = torch.linalg.vector_norm(problem.y, dim=-2)
    norms: Tensor = columns.unsqueeze(-1) * targets.unsqueeze(-2) / problem.n_samples
    return norms


def _relative(value: Tensor, scale: Tensor) -> Tensor:
    """Divide; what is not a number counts as infinite."""
    ratio = torch.where(scale > 0, value / torch.where(scale > 0, scale, 1.0), torch.where(value > 0, torch.inf, 0.0))
    return torch.where(ratio.isnan(), torch.inf, ratio)
