"""Findings kept beside the prepared frames, so that movies are checked once. No torch."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from larscope._movies.preprocessing import unfinished
from larscope._results.provenance import digest_code


def find_checks(folder: Path, session: str) -> list[dict[str, Any]] | None:
    """Return the findings (`describe_findings`) kept for a session; None where there are none, or damaged ones.

    `session` is a digest of its table and of its movies' contents.
    """
    try:
        found: list[dict[str, Any]] = json.loads(_place(folder, session).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def keep_checks(findings: list[dict[str, Any]], folder: Path, session: str) -> None:
    """Keep findings in a cache folder, whole or not at all."""
    place = _place(folder, session)
    folder.mkdir(parents=True, exist_ok=True)
    writing = folder / unfinished("checks")
    try:
        writing.write_text(json.dumps(findings), encoding="utf-8")
        writing.rename(place)
    finally:
        writing.unlink(missing_ok=True)


def _place(folder: Path, session: str) -> Path:
    return folder / f"checks-{session}-{_code()[:12]}.json"


@cache
def _code() -> str:
    """Return a digest of what checks movies: the code beside this file and that of the readers."""
    here = Path(__file__).parent
    return digest_code(
        [*sorted(here.glob("*.py")), *sorted((here.parent / "readers").glob("*.py"))], ("numpy", "scipy")
    )
