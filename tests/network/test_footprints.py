"""Cells are found where they were planted, each once, and nowhere else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from larscope import simulate_session
from larscope._errors import LarscopeError
from larscope._movies.preprocessing import prepare
from larscope._movies.session import ArrayMovie, Run, Session
from larscope._network.footprints import LaggedCovariance, Windows, find_parts, keep_connected, static_components


def correlations(footprints: np.ndarray, planted: np.ndarray) -> np.ndarray:
    a, b = (images.reshape(len(images), -1) for images in (footprints, planted))
    return np.corrcoef(a, b)[: len(a), len(a) :]


def find(session, diameter=7.0):
    prepared = prepare(session)
    return find_parts(prepared, torch.from_numpy(prepared.mean_frame()), diameter)


@pytest.fixture(scope="module")
def hard():
    session = simulate_session(
        n_runs=4, n_frames=300, frame_shape=(64, 64), noise=4e-4, motion=0.5, bleaching=0.2, seed=2
    )
    return session, find(session)


def test_each_planted_cell_is_found_once(hard):
    session, parts = hard
    found = correlations(parts.cells.images(), session.truth.footprints) > 0.7
    assert found.sum(0).tolist() == [1] * len(session.truth.positions)


def test_footprints_are_local_and_not_negative(hard):
    footprints = hard[1].cells.images()
    assert (footprints >= 0).all()
    assert footprints.max((1, 2)).tolist() == [1.0] * len(footprints)
    assert (footprints > 0).sum((1, 2)).max() <= 13**2


def test_static_light_remembers_less_than_haze(hard):
    parts = hard[1]
    assert len(parts.memory) == len(parts.broad)
    assert parts.memory[:-3].min() > parts.memory[-1]


def test_the_same_movie_has_the_same_cells():
    session = simulate_session(n_runs=2, n_frames=120, frame_shape=(48, 48), seed=0)
    assert np.array_equal(find(session).cells.values, find(session).cells.values)


def test_a_movie_of_noise_has_no_cells():
    rng = np.random.default_rng(0)
    runs = [Run(f"{i}", "dark", ArrayMovie(rng.poisson(100, (150, 48, 48)).astype(np.uint16))) for i in range(2)]
    with pytest.raises(LarscopeError, match="none of about 7 pixels was found"):
        find(Session(tuple(runs)))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 8))
def test_lagged_products_are_those_of_the_pixels(height, width, reach):
    frames = torch.from_numpy(np.random.default_rng(0).standard_normal((6, height, width)).astype(np.float32))
    covariance = LaggedCovariance((height, width), reach)
    covariance.add(frames)
    rows, columns = (part.ravel()[:9] for part in np.mgrid[: min(height, reach + 1), : min(width, reach + 1)])
    products, _ = covariance.between(rows, columns)
    pixels = frames[:, rows, columns].double().numpy()
    expected = pixels[:-1].T @ pixels[1:]
    np.testing.assert_allclose(products, (expected + expected.T) / 2, atol=1e-5)


@given(st.integers(0, 11), st.integers(0, 9))
def test_windows_give_back_their_images(row, column):
    image = np.zeros((1, 12, 10))
    image[0, row, column] = 2.0
    windows = Windows.around(image, 3)
    np.testing.assert_array_equal(windows.images(), image)
    np.testing.assert_array_equal(windows.recentred().images(), image)


def test_recentring_moves_the_window_and_not_the_footprint():
    image = np.zeros((1, 20, 20))
    image[0, 8:11, 12:15] = 1.0
    windows = Windows.around(image, 4)
    moved = Windows(np.roll(windows.values, (2, -1), (1, 2)), windows.corner - [2, -1], windows.shape)
    np.testing.assert_array_equal(moved.images(), image)
    np.testing.assert_array_equal(moved.recentred().corner, windows.corner)
    np.testing.assert_array_equal(moved.recentred().images(), image)


def test_of_two_pieces_the_brighter_is_kept():
    image = np.array([[0.3, 0.0, 1.0, 0.9]])
    np.testing.assert_array_equal(keep_connected(image, 0.1), [[0, 0, 1.0, 0.9]])
    np.testing.assert_array_equal(keep_connected(image, 0.1, seed=(0, 0)), [[0.3, 0, 0, 0]])


def test_static_components_are_image_and_slopes():
    mean_frame = torch.rand(6, 5)
    static = static_components(mean_frame)
    torch.testing.assert_close(static[0] * mean_frame.norm(), mean_frame)
    torch.testing.assert_close(static.flatten(1).norm(dim=1), torch.ones(3))


@pytest.mark.parametrize(
    ("diameter", "shape", "haze"),
    [(4.0, (48, 48), 1.0), (7.0, (64, 64), 1.0), (12.0, (96, 96), 1.0), (7.0, (96, 64), 3.0)],
)
def test_the_diameter_of_cells_is_measured(diameter, shape, haze):
    session = simulate_session(n_runs=2, n_frames=200, frame_shape=shape, cell_diameter=diameter, haze=haze, seed=3)
    parts = find(session, None)
    assert parts.diameter == pytest.approx(diameter, rel=0.3)  # haze and short movies widen it
    assert (correlations(parts.cells.images(), session.truth.footprints) > 0.7).any(0).mean() >= 0.8


def test_large_cells_are_sought_in_fewer_pixels(monkeypatch):
    session = simulate_session(n_runs=2, n_frames=200, frame_shape=(96, 96), cell_diameter=12.0, seed=3)
    binned = find(session, 12.0)
    monkeypatch.setattr("larscope._network.footprints.COARSE", 100)
    whole = find(session, 12.0)
    assert len(binned.cells) == len(whole.cells)
    here, there = (one.cells.centres() for one in (binned, whole))
    assert np.linalg.norm(here[:, None] - there, axis=2).min(1).max() < 1.0
