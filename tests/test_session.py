"""Runs, sessions and preprocessing, against torch, closed forms and each other."""

from collections.abc import Sequence
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from larscope.errors import LarscopeError
from larscope.session import (
    READ_FRAMES,
    ArrayMovie,
    Preprocessing,
    Run,
    Session,
    prepare,
    require_frames,
    windows,
)


def noise(n_frames: int, height: int = 16, width: int = 16, dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal((n_frames, height, width)).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, (n_frames, height, width), dtype=dtype, endpoint=True)


def session_of(*stacks: np.ndarray) -> Session:
    conditions = ("familiar", "novel")
    return Session(tuple(Run(f"run{i}", conditions[i % 2], ArrayMovie(stack)) for i, stack in enumerate(stacks)))


# Runs


def test_a_run_reads_its_own_range_of_the_movie() -> None:
    movie = noise(30)
    run = Run("late", "novel", ArrayMovie(movie), start=10, stop=25)
    assert run.n_frames == 15
    assert np.array_equal(run.read(2, 6), movie[12:16])


def test_a_run_without_stop_ends_with_the_movie() -> None:
    assert Run("all", "novel", ArrayMovie(noise(30)), start=10).n_frames == 20


@pytest.mark.parametrize(("start", "stop"), [(0, 31), (5, 5), (7, 3), (-1, 10), (30, None)])
def test_ranges_outside_the_movie_are_refused(start: int, stop: int | None) -> None:
    with pytest.raises(LarscopeError, match=r"run 'F03' \(F03\.tif\): .* 30, the number of frames .* got start="):
        Run("F03", "novel", ArrayMovie(noise(30)), start, stop, path=Path("F03.tif"))


@pytest.mark.parametrize("dtype", ["complex64", "bool", "U3"])
def test_pixels_must_be_numbers(dtype: str) -> None:
    with pytest.raises(LarscopeError, match="run 'odd': pixels must be"):
        Run("odd", "novel", ArrayMovie(np.zeros((3, 8, 8), dtype)))


def test_a_movie_that_yields_too_few_frames_is_an_error_not_zeros() -> None:
    class Cut:
        shape, dtype = (20, 8, 8), np.dtype("uint16")

        def read(self, start: int, stop: int) -> np.ndarray:
            return np.ones((min(stop, 12) - start, 8, 8), np.uint16)

    run = Run("cut", "novel", Cut(), path=Path("cut.raw"))
    assert run.read(0, 12).all()
    with pytest.raises(LarscopeError, match=r"run 'cut' \(cut\.raw\): expected 20 frames from frame 0 on; got 12"):
        run.read(0, 20)


# Sessions


def test_conditions_keep_their_order_of_appearance() -> None:
    runs = tuple(Run(str(i), name, ArrayMovie(noise(3))) for i, name in enumerate(["novel", "familiar", "novel"]))
    session = Session(runs)
    assert session.conditions == ("novel", "familiar")
    assert (len(session), list(session), session.frame_shape) == (3, list(runs), (16, 16))


def test_a_session_needs_runs() -> None:
    with pytest.raises(LarscopeError, match="at least one run; got none"):
        Session(())


def test_run_names_must_be_unique() -> None:
    run = Run("F01", "familiar", ArrayMovie(noise(3)))
    with pytest.raises(LarscopeError, match="unique; got 'F01' 2 times"):
        Session((run, run))


def test_frames_must_have_one_size() -> None:
    with pytest.raises(LarscopeError, match="run 'run0' has 16 x 16 pixels, run 'run1' has 16 x 24"):
        session_of(noise(3), noise(3, 16, 24))


def test_runs_that_are_too_short_are_named() -> None:
    session = session_of(noise(30), noise(10))
    require_frames(session, 10, "one window")
    with pytest.raises(LarscopeError, match=r"at least 11 frames \(one window\); run 'run1' has 10"):
        require_frames(session, 11, "one window")


