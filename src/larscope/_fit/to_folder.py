"""A whole fit, from movies to a result folder: checked, announced, gone on with where it was interrupted, published."""

import shutil
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import rich
import xarray as xr
from lightning.fabric import Fabric

from larscope._compute.processes import LostProcessError, Processes, noticing_lost_processes
from larscope._dynamics.stability import describe_stability, find_in_conditions
from larscope._errors import LarscopeError, interrupts_as_such
from larscope._fit.estimator import LatentVAR, load
from larscope._fit.preflight import Estimate, duration, require_disk, size, time_training
from larscope._fit.training import finished_epochs
from larscope._movies.checks.check import prepare_and_check, warn_of
from larscope._movies.preprocessing import PreparedSession, prepare_showing
from larscope._movies.session import Session
from larscope._report.page import write_report
from larscope._results.checkpoints import identify_fit, identify_session, open_checkpoints
from larscope._results.folder import find_fit, publish_result, require_free, write_dataset
from larscope._storage import write_digests


def fit_to_folder(
    session: Session | Callable[[], Session],
    folder: str | Path,
    *,
    seeds: int = 1,
    cache: str | Path | None = None,
    max_memory: int | None = None,
    devices: int = 1,
    num_nodes: int = 1,
    strategy: str = "ddp",
    progress: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
    **settings: Any,
) -> LatentVAR:
    """Fit a session and write the result folder, as `larscope fit` does.

    The movies are checked while they are read. An interrupted fit goes on where it was when you call this again with
    the same session and settings. A finished one is only loaded. The folder is written whole or not at all.

    Parameters
    ----------
    session
        Runs; or a function that opens them.
    folder
        The result folder; must not exist yet, or be empty.
    seeds
        Train this often, from the `seed` on, and keep how often each edge and pixel is found (`stability.nc`).
    cache, max_memory, devices, num_nodes, strategy, progress
        As in `LatentVAR.fit`.
    say
        Called with each sentence about what will be done.
    settings
        As in `LatentVAR`, `preset` included.

    Returns
    -------
    LatentVAR
        The fitted model, of the first seed.

    Raises
    ------
    LarscopeError
        As `LatentVAR.fit`; `folder` holds something else, or cannot be written.

    Warns
    -----
    MovieWarning
        Something is wrong with the movies: all is in `provenance_["checks"]` and in the report.

    Examples
    --------
    >>> import tempfile, warnings
    >>> from larscope import fit_to_folder, simulate_session
    >>> session = simulate_session(n_runs=2, n_frames=80, frame_shape=(48, 48), seed=0)
    >>> with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # one epoch is far too short a training
    ...     model = fit_to_folder(session, f"{folder}/result", order=2, window=32)
    ...     sorted(path.name for path in Path(f"{folder}/result").iterdir())[-2:]
    ['report.html', 'results.nc']
    """
    model = LatentVAR(**settings)
    processes = Processes(devices, num_nodes, strategy)
    processes.share(model.settings.batch_size)
    where = None if cache is None else Path(cache)
    fabric = processes.start()
    if fabric.global_rank:
        progress, say = False, lambda sentence: None
    job = _Job(model, seeds, processes, fabric, where, max_memory, progress, say)
    opened = session if callable(session) else lambda: session
    out = Path(folder).resolve()  # `.`, `..` and links name a folder too
    try:
        return job.help(opened, out) if fabric.global_rank else job.lead(opened, out)
    except OSError as error:
        raise LarscopeError(
            f"A file could not be read or written: {error}. Finished work is kept. Remove the cause and do the same "
            "again."
        ) from error


