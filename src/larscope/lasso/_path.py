"""The LARS-lasso homotopy in plain torch: batched over problems and targets, on any device, differentiable.

As the penalty alpha falls, the solution is piecewise linear. Between two knots, on the active set A with
signs s, `H = X_A'X_A / n + l2 I` and

    w_A(alpha - t) = w_A(alpha) + t H^-1 (v s)_A .

A segment ends where an inactive correlation reaches the penalty (a join) or an active coefficient reaches
zero (a drop). Autograd through these steps is the "unrolled" gradient of the paper, sec. 2.2.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import nnls  # type: ignore[attr-defined]
from torch import Tensor

from larscope._errors import LarscopeError
from larscope.lasso._problem import Problem, canonical, check_values, in_units

# A column this close to the span of the active ones (squared relative distance) cannot join them.
DEPENDENT = 1e-11
# An inactive correlation that closes on the penalty slower than this moves along with it.
PARALLEL = 1e-15
EPSILON = 1e-300
ROUNDING = 1e-12


class ConvergenceWarning(UserWarning):
    """A lasso solution, or a path, that could not be certified."""


@dataclass(frozen=True)
class LassoPath:
    """Every knot of a lasso path; between two knots the coefficients are linear in alpha.

    Attributes
    ----------
    alphas : Tensor, shape (..., m)
        Knots, from `alpha_max` down. Leading dimensions: batch, then targets where `y` had any.
    coefs : Tensor, shape (..., p, m)
        Coefficients at each knot.
    signs : Tensor, shape (..., p, m)
        Signs of the active set just below each knot, -1 or 1, and 0 outside it. Unpenalised coefficients may cross
        zero between two knots.
    complete : bool
        Whether every path reached `alpha_min`.
    """

    alphas: Float[Tensor, "*batch m"]
    coefs: Float[Tensor, "*batch p m"]
    signs: Int[Tensor, "*batch p m"]
    complete: bool = True

    @property
    def active(self) -> Bool[Tensor, "*batch p m"]:
        """Active set just below each knot."""
        return self.signs != 0

    def __call__(self, alpha: float) -> Float[Tensor, "*batch p"]:
        """Coefficients at `alpha`, interpolated exactly.

        Raises
        ------
        ValueError
            If `alpha` is below the last knot of the path.
        """
        low = float(self.alphas[..., -1].max())
        if not alpha >= low * (1 - max(1e-9, torch.finfo(self.alphas.dtype).eps)):
            raise LarscopeError(
                f"`alpha` must be at least the path's last knot {low:.6g}: got {alpha:.6g}. "
                "Compute the path further, with a smaller `alpha_min`."
            )
        last = self.alphas.shape[-1] - 1
        below = (self.alphas > alpha).sum(dim=-1).clamp(max=last)
        above = (below - 1).clamp(min=0)
        high, low_ = (self.alphas.gather(-1, i[..., None])[..., 0] for i in (above, below))
        span = high - low_
        share = torch.where(span > 0, (high - alpha) / torch.where(span > 0, span, 1.0), 1.0).clamp(0, 1)
        return torch.lerp(self._coef(above), self._coef(below), share[..., None])

    def _coef(self, knot: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch p"]:
        p = self.coefs.shape[-2]
        index = knot[..., None, None].expand(*knot.shape, p, 1)
        return self.coefs.gather(-1, index)[..., 0]


def lasso_path(
    X: Float[Tensor, "*batch n p"],
    y: Float[Tensor, "*targets"],
    alpha_min: float | Tensor = 0.0,
    *,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    positive: bool = False,
    l2: float = 0.0,
    max_knots: int = 20_000,
) -> LassoPath:
    """Compute every knot of the lasso path by least angle regression.

    The path is the minimiser of `1/(2n) ||y - Xw||^2 + alpha sum v_j |w_j| + l2/2 ||w||^2` for every alpha
    from `alpha_max(X, y)` down to `alpha_min`. It is not differentiated.

    Parameters
    ----------
    X : Tensor, shape (..., n, p)
        Design, float32 or float64; computed in float64.
    y : Tensor, shape (..., n) or (..., n, K)
        Targets. Each has its own knots: shorter paths are padded with their last one.
    alpha_min : float or Tensor, one value per target
        Where to stop.
    weights, mask, positive, l2
        As in `lasso`.
    max_knots : int
        Stop after so many; some designs have exponentially many.

    Returns
    -------
    LassoPath
        `alphas` (..., [K,] m), `coefs` (..., [K,] p, m), `signs` and `active` like `coefs`. `path(alpha)`
        gives the coefficients at any alpha.

    Raises
    ------
    ValueError
        On shapes that do not fit, values that are not finite, or a negative `alpha_min`.

    Warns
    -----
    ConvergenceWarning
        If `max_knots` did not suffice.

    Examples
    --------
    >>> import torch
    >>> from larscope import lasso_path
    >>> path = lasso_path(torch.eye(3, dtype=torch.float64), torch.tensor([3.0, -6.0, 0.0]).double())
    >>> path.alphas.round(decimals=6).tolist()
    [2.0, 1.0, 0.0]
    >>> path(0.5).round(decimals=6).tolist()
    [1.5, -4.5, 0.0]
    """
    problem, layout = canonical(X, y, alpha_min, weights, mask, positive, l2)
    problem = problem.detach()
    knots, units = _Knots(), check_values(problem).units
    problem = in_units(problem, units)
    with torch.no_grad():
        walk = homotopy(problem, max_steps=max_knots, on_knot=knots.append)
    reached = walk.finished & (walk.alpha <= problem.alpha.reshape(-1))
    if not reached.all():
        count = int((~reached).sum())
        warnings.warn(
            f"{count} lasso path(s) did not reach `alpha_min` in {max_knots} knots. "
            "Raise `max_knots` or `alpha_min`; `lasso` solves at one alpha without following the path.",
            ConvergenceWarning,
            stacklevel=2,
        )
    alphas, coefs, signs = knots.stacked(problem)
    targets = units.targets.reshape(-1, 1)
    columns = units.columns.repeat_interleave(problem.y.shape[-1], dim=0)
    coefs = coefs * columns[..., None] / targets[..., None]
    p, m = problem.n_features, alphas.shape[-1]
    return LassoPath(
        (alphas / targets).reshape(*layout.shape, m).to(layout.dtype),
        coefs.reshape(*layout.shape, p, m).to(layout.dtype),
        signs.reshape(*layout.shape, p, m),
        bool(reached.all()),
    )


@dataclass
class Walk:
    """Where T = batch * k homotopies stand; rows are problems, columns features."""

    alpha: Float[Tensor, " t"]
    coef: Float[Tensor, "t p"]
    sign: Float[Tensor, "t p"]
    active: Bool[Tensor, "t p"]
    barred: Bool[Tensor, "t p"]
    dropped: Bool[Tensor, "t p"]
    finished: Bool[Tensor, " t"]


@dataclass
class _Knots:
    """Copies of the walk at each event."""

    alphas: list[Tensor] = field(default_factory=list)
    coefs: list[Tensor] = field(default_factory=list)
    signs: list[Tensor] = field(default_factory=list)

    def append(self, walk: Walk) -> None:
        self.alphas.append(walk.alpha.clone())
        self.coefs.append(walk.coef.clone())
        self.signs.append((walk.sign * walk.active).to(torch.int8))

    def stacked(self, problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
        alphas = torch.stack(self.alphas, -1)
        # Ties are several events at one alpha: the last one leaves the state below the knot.
        moved = (alphas[:, :-1] - alphas[:, 1:] > ROUNDING * alphas[:, :1]).any(0)
        keep = torch.cat([moved, moved.new_ones(1)])
        coefs = torch.stack(self.coefs, -1)[..., keep]
        signs = torch.stack(self.signs, -1)[..., keep]
        # Coefficients without a penalty may cross zero: their sign is that which they have, or are about to have.
        free = (problem.weights == 0).mT.reshape(*coefs.shape[:2], 1) & (signs != 0)
        size = coefs.sign().to(signs.dtype)
        size = torch.where(size != 0, size, torch.cat([size[..., 1:], size[..., -1:]], -1))
        return alphas[:, keep], coefs, torch.where(free, torch.where(size != 0, size, 1), signs)


def homotopy(
    problem: Problem,
    max_steps: int | None = None,
    on_knot: Callable[[Walk], None] | None = None,
) -> Walk:
    """Follow every path down to its `problem.alpha`; differentiable where autograd is on."""
    n, p, k = problem.n_samples, problem.n_features, problem.y.shape[-1]
    geometry = _Geometry(problem)
    walk = _start(geometry)
    limit = 100 + 20 * min(n, p) if max_steps is None else max_steps
    if on_knot is not None:
        on_knot(walk)
    for _ in range(limit + 1):
        columns = geometry.active_columns(walk)
        direction, repair = columns.solve(walk)
        walk.coef = walk.coef + columns.scatter(repair)
        if bool(walk.finished.all()):
            break
        _advance(geometry, walk, columns, direction)
        if on_knot is not None:
            on_knot(walk)
    # Rounding may leave a coefficient on the wrong side of a zero that it was about to reach.
    wrong = (walk.coef * walk.sign < 0) & geometry.kinked
    walk.coef = torch.where(wrong, 0.0, walk.coef)
    walk.coef = walk.coef.reshape(-1, k, p).mT
    return walk


class _Geometry:
    """The data of T problems and the products they need, with shared designs never copied."""

    def __init__(self, problem: Problem) -> None:
        batch, n, k = problem.y.shape
        p = problem.n_features
        self.X, self.n = problem.X, n
        self.l2 = problem.l2.repeat_interleave(k, dim=0)
        self.rows = problem.X.mT.reshape(batch * p, n)
        self.shape = (batch, k)
        self.y = problem.y.mT.reshape(batch * k, n)
        weights = problem.weights.mT.reshape(batch * k, p)
        self.allowed = ~weights.isinf()
        self.penalised = weights > 0
        self.weights = torch.where(self.allowed, weights, 1.0)
        # What has a kink at zero, and so may join and leave.
        self.kinked = self.allowed & (self.penalised | problem.positive)
        self.stop = problem.alpha.reshape(-1)
        self.positive = problem.positive
        self.design = torch.arange(batch, device=self.X.device).repeat_interleave(k) * p

    def correlate(self, residual: Float[Tensor, "t n"]) -> Float[Tensor, "t p"]:
        """X'r / n of each problem."""
        product = residual.reshape(*self.shape, self.n) @ self.X
        return product.flatten(0, 1) / self.n

    def correlation(self, coef: Float[Tensor, "t p"]) -> Float[Tensor, "t p"]:
        """Negative gradient of the smooth part."""
        fit = (coef.reshape(*self.shape, coef.shape[-1]) @ self.X.mT).reshape(coef.shape[0], self.n)
        return self.correlate(self.y - fit) - self.l2 * coef

    def column(self, feature: Int[Tensor, " t"]) -> Float[Tensor, "t n"]:
        """One column of the design per problem."""
        return self.rows[self.design + feature]

    def active_columns(self, walk: Walk) -> _Columns:
        """Gather the active columns, padded to the largest active set, and factor their Gram matrix."""
        row, feature = walk.active.nonzero(as_tuple=True)
        count = walk.active.sum(dim=1)
        width = int(count.max()) if len(count) else 0
        slot = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
        index = row.new_zeros(len(count), width)
        index[row, slot] = feature
        valid = torch.arange(width, device=row.device) < count[:, None]
        columns = self.rows[self.design[:, None] + index] * valid[..., None]
        gram = columns @ columns.mT / self.n
        diagonal = torch.where(valid, self.l2.gather(1, index), 1.0)
        factor, info = torch.linalg.cholesky_ex(gram + torch.diag_embed(diagonal))
        # A failed factor ends that walk uncertified; the identity keeps the others going.
        failed = (info > 0)[:, None, None]
        factor = torch.where(failed, torch.eye(width, dtype=gram.dtype, device=gram.device), factor)
        walk.finished = walk.finished | (info > 0)
        return _Columns(self, index, valid, columns, factor)


