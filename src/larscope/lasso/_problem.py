"""One lasso problem in canonical form, and the checks made where data enters.

Every engine, the gradient and the certificate receive a `Problem`: all of them minimise, for each batch
entry b and target k,

    1/(2n) ||y - X w||^2 + alpha sum_j v_j |w_j| + l2/2 ||w||^2 .
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from larscope._errors import LarscopeError

DTYPES = (torch.float32, torch.float64)
# A duality gap may be so many times as large as a violation: it is about the violation times the sum of |w|, which
# grows where columns nearly cancel.
GAP_PER_VIOLATION = 1e3
# Units are powers of two to this power: data of ordinary size have the unit 1, and keep their every bit.
UNIT = 64
# The range of units, so that they and their inverses are normal numbers.
MOST = 15


@dataclass(frozen=True)
class Problem:
    """Float64 tensors with one batch dimension; `weights` is 0 for unpenalised, inf for excluded features."""

    X: Float[Tensor, "batch n p"]
    y: Float[Tensor, "batch n k"]
    alpha: Float[Tensor, "batch k"]
    weights: Float[Tensor, "batch p k"]
    l2: Float[Tensor, "batch p"]
    positive: bool = field(default=False, kw_only=True)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What a problem is made of, in the order in which `Problem` takes it."""
        return self.X, self.y, self.alpha, self.weights, self.l2

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
        return self.X.mT @ residual / self.n_samples - self.l2.unsqueeze(-1) * coef

    def detach(self) -> Problem:
        """Return the same problem, cut from the autograd graph."""
        return Problem(*(tensor.detach() for tensor in self.tensors), positive=self.positive)

    def target(self, b: int, t: int) -> Problem:
        """Return the problem of one target alone."""
        one, batch = slice(t, t + 1), slice(b, b + 1)
        X, y, alpha, weights, l2 = (tensor[batch] for tensor in self.tensors)
        return Problem(X, y[..., one], alpha[..., one], weights[..., one], l2, positive=self.positive)


@dataclass(frozen=True)
class Units:
    """Powers of two by which columns and targets are multiplied, so that no square of theirs overflows or vanishes.

    The coefficients of the problem in these units are `targets / columns` times as large.
    """

    columns: Float[Tensor, "batch p"]
    targets: Float[Tensor, "batch k"]

    def into(self, coef: Float[Tensor, "batch p k"]) -> Float[Tensor, "batch p k"]:
        """Express coefficients in these units."""
        return coef / self.columns.unsqueeze(-1) * self.targets.unsqueeze(-2)

    def out_of(self, coef: Float[Tensor, "batch p k"]) -> Float[Tensor, "batch p k"]:
        """Express coefficients that are in these units in those of the data."""
        return coef * self.columns.unsqueeze(-1) / self.targets.unsqueeze(-2)


