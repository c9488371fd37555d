"""The lasso as a differentiable function, without its path.

At fixed alpha and away from knots the active set A and its signs s do not move, and
`w_A = H^-1 (X_A'y / n - alpha (v s)_A)` with `H = X_A'X_A / n + l2 I` is an ordinary smooth function. For an
incoming gradient g, with `q = H^-1 g_A` and the residual r,

    dy = X_A q / n,    dX_A = (r q' - X_A q w_A') / n,    dalpha = -(v s)'q .
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from larscope.lasso.problem import Problem

# Gathered active columns are held in blocks of at most so many numbers.
BLOCK = 16_000_000


class ImplicitLasso(Function):
    """Solve a `Problem`; backward is the vector-Jacobian product on the active set."""

    @staticmethod
    def forward(
        X: Tensor,
        y: Tensor,
        alpha: Tensor,
        weights: Tensor,
        init: Tensor | None,
        positive: bool,
        l2: float,
        solve: Callable[[Problem, Tensor | None], Tensor],
    ) -> Tensor:
        """Return the coefficients, (batch, p, k)."""
        return solve(Problem(X, y, alpha, weights, positive, l2), init)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the data and the solution: no path, no factor."""
        X, y, alpha, weights, _, ctx.positive, ctx.l2, _ = inputs
        ctx.save_for_backward(X, y, alpha, weights, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of X, y and alpha."""
        X, y, alpha, weights, coef = ctx.saved_tensors
        dX, dy, dalpha = _support_vjp(X, y, alpha, weights, coef, grad, ctx.l2, ctx.positive)
        return dX, dy, dalpha, None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        """Fold the mapped dimension into the batch that the engines already know."""
        folded = _fold(info.batch_size, in_dims[:5], inputs[:5])
        coef = implicit_lasso(*folded, *inputs[5:])
        return _unfold(coef, info.batch_size), 0


class SupportVJP(Function):
    """The vector-Jacobian product, itself differentiable once more."""

    @staticmethod
    def forward(
        X: Tensor,
        y: Tensor,
        alpha: Tensor,
        weights: Tensor,
        coef: Tensor,
        grad: Tensor,
        l2: float,
        positive: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return dX, dy, dalpha: compiled on the CPU, by the plain torch formula elsewhere."""
        if X.device.type == "cpu":
            # Imported here, because numba is slow to import.
            from larscope.lasso import active_set

            compiled = active_set.support_vjp(X, y, weights, coef, grad, l2, positive)
            if compiled is not None:
                return compiled
        return support_vjp(X, y, weights, coef, grad, l2, positive)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep the inputs."""
        *tensors, ctx.l2, ctx.positive = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate the plain torch formula."""
        X, y, _, weights, coef, grad = ctx.saved_tensors
        dX, dy, dcoef, dgrad = _support_vjp_gradient(X, y, weights, coef, grad, ctx.l2, ctx.positive, *grads)
        return dX, dy, None, None, dcoef, dgrad, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        """Fold the mapped dimension into the batch."""
        folded = _fold(info.batch_size, in_dims[:6], inputs[:6])
        outputs = _support_vjp(*folded, *inputs[6:])
        return tuple(_unfold(out, info.batch_size) for out in outputs), (0, 0, 0)


class SupportVJPGradient(Function):
    """Second derivatives, by autograd through `support_vjp`; not differentiable further."""

    @staticmethod
    def forward(
        X: Tensor,
        y: Tensor,
        weights: Tensor,
        coef: Tensor,
        grad: Tensor,
        l2: float,
        positive: bool,
        *grads: Tensor,
    ) -> tuple[Tensor, ...]:
        """Gradients of X, y, coef and the first incoming gradient."""
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in (X, y, coef, grad)]
            outputs = support_vjp(leaves[0], leaves[1], weights, leaves[2], leaves[3], l2, positive)
            # Where the support is empty the formula is constant.
            pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if o.requires_grad]
            if not pairs:
                return tuple(torch.zeros_like(leaf) for leaf in leaves)
            out, incoming = zip(*pairs, strict=True)
            return torch.autograd.grad(out, leaves, incoming, materialize_grads=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Refuse: two derivatives are enough for a Hessian."""
        raise NotImplementedError(
            "The implicit gradient of `lasso` must be differentiated at most twice: got a third time. "
            'Use gradient="unrolled" for higher derivatives.'
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        """Fold the mapped dimension into the batch."""
        folded = _fold(info.batch_size, in_dims[:5] + in_dims[7:], inputs[:5] + inputs[7:])
        outputs = _support_vjp_gradient(*folded[:5], *inputs[5:7], *folded[5:])
        return tuple(_unfold(out, info.batch_size) for out in outputs), (0, 0, 0, 0)


# Typed names for what torch leaves untyped.
implicit_lasso: Callable[..., Tensor] = ImplicitLasso.apply
_support_vjp: Callable[..., tuple[Tensor, Tensor, Tensor]] = SupportVJP.apply
_support_vjp_gradient: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] = SupportVJPGradient.apply


def support_vjp(
    X: Float[Tensor, "batch n p"],
    y: Float[Tensor, "batch n k"],
    weights: Float[Tensor, "batch p k"],
    coef: Float[Tensor, "batch p k"],
    grad: Float[Tensor, "batch p k"],
    l2: float,
    positive: bool,
) -> tuple[Float[Tensor, "batch n p"], Float[Tensor, "batch n k"], Float[Tensor, "batch k"]]:
    """Vector-Jacobian product of the solution on its support, by the formula above.

    Work is proportional to the support: active columns are gathered, a block of targets at a time.
    """
    batch, n, p = X.shape
    k = y.shape[-1]
    columns = X.mT.reshape(batch * p, n)
    targets = y.mT.reshape(batch * k, n)
    dcolumns, dtargets = torch.zeros_like(columns), torch.zeros_like(targets)
    dalpha = y.new_zeros(batch * k)

    support = coef != 0
    if not positive:
        # Unpenalised coefficients may be zero by accident: they stay in the support.
        support = support | (weights == 0)
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
        w, g, v = (torch.where(valid, z[b, j, t], 0.0) for z in (coef, grad, weights))
        q = _solve_gram(active, valid, g, l2)
        residual = targets[block] - torch.einsum("tm,tmn->tn", w, active)
        movement = torch.einsum("tm,tmn->tn", q, active)

        outer = q[..., None] * residual[:, None] - w[..., None] * movement[:, None]
        dcolumns = dcolumns.index_add(0, row.flatten(), outer.flatten(0, 1) / n)
        dtargets = dtargets.index_add(0, block, movement / n)
        dalpha = dalpha.index_add(0, block, -(v * w.sign() * q).sum(-1))
    return dcolumns.reshape(batch, p, n).mT, dtargets.reshape(batch, k, n).mT, dalpha.reshape(batch, k)


def _solve_gram(active: Tensor, valid: Tensor, g: Tensor, l2: float) -> Float[Tensor, "t m"]:
    """Solve `H q = g`, with the identity in the padding."""
    n = active.shape[-1]
    H = active @ active.mT / n + torch.diag_embed(torch.where(valid, g.new_tensor(l2), 1.0))
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
