"""The page of a size: every table and figure that was rebuilt, written from the raw numbers alone."""

import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from larscope._results.provenance import describe_versions

from . import choices, comparisons, figures, penalty, table2, truth, yardstick
from .work import Work

Describe = Callable[[pd.DataFrame], list[str]]
SECTIONS: tuple[tuple[str, str, Describe, bool], ...] = (
    ("table2-paper", "Table 2, at the paper's size (simulated)", table2.describe, False),
    ("table2-half", "Table 2, at half the resolution (simulated)", table2.describe, True),
    ("table2-mouse_2p", "Table 2, on a recorded movie (`mouse_2p`)", table2.describe, False),
    ("comparisons", "Table 1 and sec. 3.4: comparing conditions (simulated)", comparisons.describe, False),
    ("figure2", "Fig. 2: the skip connection (simulated)", figures.describe_figure2, True),
    ("figure3", "Fig. 3: contribution maps (simulated)", figures.describe_figure3, True),
    ("figure4", "Fig. 4: the penalty (simulated)", figures.describe_figure4, True),
    ("choices", "Where the paper is silent (simulated)", choices.describe, False),
    ("penalty", '`penalty="auto"` and the truth (simulated)', penalty.describe, True),
    ("truth", "Planted truth (simulated)", truth.describe, True),
    ("yardstick-simulated", "Unseen runs, in pixels: simulated session", yardstick.describe, True),
    ("yardstick-mouse_2p", "Unseen segments, in pixels: `mouse_2p` (recorded)", yardstick.describe, True),
    (
        "yardstick-mouse_2p-3-5-7",
        "The same with segments 3, 5 and 7 left out: `mouse_2p` (recorded)",
        yardstick.describe,
        True,
    ),
    ("yardstick-mouse_s1_vr", "Unseen segments, in pixels: `mouse_s1_vr` (recorded)", yardstick.describe, True),
    ("modes-mouse_2p", "The three modes on unseen segments of `mouse_2p` (recorded)", yardstick.describe_modes, False),
)
"""Part, title, what writes its tables, and whether it has a figure."""


def describe_times(times: pd.DataFrame) -> list[str]:
    """A table a row, with the parts that it is computed in."""
    lines = [
        f"{len(times)} parts, {times['minutes'].sum() / 60:.1f} hours of one core together:",
        "",
        "| table | parts | minutes | longest part |",
        "|---|---|---|---|",
    ]
    for table, minutes in times.groupby(times["part"].str.split("/").str[0], sort=False)["minutes"]:
        lines.append(f"| {table} | {len(minutes)} | {minutes.sum():.1f} | {minutes.max():.1f} |")
    return lines


def write(work: Work, path: Path) -> None:
    """Write the page to `path`.

    What was said by hand of a part, `PART.md` beside its numbers, is put below it, and `summary.md` before all.
    """
    numbers = Path(os.path.relpath(work.numbers, path.parent))
    times = work.found("times")
    lines = [
        f"# The paper's results, rebuilt ({work.size.name})",
        "",
        f"Written by `python -m reproduction.paper {work.size.name}`; raw numbers are the CSV files of `{numbers}/`. "
        "Simulated and recorded data are named in each title; the paper's recordings are not public.",
        "",
        '"As in the paper" is `--preset paper`; "the paper\'s settings" are the same with latents centred '
        '(docs/paper.md says why), unless it is said that they are not. "The defaults" are those of a grid of latents, '
        "the paper's (`--latents grid`), with a penalty of 0.75; cells, the default since, are judged in "
        "[cells.md](cells.md). Of the two recorded movies, `mouse_2p` is "
        "mouse cortex with clear cells and "
        "strong transients, 2,000 frames of 128 x 128 pixels, cut into eight segments (sample data of the Python "
        "package optinist); `mouse_s1_vr` is mouse vibrissal cortex, 500 frames of 64 x 64 pixels, a cell being "
        "one or two, cut into four (test data of Thunder). Segments of one recording are no independent "
        "recordings, and their conditions, early and late, are labels for trying the comparison.",
        "",
    ]
    summary = work.numbers / "summary.md"
    if summary.is_file():
        lines += [summary.read_text().strip(), ""]
    missing = []
    for part, title, describe, has_figure in SECTIONS:
        table = work.found(part)
        if table is None:
            missing.append(title)
            continue
        lines += [f"## {title}", "", *describe(table), ""]
        if has_figure and (work.numbers / f"{part}.png").is_file():
            lines += [f"![{title}]({(numbers / part).as_posix()}.png)", ""]
        said = work.numbers / f"{part}.md"
        if said.is_file():
            lines += [said.read_text().strip(), ""]
    if missing:
        lines += ["## Not rebuilt yet", "", *(f"- {title}" for title in missing), ""]
    lines += [
        "## How it was made",
        "",
        f"Seeds of the simulated sessions and of their trainings: {', '.join(map(str, work.size.seeds))}; the session "
        f"of the paper's size takes the first. Sessions: {dict(work.size.simulated)}. Settings of every training "
        f"beside those compared: {dict(work.size.training) or 'defaults'}; on recorded movies: "
        f"{dict(work.size.recorded_training) or 'defaults'}.",
        "",
        *([] if times is None else describe_times(times)),
        "",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in describe_versions().items()) + ".",
        "",
    ]
    path.write_text("\n".join(lines))
