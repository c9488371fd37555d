"""Traces as others save them: the right numbers, or a refusal that says why."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from larscope._errors import LarscopeError
from larscope._movies.traces import read_traces

F = np.arange(24, dtype=np.float32).reshape(3, 8)  # suite2p's: cells x frames


def table_of(folder: Path, *rows: str, header: str = "path,condition") -> Path:
    path = folder / "session.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def write_suite2p(folder: Path, stat: object = None) -> Path:
    plane = folder / "suite2p" / "plane0"
    plane.mkdir(parents=True)
    np.save(plane / "F.npy", F)
    np.save(plane / "Fneu.npy", np.ones_like(F))
    np.save(plane / "iscell.npy", np.array([[1, 0.9], [0, 0.2], [1, 0.8]]))
    if stat is not None:
        np.save(plane / "stat.npy", np.array(stat, dtype=object), allow_pickle=True)
    return folder


def region(row: int, column: int) -> dict[str, object]:
    return {
        "ypix": np.array([row, row + 1]),
        "xpix": np.array([column, column]),
        "lam": np.array([0.5, 1.0]),
        "med": [1, 2],
    }


def test_suite2p_s_cells_without_their_neuropil_and_where_they_are(tmp_path):
    write_suite2p(tmp_path / "day1", [region(0, 1), region(2, 2), region(4, 3)])
    found = read_traces(table_of(tmp_path, "day1,a,0,4", "day1,b,4,8", header="path,condition,start,stop"))
    np.testing.assert_allclose(found.traces[0], (F[[0, 2], :4] - 0.7).T, rtol=1e-6)
    np.testing.assert_allclose(found.traces[1], (F[[0, 2], 4:] - 0.7).T, rtol=1e-6)
    assert found.condition == ["a", "b"]
    assert found.footprints.shape == (2, 6, 4)
    assert found.footprints[0, :2, 1].tolist() == [0.5, 1.0]
    assert found.footprints[1].sum() == 1.5


def test_a_file_of_its_array_has_all_regions(tmp_path):
    write_suite2p(tmp_path / "day1")
    found = read_traces(table_of(tmp_path, "day1/suite2p/plane0/F.npy,a"))
    np.testing.assert_array_equal(found.traces[0], F.T)


@pytest.mark.parametrize("suffix", ["npy", "csv", "nwb"])
def test_other_files_have_frames_in_rows(tmp_path, suffix):
    path = tmp_path / f"traces.{suffix}"
    if suffix == "npy":
        np.save(path, F.T)
    elif suffix == "csv":
        path.write_text("one,two,three\n" + "\n".join(",".join(map(str, row)) for row in F.T), encoding="utf-8")
    else:
        with h5py.File(path, "w") as file:
            series = file.create_group("processing/ophys/Fluorescence/RoiResponseSeries")
            series.attrs["neurodata_type"] = "RoiResponseSeries"
            series["data"] = F.T
    found = read_traces(table_of(tmp_path, f"{path.name},a"))
    np.testing.assert_array_equal(found.traces[0], F.T)
    assert found.footprints is None


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/larscope-was-here"),))


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    write_suite2p(tmp_path / "day1", [region(0, 1), Evil(), region(4, 3)])
    with pytest.raises(LarscopeError, match=r"row 1: expected traces .* it would call"):
        read_traces(table_of(tmp_path, "day1,a"))
    assert not Path("/tmp/larscope-was-here").exists()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["nothing.npy,a"], "row 1: expected traces; .*nothing.npy does not exist"),
        (["text.txt,a"], "ending in .npy, .csv or .nwb"),
        (["flat.npy,a"], r"expected numbers in \(frames, cells\); got float64 of shape \(5,\)"),
        (["empty,a"], "expected suite2p's F.npy"),
        (["pickled.npy,a"], "cannot be read"),
    ],
)
def test_what_holds_no_traces_is_refused(tmp_path, rows, said):
    (tmp_path / "text.txt").write_text("1", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "flat.npy", np.zeros(5))
    (tmp_path / "pickled.npy").write_bytes(pickle.dumps([1]))
    with pytest.raises(LarscopeError, match=said):
        read_traces(table_of(tmp_path, *rows))


def test_a_cut_lies_within_the_frames(tmp_path):
    np.save(tmp_path / "traces.npy", F.T)
    with pytest.raises(LarscopeError, match="within its 8 frames; got 4 and 9"):
        read_traces(table_of(tmp_path, "traces.npy,a,4,9", header="path,condition,start,stop"))
