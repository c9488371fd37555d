"""Work that is handed out: as if it had been done here, whoever does it and whoever dies."""

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from larscope import LarscopeError, LatentVAR, load
from larscope._cli.commands import app
from larscope._compute.workers import connect, hand_out, open_workers
from larscope._movies.preprocessing import prepare
from larscope._movies.session import ArrayMovie, Session
from larscope._movies.table import read_session
from larscope._statistics.comparison import compare_pairs
from larscope._statistics.pairs import PairDistances
from larscope._statistics.permutation import exchangeable_units, max_t, permute_labels

HERE = os.getpid()
SETTINGS = {"latents": "grid", "order": 2, "window": 32, "epochs": 1, "penalty": 0.5}


@pytest.fixture(scope="module")
def scheduler(cluster) -> str:
    """The address of a cluster of two workers."""
    return cluster.scheduler_address


@pytest.fixture(params=["processes", "cluster"])
def two_workers(request) -> Any:
    """Open two workers: processes of this machine, or those of a cluster."""
    if request.param == "processes":
        return {"jobs": 2}
    return {"scheduler": request.getfixturevalue("scheduler")}


@dataclass(frozen=True)
class Deadly:
    """Kills the worker that calls it, the first time that one does."""

    marker: Path
    home: int = HERE  # of the instance: a worker imports this module anew

    def __call__(self, item: Any) -> Any:
        if os.getpid() != self.home and not self.marker.exists():
            self.marker.touch()
            psutil.Process().kill()
        return item


@dataclass(frozen=True)
class DeadlyMovie(ArrayMovie):
    """Kills the worker that reads it, the first time that one does."""

    deadly: Deadly

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.deadly(super().read(start, stop))


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def process_and_square(number: int) -> tuple[int, int]:
    return os.getpid(), number**2


def complain(number: int) -> int:
    if number == 2:
        raise LarscopeError("expected another number")
    warnings.warn(f"number {number}", UserWarning, stacklevel=1)
    return number


@pytest.mark.slow
def test_a_worker_of_a_cluster_that_is_killed_loses_nothing(scheduler, session, tmp_path):
    with open_workers(scheduler=scheduler):
        assert list(hand_out(Deadly(tmp_path / "killed"), range(8))) == list(range(8))
    assert (tmp_path / "killed").exists()
    # while it prepares frames
    deadly = Deadly(tmp_path / "killed again")
    movies = [replace(run, movie=DeadlyMovie(run.movie.array, deadly)) for run in session]
    read: list[int] = []
    with open_workers(scheduler=scheduler):
        prepared = prepare(Session(tuple(movies)), cache=tmp_path / "cache", on_frames=read.append)
    assert deadly.marker.exists()
    assert read == [run.n_frames for run in session]
    here = prepare(session)
    assert prepared.preprocessing == here.preprocessing
    for run in range(len(session)):
        np.testing.assert_array_equal(prepared.frames(run), here.frames(run))
    assert len(list((tmp_path / "cache").glob("[!.]*"))) == len(session)


def hold_memory(n_bytes: int) -> int:
    HELD.append(np.ones(n_bytes, np.uint8))
    time.sleep(1.1)  # loky looks no more often than each second
    return os.getpid()


HELD: list[np.ndarray] = []


@pytest.mark.slow
def test_processes_of_this_machine_may_keep_memory(recwarn):
    with open_workers(jobs=2):
        processes = list(hand_out(hold_memory, [1, 1, 1, 4 * 10**8, 1, 1, 1, 1]))
    assert len(set(processes)) == 2
    assert not recwarn.list


def test_a_killed_process_of_this_machine_is_said(tmp_path):
    with pytest.raises(LarscopeError, match=r"one was killed: .*Give the same command again"), open_workers(jobs=2):
        list(hand_out(Deadly(tmp_path / "killed"), range(4)))


ENDLESS = """
import os, time
from larscope._compute.workers import hand_out, open_workers
def work(_):
    print(os.getpid(), flush=True)
    time.sleep(600)
with open_workers(jobs=2):
    list(hand_out(work, [1, 2]))
"""


def test_processes_of_this_machine_end_with_the_one_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True) as main:
        workers = [psutil.Process(int(main.stdout.readline())) for _ in range(2)]
        main.kill()
    assert not psutil.wait_procs(workers, timeout=60)[1]


WATCHED = """
import os, sys, time
from larscope._compute import workers
workers.platform.system = lambda: "Darwin"
if len(sys.argv) > 1:
    workers.end_with(int(sys.argv[1]))
    print(os.getpid(), flush=True)
    time.sleep(600)
else:
    import subprocess
    subprocess.run([sys.executable, __file__, str(os.getpid())])
"""