@dataclass
class _Columns:
    """Active columns of each problem: which, their values, and the Cholesky factor of H."""

    geometry: _Geometry
    index: Int[Tensor, "t m"]
    valid: Bool[Tensor, "t m"]
    values: Float[Tensor, "t m n"]
    factor: Float[Tensor, "t m m"]

    def gather(self, dense: Float[Tensor, "t p"]) -> Float[Tensor, "t m"]:
        return dense.gather(1, self.index) * self.valid

    def scatter(self, values: Float[Tensor, "t m"]) -> Float[Tensor, "t p"]:
        zeros = values.new_zeros(len(values), self.geometry.X.shape[-1])
        return zeros.scatter_add(1, self.index, values * self.valid)

    def solve(self, walk: Walk) -> tuple[Float[Tensor, "t m"], Float[Tensor, "t m"]]:
        """Direction `H^-1 (v s)`, and the repair of rounding `H^-1 (c - alpha v s)`."""
        slope = self.gather(self.geometry.weights * walk.sign)
        drift = self.gather(self.geometry.correlation(walk.coef)) - walk.alpha[:, None] * slope
        solved = torch.cholesky_solve(torch.stack([slope, drift], -1), self.factor)
        return solved[..., 0], solved[..., 1]

    def distance(self, feature: Int[Tensor, " t"]) -> Float[Tensor, " t"]:
        """Squared distance of a column from the span of the active ones, relative to its own norm."""
        g = self.geometry
        column = g.column(feature)
        cross = torch.einsum("tmn,tn->tm", self.values, column) / g.n
        inner = torch.linalg.solve_triangular(self.factor, cross[..., None], upper=False)
        size = column.square().sum(-1) / g.n + g.l2.gather(1, feature[:, None])[:, 0]
        covered: Tensor = inner.square().sum((-2, -1)) / torch.where(size > 0, size, 1.0)
        return 1 - covered


