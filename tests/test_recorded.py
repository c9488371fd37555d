"""The main job on recorded two-photon movies; skipped where they are absent."""

import warnings

import numpy as np
import pytest

from larscope import LatentVAR, load, read_session
from larscope._report.page import write_report
from larscope._results.folder import read_result


@pytest.mark.parametrize("latents", ["cells", "grid"])
@pytest.mark.parametrize(("name", "n_runs", "n_frames"), [("mouse_s1_vr", 4, 125), ("mouse_2p", 8, 250)])
def test_fits_saves_and_reports(name, n_runs, n_frames, latents, recorded, tmp_path):
    session = read_session(recorded / name / "session.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one epoch is far too short a training
        model = LatentVAR(latents=latents, epochs=1, crop=(48, 48)).fit(session)
    assert model.scores_["n_frames"].tolist() == [n_frames] * n_runs
    assert np.isfinite(model.scores_.select_dtypes("number").to_numpy()).all()
    folder = model.save(tmp_path / "result")
    assert load(folder).scores_.equals(model.scores_)
    assert write_report(folder).stat().st_size > 10_000
    inputs = read_result(folder).provenance["inputs"]
    assert len(inputs) == 1  # all runs are cut from one movie, which is hashed once
    assert inputs[0]["bytes"] == (recorded / name / f"movie.{'tiff' if name == 'mouse_2p' else 'tif'}").stat().st_size
