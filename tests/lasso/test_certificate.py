"""Designs on which other solvers answer wrongly without saying so: ours certifies, or warns."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from larscope.lasso import ConvergenceWarning, alpha_max, lasso, lasso_path

ENGINES = ["active_set", "path"]


def relative_violation(X, y, coef, alpha):
    """The optimality conditions, written here once more from the issue's text."""
    X, y, coef = (np.asarray(z, dtype=np.float64) for z in (X, y, coef))
    c = X.T @ (y - X @ coef) / len(X)
    off = np.maximum(np.abs(c) - alpha, 0.0)
    on = np.abs(c - alpha * np.sign(coef))
    return np.where(coef == 0, off, on).max() / alpha


def random_design(n, p, k=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(n, j, generator=g, dtype=torch.float64) for j in (p, k))


def var_design(n=59, latents=24, order=5, seed=0):
    """Lagged frames of an autoregression, unit variance: n x (order * latents), and the next frames."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n + order, latents, generator=g, dtype=torch.float64)
    for t in range(1, len(z)):
        z[t] += 0.7 * z[t - 1]
    z = (z - z.mean(0)) / z.std(0)
    return torch.cat([z[order - k : len(z) - k] for k in range(1, order + 1)], 1), z[order:]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("divisor", [1.01, 3.0, 30.0, 1000.0])
def test_exact_down_to_a_thousandth_of_alpha_max(engine, divisor):
    X, Y = var_design()
    alpha = alpha_max(X, Y) / divisor
    coef, info = lasso(X, Y, alpha, engine=engine, return_info=True)
    assert info.converged.all()
    for t in range(Y.shape[1]):
        assert relative_violation(X, Y[:, t], coef[:, t], alpha[t].item()) <= 1e-9
    assert (info.gap <= 1e-9).all()


@pytest.mark.slow
@pytest.mark.parametrize("divisor", [1.01, 10.0, 100.0, 1000.0])
def test_exact_at_the_size_of_training(divisor):
    X, Y = var_design(latents=384)
    alpha = alpha_max(X, Y) / divisor
    coef, info = lasso(X, Y, alpha, return_info=True)
    assert info.converged.all()
    worst = max(relative_violation(X, Y[:, t], coef[:, t], alpha[t].item()) for t in range(384))
    assert worst <= 1e-9


@pytest.mark.parametrize("engine", ENGINES)
def test_support_saturated_at_n(engine):
    X, Y = random_design(10, 300)
    alpha = alpha_max(X, Y) * 1e-4
    coef, info = lasso(X, Y, alpha, engine=engine, return_info=True)
    assert info.converged.all()
    assert (info.n_active <= 10).all()
    assert (info.n_active >= 9).all()
    assert max(relative_violation(X, Y[:, t], coef[:, t], alpha[t].item()) for t in range(4)) <= 1e-9


@pytest.mark.parametrize("engine", ENGINES)
def test_duplicated_negated_and_zero_columns(engine):
    X, Y = random_design(30, 60)
    X = torch.cat([X, X[:, :10], -X[:, 5:15], torch.zeros(30, 10, dtype=X.dtype)], 1)
    for divisor in (2.0, 20.0, 500.0):
        alpha = alpha_max(X, Y) / divisor
        coef, info = lasso(X, Y, alpha, engine=engine, return_info=True)
        assert info.converged.all()
        assert (coef[80:] == 0).all()
        # A duplicate never enters beside its twin: its correlation is at the penalty, a kink.
        assert (info.n_kinks >= 1).any()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0, 5.0])
@pytest.mark.parametrize("positive", [False, True])
def test_exact_ties(engine, alpha, positive):
    x = torch.arange(8, dtype=torch.float64)
    for X, y in ((torch.stack([x, x**2], 1), x), (x[:, None], x), (torch.stack([x, x, -x], 1), x)):
        coef, info = lasso(X, y, alpha, positive=positive, engine=engine, return_info=True)
        assert info.converged.all()
        # Here the first column alone is the answer: (x'x/n - alpha) / (x'x/n).
        size = (x @ x / 8).item()
        if X.shape[1] == 1:
            assert coef.item() == pytest.approx((size - alpha) / size, rel=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1e6, 1e25])
def test_scale_of_the_data_leaves_the_support(engine, scale):
    X, Y = random_design(40, 80)
    alpha = alpha_max(X, Y) / 10
    plain = lasso(X, Y, alpha, engine=engine)
    scaled, info = lasso(scale * X, Y, scale * alpha, engine=engine, return_info=True)
    assert info.converged.all()
    assert ((plain != 0) == (scaled != 0)).all()
    torch.testing.assert_close(plain, scale * scaled, rtol=1e-9, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_constant_and_zero_targets_and_one_sample(engine):
    X, _ = random_design(20, 30)
    Y = torch.stack([torch.ones(20), torch.zeros(20)], 1).double()
    coef, info = lasso(X, Y, 0.01, engine=engine, return_info=True)
    assert info.converged.all()
    assert (coef[:, 1] == 0).all()
    one, info = lasso(X[:1], Y[:1], 0.01, engine=engine, return_info=True)
    assert info.converged.all()
    strongest = X[0].abs().argmax()
    assert one[:, 0].nonzero().tolist() == [[strongest]]
    assert one[strongest, 0].item() == pytest.approx(
        (1 - 0.01 / X[0, strongest].abs().item()) / X[0, strongest].item(), rel=1e-12
    )


def mairal_yu(p):
    """The design of Mairal and Yu (2012, theorem 1), whose path has (3^p + 1) / 2 segments."""
    X, y = np.ones((1, 1)), np.ones(1)
    smallest = 1.0  # the last knot of the path so far
    for _ in range(1, p):
        small = 0.9 * smallest / (2 * y @ y + 1)
        grown = np.zeros((len(X) + 1, X.shape[1] + 1))
        grown[:-1, :-1] = X
        grown[:-1, -1] = 2 * small * y
        grown[-1, -1] = small
        X, y = grown, np.append(y, 1.0)
        path = lasso_path(torch.from_numpy(X), torch.from_numpy(y))
        smallest = path.alphas[path.alphas > 0][-1].item() * len(X)
    return torch.from_numpy(X), torch.from_numpy(y)


def test_mairal_yu_path_has_exponentially_many_knots():
    for p in (2, 3, 4):
        path = lasso_path(*mairal_yu(p))
        # Segments, counting the one above alpha_max; knots here include alpha = 0.
        assert path.alphas.shape[0] == (3**p + 1) / 2
        assert path.complete


@pytest.mark.parametrize("engine", ENGINES)
def test_mairal_yu(engine):
    X, y = mairal_yu(4)
    for divisor in (1.5, 10.0, 1e3):
        alpha = (alpha_max(X, y) / divisor).item()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            coef = lasso(X, y, alpha, engine=engine)
        assert caught or relative_violation(X, y, coef, alpha) <= 1e-9


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-7, 1e-10])
def test_collinear_pairs(engine, distance):
    X, Y = random_design(25, 40)
    noise, _ = random_design(25, 40, seed=1)
    X = torch.cat([X, X + distance * noise], 1)
    alpha = alpha_max(X, Y) / 50
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        coef = lasso(X, Y, alpha, engine=engine)
    worst = max(relative_violation(X, Y[:, t], coef[:, t], alpha[t].item()) for t in range(4))
    assert worst <= 1e-9 or any(w.category is ConvergenceWarning for w in caught)


def test_memory_layout_and_threads_leave_the_answer():
    X, Y = var_design()
    wide = torch.zeros(2 * X.shape[0], 3 * X.shape[1], dtype=X.dtype)
    wide[::2, ::3] = X
    before = torch.get_num_threads()
    answers = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            answers += [lasso(x, Y, 0.1) for x in (X, X.mT.contiguous().mT, wide[::2, ::3])]
    finally:
        torch.set_num_threads(before)
    for other in answers[1:]:
        assert (answers[0] == other).all()


def test_float32_is_solved_in_float64():
    X, Y = var_design()
    X, Y = X.float(), Y.float()
    alpha = 0.1
    coef, info = lasso(X, Y, alpha, return_info=True)
    assert coef.dtype == torch.float32
    assert info.converged.all()
    worst = max(relative_violation(X, Y[:, t], coef[:, t], alpha) for t in range(Y.shape[1]))
    assert worst <= 1e-5
    assert ((lasso(X.double(), Y.double(), alpha) != 0) == (coef != 0)).all()


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.int64, (6, 9), elements=st.integers(-3, 3)),
    arrays(np.int64, 6, elements=st.integers(-3, 3)),
    st.sampled_from([0.05, 0.5, 1.0]),
    st.booleans(),
    st.sampled_from(ENGINES),
)
def test_small_integers_are_full_of_ties(X, y, alpha, positive, engine):
    coef, info = lasso(
        torch.from_numpy(X).double(),
        torch.from_numpy(y).double(),
        alpha,
        positive=positive,
        engine=engine,
        return_info=True,
    )
    assert info.converged.all()
    assert info.gap.item() <= 1e-9
    if positive:
        assert (coef >= 0).all()
