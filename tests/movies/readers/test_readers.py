"""Readers and the session table, against the libraries that wrote the files."""

import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import hypothesis.strategies as st
import numpy as np
import psutil
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis.extra.numpy import array_shapes, arrays

from larscope._errors import LarscopeError
from larscope._movies.preprocessing import prepare
from larscope._movies.readers.formats import READERS, open_movie
from larscope._movies.readers.npy import NpyMovie
from larscope._movies.table import read_session

DATA = Path(__file__).parents[4] / "shared" / "data"
RECORDED = {"mouse_2p": "movie.tiff", "mouse_s1_vr": "movie.tif"}

FRAMES = np.random.default_rng(0).integers(0, 65_535, (6, 20, 30)).astype(np.uint16)


def write_each_frame(path: Path, frames: np.ndarray, **options: object) -> None:
    with tifffile.TiffWriter(path) as writer:
        for frame in frames:
            writer.write(frame, contiguous=False, photometric="minisblack", **options)


def write_chunks(path: Path, frames: np.ndarray) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(frames[:4], compression="zlib", photometric="minisblack")
        writer.write(frames[4:], compression="zlib", photometric="minisblack")


def tiff(**options: object) -> Callable[[Path, np.ndarray], None]:
    return lambda path, frames: tifffile.imwrite(path, frames, photometric="minisblack", **options)


TIFFS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "plain": tiff(),
    "no metadata": tiff(metadata=None),
    "big-endian": tiff(byteorder=">"),
    "BigTIFF": tiff(bigtiff=True),
    "ImageJ": tiff(imagej=True, metadata={"axes": "TYX"}),
    "OME": tiff(ome=True, metadata={"axes": "TYX"}),
    "zlib": tiff(compression="zlib"),
    "lzw": tiff(compression="lzw"),
    "packbits": tiff(compression="packbits"),
    "predictor": tiff(compression="zlib", predictor=True),
    "strips": tiff(rowsperstrip=4),
    "tiles": tiff(tile=(16, 16)),
    "one page for all": tiff(truncate=True),
    "frame by frame": write_each_frame,
    "frame by frame, no metadata": lambda path, frames: write_each_frame(path, frames, metadata=None),
    "frame by frame, zlib": lambda path, frames: write_each_frame(path, frames, compression="zlib"),
    "chunk by chunk": write_chunks,
}


def write_npy(path: Path, frames: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, frames)


def write_hdf5(path: Path, frames: np.ndarray, **options: object) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("imaging/frames", data=frames, **options)


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = TIFFS | {
    "npy": write_npy,
    "npy, Fortran order": lambda path, frames: write_npy(path, np.asfortranarray(frames)),
    "HDF5": write_hdf5,
    "HDF5, chunks": lambda path, frames: write_hdf5(path, frames, chunks=(1, 8, 8), compression="gzip"),
}


def read_all(path: Path) -> np.ndarray:
    movie = open_movie(path)
    return movie.read(0, movie.shape[0])


# The same pixels


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    frames=st.sampled_from([np.uint16, np.int16, np.uint8]).flatmap(
        lambda dtype: arrays(dtype, array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=20))
    ),
    kind=st.sampled_from(["plain", "BigTIFF", "packbits", "frame by frame", "npy", "HDF5"]),
    data=st.data(),
)
def test_slices_equal_the_whole(tmp_path: Path, frames: np.ndarray, kind: str, data: st.DataObject) -> None:
    path = tmp_path / "movie"
    WRITERS[kind](path, frames)
    movie = open_movie(path)
    start = data.draw(st.integers(0, len(frames)))
    stop = data.draw(st.integers(start, len(frames)))
    assert movie.shape == frames.shape
    assert np.array_equal(movie.read(start, stop), frames[start:stop])


