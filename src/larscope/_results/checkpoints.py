"""The unfinished fit beside its result folder: checkpoints, and the next result."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from larscope._errors import LarscopeError
from larscope._movies.session import Session
from larscope._results.provenance import describe_versions
from larscope._settings import Settings
from larscope._storage import describe_inputs, locked, write_text


def identify_fit(settings: Settings, session: Session, n_seeds: int = 1) -> str:
    """Return the digest of a fit: everything its numbers depend on, so no fit resumes another's checkpoint.

    Settings, run table, contents of the movies, and versions. Not on which devices, by how many of them and how many
    threads, though the last bits of a sum depend on that: a fit that was interrupted may go on elsewhere.
    """
    return _digest([settings.as_dict(), n_seeds, identify_session(session), describe_versions()])


def identify_session(session: Session) -> str:
    """Return a digest of a session: its table and the contents of its movies."""
    runs = [
        {field.name: str(getattr(run, field.name)) for field in fields(run) if field.name != "movie"} for run in session
    ]
    shapes = [(run.movie.shape, run.movie.dtype.str) for run in session]
    contents = [entry["sha256"] for entry in describe_inputs(path for run in session for path in run.files)]
    return _digest([runs, shapes, contents])


def _digest(decisive: list[Any]) -> str:
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:12]


@contextmanager
def open_checkpoints(out: Path, fit: str) -> Iterator[Path]:
    """Give a folder for the unfinished fit, and lock `out` against other processes.

    Parameters
    ----------
    out
        The result folder to be.
    fit
        From `identify_fit`: another fit into the same `out` does not see these checkpoints.

    Yields
    ------
    folder
        `.out.unfinished/fit`, beside `out`. Removed once the fit has succeeded, and if it is empty; otherwise the next
        process finds what was left in it, however this one ended.

    Raises
    ------
    LarscopeError
        Another process is fitting into `out`, or nothing can be written beside it.
    """
    unfinished = out.with_name(f".{out.name}.unfinished")
    folder, holder = unfinished / fit, unfinished / "process"
    made = [path for path in out.parents if not path.exists()]
    try:
        with ExitStack() as held:
            try:
                out.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(out.with_name(f".{out.name}.lock")))
                folder.mkdir(parents=True, exist_ok=True)
                write_text(holder, str(os.getpid()))
            except BlockingIOError as error:
                raise LarscopeError(
                    f"{_describe_holder(holder)} is already fitting into {out}. Wait for it, stop it, or pass another "
                    "`--out`."
                ) from error
            except OSError as error:
                raise LarscopeError(
                    f"Checkpoints must be written beside {out}: {error}. Pass another `--out`."
                ) from error
            try:
                yield folder
            except BaseException:
                _remove_empty(folder)
                if [path.name for path in unfinished.iterdir()] == [holder.name]:
                    shutil.rmtree(unfinished)
                raise
            shutil.rmtree(unfinished)
    except BaseException:
        _remove_empty(*made)
        raise


def _describe_holder(holder: Path) -> str:
    try:
        return f"Process {int(holder.read_text(encoding='utf-8'))}"
    except (OSError, ValueError):  # it has just begun, or is another user's
        return "Another process"


def _remove_empty(*folders: Path) -> None:
    for folder in folders:
        with suppress(OSError):  # it holds something
            folder.rmdir()
