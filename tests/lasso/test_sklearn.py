"""The estimator against scikit-learn's own."""

import pickle

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet, ElasticNetCV, Lasso, LassoCV, LassoLarsCV, LassoLarsIC
from sklearn.model_selection import GroupKFold, KFold
from sklearn.utils.estimator_checks import parametrize_with_checks

from larscope.lasso.sklearn import MultiTargetLasso

EXACT = {"tol": 1e-10, "max_iter": 100_000}


@parametrize_with_checks([MultiTargetLasso(alpha=0.1)])
def test_scikit_learn_accepts_it(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def diabetes():
    return load_diabetes(return_X_y=True)


@pytest.fixture(scope="module")
def scaled(diabetes):
    X, y = diabetes
    return X / X.std(axis=0), y


@pytest.fixture(scope="module")
def sample_weight():
    return np.random.default_rng(0).uniform(0, 2, 442)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_fixed_alpha(diabetes, positive, fit_intercept, weighted, sample_weight):
    X, y = diabetes
    weight = sample_weight if weighted else None
    options = {"positive": positive, "fit_intercept": fit_intercept}
    ours = MultiTargetLasso(alpha=0.3, **options).fit(X, y, weight)
    theirs = Lasso(alpha=0.3, **EXACT, **options).fit(X, y, weight)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y), rel=1e-8)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("l1_ratio", [0.0, 0.5, 0.9])
def test_elastic_net(scaled, l1_ratio, weighted, sample_weight):
    X, y = scaled
    weight = sample_weight if weighted else None
    Y = np.stack([y, y[::-1]], axis=1)
    ours = MultiTargetLasso(alpha=[0.3, 2.0], l1_ratio=l1_ratio).fit(X, Y, weight)
    assert ours.certificate_.converged.tolist() == [True, True]
    for t, alpha in enumerate((0.3, 2.0)):
        alone = MultiTargetLasso(alpha=alpha, l1_ratio=l1_ratio).fit(X, Y[:, t], weight)
        np.testing.assert_allclose(ours.coef_[t], alone.coef_, rtol=1e-12)
        if l1_ratio:
            theirs = ElasticNet(alpha=alpha, l1_ratio=l1_ratio, **EXACT).fit(X, Y[:, t], weight)
            np.testing.assert_allclose(alone.coef_, theirs.coef_, rtol=1e-6, atol=1e-6)
            assert alone.intercept_ == pytest.approx(theirs.intercept_)
        else:
            s = np.ones(len(y)) if weight is None else weight / weight.mean()
            Z, z = (a - np.average(a, axis=0, weights=s) for a in (X, Y[:, t]))
            H = (Z.T * s) @ Z / len(y) + alpha * np.eye(X.shape[1])
            np.testing.assert_allclose(alone.coef_, np.linalg.solve(H, (Z.T * s) @ z / len(y)), rtol=1e-9)


@pytest.mark.parametrize("criterion", ["aic", "bic"])
def test_information_criteria(diabetes, criterion):
    X, y = diabetes
    ours = MultiTargetLasso(alpha=criterion).fit(X, y)
    theirs = LassoLarsIC(criterion=criterion).fit(X, y)
    assert ours.alpha_ == pytest.approx(theirs.alpha_, rel=1e-8)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("positive", [False, True])
def test_cross_validation(scaled, l1_ratio, weighted, positive, sample_weight):
    X, y = scaled
    weight = sample_weight if weighted else None
    ours = MultiTargetLasso(alpha="cv", l1_ratio=l1_ratio, cv=3, alphas=30, positive=positive).fit(X, y, weight)
    theirs = ElasticNetCV(l1_ratio=l1_ratio, cv=3, alphas=30, positive=positive, **EXACT).fit(X, y, weight)
    np.testing.assert_allclose(ours.alphas_, theirs.alphas_, rtol=1e-9)
    np.testing.assert_allclose(ours.mse_path_, theirs.mse_path_, rtol=1e-6)
    assert ours.alpha_ == pytest.approx(theirs.alpha_, rel=1e-9)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-6, atol=1e-5)


def test_cross_validation_at_the_knots_of_least_angle_regression(diabetes):
    X, y = diabetes
    theirs = LassoLarsCV(cv=5).fit(X, y)
    knots = theirs.cv_alphas_[theirs.cv_alphas_ > 0]
    ours = MultiTargetLasso(alpha="cv", alphas=knots).fit(X, y)
    assert ours.alpha_ == pytest.approx(theirs.alpha_, rel=1e-8)
    np.testing.assert_allclose(ours.mse_path_[::-1], theirs.mse_path_[theirs.cv_alphas_ > 0], rtol=1e-8)


def test_wide_designs_and_supports_of_any_size():
    g = np.random.default_rng(0)
    X = g.standard_normal((200, 300))
    y = X[:, :150] @ g.standard_normal(150)
    ours = MultiTargetLasso(alpha="cv", cv=2, alphas=[3.0, 1.0, 0.3, 0.1]).fit(X, y)
    theirs = LassoCV(cv=2, alphas=[3.0, 1.0, 0.3, 0.1], tol=1e-7, max_iter=100_000).fit(X, y)
    # what a gap of 1e-7, theirs, leaves open
    np.testing.assert_allclose(ours.mse_path_, theirs.mse_path_, rtol=1e-4)
    assert (MultiTargetLasso(ours.alphas_[-1]).fit(X[:100], y[:100]).coef_ != 0).sum() > 64


