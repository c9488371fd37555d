"""A fit with cells as latents: everything a grid does, and footprints."""

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from larscope import LarscopeError, LatentVAR, load, simulate_session
from larscope._cli.commands import app
from larscope._movies.session import ArrayMovie
from larscope._report.page import write_report
from larscope._results.folder import read_result

SMALL = {"order": 2, "window": 32}


@pytest.fixture(scope="module")
def session():
    return simulate_session(n_runs=4, n_frames=300, frame_shape=(48, 48), seed=0)


@pytest.fixture(scope="module")
def model(session):
    return LatentVAR(**SMALL).fit(session)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return model.save(tmp_path_factory.mktemp("cells") / "result")


def test_latents_are_traces_of_footprints(model, session):
    n_cells = len(session.truth.positions)
    assert model.footprints_.shape == (n_cells, 48, 48)
    assert (model.footprints_ >= 0).all()
    masks = session.truth.masks.reshape(n_cells, -1)
    mine = [int(np.argmax(masks @ footprint.ravel())) for footprint in model.footprints_]
    assert sorted(mine) == list(range(n_cells))
    for latent, traces in zip(model.latents_, session.truth.traces, strict=True):
        correlation = [np.corrcoef(latent[:, cell], traces[:, theirs])[0, 1] for cell, theirs in enumerate(mine)]
        assert min(correlation) > 0.8


def test_nothing_is_trained(model):
    assert model.log_ == []


def test_forecasts_beat_the_frame_before(model, session):
    explained = model.score_frames(session)
    assert (explained["forecast_explained"] > 0.3).all()
    assert (explained["forecast_explained"] < explained["ceiling_explained"]).all()


def test_the_map_shows_cells_by_their_influence(model):
    outside = model.footprints_.max(0) == 0
    for condition in ("familiar", "novel"):
        image = model.contribution_map(condition)
        assert image.max() > 0
        assert (image[outside] == 0).all()


def test_a_saved_fit_is_the_same(model, session, folder):
    again = load(folder)
    np.testing.assert_array_equal(again.footprints_, model.footprints_)
    np.testing.assert_allclose(again.transform(session)[0], model.latents_[0], atol=1e-6)
    np.testing.assert_array_equal(again.contribution_map("novel"), model.contribution_map("novel"))
    # no frames are needed for another map
    assert again.contribution_map("novel", direction="inflow", exclude_radius=5).shape == (48, 48)


def test_a_result_lists_the_footprints(model, folder):
    data = read_result(folder).dataset
    image = np.zeros_like(model.footprints_)
    image[tuple(data[f"footprint_{name}"].to_numpy() for name in ("latent", "row", "column"))] = data["footprint"]
    np.testing.assert_array_equal(image, model.footprints_)
    centres = np.stack([data["latent_row"], data["latent_column"]], 1)
    weighted = np.einsum("khw,hwx->kx", image, np.stack(np.mgrid[:48, :48], -1)) / image.sum((1, 2))[:, None]
    np.testing.assert_allclose(centres, weighted, atol=1e-3)


def test_conditions_are_compared_and_reported(folder):
    done = CliRunner().invoke(app, ["compare", str(folder), "familiar", "novel", "--permutations", "99"])
    assert done.exit_code == 0, done.output
    page = write_report(folder).read_text(encoding="utf-8")
    assert "nothing was trained" in page
    assert "covariance of frames with the frames after them" in page
    assert (folder / "figures" / "cells.png").is_file()


def test_max_distance_is_in_pixels_between_cells(model, session):
    near = model.refit(session, max_distance=20.0)
    apart = np.linalg.norm(model.network_.positions[:, None] - model.network_.positions, axis=2)
    assert (apart > 20).any()
    for coef in near.coef_:
        assert (coef[:, apart > 20] == 0).all()
    assert any((coef[:, apart > 20] != 0).any() for coef in model.coef_)


def test_edges_lie_between_cells(model):
    edges = model.edge_differences("familiar", "novel", n_permutations=99, min_runs=1)
    np.testing.assert_allclose(edges.source_position, model.network_.positions[edges.source])


def test_masked_frames_are_left_out(session):
    movie = session.runs[0].movie.array.astype(np.float32)
    movie[40:44] = np.nan
    first = replace(session.runs[0], movie=ArrayMovie(movie))
    broken = replace(session, runs=(first, *session.runs[1:]))
    masked = LatentVAR(**SMALL, nan="mask").fit(broken)
    assert np.isnan(masked.latents_[0][40:44]).all()
    assert np.isfinite(masked.latents_[0][44:]).all()
    assert len(masked.footprints_) == len(session.truth.positions)


def test_a_grid_has_no_footprints_and_cells_no_printed_map(model, session):
    with pytest.raises(LarscopeError, match="latents='grid'"):
        model.contribution_map("novel", preset="paper")
    model = LatentVAR(latents="grid", order=2, window=32)
    with pytest.raises(LarscopeError, match="not fitted"):
        _ = model.footprints_


def test_the_paper_has_a_grid():
    assert LatentVAR(preset="paper").settings.latents == "grid"
