"""Numbers of every size: what is certified is the optimum, found here in rational numbers, or by rescaling the data."""

import itertools
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.linear_model import Lasso as CoordinateDescent

from larscope.lasso import ConvergenceWarning, _certificate, _engines, alpha_max, lasso, lasso_path
from larscope.lasso._problem import canonical

ENGINES = ["active_set", "path"]
POWERS = st.integers(-15, 15)


def data(n=100, p=20, seed=0):
    g = torch.Generator().manual_seed(seed)
    X, noise = torch.randn(n, p, generator=g).double(), torch.randn(n, generator=g).double()
    w = torch.zeros(p).double()
    w[:5] = torch.tensor([1.0, -1.0, 0.5, 0.2, 2.0])
    return X, X @ w + 0.3 * noise


def objective(X, y, alpha, coef, weights=1.0):
    X, y, coef, weights = (np.asarray(z, dtype=np.longdouble) for z in (X, y, coef, weights))
    return float(((y - X @ coef) ** 2).sum() / (2 * len(y)) + alpha * (weights * np.abs(coef)).sum())


def eliminate(H, b):
    """Solve H w = b in rational numbers; None where H is singular."""
    m = len(b)
    rows = [[*H[i], b[i]] for i in range(m)]
    for i in range(m):
        pivot = next((r for r in range(i, m) if rows[r][i] != 0), None)
        if pivot is None:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(m):
            if r != i and rows[r][i] != 0:
                share = rows[r][i] / rows[i][i]
                rows[r] = [a - share * b for a, b in zip(rows[r], rows[i], strict=True)]
    return [rows[i][m] / rows[i][i] for i in range(m)]


class Rational:
    """The lasso in rational numbers, by trying every support and every sign."""

    def __init__(self, X, y, alpha, weights, l2, positive):
        self.n, self.p = X.shape
        self.X = [[Fraction(x) for x in row] for row in X.tolist()]
        self.y = [Fraction(x) for x in y.tolist()]
        self.penalty = [Fraction(alpha) * Fraction(v) for v in weights.tolist()]
        self.l2, self.positive = Fraction(l2), positive
        columns = list(zip(*self.X, strict=True))
        self.H = [[sum(a * b for a, b in zip(u, v, strict=True)) / self.n for v in columns] for u in columns]
        for j in range(self.p):
            self.H[j][j] += self.l2
        self.c = [sum(a * b for a, b in zip(u, self.y, strict=True)) / self.n for u in columns]

    def objective(self, w):
        fit = (sum(x * b for x, b in zip(row, w, strict=True)) for row in self.X)
        loss = sum((t - f) ** 2 for t, f in zip(self.y, fit, strict=True)) / (2 * self.n)
        return loss + sum(v * abs(b) + self.l2 * b * b / 2 for v, b in zip(self.penalty, w, strict=True))

    def least(self):
        for signs in itertools.product((0, 1) if self.positive else (0, 1, -1), repeat=self.p):
            A = [j for j in range(self.p) if signs[j]]
            rest = [self.c[i] - self.penalty[i] * signs[i] for i in A]
            inner = eliminate([[self.H[i][j] for j in A] for i in A], rest)
            if inner is None or any(b * signs[j] < 0 for j, b in zip(A, inner, strict=True)):
                continue
            w = [Fraction(0)] * self.p
            for j, b in zip(A, inner, strict=True):
                w[j] = b
            c = [self.c[j] - sum(h * b for h, b in zip(self.H[j], w, strict=True)) for j in range(self.p)]
            if all((c[j] if self.positive else abs(c[j])) <= self.penalty[j] for j in range(self.p) if not signs[j]):
                return self.objective(w)
        raise AssertionError("a lasso has a solution")


