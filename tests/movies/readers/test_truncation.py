"""Movies cut short, at every structural boundary: an error that names the file, or the exact prefix of whole frames."""

import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from written_movies import KINDS, files_of, write_video

from larscope._errors import LarscopeError
from larscope._movies.readers.formats import open_movie
from larscope._movies.table import read_session

N_FRAMES = 6
FRAMES = np.random.default_rng(0).integers(1, 65_536, (N_FRAMES, 20, 30))

KEPT_AT_LEAST = {
    "npy, Fortran order": 0,  # every pixel's last frame lies near the end
    "MP4": 0,  # without its index, which comes last, nothing can be decoded
    "MOV": 0,
    "OME": 0,  # tifffile writes the metadata last
    "OME, TZCYX": 0,
    "OME, CTZYX": 0,
    "NWB": 0,
    "HDF5, gzip": 1,  # most of its index comes last
}
"""How many different prefixes can be had from a file that is cut somewhere; 2 where nothing is said."""


def boundaries(path: Path) -> set[int]:
    """Where the format has a seam: directories, pages, chunks, frames."""
    seams: set[int] = set()
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            for page in file.pages:
                seams |= {page.offset, *page.dataoffsets}
                seams |= {start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)}
    elif path.suffix in (".h5", ".nwb"):
        with h5py.File(path) as file:
            stack = file["imaging/frames"] if path.suffix == ".h5" else file["acquisition/movie/data"]
            if stack.chunks is None:
                seams |= {stack.id.get_offset() + frame * stack.nbytes // len(stack) for frame in range(len(stack))}
            else:
                chunks = [stack.id.get_chunk_info(number) for number in range(stack.id.get_num_chunks())]
                seams |= {chunk.byte_offset for chunk in chunks} | {chunk.byte_offset + chunk.size for chunk in chunks}
    elif path.suffix in (".npy", ".bin"):
        seams |= {path.stat().st_size - frame * 20 * 30 * 2 for frame in range(N_FRAMES + 1)}
    return seams


def cuts(path: Path) -> list[int]:
    size = path.stat().st_size
    seams = {seam + step for seam in boundaries(path) for step in (-1, 0, 1)}
    spread = {*range(0, size, max(1, size // 20)), *range(0, 20, 3), *range(max(0, size - 30), size, 7), size - 1}
    return sorted(cut for cut in seams | spread if 0 <= cut < size)


@pytest.mark.parametrize("name", KINDS)
def test_a_movie_is_refused_or_kept_to_its_last_whole_frame_wherever_it_is_cut(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    path = kind.write(tmp_path, FRAMES.astype(kind.dtypes[0]))
    frames = kind.read(path)
    kept = set()
    for file in files_of(path):
        if file.name == "notes.txt":
            continue
        whole = file.read_bytes()
        for size in cuts(file):
            file.write_bytes(whole[:size])
            kept.add(n_kept(path, file, frames, kind.choice, len(whole) - size))
        file.write_bytes(whole)
    assert kept <= set(range(N_FRAMES + 1))
    assert len(kept - {0, N_FRAMES}) >= KEPT_AT_LEAST.get(name, 2), kept


def n_kept(path: Path, file: Path, frames: np.ndarray, choice: dict[str, str], n_lost: int) -> int:
    """Number of frames that are kept of a damaged movie, 0 if it is refused; never others than its first."""
    try:
        movie = open_movie(path, **choice)
        found = movie.read(0, N_FRAMES)
        # JSON may lose its last blank, and a TIFF of tifffile's the bytes after its last page, which nothing uses
        assert n_lost <= 32
        assert file.suffix in (".json", ".tif", "")
        assert np.array_equal(found, frames)
    except LarscopeError as error:
        message = str(error)
        assert str(path.parent) in message
        assert "frame" in message or "a known format" in message or file.suffix in (".json", "") or "ops" in file.name
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            movie = open_movie(path, **choice, on_truncated="keep")
            found = movie.read(0, 2 * N_FRAMES)
        except LarscopeError:
            return 0
    assert len(found) == movie.shape[0] > 0
    assert np.array_equal(found, frames[: len(found)])
    if len(found) < N_FRAMES:
        assert any("truncated" in (text := str(warning.message)) or "left out" in text for warning in said)
    return len(found)


def test_a_kept_movie_says_how_many_frames_of_how_many(tmp_path: Path) -> None:
    np.save(tmp_path / "movie.npy", FRAMES)
    whole = (tmp_path / "movie.npy").read_bytes()
    (tmp_path / "movie.npy").write_bytes(whole[: -FRAMES[0].nbytes - 1])
    table = tmp_path / "session.csv"
    table.write_text("path,condition\nmovie.npy,familiar\n")
    with pytest.raises(LarscopeError, match=r"frame 4 of 6 is not whole.*keep the 4 frames.*--on-truncated keep"):
        read_session(table)
    with pytest.warns(UserWarning, match=r"movie\.npy is truncated: kept its first 4 of 6 frames"):
        session = read_session(table, on_truncated="keep")
    assert np.array_equal(session.runs[0].read(0, 4), FRAMES[:4])


def test_nothing_is_kept_after_a_gap(tmp_path: Path) -> None:
    path = KINDS["pattern"].write(tmp_path, FRAMES.astype("u2"))
    second = tmp_path / "day1_10.tif"
    second.write_bytes(second.read_bytes()[:-300])
    with pytest.raises(LarscopeError, match=r"day1_10\.tif"):
        open_movie(path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        movie = open_movie(path, on_truncated="keep")
    assert "day1_10.tif is truncated: kept its first 1" in str(said[0].message)
    assert "the 1 parts after it are left out, from day1_11.tif on" in str(said[-1].message)
    assert movie.shape[0] in (2, 3)
    assert np.array_equal(movie.read(0, 9), FRAMES[: movie.shape[0]])


def test_an_empty_prefix_is_no_movie(tmp_path: Path) -> None:
    path = KINDS["frame by frame"].write(tmp_path, FRAMES.astype("u2"))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(LarscopeError, match=r"frame 0"):
        open_movie(path, on_truncated="keep")


def test_a_missing_chunk_of_zarr_is_not_read_as_zeros(tmp_path: Path) -> None:
    path = KINDS["Zarr 2"].write(tmp_path, FRAMES.astype("u2"))
    (path / "1.0.0").unlink()
    with pytest.raises(LarscopeError, match=r"frame 2 of 6 .*1\.0\.0 does not exist .*write_empty_chunks=True"):
        open_movie(path)


def test_a_virtual_dataset_whose_source_is_gone_is_not_read_as_zeros(tmp_path: Path) -> None:
    source = KINDS["HDF5"].write(tmp_path, FRAMES.astype("u2"))
    path = tmp_path / "virtual.h5"
    layout = h5py.VirtualLayout(FRAMES.shape, "u2")
    layout[:] = h5py.VirtualSource(source, "imaging/frames", FRAMES.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("frames", layout)
    assert np.array_equal(open_movie(path).read(0, 6), FRAMES)
    source.unlink()
    with pytest.raises(LarscopeError, match=r"movie\.h5"):
        open_movie(path)


def test_a_video_that_was_never_finished_is_kept_to_its_last_whole_frame(tmp_path: Path) -> None:
    frames = FRAMES.astype("u1").repeat(4, axis=0)
    write_video(tmp_path / "movie.avi", frames, "ffv1", "gray", "gray")
    whole = (tmp_path / "movie.avi").read_bytes()
    (tmp_path / "movie.avi").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LarscopeError, match=r"truncated: frame \d+ of 24 is not whole"):
        open_movie(tmp_path / "movie.avi")
    with pytest.warns(UserWarning, match=r"kept its first \d+ of 24 frames"):
        movie = open_movie(tmp_path / "movie.avi", on_truncated="keep")
    assert 5 < len(movie.read(0, 24)) < 14
    assert np.array_equal(movie.read(0, 24), frames[: movie.shape[0]])
