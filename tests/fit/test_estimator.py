import copy
import dataclasses
import inspect
import re
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from blinking import blinking_movie

from larscope import LarscopeError, LatentVAR, SparseVAR, coefficient_swap_test, load
from larscope._dynamics.couplings import fit_couplings
from larscope._dynamics.penalty import TinyPenaltyWarning, choose_penalty
from larscope._fit.training import ShortTrainingWarning
from larscope._movies.preprocessing import prepare
from larscope._movies.session import ArrayMovie, Run, Session
from larscope._network.linear_start import Shortcut
from larscope._report.page import write_report
from larscope._settings import DEFAULT_PENALTY, PRESETS, Settings, setting_names
from larscope._statistics.comparison import ComparisonWarning

SMALL = {"latents": "grid", "order": 2, "window": 32, "penalty": 0.01, "epochs": 3}


def fit(session, cache=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ShortTrainingWarning)
        return LatentVAR(**{**SMALL, **options}).fit(session, cache=cache)


@pytest.fixture(scope="module")
def model(session):
    return fit(session)


def test_takes_every_setting_and_shows_them():
    assert list(inspect.signature(LatentVAR).parameters) == ["preset", *inspect.signature(Settings).parameters]
    assert "penalty=0.25" in repr(LatentVAR(penalty=0.25))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalti": 1}, "Unknown setting 'penalti'. Did you mean 'penalty'?"),
        ({"order": 0}, "'order': input should be greater than or equal to 1, or 'auto'; got 0"),
        ({"penalty": float("nan")}, "'penalty': input should be a finite number, or 'auto'; got nan"),
        ({"penalty": "automatic"}, "or 'auto'; got 'automatic'"),
        ({"training": "endtoend"}, "'sequential', 'embedded' or 'end-to-end'; got 'endtoend'"),
        ({"scale": "latent", "penalty_scale": "mean"}, "got penalty_scale='mean'"),
        ({"order": 64}, "order=64 and window=64"),
        ({"penalty_scale": "target"}, "penalty_scale='target' needs a penalty in its units: got none"),
    ],
)
def test_names_a_wrong_setting(settings, message):
    with pytest.raises(LarscopeError) as caught:
        LatentVAR(**settings)
    assert message in str(caught.value)


def test_settings_are_read_and_changed_by_name():
    model = LatentVAR(preset="paper", penalty=0.25)
    assert (model.penalty, model.settings.penalty, model.get_params()["order"]) == (0.25, 0.25, 5)
    assert model.set_params(order=3, penalty=0.5) is model
    model.window = "32"
    assert (model.order, model.penalty, model.window, model.center) == (3, 0.5, 32, False)
    assert model.set_params(preset="default", center=True).settings.center


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("windw", 3, "Unknown setting 'windw'. Did you mean 'window'?"),
        ("penalty", -3, "'penalty': input should be greater than 0"),
        ("order", 64, "order=64 and window=64"),
        ("settings", Settings(), "set_params"),
    ],
)
def test_a_wrong_assignment_is_refused_and_changes_nothing(name, value, message):
    model = LatentVAR()
    with pytest.raises(LarscopeError, match=re.escape(message)):
        setattr(model, name, value)
    if name != "settings":
        with pytest.raises(LarscopeError, match=re.escape(message)):
            model.set_params(**{name: value})
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(model.settings, name, value)
    assert model.settings == Settings()


def test_equal_settings_do_not_make_equal_models(model):
    unfitted = LatentVAR(**model.get_params())
    assert unfitted.settings == model.settings
    assert unfitted != model
    assert {model: "fitted", unfitted: "not"}[model] == "fitted"


def test_scikit_learn_clones_and_copies_keep_what_they_should(model):
    base = pytest.importorskip("sklearn.base")
    cloned = base.clone(model)
    assert cloned.settings == model.settings
    assert not hasattr(cloned, "coef_")
    for copied in (copy.copy(model), copy.deepcopy(model)):
        assert copied.settings == model.settings
        assert np.array_equal(copied.coef_[0], model.coef_[0])


def test_other_settings_forget_what_was_fitted_with_these(model):
    fitted = copy.copy(model)
    fitted.set_params(penalty=fitted.penalty)
    assert hasattr(fitted, "coef_")
    fitted.penalty = 0.5
    with pytest.raises(AttributeError, match="not fitted yet"):
        fitted.coef_  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        fitted.fitt  # noqa: B018


def test_a_fit_holds_what_its_file_holds(model, tmp_path):
    """But for clips, of which the file keeps 16 bits a pixel."""
    model.save(tmp_path / "result")
    in_memory, on_disk = model.dataset_, load(tmp_path / "result").dataset_
    rounded = [name for name in in_memory if name.startswith("clip_")]
    assert set(in_memory.variables) == set(on_disk.variables)
    assert in_memory.attrs.keys() == on_disk.attrs.keys()
    xr.testing.assert_equal(in_memory.drop_vars(rounded), on_disk.drop_vars(rounded))
    for name in rounded:
        np.testing.assert_allclose(in_memory[name], on_disk[name], atol=float(in_memory[name].max()) / 2**15)


