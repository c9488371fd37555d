"""The steps around a fit from the command line: announce, check, resume, train every seed, report, publish."""

import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import typer
from rich.progress import Progress

from larscope._cli.tables import score_table
from larscope._cli.terminal import complaints, console, print_plain, print_warning
from larscope._errors import LarscopeError, interrupts_as_such

MOST_WARNINGS = 5
"""Most problems of the movies printed by a fit; the report has all."""


def fit_and_report(
    open_session: Callable[[], Any],
    out: Path,
    settings: dict[str, Any],
    n_seeds: int = 1,
    how: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Fit with each seed and report, unless it was done before; `how` holds further arguments of `LatentVAR.fit`."""
    from larscope._compute.processes import Processes
    from larscope._fit.estimator import LatentVAR
    from larscope._results.checkpoints import identify_fit, open_checkpoints
    from larscope._results.folder import find_fit, read_result, require_free

    model = LatentVAR(**settings)
    out = out.resolve()  # `.`, `..` and links name a folder too
    processes = Processes(**{name: value for name, value in how.items() if name in Processes.__annotations__})
    processes.share(model.batch_size)
    fabric = processes.start()
    if fabric.global_rank:
        _help_to_fit(fabric, model, open_session, settings, n_seeds, how)
        return
    try:
        with interrupts_as_such() as raise_lost:
            session = open_session()
            with console.status("Hashing the files", spinner="line"):
                fit = identify_fit(model.settings, session, n_seeds)
            done = find_fit(out) == fit
            if not done:
                require_free(out)
            with open_checkpoints(out, fit) as folder:
                if done:
                    fabric.broadcast(None)
                    print_plain(f"This fit is in {out} already; nothing was repeated.")
                else:
                    _fit_whole(fabric, model, session, out, settings, n_seeds, folder, how, raise_lost)
    except KeyboardInterrupt:
        print_plain("Stopped. Give the same command again to go on.", complaints)
        raise typer.Exit(130) from None
    except OSError as error:
        raise LarscopeError(
            f"A file could not be read or written: {error}. Finished work is kept. Remove the cause and give the same "
            "command again."
        ) from error
    result = read_result(out)
    console.print(score_table(result.dataset, "Simulated session" if session.simulated else "Session"))
    from larscope._report.sentences import describe

    for sentence in describe(result):
        print_plain(sentence)
    print_plain(f"The result is in {out}. Open {out / 'report.html'} in any browser.")


def _help_to_fit(
    fabric: Any,
    model: Any,
    open_session: Callable[[], Any],
    settings: dict[str, Any],
    n_seeds: int,
    how: Mapping[str, Any],
) -> None:
    """Do this process's share of a fit led by another process; print errors only."""
    from larscope._compute.processes import LostProcessError, noticing_lost_processes

    console.quiet = True
    warnings.simplefilter("ignore")
    try:
        with interrupts_as_such():
            with noticing_lost_processes():
                session = open_session()
                folder = fabric.broadcast(None)
            if folder is not None:
                model.fit(session, checkpoints=folder, **how)
                _train_again(model, session, settings, n_seeds, folder, how)
    except LostProcessError:
        raise typer.Exit(2) from None  # the one that ended has said why
    except LarscopeError as error:
        raise LarscopeError(f"In process {fabric.global_rank + 1} of {fabric.world_size}: {error}") from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _fit_whole(
    fabric: Any,
    model: Any,
    session: Any,
    out: Path,
    settings: dict[str, Any],
    n_seeds: int,
    folder: Path,
    how: Mapping[str, Any],
    raise_lost: Callable[[], None],
) -> None:
    """Fit, and publish the whole result in one step; unfinished work stays in `folder`."""
    from larscope._fit.training import finished_epochs
    from larscope._report.page import write_report
    from larscope._results.folder import publish_result, write_dataset

    _announce(model, session, how, n_seeds, fabric.world_size)
    checks = check_once(session, how.get("cache"))
    if (epoch := finished_epochs(folder)) is not None:
        console.print(f"Resuming an interrupted fit from epoch {epoch}.")
    fabric.broadcast(folder)
    model.fit(session, checkpoints=folder, progress=True, **how)
    raise_lost()
    model.provenance_ |= {"fit": folder.name, "checks": checks}
    finished = folder / "result"
    shutil.rmtree(finished, ignore_errors=True)
    model.save(finished)
    if n_seeds > 1:
        stability = _train_again(model, session, settings, n_seeds, folder, {"progress": True, **how})
        write_dataset(stability, finished / "stability.nc")
    write_report(finished)
    raise_lost()
    publish_result(finished, out)


def check_once(session: Any, cache: Path | None) -> list[dict[str, Any]]:
    """Check the movies and print their problems; findings in the cache are not computed again."""
    from larscope._movies.checks.check import check_session, find_checks, keep_checks
    from larscope._movies.checks.findings import describe_findings
    from larscope._results.checkpoints import identify_session

    name = identify_session(session)
    findings = None if cache is None else find_checks(cache, name)
    if findings is None:
        with Progress(console=console) as bar:
            task = bar.add_task("Checking", total=sum(run.n_frames for run in session))
            found = check_session(session, on_frames=lambda n_frames: bar.advance(task, n_frames))
        findings = describe_findings(found)
        if cache is not None:
            keep_checks(findings, cache, name)
    wrong = [finding for finding in findings if finding["level"] != "pass"]
    for finding in wrong[:MOST_WARNINGS]:
        print_warning(f"{'' if finding['run'] is None else 'run ' + repr(finding['run']) + ': '}{finding['message']}")
    if len(wrong) > MOST_WARNINGS:
        print_warning(f"{len(wrong) - MOST_WARNINGS} more problems; `larscope check` lists all, with advice.")
    return findings


def _announce(model: Any, session: Any, how: Mapping[str, Any], n_seeds: int, n_processes: int) -> None:
    """Print memory, disk and time of a fit before it starts; refuse it if they are not available."""
    from larscope._fit.preflight import duration, estimate_fit, require_disk, size, time_training

    cache, max_memory = how.get("cache"), how.get("max_memory")
    estimate = estimate_fit(model.settings, session, cached=cache is not None)
    keep = estimate.may_keep_memory(max_memory)
    if cache is not None:
        require_disk(estimate, cache)
    n_steps = n_seeds * estimate.n_steps
    if n_steps:
        with console.status("Timing one training step", spinner="line"):
            seconds = time_training(model.settings, session, n_steps * model.batch_size // n_processes)
        time = f", and about {duration(seconds)} for {n_steps} training steps"
    else:
        time = "; nothing is trained"
    n_frames = sum(run.n_frames for run in session)
    limit = "" if max_memory is None else f" of {size(max_memory)} allowed"
    limit += "" if n_processes == 1 else f" in each of {n_processes} processes"
    disk = "" if cache is None else f", {size(estimate.disk)} of disk in {cache} for the prepared frames"
    print_plain(
        f"{len(session)} runs, {n_frames} frames, {'about ' * (not n_steps)}{estimate.n_latents} latents. The fit "
        f"needs up to about {size(estimate.memory if keep else estimate.lean_memory)} of memory{limit}{disk}{time}."
    )


def _train_again(
    model: Any, session: Any, settings: dict[str, Any], n_seeds: int, folder: Path, how: Mapping[str, Any]
) -> Any:
    """Train with further seeds, each with its own checkpoints; return how often each edge and pixel is found."""
    from larscope._dynamics.stability import describe_stability, find_in_conditions
    from larscope._fit.estimator import LatentVAR

    conditions = [run.condition for run in session]
    findings = {model.seed: find_in_conditions(model.var_, model.latents_, model.contribution_maps_, conditions)}
    for seed in range(model.seed + 1, model.seed + n_seeds):
        console.print(f"Training with seed {seed}, {len(findings) + 1} of {n_seeds}.", highlight=False)
        again = LatentVAR(**{**settings, "seed": seed}).fit(session, checkpoints=folder / f"seed-{seed}", **how)
        findings[seed] = find_in_conditions(again.var_, again.latents_, again.contribution_maps_, conditions)
    return describe_stability(findings, session.conditions, session.simulated)


def prepare_sweep(points: list[Any], session: Any, out: Path) -> list[Any]:
    """Refuse an impossible sweep, prepare the frames of all fits, and return the unfinished ones."""
    from larscope._fit.preflight import estimate_fit, require_disk, size
    from larscope._movies.preprocessing import prepare_showing
    from larscope._results.checkpoints import identify_fit
    from larscope._results.folder import find_fit, require_free

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LarscopeError(f"The results must be written to {out}: {error}. Pass another `--out`.") from error
    cache = out.resolve() / ".larscope-cache"
    estimates = [estimate_fit(point.settings, session, cached=True) for point in points]
    left = [point for point in points if find_fit(out / point.name) != identify_fit(point.settings, session)]
    for point in left:
        require_free(out / point.name)
    print_plain(
        f"{len(points)} fits, {len(points) - len(left)} of them finished. Each needs up to about "
        f"{size(max(estimate.memory for estimate in estimates))} of memory."
    )
    if left:
        check_once(session, cache)
    for crop, downscale, nan in dict.fromkeys((p.settings.crop, p.settings.downscale, p.settings.nan) for p in left):
        require_disk(max(estimates, key=lambda estimate: estimate.disk), cache)
        prepare_showing(session, True, crop=crop, downscale=downscale, nan=nan, cache=cache)
    return left
