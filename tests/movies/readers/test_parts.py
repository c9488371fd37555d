"""Files that are joined are the parts of one recording, and no others are."""

import warnings
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from written_movies import write_ome_files

from larscope._errors import LarscopeError
from larscope._movies.checks.tables import files_table
from larscope._movies.readers.formats import open_movie
from larscope._movies.readers.parts import natural, series
from larscope._movies.session import Run


def write(folder: Path, *names: str) -> None:
    """Write a frame a name; its pixels are the place of the name."""
    for number, name in enumerate(names):
        tifffile.imwrite(folder / name, np.full((8, 8), number, np.uint16), photometric="minisblack")


def first_pixels(path: Path) -> list[int]:
    movie = open_movie(path)
    return movie.read(0, movie.shape[0])[:, 0, 0].tolist()


@pytest.mark.parametrize(
    ("others", "groups"),
    [
        (["x_Ch2_000001.tif", "x_Ch2_000002.tif"], ["x_Ch1_#.tif (2 files, x_Ch1_000001.tif", "x_Ch2_#.tif (2"]),
        (["AVG_x_Ch1_000001.tif"], ["AVG_x_Ch1_000001.tif", "x_Ch1_#.tif"]),
        (["x_Preview.tif"], ["x_Preview.tif"]),
        (["x_Ch1_000001_corrected.tif", "x_Ch1_000002_corrected.tif"], ["x_Ch1_#_corrected.tif"]),
        (["x_Ch1_000003.tiff"], ["x_Ch1_000003.tiff"]),
    ],
)
def test_files_of_something_else_are_no_frames(tmp_path: Path, others: list[str], groups: list[str]) -> None:
    write(tmp_path, "x_Ch1_000001.tif", "x_Ch1_000002.tif", *others)
    for path in (tmp_path, tmp_path / "*.tif*"):
        with pytest.raises(LarscopeError, match=r"holds 2 groups") as caught:
            open_movie(path)
        assert all(group in str(caught.value) for group in groups)
    assert first_pixels(tmp_path / "x_Ch1_#.tif") == [0, 1]


def test_a_gap_in_the_numbers_is_told_and_two_files_of_one_number_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a1.tif", "a2.tif", "a3.tif", "a7.tif")
    with pytest.warns(UserWarning, match=r"leave out 3, first between a3\.tif and a7\.tif"):
        assert first_pixels(tmp_path) == [0, 1, 2, 3]
    (tmp_path / "a7.tif").rename(tmp_path / "a02.tif")
    with pytest.raises(LarscopeError, match=r"holds both a0?2\.tif and a0?2\.tif"):
        open_movie(tmp_path)


def test_number_signs_and_brackets_in_names_are_letters(tmp_path: Path) -> None:
    write(tmp_path, "m[1]_8.tif", "m[1]_9.tif", "m[1]_10.tif")
    assert first_pixels(tmp_path / "m[1]_#.tif") == [0, 1, 2]
    write(tmp_path, "a#1.tif")
    assert first_pixels(tmp_path / "a#1.tif") == [0]


def test_an_ome_set_says_itself_what_belongs_to_it(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 99, (5, 8, 8)).astype(np.uint16)
    write_ome_files(tmp_path, frames)  # a.ome.tif and b.ome.tif
    assert np.array_equal(open_movie(tmp_path).read(0, 5), frames)


def test_the_table_of_files_counts_them(tmp_path: Path) -> None:
    write(tmp_path, "f8.tif", "f9.tif", "f10.tif")
    run = Run("r", "c", open_movie(tmp_path), path=tmp_path)
    assert "3 files, f8.tif to f10.tif" in [str(cell) for cell in files_table([run]).columns[-1].cells]


NAMES = st.tuples(
    st.sampled_from(["", "", "", "AVG_", "MAX_"]),
    st.sampled_from(["_Ch1", "_Ch2", "_ChanA", ""]),
    st.sampled_from(["", "_Cycle00001", "_Cycle00002"]),
    st.integers(1, 12).map(lambda number: f"_{number:03}"),
    st.sampled_from(["", "", "_Preview", "_corrected"]),
    st.sampled_from([".tif", ".tif", ".tiff"]),
)
"""What a name begins with, its channel, cycle, part and end, and its extension."""


@settings(max_examples=80, deadline=None)
@given(st.sets(NAMES, min_size=1, max_size=8))
def test_what_is_read_of_a_folder_is_one_group_or_refused(tmp_path_factory: pytest.TempPathFactory, names) -> None:
    folder = tmp_path_factory.mktemp("movies")
    ordered = sorted(("rec".join((before, "".join(rest))) for before, *rest in names), key=lambda n: natural(Path(n)))
    write(folder, *ordered)
    differing = [place for place, words in enumerate(zip(*names, strict=True)) if len(set(words)) > 1]
    # one running number: the part's, or the cycle's where every name has a cycle
    one = differing in ([], [3]) or (differing == [2] and all(name[2] for name in names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gaps
        if one:
            assert first_pixels(folder) == list(range(len(ordered)))
        else:
            with pytest.raises(LarscopeError, match="groups"):
                open_movie(folder)
        for name, files in series([folder / name for name in ordered]).items():
            assert first_pixels(folder / name) == [ordered.index(file.name) for file in files]  # what is offered opens


@pytest.mark.parametrize(
    "names", [("x_Ch1.tif", "x_Ch2.tif"), ("a_z01.tif", "a_z02.tif"), ("recPlane0.tif", "recPlane1.tif")]
)
def test_a_number_of_a_channel_or_plane_runs_only_if_you_say_so(tmp_path: Path, names: tuple[str, str]) -> None:
    write(tmp_path, *names)
    with pytest.raises(LarscopeError, match="2 groups"):
        open_movie(tmp_path)
    assert first_pixels(tmp_path / f"{names[0][:-5].rstrip('0')}#.tif") == [0, 1]


@pytest.mark.parametrize("word", ["batch", "patch_", "arc", "jazz", "", "day3_"])
def test_a_number_after_any_other_word_runs(tmp_path: Path, word: str) -> None:
    write(tmp_path, f"{word}1.tif", f"{word}2.tif")
    assert first_pixels(tmp_path) == [0, 1]