def test_fitted_attributes_have_the_documented_shapes(model, session):
    assert len(model.coef_) == 4
    assert model.coef_[0].shape == (2, 6, 6)
    assert model.mean_frame_.shape == (24, 16)
    for run, latent, forecast in zip(session, model.latents_, model.forecasts_, strict=True):
        assert latent.shape == (run.n_frames, 6)
        assert forecast.shape == (run.n_frames - 2, 6)
    assert list(model.scores_["run"]) == [run.name for run in session]
    assert model.scores_["n_active"].tolist() == model.coef_.n_active.tolist()
    assert len(model.log_) == 3 * 9


def test_forecasts_follow_from_coefficients_and_latents(model):
    latent = model.latents_[1].astype(float)
    mean = latent.mean(0)
    sigma = np.sqrt(((latent - mean) ** 2).mean(0))
    coef = model.coef_[1]
    for t in (2, 50, 79):
        expected = mean + sigma * sum(coef[k] @ ((latent[t - k - 1] - mean) / sigma) for k in range(2))
        np.testing.assert_allclose(model.forecasts_[1][t - 2], expected, rtol=1e-4, atol=1e-5)


def test_errors_are_those_of_the_decoded_forecasts(model, session):
    images = model.forecast(session)
    low, high = model.preprocessing_.low, model.preprocessing_.high
    for i, run in enumerate(session):
        observed = (run.read(0, run.n_frames) - low) / (high - low)
        error = ((images[i] - observed[2:]) ** 2).mean()
        assert model.scores_["forecast_error"][i] == pytest.approx(error, rel=1e-4)
        assert model.scores_["reconstruction_error"][i] == model.scores_["forecast_error"][i]


@pytest.mark.parametrize("pooling", ["target", "previous"])
def test_sequential_reconstruction_decodes_the_latents(session, pooling):
    model = fit(session, training="sequential", pooling=pooling)
    assert (model.scores_["reconstruction_error"] != model.scores_["forecast_error"]).all()
    with torch.no_grad():
        frames = torch.from_numpy(model.preprocessing_.normalise(session.runs[0].read(0, 72)))
        decoded = model.network_.decode(*model.network_.encode(frames))
    error = ((decoded - frames)[2:] ** 2).mean().item()
    assert model.scores_["reconstruction_error"][0] == pytest.approx(error, rel=1e-4)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(model, session):
    again, other = fit(session), fit(session, seed=1)
    for name, value in model.network_.state_dict().items():
        assert torch.equal(value, again.network_.state_dict()[name]), name
    assert model.scores_.equals(again.scores_)
    assert [row["loss"] for row in model.log_] == [row["loss"] for row in again.log_]
    assert not model.scores_.equals(other.scores_)


