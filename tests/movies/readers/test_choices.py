"""Which frames of a file: channels, planes, series, parts; what files say of themselves; what they may not do."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import av
import h5py
import numpy as np
import pynwb
import pytest
import tifffile
import zarr
from pynwb.ophys import OnePhotonSeries, TwoPhotonSeries
from written_movies import KINDS, NAMES, with_others, write_nwb, write_scanimage, write_suite2p, write_video

from larscope._errors import LarscopeError
from larscope._movies.readers import formats
from larscope._movies.readers.formats import open_movie
from larscope._movies.readers.pages import TiffBytes
from larscope._movies.readers.suite2p import read_pickled_dict
from larscope._movies.table import read_session

FRAMES = np.random.default_rng(0).integers(0, 65_536, (6, 20, 30)).astype(np.uint16)
STACK = with_others(FRAMES)


# Channels and planes


@pytest.mark.parametrize("form", ["imagej", "ome"])
@pytest.mark.parametrize(("channel", "plane"), [(0, 0), (1, 2), (0, 1)])
def test_a_channel_and_a_plane_are_chosen_by_number(tmp_path: Path, form: str, channel: int, plane: int) -> None:
    path = tmp_path / "movie.tif"
    tifffile.imwrite(path, STACK, **{form: True}, metadata={"axes": "TZCYX"})
    movie = open_movie(path, channel=str(channel), plane=str(plane))
    assert np.array_equal(movie.read(0, 6), STACK[:, plane, channel])


def test_channels_have_the_names_that_the_file_gives(tmp_path: Path) -> None:
    path = tmp_path / "movie.ome.tif"
    tifffile.imwrite(path, STACK[:, 1], ome=True, metadata={"axes": "TCYX"} | NAMES)
    assert np.array_equal(open_movie(path, channel="red").read(0, 6), STACK[:, 1, 1])
    with pytest.raises(LarscopeError, match=r"2 channels: 0 \(green\), 1 \(red\)\. Choose one by number \(from 0\)"):
        open_movie(path)
    with pytest.raises(LarscopeError, match=r"got channel='rod'. Did you mean 'red'"):
        open_movie(path, channel="rod")
    path = write_scanimage(tmp_path, FRAMES)
    with pytest.raises(LarscopeError, match=r"holds 2 channels: 0 \(Green\), 1 \(Red\)"):
        open_movie(path, plane="0")
    with pytest.raises(LarscopeError, match=r"holds 3 planes: 0, 1, 2\. Choose one"):
        open_movie(path, channel="0")


@pytest.mark.parametrize("wanted", ["2", "-1", "1.0", "red", "\u0662"])
def test_a_channel_that_is_not_there_is_refused(tmp_path: Path, wanted: str) -> None:
    path = tmp_path / "movie.tif"
    tifffile.imwrite(path, STACK[:, 1], imagej=True, metadata={"axes": "TCYX"})
    with pytest.raises(LarscopeError, match=r"holds the channels 0, 1; got channel="):
        open_movie(path, channel=wanted)


@pytest.mark.parametrize(("axes", "column"), [("CYX", "channel"), ("ZYX", "plane")])
def test_planes_are_frames_only_where_the_table_says_so(tmp_path: Path, axes: str, column: str) -> None:
    path = tmp_path / "movie.ome.tif"
    tifffile.imwrite(path, FRAMES, ome=True, metadata={"axes": axes})
    with pytest.raises(LarscopeError, match=rf"holds 6 {column}s: .* `{column}` column; `time` if they are the frames"):
        open_movie(path)
    assert np.array_equal(open_movie(path, **{column: "time"}).read(0, 6), FRAMES)
    tifffile.imwrite(path, STACK, ome=True, metadata={"axes": "TZCYX"})
    with pytest.raises(LarscopeError, match=rf"has 6 frames, got {column}='time'"):
        open_movie(path, **{column: "time"})


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colours_are_channels(tmp_path: Path, planar: str) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (6, 20, 30, 3)).astype(np.uint8)
    stored = colours if planar == "contig" else np.moveaxis(colours, -1, 1)
    for compression in (None, "zlib"):
        path = tmp_path / "rgb.tif"
        tifffile.imwrite(path, stored, photometric="rgb", planarconfig=planar, compression=compression)
        assert np.array_equal(open_movie(path, channel="green").read(0, 6), colours[..., 1])
        with pytest.raises(LarscopeError, match=r"3 channels: 0 \(red\), 1 \(green\), 2 \(blue\)"):
            open_movie(path)


def test_axes_without_names_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "movie.tif", STACK[:, 0], photometric="minisblack")
    with pytest.raises(LarscopeError, match=r"movie\.tif has shape \(6, 2, 20, 30\) and does not name every axis"):
        open_movie(tmp_path / "movie.tif")


def test_the_images_of_an_ome_file_are_datasets(tmp_path: Path) -> None:
    path = tmp_path / "two.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(FRAMES, metadata={"axes": "TYX", "Name": "raw"})
        writer.write(FRAMES[::-1], metadata={"axes": "TYX", "Name": "registered"})
    assert np.array_equal(open_movie(path, "registered").read(0, 6), FRAMES[::-1])
    with pytest.raises(LarscopeError, match=r"2 datasets: 0 \(raw\), 1 \(registered\)"):
        open_movie(path)


@pytest.mark.parametrize("name", ["npy", "HDF5", "AVI"])
def test_columns_that_a_format_has_no_use_for_are_refused(tmp_path: Path, name: str) -> None:
    path = KINDS[name].write(tmp_path, FRAMES)
    with pytest.raises(LarscopeError, match=r"has no planes; got plane='0'"):
        open_movie(path, plane="0")


def test_pages_that_are_no_frames_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    tifffile.imwrite(path, FRAMES, description="Aperio Image Library", metadata=None)
    with pytest.raises(LarscopeError, match="is a SVS file, with other meanings of a page"):
        open_movie(path)


# Several files


def test_parts_of_another_size_or_type_are_named(tmp_path: Path) -> None:
    for number, frames in enumerate([FRAMES, FRAMES[:, :10], FRAMES.astype(np.uint8)]):
        tifffile.imwrite(tmp_path / f"part{number}.tif", frames, photometric="minisblack")
    with pytest.raises(
        LarscopeError, match=r"the first has 20 x 30 pixels of uint16, .*part1\.tif has 10 x 30 of uint16"
    ):
        open_movie(tmp_path)
    (tmp_path / "part1.tif").unlink()
    with pytest.raises(LarscopeError, match=r"part2\.tif has 20 x 30 of uint8"):
        open_movie(tmp_path / "part*.tif")
    (tmp_path / "part2.tif").write_bytes(b"no TIFF, but called one")
    with pytest.raises(LarscopeError, match=r"part2\.tif begins with"):
        open_movie(tmp_path)


def test_the_files_of_an_ome_set_are_one_movie_however_they_are_named(tmp_path: Path) -> None:
    first = KINDS["OME, two files"].write(tmp_path, FRAMES)
    for path in (first, first.with_name("b.ome.tif"), tmp_path, tmp_path / "*.ome.tif"):
        assert np.array_equal(open_movie(path).read(0, 9), FRAMES)
    first.with_name("b.ome.tif").unlink()
    with pytest.raises(LarscopeError, match=r"a\.ome\.tif is one of several files, but .*b\.ome\.tif does not exist"):
        open_movie(first)


def test_metadata_lead_to_no_other_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    path = KINDS["OME, two files"].write(tmp_path / "secret", FRAMES)
    text = path.read_bytes().replace(b'FileName="b.ome.tif"', b'FileName="../b.tif "')
    (tmp_path / "a.ome.tif").write_bytes(text)
    (tmp_path.parent / "b.tif").write_bytes(path.with_name("b.ome.tif").read_bytes())
    with pytest.raises(LarscopeError, match="does not exist"):
        open_movie(tmp_path / "a.ome.tif")


def test_a_pattern_that_fits_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(LarscopeError, match=r"day1_\*\.tif matches no file"):
        open_movie(tmp_path / "day1_*.tif")
    np.save(tmp_path / "movie[1].npy", FRAMES)  # a name, not a pattern
    assert open_movie(tmp_path / "movie[1].npy").shape == FRAMES.shape


# What the file says of the recording


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NWB", (15.0, 2.0, "m7")),
        ("ScanImage", (7.5, 2.0, None)),
        ("suite2p", (30.0, None, None)),
        ("AVI", (20.0, None, None)),
        ("npy", (None, None, None)),
    ],
)
def test_the_file_fills_in_what_the_table_leaves_empty(tmp_path: Path, name: str, expected: tuple[object, ...]) -> None:
    kind = KINDS[name]
    (tmp_path / "data").mkdir()
    path = kind.write(tmp_path / "data", FRAMES.astype(kind.dtypes[0]))
    choice = "".join(f",{kind.choice.get(column, '')}" for column in ("channel", "plane"))
    row = f"{path.relative_to(tmp_path)},familiar{choice}"
    table = tmp_path / "session.csv"
    table.write_text(f"path,condition,channel,plane\n{row}\n")
    (run,) = read_session(table)
    assert (run.frame_rate, run.pixel_size, run.subject) == expected
    table.write_text(f"path,condition,channel,plane,frame_rate,pixel_size,subject\n{row},99,0.25,m8\n")
    (run,) = read_session(table)
    assert (run.frame_rate, run.pixel_size, run.subject) == (99, 0.25, "m8")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"imagej": True, "resolution": (2, 2), "metadata": {"axes": "TYX", "finterval": 0.05, "unit": "um"}},
            (20, 0.5),
        ),
        ({"imagej": True, "resolution": (2, 4), "metadata": {"axes": "TYX", "unit": "um"}}, (None, None)),
        ({"imagej": True, "resolution": (72, 72), "metadata": {"axes": "TYX", "unit": "pixel"}}, (None, None)),
        (
            {
                "ome": True,
                "metadata": {
                    "axes": "TYX",
                    "PhysicalSizeX": 800.0,
                    "PhysicalSizeXUnit": "nm",
                    "PhysicalSizeY": 0.8,
                    "TimeIncrement": 40.0,
                    "TimeIncrementUnit": "ms",
                },
            },
            (25, 0.8),
        ),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, (None, None)),
    ],
)
def test_rates_and_sizes_of_tiffs(tmp_path: Path, options: dict, expected: tuple[float | None, float | None]) -> None:
    path = tmp_path / "movie.tif"
    tifffile.imwrite(path, FRAMES, photometric="minisblack", **options)
    movie = open_movie(path)
    assert (movie.frame_rate, movie.pixel_size) == tuple(pytest.approx(value) for value in expected)


# NWB


def add_series(path: Path, *series: tuple[type, str, np.ndarray | None], **options: object) -> None:
    with pynwb.NWBHDF5IO(path, "a") as io:
        file = io.read()
        for form, name, data in series:
            plane = file.imaging_planes["plane"]
            given = {"data": data, "rate": 5.0} if data is not None else {"timestamps": np.arange(6.0)}
            file.add_acquisition(form(name=name, imaging_plane=plane, unit="n.a.", **given, **options))
        io.write(file)


def test_nwb_series_are_chosen_by_name(tmp_path: Path) -> None:
    path = write_nwb(tmp_path, FRAMES)
    volume = np.stack([FRAMES[::-1], FRAMES], axis=-1).swapaxes(1, 2)
    add_series(path, (OnePhotonSeries, "one", FRAMES[::-1].swapaxes(1, 2)), (TwoPhotonSeries, "volume", volume))
    with pytest.raises(
        LarscopeError, match=r"several series \(acquisition/movie, acquisition/one, acquisition/volume\)"
    ):
        open_movie(path)
    assert np.array_equal(open_movie(path, "one").read(0, 6), FRAMES[::-1])
    assert np.array_equal(open_movie(path, "/acquisition/movie").read(2, 4), FRAMES[2:4])
    assert np.array_equal(open_movie(path, "volume", plane="1").read(2, 4), FRAMES[2:4])
    with pytest.raises(LarscopeError, match="holds 2 planes"):
        open_movie(path, "volume")
    with pytest.raises(LarscopeError, match=r"got dataset='tow', which is none"):
        open_movie(path, "tow")


def test_nwb_frames_in_other_files_are_named(tmp_path: Path) -> None:
    path = write_nwb(tmp_path, FRAMES)
    add_series(
        path, (TwoPhotonSeries, "outside", None), external_file=["one.avi"], starting_frame=[0], format="external"
    )
    with pytest.raises(LarscopeError, match=r"'acquisition/outside' are in other files: one\.avi\. Name these"):
        open_movie(path, "outside")


# Zarr, suite2p, video


def test_zarr_arrays_are_chosen_by_name(tmp_path: Path) -> None:
    for number, name in enumerate(["green", "deep/red"]):
        zarr.create_array(str(tmp_path / "store" / name), data=FRAMES + number, chunks=(2, 20, 30))
    zarr.open_group(str(tmp_path / "store"), mode="a")
    with pytest.raises(LarscopeError, match=r"several stacks \((green, deep/red|deep/red, green)\)"):
        open_movie(tmp_path / "store")
    assert np.array_equal(open_movie(tmp_path / "store", "deep/red").read(0, 6), FRAMES + 1)


@pytest.mark.parametrize("codec", ["pickle", "numcodecs.pickle", "json2"])
def test_zarr_codecs_that_could_run_code_are_refused(tmp_path: Path, codec: str) -> None:
    path = KINDS["Zarr 2"].write(tmp_path, FRAMES)
    described = (path / ".zarray").read_text()
    (path / ".zarray").write_text(described.replace('"filters": null', f'"filters": [{{"id": "{codec}"}}]'))
    with pytest.raises(LarscopeError, match=rf"compression codecs only; .* '{codec}', and these might run code"):
        open_movie(path)


class Malice:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.target}",)


def test_an_ops_file_runs_nothing(tmp_path: Path) -> None:
    path = write_suite2p(tmp_path, FRAMES.astype(np.int16))
    ops = path / "plane0" / "ops.npy"
    honest = np.load(ops, allow_pickle=True).item()
    for hidden in (Malice(tmp_path / "ran"), [np.array([Malice(tmp_path / "ran")])], {Malice: 1}):
        np.save(ops, honest | {"diameter": hidden})
        with pytest.raises(LarscopeError, match=r"ops\.npy cannot be read: it names .*, but suite2p's settings"):
            open_movie(path)
    assert not (tmp_path / "ran").exists()
    np.load(ops, allow_pickle=True)  # does name the class, so that the test means something
    np.save(ops, honest | {"diameter": Malice(tmp_path / "ran")})
    np.load(ops, allow_pickle=True)
    assert (tmp_path / "ran").exists()


def test_an_ops_file_may_not_reserve_memory(tmp_path: Path) -> None:
    path = tmp_path / "ops.npy"
    np.save(path, {"Ly": 20})
    whole = path.read_bytes()
    at = whole.index(b"\x80")
    path.write_bytes(whole[:at] + b"\x80\x02Nr\xff\xff\xff\x7f.")  # store an object as number 2147483647
    with pytest.raises(LarscopeError, match="it refers to more objects than it has"):
        read_pickled_dict(path)


def test_suite2p_planes_and_channels(tmp_path: Path) -> None:
    path = write_suite2p(tmp_path, FRAMES.astype(np.int16))
    frames = FRAMES.astype(np.int16)
    second = path / "plane1"
    second.mkdir()
    (second / "ops.npy").write_bytes((path / "plane0" / "ops.npy").read_bytes())
    frames[::-1].tofile(second / "data.bin")
    (frames // 2).tofile(second / "data_chan2.bin")
    with pytest.raises(LarscopeError, match=r"2 planes: 0 \(plane0\), 1 \(plane1\)"):
        open_movie(path)
    with pytest.raises(LarscopeError, match=r"2 channels: 0 \(functional\), 1 \(chan2\)"):
        open_movie(path, plane="1")
    assert np.array_equal(open_movie(path, plane="plane1", channel="chan2").read(0, 6), frames // 2)
    assert np.array_equal(open_movie(second, channel="0").read(0, 6), frames[::-1])
    assert np.array_equal(open_movie(second / "data_chan2.bin").read(5, 6), frames[5:] // 2)
    np.concatenate([frames, frames]).tofile(second / "data.bin")
    with pytest.raises(LarscopeError, match=r"Expected 6 frames of 20 x 30 pixels.*or 12 frames and 0 bytes"):
        open_movie(second / "data.bin")


def test_coloured_videos_are_never_made_grey(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (6, 20, 30, 3)).astype(np.uint8)
    write_video(tmp_path / "movie.avi", colours, "ffv1", "rgb24", "bgr0")
    with pytest.raises(
        LarscopeError, match=r"frame 0 of .*movie\.avi is coloured\. Choose a channel .*red, green, blue"
    ):
        open_movie(tmp_path / "movie.avi")
    assert np.array_equal(open_movie(tmp_path / "movie.avi", channel="2").read(0, 6), colours[..., 2])
    colours[:4] = colours[:4, :, :, :1]
    write_video(tmp_path / "movie.avi", colours, "ffv1", "rgb24", "bgr0")
    movie = open_movie(tmp_path / "movie.avi")
    assert np.array_equal(movie.read(0, 4), colours[:4, :, :, 0])
    with pytest.raises(LarscopeError, match=r"frame 4 of"):
        movie.read(0, 6)


def test_frames_of_a_video_are_found_out_of_order(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (60, 32, 32)).astype(np.uint8)
    write_video(tmp_path / "movie.mp4", frames, "libx264", "gray", "yuv420p", g="10", bf="2")
    with av.open(str(tmp_path / "movie.mp4")) as container:
        expected = np.stack([frame.to_ndarray(format="rgb24")[..., 0] for frame in container.decode(video=0)])
    movie = open_movie(tmp_path / "movie.mp4")
    assert movie.shape == expected.shape
    for start, stop in [(50, 60), (0, 5), (5, 20), (33, 34), (19, 41)]:
        assert np.array_equal(movie.read(start, stop), expected[start:stop])


# Lazy, linear, optional


def test_reading_a_chunk_looks_at_the_pages_of_that_chunk_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = KINDS["frame by frame, zlib"].write(tmp_path, np.repeat(FRAMES, 50, axis=0))
    movie = open_movie(path)
    looked_at = []
    original = TiffBytes.tags
    monkeypatch.setattr(TiffBytes, "tags", lambda self, offset: looked_at.append(offset) or original(self, offset))
    movie.read(100, 164)
    assert len(looked_at) == 64


@pytest.mark.parametrize(("name", "package", "extra"), [("Zarr 2", "zarr", "zarr"), ("AVI", "av", "video")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str, extra: str
) -> None:
    path = KINDS[name].write(tmp_path, FRAMES)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(LarscopeError, match=rf'package {package},.*pip install "larscope\[{extra}\]"'):
        open_movie(path)


def test_optional_packages_are_imported_only_when_a_file_needs_them() -> None:
    packages = ("zarr", "av", "pynwb", "roiextractors")
    code = f"import sys, larscope._movies.readers.formats; sys.exit(any(name in sys.modules for name in {packages}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_larscope_has_no_reader_for_is_read_by_roiextractors(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "movie.h5", "w") as file:
        file["mov"] = FRAMES[np.newaxis]  # it expects channels first
        file["mov"].attrs["fr"] = 12.5
    movie = open_movie(tmp_path / "movie.h5", "roiextractors:Hdf5ImagingExtractor")
    assert (movie.shape, movie.dtype, movie.frame_rate) == (FRAMES.shape, FRAMES.dtype, 12.5)
    assert np.array_equal(movie.read(2, 5), FRAMES[2:5])
    assert np.array_equal(movie.read(0, 99), FRAMES)
    with pytest.raises(LarscopeError, match=r"got 'Hdf5Imaging'. Did you mean 'Hdf5ImagingExtractor'"):
        open_movie(tmp_path / "movie.h5", "roiextractors:Hdf5Imaging")
    (tmp_path / "movie.sbx").write_bytes(b"\0" * 100)
    with pytest.raises(LarscopeError, match=r"roiextractors' SbxImagingExtractor cannot read them"):
        open_movie(tmp_path / "movie.sbx")


PLUGIN = """
import numpy as np
from larscope._movies.readers.reader import Reader
from larscope._movies.session import ArrayMovie

