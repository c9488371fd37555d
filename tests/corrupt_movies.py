"""Damage movies at random, from a seed, and say what opening and reading them gives.

    python tests/corrupt_movies.py FOLDER KIND FIRST STOP

prints a line for each mutation, `number outcome`: `refused` (a LarscopeError), `frames` (of some well-formed
reading), or the name of any other exception. It runs as a process of its own: a decoder might crash it.
"""

import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import psutil
from written_movies import KINDS, files_of

from larscope._errors import LarscopeError
from larscope._movies.readers.formats import open_movie

try:
    import resource
except ImportError:  # Windows
    resource = None

N_FRAMES = 6


def frames_of(dtype: str) -> np.ndarray:
    """Frames with dark borders, so that compression has something to do."""
    frames = np.random.default_rng(0).integers(0, 65_536, (N_FRAMES, 20, 30)).astype(dtype)
    frames[:, :5] = 7
    return frames


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip, overwrite, delete, insert or cut bytes; half of the time near the beginning or the end."""
    data = bytearray(content)
    size = len(data)
    if not size:
        return content
    for _ in range(int(rng.integers(1, 4))):
        where = rng.choice(["start", "end", "anywhere", "anywhere"])
        reach = min(size, 600)
        at = int({"start": rng.integers(reach), "end": size - 1 - rng.integers(reach)}.get(where, rng.integers(size)))
        length = int(rng.choice([1, 2, 4, 8, 64]))
        match rng.integers(7):
            case 0:
                data[min(at, len(data) - 1)] ^= 1 << int(rng.integers(8))
            case 1:
                data[at : at + length] = rng.bytes(len(data[at : at + length]))
            case 2:
                data[at : at + length] = bytes([int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))]) * len(
                    data[at : at + length]
                )
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = rng.bytes(length)
            case 5:
                data[at:at] = data[max(0, at - 64) : at]
            case _:
                del data[max(1, at) :]
        size = max(1, len(data))
        data = data or bytearray(b"\0")
    return bytes(data)


def outcome_of(path: Path, choice: dict[str, str], on_truncated: str) -> str:
    """Open a movie and read it as an analysis does; well-formed is what keeps its promise of shape and type."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            movie = open_movie(path, **choice, on_truncated=on_truncated)
            n_frames, height, width = movie.shape
            if n_frames > 1000:
                return f"{n_frames} frames"
            for start in range(0, n_frames, 4):
                stop = min(start + 4, n_frames)
                frames = movie.read(start, stop)
                if frames.shape != (stop - start, height, width) or frames.dtype != movie.dtype:
                    return f"{frames.shape} {frames.dtype}"
    except LarscopeError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}".replace("\n", " ")
    return "frames"


def corrupt(folder: Path, name: str, number: int) -> str:
    """Write a movie, damage one of its files, and return what reading it gives."""
    kind = KINDS[name]
    rng = np.random.default_rng([number, sorted(KINDS).index(name)])
    written = _write_once(folder / "pristine", name)
    shutil.rmtree(folder / "damaged", ignore_errors=True)
    shutil.copytree(folder / "pristine", folder / "damaged")
    path = folder / "damaged" / written
    files = files_of(path)
    victim = files[int(rng.integers(len(files)))]
    victim.write_bytes(mutate(victim.read_bytes(), rng))
    return outcome_of(path, kind.choice, str(rng.choice(["error", "keep"])))


def _write_once(folder: Path, name: str) -> str:
    note = folder.with_suffix(".txt")
    if not folder.is_dir():
        folder.mkdir(parents=True)
        path = KINDS[name].write(folder, frames_of(KINDS[name].dtypes[0]))
        note.write_text(str(path.relative_to(folder)))
    return note.read_text()


def peak_memory() -> int:
    """Of this process, in KiB."""
    if resource is None:
        return psutil.Process().memory_info().peak_wset >> 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> 10 if sys.platform == "darwin" else peak


if __name__ == "__main__":
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))  # what asks for more fails rather than swaps
    folder, name, first, stop = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    for number in range(first, stop):
        print(number, flush=True, end=" ")  # noqa: T201
        print(corrupt(folder, name, number), flush=True)  # noqa: T201
    print("peak", peak_memory(), flush=True)  # noqa: T201