def test_does_not_touch_the_callers_random_state(session):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    fit(session, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_transform_and_score_of_the_training_session_are_what_fit_found(model, session):
    for latent, again in zip(model.latents_, model.transform(session), strict=True):
        assert np.array_equal(latent, again)
    assert model.scores_.equals(model.score(session))


def test_an_unseen_session_is_scaled_as_the_training_session(model, session):
    run = session.runs[0]
    brighter = ArrayMovie(run.movie.array + np.uint16(50))
    unseen = Session((Run("bright", "novel", brighter),))
    low, high = model.preprocessing_.low, model.preprocessing_.high
    frames = torch.from_numpy(((run.movie.array + 50.0 - low) / (high - low)).astype(np.float32))
    with torch.no_grad():
        # chunk by chunk, as the model does: a convolution's last bits depend on the batch
        expected = torch.cat([model.network_.encode(part)[0] for part in frames.split(32)])
    torch.testing.assert_close(torch.from_numpy(model.transform(unseen)[0]), expected)


def test_save_and_load_give_back_the_model(model, session, tmp_path):
    model.save(tmp_path / "result")
    loaded = load(tmp_path / "result")
    assert repr(loaded) == repr(model)
    assert loaded.scores_.equals(model.scores_)
    assert loaded.log_ == model.log_
    assert loaded.runs_["condition"].tolist() == model.runs_["condition"].tolist()
    for run in range(4):
        assert np.array_equal(loaded.coef_[run], model.coef_[run])
        assert np.array_equal(loaded.latents_[run], model.latents_[run])
        assert np.array_equal(loaded.forecasts_[run], model.forecasts_[run])
    assert loaded.score(session).equals(model.scores_)
    # saving what was loaded loses nothing
    loaded.save(tmp_path / "copy")
    assert load(tmp_path / "copy").scores_.equals(model.scores_)


@pytest.mark.parametrize(
    "options",
    [
        {"skip": False},
        {"output": "leaky"},
        {"pooling": "target"},
        {"window_starts": "fixed"},
        {"own_weight": 1.0},
        {"patch": 4},
        {"patch": 2, "crop": (16, 16)},
        {"batch_norm": "window"},
        {"center": False},
        {"scale": "latent", "penalty_scale": "target", "penalty": 0.2},
        {"max_distance": 1.0},
        {"training": "embedded"},
        {"batch_size": 2},
        {"crop": (16, 16)},
    ],
)
def test_every_option_fits_saves_and_loads(options, session, tmp_path):
    model = fit(session, **{"epochs": 1, **options})
    assert np.isfinite(model.scores_.select_dtypes("number").to_numpy()).all()
    model.save(tmp_path / "result")
    assert load(tmp_path / "result").score(session).equals(model.scores_)


def test_not_fitted_is_said():
    with pytest.raises(LarscopeError, match="not fitted yet"):
        LatentVAR().mean_frame_  # noqa: B018


def test_a_run_shorter_than_order_and_window_is_named(session):
    with pytest.raises(LarscopeError, match=r"at least 70 frames .*run 'run-2' has 64"):
        LatentVAR(order=6).fit(session)


def test_compare_is_the_swap_test_on_equal_lengths(model):
    conditions = ["familiar", "novel", "familiar", "novel"]
    latents = [latent[:64] for latent in model.latents_]  # the shortest run
    with torch.no_grad():
        coefs = [model.var_(torch.from_numpy(latent)).coef.numpy() for latent in latents]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ComparisonWarning)
        expected = coefficient_swap_test(latents, coefs, conditions, scale="latent")
        found = model.compare("familiar", "novel", test="swap")
        paper = model.compare("familiar", "novel", test="swap", relative=False)
    assert any("0.05" in warning for warning in found.warnings)  # two runs against two cannot reach it
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.pvalue == expected.pvalue
    assert paper.statistic != found.statistic
    # two runs against two: six labelings, and a symmetric statistic tells three apart
    assert found.n_labelings == 6


def test_both_tests_say_that_signal_to_noise_differs(session):
    noisy = fit(session, epochs=1)
    noise = np.random.default_rng(0)
    for run in (1, 3):
        latent = noisy.latents_[run]
        noisy.latents_[run] = latent + 20 * latent.std(0) * noise.normal(size=latent.shape).astype(np.float32)
    for test in ("swap", "influence"):
        assert any(
            "Signal-to-noise" in warning
            for warning in quiet_compare(noisy.compare, "familiar", "novel", test=test).warnings
        )


