"""Files written whole or not at all, and known by their content."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from larscope._errors import LarscopeError


def describe_inputs(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Return path, size and SHA-256 of each distinct file; of a folder, those of all files in it together.

    Raises
    ------
    LarscopeError
        A file is gone or cannot be read.
    """
    described = []
    for path in dict.fromkeys(paths):
        try:
            parts = [(str(part.relative_to(path)), *_content(part, *_stat(part))) for part in _files_in(path)]
        except OSError as error:
            raise LarscopeError(
                f"Expected the movie {path}; it cannot be read: {error}. Put it back, or correct the `path` column."
            ) from error
        whole = parts[0][2] if path.is_file() else hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        described.append({"path": str(path), "bytes": sum(size for _, size, _ in parts), "sha256": whole})
    return described


def fingerprint(paths: Iterable[Path]) -> list[tuple[int, int, int]]:
    """Return what changes when files are written to: cheap, and not comparable across machines."""
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
    """Return size and SHA-256 of a file; read again only where its inode, size or time of change are others."""
    with path.open("rb") as file:
        return size, hashlib.file_digest(file, "sha256").hexdigest()


def require_inside(path: Path, result: str | Path) -> Path:
    """Return a path inside a result folder, unless a link leads it out: a stranger may have put one there."""
    if not path.resolve().is_relative_to(Path(result).resolve()):
        raise LarscopeError(
            f"Everything is kept inside its result folder: {path} is a link to {path.resolve()}. Remove the link."
        )
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes `path` once the block has succeeded."""
    filling = path.with_name(f".{path.name}.writing-{os.getpid()}")
    filling.unlink(missing_ok=True)  # a link that someone put there would be written through
    try:
        yield filling
        filling.replace(path)
    finally:
        filling.unlink(missing_ok=True)


def describe_home(thing: object) -> list[str]:
    """Return the installed packages, with versions, that the class of an object comes from."""
    module = type(thing).__module__.partition(".")[0]
    return [f"{name} {version(name)}" for name in _distributions().get(module, [])]


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Return which distributions bring which modules: a search through all that is installed, which takes seconds."""
    return packages_distributions()
