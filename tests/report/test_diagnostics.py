"""What the diagnostics say, and that old results say nothing."""

from types import SimpleNamespace

import numpy as np
import xarray as xr

from larscope._report.diagnostics import describe_diagnostics


def result(radius: list[float], coloured: list[float], strongest: list[float]) -> SimpleNamespace:
    runs = {
        "spectral_radius": radius,
        "n_autocorrelated": coloured,
        "residual_correlation": strongest,
        "residual_first": [3] * len(radius),
        "residual_second": [7] * len(radius),
        "n_frames": [384] * len(radius),
    }
    data = xr.Dataset(
        {name: ("run", np.array(values)) for name, values in runs.items()},
        coords={"run": [f"F{i}" for i in range(len(radius))], "latent": np.arange(96)},
        attrs={"order": 5},
    )
    return SimpleNamespace(dataset=data)


def test_each_diagnostic_has_one_entry_and_says_what_was_found():
    stable, white, apart = describe_diagnostics(result([0.8, 0.95], [0, 1], [0.2, 0.3]))
    assert "every run are stable" in stable
    assert "0.95" in stable
    assert "5 past frames are enough" in white
    assert "0.30 (latents 3 and 7 in run F1; about 0.22 by chance)" in apart  # sqrt(2 log(96 * 95) / 379)
    assert "No pair" in apart


def test_trouble_is_named():
    unstable, coloured, shared = describe_diagnostics(result([1.01, 0.95], [48, 67], [0.98, 0.3]))
    assert "1 of 2 runs do not settle (F0)" in unstable
    assert "60 %" in coloured
    assert "order='auto'" in coloured
    assert "0.98 (latents 3 and 7 in run F0" in shared
    assert "common" in shared


def test_what_was_not_measured_is_not_said():
    assert len(describe_diagnostics(result([0.5], [0], [np.nan]))) == 2
    old = result([0.5], [0.1], [0.1])
    old.dataset = old.dataset.drop_vars("spectral_radius")
    assert describe_diagnostics(old) == []
