"""Swap errors from sums over frames are those of forecasts."""

import numpy as np
import pytest

from larscope._compute.workers import open_workers
from larscope._statistics.swap import swap_errors


def forecast_errors(latents, coefs, scaled):
    """Each error from the forecast of every frame."""
    errors = np.empty((len(latents), len(coefs)))
    order = len(coefs[0])
    for s, latent in enumerate(latents):
        z = latent - np.nanmean(latent, axis=0)
        sigma = np.nanstd(z, axis=0) if scaled else np.ones(z.shape[1])
        past = z / sigma
        for r, coef in enumerate(coefs):
            residual = [
                z[t] - sigma * sum(coef[k] @ past[t - 1 - k] for k in range(order)) for t in range(order, len(z))
            ]
            errors[s, r] = np.mean([e @ e for e in residual if np.isfinite(e).all()])
    return errors


@pytest.mark.parametrize("scale", ["series", "latent"])
@pytest.mark.parametrize("density", [0.0, 0.05, 1.0])
def test_errors_are_those_of_every_frame_forecast(scale, density):
    rng = np.random.default_rng(0)
    latents = [rng.normal(size=(60, 8)) * rng.uniform(0.5, 2, 8) for _ in range(4)]
    for latent in latents:
        latent[20] = np.nan
    coefs = [rng.normal(size=(2, 8, 8)) * (rng.random((2, 8, 8)) < density) for _ in range(4)]
    expected = forecast_errors(latents, coefs, scale == "latent") / 8  # a mean over latents too
    np.testing.assert_allclose(swap_errors(latents, coefs, scale=scale), expected, rtol=1e-10)


def test_workers_find_the_same():
    rng = np.random.default_rng(1)
    latents = [rng.normal(size=(40, 5)) for _ in range(20)]
    coefs = [rng.normal(size=(1, 5, 5)) * (rng.random((1, 5, 5)) < 0.3) for _ in range(20)]
    alone = swap_errors(latents, coefs)
    with open_workers(jobs=2):
        np.testing.assert_array_equal(swap_errors(latents, coefs), alone)
