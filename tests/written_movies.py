"""Movies in every format, written by the libraries that define them, and read back by these."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pynwb
import tifffile
import zarr
from pynwb.ophys import OpticalChannel, TwoPhotonSeries

WHOLE_NUMBERS = ("uint16", "int16", "uint8")
NUMBERS = (*WHOLE_NUMBERS, "float32")


@dataclass(frozen=True)
class Kind:
    """A way to store a movie.

    `write` writes frames into an empty folder and returns what a session table would name; `read` reads that with the
    library of the format; `choice` is what `open_movie` needs to be told; `lossy` ones change the pixels they store.
    """

    write: Callable[[Path, np.ndarray], Path]
    read: Callable[[Path], np.ndarray]
    dtypes: tuple[str, ...] = NUMBERS
    choice: dict[str, str] = field(default_factory=dict)
    lossy: bool = False


def files_of(path: Path) -> list[Path]:
    """The files that hold a movie: one, or all in a folder."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return sorted(path.parent.glob(path.name))


# TIFF


def tiff(**options: Any) -> Kind:
    def write(folder: Path, frames: np.ndarray) -> Path:
        tifffile.imwrite(folder / "movie.tif", frames, **{"photometric": "minisblack"} | options)
        return folder / "movie.tif"

    return Kind(write, read_tiff)


def read_tiff(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as file:
        frames = np.concatenate(
            [series.asarray()[None] if series.ndim == 2 else series.asarray() for series in file.series]
        )
    return frames


def frame_by_frame(**options: Any) -> Kind:
    def write(folder: Path, frames: np.ndarray) -> Path:
        with tifffile.TiffWriter(folder / "movie.tif") as writer:
            for frame in frames:
                writer.write(frame, contiguous=False, photometric="minisblack", **options)
        return folder / "movie.tif"

    return Kind(write, read_tiff)


def write_chunk_by_chunk(folder: Path, frames: np.ndarray) -> Path:
    with tifffile.TiffWriter(folder / "movie.tif") as writer:
        for chunk in np.array_split(frames, 2):
            if len(chunk):
                writer.write(chunk, compression="zlib", photometric="minisblack")
    return folder / "movie.tif"


PLAIN_TIFFS: dict[str, Kind] = {
    "plain": tiff(),
    "no metadata": tiff(metadata=None),
    "big-endian": tiff(byteorder=">"),
    "BigTIFF": tiff(bigtiff=True),
    "zlib": tiff(compression="zlib"),
    "zlib, big-endian": tiff(compression="zlib", byteorder=">"),
    "lzw": tiff(compression="lzw"),
    "packbits": tiff(compression="packbits"),
    "zstd": tiff(compression="zstd"),
    "predictor": tiff(compression="zlib", predictor=True),
    "strips": tiff(rowsperstrip=4),
    "tiles": tiff(tile=(16, 16)),
    "tiles, zlib": tiff(tile=(16, 16), compression="zlib"),
    "one page for all": tiff(truncate=True),
    "frame by frame": frame_by_frame(),
    "frame by frame, no metadata": frame_by_frame(metadata=None),
    "frame by frame, zlib": frame_by_frame(compression="zlib"),
    "chunk by chunk": Kind(write_chunk_by_chunk, read_tiff),
}


def with_others(frames: np.ndarray) -> np.ndarray:
    """Three planes and two channels of frames (T, Z, C, Y, X); the movie is plane 1 of channel 1."""
    stack = np.repeat(np.repeat(frames[:, None, None], 3, axis=1), 2, axis=2)
    others = np.ones((3, 2), bool)
    others[1, 1] = False
    stack[:, others] = stack[:, others][:, :, ::-1]
    return stack


def hyperstack(order: str, **options: Any) -> Kind:
    def write(folder: Path, frames: np.ndarray) -> Path:
        stack = with_others(frames).transpose(["TZCYX".index(axis) for axis in order])
        metadata = {"axes": order} | options.get("metadata", {})
        tifffile.imwrite(folder / "movie.tif", stack, **{**options, "metadata": metadata})
        return folder / "movie.tif"

    def read(path: Path) -> np.ndarray:
        with tifffile.TiffFile(path) as file:
            (series,) = file.series
            found = dict(zip(series.axes, series.shape, strict=True))
            stack = series.asarray().transpose([series.axes.index(axis) for axis in "TZCYX" if axis in found])
        return stack.reshape([found.get(axis, 1) for axis in "TZCYX"])[:, 1, 1]

    return Kind(write, read, choice={"plane": "1", "channel": "1"})


NAMES = {"Channel": {"Name": ["green", "red"]}}


def imagej(kind: Kind) -> Kind:
    return Kind(kind.write, kind.read, ("uint16", "uint8", "float32"), kind.choice)  # ImageJ has no others


def write_ome_files(folder: Path, frames: np.ndarray) -> Path:
    """An OME-TIFF whose first three frames are in one file and the others in another."""
    names = ("a.ome.tif", "b.ome.tif")
    sizes = (min(3, len(frames)), len(frames) - min(3, len(frames)))
    data, first = "", 0
    for name, size in zip(names, sizes, strict=True):
        for page in range(size):
            uuid = f'<UUID FileName="{name}">urn:uuid:{name}</UUID>'
            data += f'<TiffData IFD="{page}" FirstT="{first + page}" PlaneCount="1">{uuid}</TiffData>'
        first += size
    kind = {"float32": "float"}.get(str(frames.dtype), str(frames.dtype))
    for name, start, size in zip(names, (0, sizes[0]), sizes, strict=True):
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{name}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="{kind}" '
            f'SizeX="{frames.shape[2]}" SizeY="{frames.shape[1]}" SizeZ="1" SizeC="1" SizeT="{len(frames)}">'
            f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{data}</Pixels></Image></OME>'
        )
        with tifffile.TiffWriter(folder / name) as writer:
            for page in range(size):
                description = xml if page == 0 else None
                writer.write(
                    frames[start + page], description=description, metadata=None, contiguous=False, compression="zlib"
                )
    return folder / "a.ome.tif"


