"""What a result was made from, with and by. No torch."""

import hashlib
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("larscope", "torch", "lightning", "numba", "numpy", "scipy", "tifffile", "h5py", "xarray")


def describe_inputs(paths: Iterable[Path | None]) -> list[dict[str, Any]]:
    """Return path, size and SHA-256 of each distinct file."""
    distinct = dict.fromkeys(path for path in paths if path is not None)
    return [{"path": str(path), "bytes": path.stat().st_size, "sha256": _sha256(path)} for path in distinct]


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