@dataclass(frozen=True)
class _Job:
    """One fit with all its seeds, in one of the processes that share it."""

    model: LatentVAR
    seeds: int
    processes: Processes
    fabric: Fabric
    cache: Path | None
    max_memory: int | None
    progress: bool
    say: Callable[[str], None]

    def lead(self, open_session: Callable[[], Session], out: Path) -> LatentVAR:
        """Do all that the first process does: it alone writes."""
        with interrupts_as_such() as raise_lost:
            session = open_session()
            with self._showing("Hashing the files"):
                fit = identify_fit(self.model.settings, session, self.seeds)
            done = find_fit(out) == fit
            if not done:
                require_free(out)
            with open_checkpoints(out, fit) as unfinished:
                if done:
                    self.fabric.broadcast(None)
                    self.say(f"This fit is in {out} already; nothing was repeated.")
                    return load(out)
                estimate = self._announce(session)
                self.fabric.broadcast(unfinished)
                finished = unfinished / "result"
                shutil.rmtree(finished, ignore_errors=True)
                self._fit(session, unfinished, estimate, finished)
                write_report(finished)
                raise_lost()
                publish_result(finished, out)
        return self.model

    def help(self, open_session: Callable[[], Session], out: Path) -> LatentVAR:
        """Do the share of another process, and say nothing but what goes wrong here."""
        with warnings.catch_warnings(), interrupts_as_such():
            warnings.simplefilter("ignore")
            try:
                with noticing_lost_processes():
                    session = open_session()
                    unfinished = cast("Path | None", self.fabric.broadcast(None))
                if unfinished is None:
                    return load(out)
                estimate = self.model._expect(session, self.processes, self.cache is not None)
                self._fit(session, unfinished, estimate)
            except LostProcessError:
                raise
            except LarscopeError as error:
                number, count = self.fabric.global_rank + 1, self.fabric.world_size
                raise LarscopeError(f"In process {number} of {count}: {error}") from error
        return self.model

    def _fit(self, session: Session, unfinished: Path, estimate: Estimate, finished: Path | None = None) -> None:
        """Fit with every seed; write what was found to `finished`, where that is given."""
        started, first = time.monotonic(), self.model
        if finished is not None and (epoch := finished_epochs(unfinished)) is not None:
            self.say(f"Resuming an interrupted fit from epoch {epoch}.")
        prepared, checks = self._prepare(session)
        self._train(first, prepared, started, estimate, unfinished)
        if finished is not None:
            first.provenance_ |= {"fit": unfinished.name, "checks": checks}
            first.save(finished)
        if self.seeds > 1:
            stability = self._train_again(prepared, estimate, unfinished)
            if finished is not None:
                write_dataset(stability, finished / "stability.nc")
                write_digests(finished, ["stability.nc"])

    def _prepare(self, session: Session) -> tuple[PreparedSession, list[dict[str, Any]]]:
        """Prepare the frames; the first process checks them on the way, and the others then find them in the cache."""
        how = {**self.model._preparation(), "cache": self.cache}
        with nullcontext() if self.cache is None else self.fabric.rank_zero_first():
            if self.fabric.global_rank:
                return prepare_showing(session, False, **how), []
            needed = self.model.settings.n_frames_needed
            name = identify_session(session)
            prepared, checks = prepare_and_check(session, name, needed, progress=self.progress, **how)
        warn_of(checks)
        return prepared, checks

    def _train(
        self, model: LatentVAR, prepared: PreparedSession, started: float, estimate: Estimate, checkpoints: Path
    ) -> None:
        keep_memory = estimate.may_keep_memory(self.max_memory)
        model._fit(prepared, self.processes, self.fabric, started, keep_memory, checkpoints, self.progress)

    def _train_again(self, prepared: PreparedSession, estimate: Estimate, unfinished: Path) -> xr.Dataset:
        """Train with further seeds, each with checkpoints of its own; return how often each edge and pixel is found."""
        session, settings = prepared.session, self.model.settings
        conditions = [run.condition for run in session]
        findings = {}
        for number in range(self.seeds):
            seed, model = settings.seed + number, self.model
            if number:
                self.say(f"Training with seed {seed}, {number + 1} of {self.seeds}.")
                model = LatentVAR(**replace(settings, seed=seed).as_dict())
                self._train(model, prepared, time.monotonic(), estimate, unfinished / f"seed-{seed}")
            findings[seed] = find_in_conditions(model.var_, model.latents_, model.contribution_maps_, conditions)
        return describe_stability(findings, session.conditions, session.simulated)

    def _announce(self, session: Session) -> Estimate:
        """Say before a fit starts what it will take, and refuse it if that is not there."""
        settings = self.model.settings
        estimate = self.model._expect(session, self.processes, self.cache is not None)
        keep = estimate.may_keep_memory(self.max_memory)
        if self.cache is not None:
            require_disk(estimate, self.cache)
        n_steps, n_processes = self.seeds * estimate.n_steps, self.fabric.world_size
        time_taken = "; nothing is trained"
        if n_steps:
            with self._showing("Timing one training step"):
                seconds = time_training(settings, session, n_steps * settings.batch_size // n_processes)
            time_taken = f", and about {duration(seconds)} for {n_steps} training steps"
        n_frames = sum(run.n_frames for run in session)
        limit = "" if self.max_memory is None else f" of {size(self.max_memory)} allowed"
        limit += "" if n_processes == 1 else f" in each of {n_processes} processes"
        disk = "" if self.cache is None else f", {size(estimate.disk)} of disk in {self.cache} for the prepared frames"
        self.say(
            f"{len(session)} runs, {n_frames} frames, {'about ' * (not n_steps)}{estimate.n_latents} latents. The fit "
            f"needs up to about {size(estimate.memory if keep else estimate.lean_memory)} of "
            f"memory{limit}{disk}{time_taken}."
        )
        return estimate

    def _showing(self, what: str) -> AbstractContextManager[Any]:
        return rich.get_console().status(what, spinner="line") if self.progress else nullcontext()