def read_ome(path: Path) -> np.ndarray:
    frames = tifffile.imread(path)
    return frames[None] if frames.ndim == 2 else frames


SCANIMAGE = """SI.hChannels.channelName = {'Green' 'Unused' 'Red' 'Other'}
SI.hChannels.channelSave = [1;3]
SI.hRoiManager.imagingFovUm = [-30 -20;30 -20;30 20;-30 20]
SI.hRoiManager.scanFrameRate = 30.0
SI.hRoiManager.scanVolumeRate = 7.5
SI.hScan2D.logAverageFactor = 1
SI.hStackManager.enable = true
SI.hStackManager.framesPerSlice = 1
SI.hStackManager.numFramesPerVolume = 3
SI.hStackManager.numFramesPerVolumeWithFlyback = 4
SI.hStackManager.numSlices = 3
"""


def write_scanimage(folder: Path, frames: np.ndarray) -> Path:
    volumes = with_others(frames)
    volumes = np.concatenate([volumes, np.zeros_like(volumes[:, :1])], axis=1)  # a fly-back frame
    with tifffile.TiffWriter(folder / "movie.tif", bigtiff=True) as writer:
        for page in volumes.reshape(-1, *frames.shape[1:]):
            writer.write(page, software=SCANIMAGE, metadata=None, contiguous=False, photometric="minisblack")
    return folder / "movie.tif"


def read_scanimage(path: Path) -> np.ndarray:
    pages = tifffile.imread(path, key=slice(None))
    return pages.reshape(-1, 4, 2, *pages.shape[-2:])[:, 1, 1]


