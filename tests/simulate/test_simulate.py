"""The simulator against its own equations, scikit-learn, and the files that it writes."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from sklearn.linear_model import Lasso, LinearRegression
from sklearn.metrics import average_precision_score

from larscope._errors import LarscopeError
from larscope._movies.preprocessing import prepare
from larscope._movies.session import Session
from larscope._movies.table import read_session
from larscope._simulate.files import read_truth
from larscope._simulate.session import SimulatedSession, simulate_session
from larscope._simulate.truth import Truth

SMALL = {"n_runs": 2, "n_frames": 24, "frame_shape": (48, 40), "n_cells": 4}


@pytest.fixture(scope="module")
def demo() -> SimulatedSession:
    return simulate_session(n_runs=8, n_frames=192, frame_shape=(96, 64), seed=0)


def lagged(traces: np.ndarray, order: int) -> np.ndarray:
    return np.hstack([traces[order - lag : len(traces) - lag] for lag in range(1, order + 1)])


def lasso_strength(traces: np.ndarray, order: int = 5, alpha: float = 0.05) -> np.ndarray:
    """Sum of absolute lasso coefficients over lags, (driven, driver)."""
    z = (traces - traces.mean(axis=0)) / traces.std(axis=0)
    coef = Lasso(alpha=alpha, fit_intercept=False).fit(lagged(z, order), z[order:]).coef_
    return np.abs(coef.reshape(z.shape[1], order, -1)).sum(axis=1)


# Shape


def test_paper_shape_has_the_papers_order_and_lengths() -> None:
    session = simulate_session(frame_shape=(16, 16), n_cells=4, cell_diameter=2, noise=0)
    lengths = [run.n_frames for run in session]
    assert (len(session), min(lengths), max(lengths), round(np.mean(lengths))) == (40, 306, 1206, 435)
    assert [run.condition for run in session] == (["familiar"] * 5 + ["novel"] * 5) * 4
    assert [run.block for run in session] == [f"simulated-block-{i // 5 + 1}" for i in range(40)]


def test_small_sessions_alternate_without_blocks(demo: SimulatedSession) -> None:
    assert isinstance(demo, Session)
    assert demo.simulated
    assert [run.condition for run in demo] == ["familiar", "novel"] * 4
    assert {run.block for run in demo} == {None}
    assert all(run.movie.dtype == np.uint16 and run.movie.shape == (192, 96, 64) for run in demo)


def test_everything_that_is_printed_says_simulated(demo: SimulatedSession) -> None:
    assert all("simulated" in run.name and run.subject == "simulated" for run in demo)


def test_lengths_may_be_given_for_each_run() -> None:
    session = simulate_session(**SMALL | {"n_frames": [10, 20]})
    assert [run.n_frames for run in session] == [10, 20]
    assert [trace.shape for trace in session.truth.traces] == [(10, 4), (20, 4)]


def test_a_seed_fixes_every_pixel() -> None:
    first, again, other = (simulate_session(**SMALL, seed=seed) for seed in (1, 1, 2))
    for run, same, different in zip(first, again, other, strict=True):
        assert np.array_equal(run.read(0, 24), same.read(0, 24))
        assert not np.array_equal(run.read(0, 24), different.read(0, 24))


def test_parameters_repeat_the_session(demo: SimulatedSession) -> None:
    parameters = json.loads(json.dumps(demo.truth.parameters))
    again = simulate_session(**parameters | {"frame_shape": tuple(parameters["frame_shape"])})
    assert np.array_equal(again.runs[5].read(100, 110), demo.runs[5].read(100, 110))


# Dynamics


def test_traces_are_the_filtered_spikes(demo: SimulatedSession) -> None:
    for traces, spikes in zip(demo.truth.traces, demo.truth.spikes, strict=True):
        np.testing.assert_allclose(traces[1:] - demo.truth.decay * traces[:-1], spikes[1:], atol=1e-5)


def test_a_minority_drives_and_the_couplings_are_sparse(demo: SimulatedSession) -> None:
    truth, planted = demo.truth, demo.truth.couplings["familiar"]
    assert 0 < truth.driving.mean() < 0.5
    assert np.array_equal(truth.driving, planted.any(axis=(0, 1)))
    assert (planted.astype(bool).sum(axis=(0, 2)) <= 1).all()
    assert not np.diagonal(planted, axis1=1, axis2=2).any()
    np.testing.assert_allclose(truth.couplings["novel"], 0.4 * planted)


def test_activity_does_not_tell_who_drives() -> None:
    truth = simulate_session(**SMALL | {"n_frames": 10_000, "frame_shape": (16, 16), "cell_diameter": 2}).truth
    rates = np.array([spikes.mean(axis=0) for spikes in truth.spikes])
    np.testing.assert_allclose(rates, 0.06, rtol=0.2)


def test_spikes_and_traces_follow_the_planted_vars() -> None:
    session = simulate_session(n_runs=2, n_frames=12_000, frame_shape=(16, 16), n_cells=6, cell_diameter=2, noise=0)
    truth = session.truth
    for run, spikes, traces in zip(session, truth.spikes, truth.traces, strict=True):
        for series, planted in (
            (spikes.astype(float), truth.couplings[run.condition]),
            (traces, truth.trace_coef(run.condition)),
        ):
            fitted = LinearRegression().fit(lagged(series, 5), series[5:]).coef_
            fitted = fitted.reshape(6, 5, 6).transpose(1, 0, 2)
            assert np.abs(fitted - planted).max() < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_lasso_finds_the_planted_couplings_and_fewer_in_novel(seed: int) -> None:
    session = simulate_session(n_runs=8, n_frames=192, frame_shape=(96, 64), noise=0, seed=seed)
    truth = session.truth
    off_diagonal = ~np.eye(len(truth.positions), dtype=bool)
    planted = truth.couplings["familiar"].any(axis=0)[off_diagonal]
    precision, strength = {}, {}
    for condition in session.conditions:
        fits = [
            lasso_strength(traces)[off_diagonal]
            for run, traces in zip(session, truth.traces, strict=True)
            if run.condition == condition
        ]
        precision[condition] = np.mean([average_precision_score(planted, fit) for fit in fits])
        strength[condition] = np.mean([fit[planted].mean() for fit in fits])
    chance = planted.mean()
    assert chance < 0.1
    assert precision["familiar"] > 0.6
    assert precision["novel"] > 2 * chance
    assert strength["novel"] < 0.5 * strength["familiar"]


# Image


@pytest.mark.parametrize("noise", [1e-4, 4e-4])
def test_shot_noise_is_as_asked_and_grows_with_brightness(noise: float) -> None:
    shape = {"n_runs": 4, "n_frames": 96, "frame_shape": (96, 64), "seed": 3}
    noisy, clean = prepare(simulate_session(**shape, noise=noise)), prepare(simulate_session(**shape, noise=0))
    scale = noisy.preprocessing
    errors, levels = [], []
    for seen, true in zip(*([run.movie.read(0, 96) for run in one.runs] for one in (noisy, clean)), strict=True):
        errors.append((scale.normalise(seen) - scale.normalise(true)) ** 2)
        levels.append(true)
    error, level = np.concatenate(errors).ravel(), np.concatenate(levels).ravel()
    assert error.mean() == pytest.approx(noise, rel=0.25)
    bright = level > np.quantile(level, 0.9)
    ratio = level[bright].mean() / level[~bright].mean()
    assert error[bright].mean() / error[~bright].mean() == pytest.approx(ratio, rel=0.05)


def test_cells_shine_where_and_when_the_truth_says(demo: SimulatedSession) -> None:
    truth = demo.truth
    rows, columns = np.indices(demo.frame_shape)
    frames = demo.runs[0].read(0, 192).astype(float)
    for mask, position, trace in zip(truth.masks, truth.positions, truth.traces[0].T, strict=True):
        centre = (rows[mask].mean(), columns[mask].mean())
        np.testing.assert_allclose(centre, position, atol=0.5)
        assert np.corrcoef(frames[:, mask].mean(axis=1), trace)[0, 1] > 0.9


def test_movies_use_the_range_without_saturating(demo: SimulatedSession) -> None:
    brightest = max(run.read(0, 192).max() for run in demo)
    assert 32_767 < brightest < 65_535


def test_bleaching_dims_each_run() -> None:
    movie = simulate_session(**SMALL | {"n_frames": 200}, bleaching=0.5).runs[0].read(0, 200)
    background = np.quantile(movie, 0.3, axis=(1, 2))
    assert background[-20:].mean() / background[:20].mean() == pytest.approx(0.5, abs=0.1)


def test_motion_moves_the_frame_by_as_much_as_asked() -> None:
    shape = SMALL | {"n_frames": 400, "noise": 0}
    still, moved = (simulate_session(**shape, motion=motion).runs[0].read(0, 400) for motion in (0, 1.0))
    still, moved = still.astype(float), moved.astype(float)
    # optical flow to first order: moved - still = -shift . gradient
    gradient = np.stack(np.gradient(still, axis=(1, 2)), axis=-1)[:, 4:-4, 4:-4].reshape(400, -1, 2)
    change = (moved - still)[:, 4:-4, 4:-4].reshape(400, -1)
    shifts = np.array([-np.linalg.lstsq(g, c)[0] for g, c in zip(gradient, change, strict=True)])
    assert np.sqrt((shifts**2).sum(axis=1).mean()) == pytest.approx(1.0, rel=0.4)
    assert np.abs(shifts.mean(axis=0)).max() < 0.4


def test_drift_makes_runs_of_one_block_alike() -> None:
    session = simulate_session(
        n_runs=16, runs_per_block=4, n_frames=150, frame_shape=(48, 40), n_cells=4, drift=0.3, noise=0
    )
    cell = session.truth.masks[0]
    resting = [np.quantile(run.read(0, 150)[:, cell].mean(axis=1), 0.02) for run in session]
    level = np.reshape(resting, (4, 4))  # block, run
    assert level.mean(axis=1).std() > 2 * level.std(axis=1).mean()


def test_overlapping_cells_lie_over_others() -> None:
    def nearest(overlapping: float) -> np.ndarray:
        positions = simulate_session(
            n_runs=2, n_frames=2, frame_shape=(96, 64), overlapping=overlapping
        ).truth.positions
        distance = np.hypot(*(positions[:, None] - positions).transpose(2, 0, 1))
        return np.sort(distance[distance > 0].reshape(len(positions), -1).min(axis=1))

    assert nearest(0)[0] >= 1.2 * 7
    assert (nearest(0.2) < 7).sum() >= 4  # three cells lie over three others


# Files


def test_written_sessions_read_back(tmp_path: Path) -> None:
    session = simulate_session(**SMALL | {"n_runs": 16})
    read = read_session(session.write(tmp_path / "simulated"))
    assert sorted(path.suffix for path in (tmp_path / "simulated").iterdir()) == sorted(
        [".csv", ".json", ".npz"] + [".tif"] * 16
    )
    assert read.simulated
    for run, stored in zip(session, read, strict=True):
        assert np.array_equal(run.read(0, 24), stored.read(0, 24))
        for name in ("name", "condition", "block", "subject", "frame_rate", "pixel_size"):
            assert getattr(run, name) == getattr(stored, name)


def test_full_size_files_give_back_the_pixels_after_preprocessing(tmp_path: Path) -> None:
    session = simulate_session(**SMALL)
    read = read_session(session.write(tmp_path / "simulated", full_size=True))
    assert read.frame_shape == (4 * 48 + 32, 4 * 40 + 32)
    assert read.runs[0].pixel_size == 0.5
    prepared = prepare(read, crop=(192, 160), downscale=4)
    for run, one in zip(session, prepared.runs, strict=True):
        assert np.array_equal(run.read(0, 24), one.movie.read(0, 24))


def test_large_movies_become_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = simulate_session(**SMALL)
    kinds = {}
    for limit in (2**32, 0):
        monkeypatch.setattr("larscope._simulate.files.CLASSIC_TIFF", limit)
        table = session.write(tmp_path / str(limit))
        with tifffile.TiffFile(table.with_name("simulated-01.tif")) as file:
            kinds[limit] = file.is_bigtiff
            assert "Simulated" in file.pages[0].description
        assert np.array_equal(read_session(table).runs[0].read(0, 24), session.runs[0].read(0, 24))
    assert kinds == {2**32: False, 0: True}


def test_truth_reads_back(tmp_path: Path) -> None:
    session = simulate_session(**SMALL)
    session.write(tmp_path / "simulated")
    read, truth = read_truth(tmp_path / "simulated"), session.truth
    for name in ("positions", "footprints", "driving", "decay"):
        assert np.array_equal(getattr(read, name), getattr(truth, name))
    for condition in session.conditions:
        assert np.array_equal(read.couplings[condition], truth.couplings[condition])
    for stored, made in zip(read.traces + read.spikes, truth.traces + truth.spikes, strict=True):
        assert np.array_equal(stored, made)
    assert read.parameters == truth.parameters


def test_truth_json_lists_the_couplings(tmp_path: Path) -> None:
    session = simulate_session(**SMALL)
    session.write(tmp_path / "simulated")
    description = json.loads((tmp_path / "simulated/truth.json").read_text())
    assert "simulated" in description["description"].lower()
    rebuilt = np.zeros_like(session.truth.couplings["novel"])
    for coupling in description["couplings"]["novel"]:
        rebuilt[coupling["lag"] - 1, coupling["to"], coupling["from"]] = coupling["spikes"]
    np.testing.assert_allclose(rebuilt, session.truth.couplings["novel"], atol=1e-4)


def test_nothing_is_overwritten_and_nothing_left_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = simulate_session(**SMALL)
    (tmp_path / "taken").mkdir()
    with pytest.raises(LarscopeError, match="exists already"):
        session.write(tmp_path / "taken")
    with pytest.raises(LarscopeError, match="does not exist"):
        session.write(tmp_path / "nowhere" / "simulated")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("larscope._simulate.files._write_truth", fail)
    with pytest.raises(OSError, match="disk full"):
        session.write(tmp_path / "simulated")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_recorded_session_has_no_truth(tmp_path: Path) -> None:
    with pytest.raises(LarscopeError, match=r"no truth\.npz"):
        read_truth(tmp_path)


# Arguments


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_runs": 1}, "`n_runs` must be at least 2; got 1"),
        ({"n_cells": 3}, "`n_cells` must be at least 4; got 3"),
        ({"order": 1}, "`order` must be at least 2; got 1"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"noise": -1e-4}, "`noise` must be at least 0"),
        ({"noise": float("nan")}, "`noise` must be at least 0"),
        ({"motion": float("inf")}, "`motion`"),
        ({"bleaching": 1.0}, "`bleaching`"),
        ({"overlapping": 1.5}, r"`overlapping` must lie in \[0, 1\]; got 1.5"),
        ({"runs_per_block": 2}, "`runs_per_block` must leave runs for both conditions"),
        ({"n_frames": 0}, "`n_frames` must be one positive number"),
        ({"n_frames": [5, 5, 5]}, "one for each of the 2 runs"),
        ({"n_cells": 100}, "100 cells of 7 pixels must fit"),
        ({"frame_shape": (8, 8)}, "must fit side by side into frames of 8 x 8; only 0 did"),
    ],
)
def test_wrong_arguments_are_explained(wrong: dict, message: str) -> None:
    with pytest.raises(LarscopeError, match=message):
        simulate_session(**SMALL | wrong)


def test_truth_is_frozen(demo: SimulatedSession) -> None:
    assert isinstance(demo.truth, Truth)
    with pytest.raises(AttributeError):
        demo.truth.driving = None
