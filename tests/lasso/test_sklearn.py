import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso, LassoLarsCV, LassoLarsIC
from sklearn.utils.estimator_checks import parametrize_with_checks

from larscope.lasso.sklearn import MultiTargetLasso


@parametrize_with_checks([MultiTargetLasso(alpha=0.1)])
def test_scikit_learn_accepts_it(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def diabetes():
    return load_diabetes(return_X_y=True)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_fixed_alpha(diabetes, positive, fit_intercept):
    X, y = diabetes
    options = {"positive": positive, "fit_intercept": fit_intercept}
    ours = MultiTargetLasso(alpha=0.3, **options).fit(X, y)
    theirs = Lasso(alpha=0.3, tol=1e-10, max_iter=100_000, **options).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y), rel=1e-8)


@pytest.mark.parametrize("criterion", ["aic", "bic"])
def test_information_criteria(diabetes, criterion):
    X, y = diabetes
    ours = MultiTargetLasso(alpha=criterion).fit(X, y)
    theirs = LassoLarsIC(criterion=criterion).fit(X, y)
    assert ours.alpha_ == pytest.approx(theirs.alpha_, rel=1e-8)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-6, atol=1e-6)


def test_cross_validation(diabetes):
    X, y = diabetes
    ours = MultiTargetLasso(alpha="cv", cv=5).fit(X, y)
    theirs = LassoLarsCV(cv=5).fit(X, y)
    assert ours.alpha_ == pytest.approx(theirs.alpha_, rel=1e-8)


@pytest.mark.parametrize("alpha", [0.3, "bic", "cv"])
def test_many_targets_are_each_their_own(diabetes, alpha):
    X, y = diabetes
    Y = np.stack([y, y[::-1]], axis=1)
    together = MultiTargetLasso(alpha=alpha).fit(X, Y)
    assert together.coef_.shape == (2, 10)
    assert together.predict(X).shape == Y.shape
    for t in range(2):
        alone = MultiTargetLasso(alpha=alpha).fit(X, Y[:, t])
        np.testing.assert_allclose(together.coef_[t], alone.coef_, rtol=1e-12, atol=1e-12)


def test_an_alpha_for_each_target(diabetes):
    X, y = diabetes
    together = MultiTargetLasso(alpha=[0.3, 1.0]).fit(X, np.stack([y, y], axis=1))
    for t, alpha in enumerate((0.3, 1.0)):
        np.testing.assert_allclose(together.coef_[t], MultiTargetLasso(alpha=alpha).fit(X, y).coef_, rtol=1e-12)


def test_errors_say_what_to_do(diabetes):
    X, y = diabetes
    with pytest.raises(ValueError, match=r"`alpha` must be a number >= 0.*got 'gcv'"):
        MultiTargetLasso(alpha="gcv").fit(X, y)
    with pytest.raises(ValueError, match=r"must know the noise: got 5 samples.*Pass `noise_variance`"):
        MultiTargetLasso(alpha="bic").fit(X[:5], y[:5])
    for alpha in (None, -1.0, np.nan, [0.1, 0.2], "0.1", True):
        with pytest.raises(ValueError, match=r"`alpha` must be a number >= 0, one for each of 1 targets"):
            MultiTargetLasso(alpha=alpha).fit(X, y)
    MultiTargetLasso(alpha="bic", noise_variance=3000.0).fit(X[:5], y[:5])