LAYOUTS: dict[str, Kind] = {
    "ImageJ": imagej(Kind(tiff(imagej=True, metadata={"axes": "TYX"}).write, read_tiff)),
    "ImageJ hyperstack": imagej(hyperstack("TZCYX", imagej=True)),
    "OME": tiff(ome=True, metadata={"axes": "TYX"}),
    "OME, TZCYX": hyperstack("TZCYX", ome=True, metadata=NAMES, compression="zlib"),
    "OME, CTZYX": hyperstack("CTZYX", ome=True, metadata=NAMES),
    "OME, two files": Kind(write_ome_files, read_ome),
    "ScanImage": Kind(write_scanimage, read_scanimage, choice={"plane": "1", "channel": "Red"}),
    "axes named by tifffile": hyperstack("ZTCYX", photometric="minisblack"),
}


# Several files


def write_folder(folder: Path, frames: np.ndarray) -> Path:
    for number, frame in enumerate(frames, start=8):
        tifffile.imwrite(folder / f"frame{number}.tif", frame, photometric="minisblack")
    (folder / "notes.txt").write_text("not a frame")
    return folder


def write_parts(folder: Path, frames: np.ndarray) -> Path:
    for number, part in enumerate(np.array_split(frames, min(3, len(frames))), start=9):
        tifffile.imwrite(folder / f"day1_{number}.tif", part, photometric="minisblack", compression="zlib")
    np.save(folder / "day2_1.npy", frames)
    return folder / "day1_*.tif"


def read_numbered(path: Path) -> np.ndarray:
    files = sorted((path if path.is_dir() else path.parent).glob("*.tif"), key=lambda file: (len(file.name), file.name))
    return np.concatenate([read_tiff(file) for file in files])


# Arrays


def npy(convert: Callable[[np.ndarray], np.ndarray]) -> Kind:
    def write(folder: Path, frames: np.ndarray) -> Path:
        np.save(folder / "movie.npy", convert(frames))
        return folder / "movie.npy"

    return Kind(write, np.load)


def hdf5(libver: str = "earliest", **options: Any) -> Kind:
    def write(folder: Path, frames: np.ndarray) -> Path:
        with h5py.File(folder / "movie.h5", "w", libver=libver) as file:
            dtype = frames.dtype.newbyteorder(">") if options.get("big") else None
            given = {name: value for name, value in options.items() if name != "big"}
            file.create_dataset("imaging/frames", data=frames, dtype=dtype, **given)
        return folder / "movie.h5"

    def read(path: Path) -> np.ndarray:
        with h5py.File(path) as file:
            return file["imaging/frames"][:]

    return Kind(write, read)


def write_nwb(folder: Path, frames: np.ndarray) -> Path:
    file = pynwb.NWBFile("a recording", "id", datetime(2026, 1, 1, tzinfo=UTC))
    file.subject = pynwb.file.Subject(subject_id="m7", age="P90D")
    plane = file.create_imaging_plane(
        name="plane",
        optical_channel=OpticalChannel(name="green", description="", emission_lambda=520.0),
        device=file.create_device("microscope"),
        description="",
        excitation_lambda=920.0,
        indicator="GCaMP6s",
        location="V1",
        grid_spacing=[2e-6, 2e-6],
        grid_spacing_unit="meters",
    )
    data = np.ascontiguousarray(frames.swapaxes(1, 2))
    file.add_acquisition(TwoPhotonSeries(name="movie", data=data, imaging_plane=plane, unit="n.a.", rate=15.0))
    with pynwb.NWBHDF5IO(folder / "movie.nwb", "w") as io:
        io.write(file)
    return folder / "movie.nwb"


def read_nwb(path: Path) -> np.ndarray:
    with pynwb.NWBHDF5IO(path, "r") as io:
        return io.read().acquisition["movie"].data[:].swapaxes(1, 2)


def zarr_store(**options: Any) -> Kind:
    def write(folder: Path, frames: np.ndarray) -> Path:
        given = {"chunks": (2, *frames.shape[1:])} | options
        array = zarr.create_array(str(folder / "movie.zarr"), shape=frames.shape, dtype=frames.dtype, **given)
        array[:] = frames
        return folder / "movie.zarr"

    return Kind(write, lambda path: zarr.open_array(str(path), mode="r")[:])


