"""Anything may come in: out comes a result or a `LarscopeError`, never another exception, a hang or a wrong frame.

`make test` tries a few cases of each kind, `make nightly` thousands (`--hypothesis-profile nightly`).
"""

import json
import math
import string
import warnings
from contextlib import suppress
from pathlib import Path

import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis.extra.numpy import arrays
from hypothesis.strategies import SearchStrategy

from larscope import LatentVAR
from larscope._errors import LarscopeError
from larscope._movies.checks.check import check_session
from larscope._movies.checks.findings import describe_findings
from larscope._movies.preprocessing import prepare
from larscope._movies.readers.formats import open_movie
from larscope._movies.session import ArrayMovie, Run, Session
from larscope._movies.table import BrokenRun, read_runs, read_session
from larscope._results.config import read_config
from larscope._settings import parse_size, setting_names
from larscope._statistics.groups import parse_group


def cases(share: float = 1.0) -> settings:
    """How many cases a test tries: a share of the nightly profile's thousands, or of a few."""
    nightly = settings.default.max_examples >= 1000
    n_cases = round(share * (settings.default.max_examples if nightly else 30))
    unhealthy = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(max_examples=n_cases, deadline=None, suppress_health_check=unhealthy)


# Session tables

ODD_TEXT = st.one_of(
    st.text(max_size=20),
    st.text(string.printable, max_size=20),
    st.sampled_from(
        [
            "",
            " ",
            '"',
            '""',
            "a,b",
            "a\nb",
            "\0",
            "\ufeff",
            "nan",
            "NA",
            "None",
            "-0",
            "1e400",
            "9" * 400,
            "-5",
            "3.7",
            "0x10",
            "1_000",
            "١٢٣",
            "inf",
            "true",
            "=1+1",
            "[bold]",
            "<script>",
            "{{7*7}}",
            "$(rm)",
            "%s%n",
            "é" * 300,
            "\u202e",
            "\ud7ff",
        ]
    ),
)
PATHS = st.one_of(
    st.sampled_from(
        [
            "good.npy",
            "good.npy",
            "./good.npy",
            "sub/../good.npy",
            "../good.npy",
            "/etc/passwd",
            "/dev/null",
            "/dev/zero",
            ".",
            "..",
            "/",
            "~",
            "*.npy",
            "*",
            "**",
            "[",
            "good.npy/",
            "session.csv",
            "a" * 300,
            "good.npy::x",
            "file:///good.npy",
            "http://localhost:1/x.npy",
        ]
    ),
    ODD_TEXT,
)
COLUMNS = {
    "path": PATHS,
    "condition": st.one_of(st.sampled_from(["a", "b"]), ODD_TEXT),
    "run": ODD_TEXT,
    "block": ODD_TEXT,
    "start": st.one_of(st.integers(-3, 30).map(str), ODD_TEXT),
    "stop": st.one_of(st.integers(-3, 30).map(str), ODD_TEXT),
    "dataset": st.one_of(st.just(""), ODD_TEXT),
    "channel": st.one_of(st.just(""), ODD_TEXT),
    "frame_rate": st.one_of(st.floats(-1, 100).map(str), ODD_TEXT),
    "pixel_size": ODD_TEXT,
}


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """A table that may be sound, or odd in any way that spreadsheets and people find."""
    columns = ["path", "condition", *draw(st.lists(st.sampled_from([*COLUMNS, "", "Path", "junk"]), max_size=4))]
    columns = draw(st.permutations(columns)) if draw(st.booleans()) else columns
    quote = draw(st.booleans())
    separator = draw(st.sampled_from([",", ",", ",", ";", "\t"]))
    lines = [separator.join(columns)]
    for _ in range(draw(st.integers(0, 4))):
        cells = [draw(COLUMNS.get(column, ODD_TEXT)) for column in columns]
        cells = cells[: draw(st.integers(0, len(cells)))] if draw(st.integers(0, 9)) == 0 else cells
        cells += draw(st.lists(ODD_TEXT, max_size=2)) if draw(st.integers(0, 9)) == 0 else []
        lines.append(separator.join(f'"{cell.replace(chr(34), chr(34) * 2)}"' if quote else cell for cell in cells))
    text = draw(st.sampled_from(["\n", "\r\n", "\n\n"])).join(lines)
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"]))
    return text.encode(encoding, errors="replace")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("tables") / "inner"
    (place / "sub").mkdir(parents=True)
    np.save(place / "good.npy", np.arange(20 * 8 * 8, dtype=np.uint16).reshape(20, 8, 8))
    return place


