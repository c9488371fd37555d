"""The check of a whole session: every run once, then all of them together. No torch."""

from collections.abc import Callable, Iterable

from larscope._errors import LarscopeError, interrupts_as_such
from larscope._movies.checks.findings import Finding
from larscope._movies.checks.measure import Measures, measure_run
from larscope._movies.checks.runs import check_run
from larscope._movies.checks.sessions import check_table, check_together
from larscope._movies.session import Run
from larscope._movies.table import BrokenRun


def check_session(
    session: Iterable[Run | BrokenRun], on_frames: Callable[[int], None] = lambda n_frames: None
) -> list[Finding]:
    """Check every run of a session, and the runs against each other.

    Each movie is read once, in parts of about 32 MiB; nothing is changed.

    Parameters
    ----------
    session
        A `Session`, or the runs that `read_runs` opened: a run that is broken, or breaks while it is read, is told among
        the findings and hides nothing of the others.
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