def test_couplings_of_equal_lengths_do_not_count_missing_frames(model):
    masked = copy.copy(model)
    masked.latents_ = [latent[:64].copy() for latent in model.latents_]
    for run in (1, 3):
        masked.latents_[run][40:] = np.nan
    expected = copy.copy(model)
    expected.latents_ = [latent[:40] for latent in model.latents_]
    for ours, theirs in zip(masked._couplings(range(4), True), expected._couplings(range(4), False), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


def test_compare_names_an_unknown_condition(model):
    with pytest.raises(LarscopeError, match=r"Unknown condition 'novell'\. Did you mean 'novel'\?"):
        model.compare("familiar", "novell")
    with pytest.raises(LarscopeError, match="'novel' twice"):
        model.compare("novel", "novel")


def test_contribution_map_is_the_mean_over_the_runs_of_a_condition(model, session, tmp_path):
    image = model.contribution_map("novel")
    assert image.shape == (24, 16)
    np.testing.assert_allclose(image, model.contribution_maps_[[1, 3]].mean(0))
    model.save(tmp_path / "result")
    loaded = load(tmp_path / "result")
    assert np.array_equal(loaded.contribution_map("novel"), image)
    with pytest.raises(LarscopeError, match="session=read_session"):
        loaded.contribution_map("novel", gain=0.5)
    assert np.array_equal(
        loaded.contribution_map("novel", gain=0.5, session=session), model.contribution_map("novel", gain=0.5)
    )


def test_a_fit_learns_the_shortcut_from_its_session_before_it_trains(model, session):
    prepared = prepare(session, preprocessing=model.preprocessing_)
    shortcut = Shortcut(model.network_.mean_frame)
    shortcut.learn(prepared, model.network_.mean_frame)
    assert not shortcut.filters.allclose(Shortcut(model.network_.mean_frame).filters)
    torch.testing.assert_close(model.network_.shortcut.filters, shortcut.filters)
    torch.testing.assert_close(model.network_.shortcut.readout, shortcut.readout)
    assert fit(session, epochs=1, shortcut=False).network_.shortcut is None


def test_contribution_map_does_not_depend_on_sign_and_scale_of_the_latents(model, session):
    rescaled = copy.deepcopy(model)
    with torch.no_grad():
        # K latents times -3 out of the encoder, and times -1/3 into the decoder: the same network
        rescaled.network_.encoder.conv.weight *= -3
        rescaled.network_.encoder.conv.bias *= -3
        rescaled.network_.decoder.conv.weight /= -3
        rescaled.network_.shortcut.filters *= -3
        rescaled.network_.shortcut.readout /= -3
    rescaled.latents_ = rescaled.transform(session)
    np.testing.assert_allclose(rescaled.latents_[0], -3 * model.latents_[0], rtol=1e-4, atol=1e-4)
    for condition in ("familiar", "novel"):
        image = model.contribution_map(condition, gain=0.7)
        assert np.abs(image).max() > 0
        np.testing.assert_allclose(
            rescaled.contribution_map(condition, gain=0.7), image, atol=1e-3 * np.abs(image).max()
        )
        paper = model.contribution_map(condition, preset="paper")
        assert not np.allclose(rescaled.contribution_map(condition, preset="paper"), paper, rtol=0.01)


def test_contribution_map_against_its_formula(model, session):
    """One latent, one run at a time: mean influence, weighted by the decoder's squared response to each latent."""
    couplings = fit_couplings(model.var_, [torch.from_numpy(latent) for latent in model.latents_])
    c = np.abs(couplings[0].numpy()).sum(0)
    np.fill_diagonal(c, 0)
    response = np.zeros((6, 24, 16))
    with torch.no_grad():
        for run, series in zip(session, model.latents_, strict=True):
            latent = torch.from_numpy(series)
            # 256 frames of four runs: 64 of each, two windows
            _, indices = model.network_.encode(torch.from_numpy(model.preprocessing_.normalise(run.read(0, 64))))
            for number, sigma in enumerate(latent.std(0, correction=0)):
                moved = torch.zeros(6)
                moved[number] = sigma
                up, down = (
                    model.network_.decode_residual((latent.mean(0) + side * moved).expand(64, -1), indices).mean(0)
                    for side in (1, -1)
                )
                response[number] += (up - down).numpy()
    weight = response**2
    expected = np.tensordot(c.sum(0), weight, 1) / weight.sum(0)
    np.testing.assert_allclose(model.contribution_maps_[0], expected, rtol=1e-3)


def quiet_compare(call, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ComparisonWarning)
        return call(*arguments, **options)


def test_edges_are_differences_of_the_coefficients_on_equal_lengths(model):
    edges = quiet_compare(model.edge_differences, "novel", "familiar", min_runs=1)
    with torch.no_grad():
        coefs = np.stack([model.var_(torch.from_numpy(z[:64])).coef.numpy() for z in model.latents_])
    assert edges.conditions == ("novel", "familiar")
    assert len(edges.lag) == (coefs != 0).any(axis=0).sum()
    picked = coefs[:, edges.lag - 1, edges.target, edges.source]
    np.testing.assert_allclose(edges.mean_first, picked[[1, 3]].mean(0), atol=1e-6)
    np.testing.assert_allclose(edges.mean_second, picked[[0, 2]].mean(0), atol=1e-6)


def test_positions_are_in_input_pixels(session):
    # 16 x 16 cut from 24 x 16 and halved: one latent, over rows 4 to 19 and columns 0 to 15 of the input
    model = fit(session, crop=(16, 16), downscale=2, epochs=1)
    edges = quiet_compare(model.edge_differences, "familiar", "novel", min_runs=1)
    assert np.unique(edges.source_position, axis=0).tolist() in ([[11.5, 7.5]], [])
    rows, columns = model._pixel_positions()
    assert rows.tolist() == [4.5 + 2 * i for i in range(8)]
    assert columns.tolist() == [0.5 + 2 * i for i in range(8)]


def test_difference_map_is_that_of_maps_on_equal_lengths(model, session, tmp_path):
    found = model.difference_map("novel", "familiar")
    assert found.difference.shape == (24, 16)
    assert found.pvalue.min() >= found.min_pvalue
    model.save(tmp_path / "result")
    loaded = load(tmp_path / "result")
    assert loaded.crop_offset_ == model.crop_offset_ == (0, 0)
    # without frames, the stored maps are compared, and differing lengths are told (68 against 90 frames)
    with pytest.warns(ComparisonWarning, match="Runs differ in length by condition"):
        stored = loaded.difference_map("novel", "familiar")
    np.testing.assert_allclose(
        stored.difference, model.contribution_map("novel") - model.contribution_map("familiar"), atol=1e-6
    )
    again = loaded.difference_map("novel", "familiar", session=session)
    np.testing.assert_allclose(again.difference, found.difference, atol=1e-6)
    assert not np.allclose(stored.difference, found.difference, atol=1e-6)


def test_groups_are_what_their_expression_says(model):
    groups = {"early": np.array([True, True, False, False]), "late": np.array([False, False, True, True])}
    found = quiet_compare(model.compare, "late", "early", groups=groups)
    assert found.conditions == ("late", "early")
    mixed = quiet_compare(model.compare, "early", "novel", groups={"early": np.array([True, False, True, False])})
    plain = quiet_compare(model.compare, "familiar", "novel")
    assert mixed.statistic == pytest.approx(plain.statistic)
    with pytest.raises(LarscopeError, match="must not share runs"):
        model.compare("early", "novel", groups=groups)


def test_blocks_that_are_compared_do_not_say_who_trades_labels(model):
    blocked = copy.copy(model)
    blocked.runs_ = model.runs_.assign(block=["a", "a", "b", "b"])
    of_blocks = quiet_compare(blocked.compare, "a", "b", by="block")
    assert of_blocks.n_labelings == 6
    within = quiet_compare(blocked.compare, "familiar", "novel")
    assert within.n_labelings == 4


def test_table_corrects_what_compare_finds(model):
    groups = {"x": np.array([True, True, False, False]), "y": np.array([False, False, True, True])}
    groups["z"] = np.array([True, False, False, False])  # shares a run with x
    rows = quiet_compare(model.comparison_table, groups=groups, test="influence")
    assert [(row.first, row.second) for row in rows] == [("x", "y"), ("y", "z")]
    alone = [quiet_compare(model.compare, row.first, row.second, groups=groups, test="influence") for row in rows]
    assert [row.comparison.pvalue for row in rows] == [one.pvalue for one in alone]
    assert rows[0].pvalue_bonferroni == min(1, 2 * alone[0].pvalue)


def test_record_holds_what_the_methods_give(model):
    record = quiet_compare(model.record_comparison, "familiar", "novel")
    assert record.summary["tests"]["coupling"]["pvalue"] == quiet_compare(model.compare, "familiar", "novel").pvalue
    assert record.summary["runs"] == {"familiar": ["run-0", "run-2"], "novel": ["run-1", "run-3"]}
    difference = model.difference_map("familiar", "novel")
    assert np.array_equal(record.dataset["difference_pvalue"], difference.pvalue)
    maps = record.dataset["map_first"] - record.dataset["map_second"]
    np.testing.assert_allclose(maps, difference.difference, atol=1e-6)


def test_a_half_empty_column_stays_so(session, tmp_path):
    blocks = ("monday", None, "tuesday", None)
    runs = [dataclasses.replace(run, block=block) for run, block in zip(session, blocks, strict=True)]
    model = fit(Session(tuple(runs)), epochs=1)
    assert load(model.save(tmp_path / "result")).runs_["block"].tolist() == list(blocks)


def test_score_names_a_run_too_short_for_its_held_out_part(model, session):
    short = Session((Run("short", "novel", ArrayMovie(session.runs[0].movie.array[:4])),))
    with pytest.raises(LarscopeError, match="run 'short' has 4"):
        model.score(short)


@pytest.mark.parametrize("training", ["sequential", "end-to-end"])
@pytest.mark.parametrize("batch_norm", ["running", "window"])
def test_masked_frames_touch_nothing_from_training_to_comparison(training, batch_norm, tmp_path):
    gone = [10, 11, 50]

    def session_with(pixel):
        runs = []
        for i in range(4):
            frames = blinking_movie(84, seed=i).astype(np.float32)
            frames[gone, 3, 5] = np.nan
            frames[gone, 4, 4] = pixel  # of a frame that is masked: nobody may look at it
            runs.append(Run(f"run-{i}", ("familiar", "novel")[i % 2], ArrayMovie(frames)))
        return Session(tuple(runs))

    options = {"nan": "mask", "training": training, "batch_norm": batch_norm, "window": 16, "penalty": 0.01}
    model = fit(session_with(0.0), **options)
    other = fit(session_with(1e6), **options)
    for one, another in zip(model.latents_, other.latents_, strict=True):
        np.testing.assert_array_equal(one, another)
        assert np.flatnonzero(np.isnan(one).all(1)).tolist() == gone
        assert np.isfinite(np.delete(one, gone, axis=0)).all()
    scores = model.scores_.select_dtypes("number")
    assert np.isfinite(scores.to_numpy()).all()
    unforecast = sorted({t + k - 2 for t in gone for k in range(3)})
    for forecast in model.forecast(session_with(0.0)):
        assert np.flatnonzero(np.isnan(forecast).any((1, 2))).tolist() == unforecast
    assert np.isfinite(model.contribution_maps_).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ComparisonWarning)
        assert np.isfinite(model.compare("familiar", "novel").statistic)
        model.save(tmp_path / "result")
        again = load(tmp_path / "result")
        assert again.compare("familiar", "novel").pvalue == model.compare("familiar", "novel").pvalue
    assert write_report(tmp_path / "result").stat().st_size > 0


