"""A fit that is killed anywhere, and started again, ends as one that was not: bit for bit, with nothing left behind.

A process that serves forks has imported everything once; each fit is a fork of it, and kills itself at a chosen call of
a chosen function.
"""

import contextlib
import functools
import importlib
import io
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

resource = pytest.importorskip("resource", reason="fits are forked, killed and limited as POSIX does it")

from larscope._cli.commands import app
from larscope._results.folder import FILES

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["larscope._cli.commands", "larscope._fit.estimator", "larscope._report.page", "test_interruption"]
)

ORDERS = ["--latents", "grid", "--order", "2", "--window", "32", "--penalty", "0.002", "--epochs", "4"]

# Where a fit kills itself: the function, at which of its calls, and whether before or after it.
POINTS = {
    "preprocessing": [
        ("larscope._movies.session:Run.read", 1, "before"),
        ("larscope._movies.session:Run.read", 3, "after"),
        ("larscope._movies.preprocessing:_store", 2, "before"),
        ("larscope._movies.preprocessing:_store", 3, "after"),
        ("pathlib:Path.replace", 1, "before"),
        ("pathlib:Path.replace", 4, "after"),
    ],
    "training": [
        ("larscope._fit.training:TrainingStep.training_step", 1, "before"),
        ("larscope._fit.training:TrainingStep.training_step", 9, "after"),
        ("larscope._fit.training:TrainingStep.training_step", 20, "before"),
        ("torch:save", 1, "before"),
        ("torch:save", 2, "after"),
        ("torch:save", 4, "before"),
        ("larscope._fit.training:train", 1, "after"),
    ],
    "analysis": [
        ("larscope._fit.evaluation:evaluate_run", 1, "before"),
        ("larscope._fit.evaluation:evaluate_run", 3, "after"),
        ("larscope._dynamics.penalty:trace_penalties", 2, "before"),
        ("larscope._fit.evaluation:clip_run", 1, "after"),
        ("larscope._fit.evaluation:respond", 4, "before"),
    ],
    "writing": [
        ("larscope._fit.fitted:build_dataset", 1, "before"),
        ("larscope._results.folder:write_dataset", 1, "before"),
        ("larscope._results.folder:write_dataset", 1, "after"),
        ("larscope._results.folder:publish_result", 1, "after"),
        ("larscope._report.page:write_report", 1, "before"),
        ("larscope._report.page:write_report", 1, "after"),
        ("larscope._results.folder:publish_result", 2, "before"),
        ("larscope._results.folder:publish_result", 2, "after"),
        ("shutil:rmtree", -1, "before"),
    ],
}
QUICK = {"preprocessing": (3,), "training": (1,), "analysis": (1,), "writing": (2, 7)}


def kill_at(target: str, call: int, when: str) -> None:
    """Replace a function wherever larscope holds it by one that kills this process at its `call`-th call."""
    module, _, name = target.partition(":")
    owner, _, attribute = name.rpartition(".")
    holder = importlib.import_module(module)
    place = getattr(holder, owner) if owner else holder
    original: Callable = getattr(place, attribute)
    calls = 0

    @functools.wraps(original)
    def deadly(*arguments, **options):
        nonlocal calls
        calls += 1
        # -1: the removal of what was unfinished, the last of all
        due = calls == call or (call == -1 and str(arguments[0]).endswith(".unfinished"))
        if due and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        outcome = original(*arguments, **options)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome

    setattr(place, attribute, deadly)
    if not owner:
        for known in [known for name, known in sys.modules.items() if name.startswith("larscope")]:
            for alias, value in list(vars(known).items()):
                if value is original:
                    setattr(known, alias, deadly)


