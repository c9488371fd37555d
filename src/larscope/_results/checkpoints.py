"""What an unfinished fit leaves beside its result folder, and never inside it: checkpoints, and the next result."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from larscope._errors import LarscopeError
from larscope._movies.session import Session
from larscope._results.provenance import describe_versions
from larscope._settings import Settings
from larscope._storage import describe_inputs


def identify_fit(settings: Settings, session: Session, n_seeds: int = 1) -> str:
    """Return a digest of all that decides a fit's numbers, so that none goes on from another one's checkpoint.

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
    """Give a folder for what a fit has to keep until its result is whole; hold every other process off `out`.

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
    folder = unfinished / fit
    made = [path for path in unfinished.parents if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # the system lets go of it however the process ends
        lock = os.open(unfinished / "lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise LarscopeError(f"Checkpoints must be written beside {out}: {error}. Pass another `--out`.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 20, 0).decode().strip() or "of another user"
        os.close(lock)
        raise LarscopeError(
            f"Process {holder} is already fitting into {out}. Wait for it, stop it, or pass another `--out`."
        ) from error
    os.pwrite(lock, f"{os.getpid():<20}".encode(), 0)
    try:
        yield folder
    except BaseException:
        if not any(folder.iterdir()):
            folder.rmdir()
            _remove_if_only_locked(unfinished, made)
        raise
    else:
        shutil.rmtree(unfinished)
    finally:
        os.close(lock)


def _remove_if_only_locked(unfinished: Path, made: list[Path]) -> None:
    """Remove the folder unless another fit's checkpoints are in it; and the empty folders that were made for it."""
    if [path.name for path in unfinished.iterdir()] != ["lock"]:
        return
    shutil.rmtree(unfinished)
    for path in made:
        if any(path.iterdir()):
            return
        path.rmdir()
