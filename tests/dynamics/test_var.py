import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Lasso as SklearnLasso
from statsmodels.tsa.api import VAR
from statsmodels.tsa.vector_ar.util import get_var_endog

from larscope._dynamics.coefficients import SparseCoefficients
from larscope._dynamics.var import (
    SparseVAR,
    complete_rows,
    from_design_layout,
    lag_matrix,
    measure,
    neighbours,
    to_design_layout,
)
from larscope._errors import LarscopeError
from larscope.lasso import lasso


def simulate(n_frames: int, coef: np.ndarray, seed: int = 0) -> torch.Tensor:
    """A VAR run forward, coefficient by coefficient."""
    order, n_latents = coef.shape[:2]
    noise = np.random.default_rng(seed).standard_normal((n_frames + 50, n_latents))
    series = np.zeros_like(noise)
    for t in range(order, len(series)):
        series[t] = noise[t] + sum(coef[k] @ series[t - k - 1] for k in range(order))
    return torch.from_numpy(series[50:])


PLANTED = np.zeros((2, 3, 3))
PLANTED[0, 1, 0] = 0.8  # latent 0 drives latent 1 at lag 1
PLANTED[1, 2, 1] = -0.7  # latent 1 damps latent 2 at lag 2
PLANTED[0, 0, 0] = 0.5


def test_lag_matrix_equals_statsmodels():
    series = np.random.default_rng(0).standard_normal((30, 3))
    theirs = get_var_endog(series, 4, trend="n")
    assert np.array_equal(lag_matrix(torch.from_numpy(series), 4).numpy(), theirs)


@pytest.mark.parametrize("order", [0, 5, 6])
def test_lag_matrix_names_an_impossible_order(order):
    with pytest.raises(LarscopeError, match=f"order={order} and 5 frames"):
        lag_matrix(torch.zeros(5, 2), order)


@given(order=st.integers(1, 4), n_latents=st.integers(1, 5))
def test_design_layout_round_trips(order, n_latents):
    coef = torch.randn(2, order, n_latents, n_latents)
    assert torch.equal(from_design_layout(to_design_layout(coef), order), coef)


def test_layout_is_effect_of_l_on_j_at_lag_k():
    fit = SparseVAR(order=2, penalty=0.01)(simulate(4000, PLANTED))
    np.testing.assert_allclose(fit.coef.numpy(), PLANTED, atol=0.08)
    assert set(zip(*np.nonzero(np.abs(fit.coef.numpy()) > 0.1), strict=True)) == {(0, 1, 0), (1, 2, 1), (0, 0, 0)}


def test_without_penalty_equals_statsmodels_least_squares():
    series = simulate(400, PLANTED)
    centred = series - series.mean(0)
    theirs = VAR(centred.numpy()).fit(2, trend="n").coefs
    fit = SparseVAR(order=2, penalty=1e-12)(series)
    np.testing.assert_allclose(fit.coef.numpy(), theirs, atol=1e-8)


@pytest.mark.parametrize("center", [True, False])
def test_equals_the_vectorised_kronecker_lasso_of_scikit_learn(center):
    order, penalty = 2, 0.02
    series = simulate(60, PLANTED) + 0.5
    fit = SparseVAR(order, penalty, center=center)(series)
    scaled = series.numpy() - (series.numpy().mean(0) if center else 0)
    scaled /= scaled.std()  # about the mean of all numbers, also where none is subtracted
    design = lag_matrix(torch.from_numpy(scaled), order).numpy()
    n_latents = scaled.shape[1]
    # one lasso over all targets: 1/(2 n K) ||vec Z - (I x X) a||^2 + penalty ||a||_1
    oracle = SklearnLasso(penalty, fit_intercept=False, tol=1e-12, max_iter=100_000)
    oracle.fit(np.kron(np.eye(n_latents), design), scaled[order:].T.ravel())
    expected = oracle.coef_.reshape(n_latents, order, n_latents).transpose(1, 0, 2)
    assert 0 < np.count_nonzero(expected) < expected.size
    np.testing.assert_allclose(fit.coef.numpy(), expected, atol=1e-8)


def test_forecast_is_sigma_times_the_scaled_past_plus_the_mean():
    series = 3 * simulate(80, PLANTED) + 7
    fit = SparseVAR(order=2, penalty=0.01)(series)
    mean = series.mean(0)
    sigma = ((series - mean) ** 2).mean().sqrt()
    for t in (2, 40, 79):
        expected = mean + sigma * sum(fit.coef[k] @ ((series[t - k - 1] - mean) / sigma) for k in range(2))
        torch.testing.assert_close(fit.forecast[t - 2], expected)
    torch.testing.assert_close(fit.predict(series), fit.forecast)