def fit(arguments: list[str], said: str, point: tuple[str, int, str] | None = None) -> None:
    """Run the command line in this process, which may kill itself; what it prints goes to a file."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    if point is not None:
        kill_at(*point)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            app(arguments)
        finally:
            Path(said).write_text(printed.getvalue())


def start(arguments: list[str], said: Path, point: tuple[str, int, str] | None = None):
    process = FORKS.Process(target=fit, args=(arguments, str(said), point))
    process.start()
    return process


@pytest.fixture(scope="module")
def table(session, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("movies")
    lines = ["path,condition"]
    for run in session:
        np.save(folder / f"{run.name}.npy", run.movie.array)
        lines.append(f"{run.name}.npy,{run.condition}")
    (folder / "session.csv").write_text("\n".join(lines))
    return folder / "session.csv"


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory) -> tuple[Path, float]:
    """The result of an uninterrupted fit, and how long it took."""
    folder = tmp_path_factory.mktemp("whole")
    started = time.monotonic()
    process = start(["fit", str(table), "--out", str(folder / "result"), *ORDERS], folder / "said")
    process.join(120)
    assert process.exitcode == 0, (folder / "said").read_text()
    return folder / "result", time.monotonic() - started


def require_same(result: Path, expected: Path) -> None:
    for name in ("config.toml", "log.jsonl", "model.safetensors"):
        assert (result / name).read_bytes() == (expected / name).read_bytes(), name
    with xr.open_dataset(result / "results.nc") as ours, xr.open_dataset(expected / "results.nc") as theirs:
        assert ours.drop_vars("path").identical(theirs.drop_vars("path"))
    assert {path.name for path in result.iterdir()} == {
        *FILES,
        "digests.json",
        "report.html",
        "cells.csv",
        "edges.csv",
        "figures",
    }


def resume_and_compare(table: Path, folder: Path, expected: Path, others: Collection[str] = ()) -> None:
    """Give the command again, and compare the result with that of a fit that was not interrupted."""
    process = start(["fit", str(table), "--out", str(folder / "result"), *ORDERS], folder / "said")
    process.join(120)
    said = (folder / "said").read_text()
    assert process.exitcode == 0, said
    require_same(folder / "result", expected)
    assert {path.name for path in folder.iterdir()} == {"result", "said", ".larscope-cache", *others}
    kept = list((folder / ".larscope-cache").iterdir())
    assert len(kept) == 5  # four runs, and what the check of them found
    for entry in (path for path in kept if not path.name.startswith("checks-")):
        assert {path.name for path in entry.iterdir()} == {"frames.npy", "facts.json"}


def points(quick: bool) -> list:
    return [
        pytest.param(point, id=f"{phase}-{point[2]}-{point[0].partition(':')[2]}-{point[1]}")
        for phase, all_points in POINTS.items()
        for number, point in enumerate(all_points)
        if quick == (number in QUICK[phase])
    ]


def require_killed_and_resumed(point, table: Path, whole: tuple[Path, float], folder: Path) -> None:
    process = start(["fit", str(table), "--out", str(folder / "result"), *ORDERS], folder / "said", point)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, "the fit ended before it came to the point"
    resume_and_compare(table, folder, whole[0])


@pytest.mark.parametrize("point", points(quick=True))
def test_a_fit_killed_in_any_phase_ends_as_if_it_had_not_been(point, table, whole, tmp_path):
    require_killed_and_resumed(point, table, whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("point", points(quick=False))
def test_a_fit_killed_anywhere_ends_as_if_it_had_not_been(point, table, whole, tmp_path):
    require_killed_and_resumed(point, table, whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_fit_killed_three_times_at_any_moment_ends_as_if_it_had_not_been(seed, table, whole, tmp_path):
    moments = random.Random(seed)
    for _ in range(3):
        process = start(["fit", str(table), "--out", str(tmp_path / "result"), *ORDERS], tmp_path / "said")
        process.join(moments.uniform(0, whole[1]))
        process.kill()
        process.join()
    resume_and_compare(table, tmp_path, whole[0])


@pytest.mark.parametrize(
    "marker",
    [
        pytest.param(".larscope-cache/*/facts.json", marks=pytest.mark.slow),
        ".result.unfinished/*/last.ckpt",
        pytest.param(".result.unfinished/*/result", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(marker, table, whole, tmp_path):
    process = start(["fit", str(table), "--out", str(tmp_path / "result"), *ORDERS], tmp_path / "said")
    while not list(tmp_path.glob(marker)):
        assert process.is_alive(), "ended before it came to the point"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    said = (tmp_path / "said").read_text()
    assert process.exitcode != 0
    assert "Give the same command again" in said
    assert "Traceback" not in said
    assert not (tmp_path / "result").exists()
    resume_and_compare(table, tmp_path, whole[0])


def test_a_finished_fit_is_not_done_again_and_another_never_overwrites_it(table, whole, tmp_path):
    out = whole[0]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    process = start(["fit", str(table), "--out", str(out), *ORDERS], tmp_path / "said")
    process.join(60)
    assert process.exitcode == 0
    assert "already; nothing was repeated" in (tmp_path / "said").read_text()
    process = start(["fit", str(table), "--out", str(out), *ORDERS, "--seed", "5"], tmp_path / "said")
    process.join(60)
    assert process.exitcode != 0
    assert "holds another result" in (tmp_path / "said").read_text()
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def fit_on_a_full_disk(arguments: list[str], said: str, largest_file: int) -> None:
    """Run the command line where no file can grow beyond a size: each write then fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    fit(arguments, said)


@pytest.mark.parametrize(
    "largest_file",
    [pytest.param(1_000, marks=pytest.mark.slow), 30_000, pytest.param(100_000, marks=pytest.mark.slow), 200_000],
)
def test_a_full_disk_is_said_and_nothing_is_lost(largest_file, table, whole, tmp_path):
    earlier = tmp_path / "earlier"
    shutil.copytree(whole[0], earlier)
    process = FORKS.Process(
        target=fit_on_a_full_disk,
        args=(["fit", str(table), "--out", str(tmp_path / "result"), *ORDERS], str(tmp_path / "said"), largest_file),
    )
    process.start()
    process.join(120)
    said = " ".join((tmp_path / "said").read_text().split())
    assert process.exitcode == 2, said
    assert "Error:" in said
    assert "too large" in said  # what the system calls it
    assert not (tmp_path / "result").exists()
    require_same(earlier, whole[0])
    shutil.rmtree(earlier)
    resume_and_compare(table, tmp_path, whole[0])


def test_movies_that_vanish_or_change_in_the_middle_are_said(table, whole, tmp_path):
    moved = tmp_path / "movies"
    shutil.copytree(table.parent, moved)
    arguments = ["fit", str(moved / "session.csv"), "--out", str(tmp_path / "result"), *ORDERS]
    process = start(arguments, tmp_path / "said", ("larscope._movies.preprocessing:_store", 2, "before"))
    process.join(60)
    (moved / "run-2.npy").rename(moved / "gone.npy")
    process = start(arguments, tmp_path / "said")
    process.join(60)
    said = " ".join((tmp_path / "said").read_text().split())
    assert process.exitcode == 2
    assert "run-2.npy" in said
    assert "does not exist" in said
    (moved / "gone.npy").rename(moved / "run-2.npy")
    resume_and_compare(moved / "session.csv", tmp_path, whole[0], {"movies"})