def _start(geometry: _Geometry) -> Walk:
    """Fit the unpenalised features alone; alpha starts where the first penalised one would join."""
    coef = torch.zeros_like(geometry.weights)
    free = geometry.allowed & ~geometry.penalised
    free = _nonnegative(geometry, free) if geometry.positive else _independent(geometry, free)
    nothing = torch.zeros_like(free)
    walk = Walk(
        alpha=geometry.stop.new_zeros(len(coef)),
        coef=coef,
        sign=free.to(coef.dtype),
        active=free,
        barred=nothing,
        dropped=nothing,
        finished=nothing.any(dim=1),
    )
    if bool(free.any()):
        columns = geometry.active_columns(walk)
        walk.coef = columns.scatter(columns.solve(walk)[1])
    correlation = geometry.correlation(walk.coef)
    size = correlation if geometry.positive else correlation.abs()
    entry = torch.where(geometry.penalised & geometry.allowed, size / _nonzero(geometry.weights), 0.0)
    walk.alpha = entry.max(dim=1).values
    # At alpha_max itself rounding must not let a feature in.
    walk.finished = walk.alpha <= geometry.stop * (1 + ROUNDING)
    walk.alpha = torch.where(walk.finished, geometry.stop, walk.alpha)
    return walk


def _independent(geometry: _Geometry, free: Bool[Tensor, "t p"]) -> Bool[Tensor, "t p"]:
    """Leave out unpenalised columns that others already span."""
    kept = free.clone()
    # A ridge makes columns independent.
    for t in (free & (geometry.l2 == 0)).any(dim=1).nonzero()[:, 0].tolist():
        basis: list[Tensor] = []
        for j in free[t].nonzero()[:, 0]:
            column = geometry.rows[geometry.design[t] + j].detach()
            rest = column
            for _ in range(2):
                for q in basis:
                    rest = rest - (q @ rest) * q
            if rest.norm() > DEPENDENT**0.5 * column.norm():
                basis.append(rest / rest.norm())
            else:
                kept[t, j] = False
    return kept