def write_suite2p(folder: Path, frames: np.ndarray) -> Path:
    plane = folder / "suite2p" / "plane0"
    plane.mkdir(parents=True)
    frames.tofile(plane / "data.bin")
    ops = {"Ly": frames.shape[1], "Lx": np.int64(frames.shape[2]), "nframes": len(frames), "fs": np.float64(30.0)}
    ops |= {"meanImg": frames.mean(axis=0), "date_proc": datetime(2026, 1, 1, tzinfo=UTC), "filelist": np.array(["a"])}
    np.save(plane / "ops.npy", ops)
    return folder / "suite2p"


def read_suite2p(path: Path) -> np.ndarray:
    ops = np.load(path / "plane0" / "ops.npy", allow_pickle=True).item()
    return np.fromfile(path / "plane0" / "data.bin", np.int16).reshape(-1, ops["Ly"], ops["Lx"])


def video(name: str, codec: str, dtypes: tuple[str, ...], **options: str) -> Kind:
    def write(folder: Path, frames: np.ndarray) -> Path:
        form = "gray16le" if frames.dtype == np.uint16 else "gray"
        write_video(folder / name, frames, codec, form, form, **options)
        return folder / name

    def read(path: Path) -> np.ndarray:
        with av.open(str(path)) as container:
            return np.stack([frame.to_ndarray() for frame in container.decode(video=0)])

    return Kind(write, read, dtypes)


def write_video(path: Path, frames: np.ndarray, codec: str, given: str, stored: str, **options: str) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(20), options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], stored
        for frame in frames:
            packets = stream.encode(av.VideoFrame.from_ndarray(frame, format=given).reformat(format=stored))
            container.mux(packets)
        container.mux(stream.encode())


def write_mp4(folder: Path, frames: np.ndarray) -> Path:
    write_video(folder / "movie.mp4", frames, "libx264", "gray", "yuv420p")
    return folder / "movie.mp4"


def read_mp4(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert (frames == frames[..., :1]).all()
    return frames[..., 0]


ARRAYS: dict[str, Kind] = {
    "npy": npy(np.ascontiguousarray),
    "npy, Fortran order": npy(np.asfortranarray),
    "npy, big-endian": npy(lambda frames: frames.astype(frames.dtype.newbyteorder(">"))),
    "HDF5": hdf5(),
    "HDF5, latest": hdf5("latest", chunks=(1, 8, 8)),
    "HDF5, gzip": hdf5(chunks=(1, 8, 8), compression="gzip"),
    "HDF5, checksums": hdf5(chunks=(1, 20, 30), fletcher32=True),
    "HDF5, big-endian": hdf5(big=True),
    "NWB": Kind(write_nwb, read_nwb),
    "Zarr 2": zarr_store(zarr_format=2),
    "Zarr 2, plain": zarr_store(zarr_format=2, compressors=None),
    "Zarr 3": zarr_store(chunks=(2, 16, 16)),
    "Zarr 3, shards": zarr_store(chunks=(1, 20, 30), shards=(2, 20, 30)),
    "suite2p": Kind(write_suite2p, read_suite2p, ("int16",)),
    "AVI": video("movie.avi", "ffv1", ("uint8", "uint16")),
    "MOV": video("movie.mov", "png", ("uint8",)),
    "MP4": Kind(write_mp4, read_mp4, ("uint8",), lossy=True),
}

PARTS: dict[str, Kind] = {
    "folder": Kind(write_folder, read_numbered),
    "pattern": Kind(write_parts, read_numbered),
}

KINDS: dict[str, Kind] = PLAIN_TIFFS | LAYOUTS | PARTS | ARRAYS


def cases() -> Iterator[tuple[str, str]]:
    """Every kind with every type of pixel that it can hold."""
    for name, kind in KINDS.items():
        for dtype in kind.dtypes:
            yield name, dtype
