"""The registered movies of suite2p: `data.bin`, with its size in `ops.npy` beside it."""

import io
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray

from larscope._errors import LarscopeError
from larscope._movies.readers.parts import natural
from larscope._movies.readers.reader import Request, choose

BINARIES = {"data.bin": "functional", "data_chan2.bin": "chan2"}
"""suite2p's files, and their channels' names in the session table."""

STORED = np.dtype("<i2")


def is_suite2p(path: Path, head: bytes) -> bool:
    """Return whether a path is a `.bin` with its `ops.npy`, a folder of both, or a folder of such folders."""
    if path.is_dir():
        return _is_plane(path) or bool(_planes(path))
    return path.suffix == ".bin" and (path.parent / "ops.npy").is_file()


def open_suite2p(path: Path, request: Request) -> "BinaryMovie":
    """Open suite2p's output: the `suite2p` folder, the folder of a plane, or a `.bin` in it."""
    request.refuse(path, "suite2p's output", "dataset")
    folder = path
    if path.is_dir() and not _is_plane(path):
        planes = _planes(path)
        folder = planes[choose(path, "plane", request.plane, [plane.name for plane in planes])]
    else:
        request.refuse(path, "A folder of one plane", "plane")
    if path.is_dir():
        binaries = [folder / name for name in BINARIES if (folder / name).is_file()]
        binary = binaries[choose(folder, "channel", request.channel, [BINARIES[file.name] for file in binaries])]
    else:
        request.refuse(path, "A single file of suite2p's", "channel")
        binary = path
    return BinaryMovie(binary, binary.parent / "ops.npy", request)


class BinaryMovie:
    """Frames of int16, one after the other, with their size in suite2p's `ops.npy`.

    Parameters
    ----------
    path, ops
        Both files.
    request
        Whether a file that was cut short is an error.
    """

    def __init__(self, path: Path, ops: Path, request: Request) -> None:
        self.paths = (path, ops)
        self._path = path
        says = read_pickled_dict(ops)
        height, width = (_number(ops, says, key) for key in ("Ly", "Lx"))
        declared = _number(ops, says, "nframes")
        frame_bytes = height * width * STORED.itemsize
        size = path.stat().st_size
        whole, rest = divmod(size, frame_bytes)
        if size > declared * frame_bytes:
            raise LarscopeError(
                f"Expected {declared} frames of {height} x {width} pixels from {ops}; {path} has {size} bytes, or "
                f"{whole} frames and {rest} bytes. Restore the right `ops.npy`."
            )
        if whole < declared:
            whole = request.whole_frames(path, whole, declared, f"it has {size} of {declared * frame_bytes} bytes")
        self.shape: tuple[int, int, int] = (whole, height, width)
        self.dtype: np.dtype[np.generic] = np.dtype(np.int16)
        rate = says.get("fs")
        self.frame_rate = float(rate) if isinstance(rate, (int, float)) and 0 < rate < 1e6 else None

    def read(self, start: int, stop: int) -> Shaped[NDArray[np.generic], "frames height width"]:
        """Return frames `start` to `stop` (exclusive)."""
        stop = max(start, min(stop, self.shape[0]))
        n_pixels = self.shape[1] * self.shape[2]
        try:
            frames: NDArray[np.generic] = np.fromfile(
                self._path, STORED, (stop - start) * n_pixels, offset=start * n_pixels * STORED.itemsize
            )
            return frames.reshape(stop - start, *self.shape[1:]).astype(self.dtype, copy=False)
        except (OSError, ValueError) as error:
            raise LarscopeError(
                f"Expected frames {start} to {stop} of {self._path}; they cannot be read: {error}. Restore the file."
            ) from error


def _is_plane(folder: Path) -> bool:
    return (folder / "ops.npy").is_file() and any((folder / name).is_file() for name in BINARIES)


def _planes(folder: Path) -> list[Path]:
    return sorted((plane for plane in folder.glob("plane[0-9]*") if _is_plane(plane)), key=natural)


def _number(ops: Path, says: dict[Any, Any], key: str) -> int:
    value = says.get(key)
    if not isinstance(value, int) or not 0 < value < 2**40:
        raise LarscopeError(f"Expected a number for {key!r} in {ops}; got {value!r:.100}. Restore the file.")
    return value


# ops.npy is a pickled dictionary, and unpickling runs whatever a pickle names. What follows runs nothing: what an
# honest ops.npy names is replaced by things that do nothing, anything else is refused.


class _Inert:
    """Placeholder for an unneeded object."""

    def __new__(cls, *args: Any, **options: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Array(_Inert):
    """Stands for an array, and keeps its content: bytes, or the objects of an array of objects."""

    content: Any = None

    def __setstate__(self, state: Any) -> None:
        self.content = state[-1] if isinstance(state, tuple) and state else None


class _Kind(_Inert):
    """Stands for a type of number."""

    def __init__(self, name: Any = "", *args: Any, **options: Any) -> None:
        self.name, self.order = name, "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]


def _scalar(kind: Any = None, raw: Any = b"", *_: Any) -> Any:
    """Return a NumPy number as one of Python's; None for anything else."""
    if not isinstance(kind, _Kind) or not isinstance(raw, bytes) or not re.fullmatch("[iufb][1248]", str(kind.name)):
        return None
    found = np.frombuffer(raw, np.dtype(kind.order + kind.name))
    return found[0].item() if len(found) == 1 else None


ALLOWED: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Array for core in ("core", "_core")},
    ("numpy", "ndarray"): _Inert,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _Inert,
    ("builtins", "set"): _Inert,
    ("builtins", "frozenset"): _Inert,
    ("builtins", "slice"): _Inert,
    ("builtins", "complex"): _Inert,
    ("collections", "OrderedDict"): dict,
    ("datetime", "datetime"): _Inert,
    ("datetime", "timedelta"): _Inert,
    ("datetime", "timezone"): _Inert,
    **{
        (module, name): _Inert
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    },
}

FORBIDDEN = {"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "BYTEARRAY8", "NEXT_BUFFER"}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED and not module.startswith("numpy.dtypes"):
            raise pickle.UnpicklingError(f"it names {module}.{name}, but suite2p's settings need no such thing")
        return ALLOWED.get((module, name), _Inert)


def read_pickled_dict(path: Path) -> dict[Any, Any]:
    """Read a dictionary saved with `numpy.save`, without running anything named in it.

    Numbers and text are read; arrays and other objects are stood for by inert ones.

    Raises
    ------
    LarscopeError
        It is damaged, is no dictionary, or names anything that suite2p does not write.
    """
    try:
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            else:
                shape, _, dtype = np.lib.format.read_array_header_2_0(file)
            raw = file.read()
        if shape != () or not dtype.hasobject:
            raise ValueError(f"it is an array of shape {shape} and type {dtype}")
        for code, argument, _ in pickletools.genops(raw):
            if code.name in FORBIDDEN:
                raise ValueError(f"it has the instruction {code.name}")
            if "PUT" in code.name and isinstance(argument, int) and argument > len(raw):
                raise ValueError("it refers to more objects than it has")  # and would have memory reserved for them
        array = _Unpickler(io.BytesIO(raw)).load()
        found = array.content[0] if isinstance(array, _Array) else None
        if not isinstance(found, dict):
            raise ValueError("it holds something else")
        return found
    except Exception as error:  # a damaged pickle can raise anything
        raise LarscopeError(
            f"Expected the dictionary saved by suite2p; {path} cannot be read: {error}. Restore it."
        ) from error
