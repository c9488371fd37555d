"""Libraries that only some formats need."""

from importlib import import_module
from pathlib import Path
from typing import Any

from larscope._errors import LarscopeError


def load_library(name: str, extra: str, path: Path) -> Any:
    """Import a library that an extra of larscope brings, or say how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise LarscopeError(
            f"Reading {path} needs the package {name}, which cannot be imported ({error}). Install it with: "
            f'pip install "larscope[{extra}]"'
        ) from error