def open_text(path, request):
    return ArrayMovie(np.loadtxt(path, skiprows=1).reshape(-1, 20, 30).astype(np.uint16))

reader = Reader("numbers", (".txt",), lambda path, head: head.startswith(b"numbers"), open_text)
nothing = 3
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path where a package is installed that offers readers."""
    site = tmp_path / "site"
    (site / "numbers_plugin-1.dist-info").mkdir(parents=True)
    (site / "numbers_plugin-1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: numbers-plugin\nVersion: 1\n"
    )
    (site / "numbers_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    formats._installed_readers.cache_clear()
    yield site / "numbers_plugin-1.dist-info" / "entry_points.txt"
    formats._installed_readers.cache_clear()


def test_another_package_may_bring_a_reader(tmp_path: Path, plugin: Path) -> None:
    plugin.write_text("[larscope.readers]\nnumbers = numbers_plugin:reader\n")
    with (tmp_path / "movie.txt").open("w") as file:
        file.write("numbers\n")
        np.savetxt(file, FRAMES.reshape(-1, 30), fmt="%d")
    assert np.array_equal(open_movie(tmp_path / "movie.txt").read(0, 6), FRAMES)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("numbers_plugin:gone", "'numbers' .* cannot be loaded"),
        ("numbers_plugin:nothing", "is not a `larscope.Reader`"),
    ],
)
def test_a_broken_package_is_warned_of_and_left_out(tmp_path: Path, plugin: Path, value: str, message: str) -> None:
    plugin.write_text(f"[larscope.readers]\nnumbers = {value}\n")
    np.save(tmp_path / "movie.npy", FRAMES)
    with pytest.warns(UserWarning, match=message):
        assert open_movie(tmp_path / "movie.npy").shape == FRAMES.shape


# The recorded movies


@pytest.mark.parametrize("name", ["plain", "zlib", "OME", "BigTIFF", "pattern", "npy", "HDF5, gzip", "Zarr 3", "NWB"])
@pytest.mark.parametrize("movie", ["mouse_2p/movie.tiff", "mouse_s1_vr/movie.tif"])
def test_recorded_movies_are_the_same_in_every_format(tmp_path: Path, recorded: Path, name: str, movie: str) -> None:
    expected = tifffile.imread(recorded / movie, key=slice(200))
    path = KINDS[name].write(tmp_path, expected)
    assert np.array_equal(open_movie(path).read(0, 200), expected)
