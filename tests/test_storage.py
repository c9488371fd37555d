"""Files are written whole or not at all, held by one process, and read from no other place than their own."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import filelock
import h5py
import numpy as np
import pytest

import larscope
from larscope import LarscopeError
from larscope._storage import (
    UNFINISHED,
    creating,
    describe_inputs,
    locked,
    put_in_place,
    reading_hdf5,
    replacing,
    unfinished,
    write_text,
)

SOURCE = Path(larscope.__file__).parent


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(giving, text: str, stop: bool = False, meanwhile: Path | None = None) -> None:
    with giving as path:
        path.write_text(text)
        if stop:
            raise KeyboardInterrupt
        if meanwhile is not None:
            meanwhile.write_text("another's")


def test_a_file_takes_the_place_of_another_once_it_is_whole(tmp_path):
    place = tmp_path / "report.html"
    place.write_text("old")
    with replacing(place) as path:
        path.write_text("new")
        assert path.suffix == ".html"
        assert place.read_text() == "old"
    assert place.read_text() == "new"
    with pytest.raises(KeyboardInterrupt):
        write(replacing(place), "half", stop=True)
    assert place.read_text() == "new"
    assert names(tmp_path) == ["report.html"]


def test_a_folder_takes_the_place_of_an_empty_one_and_of_no_other(tmp_path):
    place = tmp_path / "result"
    place.mkdir()
    with replacing(place) as path:
        path.mkdir()
        (path / "a").touch()
    assert names(place) == ["a"]
    with pytest.raises(OSError, match="result"), replacing(place) as path:
        shutil.copytree(place, path)
    assert names(place) == ["a"]
    assert names(tmp_path) == ["result"]


def test_a_new_file_never_takes_the_place_of_another(tmp_path):
    place = tmp_path / "a.nwb"
    with creating(place) as path:
        path.write_text("first")
    with pytest.raises(FileExistsError):
        write(creating(place), "second")
    late = tmp_path / "b.nwb"
    with pytest.raises(FileExistsError):
        write(creating(late), "second", meanwhile=late)
    assert (place.read_text(), late.read_text()) == ("first", "another's")
    assert names(tmp_path) == ["a.nwb", "b.nwb"]


def test_a_new_file_that_cannot_be_moved_leaves_its_name_free(tmp_path, monkeypatch):
    def fails(self, target):
        raise PermissionError("in use")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(PermissionError, match="in use"):
        write(creating(tmp_path / "a.nwb"), "whole")
    assert names(tmp_path) == []


def test_what_killed_processes_were_writing_is_removed(tmp_path):
    here = f"{UNFINISHED}-{socket.gethostname()}"
    (tmp_path / f"{here}-999999999-a").mkdir()
    (tmp_path / f"{here}-999999999-b.json").touch()
    kept = {f"{here}-{os.getppid()}-a", f"{UNFINISHED}-elsewhere-9-a", f"{here}-notes"}
    for name in kept:
        (tmp_path / name).touch()
    with unfinished(tmp_path / "any") as path:
        path.mkdir()
    assert set(names(tmp_path)) == kept


def test_text_is_written_with_the_same_ends_of_lines_on_every_system(tmp_path):
    write_text(tmp_path / "a", "\u00e9\nb\n")
    assert (tmp_path / "a").read_bytes() == "\u00e9\nb\n".encode()
    by_itself = re.compile(r"\.write_text\(|\.to_csv\((?!.*lineterminator)")  # would write CRLF on Windows
    found = {
        path.name
        for path in SOURCE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if by_itself.search(line) and ">>>" not in line
    }
    assert found == {"_storage.py"}


HOLDING = """
import sys
from pathlib import Path
from larscope._storage import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_holds_off_other_processes_until_its_own_ends_however_it_does(tmp_path):
    place = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline().strip() == b"held"
        with pytest.raises(BlockingIOError), locked(place):
            pass
        other.kill()
        other.wait()
        with locked(place), pytest.raises(BlockingIOError), locked(place):
            pass
    assert names(tmp_path) == []


def test_a_lock_works_where_files_in_use_cannot_be_removed(tmp_path, monkeypatch):
    """As on Windows."""
    held = []
    unlink, release = Path.unlink, filelock.FileLock.release

    def refuse(path, missing_ok=False):
        if held:
            raise PermissionError("in use")
        unlink(path, missing_ok)

    def let_go(lock, *arguments, **options):
        held.clear()
        release(lock, *arguments, **options)

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(filelock.FileLock, "release", let_go)
    place = tmp_path / "lock"
    with locked(place):
        held.append(place)
    assert not os.path.lexists(place)


