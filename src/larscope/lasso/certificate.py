"""How far coefficients are from the lasso solution, from the data alone.

`violation` measures the Karush-Kuhn-Tucker conditions, `duality_gap` bounds the excess of the objective.
Neither knows how the coefficients were found.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from larscope.lasso.problem import Problem

# Correlations this close to the penalty, relatively, mark a point where the solution has a kink.
KINK = 1e-7
# Below this fraction of the largest possible correlation, a violation is measured against the data, not the penalty.
FLOOR = 1e-6


def violation(
    problem: Problem, coef: Float[Tensor, "batch p k"], correlation: Tensor | None = None
) -> Float[Tensor, "batch k"]:
    """Relative KKT violation of each target.

    With `c = X'(y - Xw)/n - l2 w`, the largest of `|c_j - alpha v_j sign(w_j)|` on the support and
    `(|c_j| - alpha v_j)+` off it, divided by `alpha max_j v_j` (or by a millionth of
    `max_j ||X_j|| ||y|| / n` where that is larger, so that it stays meaningful as alpha goes to zero).
    """
    c = problem.correlation(coef) if correlation is None else correlation
    penalty = _penalty(problem)
    outside = (c if problem.positive else c.abs()) - penalty
    off = torch.where(problem.weights.isinf(), 0.0, outside.clamp(min=0.0))
    on = (c - penalty * coef.sign()).abs()
    if problem.positive:
        on = torch.where(coef < 0, torch.inf, on)
    worst = torch.where(coef == 0, off, on).amax(dim=-2)
    return _relative(worst, violation_scale(problem))


def violation_scale(problem: Problem) -> Float[Tensor, "batch k"]:
    """Size against which `violation` is measured, one per target."""
    weights = torch.where(problem.weights.isinf(), 0.0, problem.weights).amax(dim=-2)
    columns = torch.linalg.vector_norm(problem.X, dim=-2).amax(dim=-1, keepdim=True)
    largest = columns * torch.linalg.vector_norm(problem.y, dim=-2) / problem.n_samples
    return torch.maximum(problem.alpha * weights, FLOOR * largest)


def duality_gap(problem: Problem, coef: Float[Tensor, "batch p k"]) -> Float[Tensor, "batch k"]:
    """Primal minus dual objective of each target, relative to the objective at zero, `||y||^2 / (2n)`.

    The dual point is the residual, scaled into `|X_j'r|/n <= alpha v_j`. Unpenalised features are taken as
    exactly orthogonal to it; `violation` says how true that is.
    """
    n, l2 = problem.n_samples, problem.l2
    residual = problem.y - problem.X @ coef
    c = problem.X.mT @ residual / n - l2 * coef
    size = c if problem.positive else c.abs()
    penalised = (problem.weights > 0) & ~problem.weights.isinf() & (size > 0)
    room = torch.where(penalised, _penalty(problem) / size.clamp(min=1e-300), torch.inf).amin(dim=-2)

    energy = residual.square().sum(-2) + n * l2 * coef.square().sum(-2)
    fit = (problem.y * residual).sum(-2)
    scale = torch.minimum(_relative(fit, energy).clamp(min=0.0), room)
    dual = (scale * fit - scale.square() * energy / 2) / n
    finite = torch.where(problem.weights.isinf(), 0.0, problem.weights)
    primal = energy / (2 * n) + problem.alpha * (finite * coef.abs()).sum(-2)
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


def _relative(value: Tensor, scale: Tensor) -> Tensor:
    return torch.where(scale > 0, value / scale.clamp(min=1e-300), torch.where(value > 0, torch.inf, 0.0))