def test_a_process_ends_with_its_parent_where_the_system_does_not_see_to_it(tmp_path):
    (tmp_path / "watched.py").write_text(WATCHED)
    with subprocess.Popen([sys.executable, tmp_path / "watched.py"], stdout=subprocess.PIPE, text=True) as main:
        watched = psutil.Process(int(main.stdout.readline()))
        main.kill()
    assert not psutil.wait_procs([watched], timeout=60)[1]


FAILING = """
import time
from larscope._compute.workers import hand_out, open_workers
def work(number):
    time.sleep(0.05 if number != 2 else -1)
try:
    with open_workers(jobs=2):
        list(hand_out(work, range(40)))
except ValueError as error:
    print(error)
"""


def test_of_a_piece_that_fails_nothing_else_is_said_than_its_error():
    done = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, text=True, check=True, timeout=300)
    assert (done.stdout, done.stderr) == ("sleep length must be non-negative\n", "")


def test_work_that_kills_every_worker_is_said(scheduler, tmp_path):
    with pytest.raises(LarscopeError, match="one was killed"), open_workers(scheduler=scheduler):
        list(hand_out(kill, range(2)))


def kill(_: int) -> None:
    psutil.Process().kill()


def permute() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    position = rng.normal(size=(16, 3))
    pairs = PairDistances(((position[:, None] - position) ** 2).sum(2), None, symmetric=True)
    label = ["familiar"] * 8 + ["novel"] * 8
    test = max_t(rng.normal(size=(16, 50, 50)), permute_labels(exchangeable_units(label), n_permutations=3000))
    return [test.pvalue, test.statistic, compare_pairs(pairs, label, n_permutations=3000).permuted]


def test_outcomes_come_in_order_from_other_processes_with_what_they_say(two_workers):
    here = permute()
    with open_workers(**two_workers):
        processes, squares = zip(*hand_out(process_and_square, range(20)), strict=True)
        with pytest.warns(UserWarning, match="number 1"):
            assert list(hand_out(complain, [1])) == [1]
        with quiet(), pytest.raises(LarscopeError, match="expected another number"):
            list(hand_out(complain, range(4)))
        there = permute()
    assert squares == tuple(number**2 for number in range(20))
    assert HERE not in processes
    assert {process for process, _ in hand_out(process_and_square, range(3))} == {HERE}
    for ours, theirs in zip(there, here, strict=True):  # to the last bit
        np.testing.assert_array_equal(ours, theirs)


def same(ours: LatentVAR, theirs: LatentVAR) -> bool:
    """Whether two models are, but for rounding: a worker has one thread."""
    pd.testing.assert_frame_equal(ours.scores_, theirs.scores_, check_dtype=False, rtol=1e-4)
    np.testing.assert_allclose(ours.contribution_maps_, theirs.contribution_maps_, rtol=1e-3, atol=1e-5)
    for series, other in zip(ours.latents_, theirs.latents_, strict=True):
        np.testing.assert_allclose(series, other, rtol=1e-4, atol=1e-5)
    return all(value.equal(theirs.network_.state_dict()[name]) for name, value in ours.network_.state_dict().items())


@pytest.fixture(scope="module")
def here(narrow_table) -> LatentVAR:
    """What this process makes of a session."""
    with quiet():
        return LatentVAR(**SETTINGS).fit(read_session(narrow_table))


def test_a_fit_by_the_workers_of_a_cluster_is_that_of_this_process(scheduler, narrow_table, here):
    with quiet(), open_workers(scheduler=scheduler):
        there = LatentVAR(**SETTINGS).fit(read_session(narrow_table))
        assert same(there.refit(read_session(narrow_table), penalty=0.8), here.refit(here._session, penalty=0.8))
    assert same(there, here)


def test_the_command_line_hands_out_fits_and_comparisons(scheduler, narrow_table, here, tmp_path):
    settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
    out = tmp_path / "result"
    with quiet():
        app(["fit", str(narrow_table), "--out", str(out), *settings, "--jobs=2"], standalone_mode=False)
        app(["compare", str(out), "familiar", "novel", f"--scheduler={scheduler}"], standalone_mode=False)
    assert same(load(out), here)
    assert (out / "comparisons").is_dir()


def test_a_scheduler_that_does_not_answer_is_said(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("larscope._compute.workers.PATIENCE", "1s")
    with pytest.raises(LarscopeError, match="A dask scheduler must answer"), connect("tcp://127.0.0.1:1"):
        pass
