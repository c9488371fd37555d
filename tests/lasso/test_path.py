"""Knots, active sets and signs against scikit-learn, R's lars, and the optimality conditions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from sklearn.datasets import load_diabetes
from sklearn.linear_model import lars_path

from larscope.lasso import ConvergenceWarning, alpha_max, lasso, lasso_path


@pytest.fixture(scope="module")
def diabetes():
    data = load_diabetes()
    return torch.as_tensor(data.data), torch.as_tensor(data.target - data.target.mean())


def moves(path):
    """R's "sequence of lasso moves": +j joins, -j drops, features counted from 1."""
    before = torch.zeros_like(path.active[:, 0])
    sequence = []
    for i in range(path.alphas.shape[0]):
        now = path.active[:, i]
        sequence += [j + 1 for j in (now & ~before).nonzero()[:, 0].tolist()]
        sequence += [-j - 1 for j in (before & ~now).nonzero()[:, 0].tolist()]
        before = now
    return sequence


@pytest.mark.parametrize("positive", [False, True])
def test_diabetes_is_scikit_learns(diabetes, positive):
    X, y = diabetes
    path = lasso_path(X, y, positive=positive)
    alphas, _, coefs = lars_path(X.numpy(), y.numpy(), method="lasso", positive=positive)
    np.testing.assert_allclose(path.alphas, alphas, rtol=1e-9, atol=1e-12 * alphas[0])
    # With positive=True, scikit-learn's last knot is not the non-negative least squares fit: see below.
    last = -1 if positive else None
    size = np.abs(coefs).max()
    np.testing.assert_allclose(path.coefs[:, :last], coefs[:, :last], rtol=1e-8, atol=1e-9 * size)


def test_positive_path_ends_at_non_negative_least_squares(diabetes):
    X, y = diabetes
    fit, _ = nnls(X.numpy(), y.numpy())
    np.testing.assert_allclose(lasso_path(X, y, positive=True)(0.0), fit, rtol=1e-9, atol=1e-9)


def test_diabetes_moves_are_those_that_r_prints(diabetes):
    # R, lars 1.2: lars(diabetes$x, diabetes$y). hdl (7) drops at step 11 and joins again at step 12.
    assert moves(lasso_path(*diabetes)) == [3, 9, 4, 7, 2, 10, 5, 8, 6, 1, -7, 7]


def test_the_conditions_hold_at_every_knot_and_between(diabetes):
    X, y = diabetes
    path = lasso_path(X, y)
    assert path.alphas[0] == pytest.approx(alpha_max(X, y).item(), rel=1e-12)
    between = (path.alphas[1:] + path.alphas[:-1]) / 2
    for alpha in [*path.alphas[:-1].tolist(), *between.tolist()]:
        coef = path(alpha)
        c = X.mT @ (y - X @ coef) / len(X)
        assert (c.abs() <= alpha * (1 + 1e-9)).all()
        support = coef.abs() > 1e-9 * coef.abs().max()
        signed = c[support] * coef[support].sign()
        assert (signed - alpha).abs().max() <= 1e-9 * alpha if support.any() else True


def test_the_path_passes_through_the_solutions(diabetes):
    X, y = diabetes
    path = lasso_path(X, y)
    for alpha in (1.5, 0.3, 0.01, 0.004):
        np.testing.assert_allclose(path(alpha), lasso(X, y, alpha), rtol=1e-8)
    assert (path(10.0) == 0).all()


def test_last_knot_and_below(diabetes):
    path = lasso_path(*diabetes, alpha_min=0.5)
    assert path.alphas[-1] == 0.5
    with pytest.raises(ValueError, match=r"`alpha` must be at least the path's last knot 0.5: got 0.4"):
        path(0.4)


def test_many_targets_have_each_their_path(diabetes):
    X, y = diabetes
    Y = torch.stack([y, y.flip(0), -y], 1)
    together = lasso_path(X, Y)
    assert together.coefs.shape[:2] == (3, 10)
    for t in range(3):
        alone = lasso_path(X, Y[:, t])
        for alpha in (1.0, 0.1, 0.005):
            np.testing.assert_allclose(together(alpha)[t], alone(alpha), rtol=1e-9, atol=1e-9)


def test_a_path_cut_short_warns(diabetes):
    with pytest.warns(ConvergenceWarning, match="did not reach `alpha_min` in 3 knots"):
        path = lasso_path(*diabetes, max_knots=3)
    assert not path.complete


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 15), st.integers(1, 20), st.integers(0, 10**6), st.booleans())
def test_random_paths_interpolate_solutions(n, p, seed, positive):
    g = torch.Generator().manual_seed(seed)
    X, y = (torch.randn(n, *s, generator=g, dtype=torch.float64) for s in ((p,), ()))
    path = lasso_path(X, y, positive=positive)
    assert path.complete
    for share in (0.9, 0.5, 0.1, 0.01):
        alpha = share * path.alphas[0].item()
        if alpha > 0:
            solution = lasso(X, y, alpha, positive=positive)
            size = solution.abs().max().item()
            np.testing.assert_allclose(path(alpha), solution, rtol=1e-7, atol=1e-7 * size)


@pytest.mark.parametrize("alpha_min", [0.1, 0.05, 0.01])
def test_a_float32_path_reaches_its_end(alpha_min):
    generator = torch.Generator().manual_seed(0)
    X, y = torch.randn(50, 8, generator=generator), torch.randn(50, generator=generator)
    torch.testing.assert_close(lasso_path(X, y, alpha_min=alpha_min)(alpha_min), lasso(X, y, alpha_min))


def test_signs_are_those_of_the_coefficients_below_each_knot():
    generator = torch.Generator().manual_seed(0)
    X, y = (torch.randn(20, *shape, generator=generator, dtype=torch.float64) for shape in ((4,), (2,)))
    free = torch.tensor([0.0, 1, 1, 1])
    path = lasso_path(X, y, weights=free)
    between = (path.coefs[..., 1:] + path.coefs[..., :-1]) / 2
    assert (path.coefs[:, 0] < 0).any()
    assert (path.signs[:, :, :-1] == between.sign()).all()


def test_a_batch_of_no_problems_has_no_paths():
    X, y = torch.zeros(0, 20, 6), torch.zeros(0, 20, 2)
    assert lasso_path(X, y).coefs.shape[:-1] == (0, 2, 6)
    for engine in ("active_set", "path"):
        assert lasso(X, y, 0.1, engine=engine).shape == (0, 6, 2)
