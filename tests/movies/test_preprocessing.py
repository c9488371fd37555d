"""Preprocessing, against torch, closed forms and itself: in memory, on disk, in parts, around missing frames."""

import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from blinking import noise, session_of
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from larscope._errors import LarscopeError
from larscope._movies import preprocessing
from larscope._movies.preprocessing import MAX_GAP, PreparedSession, Preprocessing, prepare, prepared_bytes
from larscope._movies.session import ArrayMovie, Run, Session
from larscope._movies.table import read_session
from larscope._storage import UNFINISHED


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Movies of 8 x 8 uint16 pixels are read 50 frames at a time; those of float32, 25."""
    monkeypatch.setattr(preprocessing, "CHUNK_BYTES", 50 * 8 * 8 * 2)


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


def test_long_movies_are_read_in_parts_and_come_out_whole(in_parts: None) -> None:
    movie = noise(107, 8, 8)
    asked: list[tuple[int, int]] = []

    class Watched(ArrayMovie):
        def read(self, start: int, stop: int) -> np.ndarray:
            asked.append((start, stop))
            return super().read(start, stop)

    done: list[int] = []
    session = Session((Run("long", "novel", Watched(movie)),))
    prepared = prepare(session, on_frames=done.append)
    assert np.array_equal(prepared.runs[0].movie.read(0, 107), movie)
    assert max(stop - start for start, stop in asked) == 50
    assert done == [50, 50, 7]


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
@pytest.mark.parametrize("frame", [0, 7, 53])
def test_the_first_frame_that_is_not_finite_is_named(value: float, frame: int, in_parts: None) -> None:
    movie = np.random.default_rng(0).random((70, 8, 8), np.float32)
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


# Frames with NaN


def with_gaps(*frames: int, n_frames: int = 80, seed: int = 0) -> np.ndarray:
    movie = np.cumsum(noise(n_frames, 8, 8, "float32", seed), axis=0)
    for frame in frames:
        movie[frame, 2, 3] = np.nan
    return movie


def test_masked_frames_are_left_out_of_everything(in_parts: None) -> None:
    movie = with_gaps(0, 24, 25, 60)
    movie[24] = 1e9
    movie[24, 0, 0] = np.inf
    prepared = prepare(session_of(movie), nan="mask")
    assert np.flatnonzero(prepared.runs[0].missing).tolist() == [0, 24, 25, 60]
    assert prepared.runs[0].stretches == [(1, 24), (26, 60), (61, 80)]
    assert prepared.runs[0].batches(20) == [(1, 21), (21, 24), (26, 46), (46, 60), (61, 80)]
    kept = np.delete(movie, [0, 24, 25, 60], axis=0)
    low, high = prepared.preprocessing.low, prepared.preprocessing.high
    assert (low, high) == (kept.min(), kept.max())
    expected = (kept.mean(axis=0, dtype=np.float64) - low) / (high - low)
    np.testing.assert_allclose(prepared.mean_frame(), expected, rtol=1e-5)


@pytest.mark.parametrize("gap", [(30,), (24, 25), (23, 24, 25, 26), tuple(range(40, 40 + MAX_GAP))])
def test_interpolation_is_a_line_through_the_whole_frames_around(gap: tuple[int, ...], in_parts: None) -> None:
    whole = with_gaps()
    prepared = prepare(session_of(with_gaps(*gap)), nan="interpolate")
    low, high = prepared.preprocessing.low, prepared.preprocessing.high
    around = [gap[0] - 1, gap[-1] + 1]
    filled = prepared.frames(0)[list(gap), 2, 3] * (high - low) + low
    np.testing.assert_allclose(filled, np.interp(gap, around, whole[around, 2, 3]), rtol=1e-4)
    untouched = whole.copy()
    untouched[list(gap), 2, 3] = np.interp(gap, around, whole[around, 2, 3])
    np.testing.assert_array_equal(prepared.runs[0].movie.read(0, 80), untouched)
    assert not prepared.runs[0].missing.any()


@pytest.mark.parametrize("gap", [(0,), (79,), tuple(range(20, 21 + MAX_GAP))])
def test_what_has_no_whole_frames_near_it_is_not_interpolated(gap: tuple[int, ...], in_parts: None) -> None:
    with pytest.raises(LarscopeError, match=rf"at most 10 frames .* near enough to frames {gap[0]} to .*--nan mask"):
        prepare(session_of(with_gaps(*gap)), nan="interpolate")


def test_a_run_of_nothing_but_missing_frames_is_refused() -> None:
    with pytest.raises(LarscopeError, match="must have frames without NaN: run 'run1' has none"):
        prepare(session_of(with_gaps(), np.full((80, 8, 8), np.nan, np.float32)), nan="mask")


# The cache


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A session table of two .npy movies."""
    np.save(tmp_path / "first.npy", noise(120, 20, 18))
    np.save(tmp_path / "second.npy", noise(60, 20, 18, seed=1))
    path = tmp_path / "session.csv"
    path.write_text("path,condition,start\nfirst.npy,familiar,10\nsecond.npy,novel,\n")
    return path


