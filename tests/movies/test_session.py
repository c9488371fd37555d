"""Runs, sessions and windows."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from blinking import noise, session_of
from hypothesis import given

from larscope._errors import LarscopeError
from larscope._movies.session import (
    ArrayMovie,
    Run,
    Session,
    require_frames,
    windows,
)

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
