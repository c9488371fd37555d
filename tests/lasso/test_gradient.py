"""Gradients against finite differences, against autograd through every step, and under torch's transforms."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck

from larscope.lasso import alpha_max, lasso

WEIGHTS = torch.tensor([0.0, 1.0, 2.0, 0.5, 1.0, 1.0, 1.0, torch.inf], dtype=torch.float64)
MASK = torch.ones(8, 3, dtype=torch.bool)
MASK[2:4, 1] = False
OPTIONS = [
    {},
    {"weights": WEIGHTS},
    {"l2": 0.1},
    {"mask": MASK},
    {"positive": True},
    {"weights": WEIGHTS, "l2": 0.1, "mask": MASK, "positive": True},
]


def data(n=12, p=8, k=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(n, p, generator=g, dtype=torch.float64).requires_grad_()
    Y = torch.randn(n, k, generator=g, dtype=torch.float64).requires_grad_()
    alpha = (0.05 + 0.1 * torch.rand(k, generator=g, dtype=torch.float64)).requires_grad_()
    return X, Y, alpha


@pytest.mark.parametrize("options", OPTIONS)
def test_gradcheck_twice(options):
    def solve(X, Y, alpha):
        return lasso(X, Y, alpha, **options)

    assert gradcheck(solve, data())
    # along random directions, which every entry is part of: a twentieth of the time
    assert gradgradcheck(solve, data(), fast_mode=True)


def penalised():
    """Weights of each feature, or of each feature and target, and a ridge, that require gradients."""
    g = torch.Generator().manual_seed(5)
    vector, matrix = (0.5 + torch.rand(*shape, generator=g, dtype=torch.float64) for shape in ((8,), (8, 3)))
    vector[1], vector[7] = 0.0, torch.inf
    return vector, matrix


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("shape", [0, 1])
def test_weights_and_l2_are_differentiated(positive, shape):
    X, Y, alpha = data()
    weights = penalised()[shape]
    change = torch.zeros_like(weights).requires_grad_()
    l2 = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    inner = torch.where(weights.isinf() | (weights == 0), 0.0, 1.0)

    def solve(X, Y, alpha, change, l2):
        return lasso(X, Y, alpha, weights=weights + inner * change, l2=l2, positive=positive)

    inputs = X, Y, alpha, change, l2
    assert gradcheck(solve, inputs, fast_mode=True)
    assert gradgradcheck(solve, inputs, fast_mode=True)
    assert solve(*inputs).detach()[:-1].any()
    unrolled = lasso(X, Y, alpha, weights=weights + inner * change, l2=l2, positive=positive, gradient="unrolled")
    g = torch.randn(unrolled.shape, generator=torch.Generator().manual_seed(1), dtype=unrolled.dtype)
    theirs = torch.autograd.grad((unrolled * g).sum(), inputs)
    ours = torch.autograd.grad((solve(*inputs) * g).sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        assert b.any()
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script`:DeprecationWarning"
)  # torch's own, of its first forward derivative
@pytest.mark.parametrize("options", OPTIONS)
def test_forward_mode(options):
    inputs = tuple(t.detach() for t in data())
    directions = [torch.randn(t.shape, generator=torch.Generator().manual_seed(2), dtype=t.dtype) for t in inputs]

    def solve(X, Y, alpha):
        return lasso(X, Y, alpha, **options)

    def loss(X, Y, alpha):
        return solve(X, Y, alpha).pow(3).sum()

    value, change = torch.func.jvp(solve, inputs, tuple(directions))
    torch.testing.assert_close(value, solve(*inputs), rtol=1e-12, atol=0)
    h = 1e-6
    up, down = (solve(*(t + s * d for t, d in zip(inputs, directions, strict=True))) for s in (h, -h))
    torch.testing.assert_close(change, (up - down) / (2 * h), rtol=1e-6, atol=1e-7)
    for argnums in (0, 1, 2):
        forward = torch.func.jacfwd(solve, argnums=argnums)(*inputs)
        torch.testing.assert_close(forward, torch.func.jacrev(solve, argnums=argnums)(*inputs), rtol=1e-9, atol=1e-12)
    hessian = torch.func.hessian(loss, argnums=1)(*inputs)
    twice = torch.func.jacrev(torch.func.jacrev(loss, argnums=1), argnums=1)(*inputs)
    torch.testing.assert_close(hessian, twice, rtol=1e-9, atol=1e-12)
    twice = torch.func.jacfwd(torch.func.jacfwd(loss, argnums=1), argnums=1)(*inputs)
    torch.testing.assert_close(hessian, twice, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
def test_forward_mode_of_weights_and_l2():
    X, Y, alpha = (t.detach() for t in data())
    for weights in penalised():
        inner = torch.where(weights.isinf() | (weights == 0), 0.0, 1.0)

        def solve(change, l2, weights=weights, inner=inner):
            return lasso(X, Y, alpha, weights=weights + inner * change, l2=l2)

        inputs = torch.zeros_like(weights), torch.tensor(0.2, dtype=torch.float64)
        for argnums in (0, 1):
            forward = torch.func.jacfwd(solve, argnums=argnums)(*inputs)
            torch.testing.assert_close(
                forward, torch.func.jacrev(solve, argnums=argnums)(*inputs), rtol=1e-9, atol=1e-12
            )
        both = torch.func.vmap(lambda l2, solve=solve, none=inputs[0]: solve(none, l2))(
            torch.tensor([0.1, 0.3], dtype=torch.float64)
        )
        torch.testing.assert_close(both[1], solve(inputs[0], 0.3), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("p", "options"), [*((8, o) for o in OPTIONS), (30, {}), (30, {"l2": 0.1}), (30, {"positive": True})]
)
def test_implicit_equals_unrolled(options, p):
    inputs = data(p=p)
    gradients = []
    for gradient in ("implicit", "unrolled"):
        coef = lasso(*inputs, gradient=gradient, **options)
        g = torch.randn(coef.shape, generator=torch.Generator().manual_seed(1), dtype=coef.dtype)
        gradients.append(torch.autograd.grad((coef * g).sum(), inputs))
    for implicit, unrolled in zip(*gradients, strict=True):
        assert (implicit - unrolled).abs().max() <= 1e-6 * unrolled.abs().max()


def test_finite_differences_at_the_size_of_training():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(69, 384, generator=g, dtype=torch.float64)
    for t in range(1, 69):
        z[t] += 0.7 * z[t - 1]
    z = z[5:] / z[5:].std(0)
    direction = torch.randn(z.shape, generator=g, dtype=torch.float64)

    def loss(z, alpha):
        X = torch.cat([z[5 - k : 64 - k] for k in range(1, 6)], 1)
        return lasso(X, z[5:], alpha).square().sum()

    alpha = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    z.requires_grad_()
    dz, dalpha = torch.autograd.grad(loss(z, alpha), (z, alpha))
    h = 1e-8
    with torch.no_grad():
        along = (loss(z + h * direction, alpha) - loss(z - h * direction, alpha)) / (2 * h)
        down = (loss(z, alpha + h) - loss(z, alpha - h)) / (2 * h)
    assert (dz * direction).sum().item() == pytest.approx(along.item(), rel=1e-5)
    assert dalpha.item() == pytest.approx(down.item(), rel=1e-5)


def test_constants_and_no_grad():
    X, Y, alpha = data()
    assert not lasso(X, Y, alpha, gradient=None).requires_grad
    with torch.no_grad():
        assert not lasso(X, Y, alpha).requires_grad
    whole = torch.autograd.grad(lasso(X, Y, alpha).sum(), (X, Y))
    (dX,) = torch.autograd.grad(lasso(X, Y.detach(), 1.0 * alpha.detach()).sum(), X)
    (dY,) = torch.autograd.grad(lasso(X.detach(), Y, alpha.detach()).sum(), Y)
    assert (dX == whole[0]).all()
    assert (dY == whole[1]).all()


def test_batched_gradient_is_the_loop():
    X, Y, alpha = data()
    XX, YY = torch.stack([X, 2 * X]), torch.stack([Y, Y.flip(0)])
    (dX,) = torch.autograd.grad(lasso(XX, YY, alpha).square().sum(), X)
    XX, YY = torch.stack([X, 2 * X]), torch.stack([Y, Y.flip(0)])
    parts = [lasso(x, y, alpha).square().sum() for x, y in zip(XX, YY, strict=True)]
    torch.testing.assert_close(dX, torch.autograd.grad(sum(parts), X)[0], rtol=1e-12, atol=0)


def test_vmap_is_the_loop():
    X, Y, alpha = (t.detach() for t in data())

    def loss(x, y, a):
        return lasso(x, y, a).square().sum()

    value = torch.func.vmap(loss, in_dims=(None, 1, 0))(X, Y, alpha)
    gradient = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1, 0))(X, Y, alpha)
    second = torch.func.jacrev(torch.func.jacrev(loss, argnums=1), argnums=1)
    hessian = torch.func.vmap(second, in_dims=(None, 1, 0))(X, Y, alpha)
    for t in range(3):
        arguments = X, Y[:, t], alpha[t]
        torch.testing.assert_close(value[t], loss(*arguments), rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient[t], torch.func.grad(loss)(*arguments), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(hessian[t], second(*arguments), rtol=1e-10, atol=1e-12)
    designs = torch.stack([X, X.flip(0)])
    both = torch.func.vmap(lambda x: lasso(x, Y, 0.1))(designs)
    torch.testing.assert_close(both, lasso(designs, torch.stack([Y, Y]), 0.1), rtol=1e-12, atol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_makes_one_graph(backend):
    X, Y, alpha = data()

    def loss(x, y, a):
        return (2 * lasso(x, y, a, l2=0.1 * a[0])).square().sum()

    compiled = torch.compile(loss, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(X, Y, alpha), loss(X, Y, alpha), rtol=1e-12, atol=0)
    ours, theirs = (torch.autograd.grad(f(X, Y, alpha), (X, Y, alpha)) for f in (compiled, loss))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.filterwarnings("ignore")
def test_shapes_without_numbers_and_export():
    X, Y, _ = (t.detach() for t in data())
    coef = lasso(X.to("meta").requires_grad_(), Y.to("meta"), 0.1)
    assert coef.shape == (8, 3)
    assert coef.is_meta
    with FakeTensorMode():
        assert lasso(torch.randn(12, 8), torch.randn(12, 3), 0.1).shape == (8, 3)

    class Model(torch.nn.Module):
        def forward(self, x, y):
            return lasso(x, y, 0.1)

    exported = torch.export.export(Model(), (X, Y)).module()
    assert (exported(2 * X, Y) == lasso(2 * X, Y, 0.1)).all()


def test_alpha_max_under_vmap():
    X, Y, _ = (t.detach() for t in data())
    largest = torch.func.vmap(alpha_max, in_dims=(None, 1))(X, Y)
    torch.testing.assert_close(largest, alpha_max(X, Y), rtol=1e-12, atol=0)


def test_at_a_kink_the_derivative_is_that_of_the_support():
    # y = (1, 1/2) and alpha = 1/4: the second coefficient is just about to become active.
    X = torch.eye(2, dtype=torch.float64)
    y = torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)
    coef, info = lasso(X, y, 0.25, return_info=True)
    assert coef.tolist() == pytest.approx([0.5, 0.0])
    assert coef[1] == 0
    assert info.n_kinks.item() == 1
    (dy,) = torch.autograd.grad(coef.sum(), y)
    assert dy.tolist() == pytest.approx([1.0, 0.0])


def test_dependent_support_has_a_finite_gradient():
    X = torch.tensor([[1.0, 1.0], [2.0, 2.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([1.0, 3.0], dtype=torch.float64)
    weights = torch.zeros(2, dtype=torch.float64)
    (dX,) = torch.autograd.grad(lasso(X, y, 0.1, weights=weights).sum(), X)
    assert dX.isfinite().all()


def test_float32_gradients_are_float32():
    X, Y, alpha = (t.detach().float().requires_grad_() for t in data())
    single = torch.autograd.grad(lasso(X, Y, alpha).square().sum(), (X, Y, alpha))
    wide = [t.detach().double().requires_grad_() for t in (X, Y, alpha)]
    double = torch.autograd.grad(lasso(*wide).square().sum(), wide)
    for s, d in zip(single, double, strict=True):
        assert s.dtype == torch.float32
        assert (s - d).abs().max() <= 1e-5 * d.abs().max()


def test_a_third_derivative():
    X, Y, _ = (t.detach() for t in data())
    direction = torch.randn(X.shape, generator=torch.Generator().manual_seed(1), dtype=X.dtype)

    def derivative(t, order):
        t = torch.tensor(t, dtype=torch.float64, requires_grad=True)
        value = lasso(X + t * direction, Y, 0.1).pow(3).sum()
        for _ in range(order):
            (value,) = torch.autograd.grad(value, t, create_graph=True)
        return value.item()

    h = 1e-5
    numerical = (derivative(h, 2) - derivative(-h, 2)) / (2 * h)
    assert derivative(0.0, 3) == pytest.approx(numerical, rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_twins_without_a_penalty_have_the_least_norm_derivative(seed):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(30, 6, generator=generator).double()
    X[:, 1] = X[:, 0]
    y = torch.randn(30, generator=generator).double()
    weights = torch.tensor([0.0, 0, 1, 1, 1, 1], dtype=torch.float64)
    up = torch.arange(1, 7, dtype=torch.float64)

    def gradients(X, weights, up):
        X, y_ = X.clone().requires_grad_(), y.clone().requires_grad_()
        coef = lasso(X, y_, 0.05, weights=weights)
        (coef * up).sum().backward()
        return coef.detach(), X.grad, y_.grad

    coef, dX, dy = gradients(X, weights, up)
    # of least norm is what moves both alike, as one column of both twins' length would move
    one = torch.cat([X[:, :1] * 2**0.5, X[:, 2:]], 1)
    _, dX_one, dy_one = gradients(one, weights[1:], torch.cat([up[:2].sum()[None] / 2**0.5, up[2:]]))
    torch.testing.assert_close(dy, dy_one, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(dX[:, 2:], dX_one[:, 1:], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(dX[:, :2].sum(1), dX_one[:, 0] * 2**0.5, rtol=1e-6, atol=1e-9)
    moved = dX[:, :2] + dy[:, None] * coef[:2]  # the part of a column's derivative that is its coefficient's
    torch.testing.assert_close(moved[:, 0], moved[:, 1], rtol=1e-6, atol=1e-9)