def test_coefficients_do_not_depend_on_offset_and_scale():
    series = simulate(80, PLANTED)
    var = SparseVAR(order=2, penalty=0.01)
    torch.testing.assert_close(var(series).coef, var(1e3 * series - 40).coef)


def test_batch_equals_loop():
    series = torch.stack([simulate(50, PLANTED, seed) for seed in range(3)])
    var = SparseVAR(order=2, penalty=0.02)
    fits = [var(one) for one in series]
    together = var(series)
    torch.testing.assert_close(together.coef, torch.stack([fit.coef for fit in fits]))
    torch.testing.assert_close(together.forecast, torch.stack([fit.forecast for fit in fits]))


def test_gradient_flows_through_scale_mean_and_fit():
    series = simulate(25, PLANTED).requires_grad_()
    var = SparseVAR(order=2, penalty=0.02)
    assert torch.autograd.gradcheck(lambda z: var(z).forecast, (series,), atol=1e-6)


def test_penalty_scale_target_is_alpha():
    series = simulate(60, PLANTED)
    by_mean = SparseVAR(2, 0.02)(series)
    by_target = SparseVAR(2, 0.06, penalty_scale="target")(series)
    torch.testing.assert_close(by_mean.coef, by_target.coef)


def test_scale_latent_needs_penalty_scale_target():
    with pytest.raises(LarscopeError, match="penalty_scale='target'"):
        SparseVAR(scale="latent")
    series = simulate(60, PLANTED) * torch.tensor([1.0, 100.0, 0.01], dtype=torch.float64)
    fit = SparseVAR(2, 0.05, scale="latent", penalty_scale="target")(series)
    reference = SparseVAR(2, 0.05, scale="latent", penalty_scale="target")(simulate(60, PLANTED))
    torch.testing.assert_close(fit.coef, reference.coef)
    assert (SparseVAR(2, 1.0, scale="latent", penalty_scale="target")(series).coef == 0).all()


def test_max_distance_forbids_far_couplings():
    series = simulate(200, PLANTED)
    fit = SparseVAR(2, 1e-4, max_distance=1, latent_shape=(1, 3))(series)
    far = ~neighbours((1, 3), 1)
    assert (fit.coef[:, far] == 0).all()
    assert (fit.coef[:, ~far] != 0).any()
    with pytest.raises(LarscopeError, match="latent_shape"):
        SparseVAR(max_distance=1)


@pytest.mark.parametrize("value", [2.0, 0.1, 1.7, 0.0])  # most are not exact in float32, nor is their mean
@pytest.mark.parametrize("options", [{}, {"scale": "latent", "penalty_scale": "target"}])
def test_a_constant_series_has_no_dynamics(value, options):
    series = torch.full((30, 3), value, requires_grad=True)
    var = SparseVAR(2, 0.0005, **options)
    fit = var(series)
    assert (fit.coef == 0).all()
    torch.testing.assert_close(fit.forecast, torch.full((28, 3), value))
    assert np.isnan(measure(var, series, fit).var_explained)
    fit.forecast.sum().backward()
    assert series.grad.isfinite().all()


def test_measures_against_their_definitions():
    series = simulate(100, PLANTED) + 3
    var = SparseVAR(2, 0.01)
    fit = var(series)
    measures = measure(var, series, fit)
    z, forecast, mean = series[2:].numpy(), fit.forecast.numpy(), series.mean(0).numpy()
    ratios = ((z - forecast) ** 2).sum(1) / ((z - mean) ** 2).sum(1)
    assert measures.var_error == pytest.approx(ratios.mean())
    explained = 1 - ((z - forecast) ** 2).sum() / ((z - z.mean(0)) ** 2).sum()
    assert measures.var_explained == pytest.approx(explained)

    early = series[:80]
    early_fit = var(early)
    mean, sigma = early.mean(0), ((early - early.mean(0)) ** 2).mean().sqrt()
    errors = []
    for t in range(80, 100):
        past = sum(early_fit.coef[k] @ ((series[t - k - 1] - mean) / sigma) for k in range(2))
        errors.append((((series[t] - mean - sigma * past) ** 2).sum() / ((series[t] - mean) ** 2).sum()).item())
    assert measures.var_error_heldout == pytest.approx(np.mean(errors))


def test_var_error_without_centring_counts_the_offset():
    series = simulate(100, PLANTED) + 100
    raw = SparseVAR(2, 1e-4, center=False)
    assert measure(raw, series, raw(series)).var_error < 1e-3  # the offset's energy, predicted by itself


