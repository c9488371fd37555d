"""What a result was made from, with and by. No torch."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from larscope._errors import LarscopeError

PACKAGES = ("larscope", "torch", "lightning", "numba", "numpy", "scipy", "tifffile", "h5py", "xarray")


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


def describe_home(thing: object) -> list[str]:
    """Return the installed packages, with versions, that the class of an object comes from."""
    module = type(thing).__module__.partition(".")[0]
    return [f"{name} {version(name)}" for name in _distributions().get(module, [])]


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Return which distributions bring which modules: a search through all that is installed, which takes seconds."""
    return packages_distributions()


def _version_or_none(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def describe_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the numbers."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def git_commit() -> str | None:
    """Return the commit of larscope's own source, None where it is installed without its repository."""
    source = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", source, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        tracked = subprocess.run(
            ["git", "-C", source, "ls-files", "--error-unmatch", __file__],
            capture_output=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 and tracked.returncode == 0 else None


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
