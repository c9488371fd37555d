import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from larscope import LarscopeError, load
from larscope.checkpoints import open_checkpoints
from larscope.settings import Settings


def test_the_folder_depends_on_everything_that_decides_the_numbers(session, tmp_path):
    def name(settings, runs=session):
        with open_checkpoints(tmp_path / "result", settings, runs) as folder:
            return folder.name

    assert name(Settings()) == name(Settings())
    assert name(Settings()) != name(Settings(seed=1))
    assert name(Settings()) != name(Settings(), type(session)(session.runs[:3]))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_fit_keeps_its_checkpoints_and_lets_the_next_in(session, tmp_path):
    def fail():
        with open_checkpoints(tmp_path / "result", Settings(), session) as folder:
            (folder / "last.ckpt").write_bytes(b"weights")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with open_checkpoints(tmp_path / "result", Settings(), session) as folder:
        assert (folder / "last.ckpt").read_bytes() == b"weights"
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_refused(session, tmp_path):
    with (
        open_checkpoints(tmp_path / "result", Settings(), session),
        pytest.raises(LarscopeError, match=f"Process {os.getpid()} is already fitting"),
        open_checkpoints(tmp_path / "result", Settings(), session),
    ):
        pass


@pytest.fixture(scope="module")
def command(session, tmp_path_factory):
    """The command line of a small fit, without its `--out`."""
    folder = tmp_path_factory.mktemp("movies")
    lines = ["path,condition"]
    for run in session:
        np.save(folder / f"{run.name}.npy", run.movie.array)
        lines.append(f"{run.name}.npy,{run.condition}")
    (folder / "session.csv").write_text("\n".join(lines))
    options = ["--order", "2", "--window", "32", "--penalty", "0.002", "--epochs", "20"]
    return [sys.executable, "-m", "larscope", "fit", str(folder / "session.csv"), *options, "--out"]


@pytest.fixture(scope="module")
def uninterrupted(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "result"
    subprocess.run([*command, str(out)], capture_output=True, check=True)
    return load(out)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_fit_resumes_and_ends_as_an_uninterrupted_one(how, command, uninterrupted, tmp_path):
    out = tmp_path / "result"
    process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob(".result.checkpoints-*/last.ckpt")):
        assert process.poll() is None, "ended before its first checkpoint"
        time.sleep(0.02)
    process.send_signal(how)
    _, complaint = process.communicate(timeout=60)
    assert not out.exists()
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "Give the same command again" in complaint

    resumed = subprocess.run([*command, str(out)], capture_output=True, text=True, check=True)
    assert "goes on from epoch" in resumed.stdout
    parts = load(out)
    assert parts.log_ == uninterrupted.log_
    assert parts.scores_.equals(uninterrupted.scores_)
    for name, value in uninterrupted.network_.state_dict().items():
        assert value.equal(parts.network_.state_dict()[name]), name
    assert list(tmp_path.iterdir()) == [out]
