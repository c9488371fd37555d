"""The checks: every fault that is planted is found, named and measured, and nothing is found where none was planted."""

import json
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from larscope._cli.commands import app
from larscope._cli.terminal import console
from larscope._errors import LarscopeError
from larscope._movies.checks.check import check_session
from larscope._movies.checks.findings import Finding, describe_findings, worst_level
from larscope._movies.preprocessing import CHUNK_BYTES
from larscope._movies.readers.formats import open_movie
from larscope._movies.session import ArrayMovie, Run, Session
from larscope._movies.table import BrokenRun, read_runs, read_session
from larscope._simulate.session import simulate_session

N_FRAMES, SIDE = 100, 48


@pytest.fixture(scope="module")
def clean() -> Session:
    return simulate_session(n_runs=4, n_frames=N_FRAMES, frame_shape=(SIDE, SIDE), seed=1)


def frames_of(run: Run) -> np.ndarray:
    return run.read(0, run.n_frames).copy()


def with_frames(session: Session, frames: np.ndarray, number: int = 1) -> list[Run]:
    """The session with other frames in one run, under the same name."""
    runs = list(session)
    runs[number] = replace(runs[number], movie=ArrayMovie(frames), start=0, stop=None)
    return runs


def problems(runs: Sequence[Run | BrokenRun] | Session, needed: int = 1) -> list[Finding]:
    return [finding for finding in check_session(runs, needed) if finding.level != "pass"]


def only_problem(runs: Sequence[Run | BrokenRun] | Session) -> Finding:
    [found] = problems(runs)
    return found


# Nothing is found in clean movies


@pytest.mark.parametrize("seed", range(6))
def test_a_clean_session_raises_no_false_alarm(seed):
    session = simulate_session(n_runs=4, n_frames=N_FRAMES, frame_shape=(SIDE, SIDE), seed=seed)
    assert problems(session) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("n_frames", "shape"), [(80, (64, 64)), (192, (96, 64)), (600, (64, 64))])
def test_clean_sessions_of_many_sizes_raise_no_false_alarm(seed, n_frames, shape):
    assert problems(simulate_session(n_runs=8, n_frames=n_frames, frame_shape=shape, seed=100 + seed)) == []


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", ">u2", "int64", "float64"])
def test_the_type_of_the_pixels_raises_no_alarm(clean, dtype):
    scale = 1 / 200 if dtype == "uint8" else 0.5
    rng = np.random.default_rng(0)
    runs = [
        replace(run, movie=ArrayMovie(rng.poisson(frames_of(run) * scale).clip(0, 254).astype(dtype)))
        if dtype == "uint8"
        else replace(run, movie=ArrayMovie((frames_of(run) * scale).astype(dtype)))
        for run in clean
    ]
    assert problems(runs) == []


@pytest.mark.parametrize("baseline_of", [np.mean, lambda frames, axis: np.quantile(frames, 0.2, axis=axis)])
def test_relative_fluorescence_raises_no_alarm(clean, baseline_of):
    rng = np.random.default_rng(0)
    runs = []
    for run in clean:
        frames = frames_of(run).astype(np.float32)
        baseline = baseline_of(frames, axis=0) + 1
        runs.append(replace(run, movie=ArrayMovie((frames - baseline) / baseline + rng.normal(0, 0.01, frames.shape))))
    assert problems(runs) == []


# Faults of one run


def _nan(frames):
    frames = frames.astype(np.float32)
    frames[30, 5, 6:8] = np.nan
    frames[70, 0, 0] = -np.inf
    return frames


def _blank(frames):
    frames[40:43] = 7
    return frames


def _repeated(frames):
    frames[61] = frames[60]
    frames[62] = frames[60]
    return frames


def _flash(frames):
    frames[50] = frames[50] * 2
    return frames


def _dark(frames):
    frames[12] = frames[12] // 3
    return frames


