"""Checkpoints of a training, beside its result folder and never inside it."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from larscope.errors import LarscopeError
from larscope.provenance import describe_inputs, describe_versions
from larscope.session import Session
from larscope.settings import Settings, plain


@contextmanager
def open_checkpoints(out: Path, settings: Settings, session: Session) -> Iterator[Path]:
    """Give a folder for the checkpoints of one fit, and remove it once the fit has succeeded, or if it is empty.

    It lies beside `out` and its name holds a digest of everything that decides the numbers (settings, run table,
    contents of the movies, versions, number of threads): a training never goes on from a checkpoint of another one.

    Raises
    ------
    LarscopeError
        Another process is fitting into the same result folder.
    """
    folder = out.with_name(f".{out.name}.checkpoints-{_digest(settings, session)}")
    lock = folder / "lock"
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LarscopeError(f"Checkpoints must be written beside {out}: {error}. Pass another `--out`.") from error
    _take(lock, out)
    try:
        yield folder
    except BaseException:
        lock.unlink(missing_ok=True)
        for path in made or [folder]:
            if any(path.iterdir()):
                break
            path.rmdir()
        raise
    shutil.rmtree(folder)


def _digest(settings: Settings, session: Session) -> str:
    runs = [(run.name, run.condition, run.start, run.stop, str(run.path), list(run.movie.shape)) for run in session]
    inputs = describe_inputs(run.path for run in session)
    # the last bits of a sum depend on how many threads share it
    made_with = [describe_versions(), torch.get_num_threads(), torch.cuda.is_available()]
    decisive = json.dumps([plain(settings), runs, inputs, made_with], sort_keys=True, default=str)
    return hashlib.sha256(decisive.encode()).hexdigest()[:12]


def _take(lock: Path, out: Path) -> None:
    """Claim the folder, unless a living process holds it."""
    try:
        holder = int(lock.read_text())
        os.kill(holder, 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        lock.write_text(str(os.getpid()))
        return
    except PermissionError:
        holder = int(lock.read_text())
    raise LarscopeError(
        f"Process {holder} is already fitting into {out}. Wait for it, stop it, or pass another `--out`."
    )
