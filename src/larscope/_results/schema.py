"""The version of everything in a result folder, and how files of older versions are read.

Each file says its `schema_version`: a key of `config.toml`, `provenance.json`, `comparison.json` and the first line of
`log.jsonl`; an attribute of each `.nc`; metadata of `model.safetensors`. A CSV cannot say it and goes with its folder.

To change what a file holds: raise `SCHEMA_VERSION`, and add to `MIGRATIONS` what makes of the old content the new one.
A new setting needs a migration only where its default is not what older versions did: a missing key takes the default.
"""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from larscope._errors import LarscopeError

SCHEMA_VERSION = 6

MIGRATIONS: dict[tuple[str, int], Callable[[Any], Any]] = {
    ("config.toml", 1): lambda settings: {
        "window_starts": "fixed",
        "patch": 8,
        "output": "leaky",
        "pooling": "target",
        "own_weight": 1.0,
        "coefficients": "run",
        "scale": "series",
        "penalty": 0.005,
        "penalty_scale": "mean",
        "precision": "float32",
        "nan": "error",
        **settings,
    },
    ("config.toml", 2): lambda settings: {"shortcut": False, **settings},
    ("config.toml", 5): lambda settings: {"latents": "grid", "penalty": 0.75, "penalty_scale": "noise", **settings},
}
"""Migrations: for a file name and a version, the function to the next version."""


def migrate(content: Any, found: Any, path: Path) -> Any:
    """Return the content of a file as in the newest version.

    Parameters
    ----------
    content
        What was read, without its version: the argument and outcome of the functions in `MIGRATIONS`.
    found
        The file's `schema_version`.
    path
        The file.

    Raises
    ------
    LarscopeError
        A newer larscope wrote the file, or what it says is no version.
    """
    try:
        written = int(found)
    except (TypeError, ValueError):
        written = 0
    if written < 1:
        raise LarscopeError(
            f"{path}: `schema_version` must be a whole number from 1 on; got {found!r}. Restore the file, or make "
            "it again."
        )
    if written > SCHEMA_VERSION:
        raise LarscopeError(
            f"{path} was written by a newer larscope, in version {written} of its format; this one, "
            f"{version('larscope')}, reads up to version {SCHEMA_VERSION}. Update larscope."
        )
    for step in range(written, SCHEMA_VERSION):
        content = MIGRATIONS.get((path.name, step), lambda same: same)(content)
    return content