@dataclass(frozen=True)
class Sizes:
    """The largest number of each column and target, by absolute value, which NaN counts as."""

    columns: Float[Tensor, "batch p"]
    targets: Float[Tensor, "batch k"]

    @cached_property
    def ordinary(self) -> bool:
        """Whether no square can overflow or vanish: then all units are 1, and all numbers finite."""
        bound = 2.0 ** (UNIT // 2)
        ranges = (_range(torch.where(size == 0, 1.0, size)) for size in (self.columns, self.targets))
        return all(1 / bound <= least and most < bound for least, most in ranges)

    @property
    def units(self) -> Units:
        """The units in which the problem is of ordinary size: 1 for what is so already."""
        return Units(_unit(self.columns), _unit(self.targets))


def _range(values: Tensor) -> tuple[float, float]:
    """Smallest and largest: NaN where there is one, 1 where there is nothing."""
    if not values.numel():
        return 1.0, 1.0
    least, most = values.aminmax()
    return least.item(), most.item()


def measure(problem: Problem) -> Sizes:
    """Measure columns, each with its ridge, and targets."""
    columns, targets = (torch.maximum(z.amax(dim=-2), -z.amin(dim=-2)) for z in (problem.X, problem.y))
    return Sizes(torch.maximum(columns, problem.l2.sqrt()), targets)


def _unit(size: Tensor) -> Tensor:
    size = torch.where((size > 0) & size.isfinite(), size, 1.0).clamp(min=torch.finfo(size.dtype).tiny)
    exponent = torch.frexp(size.detach()).exponent.to(torch.float64)
    return torch.exp2(-UNIT * (exponent / UNIT).round().clamp(-MOST, MOST))


def in_units(problem: Problem, units: Units) -> Problem:
    """Express a problem in units; differentiable."""
    weights = problem.weights
    # Where all targets share their weights, they still do.
    shared = weights.shape[-1] > 1 and weights.stride(-1) == 0
    scaled = _times(weights[..., :1] if shared else weights, units.columns.unsqueeze(-1))
    return Problem(
        problem.X * units.columns.unsqueeze(-2),
        problem.y * units.targets.unsqueeze(-2),
        _times(problem.alpha, units.targets),
        scaled.expand_as(weights) if shared else scaled,
        problem.l2 * units.columns * units.columns,
        positive=problem.positive,
    )


def _times(penalty: Tensor, unit: Tensor) -> Tensor:
    """Multiply, but keep finite what is: an infinite weight excludes its feature."""
    product = penalty * unit
    return torch.where(penalty.isinf(), penalty, product.clamp(max=torch.finfo(product.dtype).max))


@dataclass(frozen=True)
class Layout:
    """How the caller's shapes map to a `Problem` and back.

    `leading` are the dimensions before targets, which lie beside each other where they all `share` one design.
    """

    leading: tuple[int, ...]
    n_targets: int
    single_target: bool
    shares: bool
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one value per target."""
        return self.leading if self.single_target else (*self.leading, self.n_targets)

    @property
    def n_designs(self) -> int:
        """Size of the batch."""
        return 1 if self.shares else math.prod(self.leading)

    @property
    def n_columns(self) -> int:
        """Targets of each design."""
        return self.n_targets * (math.prod(self.leading) if self.shares else 1)

    def coef(self, coef: Float[Tensor, "batch p k"]) -> Tensor:
        """Give coefficients the caller's shape and dtype."""
        coef, p = coef.to(self.dtype), coef.shape[1]
        if self.shares:
            return coef.reshape(p, *self.leading, self.n_targets).movedim(0, -2)
        coef = coef.reshape(*self.leading, p, self.n_targets)
        return coef[..., 0] if self.single_target else coef

    def per_target(self, value: Float[Tensor, "batch k"]) -> Tensor:
        """Give one value per target the caller's shape."""
        return value.reshape(self.shape)

    def from_targets(self, name: str, value: Tensor) -> Float[Tensor, "batch k"]:
        """Take one value for all targets, or one per target: in the shape of `alpha_max`, or one that broadcasts to it.

        (B, 1) has one value for each entry of a batch.
        """
        shape = (*self.leading, 1) if self.single_target and value.ndim > len(self.leading) else self.shape
        try:
            full = value.expand(shape)
        except RuntimeError:
            raise LarscopeError(
                f"`{name}` must be a number or broadcast to {self.shape}, one value per target: got shape "
                f"{tuple(value.shape)}. Pass a number, or a tensor with one penalty per column of `y`."
            ) from None
        return full.reshape(self.n_designs, self.n_columns)

    def from_features(self, name: str, value: Tensor, p: int) -> Float[Tensor, "batch p k"]:
        """Broadcast one value per feature, or per feature and target, to (batch, p, k)."""
        k = self.n_targets
        column = value.unsqueeze(-1) if value.ndim == 1 and value.shape[0] == p else value
        try:
            full = column.expand(*self.leading, p, k)
        except RuntimeError:
            raise LarscopeError(
                f"`{name}` must broadcast to (p, K) = ({p}, {k}): got shape {tuple(value.shape)}. "
                "Pass one value per feature, shape (p,), or one per feature and target, shape (p, K)."
            ) from None
        # Where all targets share their weights, or all designs, one copy serves them.
        if self.shares:
            if column.ndim <= 2 and (column.ndim == 0 or column.shape[-1] == 1):
                return column.expand(p, 1)[None].expand(1, p, self.n_columns)
            return full.movedim(-2, 0).reshape(1, p, self.n_columns)
        if column.ndim <= 2:
            return column.expand(p, k)[None].expand(self.n_designs, p, k)
        return full.reshape(self.n_designs, p, k)


def canonical(
    X: Tensor,
    y: Tensor,
    alpha: float | Tensor,
    weights: Tensor | None = None,
    mask: Bool[Tensor, "*features"] | None = None,
    positive: bool = False,
    l2: float | Tensor = 0.0,
) -> tuple[Problem, Layout]:
    """Check shapes and types and bring a lasso problem to canonical form."""
    X, y = _without_autocast(X), _without_autocast(y)
    layout = _check_design(X, y)
    if not isinstance(positive, bool):
        raise _wrong_type("positive", "True or False", positive, "Pass one of them for all targets.")
    n, p = X.shape[-2:]
    k = layout.n_columns
    targets = y.to(torch.float64)
    targets = targets.movedim(-2, 0) if layout.shares else targets
    ridge = penalty("l2", l2, X.device)
    if ridge.ndim:
        raise LarscopeError(f"`l2` must be one number: got shape {tuple(ridge.shape)}. Pass 0.0 for the plain lasso.")
    problem = Problem(
        X=X.to(torch.float64).reshape(layout.n_designs, n, p),
        y=targets.reshape(layout.n_designs, n, k),
        alpha=layout.from_targets("alpha", penalty("alpha", alpha, X.device)),
        weights=_penalty_weights(weights, mask, X, layout),
        l2=ridge.expand(layout.n_designs, p),
        positive=positive,
    )
    return problem, layout


def penalty(name: str, value: object, device: torch.device | None = None) -> Tensor:
    """Take a penalty as a float64 tensor.

    Raises
    ------
    TypeError
        Where it is neither a number nor a tensor of numbers.
    """
    if not isinstance(value, Tensor):
        if isinstance(value, bool) or not isinstance(value, Real):
            raise _wrong_type(name, "a number or a torch.Tensor", value, "Pass a penalty >= 0.")
        return torch.tensor(float(value), dtype=torch.float64, device=device)
    return value.to(torch.float64) if device is None else value.to(device, torch.float64)


def is_traced(tensor: Tensor) -> bool:
    """Whether torch traces a graph here, or knows shapes alone."""
    return torch.compiler.is_compiling() or tensor.is_meta or isinstance(tensor, FakeTensor)


def values_known(tensor: Tensor) -> bool:
    """Whether a tensor has numbers to look at: not where torch traces a function, or maps it over a batch."""
    while not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        if torch._C._functorch.is_batchedtensor(tensor):
            return False
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return not is_traced(tensor)


def check_number(name: str, value: object) -> None:
    """Raise, before there are data, where a penalty is no number, or negative."""
    _check_penalty(name, penalty(name, value).detach(), "Pass a penalty >= 0.")


def features(name: str, value: object, X: Tensor, layout: Layout) -> Float[Tensor, "batch p k"]:
    """Broadcast what the caller gives per feature, or per feature and target, to (batch, p, k)."""
    value = _tensor(name, value)
    return layout.from_features(name, value.to(X.device, torch.float64), X.shape[-1])


def check_values(problem: Problem) -> Sizes:
    """Raise ValueError where a number makes the problem meaningless; return the size of the others."""
    sizes = measure(problem)
    if not sizes.ordinary:
        for name, value in (("X", problem.X), ("y", problem.y)):
            count = int((~value.isfinite()).sum())
            if count:
                raise LarscopeError(
                    f"`{name}` must be finite: got {count} NaN or infinite values. "
                    "Remove or impute them before the fit."
                )
    _check_penalty("alpha", problem.alpha, "Pass a penalty between 0 and `alpha_max(X, y)`.")
    _check_penalty("l2", problem.l2[..., :1], "Pass 0.0 for the plain lasso.")
    # Where all targets share their weights, one column holds them all.
    shared = problem.weights.stride(-1) == 0
    least, _ = _range(problem.weights[..., :1] if shared else problem.weights)
    if not least >= 0:
        raise LarscopeError(
            f"`weights` must be >= 0: got {least}. Use 0 for an unpenalised feature and inf for an excluded one."
        )
    return sizes


def _check_penalty(name: str, value: Tensor, advice: str) -> None:
    least, most = _range(value)
    if not (least >= 0 and most < math.inf):
        worst = most if least >= 0 else least
        raise LarscopeError(f"`{name}` must be finite and >= 0: got {worst}. {advice}")


def _wrong_type(name: str, expected: str, value: object, advice: str) -> TypeError:
    return TypeError(f"`{name}` must be {expected}: got {type(value).__name__}. {advice}")


def _tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise _wrong_type(name, "a torch.Tensor", value, f"Convert it with torch.as_tensor({name}).")
    if value.layout != torch.strided:
        raise LarscopeError(f"`{name}` must be dense: got {value.layout}. Convert it with `.to_dense()`.")
    return value


def _without_autocast(value: Tensor) -> Tensor:
    """Take half precision as float32 where it is autocast's choice."""
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half and torch.is_autocast_enabled(value.device.type) else value


def _check_design(X: Tensor, y: Tensor) -> Layout:
    for name, value in (("X", X), ("y", y)):
        _tensor(name, value)
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
    if y.shape == rows:
        return Layout(tuple(rows[:-1]), 1, True, False, X.dtype)
    several = y.ndim >= X.ndim and y.shape[-1] >= 1
    if several and y.shape[:-1] == rows:
        return Layout(tuple(rows[:-1]), y.shape[-1], False, False, X.dtype)
    if several and X.ndim == 2 and y.shape[-2] == len(X):
        return Layout(tuple(y.shape[:-2]), y.shape[-1], False, True, X.dtype)
    raise LarscopeError(
        f"`y` must have shape (..., n) or (..., n, K) with the leading shape {tuple(rows)} of `X`: "
        f"got {tuple(y.shape)}. Give both the same leading dimensions and number of rows, or one `X` (n, p) to all "
        "of `y` (..., n, K)."
    )


def _penalty_weights(
    weights: Tensor | None, mask: Tensor | None, X: Tensor, layout: Layout
) -> Float[Tensor, "batch p k"]:
    v = torch.ones(1, dtype=torch.float64, device=X.device) if weights is None else _tensor("weights", weights)
    if mask is None:
        return features("weights", v, X, layout)
    mask = _tensor("mask", mask)
    if mask.dtype != torch.bool:
        raise LarscopeError(
            f"`mask` must be boolean, True where a coefficient is allowed: got {mask.dtype}. "
            "Use `weights` for numeric penalties."
        )
    p = X.shape[-1]
    columns = [z.unsqueeze(-1) if z.ndim == 1 and z.shape[0] == p else z for z in (mask.to(X.device), v.to(X.device))]
    try:
        v = torch.where(columns[0], columns[1].to(torch.float64), torch.inf)
    except RuntimeError:
        features("weights", v, X, layout)
    return features("mask", v, X, layout)
