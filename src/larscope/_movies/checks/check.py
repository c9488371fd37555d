"""The check of a whole session: every run once, then all of them together."""

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from larscope._errors import LarscopeError, interrupts_as_such
from larscope._movies.checks.findings import Finding
from larscope._movies.checks.measure import Measures, measure_run
from larscope._movies.checks.runs import check_run
from larscope._movies.checks.sessions import check_table, check_together
from larscope._movies.session import Run
from larscope._movies.table import BrokenRun
from larscope._storage import digest_code, replacing, write_text


def check_session(
    session: Iterable[Run | BrokenRun], on_frames: Callable[[int], None] = lambda n_frames: None
) -> list[Finding]:
    """Check every run of a session, and the runs against each other.

    Each movie is read once, in parts of about 32 MiB; nothing is changed.

    Parameters
    ----------
    session
        A `Session`, or the runs that `read_runs` opened: a run that is broken, or breaks while it is read, is told
        among the findings and hides nothing of the others.
    on_frames
        Called with the number of frames after each part, to show progress.

    Returns
    -------
    findings
        First of the table, then of each run, then of the runs together. What passed is among them, with its number.

    Examples
    --------
    >>> from larscope import simulate_session
    >>> findings = check_session(simulate_session(n_runs=2, n_frames=80, frame_shape=(48, 48), seed=0))
    >>> {finding.level for finding in findings}
    {'pass'}
    """
    findings: list[Finding] = []
    runs: list[Run] = []
    for run in session:
        if isinstance(run, BrokenRun):
            findings.append(_unreadable(run.name, run.error))
        else:
            runs.append(run)
    if runs:
        findings += check_table(runs)
    measured: list[Measures] = []
    for run in runs:
        try:
            with interrupts_as_such():
                measures = measure_run(run, on_frames)
        except LarscopeError as error:
            findings.append(_unreadable(run.name, error))
        else:
            measured.append(measures)
            findings += check_run(measures)
    return findings + check_together(measured)


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
