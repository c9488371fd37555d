"""Tables of the checks for a terminal of 80 columns. Names from files are text, never markup."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from larscope._movies.checks.findings import LEVELS, Finding, Level, worst_level
from larscope._movies.session import Run

STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red"}

SAID: dict[Level, str] = {"warn": "warn", "fail": "failed"}

SHOWN = 2
"""Runs told in full, if one check has findings in many."""


def files_table(runs: Iterable[Run]) -> Table:
    """Return the content of the files, one row per run."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", overflow="fold", ratio=3)
    table.add_column("condition", overflow="fold", ratio=3)
    for column in ("frames", "size", "type"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("file", overflow="fold", ratio=4)
    for run in runs:
        frames, height, width = run.movie.shape
        part = "" if run.n_frames == frames else f" of {frames}"
        cells = (f"{run.n_frames}{part}", f"{height} x {width}", str(run.movie.dtype.newbyteorder("=")))
        table.add_row(Text(run.name), Text(run.condition), *cells, Text(_files(run)))
    return table


def _files(run: Run) -> str:
    """Return the name of a run's file; of several, how many, the first and the last."""
    first, *others = run.files or (None,)
    if first is None or run.path is None or not others or others[-1].suffix != first.suffix:  # suite2p's settings
        return run.path.name if run.path else ""
    return f"{1 + len(others)} files, {first.name} to {others[-1].name}"


def findings_table(findings: Iterable[Finding]) -> Table:
    """Return the problems, gravest first, one row per check, with advice."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("level", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("found", overflow="fold")
    problems = [finding for finding in findings if finding.level != "pass"]
    order = list(dict.fromkeys(finding.check for finding in findings))
    problems.sort(key=lambda finding: (-LEVELS.index(finding.level), order.index(finding.check)))
    for (level, check), group in groupby(problems, key=lambda finding: (finding.level, finding.check)):
        table.add_row(Text(level, style=STYLES[level]), check, _tell(list(group)))
    return table


def summarise(runs: Sequence[Run], findings: Sequence[Finding]) -> str:
    """Return one sentence with the runs, frames and checks passed.

    >>> summarise([], [])
    '0 runs, 0 frames: 0 checks passed.'
    """
    checks: dict[str, list[Finding]] = {}
    for finding in findings:
        checks.setdefault(finding.check, []).append(finding)
    counts = Counter(worst_level(group) for group in checks.values())
    told = [f"{counts['pass']} checks passed"]
    told += [f"{counts[level]} {verb}" for level, verb in SAID.items() if counts[level]]
    conditions = ", ".join(f"{n_runs} {name}" for name, n_runs in Counter(run.condition for run in runs).items())
    n_frames = sum(run.n_frames for run in runs)
    return f"{len(runs)} runs{f' ({conditions})' if runs else ''}, {n_frames} frames: {', '.join(told)}."


def _tell(findings: Sequence[Finding]) -> Text:
    """Return the findings of one check, worst runs first, with advice."""
    ranked = sorted(findings, key=lambda finding: -abs(finding.value or 0))
    text = Text()
    for finding in ranked[:SHOWN]:
        if finding.run is not None:
            text.append(f"run {finding.run}: ", style="bold")
        text.append(finding.message + "\n")
    if len(ranked) > SHOWN:
        text.append("also run ", style="bold")
        text.append(", ".join(str(finding.run) for finding in ranked[SHOWN:]) + "\n")
    text.append(f"-> {ranked[0].advice}", style="italic")
    return text
