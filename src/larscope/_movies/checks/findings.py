"""The finding of a check: one record for tables, reports and JSON."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["pass", "warn", "fail"]

LEVELS: tuple[Level, ...] = ("pass", "warn", "fail")
"""From harmless to grave. `fail`: the run cannot be analysed, or the analysis would be wrong."""


@dataclass(frozen=True)
class Finding:
    """One finding of a check, in a run or in the whole session.

    Attributes
    ----------
    run
        Name of the run; None for a finding about several.
    check
        Name of the check, as in `docs/check.md`.
    level
        `"pass"`, `"warn"` or `"fail"`.
    value, unit
        The measured number and its unit; None if nothing could be measured.
    frame
        The first frame concerned, counted from 0; None if frames do not matter.
    message
        A sentence.
    advice
        Your remedy; empty for a passed check.
    """

    run: str | None
    check: str
    level: Level
    value: float | None
    unit: str
    frame: int | None
    message: str
    advice: str

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain JSON; a number that is not finite becomes None."""
        plain = asdict(self)
        if self.value is not None and not math.isfinite(self.value):
            plain["value"] = None
        return plain


def describe_findings(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return findings as plain JSON: dictionaries of run, check, level, value, unit, frame, message and advice.

    Examples
    --------
    >>> found = Finding("F01", "motion", "warn", 2.5, "% of frames", 7, "It moves.", "Correct it.")
    >>> [entry["level"] for entry in describe_findings([found])]
    ['warn']
    """
    return [finding.to_dict() for finding in findings]


def worst_level(findings: Iterable[Finding]) -> Level:
    """Return the gravest level; `"pass"` without findings.

    >>> worst_level([])
    'pass'
    """
    return max((finding.level for finding in findings), key=LEVELS.index, default="pass")
