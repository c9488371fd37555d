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


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_fit_resumes_and_ends_as_an_uninterrupted_one(how, session, tmp_path):
    lines = ["path,condition"]
    for run in session:
        np.save(tmp_path / f"{run.name}.npy", run.movie.array)
        lines.append(f"{run.name}.npy,{run.condition}")
    (tmp_path / "session.csv").write_text("\n".join(lines))

    def command(out):
        options = ["--order", "2", "--window", "32", "--penalty", "0.002", "--epochs", "30"]
        return [sys.executable, "-m", "larscope", "fit", str(tmp_path / "session.csv"), "--out", str(out), *options]

    process = subprocess.Popen(command(tmp_path / "b"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".b.checkpoints-*/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(how)
    _, complaint = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "give the same command again" in complaint
    assert not (tmp_path / "b").exists()
    resumed = subprocess.run(command(tmp_path / "b"), capture_output=True, text=True, check=True)
    assert "goes on from epoch" in resumed.stdout
    subprocess.run(command(tmp_path / "a"), capture_output=True, check=True)
    whole, parts = load(tmp_path / "a"), load(tmp_path / "b")
    assert parts.log_ == whole.log_
    assert parts.scores_.equals(whole.scores_)
    for name, value in whole.network_.state_dict().items():
        assert value.equal(parts.network_.state_dict()[name]), name
    assert not list(tmp_path.glob(".*"))
