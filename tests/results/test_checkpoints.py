import os

import numpy as np
import pytest

from larscope import LarscopeError
from larscope._movies.session import Session
from larscope._movies.table import read_session
from larscope._results.checkpoints import identify_fit, open_checkpoints
from larscope._settings import Settings


@pytest.fixture
def table(tmp_path):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.arange(64 * 20, dtype=np.uint16).reshape(20, 8, 8))
    path = tmp_path / "session.csv"
    path.write_text("path,condition\na.npy,familiar\nb.npy,novel\n")
    return path


def test_the_fit_is_another_as_soon_as_anything_that_decides_its_numbers_is(table):
    session = read_session(table)
    first = identify_fit(Settings(), session)
    assert identify_fit(Settings(), read_session(table)) == first
    others = [
        identify_fit(Settings(seed=1), session),
        identify_fit(Settings(), session, n_seeds=2),
        identify_fit(Settings(), Session(session.runs[:1])),
    ]
    table.write_text("path,condition\na.npy,familiar\nb.npy,familiar\n")
    others.append(identify_fit(Settings(), read_session(table)))
    movie = np.load(table.parent / "b.npy")
    np.save(table.parent / "b.npy", movie[::-1])
    os.utime(table.parent / "b.npy", ns=(0, 0))
    others.append(identify_fit(Settings(), read_session(table)))
    assert len({first, *others}) == 6


def test_success_leaves_nothing_behind(tmp_path):
    with open_checkpoints(tmp_path / "deep" / "result", "fit") as folder:
        (folder / "last.ckpt").write_bytes(b"weights")
    assert [path.name for path in tmp_path.rglob("*")] == ["deep"]


def interrupted(out, fit, content):
    with open_checkpoints(out, fit) as folder:
        if content:
            (folder / "last.ckpt").write_bytes(content)
        raise KeyboardInterrupt


def test_an_interruption_keeps_what_there_is_for_the_same_fit_alone(tmp_path):
    out = tmp_path / "result"
    with pytest.raises(KeyboardInterrupt):
        interrupted(out, "fit", b"weights")
    with pytest.raises(KeyboardInterrupt):
        interrupted(out, "another", None)
    with open_checkpoints(out, "fit") as folder:
        assert (folder / "last.ckpt").read_bytes() == b"weights"
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_before_there_was_anything_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "new" / "folders" / "result", "fit", None)
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_refused_and_let_in_once_the_first_has_ended(tmp_path):
    out = tmp_path / "result"
    with (
        open_checkpoints(out, "fit"),
        pytest.raises(LarscopeError, match=f"Process {os.getpid()} is already fitting into .*result"),
        open_checkpoints(out, "another"),
    ):
        pass
    with open_checkpoints(out, "another"):
        pass


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(LarscopeError, match="Checkpoints must be written beside"),
        open_checkpoints(tmp_path / "file" / "result", "fit"),
    ):
        pass