def same(first: PreparedSession, second: PreparedSession) -> bool:
    return first.preprocessing == second.preprocessing and all(
        np.array_equal(first.frames(run), second.frames(run)) for run in range(len(first.runs))
    )


@pytest.fixture
def n_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each range of frames that is read from a movie."""
    asked: list[int] = []
    read = Run.read

    def counted(run: Run, start: int, stop: int) -> np.ndarray:
        asked.append(stop - start)
        return read(run, start, stop)

    monkeypatch.setattr(Run, "read", counted)
    return asked


def test_cached_frames_are_those_in_memory_and_read_once(table: Path, tmp_path: Path, n_read: list[int]) -> None:
    in_memory = prepare(read_session(table))
    before = len(n_read)
    first = prepare(read_session(table), cache=tmp_path / "cache")
    assert len(n_read) > before
    read = len(n_read)
    progress: list[int] = []
    again = prepare(read_session(table), cache=tmp_path / "cache", on_frames=progress.append)
    assert len(n_read) == read
    assert sum(progress) == 170
    assert same(in_memory, first)
    assert same(in_memory, again)
    assert np.array_equal(in_memory.mean_frame(), again.mean_frame())
    n_bytes = sum(run.movie.read(0, run.n_frames).nbytes for run in again.runs)
    assert prepared_bytes(read_session(table), None, 1) == n_bytes


def test_a_changed_file_is_read_again_and_changed_back_found_again(
    table: Path, tmp_path: Path, n_read: list[int]
) -> None:
    cache, movie = tmp_path / "cache", tmp_path / "second.npy"
    original = movie.read_bytes()
    first = prepare(read_session(table), cache=cache)
    np.save(movie, noise(60, 20, 18, seed=2))  # of the same size
    os.utime(movie, ns=(0, 0))
    changed = prepare(read_session(table), cache=cache)
    assert not same(first, changed)
    assert same(changed, prepare(read_session(table)))
    movie.write_bytes(original)
    read = len(n_read)
    assert same(first, prepare(read_session(table), cache=cache))
    assert len(n_read) == read


@pytest.mark.parametrize("how", [{"crop": (8, 8)}, {"downscale": 2}, {"nan": "mask"}])
def test_other_settings_and_other_code_never_reuse_frames(
    how: dict, table: Path, tmp_path: Path, n_read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    prepare(read_session(table), cache=cache)
    for change in (lambda: None, lambda: monkeypatch.setattr(preprocessing, "_code", lambda: "another version")):
        change()
        read = len(n_read)
        prepare(read_session(table), cache=cache, **how)
        assert len(n_read) > read


def test_another_version_of_the_package_that_a_reader_comes_from_never_reuses_frames(
    table: Path, tmp_path: Path, n_read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {"larscope": "1.0"}
    monkeypatch.setattr("larscope._storage._distributions", lambda: {"larscope": ["larscope"]})
    monkeypatch.setattr("larscope._storage.version", installed.get)
    for version, again in (("1.0", True), ("1.0", False), ("1.1", True)):
        installed["larscope"] = version
        read = len(n_read)
        prepare(read_session(table), cache=tmp_path / "cache")
        assert (len(n_read) > read) == again


def test_the_rows_of_a_table_name_other_frames_by_start_and_stop(table: Path, tmp_path: Path) -> None:
    first = prepare(read_session(table), cache=tmp_path / "cache")
    table.write_text("path,condition,start\nfirst.npy,familiar,11\nsecond.npy,novel,\n")
    second = prepare(read_session(table), cache=tmp_path / "cache")
    assert np.array_equal(second.runs[0].movie.read(0, 109), first.runs[0].movie.read(1, 110))


def flip(path: Path) -> None:
    """Damage what is still well-formed: a pixel, or a digit."""
    content = bytearray(path.read_bytes())
    content[content.find(b"0.0", 1) if path.suffix == ".json" else len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["frames.npy", "facts.json"])
@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(path.read_bytes()[:-7]), lambda path: path.unlink(), flip]
)
def test_damaged_entries_are_made_again_and_said(name: str, damage, table: Path, tmp_path: Path) -> None:
    first = prepare(read_session(table), cache=tmp_path / "cache")
    for entry in (tmp_path / "cache").iterdir():
        damage(entry / name)
    with pytest.warns(UserWarning, match=r"Prepared frames in .*cache.* are damaged: they are prepared again"):
        again = prepare(read_session(table), cache=tmp_path / "cache")
    assert same(first, again)
    assert same(first, prepare(read_session(table), cache=tmp_path / "cache"))


def test_movies_without_a_file_are_cached_by_their_frames(tmp_path: Path, in_parts: None) -> None:
    stacks = noise(120, 8, 8), noise(120, 8, 8, seed=1)
    for _ in range(2):
        prepared = prepare(session_of(*stacks), cache=tmp_path / "cache")
        assert same(prepared, prepare(session_of(*stacks)))
        assert len(list((tmp_path / "cache").iterdir())) == 2


def test_an_interrupted_preprocessing_leaves_whole_entries_only(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    read = Run.read

    def interrupted(run: Run, start: int, stop: int) -> np.ndarray:
        if run.name == "2":
            raise KeyboardInterrupt
        return read(run, start, stop)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(read_session(table), cache=cache)
    assert [sorted(path.name for path in entry.iterdir()) for entry in cache.iterdir()] == [
        ["facts.json", "frames.npy"]
    ]
    assert same(prepare(read_session(table), cache=cache), prepare(read_session(table)))


def test_what_a_killed_process_began_is_removed_and_what_a_living_one_writes_is_not(
    table: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    ours = f"{UNFINISHED}-{socket.gethostname()}"
    names = (f"{ours}-999999999-a", f"{ours}-{os.getppid()}-a", f"{UNFINISHED}-elsewhere-9-a")
    dead, alive, elsewhere = (cache / name for name in names)
    for folder in (dead, alive, elsewhere):
        folder.mkdir(parents=True)
    checks = cache / f"{ours}-999999999-b.json"
    checks.write_text("[")
    prepare(read_session(table), cache=cache)
    assert (dead.exists(), checks.exists(), alive.exists(), elsewhere.exists()) == (False, False, True, True)


def test_a_movie_that_changes_while_it_is_read_is_refused(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Run.read

    def touched(run: Run, start: int, stop: int) -> np.ndarray:
        os.utime(tmp_path / "first.npy", ns=(1, 1))
        return read(run, start, stop)

    monkeypatch.setattr(Run, "read", touched)
    with pytest.raises(LarscopeError, match=r"stay as it is while it is read: run '1' .*first.npy\) has changed"):
        prepare(read_session(table), cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_cache_that_cannot_be_written_is_said_and_a_vanished_movie_too(table: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LarscopeError, match=r"Prepared frames must be written to .*pass another `cache`"):
        prepare(read_session(table), cache=tmp_path / "file")
    session = read_session(table)
    (tmp_path / "first.npy").unlink()
    with pytest.raises(LarscopeError, match=r"Expected the movie .*first.npy; it cannot be read"):
        prepare(session, cache=tmp_path / "cache")


def test_an_entry_that_vanishes_while_it_is_used_is_said(table: Path, tmp_path: Path) -> None:
    prepared = prepare(read_session(table), cache=tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(LarscopeError, match=r"frames\.npy"):
        prepared.frames(0)


@pytest.mark.parametrize(("dtype", "value"), [("int64", -(2**53) - 2), ("uint64", 2**64 - 1), ("float64", 1e300)])
def test_pixels_that_lose_digits_are_refused(dtype: str, value: float) -> None:
    movie = np.ones((30, 16, 16), dtype)
    movie[20, 3, 3] = value
    with pytest.raises(LarscopeError, match=r"at most 9007199254740992 in size.*run 'run0'"):
        prepare(session_of(movie))


@pytest.mark.parametrize("stored", [False, True])
def test_a_lone_pixel_rules_neither_scale_nor_frames(tmp_path: Path, stored: bool) -> None:
    rng = np.random.default_rng(0)
    frames = rng.poisson(200, (60, 18, 18)).astype(np.uint16)
    clean = frames.copy()
    frames[20, 5, 7], frames[31, 9, 9], frames[3, 0, 0] = 65_535, 60_000, 65_535  # the last is cut off
    highest = int(clean[:, 1:17, 1:17].max())
    clean[20, 5, 7] = clean[31, 9, 9] = highest
    cache = tmp_path / "cache" if stored else None
    got, expected = (
        prepare(Session((Run("r", "c", ArrayMovie(movie)),)), crop=(16, 16), cache=cache) for movie in (frames, clean)
    )
    assert got.preprocessing.high == expected.preprocessing.high == highest
    assert np.array_equal(got.frames(0), expected.frames(0))
    assert np.array_equal(got.frames(0, 20, 32), expected.frames(0, 20, 32))
    assert np.array_equal(got.mean_frame(), expected.mean_frame())
    small = prepare(Session((Run("r", "c", ArrayMovie(frames)),)), crop=(16, 16), downscale=2)
    assert small.runs[0].lone == ((20, 2, 3), (31, 4, 4))


def test_pixels_bright_in_many_frames_keep_their_values() -> None:
    frames = np.random.default_rng(0).poisson(200, (60, 16, 16)).astype(np.uint16)
    frames[::10, 5, 7] = 65_535
    prepared = prepare(Session((Run("r", "c", ArrayMovie(frames)),)))
    assert (prepared.preprocessing.high, prepared.runs[0].lone) == (65_535, ())


@pytest.mark.parametrize("n_missing", [11, 23, 78, 100])
@pytest.mark.parametrize("first", [0, 10])
def test_too_long_a_gap_is_told_with_its_length_and_what_may_help(n_missing: int, first: int) -> None:
    frames = np.random.default_rng(0).random((120, 8, 8)).astype(np.float32)
    frames[first : first + n_missing, 0, 0] = np.nan
    with pytest.raises(LarscopeError, match=r"at most 10 frames.*--nan mask.*`--crop HEIGHT WIDTH`") as caught:
        prepare(session_of(frames), nan="interpolate")
    assert f"in the {n_missing} frames {first} to {first + n_missing - 1}" in str(caught.value)


@pytest.mark.parametrize("nan", ["error", "mask", "interpolate"])
def test_borders_of_nan_are_told_to_be_cropped_and_then_are_no_trouble(nan: str) -> None:
    frames = np.random.default_rng(0).random((90, 24, 24)).astype(np.float32)
    frames[:, :3] = np.nan
    with pytest.raises(LarscopeError, match=r"`--crop HEIGHT WIDTH`"):
        prepare(session_of(frames), nan=nan)
    assert not prepare(session_of(frames), crop=(16, 16), nan=nan).runs[0].missing.any()
