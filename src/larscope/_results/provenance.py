"""The record of how a result was made."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("larscope", "torch", "lightning", "numba", "numpy", "scipy", "tifffile", "h5py", "xarray")


def describe_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages behind the numbers."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def git_commit() -> str | None:
    """Return the commit of larscope's source, None without its repository."""
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
