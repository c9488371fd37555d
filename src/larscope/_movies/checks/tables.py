"""What a check found, for a terminal of 80 columns. Names come from strangers: they are text, never markup."""

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
"""Runs whose finding is told in full where one check has found something in many."""


def files_table(runs: Iterable[Run]) -> Table:
    """Return what is in the files: a row a run."""
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
        table.add_row(Text(run.name), Text(run.condition), *cells, Text(run.path.name if run.path else ""))
    return table


def findings_table(findings: Iterable[Finding]) -> Table:
    """Return what did not pass, gravest first: a row a check, with what it found and what to do."""
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
    """Return one sentence on what was looked at, and how many checks passed.

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
    """Say what one check has found, in the worst runs first, and what to do."""
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
