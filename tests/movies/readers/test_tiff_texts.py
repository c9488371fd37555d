"""Pages against what the text of a TIFF says of them: none is lost in silence."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from written_movies import SCANIMAGE, with_others

from larscope._errors import LarscopeError
from larscope._movies.readers.formats import open_movie

FRAMES = np.random.default_rng(0).integers(0, 65_536, (20, 16, 24)).astype(np.uint16)


def write_pages(path: Path, pages: np.ndarray, first: str = "", **options: object) -> Path:
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for number, page in enumerate(pages):
            text = first if number == 0 or options.get("every") else None
            writer.write(
                page,
                description=text,
                metadata=None,
                contiguous=False,
                photometric="minisblack",
                extratags=options.get("extratags", ()),
            )
    return path


# ImageJ


@pytest.mark.parametrize("every", [False, True])
def test_an_imagej_text_without_a_count_leaves_all_pages(tmp_path: Path, every: bool) -> None:
    path = write_pages(tmp_path / "a.tif", FRAMES, "ImageJ=1.48v\nmin=0\n", every=every)
    assert np.array_equal(open_movie(path).read(0, 99), FRAMES)


def test_too_small_a_count_is_told_and_all_pages_are_read(tmp_path: Path) -> None:
    path = write_pages(tmp_path / "a.tif", FRAMES, "ImageJ=1.53\nimages=12\n")
    with pytest.warns(UserWarning, match="has 20 pages, but its text tells of 12 images: all pages"):
        movie = open_movie(path)
    assert np.array_equal(movie.read(0, 99), FRAMES)


def test_a_hyperstack_with_too_many_pages_is_refused(tmp_path: Path) -> None:
    text = "ImageJ=1.53\nimages=12\nchannels=2\nframes=6\nhyperstack=true\n"
    path = write_pages(tmp_path / "a.tif", FRAMES, text)
    with pytest.raises(LarscopeError, match="has 20, but its text tells of 12: 6 frames, 1 slices, 2 channels"):
        open_movie(path, channel="0")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_stale_count_in_a_single_image_is_told(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, FRAMES[0], description="ImageJ=1.53\nimages=3500\n", metadata=None, compression=compression)
    with pytest.warns(UserWarning, match="has 1 pages, but its text tells of 3500 images"):
        movie = open_movie(path)
    assert np.array_equal(movie.read(0, 9), FRAMES[:1])


def test_a_stack_cut_after_its_first_frame_is_still_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((20, 64, 64), np.uint16), imagej=True, truncate=True, metadata={"axes": "TYX"})
    path.write_bytes(path.read_bytes()[:-70_000])
    with pytest.raises(LarscopeError, match="is truncated"):
        open_movie(path)


# OME


def test_pages_that_ome_metadata_do_not_mention_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    xml = tifffile.OmeXml()
    xml.addimage("uint16", (12, 16, 24), (12, 1, 1, 16, 24, 1), axes="TYX")
    write_pages(path, FRAMES, xml.tostring())
    with pytest.warns(UserWarning, match="has 20 pages, but its text gives no place to 8 of them, the first page 12"):
        movie = open_movie(path)
    assert np.array_equal(movie.read(0, 99), FRAMES[:12])


def test_pages_of_another_image_are_no_surprise(tmp_path: Path) -> None:
    path = tmp_path / "two.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(FRAMES, metadata={"axes": "TYX", "Name": "raw"}, contiguous=False)
        writer.write(FRAMES[:3], metadata={"axes": "TYX", "Name": "average"}, contiguous=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_movie(path, "average").shape[0] == 3


# ScanImage


def scanimage_pages(n_volumes: int) -> tuple[np.ndarray, np.ndarray]:
    """The pages of three planes, one fly-back frame and two channels; and the frames of plane 1, channel 1."""
    frames = FRAMES[:n_volumes]
    volumes = with_others(frames)
    return np.concatenate([volumes, np.zeros_like(volumes[:, :1])], axis=1).reshape(-1, 16, 24), frames


def write_scanimage(path: Path, pages: np.ndarray, software: str = SCANIMAGE, artist: str = "") -> None:
    extra = [(315, "s", len(artist) + 1, artist, False)] if artist else []
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for page in pages:
            writer.write(
                page, software=software, metadata=None, contiguous=False, photometric="minisblack", extratags=extra
            )


@pytest.mark.parametrize("at", [8, 11, 13, 17])
def test_scanimage_files_may_be_split_anywhere_in_a_volume(tmp_path: Path, at: int) -> None:
    pages, frames = scanimage_pages(4)
    write_scanimage(tmp_path / "a_00001.tif", pages[:at])
    write_scanimage(tmp_path / "a_00002.tif", pages[at:])
    for path in (tmp_path, tmp_path / "a_#.tif"):
        movie = open_movie(path, channel="1", plane="1")
        assert movie.shape[0] == 4
        assert np.array_equal(movie.read(0, 4), frames)
        assert np.array_equal(movie.read(1, 3), frames[1:3])


@pytest.mark.parametrize("plane", [0, 1, 2])
@pytest.mark.parametrize("n_left", [1, 3, 5])
def test_an_incomplete_last_volume_is_left_out_in_every_plane(tmp_path: Path, n_left: int, plane: int) -> None:
    pages, _ = scanimage_pages(4)
    path = tmp_path / "a.tif"
    write_scanimage(path, pages[: 24 + n_left])
    with pytest.warns(UserWarning, match=rf"ends within a volume: {n_left} of its last 6 pages"):
        movie = open_movie(path, channel="1", plane=str(plane))
    assert np.array_equal(movie.read(0, 9), pages[2 * plane + 1 : 24 : 8])


def test_a_last_volume_without_its_fly_back_is_whole(tmp_path: Path) -> None:
    pages, frames = scanimage_pages(4)
    write_scanimage(tmp_path / "a.tif", pages[:-1])
    assert np.array_equal(open_movie(tmp_path / "a.tif", channel="1", plane="1").read(0, 9), frames)


ONE_PLANE = """SI.hChannels.channelSave = 1
SI.hRoiManager.mroiEnable = true
SI.hRoiManager.scanFrameRate = 30.0
SI.hStackManager.enable = false
"""


def regions(*sizes: tuple[int, int]) -> str:
    rois = [
        {"name": f"area {number}", "scanfields": {"pixelResolutionXY": list(size)}}
        for number, size in enumerate(sizes, start=1)
    ]
    return json.dumps({"RoiGroups": {"imagingRoiGroup": {"rois": rois}}})


def test_regions_of_one_scan_are_offered_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_scanimage(path, FRAMES, ONE_PLANE, regions((24, 6), (24, 8)))  # and two lines between them
    with pytest.raises(LarscopeError, match=r"holds 2 datasets: 0 \(area 1\), 1 \(area 2\)"):
        open_movie(path)
    assert np.array_equal(open_movie(path, "area 1").read(0, 99), FRAMES[:, :6])
    assert np.array_equal(open_movie(path, "area 2").read(3, 9), FRAMES[3:9, 8:])


@pytest.mark.parametrize("artist", ["", "{}", regions((24, 10), (24, 8)), regions((20, 6), (24, 8))])
def test_regions_at_unknown_places_are_refused(tmp_path: Path, artist: str) -> None:
    write_scanimage(tmp_path / "a.tif", FRAMES, ONE_PLANE, artist)
    with pytest.raises(LarscopeError, match="several regions in every page"):
        open_movie(tmp_path / "a.tif")