@given(n_frames=st.integers(0, 500), length=st.integers(1, 100))
def test_windows_tile_the_run_but_for_a_short_tail(n_frames: int, length: int) -> None:
    ranges = windows(n_frames, length)
    assert all(stop - start == length for start, stop in ranges)
    covered = [t for start, stop in ranges for t in range(start, stop)]
    assert covered == list(range(len(covered)))
    assert 0 <= n_frames - len(covered) < length


# Preprocessing


@settings(deadline=None, max_examples=40)
@given(
    frames=arrays(np.uint16, st.tuples(st.integers(1, 3), st.integers(8, 40), st.integers(8, 40))),
    downscale=st.integers(1, 4),
    data=st.data(),
)
def test_shrinking_equals_torchs_nearest_neighbour(frames: np.ndarray, downscale: int, data: st.DataObject) -> None:
    sizes = [data.draw(st.integers(1, size // downscale)) for size in frames.shape[1:]]
    crop = (sizes[0] * downscale, sizes[1] * downscale)
    preprocessing = Preprocessing(crop, downscale)
    cropped = preprocessing.cut(frames)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(cropped.astype(np.float64))[:, None], scale_factor=1 / downscale, mode="nearest"
    )[:, 0]
    shrunk = preprocessing.shrink(cropped)
    assert shrunk.shape[1:] == preprocessing.frame_shape
    assert np.array_equal(shrunk, expected.numpy())


@given(size=st.tuples(st.integers(8, 50), st.integers(8, 50)), data=st.data())
def test_crops_are_centred(size: tuple[int, int], data: st.DataObject) -> None:
    crop = (data.draw(st.integers(1, size[0])), data.draw(st.integers(1, size[1])))
    rows, columns = np.indices(size)
    cut = Preprocessing(crop).cut(np.stack([rows, columns]))
    assert cut.shape[1:] == crop
    for coordinate, full in zip(cut, size, strict=True):
        before, after = coordinate.min(), full - 1 - coordinate.max()
        assert after - before in (0, 1)


def test_the_default_crop_is_the_largest_that_three_poolings_allow() -> None:
    prepared = prepare(session_of(noise(3, 53, 70)), downscale=2)
    assert prepared.preprocessing.crop == (48, 64)
    assert prepared.frames(0).shape == (3, 24, 32)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_intensities_span_zero_to_one_over_the_session(dtype: str) -> None:
    stacks = [noise(5, dtype=dtype, seed=seed) for seed in range(2)]
    prepared = prepare(session_of(*stacks))
    frames = np.concatenate([prepared.frames(run) for run in range(2)])
    assert frames.dtype == np.float32
    assert (frames.min(), frames.max()) == (0, 1)
    together = np.concatenate(stacks).astype(np.float64)
    expected = (together - together.min()) / (together.max() - together.min())
    np.testing.assert_allclose(frames, expected, atol=1e-6)


def test_the_scale_is_that_of_the_crop_before_downscaling() -> None:
    movie = np.full((2, 32, 32), 100, np.uint16)
    movie[:, 0, 0] = 60_000  # outside the crop
    movie[:, 9, 9] = 1_000  # inside, but dropped by downscaling
    movie[:, 8, 8] = 0
    prepared = prepare(session_of(movie), crop=(16, 16), downscale=2)
    assert (prepared.preprocessing.low, prepared.preprocessing.high) == (0, 1_000)
    assert prepared.frames(0).max() == pytest.approx(0.1)


def test_a_new_session_is_treated_as_the_one_trained_on() -> None:
    trained = prepare(session_of(noise(4) // 2))
    new = prepare(session_of(noise(4)), preprocessing=trained.preprocessing)
    assert new.preprocessing == trained.preprocessing
    assert new.frames(0).max() > 1  # nothing is clipped
    with pytest.raises(LarscopeError, match="crop must fit into the frames: got 16 x 16 for frames of 8 x 8"):
        prepare(session_of(noise(4, 8, 8)), preprocessing=trained.preprocessing)


def test_a_fixed_preprocessing_accepts_a_constant_session() -> None:
    fixed = Preprocessing((16, 16), 1, 0, 200)
    prepared = prepare(session_of(np.full((3, 16, 16), 100, np.uint16)), preprocessing=fixed)
    assert (prepared.frames(0) == 0.5).all()


def test_frames_can_be_read_in_ranges() -> None:
    prepared = prepare(session_of(noise(20), noise(20, seed=1)))
    assert np.array_equal(prepared.frames(1, 5, 9), prepared.frames(1)[5:9])


def test_long_movies_are_read_in_parts_and_come_out_whole() -> None:
    movie = noise(2 * READ_FRAMES + 7, 8, 8)
    asked: list[tuple[int, int]] = []

    class Watched(ArrayMovie):
        def read(self, start: int, stop: int) -> np.ndarray:
            asked.append((start, stop))
            return super().read(start, stop)

    done: list[str] = []
    session = Session((Run("long", "novel", Watched(movie)),))
    prepared = prepare(session, on_run=lambda run: done.append(run.name))
    assert np.array_equal(prepared.stacks[0], movie)
    assert max(stop - start for start, stop in asked) == READ_FRAMES
    assert done == ["long"]


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_the_mean_frame_weighs_runs_equally(lengths: Sequence[int]) -> None:
    stacks = [noise(length, 8, 8, seed=length) for length in lengths]
    prepared = prepare(session_of(*stacks))
    expected = np.mean([prepared.frames(i).mean(axis=0, dtype=np.float64) for i in range(len(stacks))], axis=0)
    np.testing.assert_allclose(prepared.mean_frame(), expected, atol=1e-6)


def test_the_mean_frame_of_a_long_dim_and_a_short_bright_run_lies_halfway() -> None:
    dim, bright = np.zeros((90, 8, 8), np.uint16), np.full((10, 8, 8), 60_000, np.uint16)
    np.testing.assert_allclose(prepare(session_of(dim, bright)).mean_frame(), 0.5)


# What is refused


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("frame", [0, 7, READ_FRAMES + 3])
def test_the_first_frame_that_is_not_finite_is_named(value: float, frame: int) -> None:
    movie = np.random.default_rng(0).random((READ_FRAMES + 20, 8, 8), np.float32)
    movie[frame + 2 :: 3, 4, 4] = value
    movie[frame + 2, 1, 1] = value
    session = Session((Run("F01", "familiar", ArrayMovie(movie), start=2, path=Path("F01.tif")),))
    with pytest.raises(LarscopeError) as caught:
        prepare(session)
    message = str(caught.value)
    assert "run 'F01' (F01.tif)" in message
    assert f"first in frame {frame} of the run (frame {frame + 2} of the movie)" in message


def test_pixels_outside_the_crop_may_be_missing() -> None:
    movie = noise(4, 32, 32, "float32")
    movie[:, 0, :] = np.nan
    assert np.isfinite(prepare(session_of(movie), crop=(16, 16)).frames(0)).all()


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_session_is_refused(value: int) -> None:
    with pytest.raises(LarscopeError, match=f"every pixel of the session is {value} after the crop"):
        prepare(session_of(np.full((4, 16, 16), value, np.uint16)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop": (24, 16)}, "got 24 x 16 for frames of 16 x 16 pixels"),
        ({"crop": (12, 16)}, r"multiples of 8 .* got 12 x 16. Pass crop=\(8, 16\)"),
        ({"crop": (8, 8), "downscale": 2}, r"multiples of 16 \(three poolings, downscale 2\)"),
        ({"crop": (0, 8)}, r"positive; got crop=\(0, 8\)"),
        ({"crop": (-8, 8)}, "positive"),
        ({"downscale": 0}, "positive; got crop=None, downscale=0"),
        ({"downscale": 4}, "at least 32 x 32 pixels .* got 16 x 16"),
    ],
)
def test_crops_that_do_not_fit_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(LarscopeError, match=message):
        prepare(session_of(noise(3)), **arguments)
