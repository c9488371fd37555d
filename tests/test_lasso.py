import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso as SklearnLasso

from larscope.lasso import alpha_max, lasso


def data(n=30, p=12, k=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(n, p, generator=g, dtype=torch.float64)
    return X, torch.randn(n, k, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("engine", ["auto", "path"])
def test_agrees_with_scikit_learn(engine):
    X, Y = data()
    ours, info = lasso(X, Y, 0.1, engine=engine, return_info=True)
    for t in range(3):
        theirs = SklearnLasso(alpha=0.1, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(X, Y[:, t])
        np.testing.assert_allclose(ours[:, t], theirs.coef_, rtol=1e-6, atol=1e-8)
    assert info.converged.all()


def test_zero_from_alpha_max_on():
    X, Y = data()
    X.requires_grad_()
    largest = alpha_max(X, Y)
    coef = lasso(X, Y, largest)
    assert (coef == 0).all()
    coef.sum().backward()
    assert (X.grad == 0).all()
    assert ((lasso(X, Y, largest * 0.99) != 0).sum(0) == 1).all()
