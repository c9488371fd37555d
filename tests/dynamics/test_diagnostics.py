"""Diagnostics of a fit, against statsmodels and against systems whose answer is known."""

import numpy as np
import pytest
import torch

from larscope._dynamics import diagnostics
from larscope._dynamics.diagnostics import autocorrelated, residual_correlation, spectral_radius


def test_the_spectral_radius_is_that_of_a_known_system():
    oscillation = torch.tensor([[[2 * 0.95 * np.cos(0.3)]], [[-(0.95**2)]]])  # poles at .95 exp(+-.3i)
    assert spectral_radius(oscillation) == pytest.approx(0.95, abs=1e-6)
    assert spectral_radius(torch.zeros(3, 4, 4)) == 0


def test_a_large_system_has_the_radius_of_its_whole_matrix(monkeypatch):
    rng = np.random.default_rng(0)
    coef = torch.from_numpy(np.where(rng.random((3, 30, 30)) < 0.05, 0.3 * rng.standard_normal((3, 30, 30)), 0))
    coef[0] += 0.8 * torch.eye(30)
    whole = spectral_radius(coef)
    monkeypatch.setattr(diagnostics, "DENSE", 10)
    assert spectral_radius(coef) == pytest.approx(whole, rel=1e-6)


def test_whiteness_is_that_of_statsmodels():
    stats = pytest.importorskip("statsmodels.stats.diagnostic")
    rng = np.random.default_rng(0)
    series = rng.standard_normal((300, 12))
    series[1:, :4] += 0.3 * series[:-1, :4]
    p = np.sort([stats.acorr_ljungbox(one, lags=[10])["lb_pvalue"].iloc[0] for one in series.T])
    holm = np.maximum.accumulate(p * np.arange(12, 0, -1))
    assert autocorrelated(series) == (holm <= 0.05).sum() > 0


def test_white_noise_is_called_so():
    rng = np.random.default_rng(1)
    wrong = sum(autocorrelated(rng.standard_normal((200, 10))) > 0 for _ in range(200))
    assert wrong <= 20  # 5 % of 200 are 10; 21 or more have probability .0008


def test_what_does_not_vary_is_left_out():
    still = np.zeros((100, 3))
    assert autocorrelated(still) == 0
    assert np.isnan(residual_correlation(still))
    assert np.isnan(residual_correlation(np.random.default_rng(0).standard_normal((100, 1))))
