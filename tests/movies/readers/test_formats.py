"""One contract for all formats: the pixels, type and number of frames that the format's own library reads."""

import gc
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from written_movies import KINDS, cases

from larscope._movies.readers.formats import open_movie

N_FRAMES, HEIGHT, WIDTH = 6, 20, 30


def frames_of(dtype: str, n_frames: int = N_FRAMES) -> np.ndarray:
    """Frames that reach to both ends of their type."""
    frames = np.random.default_rng(0).integers(0, 65_536, (n_frames, HEIGHT, WIDTH))
    return (frames - 32_768 if dtype == "int16" else frames).astype(dtype)


@pytest.mark.parametrize(("name", "dtype"), list(cases()))
def test_the_contract(tmp_path: Path, name: str, dtype: str) -> None:
    kind, frames = KINDS[name], frames_of(dtype)
    if dtype in ("uint16", "int16"):
        assert frames.max() > 32_767 or frames.min() < 0
    path = kind.write(tmp_path, frames)
    expected = kind.read(path)
    assert kind.lossy or np.array_equal(expected, frames)  # the library that wrote them agrees
    frames = expected.astype(dtype)
    movie = open_movie(path, **kind.choice)
    assert movie.shape == frames.shape
    assert movie.dtype == frames.dtype
    whole = movie.read(0, N_FRAMES)
    assert whole.dtype == frames.dtype
    assert np.array_equal(whole, frames)
    for start, stop in [(5, 6), (0, 1), (2, 5), (3, 3), (4, 99), (7, 9)]:
        assert np.array_equal(movie.read(start, stop), frames[start:stop])
    again = pickle.loads(pickle.dumps(movie))
    assert np.array_equal(again.read(1, 4), frames[1:4])
    assert all(file.exists() for file in movie.paths)
    with warnings.catch_warnings():  # a handle left open warns when it is collected
        warnings.simplefilter("error")
        del movie, again
        gc.collect()


@pytest.mark.parametrize("name", [name for name in KINDS if name != "OME, two files"])  # one frame is one file
def test_a_movie_may_be_a_single_frame(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    frames = frames_of(kind.dtypes[0], 1)
    path = kind.write(tmp_path, frames)
    movie = open_movie(path, **kind.choice)
    assert movie.shape == frames.shape
    assert np.array_equal(movie.read(0, 1), kind.read(path))