@cases()
@given(content=st.one_of(tables(), tables(), st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_session_table_is_read_or_refused(folder, content):
    table = folder / "session.csv"
    table.write_bytes(content)
    with suppress(LarscopeError):
        good = np.load(folder / "good.npy")
        for run in read_session(table):
            assert np.array_equal(run.read(0, run.n_frames), good[run.start : run.stop])
    try:
        runs = read_runs(table)
    except LarscopeError:
        return
    assert all(isinstance(run, Run | BrokenRun) for run in runs)
    json.dumps(describe_findings(check_session(runs)), allow_nan=False)


@cases()
@given(st.text(max_size=60))
def test_any_group_expression_is_read_or_refused(text):
    try:
        name, expression = parse_group(text)
    except LarscopeError:
        return
    assert name
    assert expression


# Movies

DTYPES = [
    "u1",
    "u2",
    "u4",
    "u8",
    "i1",
    "i2",
    "i4",
    "i8",
    "f2",
    "f4",
    "f8",
    ">u2",
    ">i4",
    ">i8",
    ">f4",
    ">f8",
    "?",
    "c8",
]
SHAPES = st.one_of(
    st.tuples(st.integers(1, 12), st.integers(1, 20), st.integers(1, 20)),
    st.tuples(st.integers(20, 40), st.integers(8, 20), st.integers(8, 20)),
    st.sampled_from([(0, 8, 8), (3, 0, 8), (3, 8, 0), (1, 8, 8), (40, 16, 16)]),
)


@st.composite
def stacks(draw: st.DrawFn) -> np.ndarray:
    """Frames of any type, shape and value: noise, constants, extremes, NaN, infinities."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(SHAPES)
    kind = draw(st.sampled_from(["noise", "noise", "few", "constant", "any"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            low, high = draw(st.sampled_from([(0, 100), (limits.min, limits.max), (limits.max - 5, limits.max)]))
            noise = rng.integers(low, high, shape, dtype.newbyteorder("="), endpoint=True)
        else:
            scale = draw(st.sampled_from([1.0, 1e-300, 1e-40, 1e4, 1e16, 1e30, 1e200, 1e308]))
            noise = rng.standard_normal(shape) * scale
        if kind == "any":
            return draw(arrays(dtype, shape, fill=st.nothing() if math.prod(shape) < 50 else None))
        if kind == "constant":
            noise = np.broadcast_to(noise.ravel()[:1] if noise.size else 0, shape)
        frames = np.array(noise).astype(dtype)
        if kind == "few" and frames.size:
            odd = np.array(draw(st.sampled_from([0, 1, np.nan, np.inf, -np.inf, 1e300, 2**53 + 1])))
            frames.ravel()[rng.integers(0, frames.size, 3)] = odd.astype(dtype)
    return frames


def session_of(frames: np.ndarray) -> Session:
    return Session((Run("one", "a", ArrayMovie(frames)), Run("two", "b", ArrayMovie(frames[::-1]))))


@cases()
@given(frames=stacks())
def test_any_movie_is_checked_or_refused(frames):
    try:
        session = session_of(frames)
    except LarscopeError:
        return
    described = describe_findings(check_session(session))
    json.dumps(described, allow_nan=False)
    finite = next(entry for entry in described if entry["check"] in ("finite", "constant_frames"))
    broken = ~np.isfinite(frames.astype(np.float64)).reshape(len(frames), -1).all(axis=1)
    assert (finite["level"] == "fail") == (broken.any() or (len(frames) > 1 and (frames == frames[:1]).all()))
    if broken.any():
        assert (finite["value"], finite["frame"]) == (broken.sum(), broken.argmax())


@cases()
@given(frames=stacks(), downscale=st.integers(1, 3), nan=st.sampled_from(["error", "mask", "interpolate"]))
def test_any_movie_is_prepared_as_it_is_or_refused(frames, downscale, nan):
    try:
        prepared = prepare(session_of(frames), downscale=downscale, nan=nan)
    except LarscopeError:
        return
    made = prepared.frames(0).astype(np.float64)
    missing = prepared.runs[0].missing
    assert not missing.all()
    assert np.isfinite(made[~missing]).all()
    if not np.isfinite(frames.astype(np.float64)).all():
        return  # which frames are left out or bridged is tested elsewhere
    crop = prepared.preprocessing.crop
    top, left = ((size - side) // 2 for size, side in zip(frames.shape[1:], crop, strict=True))
    cut = frames[:, top : top + crop[0], left : left + crop[1]].astype(np.longdouble)
    high = prepared.preprocessing.high
    lone = (cut > high).any(axis=(1, 2))  # pixels that rule nothing: in a few frames at most
    assert lone.sum() <= max(3, 0.01 * len(cut))
    expected = (np.minimum(cut, high) - cut.min()) / (high - cut.min())
    np.testing.assert_allclose(made, expected[:, ::downscale, ::downscale].astype(np.float64), atol=1e-6)


@cases()
@given(frames=stacks(), form=st.sampled_from(["npy", "fortran", "tif", "h5", "h5 chunks"]), data=st.data())
def test_any_movie_on_disk_is_the_same_or_refused(tmp_path_factory, frames, form, data):
    path = tmp_path_factory.mktemp("movie") / f"movie.{form[:3].strip()}"
    if not frames.size and form == "tif":
        return  # no TIFF
    try:
        if form == "npy":
            np.save(path, frames)
        elif form == "fortran":
            path = path.with_suffix(".npy")
            np.save(path, np.asfortranarray(frames))
        elif form == "tif":
            tifffile.imwrite(path, frames, photometric="minisblack", metadata=None)
        else:
            with h5py.File(path, "w") as file:
                file.create_dataset("movie", data=frames, chunks=True if form == "h5 chunks" else None)
    except (ValueError, TypeError, KeyError, OSError):
        return  # the format has no such type or shape
    try:
        movie = open_movie(path)
        run = Run("one", "a", movie)
    except LarscopeError:
        return
    assert movie.shape == frames.shape
    start = data.draw(st.integers(0, len(frames)))
    stop = data.draw(st.integers(start, len(frames)))
    read = run.read(start, stop)
    assert np.array_equal(read, frames[start:stop], equal_nan=frames.dtype.kind == "f")
    assert read.dtype.newbyteorder("=") == frames.dtype.newbyteorder("=")


# Configurations

VALUES: SearchStrategy = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-3, 200),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["auto", "end-to-end", "sequential", "linear", "target", "latent", "mask", "mean"]),
        st.dates(),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
CONFIGS = st.dictionaries(
    st.one_of(st.sampled_from(setting_names()), st.sampled_from(["schema_version", "lam", "Order"])), VALUES, max_size=5
)


@cases()
@given(values=CONFIGS)
def test_any_settings_are_taken_or_refused(values):
    try:
        model = LatentVAR(**values)
    except LarscopeError:
        return
    for name, value in values.items():
        kept = getattr(model, name)
        assert kept == value or (isinstance(kept, tuple) and list(kept) == list(value)) or kept == pytest.approx(value)


def toml(value: object) -> str:
    """Write a value as TOML, or as what people take for it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(part)}" for key, part in value.items()) + "}"
    return str(value)