@settings(max_examples=150, deadline=None)
@given(
    arrays(np.int64, (4, 3), elements=st.integers(-3, 3)),
    arrays(np.int64, 4, elements=st.integers(-3, 3)),
    st.lists(POWERS, min_size=3, max_size=3),
    st.lists(POWERS, min_size=3, max_size=3),
    POWERS,
    st.floats(1e-4, 1.0),
    st.booleans(),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from(ENGINES),
)
def test_what_is_certified_is_the_optimum(X, y, columns, powers, power, fraction, positive, l2, engine):
    X = X.astype(float) * 10.0 ** np.array(columns)
    y = y.astype(float) * 10.0**power
    weights = 10.0 ** np.array(powers)
    tensors = torch.tensor(X), torch.tensor(y)
    options = {"weights": torch.tensor(weights), "positive": positive}
    alpha = fraction * alpha_max(*tensors, **options).item()
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        coef, info = lasso(*tensors, alpha, l2=l2, engine=engine, return_info=True, **options)
    assert info.converged
    rational = Rational(X, y, alpha, weights, l2, positive)
    excess = rational.objective([Fraction(w) for w in coef.tolist()]) - rational.least()
    assert 0 <= excess <= Fraction(1e-9) * rational.objective([Fraction(0)] * 3)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 30),
    st.integers(1, 20),
    st.integers(0, 10**6),
    st.floats(0.001, 1.0),
    st.booleans(),
    st.sampled_from(ENGINES),
    st.data(),
)
def test_a_weight_divides_its_column(n, p, seed, fraction, positive, engine, draw):
    X, y = data(n, p=max(p, 5), seed=seed)
    X = X[:, :p]
    v = 10.0 ** torch.tensor(draw.draw(st.lists(st.floats(-15, 15), min_size=p, max_size=p))).double()
    alpha = fraction * alpha_max(X, y, weights=v, positive=positive)
    options = {"positive": positive, "engine": engine, "return_info": True}
    weighted, info = lasso(X, y, alpha, weights=v, **options)
    divided, other = lasso(X / v, y, alpha, **options)
    assert info.converged
    assert other.converged
    # What is left of y is unique, and so is the penalty paid; coefficients are where supports are not saturated.
    size = y.norm() * 1e-6
    assert (X @ weighted - X / v @ divided).norm() <= size
    paid, other = (v * weighted).abs().sum(), divided.abs().sum()
    assert alpha * (paid - other).abs() <= 1e-8 * y.square().sum() / n


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(-80, 80), min_size=8, max_size=8),
    st.integers(-400, 400),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from(ENGINES),
)
def test_powers_of_two_change_no_bit(columns, target, l2, engine):
    X, y = data(n=20, p=8)
    alpha = 0.1 * alpha_max(X, y)
    units, unit = 2.0 ** torch.tensor(columns).double(), 2.0**target
    options = {"engine": engine, "return_info": True}
    plain, info = lasso(X, y, alpha, l2=l2, **options)
    assert info.converged
    scaled, info = lasso(X * 2.0**target, y * unit, alpha * unit * unit, l2=l2 * unit * unit, **options)
    assert info.converged
    assert (scaled == plain).all()
    scaled, info = lasso(X * units, y * unit, alpha * unit, weights=units, **options)
    plain = lasso(X, y, alpha, engine=engine)
    assert info.converged
    assert (scaled == plain * unit / units).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_one_large_weight_hides_no_other(engine):
    X, y = data()
    weights = torch.ones(20).double()
    weights[10:] = 1e12
    coef, info = lasso(X, y, 0.05, weights=weights, engine=engine, return_info=True)
    excluded = lasso(X, y, 0.05, mask=weights < 2, engine=engine)
    assert info.converged
    assert (excluded != 0).sum() >= 5
    torch.testing.assert_close(coef, excluded, rtol=1e-12, atol=0)
    assert objective(X, y, 0.05, coef, weights) < objective(X, y, 0.05, torch.zeros(20)) / 5


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("smallest", [1e-12, 1e-15])
def test_reweighted(engine, smallest):
    X, y = data()
    first = lasso(X, y, 0.05, engine=engine)
    coef, info = lasso(X, y, 0.05, weights=1 / (first.abs() + smallest), engine=engine, return_info=True)
    support = first != 0
    alone = lasso(X[:, support], y, 0.05, weights=1 / first[support].abs())
    assert info.converged
    torch.testing.assert_close(coef[support], alone, rtol=1e-9, atol=1e-12)
    assert (coef[~support] == 0).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_adaptive(engine):
    X, y = data()
    ols = torch.linalg.lstsq(X, y[:, None]).solution[:, 0]
    v = 1 / ols.abs() ** 4
    coef, info = lasso(X, y, 0.05, weights=v, engine=engine, return_info=True)
    theirs = CoordinateDescent(0.05, fit_intercept=False, tol=1e-14, max_iter=100_000).fit((X / v).numpy(), y.numpy())
    theirs = torch.as_tensor(theirs.coef_) / v
    assert info.converged
    torch.testing.assert_close(coef, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-13, 1e13, 1e160, 1e300])
