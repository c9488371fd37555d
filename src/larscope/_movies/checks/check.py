"""The check of a whole session: every run once, then all of them together."""

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from rich.progress import Progress

from larscope._errors import LarscopeError, interrupts_as_such
from larscope._movies.checks.findings import Finding, describe_findings
from larscope._movies.checks.measure import Measurement, Measures, measure_run
from larscope._movies.checks.runs import check_run
from larscope._movies.checks.sessions import check_table, check_together
from larscope._movies.preprocessing import PreparedSession, prepare_watched
from larscope._movies.session import Run, Session
from larscope._movies.table import BrokenRun
from larscope._storage import digest_code, replacing, write_text

MOST_WARNINGS = 5
"""Findings about the movies that a fit warns of; all are in the report."""


class MovieWarning(UserWarning):
    """Something in the movies that may make a fit worse, or wrong."""


def check_session(
    session: Iterable[Run | BrokenRun], needed: int = 1, on_frames: Callable[[int], None] = lambda n_frames: None
) -> list[Finding]:
    """Check every run of a session, and the runs against each other.

    Each movie is read once, in parts of about 32 MiB; nothing is changed.

    Parameters
    ----------
    session
        A `Session`, or the runs that `read_runs` opened: a broken run becomes a finding, and hides none of the others.
    needed
        Frames that a fit asks of every run.
    on_frames
        Called with the number of frames after each part, to show progress.

    Returns
    -------
    findings
        First of the table, then of each run, then of the runs together. Passed checks are among them, with their
        numbers.

    Examples
    --------
    >>> from larscope import simulate_session
    >>> findings = check_session(simulate_session(n_runs=2, n_frames=80, frame_shape=(48, 48), seed=0))
    >>> {finding.level for finding in findings}
    {'pass'}
    """
    broken = [_unreadable(run.name, run.error) for run in session if isinstance(run, BrokenRun)]
    runs = [run for run in session if isinstance(run, Run)]
    return broken + _judge(runs, {}, needed, on_frames)


def _judge(
    runs: Sequence[Run], known: Mapping[str, Measures], needed: int, on_frames: Callable[[int], None]
) -> list[Finding]:
    """Return the findings about runs, after measuring those whose measures are not known."""
    findings = check_table(runs) if runs else []
    measured: list[Measures] = []
    for run in runs:
        try:
            with interrupts_as_such():
                measures = known[run.name] if run.name in known else measure_run(run, on_frames)
        except LarscopeError as error:
            findings.append(_unreadable(run.name, error))
        else:
            measured.append(measures)
            findings += check_run(measures, needed)
    return findings + check_together(measured)


def prepare_and_check(
    session: Session, name: str, needed: int, *, cache: Path | None, progress: bool = False, **how: Any
) -> tuple[PreparedSession, list[dict[str, Any]]]:
    """Prepare a session and check it, reading each movie once for both.

    Parameters
    ----------
    session, needed
        As in `check_session`.
    name
        A digest of the session's table and of its movies' contents: the cache keeps findings and frames by it, and what
        it has of either is not made again.
    cache, how
        As in `larscope._movies.preprocessing.prepare`.
    progress
        Show a bar.

    Returns
    -------
    prepared, findings
        The findings as `describe_findings` gives them.
    """
    kept = None if cache is None else find_checks(cache, name)
    watch = Measurement if kept is None else None
    with Progress(disable=not progress) as bar:
        task = bar.add_task("Reading", total=sum(run.n_frames for run in session))
        prepared, seen = prepare_watched(
            session, watch, cache=cache, on_frames=lambda n_frames: bar.advance(task, n_frames), **how
        )
    if kept is not None:
        return prepared, kept
    known = {run.name: measures for run, measures in zip(session, seen, strict=True) if measures is not None}
    findings = describe_findings(_judge(session.runs, known, needed, lambda n_frames: None))
    if cache is not None:
        keep_checks(findings, cache, name)
    return prepared, findings


def warn_of(findings: Iterable[Mapping[str, Any]]) -> None:
    """Warn of what is wrong with the movies: of the first few findings (`describe_findings`), and how many more."""
    wrong = [finding for finding in findings if finding["level"] != "pass"]
    for finding in wrong[:MOST_WARNINGS]:
        where = "" if finding["run"] is None else f"run {finding['run']!r}: "
        warnings.warn(where + finding["message"], MovieWarning, stacklevel=2)
    if len(wrong) > MOST_WARNINGS:
        more = len(wrong) - MOST_WARNINGS
        warnings.warn(f"{more} more problems; `larscope check` lists all, with advice.", MovieWarning, stacklevel=2)


def _unreadable(name: str, error: LarscopeError) -> Finding:
    return Finding(name, "readable", "fail", None, "", None, str(error), "Restore the file, or drop the run.")


def find_checks(folder: Path, session: str) -> list[dict[str, Any]] | None:
    """Return the findings (`describe_findings`) kept for a session; None if missing or damaged.

    `session` is a digest of its table and of its movies' contents.
    """
    try:
        found: list[dict[str, Any]] = json.loads(_place(folder, session).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def keep_checks(findings: list[dict[str, Any]], folder: Path, session: str) -> None:
    """Keep findings in a cache folder, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(_place(folder, session)) as path:
        write_text(path, json.dumps(findings))


def _place(folder: Path, session: str) -> Path:
    return folder / f"checks-{session}-{_code()[:12]}.json"


@cache
def _code() -> str:
    """Return a digest of the checking code: this folder and the readers."""
    here = Path(__file__).parent
    return digest_code(
        [*sorted(here.glob("*.py")), *sorted((here.parent / "readers").glob("*.py"))], ("numpy", "scipy")
    )
