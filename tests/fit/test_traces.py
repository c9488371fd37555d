"""Traces of one's own, without a movie."""

import warnings

import numpy as np
import pytest
import torch

from larscope import LarscopeError, LatentVAR, SparseVAR, load, simulate_session
from larscope._report.page import write_report
from larscope._statistics.comparison import ComparisonWarning
from larscope._statistics.influences import influence_distances
from larscope._statistics.swap import swap_deltas

CONDITIONS = ["familiar", "novel", "familiar", "novel"]


@pytest.fixture(scope="module")
def session():
    return simulate_session(n_runs=4, n_frames=200, frame_shape=(48, 48), seed=0)


@pytest.fixture(scope="module")
def model(session):
    return LatentVAR.from_traces(
        session.truth.traces, CONDITIONS, block=[1, 1, 2, 2], footprints=session.truth.footprints, order=3
    )


def test_coefficients_are_those_of_the_traces(model, session):
    settings = model.settings
    var = SparseVAR(3, model.penalty_, penalty_scale=settings.penalty_scale, scale=settings.scale, own_weight=0.0)
    for run, traces in enumerate(session.truth.traces):
        np.testing.assert_array_equal(model.latents_[run], traces)
        np.testing.assert_allclose(model.coef_[run], var(torch.from_numpy(traces)).coef.numpy(), atol=1e-6)


def test_maps_show_cells_where_their_footprints_are(model, session):
    np.testing.assert_allclose(model.footprints_, session.truth.footprints, atol=1e-6)
    image = model.contribution_map("familiar")
    assert image.max() > 0
    assert (image[session.truth.footprints.max(0) == 0] == 0).all()


def test_conditions_are_compared_within_blocks(model):
    with pytest.warns(ComparisonWarning, match="2 familiar against 2 novel"):
        found = model.compare("familiar", "novel")
    assert found.n_labelings == 4


def test_a_result_of_traces_is_saved_reported_and_loaded(model, tmp_path):
    folder = model.save(tmp_path / "result")
    assert "cells" in write_report(folder).read_text(encoding="utf-8")
    again = load(folder)
    np.testing.assert_array_equal(again.latents_[3], model.latents_[3])
    np.testing.assert_array_equal(again.footprints_, model.footprints_)


def test_without_footprints_each_trace_has_a_square():
    rng = np.random.default_rng(0)
    model = LatentVAR.from_traces([rng.standard_normal((50, 5)) for _ in range(2)], ["a", "b"], order=1)
    assert model.footprints_.shape[0] == 5
    assert (model.footprints_.sum(0) <= 1).all()
    assert (model.footprints_.sum((1, 2)) == 9).all()


def test_missing_frames_are_left_out(session):
    traces = [traces.copy() for traces in session.truth.traces]
    traces[0][50:53] = np.nan
    model = LatentVAR.from_traces(traces, CONDITIONS, order=3)
    assert np.isnan(model.forecasts_[0][47:53]).all()
    assert np.isfinite(model.forecasts_[0][56:]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"traces": []}, "got none"),
        ({"traces": [np.zeros((50, 3)), np.zeros((50, 4))]}, r"got shape \(50, 4\) for run 1"),
        ({"traces": [np.zeros((3, 50))] * 2}, "Transpose"),
        ({"traces": [np.full((50, 3), np.inf)] * 2}, "finite"),
        ({"condition": ["a"]}, "`condition` must have one value a run: got 1 for 2 runs"),
        ({"block": [1, 1, 1]}, "`block` must have one value a run: got 3"),
        ({"footprints": np.ones((2, 8, 8))}, r"3 images, .* got shape \(2, 8, 8\)"),
        ({"footprints": -np.ones((3, 8, 8))}, "not negative"),
        ({"footprints": np.zeros((3, 8, 8))}, "number 0 has none"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    rng = np.random.default_rng(0)
    given = {"traces": [rng.standard_normal((50, 3)) for _ in range(2)], "condition": ["a", "b"], **change}
    with pytest.raises(LarscopeError, match=message):
        LatentVAR.from_traces(**given)


def test_a_chosen_order_and_the_diagnostics_are_kept(tmp_path):
    """Each cell's past lies three frames back, and two cells share an input."""
    rng = np.random.default_rng(0)
    traces = []
    for _ in range(4):
        run = rng.normal(size=(300, 5))
        run[:, [1, 4]] += 2 * rng.normal(size=(300, 1))
        for t in range(3, 300):
            run[t] += 0.7 * run[t - 3]
        traces.append(run)
    model = LatentVAR.from_traces(traces, list("abab"), order="auto")
    assert model.order_choice_.order == model.var_.order == 3
    assert model.coef_[0].shape == (3, 5, 5)
    assert set(model.scores_["residual_first"]) == {1}
    assert set(model.scores_["residual_second"]) == {4}
    assert model.scores_["residual_correlation"].min() > 0.5
    assert model.scores_["spectral_radius"].max() < 1
    loaded = load(model.save(tmp_path / "result"))
    assert (loaded.order, loaded.order_choice_) == ("auto", model.order_choice_)
    assert loaded.scores_.equals(model.scores_)
    assert loaded.var_.order == 3
    assert LatentVAR.from_traces(traces, list("abab"), order=1).order_choice_ is None


def test_the_paper_s_comparisons_take_whole_runs_raw_differences_and_inflow():
    """With runs of different lengths, so that whole runs are told from equal ones."""
    rng = np.random.default_rng(0)
    condition = list("aabbaabb")
    traces = [rng.normal(size=(200 + 20 * run, 4)).cumsum(0) for run in range(8)]
    model = LatentVAR.from_traces(traces, condition, order=1)
    coefs = [np.asarray(coef) for coef in model.coef_]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ComparisonWarning)
        swap = model.compare("a", "b", test="swap", preset="paper")
        influence = model.compare("a", "b", test="influence", preset="paper")
    deltas = swap_deltas(model.latents_, coefs, relative=False, equal_length=False, scale="latent").value
    same = np.equal.outer(condition, condition)
    np.testing.assert_allclose(np.sort(swap.inter), np.sort(deltas[~same]), rtol=1e-6)
    inflow = influence_distances(coefs, "inflow").value
    np.testing.assert_allclose(np.sort(influence.inter), np.sort(inflow[~same & np.triu(~same)]), rtol=1e-6)


def test_conditions_in_streaks_are_warned_of_in_the_order_of_recording():
    rng = np.random.default_rng(0)
    traces = [rng.normal(size=(100, 3)) for _ in range(6)]
    for condition, streaky in (("aaabbb", True), ("ababab", False)):
        model = LatentVAR.from_traces(traces, list(condition), order=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ComparisonWarning)
            found = model.compare("a", "b", test="influence")
        assert any("in streaks" in text for text in found.warnings) == streaky