@cases()
@given(
    content=st.one_of(
        CONFIGS.map(lambda values: "\n".join(f"{name} = {toml(value)}" for name, value in values.items())),
        st.text(max_size=100),
    ).map(lambda text: text.encode("utf-8", "replace"))
    | st.binary(max_size=60)
)
def test_any_config_file_is_read_or_refused(folder, content):
    path = folder / "config.toml"
    path.write_bytes(content)
    try:
        values = read_config(path)
    except LarscopeError:
        return
    assert set(values) <= set(setting_names())
    LatentVAR(**values)


@cases()
@given(st.text(max_size=12) | st.from_regex(r"[0-9]{1,400}(\.[0-9]+)? ?[kKMGTPE]?i?B?", fullmatch=True))
def test_any_size_of_memory_is_read_or_refused(text):
    with suppress(LarscopeError):
        assert parse_size(text) >= 1


# Fits

FITS = st.fixed_dictionaries(
    {"epochs": st.just(1)},
    optional={
        "order": st.integers(1, 6),
        "penalty": st.floats(1e-12, 1e12) | st.floats(1e-4, 0.1) | st.just("auto"),
        "training": st.sampled_from(["sequential", "embedded", "end-to-end"]),
        "batch_size": st.integers(1, 5),
        "learning_rate": st.floats(1e-300, 1e300) | st.just(1e-3),
        "window": st.integers(2, 30),
        "crop": st.tuples(st.integers(1, 24), st.integers(1, 24)) | st.just((8, 16)),
        "downscale": st.integers(1, 3),
        "nan": st.sampled_from(["error", "mask", "interpolate"]),
        "skip": st.booleans(),
        "output": st.sampled_from(["leaky", "linear"]),
        "pooling": st.sampled_from(["target", "previous"]),
        "batch_norm": st.sampled_from(["running", "window"]),
        "center": st.booleans(),
        "scale": st.sampled_from(["series", "latent"]),
        "penalty_scale": st.sampled_from(["mean", "target"]),
        "max_distance": st.floats(0, 5),
        "seed": st.integers(0, 2**32 - 1),
    },
)


@cases(0.1)
@given(
    values=FITS,
    n_frames=st.sampled_from([3, 12, 30, 40]),
    dtype=st.sampled_from(["u1", "u2", "i4", ">i2", "f4", "f8"]),
    dead=st.booleans(),
)
def test_any_small_fit_ends_in_numbers_or_is_refused(values, n_frames, dtype, dead):
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 100, (n_frames, 16, 24)).astype(dtype)
    stack[:, 0] = 0
    runs = tuple(
        Run(f"run {i}", "ab"[i % 2], ArrayMovie(stack[::-1] if i % 2 else stack * (0 if dead and not i else 1)))
        for i in range(4)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # too short a training, and the like
        try:
            model = LatentVAR(**{"window": 8, "order": 2, **values}).fit(Session(runs))
        except LarscopeError:
            return
    assert len(model.scores_) == 4
    assert np.isfinite(model.scores_[["reconstruction_error", "forecast_error"]].to_numpy()).all()
    assert all(np.isfinite(model.coef_[i]).all() for i in range(4))