def test_a_folder_has_the_same_digest_whatever_separates_names_on_a_system(tmp_path):
    (tmp_path / "movie.zarr" / "c").mkdir(parents=True)
    (tmp_path / "movie.zarr" / "c" / "0").write_bytes(b"frames")
    [here] = describe_inputs([tmp_path / "movie.zarr"])
    parts = [["c/0", 6, hashlib.sha256(b"frames").hexdigest()]]
    assert here["sha256"] == hashlib.sha256(json.dumps(parts).encode()).hexdigest()


# Files that would read other files


@pytest.fixture
def secret(tmp_path) -> Path:
    place = tmp_path / "private"
    place.mkdir()
    with h5py.File(place / "secret.h5", "w") as file:
        file["data"] = np.arange(4)
    return place / "secret.h5"


def link(file: h5py.File, secret: Path) -> None:
    file["a/data"] = h5py.ExternalLink(str(secret), "data")


def store_outside(file: h5py.File, secret: Path) -> None:
    file.create_dataset("a/data", 4, "u1", external=[(str(secret), 0, 4)])


def point(file: h5py.File, source: Path | str) -> None:
    layout = h5py.VirtualLayout(4, int)
    layout[:] = h5py.VirtualSource(str(source), "data", 4)
    file.create_virtual_dataset("a/data", layout)


def point_out_of_the_folder(file: h5py.File, secret: Path) -> None:
    point(file, Path("..") / secret.parent.name / secret.name)


def point_to_nothing(file: h5py.File, secret: Path) -> None:
    point(file, "nothing.h5")


def point_to_a_file_that_is_linked(file: h5py.File, secret: Path) -> None:
    (Path(file.filename).parent / "beside.h5").symlink_to(secret)
    point(file, "beside.h5")


def point_to_a_file_that_stores_outside(file: h5py.File, secret: Path) -> None:
    with h5py.File(Path(file.filename).parent / "beside.h5", "w") as beside:
        store_outside(beside, secret)
    point(file, "beside.h5")


@pytest.mark.parametrize(
    "lead",
    [
        link,
        store_outside,
        point,
        point_out_of_the_folder,
        point_to_nothing,
        point_to_a_file_that_is_linked,
        point_to_a_file_that_stores_outside,
    ],
)
def test_a_file_that_reads_other_files_is_refused_wherever_in_it_it_does(lead, secret, tmp_path):
    (tmp_path / "received").mkdir()
    path = tmp_path / "received" / "a.h5"
    with h5py.File(path, "w") as file:
        lead(file, secret)
        file["b"] = h5py.SoftLink("/a/data")
    with pytest.raises(LarscopeError, match=r"Expected everything in .* 'a/data' lies in"), reading_hdf5(path):
        pass


def test_links_inside_a_file_and_frames_in_files_beside_it_are_read(tmp_path):
    for name, source in (("whole.h5", None), ("parts.h5", "whole.h5"), ("again.h5", "parts.h5")):
        with h5py.File(tmp_path / name, "w") as file:
            if source is None:
                file["data"] = np.arange(4)
            else:
                point(file, source)
                file["data"] = h5py.SoftLink("/a/data")
                file["gone"] = h5py.SoftLink("/nothing")
                file["self"] = file["/"]
    with reading_hdf5(tmp_path / "again.h5") as file:
        assert file["data"][:].tolist() == [0, 1, 2, 3]


def test_files_that_point_to_each_other_end(tmp_path):
    for name, source in (("a.h5", "b.h5"), ("b.h5", "a.h5")):
        with h5py.File(tmp_path / name, "w") as file:
            point(file, source)
    with reading_hdf5(tmp_path / "a.h5"):
        pass


def test_nothing_is_opened_but_by_the_gate():
    opening = re.compile(r"h5py\.File\([^)]|load_dataset\(|open_dataset\(|open_datatree\(")
    found = {path.name for path in SOURCE.rglob("*.py") if opening.search(path.read_text(encoding="utf-8"))}
    assert found == {"_storage.py", "folder.py"}  # the latter within `reading_hdf5`


def test_put_in_place_says_what_hinders_it(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        put_in_place(tmp_path / "new", tmp_path / "file")