def _nonnegative(geometry: _Geometry, free: Bool[Tensor, "t p"]) -> Bool[Tensor, "t p"]:
    """Support of the unpenalised columns' non-negative least squares fit."""
    kept = free.clone()
    for t in free.any(dim=1).nonzero()[:, 0].tolist():
        feature = free[t].nonzero()[:, 0]
        columns = geometry.rows[geometry.design[t] + feature].detach().mT
        ridge = torch.diag((geometry.n * geometry.l2[t, feature]).sqrt().detach().cpu())
        design = torch.cat([columns.cpu(), ridge])
        target = torch.cat([geometry.y[t].detach().cpu(), torch.zeros(len(feature), dtype=columns.dtype)])
        kept[t, feature] = torch.as_tensor(nnls(design.numpy(), target.numpy())[0] > 0, device=kept.device)
    return kept


def _advance(geometry: _Geometry, walk: Walk, columns: _Columns, direction: Float[Tensor, "t m"]) -> None:
    """Move every walk to its next event: a join, a drop, or the end."""
    join, joining, side = step_to_join(geometry, walk, columns, direction)
    drop, dropping = step_to_drop(walk, columns, direction, geometry)
    step = torch.minimum(torch.minimum(join, drop), walk.alpha - geometry.stop)
    step = torch.where(walk.finished, 0.0, step)

    walk.coef = walk.coef + columns.scatter(step[:, None] * direction)
    going = ~walk.finished
    drops = going & (drop <= step)
    joins = going & ~drops & (join <= step)
    ends = going & ~drops & ~joins
    walk.alpha = torch.where(ends, geometry.stop, walk.alpha - step)
    walk.finished = walk.finished | ends
    _apply_drops(walk, drops, dropping)
    _apply_joins(walk, joins, joining, side, columns)