def test_a_cached_fit_is_the_fit_in_memory(session, tmp_path):
    in_memory, cached = fit(session), fit(session, cache=tmp_path / "cache")
    assert cached.log_ == in_memory.log_
    assert cached.scores_.equals(in_memory.scores_)


def test_shared_coefficients_serve_forecasts_and_scores_and_never_comparisons(model, session):
    shared = fit(session, coefficients="condition")
    assert all(np.array_equal(ours, own) for ours, own in zip(shared.coef_, model.coef_, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ComparisonWarning)
        assert shared.compare("familiar", "novel").statistic == model.compare("familiar", "novel").statistic
    together = shared.var_.fit_together([torch.from_numpy(shared.latents_[run]) for run in (0, 2)])
    expected = shared.var_.apply_coef(together, torch.from_numpy(shared.latents_[2])).forecast
    np.testing.assert_array_equal(shared.forecasts_[2], expected)
    assert shared.scores_["var_explained"].sum() < model.scores_["var_explained"].sum()  # in sample


def test_runs_that_were_not_seen_are_forecast_with_their_conditions_coefficients(session):
    seen, unseen = Session(session.runs[:3]), Session(session.runs[3:])
    model = fit(seen, coefficients="condition")
    [latent] = model.transform(unseen)
    coef = model.var_.fit_together([torch.from_numpy(model.latents_[1])])
    forecast = model.var_.apply_coef(coef, torch.from_numpy(latent)).forecast
    row = model.score(unseen).iloc[0]
    residual, spread = latent[2:] - forecast.numpy(), latent[2:] - latent[2:].mean(0)
    assert row["var_explained"] == pytest.approx(1 - (residual**2).sum() / (spread**2).sum(), rel=1e-4)
    [run] = unseen
    strange = Session((dataclasses.replace(run, condition="famliar"),))
    with pytest.raises(LarscopeError, match=r"Unknown condition 'famliar'\. Did you mean 'familiar'"):
        model.score(strange)


def test_what_forecasts_explain_of_a_movie_is_one_minus_residual_over_variance(session):
    model = fit(session, pooling="previous")
    scores = model.score_frames(session)
    frames = model.forecast(session)
    for run, one in enumerate(session):
        movie = one.movie.array.astype(np.float64)
        low, high = model.preprocessing_.low, model.preprocessing_.high
        target = (movie[2:] - low) / (high - low)
        error = target - frames[run]
        residual = ((error - error.mean(0)) ** 2).sum()
        expected = 1 - residual / ((target - target.mean(0)) ** 2).sum()
        assert scores["forecast_explained"][run] == pytest.approx(expected, abs=1e-5)
    assert (scores["ceiling_explained"] > scores["forecast_explained"]).all()


def test_too_many_latents_are_warned_of(session, monkeypatch):
    monkeypatch.setattr("larscope._fit.estimator.MANY_LATENTS", 5)
    with (
        pytest.warns(UserWarning, match=r"6 latents.*`downscale`"),
        pytest.warns(UserWarning, match="steps"),
    ):
        LatentVAR(latents="grid", order=2, window=32, epochs=1, penalty=0.1).fit(session)


def test_a_penalty_in_the_paper_s_units_is_warned_of(session):
    with (
        pytest.warns(TinyPenaltyWarning, match=r"A penalty of 0.005 is 0.5% of the largest chance.*preset='paper'"),
        pytest.warns(ShortTrainingWarning),
    ):
        LatentVAR(latents="grid", order=2, window=32, epochs=1, penalty=0.005).fit(session)


def assert_same_model(one, other):
    for name, value in one.network_.state_dict().items():
        assert torch.equal(value, other.network_.state_dict()[name]), name
    assert repr(one) == repr(other)
    assert one.scores_.equals(other.scores_)
    assert one.runs_.equals(other.runs_)
    assert one.log_ == other.log_
    assert np.array_equal(one.coef_.nonzero, other.coef_.nonzero)
    assert np.array_equal(one.coef_.value, other.coef_.value)
    assert np.array_equal(one.contribution_maps_, other.contribution_maps_)
    for name in ("latents_", "forecasts_"):
        assert all(np.array_equal(a, b) for a, b in zip(getattr(one, name), getattr(other, name), strict=True))
    for name in (name for name in one.dataset_ if name.startswith(("example_", "curve_", "clip_frame", "clip_run"))):
        assert np.array_equal(one.dataset_[name], other.dataset_[name]), name


def test_a_refit_with_equal_settings_is_the_fit_bit_for_bit(model, session, tmp_path):
    again = model.refit(session, penalty=model.penalty, cache=tmp_path / "cache")
    assert_same_model(model, again)
    assert again.network_ is not model.network_
    model.save(tmp_path / "result")
    assert_same_model(model, load(tmp_path / "result").refit(session))


def test_a_refit_is_what_a_sequential_training_with_its_settings_gives(session, tmp_path):
    """Sequential training does not depend on the dynamics, so the fit with other settings is an oracle."""
    others = {"order": 3, "penalty": 0.0005, "coefficients": "condition", "own_weight": 0.5, "max_distance": 1.0}
    others |= {"center": False, "scale": "latent", "penalty_scale": "target"}
    expected = fit(session, training="sequential", **others)
    found = fit(session, training="sequential").refit(session, **others)
    assert_same_model(expected, found)
    found.save(tmp_path / "result")
    loaded = load(tmp_path / "result")
    assert loaded.score(session).equals(expected.score(session))
    assert write_report(tmp_path / "result").is_file()


def test_a_refit_says_what_trained_its_network(model, session):
    once = model.refit(session, penalty=0.02)
    twice = once.refit(session, order=1)
    for refitted in (once, twice):
        first = refitted.provenance_["refitted_from"]
        assert first["settings"]["penalty"] == 0.01
        assert first["settings"]["order"] == 2
        assert first["created"] == model.provenance_["created"]
    assert "refitted_from" not in model.provenance_
    assert (once.penalty, twice.penalty, twice.order, model.penalty) == (0.02, 0.02, 1, 0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training": "embedded"}, "`training` is 'end-to-end' in this one, and another value needs another training"),
        ({"seed": 1}, "got 1. Change only order, penalty,"),
        ({"nan": "mask"}, "`nan` is 'error'"),
        ({"penalti": 1}, "Did you mean 'penalty'?"),
        ({"penalty": 0.0}, "'penalty'"),
        ({"order": 32}, "order=32 and window=32"),
    ],
)
def test_a_refit_names_a_setting_that_it_cannot_change(settings, message, model, session):
    with pytest.raises(LarscopeError) as caught:
        model.refit(session, **settings)
    assert message in str(caught.value)