def test_a_column_a_design_or_a_target_of_any_size(engine, scale):
    X, y = data()
    plain, alpha = lasso(X, y, 0.05), 0.05
    options = {"engine": engine, "return_info": True}
    one = torch.ones(20).double()
    one[3] = scale
    coef, info = lasso(X * one, y, alpha, weights=one, **options)
    assert info.converged
    torch.testing.assert_close(coef * one, plain, rtol=1e-12, atol=1e-14)
    coef, info = lasso(X * scale, y, alpha * scale, **options)
    assert info.converged
    torch.testing.assert_close(coef * scale, plain, rtol=1e-12, atol=1e-14)
    coef, info = lasso(X, y * scale, alpha * scale, **options)
    assert info.converged
    torch.testing.assert_close(coef / scale, plain, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(alpha_max(X, y * scale) / scale, alpha_max(X, y), rtol=1e-12, atol=0)
    path = lasso_path(X, y * scale)
    torch.testing.assert_close(path(alpha * scale) / scale, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("scale", "gradient"), [(1e-200, "implicit"), (1e200, "implicit"), (1e100, "unrolled")])
def test_gradients_of_any_size(scale, gradient):
    X, y = data(n=20, p=8)

    def gradients(X, y, alpha, unit):
        X, y = X.clone().requires_grad_(), y.clone().requires_grad_()
        alpha = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad((lasso(X, y, alpha, gradient=gradient) / unit).sum(), (X, y, alpha))

    plain = gradients(X, y, 0.05, 1.0)
    large_y = gradients(X, y * scale, 0.05 * scale, scale)
    large_X = gradients(X * scale, y, 0.05 * scale, 1 / scale)
    for ours, units in ((large_y, (1, scale, scale)), (large_X, (scale, 1, scale))):
        for g, unit, wanted in zip(ours, units, plain, strict=True):
            torch.testing.assert_close(g * unit, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_scikit_learns_ill_conditioned_case(engine):
    # test_lasso_lars_vs_lasso_cd_ill_conditioned2
    X = np.array([[1e20, 1e20, 0], [-1e-32, 0, 0], [1, 1, 1]])
    y = np.array([10.0, 10, 1])
    X, y, alpha = X - X.mean(0), y - y.mean(), 0.0001
    theirs = CoordinateDescent(alpha, fit_intercept=False, tol=1e-4).fit(X, y).coef_
    coef, info = lasso(torch.tensor(X), torch.tensor(y), alpha, engine=engine, return_info=True)
    assert info.converged
    assert objective(X, y, alpha, coef) <= objective(X, y, alpha, theirs) * (1 + 1e-8)


def test_coefficients_that_no_number_holds_are_refused():
    X, y = data()
    with pytest.raises(ValueError, match="Coefficients must fit into float64"):
        lasso(X * 1e-200, y * 1e200, 0.0)


@pytest.mark.parametrize("power", [0, 12, -12])
@pytest.mark.parametrize("weight", [1.0, 1e12, 1e-12])
@pytest.mark.parametrize("positive", [False, True])
def test_the_certificate_says_no(power, weight, positive):
    """Whichever coefficient is wrong, whatever the size of its column or of the weights of others."""
    X, y = data()
    X = X.clone()
    X[:, 10:] *= 10.0**power
    weights = torch.ones(20).double()
    weights[15:] = weight
    problem, _ = canonical(X, y, 0.05, weights, positive=positive)
    coef = lasso(X, y, 0.05, weights=weights, positive=positive)[None, :, None]
    assert _certificate.defect(problem, coef).item() <= _engines.TOLERANCE
    for j in coef[0, :, 0].nonzero()[:, 0].tolist():
        for factor in (0.0, 1 - 1e-5, 1 + 1e-5):
            wrong = coef.clone()
            wrong[0, j] *= factor
            assert _certificate.violation(problem, wrong).item() > _engines.TOLERANCE
    for j in (coef[0, :, 0] == 0).nonzero()[:, 0].tolist():
        wrong = coef.clone()
        wrong[0, j] = 1e-5 * y.norm() / X[:, j].norm()
        assert _certificate.violation(problem, wrong).item() > _engines.TOLERANCE


def test_the_gap_says_no_to_what_costs_too_much():
    X, y = data()
    problem, _ = canonical(X, y, 0.05)
    coef = lasso(X, y, 0.05)[None, :, None]
    best = objective(X, y, 0.05, coef[0, :, 0])
    for size in (1e-3, 1e-1, 10.0):
        wrong = coef + size * torch.randn(coef.shape, generator=torch.Generator().manual_seed(0)).double()
        excess = objective(X, y, 0.05, wrong[0, :, 0]) - best
        gap = _certificate.duality_gap(problem, wrong).item() * objective(X, y, 0.0, torch.zeros(20))
        assert excess <= gap
    assert _certificate.duality_gap(problem, torch.zeros_like(coef)).item() > 0.5
    assert _certificate.defect(problem, coef * torch.nan).item() == torch.inf


def test_wrong_answers_of_both_engines_are_named(monkeypatch):
    X, y = data()

    def nothing(problem, init):
        coef = torch.zeros_like(problem.weights)
        return coef, _certificate.defect(problem, coef)

    monkeypatch.setattr(_engines, "_active_set", nothing)
    monkeypatch.setattr(_engines, "_follow_path", nothing)
    with pytest.warns(ConvergenceWarning, match=r"1 of 1 lasso solutions.*\(0, 0\)"):
        _, info = lasso(X, y, 0.05, return_info=True)
    assert not info.converged


@pytest.mark.parametrize("engine", ENGINES)
def test_beyond_float64_it_warns(engine):
    """Hilbert's matrix, almost without a penalty: no float64 coefficients are the solution."""
    X = torch.tensor([[1 / (i + j + 1) for j in range(14)] for i in range(14)], dtype=torch.float64)
    y = torch.tensor([(-1.0) ** i for i in range(14)], dtype=torch.float64)
    with pytest.warns(ConvergenceWarning):
        _, info = lasso(X, y, 1e-25, engine=engine, return_info=True)
    assert not info.converged
