"""Workers for independent pieces of work: this process, more processes of this machine, or a dask cluster.

Runs and labelings are handed out one by one (`hand_out`) by what `open_workers` has opened around; the fits of a sweep,
which are processes of their own, go to the same workers of a cluster.

joblib's `parallel_config` is not used. It would open the same executors, loky's and dask's, and nothing here would go:
its workers outlive a killed parent, its warnings stay in the workers, and its errors of killed workers differ too.
"""

import ctypes
import os
import platform
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeVar

import psutil

from larscope._errors import LarscopeError

PATIENCE = "30s"
"""How long a scheduler may take to answer."""

THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Environment variables with the number of threads, for libraries."""

PR_SET_PDEATHSIG = 1
"""Of Linux's `prctl`: the signal that a process gets when the one that started it ends."""

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class _Workers(NamedTuple):
    executor: Executor
    cancels: bool
    """Whether unneeded pieces are cancelled."""


_workers: ContextVar[_Workers | None] = ContextVar("workers", default=None)


@contextmanager
def open_workers(jobs: int = 1, scheduler: str | None = None) -> Iterator[None]:
    """Hand pieces of work to so many processes of this machine, of one thread each, or to a dask scheduler's workers.

    Whatever larscope does inside, in fits, preprocessing with a cache, and comparisons, is handed out.

    Parameters
    ----------
    jobs
        With 1 and no scheduler, all is done here.
    scheduler
        As in `connect`.

    Raises
    ------
    LarscopeError
        As in `connect`; or a worker was killed: of a cluster, several with the same piece of work.

    Examples
    --------
    >>> with open_workers(jobs=2):
    ...     print(list(hand_out(abs, [-1, 2, -3])))
    [1, 2, 3]
    """
    if scheduler is not None:
        with connect(scheduler) as client:
            from distributed import KilledWorker

            with _handing_out(_Workers(client.get_executor(pure=False), cancels=True), KilledWorker):
                yield
    elif jobs > 1:
        from loky import ProcessPoolExecutor

        # they keep memory that was freed for the next piece of work, which loky would take for a leak
        environment = {**dict.fromkeys(THREADS, "1"), "LOKY_MAX_MEMORY_LEAK_SIZE": "1e18"}
        local = ProcessPoolExecutor(jobs, env=environment, initializer=end_with, initargs=(os.getpid(),))
        try:
            # loky fails to kill its processes where pieces were cancelled; those that are left end with them
            with _handing_out(_Workers(local, cancels=False), BrokenExecutor):
                yield
        finally:
            local.shutdown(kill_workers=True)
    else:
        yield


def end_with(parent: int) -> None:
    r"""End this process as soon as its `parent` ends, however it ends.

    What nobody waits for would go on beside what is started next.

    Examples
    --------
    >>> import sys
    >>> from subprocess import run
    >>> code = "import os; from larscope._compute.workers import end_with; end_with(os.getppid()); print('goes on')"
    >>> run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    'goes on\n'
    """
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it had ended before
            os._exit(1)
    else:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: int) -> None:
    with suppress(psutil.NoSuchProcess):
        psutil.Process(parent).wait()
    os._exit(1)


@contextmanager
def _handing_out(workers: _Workers, killed: type[Exception]) -> Iterator[None]:
    before = _workers.set(workers)
    try:
        yield
    except killed as error:
        raise LarscopeError(
            f"Workers must live until their work is done; one was killed: {str(error).splitlines()[0]} If memory was "
            "short, let fewer work at a time. Give the same command again."
        ) from error
    finally:
        _workers.reset(before)


@contextmanager
def connect(scheduler: str) -> Iterator[Any]:
    """Give a client of a dask scheduler, from its address or its file (`--scheduler-file`).

    Raises
    ------
    LarscopeError
        dask is not installed, or nothing answers at the address.
    """
    if find_spec("distributed") is None:
        raise LarscopeError("`--scheduler` needs dask, but it is not installed. Run: pip install 'larscope[cluster]'")
    from distributed import Client

    try:
        known = {"scheduler_file": scheduler} if scheduler.endswith(".json") else {"address": scheduler}
        client = Client(**known, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise LarscopeError(
            f"A dask scheduler must answer at {scheduler!r}: {error}. Start it, and pass the address it prints."
        ) from error
    with client:
        yield client


def are_open() -> bool:
    """Say whether work is handed to other processes."""
    return _workers.get() is not None


def hand_out(function: Callable[[Item], Outcome], items: Iterable[Item]) -> Iterator[Outcome]:
    """Yield `function(item)` for each item, in order; warnings of workers are repeated here.

    Function and items travel to the workers, so neither should hold more than its piece of work needs.

    Examples
    --------
    >>> list(hand_out(abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    workers = _workers.get()
    if workers is None:
        yield from map(function, items)
        return
    futures = [workers.executor.submit(_keep_warnings, function, item) for item in items]
    try:
        while futures:
            outcome, warned = futures.pop(0).result()
            for message in warned:
                warnings.warn(message, stacklevel=2)
            yield outcome
    finally:
        if workers.cancels:
            for future in futures:
                future.cancel()


def _keep_warnings(function: Callable[[Item], Outcome], item: Item) -> tuple[Outcome, list[Warning]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        outcome = function(item)
    return outcome, [one.message for one in caught if isinstance(one.message, Warning)]