def test_a_refit_takes_the_session_of_the_fit_alone(model, session):
    runs = session.runs
    renamed, shorter, other = (
        Session((*runs[:3], dataclasses.replace(runs[3], **change)))
        for change in (
            {"name": "another"},
            {"stop": 99},
            {"movie": ArrayMovie(runs[3].movie.array[:, ::-1])},
        )
    )
    with pytest.raises(LarscopeError, match="got other runs"):
        model.refit(renamed)
    with pytest.raises(LarscopeError, match="run 'run-3' had 100 frames then, and has 99"):
        model.refit(shorter)
    with pytest.raises(LarscopeError, match=r"frame \d+ of run 'run-3' is different"):
        model.refit(other)
    with pytest.raises(LarscopeError, match="not fitted yet"):
        LatentVAR().refit(session)


def default_var(order):
    return SparseVAR(order, DEFAULT_PENALTY, own_weight=0, scale="latent", penalty_scale="residual")


@pytest.fixture(scope="module")
def automatic(session):
    return fit(session, penalty="auto")


def test_an_automatic_penalty_is_chosen_after_training_at_the_default(automatic, session):
    plain_fit = fit(session, penalty=DEFAULT_PENALTY)
    for name, value in plain_fit.network_.state_dict().items():
        assert torch.equal(value, automatic.network_.state_dict()[name]), name
    latents = [torch.from_numpy(latent) for latent in automatic.latents_]
    chosen = choose_penalty(default_var(2), latents)
    assert automatic.choice_ == chosen
    assert (automatic.penalty, automatic.penalty_) == ("auto", chosen.penalty)
    assert plain_fit.choice_ is None
    assert plain_fit.penalty_ == DEFAULT_PENALTY
    # what follows is what that number gives
    expected = plain_fit.refit(session, penalty=chosen.penalty)
    assert expected.scores_.equals(automatic.scores_)
    assert np.array_equal(expected.coef_.value, automatic.coef_.value)