def test_groups_go_to_the_splitter(scaled):
    X, y = scaled
    groups = np.arange(len(y)) % 6
    ours = MultiTargetLasso(alpha="cv", cv=GroupKFold(3), alphas=10).fit(X, y, groups=groups)
    folds = list(GroupKFold(3).split(X, y, groups))
    theirs = LassoCV(cv=folds, alphas=10, **EXACT).fit(X, y)
    np.testing.assert_allclose(ours.mse_path_, theirs.mse_path_, rtol=1e-6)
    assert ours.mse_path_.shape == (10, 3)


@pytest.mark.parametrize("alpha", [0.3, "bic", "cv"])
def test_many_targets_are_each_their_own(diabetes, alpha):
    X, y = diabetes
    Y = np.stack([y, y[::-1]], axis=1)
    together = MultiTargetLasso(alpha=alpha, cv=KFold(3)).fit(X, Y)
    assert together.coef_.shape == (2, 10)
    assert together.predict(X).shape == Y.shape
    if alpha == "cv":
        assert together.alphas_.shape == (2, 100)
        assert together.mse_path_.shape == (2, 100, 3)
    for t in range(2):
        alone = MultiTargetLasso(alpha=alpha, cv=KFold(3)).fit(X, Y[:, t])
        np.testing.assert_allclose(together.coef_[t], alone.coef_, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(together.alpha_[t], alone.alpha_, rtol=1e-12)


def test_an_alpha_for_each_target(diabetes):
    X, y = diabetes
    together = MultiTargetLasso(alpha=[0.3, 1.0]).fit(X, np.stack([y, y], axis=1))
    for t, alpha in enumerate((0.3, 1.0)):
        np.testing.assert_allclose(together.coef_[t], MultiTargetLasso(alpha=alpha).fit(X, y).coef_, rtol=1e-12)


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
def test_float32_stays_float32_and_is_solved_in_float64(scaled, l1_ratio):
    X, y = (a.astype(np.float32) for a in scaled)
    single = MultiTargetLasso(alpha=0.3, l1_ratio=l1_ratio).fit(X, y)
    double = MultiTargetLasso(alpha=0.3, l1_ratio=l1_ratio).fit(X.astype(np.float64), y.astype(np.float64))
    assert {single.coef_.dtype, single.intercept_.dtype, single.predict(X).dtype} == {np.dtype(np.float32)}
    assert (single.coef_ == double.coef_.astype(np.float32)).all()


def test_the_certificate_stays_with_the_model(diabetes):
    X, y = diabetes
    model = pickle.loads(pickle.dumps(MultiTargetLasso(alpha=0.3).fit(X, y)))
    assert bool(model.certificate_.converged)
    assert model.certificate_.gap.shape == ()
    assert int(model.certificate_.n_active) == (model.coef_ != 0).sum()


def test_errors_say_what_to_do(diabetes):
    X, y = diabetes
    with pytest.raises(ValueError, match=r"`alpha` must be a number >= 0.*got 'gcv'"):
        MultiTargetLasso(alpha="gcv").fit(X, y)
    with pytest.raises(ValueError, match=r"must know the noise: got 5 samples.*Pass `noise_variance`"):
        MultiTargetLasso(alpha="bic").fit(X[:5], y[:5])
    for alpha in (None, -1.0, np.nan, [0.1, 0.2], "0.1", True):
        with pytest.raises(ValueError, match=r"`alpha` must be a number >= 0, one for each of 1 targets"):
            MultiTargetLasso(alpha=alpha).fit(X, y)
    for ratio in (None, -0.1, 1.1, np.nan, "1", True):
        with pytest.raises(ValueError, match=r"`l1_ratio` must be a number from 0 to 1"):
            MultiTargetLasso(l1_ratio=ratio).fit(X, y)
    for alphas in (None, 0, -3, 2.5, [], [-1.0], [[1.0]], "many"):
        with pytest.raises(ValueError, match=r"`alphas` must be a number of penalties"):
            MultiTargetLasso("cv", alphas=alphas).fit(X, y)
    with pytest.raises(ValueError, match=r"`alphas` must be given for ridge regression"):
        MultiTargetLasso("cv", l1_ratio=0.0).fit(X, y)
    with pytest.raises(ValueError, match=r'`alpha="bic"` must have l1_ratio=1'):
        MultiTargetLasso("bic", l1_ratio=0.5).fit(X, y)
    with pytest.raises(ValueError, match=r"`sample_weight` must be >= 0: got -1"):
        MultiTargetLasso().fit(X, y, -np.ones(len(y)))
    MultiTargetLasso(alpha="bic", noise_variance=3000.0).fit(X[:5], y[:5])
