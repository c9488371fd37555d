"""What a fit takes is said before, and kept to: ten gigabytes of movie under a limit of two (slow)."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import xarray as xr

from larscope._errors import LarscopeError
from larscope._fit.preflight import Estimate, duration, estimate_fit, require_disk, size, time_training
from larscope._movies.session import ArrayMovie, Run, Session
from larscope._settings import Settings, parse_size

SHAPE = (20_000, 512, 512)
LIMIT = "2GiB"
OPTIONS = {"latents": "grid", "downscale": 4, "epochs": 1, "order": 2, "seed": 1}

GENERATE = """
import numpy as np

class Generated:
    '''Ten gigabytes of simulated blinking that are nowhere: each frame is made when it is read.'''
    shape, dtype = {shape}, np.dtype(np.uint16)

    def read(self, start, stop):
        frames = np.full((stop - start, *self.shape[1:]), 300, np.uint16)
        for t, frame in enumerate(frames, start):
            rng = np.random.default_rng(t)
            frame += rng.integers(0, 40, frame.shape, dtype=np.uint16)
            for cell in range(40):
                row, column = 12 * (cell % 8) * 5 + 8, (cell // 8) * 100 + 10
                frame[row : row + 16, column : column + 16] += np.uint16(600 * max(0.0, np.sin(t / (5 + cell))))
        return frames
"""


def peak_of(code: str) -> int:
    """Run Python code in a process of its own; return its peak resident memory in bytes."""
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.slow
def test_a_generated_movie_of_ten_gigabytes_stays_below_two(tmp_path: Path) -> None:
    code = (
        GENERATE.format(shape=SHAPE)
        + f"""
from larscope import LatentVAR
from larscope._movies.session import Run, Session
movie = Generated()
runs = [Run(f"run-{{i}}", "ab"[i % 2], movie, 5000 * i, 5000 * (i + 1)) for i in range(4)]
model = LatentVAR(**{OPTIONS | {"downscale": 8}})
model.fit(Session(runs), cache={str(tmp_path / "cache")!r}, max_memory={parse_size(LIMIT)})
model.compare("a", "b", n_permutations=99)
model.save({str(tmp_path / "result")!r})
from larscope import write_report
write_report({str(tmp_path / "result")!r})
"""
    )
    assert peak_of(code) < parse_size(LIMIT)


@pytest.mark.slow
def test_a_bigtiff_of_ten_gigabytes_stays_below_two(tmp_path: Path) -> None:
    scope: dict = {}
    exec(GENERATE.format(shape=SHAPE), scope)
    movie = scope["Generated"]()
    with tifffile.TiffWriter(tmp_path / "movie.tif", bigtiff=True) as tiff:
        for start in range(0, SHAPE[0], 100):
            tiff.write(movie.read(start, start + 100), contiguous=True, metadata=None)
    assert (tmp_path / "movie.tif").stat().st_size > 10e9
    rows = "".join(f"movie.tif,{'ab'[i % 2]},{5000 * i},{5000 * (i + 1)}\n" for i in range(4))
    (tmp_path / "session.csv").write_text("path,condition,start,stop\n" + rows)
    options = [part for name, value in OPTIONS.items() for part in (f"--{name}", str(value))]
    out = tmp_path / "result"
    arguments = ["fit", str(tmp_path / "session.csv"), "--out", str(out), "--max-memory", LIMIT, *options]
    assert peak_of(f"from larscope._cli.commands import app\napp({arguments!r})") < parse_size(LIMIT)
    with xr.open_dataset(out / "results.nc") as result:
        assert result.sizes["frame"] == SHAPE[0]


# What is said before a fit starts


def session_of(n_frames: int, height: int, width: int, n_runs: int = 2) -> Session:
    movie = ArrayMovie(np.broadcast_to(np.uint16(0), (n_frames, height, width)))
    return Session(tuple(Run(f"run-{i}", "ab"[i % 2], movie) for i in range(n_runs)))


def test_the_estimate_grows_with_what_it_depends_on() -> None:
    base = estimate_fit(Settings(latents="grid"), session_of(500, 192, 128), cached=True)
    assert base.n_latents == 384
    assert base.disk == 2 * 500 * 192 * 128 * 2
    assert base.lean_memory < base.memory
    larger = [
        estimate_fit(Settings(latents="grid", window=128), session_of(500, 192, 128), cached=True),
        estimate_fit(Settings(latents="grid"), session_of(500, 384, 128), cached=True),
        estimate_fit(Settings(latents="grid"), session_of(50_000, 192, 128), cached=True),
        estimate_fit(Settings(latents="grid"), session_of(500, 192, 128), cached=False),
    ]
    assert all(one.lean_memory > base.lean_memory for one in larger)
    # of a step's windows, one at a time is in memory
    assert (
        estimate_fit(Settings(latents="grid", batch_size=2, epochs=2), session_of(500, 192, 128), cached=True).memory
        == base.memory
    )
    small = estimate_fit(Settings(latents="grid", downscale=2), session_of(500, 192, 128), cached=True)
    assert small.lean_memory < base.lean_memory


def test_the_estimate_counts_all_runs_lagged_frames_which_couplings_are_fitted_to() -> None:
    two, six = (
        estimate_fit(Settings(latents="grid"), session_of(500, 192, 128, n_runs), cached=True) for n_runs in (2, 6)
    )
    lagged = 8 * 6 * 384 * 500 * 4  # in float64, order + 1 times K, each frame of the four runs more
    assert six.memory - two.memory > lagged


def fit_generated(height: int, width: int, window: int, folder: Path) -> tuple[int, int]:
    """Fit in a process of its own; return its peak and what was estimated before it."""
    code = (
        GENERATE.format(shape=(3 * window, 512, 512))
        + f"""
from larscope import LatentVAR
from larscope._movies.session import Run, Session
from larscope._fit.preflight import estimate_fit
movie = Generated()
session = Session([Run(str(i), "ab"[i % 2], movie) for i in range(2)])
model = LatentVAR(latents="grid", crop=({height}, {width}), window={window}, epochs=2, order=2)
open({str(folder / "estimate")!r}, "w").write(str(estimate_fit(model.settings, session, cached=True).memory))
model.fit(session, cache={str(folder / "cache")!r})
"""
    )
    return peak_of(code), int((folder / "estimate").read_text())


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The first fit on a machine compiles the lasso: its peak is the compiler's, which differs from time to time."""
    fit_generated(32, 32, 16, tmp_path_factory.mktemp("compiled"))


@pytest.mark.parametrize(
    ("height", "width", "window"), [(96, 64, 64), pytest.param(160, 128, 64, marks=pytest.mark.slow)]
)
def test_the_estimate_is_above_the_truth_but_not_by_much(
    height: int, width: int, window: int, compiled: None, tmp_path: Path
) -> None:
    peak, estimate = fit_generated(height, width, window, tmp_path)
    assert peak <= estimate <= 2 * peak


def test_a_fit_that_needs_more_than_allowed_is_refused_before_it_starts() -> None:
    estimate = Estimate(memory=3 << 30, lean_memory=2 << 30, disk=0, n_latents=1, n_steps=1)
    assert estimate.may_keep_memory(None)
    assert estimate.may_keep_memory(3 << 30)
    assert not estimate.may_keep_memory(2 << 30)
    with pytest.raises(LarscopeError, match=r"stay below 1.0 GiB .* about 2.0 GiB. Raise the limit, or .*--downscale"):
        estimate.may_keep_memory(1 << 30)


def test_a_disk_without_room_is_said_before_it_is_full(tmp_path: Path) -> None:
    require_disk(Estimate(0, 0, 1, 1, 1), tmp_path / "not" / "there" / "yet")
    with pytest.raises(LarscopeError, match=r"frames need 1\.0 EiB in .* are free"):
        require_disk(Estimate(0, 0, 1 << 60, 1, 1), tmp_path)


def test_the_time_of_training_is_that_of_its_steps() -> None:
    seconds = time_training(Settings(latents="grid", window=16, order=2), session_of(40, 16, 16), n_windows=1000)
    assert 0 < seconds < 1000


@pytest.mark.parametrize(("text", "n_bytes"), [("2GiB", 2 << 30), ("500 MB", 500_000_000), ("1024", 1024)])
def test_sizes_are_read_as_people_write_them(text: str, n_bytes: int) -> None:
    assert parse_size(text) == n_bytes
    assert parse_size(size(n_bytes)) == pytest.approx(n_bytes, rel=0.05)


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "2 apples", "nan", "1e400GB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(LarscopeError, match="size of memory such as 2GiB"):
        parse_size(text)


def test_durations_are_said_roughly() -> None:
    assert [duration(seconds) for seconds in (3.2, 250, 20_000)] == ["3 s", "4 min", "5.6 h"]