def test_an_automatic_penalty_is_kept_and_chosen_again(automatic, session, tmp_path):
    automatic.save(tmp_path / "result")
    assert 'penalty = "auto"' in (tmp_path / "result" / "config.toml").read_text()
    loaded = load(tmp_path / "result")
    assert loaded.penalty == "auto"
    assert (loaded.penalty_, loaded.choice_) == (automatic.penalty_, automatic.choice_)
    assert loaded.score(session).equals(automatic.scores_)
    assert_same_model(automatic, loaded.refit(session))


def test_an_automatic_penalty_of_a_refit_follows_its_settings(automatic, session):
    latents = [torch.from_numpy(latent) for latent in automatic.latents_]
    assert automatic.refit(session, order=1).choice_ == choose_penalty(default_var(1), latents)
    assert automatic.refit(session, penalty=0.01).choice_ is None


@pytest.mark.parametrize("penalty", [None, "auto", 0.4])
def test_runs_that_share_coefficients_have_a_penalty_of_their_own_unless_it_is_a_number(penalty, automatic, session):
    alone = automatic.refit(session, penalty=penalty)
    shared = alone.refit(session, coefficients="condition")
    assert (shared.penalty_, shared.choice_) == (alone.penalty_, alone.choice_)
    assert np.array_equal(shared.coef_.value, alone.coef_.value)
    latents = [torch.from_numpy(latent) for latent in automatic.latents_]
    conditions = [run.condition for run in session]
    chosen = None if penalty == 0.4 else choose_penalty(default_var(2), latents, conditions)
    assert (alone.shared_choice_, shared.shared_choice_) == (None, chosen)
    # forecasts are those of that number
    number = penalty if chosen is None else chosen.penalty
    given = automatic.refit(session, coefficients="condition", penalty=number)
    diagnostics = ["spectral_radius", "n_autocorrelated", "residual_correlation", "residual_first", "residual_second"]
    own = ["n_couplings", "n_chance", *diagnostics]  # of each run's own fit, with the penalty of that
    assert given.scores_.drop(columns=own).equals(shared.scores_.drop(columns=own))
    assert given.score_frames(session).equals(shared.score_frames(session))


