"""Many fits of one session, one for each combination of settings, by workers of this machine or of a cluster.

Each fit is a process of its own, `larscope fit`, with a fixed number of threads: so how many workers there are, and
which of them dies, changes no bit of any result. A fit whose worker has died goes on from its last epoch.
"""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from larscope._compute.workers import THREADS, connect
from larscope._dynamics.stability import describe_stability, find_in_conditions
from larscope._errors import LarscopeError
from larscope._fit.estimator import LatentVAR, load
from larscope._fit.preflight import estimate_fit, require_disk, size
from larscope._movies.checks.check import prepare_and_check, warn_of
from larscope._movies.session import Session
from larscope._results.checkpoints import identify_fit, identify_session
from larscope._results.folder import SCORES, find_fit, require_free
from larscope._settings import Settings, choose_settings

# a fit of its own, which ends with the worker that waits for it
FIT = """
import sys
from larscope._compute.workers import end_with
end_with(int(sys.argv.pop(1)))
sys.argv[0] = "larscope"
from larscope._cli.commands import app
app()
"""


@dataclass(frozen=True)
class Point:
    """One fit of a sweep.

    Attributes
    ----------
    varied
        The settings that differ between the fits, and the seed.
    settings
        All of them.
    """

    varied: dict[str, Any]
    settings: Settings

    @property
    def name(self) -> str:
        """Name of its result folder."""
        return ",".join(f"{name}={value}" for name, value in self.varied.items())

    def options(self) -> list[str]:
        """Return its settings as options of `larscope fit`."""
        words: list[str] = []
        for name, value in self.settings.as_dict().items():
            option = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            else:
                words += [f"--{option}", *(map(str, value) if isinstance(value, list) else [str(value)])]
        return words


def plan(fixed: Mapping[str, Any], lists: Mapping[str, Sequence[Any]], n_seeds: int = 1) -> list[Point]:
    """Return a point for each combination of the listed settings, each with `n_seeds` seeds.

    Parameters
    ----------
    fixed
        Settings of all points.
    lists
        Values of the others; as text, they are converted.
    n_seeds
        Seeds from `seed` on, for each of its values.

    Raises
    ------
    LarscopeError
        A value is not allowed, or a list is empty.

    Examples
    --------
    >>> [point.name for point in plan({"order": 2}, {"penalty": [".01", ".02"]}, n_seeds=2)]
    ['penalty=0.01,seed=0', 'penalty=0.01,seed=1', 'penalty=0.02,seed=0', 'penalty=0.02,seed=1']
    """
    for name, given in lists.items():
        if not len(given):
            raise LarscopeError(f"`{name}` must have at least one value: got {given!r}. Give one, or leave it out.")
    names = [name for name, given in lists.items() if len(given) > 1 and name != "seed"]
    points = {}
    for values in itertools.product(*lists.values()):
        chosen = {**fixed, **dict(zip(lists, values, strict=True))}
        settings = choose_settings(chosen)
        for seed in range(settings.seed, settings.seed + n_seeds):
            varied = {**{name: getattr(settings, name) for name in names}, "seed": seed}
            point = Point(varied, replace(settings, seed=seed))
            points[point.name] = point
    return list(points.values())


