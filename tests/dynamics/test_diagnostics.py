"""Diagnostics of a VAR against NumPy's eigenvalues, statsmodels' test, and what was planted."""

import numpy as np
import pytest
import torch
from statsmodels.stats.diagnostic import acorr_ljungbox
from statsmodels.stats.multitest import multipletests

from larscope import SparseVAR
from larscope._dynamics.diagnostics import count_rejected, diagnose, ljung_box, spectral_radius, strongest_correlation


def companion_radius(coef: np.ndarray) -> float:
    order, n, _ = coef.shape
    companion = np.eye(order * n, k=-n)
    companion[:n] = np.concatenate(list(coef), axis=1)
    return float(np.abs(np.linalg.eigvals(companion)).max())


@pytest.mark.parametrize(("order", "n", "kept"), [(1, 6, 1.0), (3, 20, 0.05), (5, 12, 0.3), (4, 160, 0.2)])
def test_the_spectral_radius_is_that_of_the_companion_matrix(order, n, kept):
    """With all coefficients or few, in one group of latents or many, at once or by iterations."""
    rng = np.random.default_rng(n)
    coef = rng.normal(size=(order, n, n)) * (rng.random((order, n, n)) < kept) / n
    coef[0] += np.diag(rng.uniform(0, 0.9, n))
    assert spectral_radius(coef) == pytest.approx(companion_radius(coef), rel=1e-6)


def test_no_coefficients_have_radius_zero():
    assert spectral_radius(np.zeros((3, 4, 4))) == 0


def test_ljung_box_equals_statsmodels():
    rng = np.random.default_rng(0)
    residual = rng.normal(size=(300, 3))
    residual[1:, 2] += 0.3 * residual[:-1, 2]
    for k, p in enumerate(ljung_box(residual, n_lags=10, n_fitted=4)):
        centred = residual[:, k] - residual[:, k].mean()
        assert p == pytest.approx(acorr_ljungbox(centred, lags=[10], model_df=4)["lb_pvalue"].iloc[0], rel=1e-9)


def test_holm_s_count_is_that_of_statsmodels():
    p = np.random.default_rng(0).uniform(size=200) ** 4
    assert count_rejected(p) == multipletests(p, 0.05, "holm")[0].sum() > 0
    assert count_rejected(np.full(3, np.nan)) == count_rejected(np.zeros(0)) == 0
    assert count_rejected(np.zeros(3)) == 3


def test_white_residuals_are_called_so():
    rng = np.random.default_rng(1)
    wrong = sum(count_rejected(ljung_box(rng.normal(size=(200, 10)), 10, 0)) > 0 for _ in range(200))
    assert wrong <= 20  # 5 % of 200 are 10; 21 or more have probability .0008


def test_gaps_are_left_out():
    """With every tenth frame missing the test keeps its level: 400 series, 95 % binomial bounds."""
    residual = np.random.default_rng(1).normal(size=(400, 400))
    residual[::10] = np.nan
    assert 0.03 <= np.mean(ljung_box(residual, n_lags=10, n_fitted=0) <= 0.05) <= 0.08


def simulate(seed: int, n_frames: int = 500, order: int = 1) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    series = rng.normal(size=(n_frames, 40))
    for t in range(order, n_frames):
        series[t] += 0.6 * series[t - order]
    return torch.from_numpy(series)


def test_residuals_are_white_where_the_order_is_enough_and_not_where_it_is_too_low():
    var = SparseVAR(2, 1.0, penalty_scale="residual", scale="latent", own_weight=0.0)
    latent = simulate(0)
    found = diagnose(latent, var(latent))
    assert found.n_autocorrelated <= 1
    assert found.spectral_radius == pytest.approx(0.6, abs=0.15)
    latent = simulate(0, order=3)  # its past lies three frames back, beyond the two of the fit
    assert diagnose(latent, var(latent)).n_autocorrelated > 36


def test_common_input_is_found_as_the_pair_that_shares_it():
    latent = simulate(2)
    common = torch.from_numpy(np.random.default_rng(3).normal(size=500))
    latent[:, [7, 21]] += 2 * common[:, None]
    gappy = latent.clone()
    gappy[100:110] = torch.nan
    var = SparseVAR(1, 1.0, penalty_scale="residual", scale="latent", own_weight=0.0)
    for series in (latent, gappy):
        found = diagnose(series, var(series, series.isnan().any(1)))
        assert (found.residual_first, found.residual_second) == (7, 21)
        assert 0.5 < found.residual_correlation < 0.95


def test_constant_latents_say_nothing():
    latent = simulate(4)[:, :3]
    latent[:, 1] = 2.0
    fit = SparseVAR(1, 0.02)(latent)
    found = diagnose(latent, fit)
    assert (found.residual_first, found.residual_second) == (0, 2)
    found = diagnose(torch.ones(50, 2), SparseVAR(1)(torch.ones(50, 2)))
    assert np.isnan(found.residual_correlation)
    assert found.n_autocorrelated == 0
    assert (found.spectral_radius, found.residual_first, found.residual_second) == (0, -1, -1)
    assert strongest_correlation(np.zeros((5, 1)))[1:] == (-1, -1)