def test_the_penalty_of_shared_coefficients_is_kept(automatic, session, tmp_path):
    shared = automatic.refit(session, penalty=None, coefficients="condition")
    shared.save(tmp_path / "result")
    assert "penalty =" not in (tmp_path / "result" / "config.toml").read_text()
    loaded = load(tmp_path / "result")
    assert (loaded.penalty, loaded.penalty_) == (None, DEFAULT_PENALTY)
    assert (loaded.choice_, loaded.shared_choice_) == (None, shared.shared_choice_)
    assert_same_model(shared, loaded.refit(session))


def test_a_preset_stands_for_settings_that_given_ones_win_over():
    paper = LatentVAR(preset="paper")
    assert (paper.center, paper.epochs) == (False, 2)
    assert repr(LatentVAR(preset="paper", epochs=7, penalty="auto")) == repr(
        LatentVAR(**{**PRESETS["paper"], "epochs": 7, "penalty": "auto"})
    )
    assert repr(LatentVAR(preset="default")) == repr(LatentVAR())
    with pytest.raises(LarscopeError, match=r"'default', 'paper': got 'papre'. Did you mean 'paper'\?"):
        LatentVAR(preset="papre")


def test_the_paper_s_preset_says_all_but_the_frames_size_and_the_seed():
    """So that no change of a default changes it."""
    assert set(setting_names()) - set(PRESETS["paper"]) == {"cell_diameter", "crop", "downscale", "nan", "seed"}


def test_a_refit_takes_a_preset_that_needs_no_training(session):
    paper = fit(session, preset="paper", epochs=2)
    centred = paper.refit(session, center=True)
    assert_same_model(paper, centred.refit(session, preset="paper", **SMALL | {"epochs": 2}))
    with pytest.raises(LarscopeError, match="`epochs` is 3"):
        fit(session).refit(session, preset="paper", order=2, window=32)


def test_a_fit_that_is_broken_off_leaves_nothing_that_looks_fitted(session, monkeypatch):
    model = fit(session)

    def broken_off(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("larscope._fit.estimator.train", broken_off)
    for one in (LatentVAR(**SMALL), model):  # never fitted, and fitted before
        with pytest.raises(KeyboardInterrupt):
            one.fit(session)
        with pytest.raises(LarscopeError, match="fit"):
            one.transform(session)
        with pytest.raises(LarscopeError, match="fit"):
            one.refit(session)


def masked(session, *frames):
    """The session, in each run whose frames are given without those."""
    runs = []
    for run, gone in zip(session, frames, strict=True):
        movie = np.array(run.read(0, run.n_frames), np.float32)
        movie[gone] = np.nan
        runs.append(dataclasses.replace(run, movie=ArrayMovie(movie)))
    return Session(tuple(runs))


def test_what_masked_frames_leave_too_short_is_refused_before_the_training(session, monkeypatch):
    monkeypatch.delattr("larscope._fit.estimator.train")
    whole = [slice(0, 0)] * (len(session.runs) - 1)
    with pytest.raises(LarscopeError, match=r"needs 32 consecutive unmasked frames.* longest stretch has 19"):
        fit(masked(session, *[slice(19, None, 20)] * len(session.runs)), nan="mask")
    with pytest.raises(LarscopeError, match=rf"{session.runs[0].label} has 1, with .* frames masked"):
        fit(masked(session, slice(0, None, 2), *whole), nan="mask")


@pytest.mark.parametrize("coefficients", ["run", "condition"])
def test_a_run_without_its_first_part_has_no_held_out_error(session, coefficients):
    n_first = round(0.9 * session.runs[0].n_frames)
    gaps = [slice(0, n_first), *[slice(0, 0)] * (len(session.runs) - 1)]
    found = fit(masked(session, *gaps), nan="mask", coefficients=coefficients, epochs=1)
    assert found.scores_["var_error_heldout"].isna().tolist() == [True] + [False] * (len(session.runs) - 1)