@given(data=st.data())
def test_sparse_coefficients_round_trip(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    dense = rng.standard_normal((4, 2, 3, 3)) * (rng.random((4, 2, 3, 3)) < 0.2)
    coefs = SparseCoefficients.from_dense(dense)
    assert len(coefs) == 4
    for run in range(4):
        assert np.array_equal(coefs[run], dense[run])
    assert np.array_equal(coefs[-1], dense[-1])
    assert np.array_equal(np.stack(coefs[1:3]), dense[1:3])
    assert np.array_equal(np.stack(list(coefs)), dense)
    assert np.array_equal(coefs.n_active, (dense != 0).sum((1, 2, 3)))
    joined = SparseCoefficients.join([SparseCoefficients.from_dense(part) for part in (dense[:1], dense[1:])])
    assert np.array_equal(np.stack(list(joined)), dense)
    with pytest.raises(IndexError):
        coefs[4]


def test_a_fit_around_missing_frames_is_scikit_learns_on_the_whole_rows():
    latent, missing = simulate(60, PLANTED) + 3, torch.zeros(60, dtype=torch.bool)
    missing[[0, 20, 21, 59]] = True
    holed = latent.clone()
    holed[missing] = float("nan")
    var = SparseVAR(order=2, penalty=0.02)
    fit = var(holed, missing)
    kept = latent[~missing]
    scaled = (latent - kept.mean(0)) / (kept - kept.mean(0)).square().mean().sqrt()
    rows = [t for t in range(2, 60) if not missing[t - 2 : t + 1].any()]
    assert (2 + complete_rows(missing, 2).nonzero().flatten()).tolist() == rows
    design = np.stack([np.concatenate([scaled[t - 1], scaled[t - 2]]) for t in rows])
    for target in range(3):
        theirs = SklearnLasso(alpha=0.06, fit_intercept=False, tol=1e-12, max_iter=100_000)
        theirs.fit(design, scaled[rows, target].numpy())
        ours = to_design_layout(fit.coef)[:, target].numpy()
        np.testing.assert_allclose(ours, theirs.coef_, atol=1e-8)
    finite = torch.isfinite(fit.forecast).all(1)
    assert (2 + finite.nonzero().flatten()).tolist() == rows
    # whatever a missing frame holds is not looked at
    other = latent.clone()
    other[missing] = 1e6
    assert torch.equal(var(other, missing).coef, fit.coef)
    explained = measure(var, holed, fit, missing).var_explained
    target = latent[rows]
    residual = (target - fit.forecast[finite]).square().sum()
    assert explained == pytest.approx(float(1 - residual / (target - target.mean(0)).square().sum()))


def test_a_fit_without_missing_frames_is_unchanged_by_saying_so():
    latent, none = simulate(60, PLANTED), torch.zeros(60, dtype=torch.bool)
    var = SparseVAR(order=2, penalty=0.02)
    fit = var(latent)
    assert torch.equal(var(latent, none).forecast, fit.forecast)
    assert measure(var, latent, fit, none) == measure(var, latent, fit)
    with pytest.raises(LarscopeError, match=r"one value per frame, shape \(60,\): got \(59,\)"):
        var(latent, none[1:])


def test_gaps_that_leave_nothing_to_fit_are_said_and_those_of_a_held_out_part_give_nan():
    latent, missing = simulate(20, PLANTED), torch.arange(20) % 3 == 2
    with pytest.raises(LarscopeError, match="needs 3 consecutive frames: got 20 frames with 6 missing"):
        SparseVAR(order=2)(latent, missing)
    var, late = SparseVAR(order=2, penalty=0.01), torch.arange(20) >= 16
    measures = measure(var, latent, var(latent, late), late)
    assert np.isnan(measures.var_error_heldout)
    assert np.isfinite(measures.var_error)


def sklearn_coefs(design, target, alpha):
    model = SklearnLasso(alpha=alpha, fit_intercept=False, tol=1e-13, max_iter=100_000)
    return np.stack([model.fit(design, column).coef_.copy() for column in target.T], axis=1)


def test_several_series_fitted_together_are_scikit_learns_lasso_on_their_stacked_rows():
    series = [simulate(n, PLANTED, seed) * size + 3 for seed, (n, size) in enumerate([(50, 1), (80, 10), (30, 0.1)])]
    gone = [torch.zeros(len(one), dtype=torch.bool) for one in series]
    gone[1][40] = True
    designs, targets = [], []
    for one, missing in zip(series, gone, strict=True):
        kept = one[~missing]
        scaled = ((one - kept.mean(0)) / (kept - kept.mean(0)).square().mean().sqrt()).numpy()
        rows = [t for t in range(2, len(one)) if not missing[t - 2 : t + 1].any()]
        designs.append(np.stack([np.concatenate([scaled[t - 1], scaled[t - 2]]) for t in rows]))
        targets.append(scaled[rows])
    var = SparseVAR(order=2, penalty=0.02)
    coef = var.fit_together(series, gone)
    theirs = sklearn_coefs(np.concatenate(designs), np.concatenate(targets), 0.06)
    np.testing.assert_allclose(to_design_layout(coef), theirs, atol=1e-8)
    # applied to a series, they forecast in that series' units
    fit = var.apply_coef(coef, series[1], gone[1])
    kept = series[1][~gone[1]]
    sigma = (kept - kept.mean(0)).square().mean().sqrt()
    np.testing.assert_allclose(
        fit.forecast[torch.isfinite(fit.forecast).all(1)],
        torch.from_numpy(designs[1] @ theirs) * sigma + kept.mean(0),
        atol=1e-6,
    )
    np.testing.assert_allclose(var.fit_together([series[0]]), var(series[0]).coef, atol=1e-12)


@pytest.mark.parametrize("own_weight", [0.0, 0.3, 2.0])
def test_the_weight_of_a_latents_own_past_is_scikit_learns_lasso_on_scaled_or_projected_columns(own_weight):
    series = simulate(120, PLANTED)
    ours = to_design_layout(SparseVAR(order=2, penalty=0.05, own_weight=own_weight)(series).coef).numpy()
    scaled = ((series - series.mean(0)) / (series - series.mean(0)).square().mean().sqrt()).numpy()
    design, target = lag_matrix(torch.from_numpy(scaled), 2).numpy(), scaled[2:]
    for j in range(3):
        own = np.arange(6) % 3 == j
        theirs, y = np.zeros(6), target[:, j]
        if own_weight:  # a weight v on a coefficient is a penalty of 1 on v times it
            v = np.where(own, own_weight, 1.0)
            theirs = sklearn_coefs(design / v, y[:, None], 0.15)[:, 0] / v
        else:  # what is unpenalised is projected out of all else (Frisch, Waugh and Lovell)
            out = np.eye(len(y)) - design[:, own] @ np.linalg.pinv(design[:, own])
            theirs[~own] = sklearn_coefs(out @ design[:, ~own], (out @ y)[:, None], 0.15)[:, 0]
            theirs[own] = np.linalg.lstsq(design[:, own], y - design[:, ~own] @ theirs[~own])[0]
        np.testing.assert_allclose(ours[:, j], theirs, atol=1e-8)


@pytest.mark.parametrize("scale", ["noise", "residual"])
def test_units_of_chance_are_scikit_learns_lasso_at_the_universal_threshold(scale):
    torch.manual_seed(0)
    latent = torch.randn(200, 4, dtype=torch.float64).cumsum(0)
    fit = SparseVAR(2, 0.5, penalty_scale=scale, scale="latent")(latent)
    series = ((latent - latent.mean(0)) / latent.std(0, correction=0)).numpy()
    past = np.hstack([series[1:-1], series[:-2]])
    for j in range(4):
        own = past[:, [j, j + 4]]
        left = series[2:, j] - own @ np.linalg.lstsq(own, series[2:, j], rcond=None)[0]
        alpha = 0.5 * np.sqrt(2 * np.log(8) / 198) * (np.sqrt(np.mean(left**2)) if scale == "residual" else 1)
        oracle = SklearnLasso(alpha=alpha, fit_intercept=False, tol=1e-12, max_iter=100_000)
        expected = oracle.fit(past, series[2:, j]).coef_.reshape(2, 4)
        np.testing.assert_allclose(fit.coef[:, j].numpy(), expected, atol=1e-6)


def test_the_residual_scale_passes_no_gradient_of_its_own():
    """It is that of a lasso with the same penalty given as a number: the unit is a constant."""
    latent = simulate(100, PLANTED).requires_grad_()
    var = SparseVAR(2, 0.5, penalty_scale="residual", scale="latent")
    rows = var.stack([latent])
    (ours,) = torch.autograd.grad(var.solve(*rows).square().sum(), latent, retain_graph=True)
    fixed = lasso(*rows, var.alpha(*rows))
    (theirs,) = torch.autograd.grad(fixed.square().sum(), latent)
    torch.testing.assert_close(ours, theirs)
    assert ours.any()