def test_a_plain_image_is_a_movie_of_one_frame(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", FRAMES[0])
    assert np.array_equal(read_all(tmp_path / "image.tif"), FRAMES[:1])


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_movies_read_as_tifffile_reads_them(name: str) -> None:
    path = DATA / name / RECORDED[name]
    if not path.is_file():
        pytest.skip(f"no recorded movie at {path}")
    expected = tifffile.imread(path)
    movie = open_movie(path)
    assert (movie.shape, movie.dtype) == (expected.shape, expected.dtype)
    assert np.array_equal(movie.read(0, len(expected)), expected)
    assert np.array_equal(movie.read(123, 131), expected[123:131])


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_sessions_hold_the_frames_of_their_table(name: str) -> None:
    table = DATA / name / "session.csv"
    if not table.is_file():
        pytest.skip(f"no recorded session at {table}")
    session = read_session(table)
    expected = tifffile.imread(DATA / name / RECORDED[name])
    prepared = prepare(session)
    for run, one in zip(session, prepared.runs, strict=True):
        assert np.array_equal(one.movie.read(0, one.n_frames), expected[run.start : run.stop])


def test_content_decides_not_the_extension(tmp_path: Path) -> None:
    for kind in ("plain", "npy", "HDF5"):
        WRITERS[kind](tmp_path / "movie.dat", FRAMES)
        assert np.array_equal(read_all(tmp_path / "movie.dat"), FRAMES)
    assert {reader.name for reader in READERS} >= {"TIFF", "NumPy", "HDF5"}


def test_the_file_is_not_held_open_or_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "movie.tif"
    TIFFS["plain"](path, FRAMES)
    movie = open_movie(path)
    TIFFS["plain"](path, FRAMES[::-1])
    assert np.array_equal(movie.read(0, 1), FRAMES[-1:])


# Damaged files: an error or the true pixels, never zeros, never a shorter movie


def test_a_truncated_tiff_names_the_first_frame_that_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "movie.tif"
    tifffile.imwrite(path, FRAMES, photometric="minisblack")
    with tifffile.TiffFile(path) as file:
        start = file.series[0].dataoffset
    path.write_bytes(path.read_bytes()[: start + 3 * FRAMES[0].nbytes + 10])
    with pytest.raises(
        LarscopeError,
        match=r"frame 3 of 6 is not whole: its pixels lie .* keep the 3 frames before",
    ):
        open_movie(path)
    write_each_frame(path, FRAMES, metadata=None)
    with tifffile.TiffFile(path) as file:
        end = file.pages[4].dataoffsets[0]
    path.write_bytes(path.read_bytes()[: end + 10])
    with pytest.raises(LarscopeError, match=r"frame 4 is not whole: its pixels lie beyond the end of the file"):
        open_movie(path)


def test_a_truncated_tiff_leaves_no_other_messages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "movie.tif"
    for kind in ("plain", "zlib", "frame by frame"):
        TIFFS[kind](path, FRAMES)
        whole = path.read_bytes()
        for share in (0.3, 0.6, 0.9):
            path.write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(LarscopeError, match="is truncated"):
                open_movie(path)
    assert not caplog.records


def test_truncation_after_opening_is_an_error_too(tmp_path: Path) -> None:
    for kind in ("plain", "zlib", "HDF5, chunks"):
        path = tmp_path / kind
        WRITERS[kind](path, FRAMES)
        movie = open_movie(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(LarscopeError, match="Expected frames 0 to 6"):
            movie.read(0, 6)


def test_damaged_compression_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "movie.tif"
    TIFFS["zlib"](path, FRAMES)
    with tifffile.TiffFile(path) as file:
        start = file.pages[3].dataoffsets[0]
    damaged = bytearray(path.read_bytes())
    damaged[start : start + 40] = bytes(40)
    path.write_bytes(damaged)
    movie = open_movie(path)
    assert np.array_equal(movie.read(0, 3), FRAMES[:3])
    with pytest.raises(LarscopeError, match=r"frames 2 to 5 of .*movie\.tif; they cannot be read"):
        movie.read(2, 5)


def test_a_loop_of_pages_ends(tmp_path: Path) -> None:
    path = tmp_path / "movie.tif"
    write_each_frame(path, FRAMES, metadata=None)
    with tifffile.TiffFile(path) as file:
        first, last = file.pages[0].offset, file.pages[5].offset
    looped = bytearray(path.read_bytes())
    n_tags = int.from_bytes(looped[last : last + 2], "little")
    position = last + 2 + 12 * n_tags
    looped[position : position + 4] = first.to_bytes(4, "little")
    path.write_bytes(looped)
    with pytest.raises(LarscopeError, match=r"movie\.tif"):
        open_movie(path)


@pytest.mark.parametrize("chunks", [None, (2, 20, 30)])
def test_hdf5_frames_that_were_never_written_are_not_read_as_zeros(
    tmp_path: Path, chunks: tuple[int, int, int] | None
) -> None:
    path = tmp_path / "movie.h5"
    with h5py.File(path, "w") as file:
        stack = file.create_dataset("frames", FRAMES.shape, np.uint16, chunks=chunks)
        if chunks:
            stack[:4] = FRAMES[:4]
    with pytest.raises(LarscopeError, match=r"truncated: frame [04] of 6 is not whole: (it was never|found 2 of 3)"):
        open_movie(path)


# Files that are no movie


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LarscopeError, match=r"nowhere\.tif does not exist. Correct the `path` column"):
        open_movie(tmp_path / "nowhere.tif")
    with pytest.raises(LarscopeError, match="is a folder"):
        open_movie(tmp_path)


@pytest.mark.parametrize("content", [b"", b"II", b"not a movie"])
def test_unknown_formats_list_the_known_ones(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "movie.tif"
    path.write_bytes(content)
    with pytest.raises(LarscopeError, match=r"movie\.tif begins with .* TIFF \.tif .* HDF5"):
        open_movie(path)


def test_images_of_several_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mixed.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(FRAMES, photometric="minisblack")
        writer.write(FRAMES[0, :10], photometric="minisblack")
    with pytest.raises(LarscopeError, match=r"images of different sizes .* page 0 has 20 x 30 pixels, page 6 10 x 30"):
        open_movie(path)


@pytest.mark.parametrize("shape", [(20,), (20, 30), (2, 3, 20, 30)])
def test_arrays_must_have_three_dimensions(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "movie.npy", np.zeros(shape))
    with pytest.raises(LarscopeError, match=r"frames, height, width; .*movie\.npy has shape"):
        open_movie(tmp_path / "movie.npy")
    write_hdf5(tmp_path / "movie.h5", np.zeros(shape))
    with pytest.raises(LarscopeError, match=r"frames, height, width in .*movie\.h5; it has none"):
        open_movie(tmp_path / "movie.h5")


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "movie.npy", np.array([[[{}]]]), allow_pickle=True)
    with pytest.raises(LarscopeError, match=r"movie\.npy"):
        open_movie(tmp_path / "movie.npy")


def test_a_stack_is_chosen_among_several(tmp_path: Path) -> None:
    path = tmp_path / "two.h5"
    with h5py.File(path, "w") as file:
        file["green/frames"], file["red/frames"], file["mean"] = FRAMES, FRAMES[::-1], FRAMES[0]
    with pytest.raises(LarscopeError, match=r"two\.h5 holds several stacks \(green/frames, red/frames\)"):
        open_movie(path)
    with pytest.raises(LarscopeError, match="Did you mean 'green/frames'"):
        open_movie(path, "green/frame")
    assert np.array_equal(open_movie(path, "/red/frames").read(0, 6), FRAMES[::-1])


@pytest.mark.parametrize("kind", ["plain", "npy"])
def test_only_hdf5_has_datasets(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](tmp_path / "movie", FRAMES)
    with pytest.raises(LarscopeError, match=r"no datasets; got dataset='frames' for .*movie"):
        open_movie(tmp_path / "movie", "frames")


# The session table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", FRAMES)
    return tmp_path


def write_table(folder: Path, text: str) -> Path:
    table = folder / "session.csv"
    table.write_text(text, encoding="utf-8")
    return table


def test_every_column_reaches_the_run(folder: Path) -> None:
    write_hdf5(folder / "c.h5", FRAMES)
    session = read_session(
        write_table(
            folder,
            "path,condition,run,block,subject,start,stop,dataset,frame_rate,pixel_size\n"
            "a.npy,familiar,F01,1,m7,1,5,,30,0.8\n"
            "c.h5,novel,N01,2,m7,,,imaging/frames,,\n",
        )
    )
    first, second = session
    assert (first.name, first.condition, first.block, first.subject) == ("F01", "familiar", "1", "m7")
    assert (first.start, first.stop, first.frame_rate, first.pixel_size) == (1, 5, 30.0, 0.8)
    assert first.path == folder / "a.npy"
    assert np.array_equal(first.read(0, 4), FRAMES[1:5])
    assert (second.name, second.start, second.stop, second.frame_rate, second.block) == ("N01", 0, 6, None, "2")
    assert np.array_equal(second.read(0, 6), FRAMES)
    assert not session.simulated


@pytest.mark.parametrize(
    "text",
    [
        "path,condition\na.npy,familiar\nb.npy,novel\n",
        "\ufeffpath,condition\r\na.npy,familiar\r\nb.npy,novel\r\n",  # as spreadsheets write it
        " path , condition \n a.npy , familiar \n\n b.npy , novel \n",
        "condition,path,start\nfamiliar,a.npy\nnovel,b.npy\n",  # rows that end early
        'path,condition\n"a.npy","familiar"\n"b.npy","novel"\n',
    ],
)
def test_tables_are_read_however_they_are_written(folder: Path, text: str) -> None:
    session = read_session(write_table(folder, text))
    assert [(run.name, run.condition) for run in session] == [("1", "familiar"), ("2", "novel")]


def test_words_that_pandas_takes_for_missing_stay_words(folder: Path) -> None:
    session = read_session(write_table(folder, "path,condition,run,block\na.npy,NA,nan,01\nb.npy,None,2,02\n"))
    assert [run.condition for run in session] == ["NA", "None"]
    assert [run.name for run in session] == ["nan", "2"]
    assert [run.block for run in session] == ["01", "02"]


def test_a_movie_may_be_named_by_an_absolute_path(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    table = write_table(tmp_path_factory.mktemp("elsewhere"), f"path,condition\n{folder / 'a.npy'},novel\n")
    assert len(read_session(table)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,conditon\na.npy,familiar\n", "unknown column 'conditon'. Did you mean 'condition'"),
        ("path,zzz\na.npy,familiar\n", "unknown column 'zzz'. Known: path, condition"),
        ("path\na.npy\n", "column 'condition' is missing; found path"),
        ("condition\nfamiliar\n", "column 'path' is missing"),
        ("path;condition\na.npy;familiar\n", "cells must be separated by commas; got 'path;condition'"),
        ("path,condition,start,start\na.npy,familiar,1,2\n", r"unknown column 'start\.1'"),
        ("path,condition\na.npy,familiar,1\nb.npy,novel,2\n", "more cells than the header line has columns"),
        ("path,condition\na.npy,familiar\nb.npy,novel,2\n", "session.csv cannot be read"),
        ('path,condition\n"a.npy,familiar\n', "session.csv cannot be read"),
        ("", "session.csv cannot be read"),
        ("path,condition\n", "at least one run; got none"),
        ("path,condition\na.npy,familiar\nb.npy,\n", "row 2, column 'condition'"),
        ("path,condition\n,familiar\n", "row 1, column 'path'"),
        ("path,condition,start\na.npy,familiar,1.5\n", "row 1, column 'start': .* got '1.5'"),
        ("path,condition,stop\na.npy,familiar,end\n", "row 1, column 'stop': .* got 'end'"),
        ("path,condition,frame_rate\na.npy,familiar,0\n", "column 'frame_rate': .* got '0'"),
        ("path,condition,frame_rate\na.npy,familiar,inf\n", "column 'frame_rate': .* got 'inf'"),
        ("path,condition,pixel_size\na.npy,familiar,nan\n", "column 'pixel_size': .* got 'nan'"),
        ("path,condition,run,stop\na.npy,familiar,F01,7\n", r"row 1, run 'F01': .*a\.npy.* 6, .* got start=0, stop=7"),
        ("path,condition,start\na.npy,familiar,-2\n", "row 1, run '1': .* got start=-2"),
        ("path,condition\na.npy,familiar\nnowhere.tif,novel\n", r"row 2, run '2': .*nowhere\.tif does not exist"),
        ("path,condition,dataset\na.npy,familiar,x\n", "row 1, run '1': .* got dataset='x'"),
        ("path,condition,run\na.npy,familiar,F01\nb.npy,novel,F01\n", "unique; got 'F01' 2 times"),
        ("path,condition,run\na.npy,familiar,2\nb.npy,novel,\n", "unique; got '2' 2 times"),
    ],
)
def test_wrong_tables_are_explained(folder: Path, text: str, message: str) -> None:
    with pytest.raises(LarscopeError, match=message):
        read_session(write_table(folder, text))


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(LarscopeError, match=r"session\.csv does not exist"):
        read_session(tmp_path / "session.csv")


def test_a_table_in_another_encoding_is_explained(folder: Path) -> None:
    table = folder / "session.csv"
    table.write_bytes("path,condition\na.npy,für\n".encode("latin-1"))
    with pytest.raises(LarscopeError, match="Save it as comma-separated UTF-8 text"):
        read_session(table)


def test_movies_of_different_sizes_are_named(folder: Path) -> None:
    np.save(folder / "b.npy", FRAMES[:, :, :16])
    table = write_table(folder, "path,condition,run\na.npy,familiar,F01\nb.npy,novel,N01\n")
    with pytest.raises(
        LarscopeError, match=r"'F01' \(.*a\.npy\) has 20 x 30 pixels, run 'N01' \(.*b\.npy\) has 20 x 16"
    ):
        read_session(table)


def test_a_truncated_movie_is_named_with_its_row(folder: Path) -> None:
    TIFFS["zlib"](folder / "c.tif", FRAMES)
    whole = (folder / "c.tif").read_bytes()
    (folder / "c.tif").write_bytes(whole[:-200])
    with pytest.raises(LarscopeError, match=r"session\.csv, row 2, run 'N01': .*c\.tif is truncated.*frame"):
        read_session(write_table(folder, "path,condition,run\na.npy,familiar,F01\nc.tif,novel,N01\n"))


# .npy by range


def resident_bytes() -> int:
    return psutil.Process().memory_info().rss


def test_npy_frames_that_were_read_leave_the_memory(tmp_path: Path) -> None:
    frames = np.lib.format.open_memmap(tmp_path / "movie.npy", "w+", np.uint16, (800, 256, 256))
    del frames  # 105 MB, as holes
    movie = open_movie(tmp_path / "movie.npy")
    before = resident_bytes()
    for start in range(0, 800, 20):
        movie.read(start, start + 20)
    assert resident_bytes() - before < 30e6


def test_npy_needs_only_its_header(tmp_path: Path) -> None:
    write_npy(tmp_path / "movie.npy", FRAMES.astype(">i2"))
    movie = NpyMovie(tmp_path / "movie.npy")
    assert (movie.shape, movie.dtype) == (FRAMES.shape, np.dtype(np.int16))
    assert np.array_equal(pickle.loads(pickle.dumps(movie)).read(1, 9), FRAMES.astype(np.int16)[1:])


def test_npy_headers_that_ask_for_more_than_the_file_has_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "movie.npy"
    for shape in [(10**12, 20, 30), (10**15, 0, 30), (-1, 20, 30)]:
        with path.open("wb") as file:
            header = {"descr": "<u2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.write(FRAMES.tobytes())
        with pytest.raises(LarscopeError, match=r"movie\.npy (is truncated: frame 6 of|has shape)"):
            open_movie(path)
