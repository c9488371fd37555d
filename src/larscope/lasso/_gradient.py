"""The lasso as a differentiable function, without its path.

At fixed alpha and away from knots the active set A and its signs s do not move, and
`w_A = H^-1 (X_A'y / n - alpha (v s)_A)` with `H = X_A'X_A / n + l2 I` is an ordinary smooth function. For an
incoming gradient g, with `q = H^-1 g_A` and the residual r,

    dy = X_A q / n,    dX_A = (r q' - X_A q w_A') / n,
    dalpha = -(v s)'q,    dv_A = -alpha s q,    dl2 = -w_A'q ,

and forwards, for changes of the data,

    dw_A = H^-1 (dX_A'r + X_A'(dy - dX_A w_A)) / n - H^-1 (d(alpha v) s + dl2 w_A) .

Both apply `H^-1` on the support, and nothing else that is not a product: `SupportSolve`, which is its own transpose, is
all that has to be differentiated by hand. First derivatives on the CPU are compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd import Function

from larscope.lasso import _engines
from larscope.lasso._engines import Engine
from larscope.lasso._problem import Problem, in_units, is_traced, measure, values_known

# Gathered active columns are held in blocks of at most so many numbers.
BLOCK = 16_000_000


class ImplicitLasso(Function):
    """Solve the `Problem` of five tensors; backward and forward mode pass through the active set."""

    @staticmethod
    def forward(
        X: Tensor,
        y: Tensor,
        alpha: Tensor,
        weights: Tensor,
        l2: Tensor,
        init: Tensor | None,
        positive: bool,
        engine: Engine,
        learning: bool,
    ) -> Tensor:
        """Return the coefficients, (batch, p, k)."""
        if not is_traced(X):
            return _engines.solve(Problem(X, y, alpha, weights, l2, positive=positive), init, engine, learning)
        coef: Tensor = torch.ops.larscope.solve_lasso(X, y, alpha, weights, l2, init, positive, engine, learning)
        return coef

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the data and the solution: no path, no factor."""
        *tensors, _, ctx.positive, _, _ = inputs
        ctx.save_for_backward(*tensors, output)
        if not torch.compiler.is_compiling():
            ctx.save_for_forward(*tensors, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of X, y, alpha, weights and l2."""
        *tensors, coef = ctx.saved_tensors
        if is_traced(coef):
            return *torch.ops.larscope.pull_back_lasso(*tensors, coef, grad, ctx.positive), None, None, None, None
        problem = Problem(*tensors, positive=ctx.positive)
        found = None
        if not torch.is_grad_enabled() and values_known(grad) and values_known(coef):
            found = _engines.pull_back(problem, coef, grad, any(ctx.needs_input_grad[3:5]))
        return *(pull_back(problem, coef, grad) if found is None else found), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *changes: Any) -> Tensor:
        """Return the change of the coefficients."""
        *tensors, coef = ctx.saved_tensors
        return push_forward(Problem(*tensors, positive=ctx.positive), coef, *changes[:5])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        """Fold the mapped dimension into the batch that the engines already know."""
        folded = _fold(info.batch_size, in_dims[:6], inputs[:6])
        coef = implicit_lasso(*folded, *inputs[6:])
        return _unfold(coef, info.batch_size), 0


class SupportSolve(Function):
    """Solve `H q = g` on each target's support, and differentiate that as often as is asked."""

    @staticmethod
    def forward(X: Tensor, l2: Tensor, support: Tensor, g: Tensor) -> Tensor:
        """Return q, zero outside the support."""
        return _solve_on_support(X, l2, support, g)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the design, the support and the solution."""
        X, l2, support, _ = inputs
        ctx.save_for_backward(X, l2, support, output)
        ctx.save_for_forward(X, l2, support, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """`H` is symmetric: with `u = H^-1 dq`, `dg = u` and `dH = -u q'`."""
        X, l2, support, q = ctx.saved_tensors
        u = support_solve(X, l2, support, grad)
        dX = -(X @ q @ u.mT + X @ u @ q.mT) / X.shape[-2]
        return dX, -(u * q).sum(-1), None, u

    @staticmethod
    def jvp(ctx: Any, dX: Tensor | None, dl2: Tensor | None, _: None, dg: Tensor | None) -> Tensor:
        """`dq = H^-1 (dg - dH q)`."""
        X, l2, support, q = ctx.saved_tensors
        change = torch.zeros_like(q) if dg is None else dg
        if dX is not None:
            change = change - (dX.mT @ (X @ q) + X.mT @ (dX @ q)) / X.shape[-2]
        if dl2 is not None:
            change = change - dl2.unsqueeze(-1) * q
        return support_solve(X, l2, support, change)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        """Fold the mapped dimension into the batch."""
        return _unfold(support_solve(*_fold(info.batch_size, in_dims, inputs)), info.batch_size), 0


def implicit_lasso(*inputs: Any) -> Tensor:
    """Apply `ImplicitLasso`; where `torch.compile` traces, which knows no forward mode, call one node of its graph.

    Where nobody asks for derivatives, solve at once: `apply` takes longer than a small problem.
    """
    *tensors, init, positive, engine, learning = inputs
    if not (learning or is_traced(tensors[0]) or _is_transformed()):
        return _engines.solve(Problem(*tensors, positive=positive), init, engine, learning)
    apply: Callable[..., Tensor] = ImplicitLasso.apply
    operator = torch.ops.larscope.solve_lasso if torch.compiler.is_compiling() else apply
    return operator(*inputs)


def _is_transformed() -> bool:
    """Whether a function is differentiated forwards here, or mapped, or transformed otherwise."""
    return bool(torch._C._are_functorch_transforms_active()) or torch.autograd.forward_ad._current_level >= 0


# A typed name for what torch leaves untyped.
support_solve: Callable[..., Tensor] = SupportSolve.apply


@torch.library.custom_op(
    "larscope::solve_lasso",
    mutates_args=(),
    schema="(Tensor X, Tensor y, Tensor alpha, Tensor weights, Tensor l2, Tensor? init, bool positive, str engine, "
    "bool learning) -> Tensor",
)
def _solve_lasso(*inputs: Any) -> Tensor:
    """Compute `engines.solve` where torch traces a graph, which this is one node of."""
    *tensors, init, positive, engine, learning = inputs
    return _engines.solve(Problem(*tensors, positive=positive), init, engine, learning).contiguous()


@_solve_lasso.register_fake
def _solve_lasso_shape(*inputs: Any) -> Tensor:
    weights: Tensor = inputs[3]
    return weights.new_empty(weights.shape)


@torch.library.custom_op(
    "larscope::pull_back_lasso",
    mutates_args=(),
    schema="(Tensor X, Tensor y, Tensor alpha, Tensor weights, Tensor l2, Tensor coef, Tensor grad, bool positive) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _pull_back_lasso(*inputs: Any) -> tuple[Tensor, ...]:
    """Compute gradients where torch traces a graph."""
    *tensors, coef, grad, positive = inputs
    problem = Problem(*tensors, positive=positive)
    found = _engines.pull_back(problem, coef, grad, with_penalties=True)
    return tuple(g.contiguous() for g in (pull_back(problem, coef, grad) if found is None else found) if g is not None)


@_pull_back_lasso.register_fake
def _pull_back_lasso_shapes(*inputs: Any) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in inputs[:5])


_solve_lasso.register_autograd(ImplicitLasso.backward, setup_context=ImplicitLasso.setup_context)


def pull_back(problem: Problem, coef: Float[Tensor, "batch p k"], grad: Tensor) -> tuple[Tensor, ...]:
    """Vector-Jacobian product of the solution: gradients of X, y, alpha, weights and l2."""
    units = measure(problem).units
    X, y, alpha, weights, l2 = in_units(problem, units).tensors
    coef, grad, n = units.into(coef), units.out_of(grad), problem.n_samples
    q = support_solve(X, l2, _support(problem, coef), grad)
    movement = X @ q
    dX = ((y - X @ coef) @ q.mT - movement @ coef.mT) / n
    signed = _finite(weights) * coef.sign()
    return (
        dX * units.columns.unsqueeze(-2),
        movement / n * units.targets.unsqueeze(-2),
        -(signed * q).sum(-2) * units.targets,
        -alpha.unsqueeze(-2) * coef.sign() * q * units.columns.unsqueeze(-1),
        -(q * coef).sum(-1) * units.columns.square(),
    )


def push_forward(
    problem: Problem,
    coef: Float[Tensor, "batch p k"],
    dX: Tensor | None,
    dy: Tensor | None,
    dalpha: Tensor | None,
    dweights: Tensor | None,
    dl2: Tensor | None,
) -> Float[Tensor, "batch p k"]:
    """Jacobian-vector product of the solution: its change, for changes of the data."""
    units = measure(problem).units
    X, y, alpha, weights, l2 = in_units(problem, units).tensors
    columns, targets = units.columns, units.targets
    coef, n = units.into(coef), problem.n_samples
    change, movement = torch.zeros_like(coef), torch.zeros_like(y)
    if dy is not None:
        movement = movement + dy * targets.unsqueeze(-2)
    if dX is not None:
        dX = dX * columns.unsqueeze(-2)
        movement = movement - dX @ coef
        change = change + dX.mT @ (y - X @ coef) / n
    change = change + X.mT @ movement / n
    if dalpha is not None:
        change = change - (dalpha * targets).unsqueeze(-2) * _finite(weights) * coef.sign()
    if dweights is not None:
        dweights = torch.where(weights.isinf(), 0.0, dweights) * columns.unsqueeze(-1)
        change = change - alpha.unsqueeze(-2) * dweights * coef.sign()
    if dl2 is not None:
        change = change - (dl2 * columns.square()).unsqueeze(-1) * coef
    return units.out_of(support_solve(X, l2, _support(problem, coef), change))


def _support(problem: Problem, coef: Float[Tensor, "batch p k"]) -> Bool[Tensor, "batch p k"]:
    if problem.positive:
        return coef != 0
    # Unpenalised coefficients may be zero by accident: they stay in the support.
    return (coef != 0) | (problem.weights == 0)


def _finite(weights: Tensor) -> Tensor:
    return torch.where(weights.isinf(), 0.0, weights)


def _solve_on_support(
    X: Float[Tensor, "batch n p"],
    l2: Float[Tensor, "batch p"],
    support: Bool[Tensor, "batch p k"],
    g: Float[Tensor, "batch p k"],
) -> Float[Tensor, "batch p k"]:
    """Work is proportional to the support: active columns are gathered, a block of targets at a time."""
    batch, n, p = X.shape
    k = support.shape[-1]
    columns, ridges = X.mT.reshape(batch * p, n), l2.reshape(batch * p)
    q = torch.zeros_like(g)
    target, feature = support.mT.reshape(batch * k, p).nonzero(as_tuple=True)
    count = torch.bincount(target, minlength=batch * k)
    first = count.cumsum(0) - count
    by_size = count.argsort(descending=True)
    for block in _blocks(by_size, count, n):
        width = int(count[block[0]])
        if width == 0:
            break
        slot = torch.arange(width, device=X.device)
        valid = slot < count[block][:, None]
        j = feature[torch.where(valid, first[block][:, None] + slot, 0)]
        b, t = (block // k)[:, None], (block % k)[:, None]
        row = b * p + j
        active = columns[row] * valid[..., None]
        found = _solve_gram(active, torch.where(valid, ridges[row], 1.0), torch.where(valid, g[b, j, t], 0.0))
        q.index_put_((b, j, t), torch.where(valid, found, 0.0), accumulate=True)
    return q


def _solve_gram(active: Tensor, ridge: Tensor, g: Tensor) -> Float[Tensor, "t m"]:
    """Solve `H q = g`, with the identity in the padding."""
    n = active.shape[-1]
    H = active @ active.mT / n + torch.diag_embed(ridge)
    factor, info = torch.linalg.cholesky_ex(H)
    pivot, diagonal = (one.diagonal(dim1=-2, dim2=-1) for one in (factor, H))
    # what is left of a column that depends on others may be rounding instead of zero, or less
    dependent = (info > 0) | (pivot.square() <= H.shape[-1] * torch.finfo(H.dtype).eps * diagonal).any(-1)
    if not bool(dependent.any()):
        return torch.cholesky_solve(g[..., None], factor)[..., 0]
    # Dependent columns on the support: the least-norm derivative is one of many, and finite.
    inverse: Tensor = torch.linalg.pinv(H, hermitian=True)
    return (inverse @ g[..., None])[..., 0]


def _blocks(by_size: Tensor, count: Tensor, n: int) -> list[Tensor]:
    """Split targets, largest supports first, so that gathered columns fit in a block."""
    sizes = count[by_size].tolist()
    blocks, start = [], 0
    while start < len(sizes):
        length = max(1, BLOCK // max(1, sizes[start] * n))
        blocks.append(by_size[start : start + length])
        start += length
    return blocks


def _fold(size: int, dims: tuple[int | None, ...], tensors: tuple[Any, ...]) -> list[Any]:
    """Move each mapped dimension to the front, or expand there, and merge it with the batch."""
    folded: list[Any] = []
    for dim, tensor in zip(dims, tensors, strict=True):
        if tensor is None:
            folded.append(None)
            continue
        mapped = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        folded.append(mapped.flatten(0, 1))
    return folded


def _unfold(value: Tensor, size: int) -> Tensor:
    """Split the mapped dimension from the batch again."""
    return value.reshape(size, -1, *value.shape[1:])