def _saturated(frames):
    bright = np.sort(frames.ravel())[-frames.size // 1000]
    return frames.clip(None, bright)


def _saturated_at_the_limit(frames):
    return (frames.astype(float) * 65535 / np.sort(frames.ravel())[-200]).clip(None, 65535).astype(np.uint16)


def _dead_rows(frames):
    frames[:, 0] = 0
    frames[:, 7] = 300
    return frames


def _dead_columns(frames):
    frames[:, :, -1] = 0
    return frames


def _hot_pixels(frames):
    frames[:, 3, 4] = 9000
    frames[:, 9, 9] = 0
    return frames


def _zeros(frames):
    rng = np.random.default_rng(0)
    frames += 2000
    frames[rng.random(frames.shape) < 0.002] = 0
    return frames


def _lone(frames):
    frames //= 4
    frames[44, 11, 12] = 60_000
    frames[71, 0, 0] = 65_535
    return frames


def _moving(frames):
    for frame, shift in ((33, (3, 0)), (34, (0, -4)), (80, (2, 2))):
        frames[frame] = np.roll(frames[frame], shift, (0, 1))
    return frames


def _bleaching(frames):
    return (frames * np.exp(-np.arange(len(frames)) / 300)[:, None, None]).astype(np.uint16)


def _rising(frames):
    return (frames * np.linspace(0.9, 1.2, len(frames))[:, None, None]).astype(np.uint16)


@pytest.mark.parametrize(
    ("plant", "check", "level", "value", "frame"),
    [
        (_nan, "finite", "fail", 2, 30),
        (_blank, "constant_frames", "warn", 3, 40),
        (_repeated, "repeated_frames", "warn", 2, 61),
        (_flash, "jumps", "warn", 100, 50),
        (_dark, "jumps", "warn", 67, 12),
        (_saturated, "saturation", "warn", 0.1, None),
        (_saturated_at_the_limit, "saturation", "warn", 0.087, None),
        (_dead_rows, "dead_rows", "warn", 2, None),
        (_dead_columns, "dead_columns", "warn", 1, None),
        (_hot_pixels, "dead_pixels", "warn", 2, None),
        (_zeros, "zero_pixels", "warn", 0.2, 0),
        (_lone, "lone_pixels", "warn", 2, 44),
        (_moving, "motion", "warn", 3, 33),
        (_bleaching, "trend", "warn", -35, None),
        (_rising, "trend", "warn", 26, None),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else None,
)
def test_a_planted_fault_is_found_and_measured(
    clean: Session, plant: Callable, check: str, level: str, value: float, frame: int | None
):
    runs = with_frames(clean, plant(frames_of(clean.runs[1])))
    found = {finding.check: finding for finding in problems(runs) if finding.run is not None}
    found.pop("dtype", None)  # the run with NaN had to become floating-point
    assert list(found) == [check]
    finding = found[check]
    assert (finding.run, finding.level) == ("simulated-02", level)
    assert finding.value == pytest.approx(value, rel=0.12)
    if frame is not None:
        assert finding.frame == frame
        assert f"frame {frame}" in finding.message
    assert len(finding.advice) > 20


@pytest.mark.parametrize("gain", [1 / 10, 1 / 1.2, 1.2, 2, 10])
@pytest.mark.parametrize(("start", "stop"), [(50, 100), (50, 60), (30, 55), (0, 12)])
def test_light_that_steps_is_told_with_frame_and_factor(clean, gain, start, stop):
    frames = frames_of(clean.runs[1]) / 10  # so that the gain does not saturate
    frames[start:stop] *= gain
    found = next(
        f
        for f in check_session(with_frames(clean, frames.astype(np.uint16)))
        if f.check == "steps" and f.run == "simulated-02"
    )
    assert found.level == "warn"
    factor = float(found.message.split("the light is ")[1].split()[0])
    if found.frame == stop:  # back again, where that is the larger change
        factor = 1 / factor
    assert found.frame in (start, stop)
    assert factor == pytest.approx(gain, rel=0.1)


def test_a_single_flash_is_no_step_and_light_that_fades_slowly_is_none(clean):
    for frames in (_flash(frames_of(clean.runs[1])), _bleaching(frames_of(clean.runs[1]))):
        assert "steps" not in {finding.check for finding in problems(with_frames(clean, frames))}


def test_rare_photons_are_no_lone_pixels():
    for rate in (0.003, 0.03, 0.3):
        frames = np.random.default_rng(0).poisson(rate, (400, 64, 64)).astype(np.uint8)
        assert "lone_pixels" not in {finding.check for finding in problems([Run("dark", "a", ArrayMovie(frames))])}


def test_a_bright_cell_is_no_lone_pixel(clean):
    frames = frames_of(clean.runs[1])
    frames[40, 20:22, 20:22] = 60_000  # of two pixels' width
    frames[60:62, 30, 30] = 60_000  # for two frames
    assert "lone_pixels" not in {finding.check for finding in problems(with_frames(clean, frames))}


@pytest.mark.parametrize("shift", [(2, 0), (0, 2), (-3, 1), (5, -6), (0, 1.6)])
def test_shifts_are_measured_to_a_fraction_of_a_pixel(clean, shift):
    """Against SciPy's Fourier shift of every tenth frame, by fractions of a pixel too."""
    from scipy.ndimage import shift as moved

    frames = frames_of(clean.runs[0]).astype(np.float32)
    frames[5::10] = [moved(frame, shift, mode="grid-wrap") for frame in frames[5::10]]
    finding = next(finding for finding in check_session(with_frames(clean, frames, 0)) if finding.check == "motion")
    assert (finding.level, finding.value, finding.frame) == ("warn", 10, 5)
    assert float(finding.message.split("at most by ")[1].split()[0]) == pytest.approx(np.hypot(*shift), abs=0.2)


def test_motion_is_not_seen_in_noise():
    rng = np.random.default_rng(0)
    assert "motion" not in {f.check for f in problems([Run("noise", "a", ArrayMovie(rng.poisson(3, (100, 48, 48))))])}


def test_a_frozen_movie_fails_and_is_told_nothing_else(clean):
    frames = np.repeat(frames_of(clean.runs[0])[:1] + 1, 50, axis=0)
    found = [finding for finding in problems(with_frames(clean, frames)) if finding.run == "simulated-02"]
    assert [(f.check, f.level, f.value) for f in found] == [("constant_frames", "fail", 50)]


def test_pixels_beyond_53_bits_fail(clean):
    frames = frames_of(clean.runs[1]).astype(np.int64)
    frames[17, 3, 3] = 2**53 + 2
    found = next(f for f in problems(with_frames(clean, frames)) if f.check == "range")
    assert (found.level, found.value, found.frame) == ("fail", 1, 17)


def test_a_run_shorter_than_a_fit_needs_is_told():
    session = simulate_session(n_runs=2, n_frames=60, frame_shape=(SIDE, SIDE), seed=0)
    assert {(f.check, f.level, f.value) for f in problems(session, needed=69)} == {("length", "warn", 60)}
    assert problems(session, needed=34) == []  # as `fit --order 2 --window 32` asks


def test_frames_are_counted_in_the_run_and_in_its_file(clean):
    frames = np.concatenate([frames_of(clean.runs[0]), frames_of(clean.runs[1])]).astype(np.float32)
    frames[N_FRAMES + 30, 0, 0] = np.nan
    late = Run("late", "novel", ArrayMovie(frames), start=N_FRAMES, path=Path("day1.tif"))
    found = next(finding for finding in problems([late]) if finding.check == "finite")
    assert found.frame == 30
    assert "frame 30 (frame 130 of day1.tif)" in found.message


def test_gaps_in_the_time_stamps_of_an_nwb_are_missing_frames(clean, tmp_path):
    import h5py
    from written_movies import write_nwb

    path = write_nwb(tmp_path, frames_of(clean.runs[0]))
    stamps = np.arange(N_FRAMES + 3) * 0.1
    with h5py.File(path, "a") as file:
        series = next(item for item in file["acquisition"].values() if "data" in item)
        series.pop("starting_time", None)
        series["timestamps"] = np.delete(stamps, [20, 70, 71]) + np.random.default_rng(0).normal(0, 0.005, N_FRAMES)
    movie = open_movie(path)
    found = only_problem([Run("gaps", "a", movie, path=path)])
    assert (found.check, found.level, found.value, found.frame) == ("missing_frames", "warn", 3, 20)
    assert "2 of 100 frames" in found.message
    parts = [Run("before", "a", movie, stop=20), Run("between", "b", movie, 20, 69)]
    assert problems(parts) == []


# Faults of the session


def test_the_same_frames_under_another_name_fail(clean):
    runs = [*clean, replace(clean.runs[2], name="copy", path=Path("copy.tif"))]
    found = next(f for f in problems(runs) if f.check == "shared_frames")
    assert (found.run, found.level, found.value, found.frame) == ("copy", "fail", N_FRAMES, 0)
    assert "'simulated-03'" in found.message


def test_ranges_that_overlap_are_told_with_their_first_common_frame(clean):
    movie = ArrayMovie(np.concatenate([frames_of(run) for run in clean.runs[:2]]))
    runs = [Run("a", "familiar", movie, 0, 110), Run("b", "novel", movie, 95, 200)]
    found = only_problem(runs)
    assert (found.run, found.check, found.level, found.value, found.frame) == ("b", "shared_frames", "warn", 15, 0)


def test_blank_frames_are_not_shared_frames(clean):
    frames = [frames_of(run) for run in clean.runs[:2]]
    for one in frames:
        one[10] = 0
    runs = [Run(name, name, ArrayMovie(one)) for name, one in zip("ab", frames, strict=True)]
    assert {finding.check for finding in problems(runs)} == {"constant_frames"}


def test_frames_are_the_same_in_either_byte_order(clean):
    swapped = frames_of(clean.runs[0]).astype(">u2")
    runs = [clean.runs[0], Run("swapped", "novel", ArrayMovie(swapped))]
    assert "shared_frames" in {finding.check for finding in problems(runs)}


def test_drift_between_runs_is_told_with_both_ends(clean):
    found = only_problem(with_frames(clean, (frames_of(clean.runs[1]) * 0.8).astype(np.uint16)))
    assert found.check == "between_runs"
    assert found.value == pytest.approx(20, abs=2)
    assert "run simulated-02" in found.message


def six_runs(
    factors: dict[str, float], lengths: dict[str, int] | None = None, noise: float = 0, offset: float = 0
) -> list[Run]:
    session = simulate_session(n_runs=6, n_frames=120, frame_shape=(SIDE, SIDE), seed=3)
    rng = np.random.default_rng(0)
    runs = []
    for run in session:
        frames = offset + frames_of(run)[: (lengths or {}).get(run.condition)] * factors.get(run.condition, 1.0)
        if run.condition == "novel":
            frames = frames + rng.normal(0, noise, frames.shape)
        runs.append(Run(run.name, run.condition, ArrayMovie(frames.astype(np.uint16))))
    return runs


def test_brightness_that_differs_by_condition_is_told():
    found = {finding.check: finding.value for finding in problems(six_runs({"novel": 1.3}))}
    assert found["brightness_by_condition"] == pytest.approx(1.3, abs=0.02)


def test_length_that_differs_by_condition_is_told():
    assert only_problem(six_runs({}, {"novel": 80})).check == "length_by_condition"


def test_noise_that_differs_by_condition_is_told():
    found = only_problem(six_runs({}, noise=400, offset=3000))
    assert found.check == "noise_by_condition"
    assert found.value > 1.2


def test_other_types_rates_and_pixel_sizes_are_told(clean):
    first = clean.runs[0]
    odd = replace(
        first, movie=ArrayMovie(frames_of(first).astype(np.int32)), frame_rate=30.0, pixel_size=None, stop=None
    )
    assert {(f.run, f.check) for f in problems([odd, *clean.runs[1:]])} == {
        (first.name, "dtype"),
        (first.name, "frame_rate"),
        (first.name, "pixel_size"),
    }


def test_other_sizes_and_doubled_names_fail(clean):
    small = Run("small", "novel", ArrayMovie(frames_of(clean.runs[0])[:, :40]))
    twice = replace(clean.runs[3], name=clean.runs[2].name)
    failed = {(f.run, f.check) for f in problems([*clean.runs[:3], twice, small]) if f.level == "fail"}
    assert failed >= {("small", "frame_size"), (twice.name, "names")}


def named(paths_and_conditions: Sequence[tuple[str, str]], **columns: Sequence) -> list[Run]:
    """Runs of noise with these files and conditions."""
    rng = np.random.default_rng(0)
    return [
        Run(
            f"run {i}",
            condition,
            ArrayMovie(rng.poisson(100, (80, 16, 16)).astype(np.uint16)),
            path=Path(path),
            **{name: values[i] for name, values in columns.items()},
        )
        for i, (path, condition) in enumerate(paths_and_conditions)
    ]


def test_a_file_named_after_another_condition_is_told():
    runs = named([("day1_familiar.tif", "familiar"), ("day1-Novel2.tif", "familiar"), ("day2_novel.tif", "novel")])
    found = only_problem(runs)
    assert (found.run, found.check) == ("run 1", "labels")
    assert "'familiar'" in found.message
    assert "Novel2" in found.message


def test_a_folder_named_after_another_condition_is_told():
    runs = named([("familiar/1.tif", "familiar"), ("novel/1.tif", "novel"), ("novel/2.tif", "familiar")])
    assert only_problem(runs).run == "run 2"


@pytest.mark.parametrize(
    "files",
    [
        [("a1.tif", "a"), ("b2.tif", "b"), ("1.tif", "b"), ("2.tif", "a")],  # letters are no names to look for
        [("novelty-1.tif", "familiar"), ("novelty-2.tif", "novel")],
        [("novel and familiar 1.tif", "familiar"), ("novel and familiar 2.tif", "novel")],
    ],
)
def test_names_that_say_nothing_of_the_condition_raise_no_alarm(files):
    assert problems(named(files)) == []


def test_rows_out_of_the_order_of_recording_are_told():
    runs = named([("m-1.tif", "a"), ("m-2.tif", "b"), ("m-10.tif", "a"), ("m-9.tif", "b"), ("m-3.tif", "a")])
    found = only_problem(runs)
    assert (found.run, found.check) == ("run 4", "row_order")
    assert "3 after 10" in found.message


def test_ranges_of_one_movie_out_of_order_are_told():
    runs = named([("m.tif", "a"), ("m.tif", "a")], start=[40, 0])
    assert [finding.check for finding in problems(runs)] == ["row_order"]


@pytest.mark.parametrize("n_blocks", [6, 12])
def test_one_block_in_another_order_is_told_where_chance_does_not_explain_it(n_blocks):
    """Two runs a block have two orders: of six blocks, five agree by chance in 22 % of designs; of twelve, in 0.6 %."""
    conditions = ["a", "b"] * n_blocks
    conditions[4:6] = "b", "a"
    files = [(f"{i}.tif", condition) for i, condition in enumerate(conditions)]
    blocks = [str(i // 2) for i in range(2 * n_blocks)]
    found = [(finding.run, finding.check) for finding in problems(named(files, block=blocks))]
    assert found == ([("run 4", "condition_order")] if n_blocks == 12 else [])


# Files that cannot be read


def write_table(folder: Path, *rows: str) -> Path:
    table = folder / "session.csv"
    table.write_text("path,condition,run\n" + "\n".join(rows) + "\n")
    return table


def test_a_broken_row_hides_nothing_of_the_others(clean, tmp_path):
    np.save(tmp_path / "good.npy", frames_of(clean.runs[0]))
    bad = frames_of(clean.runs[1]).astype(np.float32)
    bad[9] = np.nan
    np.save(tmp_path / "nan.npy", bad)
    whole = (tmp_path / "good.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[: len(whole) // 2])
    table = write_table(
        tmp_path, "good.npy,familiar,good", "cut.npy,novel,cut", "none.npy,novel,", "nan.npy,novel,nan", ",novel,x"
    )
    found = {(f.run, f.check) for f in problems(read_runs(table)) if f.level == "fail"}
    assert found == {("cut", "readable"), ("3", "readable"), ("nan", "finite"), ("x", "readable")}


def test_a_run_that_breaks_while_it_is_read_hides_nothing_of_the_others(clean):
    class Cut(ArrayMovie):
        def read(self, start: int, stop: int) -> np.ndarray:
            return super().read(start, min(stop, 50))

    runs = with_frames(clean, frames_of(clean.runs[1]))
    runs[1] = replace(runs[1], movie=Cut(frames_of(clean.runs[1])))
    found = only_problem(runs)
    assert (found.run, found.check, found.level) == ("simulated-02", "readable", "fail")
    assert "got 50" in found.message


# Memory and time


def test_movies_are_read_once_in_parts_and_memory_is_bounded():
    """180 MB of frames that are made as they are read."""
    asked: list[tuple[int, int]] = []

    class Endless:
        shape, dtype = (700, 360, 360), np.dtype("uint16")

        def read(self, start: int, stop: int) -> np.ndarray:
            asked.append((start, stop))
            return np.random.default_rng(start).integers(0, 4000, (stop - start, 360, 360), np.uint16)

    tracemalloc.start()
    check_session([Run("long", "a", Endless())])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert asked[0][0] == 0
    assert asked[-1][1] == 700
    assert all(one[1] == other[0] for one, other in pairwise(asked))
    assert max(stop - start for start, stop in asked) * 360 * 360 * 2 <= CHUNK_BYTES
    assert peak < 200e6  # a part, the sample and its single-precision copy


# What is told


def test_findings_become_plain_json(clean):
    described = describe_findings(check_session(clean))
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert set(described[0]) == {"run", "check", "level", "value", "unit", "frame", "message", "advice"}
    infinite = Finding(None, "x", "warn", float("inf"), "", None, "", "")
    assert infinite.to_dict()["value"] is None
    assert worst_level([infinite]) == "warn"


def test_every_check_is_documented(clean):
    described = (Path(__file__).parents[3] / "docs" / "check.md").read_text()
    checks = {finding.check for finding in check_session([*clean, BrokenRun("x", LarscopeError("gone"))])}
    assert len(checks) == 30
    assert [check for check in checks if f"`{check}`" not in described] == []


def larscope_check(table: Path) -> tuple[int, str]:
    console.width = 80  # not what another test left
    done = CliRunner(env={"COLUMNS": "80", "NO_COLOR": "1"}).invoke(app, ["check", str(table)])
    return done.exit_code, done.output


def test_the_command_fits_80_columns_and_tells_files_and_findings(clean, tmp_path):
    np.save(tmp_path / "one.npy", frames_of(clean.runs[0]))
    np.save(tmp_path / "two.npy", _dead_rows(_moving(frames_of(clean.runs[1]))))
    code, output = larscope_check(write_table(tmp_path, "one.npy,familiar,", "two.npy,novel,"))
    assert code == 0
    assert max(len(line) for line in output.splitlines()) <= 80
    for told in ("48 x 48", "uint16", "two.npy", "dead_rows", "motion", "2 runs (1 familiar, 1 novel), 200 frames"):
        assert told in output


def test_the_command_fails_with_code_2_where_a_check_fails(clean, tmp_path):
    np.save(tmp_path / "one.npy", _nan(frames_of(clean.runs[0])))
    code, output = larscope_check(write_table(tmp_path, "one.npy,familiar,", "none.npy,novel,[bold red]gone[/]"))
    assert code == 2
    assert "frame 30" in output
    assert "[bold red]gone[/]" in output  # a name, not markup
    assert "none.npy does not exist" in " ".join(output.split())


# Recorded movies


def recorded_problems(folder: Path) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in problems(read_session(folder / "session.csv")):
        found.setdefault(finding.check, []).append(finding)
    return found


def test_the_known_faults_of_the_virtual_reality_movie_are_found(recorded):
    found = recorded_problems(recorded / "mouse_s1_vr")
    assert [f.run for f in found["dead_rows"]] == ["1", "2", "3", "4"]
    assert all("row 0" in f.message and f.value == 1 for f in found["dead_rows"])
    assert found["between_runs"][0].value == pytest.approx(16, abs=1)
    assert set(found) == {"dead_rows", "dead_pixels", "zero_pixels", "between_runs"}


def test_the_known_faults_of_the_two_photon_movie_are_found(recorded):
    found = recorded_problems(recorded / "mouse_2p")
    assert set(found) == {"motion", "zero_pixels"}
    assert [f.run for f in found["motion"]] == [str(run) for run in range(1, 9)]
    assert np.mean([f.value for f in found["zero_pixels"]]) == pytest.approx(0.24, abs=0.01)