def step_to_join(
    geometry: _Geometry, walk: Walk, columns: _Columns, direction: Float[Tensor, "t m"]
) -> tuple[Float[Tensor, " t"], Int[Tensor, " t"], Float[Tensor, " t"]]:
    """Smallest step at which an inactive correlation reaches the penalty: step, feature, sign."""
    v = geometry.weights
    correlation = geometry.correlation(walk.coef)
    movement = torch.einsum("tm,tmn->tn", direction, columns.values)
    slope = geometry.correlate(movement) + geometry.l2 * columns.scatter(direction)
    open_ = geometry.kinked & ~walk.active & ~walk.barred
    sides = []
    for sign in (1.0,) if geometry.positive else (1.0, -1.0):
        gap = walk.alpha[:, None] * v - sign * correlation
        rate = v - sign * slope
        # A feature that has just left moves inwards from the side that it left.
        possible = open_ & (rate > PARALLEL * v) & ~(walk.dropped & (walk.sign == sign))
        sides.append(torch.where(possible, _safe_divide(gap, rate, possible), torch.inf))
    step, choice = torch.cat(sides, dim=1).min(dim=1)
    p = v.shape[1]
    return step, choice % p, torch.where(choice < p, 1.0, -1.0).to(step.dtype)


def step_to_drop(
    walk: Walk, columns: _Columns, direction: Float[Tensor, "t m"], geometry: _Geometry
) -> tuple[Float[Tensor, " t"], Int[Tensor, " t"]]:
    """Smallest step at which an active coefficient reaches zero: step, feature."""
    if columns.index.shape[1] == 0:
        return torch.full_like(walk.alpha, torch.inf), torch.zeros_like(walk.alpha, dtype=torch.long)
    sign = columns.gather(walk.sign)
    size, rate = sign * columns.gather(walk.coef), -sign * direction
    shrinking = columns.valid & (rate > 0) & columns.gather(geometry.kinked.to(sign.dtype)).bool()
    steps = torch.where(shrinking, _safe_divide(size, rate, shrinking), torch.inf)
    step, slot = steps.min(dim=1)
    return step, columns.index.gather(1, slot[:, None])[:, 0]


def _apply_drops(walk: Walk, drops: Bool[Tensor, " t"], feature: Int[Tensor, " t"]) -> None:
    gone = torch.zeros_like(walk.active)
    gone[drops, feature[drops]] = True
    walk.active = walk.active & ~gone
    walk.coef = torch.where(gone, 0.0, walk.coef)
    walk.dropped = gone
    walk.barred = walk.barred & ~drops[:, None]


def _apply_joins(
    walk: Walk, joins: Bool[Tensor, " t"], feature: Int[Tensor, " t"], side: Tensor, columns: _Columns
) -> None:
    dependent = columns.distance(feature).detach() <= DEPENDENT
    came = torch.zeros_like(walk.active)
    came[joins, feature[joins]] = True
    walk.barred = walk.barred | (came & dependent[:, None])
    came = came & ~dependent[:, None]
    walk.active = walk.active | came
    walk.sign = torch.where(came, side[:, None], walk.sign)


def _safe_divide(numerator: Tensor, denominator: Tensor, where: Tensor) -> Tensor:
    """Divide with the paper's sign-aware epsilon (sec. 2.2): no sign flips, no infinite derivative."""
    denominator = torch.where(where, denominator, 1.0)
    numerator = torch.where(where, numerator, 0.0).clamp(min=0.0)
    return numerator / (denominator + EPSILON * torch.where(denominator < 0, -1.0, 1.0))


def _nonzero(value: Tensor) -> Tensor:
    return torch.where(value > 0, value, 1.0)
