"""Files on disk: written whole or not at all, locked, identified by content, read only from their own place."""

import glob
import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

import h5py
import psutil
from filelock import FileLock, Timeout

from larscope._errors import LarscopeError

UNFINISHED = ".larscope-writing"
"""Prefix of unfinished files; machine and process follow."""

# ------------------------------------------------------------------------------------- written whole


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path for a new file or folder; it becomes `path` after the block succeeds.

    A file replaces another one. A folder takes the place of nothing, or of an empty folder.
    """
    with unfinished(path) as filling:
        yield filling
        put_in_place(filling, path)


@contextmanager
def creating(path: Path) -> Iterator[Path]:
    """Give a path for a new file; it becomes `path` after the block succeeds, never over another file.

    Raises
    ------
    FileExistsError
        There is a file at `path`, at the beginning or by the end.
    """
    if path.exists() or path.is_symlink():
        raise FileExistsError(path)
    with unfinished(path) as filling:
        yield filling
        path.open("x").close()  # takes the name, or fails where another process has
        try:
            filling.replace(path)
        except OSError:
            path.unlink()
            raise


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Give a path beside `path`, with its suffix, for a file or folder; leftovers are removed.

    So is what processes of this machine were writing there when they were killed.
    """
    host = socket.gethostname()
    for abandoned in path.parent.glob(f"{UNFINISHED}-{glob.escape(host)}-*"):
        process = abandoned.name.removeprefix(f"{UNFINISHED}-{host}-").partition("-")[0]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            remove(abandoned)
    filling = path.with_name(f"{UNFINISHED}-{host}-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    remove(filling)  # a link that somebody put there would be written through
    try:
        yield filling
    finally:
        remove(filling)


def put_in_place(finished: Path, path: Path) -> None:
    """Give a finished file or folder its name, in one step: see `replacing`."""
    if finished.is_dir() and path.is_dir():
        path.rmdir()  # fails unless it is empty; Windows renames over no folder
    finished.replace(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 with the same ends of lines on every system."""
    path.write_text(text, encoding="utf-8", newline="\n")


# ------------------------------------------------------------------------------------- locked


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock `path` against every other process, by a file made for this alone.

    The system lets go of it however this process ends.

    Raises
    ------
    BlockingIOError
        Another process holds it.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BlockingIOError(path) from error
    try:
        yield
    finally:
        try:
            path.unlink()  # while it is held: later it could be another process's
        except OSError:  # Windows removes no open file, whoever has opened it
            lock.release()
            remove(path)
        finally:
            lock.release()


# ------------------------------------------------------------------------------------- read from where they are


@contextmanager
def reading_hdf5(path: Path, content: Any = None) -> Iterator[h5py.File]:
    """Open an HDF5 or NetCDF file for reading, unless it would read other files: a stranger may name any.

    A movie's frames may lie in several files of one folder, as virtual datasets.

    Parameters
    ----------
    path
        The file.
    content
        Where it is read from instead: an open file.

    Raises
    ------
    LarscopeError
        A part of it lies elsewhere.
    """
    with h5py.File(path if content is None else content, "r") as file:
        known = (path, *_stat(path))
        if known not in _own:  # a movie is opened for every read
            _require_own(file, path, set())
            _own.add(known)
        yield file


_own: set[tuple[Path, int, int, int]] = set()
"""Files, as they were, that this process has found to read no others."""


def _require_own(file: h5py.File, path: Path, seen: set[Path]) -> None:
    def find(name: str, link: Any) -> tuple[str, str, str] | None:
        """Return the name, place and fault of data outside the file."""
        if isinstance(link, h5py.ExternalLink):
            return name, link.filename, "another file"
        item = h5py.h5o.open(file.id, os.fsencode(name)) if isinstance(link, h5py.HardLink) else None
        if not isinstance(item, h5py.h5d.DatasetID):
            return None
        layout = item.get_create_plist()
        if layout.get_external_count():
            return name, os.fsdecode(layout.get_external(0)[0]), "another file"
        for source in file[name].virtual_sources() if layout.get_layout() == h5py.h5d.VIRTUAL else ():
            if source.file_name == ".":
                continue
            place = path.parent / source.file_name
            if not place.resolve().is_relative_to(path.parent.resolve()):
                return name, str(place), "outside its folder"
            if not place.is_file():  # HDF5 would look for it elsewhere
                return name, str(place), "which does not exist, and would read as zeros"
            sources.add(place.resolve())
        return None

    sources: set[Path] = set()
    found = file.visititems_links(find)
    if found is not None:
        name, place, why = found
        raise LarscopeError(
            f"Expected everything in {path} to be in that file; {name!r} lies in {place}, {why}. Save it as one file."
        )
    for source in sources - seen:
        with h5py.File(source, "r") as other:
            _require_own(other, source, seen | sources)


def require_inside(path: Path, result: str | Path) -> Path:
    """Return a path inside a result folder, unless a link leads it out: a stranger may have put one there."""
    if not path.resolve().is_relative_to(Path(result).resolve()):
        raise LarscopeError(
            f"Everything is kept inside its result folder: {path} is a link to {path.resolve()}. Remove the link."
        )
    return path


# ------------------------------------------------------------------------------------- known by their content


def describe_inputs(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Return path, size and SHA-256 of each distinct file; for a folder, of all its files together.

    Raises
    ------
    LarscopeError
        A file is gone or cannot be read.
    """
    described = []
    for path in dict.fromkeys(paths):
        try:
            parts = [(part.relative_to(path).as_posix(), *_content(part, *_stat(part))) for part in _files_in(path)]
        except OSError as error:
            raise LarscopeError(
                f"Expected the movie {path}; it cannot be read: {error}. Put it back, or correct the `path` column."
            ) from error
        whole = parts[0][2] if path.is_file() else hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        described.append({"path": str(path), "bytes": sum(size for _, size, _ in parts), "sha256": whole})
    return described


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file, which this process reads once for as long as the file stays as it is."""
    return _content(path, *_stat(path))[1]


DIGESTS = "digests.json"
"""The SHA-256 of each file of a folder, by its name."""


def write_digests(folder: Path, names: Iterable[str]) -> None:
    """Keep the digests of files of a folder beside them, with those that are there."""
    known = _read_digests(folder) or {}
    known |= {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    with replacing(folder / DIGESTS) as path:
        write_text(path, json.dumps(known, indent=2) + "\n")


def check_digest(path: Path) -> None:
    """Raise where a file is not the one whose digest is kept beside it; older versions kept none.

    Raises
    ------
    LarscopeError
        The file was changed, or the digests were.
    """
    known = _read_digests(path.parent)
    if known is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if known.get(path.name) != found:
        raise LarscopeError(
            f"{path} was changed or damaged after it was written: its SHA-256 is not the one in "
            f"{path.with_name(DIGESTS)}. Restore the file, or make it again."
        )


def _read_digests(folder: Path) -> dict[str, str] | None:
    path = folder / DIGESTS
    if not path.is_file():
        return None
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LarscopeError(f"Expected digests of files in {path}; it cannot be read: {error}. Restore it.") from error
    if not isinstance(known, dict):
        raise LarscopeError(f"Expected digests of files in {path}; got {type(known).__name__}. Restore it.")
    return known


def fingerprint(paths: Iterable[Path]) -> list[tuple[int, int, int]]:
    """Return a cheap mark of a file's state, changed by every write; not comparable across machines."""
    return [_stat(part) for path in dict.fromkeys(paths) for part in _files_in(path)]


def digest_code(paths: Iterable[Path], libraries: Iterable[str]) -> str:
    """Return a digest of source files and of the versions of libraries: another one may compute other numbers."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    for library in libraries:
        digest.update(f"{library} {_version_or_none(library)}".encode())
    return digest.hexdigest()


def _version_or_none(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _files_in(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(part for part in path.rglob("*") if part.is_file())
    return [path]


def _stat(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=4096)
def _content(path: Path, inode: int, size: int, changed: int) -> tuple[int, str]:
    """Return size and SHA-256 of a file; it is read again only after its inode, size or change time change."""
    with path.open("rb") as file:
        return size, hashlib.file_digest(file, "sha256").hexdigest()


def describe_home(thing: object) -> list[str]:
    """Return the installed packages behind an object's class, with versions."""
    module = type(thing).__module__.partition(".")[0]
    return [f"{name} {version(name)}" for name in _distributions().get(module, [])]


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Return the distribution of each module: a slow search through the installation."""
    return packages_distributions()