def prepare_sweep(
    points: Sequence[Point],
    session: Session,
    out: Path,
    progress: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> list[Point]:
    """Refuse what no fit could do, check and prepare the frames of all fits, and return those that are not there yet.

    Raises
    ------
    LarscopeError
        A fit is impossible, a folder of `out` holds something else, or the disk is too small.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LarscopeError(f"The results must be written to {out}: {error}. Pass another `--out`.") from error
    cache = out.resolve() / ".larscope-cache"
    estimates = [estimate_fit(point.settings, session, cached=True) for point in points]
    left = [point for point in points if find_fit(out / point.name) != identify_fit(point.settings, session)]
    for point in left:
        require_free(out / point.name)
    say(
        f"{len(points)} fits, {len(points) - len(left)} of them finished. Each needs up to about "
        f"{size(max(estimate.memory for estimate in estimates))} of memory."
    )
    ways = dict.fromkeys((point.settings.crop, point.settings.downscale, point.settings.nan) for point in left)
    needed = max((point.settings.n_frames_needed for point in left), default=1)
    checks: list[dict[str, Any]] = []
    for crop, downscale, nan in ways:
        require_disk(max(estimates, key=lambda estimate: estimate.disk), cache)
        how = {"crop": crop, "downscale": downscale, "nan": nan}
        _, checks = prepare_and_check(session, identify_session(session), needed, cache=cache, progress=progress, **how)
    warn_of(checks)
    return left


@contextmanager
def open_executor(jobs: int, scheduler: str | None) -> Iterator[Executor]:
    """Give the executor of the fits: so many at a time on this machine, or the workers of a dask scheduler.

    Raises
    ------
    LarscopeError
        As in `larscope._compute.workers.connect`.
    """
    if scheduler is None:
        local = ThreadPoolExecutor(jobs)  # of threads that wait for processes
        try:
            yield local
        except BaseException:
            local.shutdown(wait=False, cancel_futures=True)
            for process in list(_running):
                process.kill()
            raise
        local.shutdown()
        return
    with connect(scheduler) as client:
        executor = client.get_executor(pure=False)
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False)
            raise


_running: set[subprocess.Popen[bytes]] = set()


def run_fit(arguments: Sequence[str], log: Path, threads: int) -> str:
    """Run `larscope fit` in a process tied to this one; return its error, or nothing.

    Parameters
    ----------
    arguments
        Of the command.
    log
        File for what it prints, after what is in it.
    threads
        Of its computations.
    """
    environment = {**os.environ, **dict.fromkeys(THREADS, str(threads))}
    command = [sys.executable, "-c", FIT, str(os.getpid()), "fit", *arguments]
    with log.open("ab") as out:
        started = out.tell()
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
        _running.add(process)
        try:
            status = process.wait()
        finally:
            _running.discard(process)
    if status == 0:
        return ""
    said = log.read_bytes()[started:].decode(errors="replace").strip()
    reason = said.rpartition("Error: ")[2] or "no message"
    return f"killed by signal {-status}" if status < 0 else reason


def fit_points(
    points: Iterable[Point], session: Path, out: Path, executor: Executor, threads: int = 1, extra: Sequence[str] = ()
) -> Iterator[tuple[Point, str]]:
    """Fit every point into its folder in `out`; yield each at its end, with its error if any.

    Parameters
    ----------
    points, session, out
        What is fitted, the session table, and the folder of the sweep: as every worker sees them.
    executor
        From `open_executor`.
    threads
        Of each fit: another number may change the last bits of the results.
    extra
        More options of `larscope fit`.
    """
    out = out.resolve()
    waiting = {}
    for point in points:
        words = [str(session.resolve()), "--out", str(out / point.name), *point.options(), *extra]
        waiting[executor.submit(run_fit, words, out / f"{point.name}.log", threads)] = point
    for future in as_completed(waiting):
        try:
            reason = future.result()
        except Exception as error:  # the executor's: `run_fit` returns what goes wrong in a fit
            reason = f"its worker was lost ({type(error).__name__}: {error})"
        yield waiting[future], reason


def load_points(points: Iterable[Point], out: Path) -> list[tuple[Point, LatentVAR]]:
    """Return the finished fits."""
    return [(point, load(out / point.name)) for point in points if (out / point.name).is_dir()]


def tabulate(fitted: Iterable[tuple[Point, LatentVAR]]) -> pd.DataFrame:
    """Return one row per point: its varied settings and its scores, means over the runs."""
    return pd.DataFrame([{**point.varied, **_mean_scores(model)} for point, model in fitted])


def summarise(fitted: Iterable[tuple[Point, LatentVAR]]) -> pd.DataFrame:
    """Return one row a combination of settings: mean and standard deviation of its scores over the seeds.

    With several seeds, `edges_in_all` counts the couplings between different latents that every training found, over
    the conditions, and `edges_by_chance` those to expect (see `larscope._dynamics.stability`).
    """
    combinations: dict[str, tuple[dict[str, Any], dict[int, LatentVAR]]] = {}
    for point, model in fitted:
        varied = {name: value for name, value in point.varied.items() if name != "seed"}
        _, models = combinations.setdefault(repr(varied), (varied, {}))
        models[point.settings.seed] = model
    rows = []
    for combination, models in combinations.values():
        scores = pd.DataFrame([_mean_scores(model) for model in models.values()])
        row = {**combination, "n_seeds": len(models)}
        row |= scores.mean().to_dict() | scores.std().add_suffix("_sd").to_dict()
        if len(models) > 1:
            found = _count_edges(models)
            row |= {
                "edges_in_all": int(found["edges_in_all"].sum()),
                "edges_by_chance": float(found["edges_in_all_by_chance"].sum()),
            }
        rows.append(row)
    return pd.DataFrame(rows)


def _mean_scores(model: LatentVAR) -> dict[str, float]:
    return {name: float(model.scores_[name].mean()) for name in SCORES}


def _count_edges(models: Mapping[int, LatentVAR]) -> xr.Dataset:
    [first, *_] = models.values()
    conditions = first.runs_["condition"].tolist()
    findings = {
        seed: find_in_conditions(model.var_, model.latents_, model.contribution_maps_, conditions)
        for seed, model in models.items()
    }
    return describe_stability(findings, list(dict.fromkeys(conditions)), first.simulated_)
