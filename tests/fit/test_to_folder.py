"""All that the command line does around a fit, from Python."""

import contextlib
import warnings

import numpy as np
import pytest
import xarray as xr

from larscope import LarscopeError, LatentVAR, fit_to_folder, load, read_session
from larscope._fit.training import TrainingStep
from larscope._movies.checks.check import MovieWarning
from larscope._movies.session import ArrayMovie, Run, Session

SETTINGS = {"latents": "grid", "order": 2, "window": 32, "penalty": 0.002, "epochs": 2}


def fit(session, folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit_to_folder(session, folder, **{**SETTINGS, **options})


@pytest.fixture(scope="module")
def model(session):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LatentVAR(**SETTINGS).fit(session)


@pytest.fixture
def without_training(monkeypatch):
    """A fit that stops where its training would begin."""

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("larscope._fit.estimator.train", stop)


def test_each_frame_is_read_once_to_be_checked_and_prepared(table, tmp_path, monkeypatch, without_training):
    read, n_read = Run.read, []
    monkeypatch.setattr(Run, "read", lambda run, start, stop: n_read.append(stop - start) or read(run, start, stop))
    session, cache = read_session(table), tmp_path / "cache"
    n_frames = sum(run.n_frames for run in session)
    for folder, expected in ((None, n_frames), (cache, n_frames), (cache, 0)):
        n_read.clear()
        with pytest.raises(KeyboardInterrupt):
            fit(session, tmp_path / "result", cache=folder)
        assert sum(n_read) == expected
    assert len(list(cache.glob("checks-*.json"))) == 1
    for entry in cache.glob("checks-*.json"):
        entry.unlink()
    n_read.clear()
    with pytest.raises(KeyboardInterrupt):
        fit(session, tmp_path / "result", cache=cache)
    assert sum(n_read) == n_frames  # prepared they are, but not checked


def test_what_is_wrong_with_the_movies_is_warned_of(session, tmp_path, without_training):
    frames = np.array(session.runs[0].movie.array)
    frames[:, 0], frames[30] = 0, frames[29]
    runs = (Run("damaged", "familiar", ArrayMovie(frames)), *session.runs[1:])
    with warnings.catch_warnings(record=True) as caught, contextlib.suppress(KeyboardInterrupt):
        warnings.simplefilter("always")
        fit_to_folder(Session(runs), tmp_path / "result", **SETTINGS)
    said = [str(one.message) for one in caught if one.category is MovieWarning]
    assert any(sentence.startswith("run 'damaged': Bit for bit") for sentence in said)


def test_an_interrupted_fit_goes_on_and_a_finished_one_is_loaded(session, model, tmp_path, monkeypatch):
    step, n_steps = TrainingStep.training_step, []

    def interrupt(self, *arguments):
        n_steps.append(1)
        if len(n_steps) == 12:  # in the second epoch
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(TrainingStep, "training_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(session, tmp_path / "result", seeds=2)
    assert not (tmp_path / "result").exists()
    said = []
    resumed = fit(session, tmp_path / "result", seeds=2, say=said.append)
    assert any("interrupted fit from epoch 1" in sentence for sentence in said)
    assert len(n_steps) == 12 + 9 + 18
    assert resumed.scores_.equals(model.scores_)
    assert resumed.log_ == model.log_
    loaded = fit(session, tmp_path / "result", seeds=2, say=said.append)
    assert len(n_steps) == 12 + 9 + 18
    assert "nothing was repeated" in said[-1]
    assert loaded.scores_.equals(model.scores_)
    assert load(tmp_path / "result").provenance_["checks"] == resumed.provenance_["checks"]
    stability = xr.load_dataset(tmp_path / "result" / "stability.nc", engine="h5netcdf")
    assert stability.sizes["seed"] == 2
    with pytest.raises(LarscopeError, match="holds another result"):
        fit(session, tmp_path / "result", seed=1)
