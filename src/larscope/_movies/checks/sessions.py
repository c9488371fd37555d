"""The checks of a session, between its runs.

`docs/check.md` explains each check and threshold.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float, UInt64
from numpy.typing import NDArray

from larscope._errors import LarscopeError
from larscope._movies.checks.findings import Finding, Level
from larscope._movies.checks.measure import Measures
from larscope._movies.session import POOLING, Run
from larscope._statistics.permutation import exchangeable_units, permute_labels, pvalue

BETWEEN_RUNS = 0.1
"""Range of the runs' brightness, as a share of its mean, to count as a drift between runs."""

CHANCE = 0.05
"""Chance below which an order of conditions, or a difference between them, is reported."""

LENGTH_RATIO, BRIGHTNESS_RATIO, NOISE_RATIO = 1.25, 1.1, 1.2
"""Smallest reported ratio of the conditions' geometric means."""

LABELINGS = 999
"""Random permutations for a difference between conditions, if there are too many to list."""

WORD = 3
"""Fewest letters of a condition's name to search for it in file names."""


def check_table(runs: Sequence[Run]) -> list[Finding]:
    """Return the findings from the session table and the files' headers, before a frame is read."""
    return [finding for check in TABLE_CHECKS for finding in check(runs)]


def check_together(measures: Sequence[Measures]) -> list[Finding]:
    """Return the findings between runs, after reading all frames."""
    return [finding for check in SESSION_CHECKS for finding in check(measures)]


def check_names(runs: Sequence[Run]) -> list[Finding]:
    """Two runs of one name."""
    doubles = {name: count for name, count in Counter(run.name for run in runs).items() if count > 1}
    return [
        _found(name, "names", count, "runs", f"{count} runs have this name.", "Rename all but one.", "fail")
        for name, count in doubles.items()
    ] or [_passed("names", None, "runs", "Every run has a name of its own.")]


def check_frame_sizes(runs: Sequence[Run]) -> list[Finding]:
    """Frames of another size than most, or too small for the network."""
    sizes = Counter(run.movie.shape[1:] for run in runs)
    (height, width), _ = sizes.most_common(1)[0]
    found = [
        _found(
            run.name,
            "frame_size",
            math.prod(run.movie.shape[1:]),
            "pixels",
            f"Frames of {run.movie.shape[1]} x {run.movie.shape[2]} pixels; most runs have {height} x {width}.",
            "Crop the movies to one size, or analyse these runs as two sessions.",
            "fail",
        )
        for run in runs
        if run.movie.shape[1:] != (height, width)
    ]
    if min(height, width) < POOLING:
        message = f"Frames of {height} x {width} pixels are too small for the network."
        advice = f"Its poolings need at least {POOLING} x {POOLING}: use larger frames."
        found.append(_found(None, "frame_size", height * width, "pixels", message, advice, "fail"))
    return found or [_passed("frame_size", height * width, "pixels", f"All frames have {height} x {width} pixels.")]


def check_dtypes(runs: Sequence[Run]) -> list[Finding]:
    """Pixels of another type than most."""
    names = Counter(str(run.movie.dtype.newbyteorder("=")) for run in runs)
    advice = "Look whether some movies were scaled or converted: one intensity scale holds for the session."
    return _unlike(runs, "dtype", [str(run.movie.dtype.newbyteorder("=")) for run in runs], "pixels are", advice) or [
        _passed("dtype", len(names), "types", f"All pixels are {next(iter(names))}.")
    ]


def check_rates(runs: Sequence[Run]) -> list[Finding]:
    """Another frame rate or pixel size than most runs have."""
    rates = ["unknown" if run.frame_rate is None else f"{run.frame_rate:g} per second" for run in runs]
    sizes = ["unknown" if run.pixel_size is None else f"{run.pixel_size:g} micrometres" for run in runs]
    lags = "A lag is one frame: coefficients of runs with other rates mean other times. Resample, or correct the table."
    places = "A latent is a place: runs at another magnification show other cells. Analyse them apart, or correct it."
    return (
        _unlike(runs, "frame_rate", rates, "the frame rate is", lags)
        or [_passed("frame_rate", None, "per second", f"The frame rate of all runs is {rates[0]}.")]
    ) + (
        _unlike(runs, "pixel_size", sizes, "the pixel size is", places)
        or [_passed("pixel_size", None, "micrometres", f"The pixel size of all runs is {sizes[0]}.")]
    )


def check_labels(runs: Sequence[Run]) -> list[Finding]:
    """Files or folders named after another condition."""
    conditions = dict.fromkeys(run.condition for run in runs)
    folders = {run.path.parent for run in runs if run.path}
    found = []
    for run in runs:
        if run.path is None:
            continue
        text = f"{run.path.parent.name}/{run.path.name}" if len(folders) > 1 else run.path.name
        others = [name for name in conditions if name != run.condition and _names(text, name)]
        if others and not _names(text, run.condition):
            found.append(
                _found(
                    run.name,
                    "labels",
                    1,
                    "runs",
                    f"The condition is {run.condition!r}, but the file is called {text!r}.",
                    "Correct the `condition` or the `path` column, or go on if the name means something else.",
                )
            )
    return found or [_passed("labels", 0, "runs", "No file is named after another condition than its own.")]


def check_row_order(runs: Sequence[Run]) -> list[Finding]:
    """Rows of one condition and block out of the order of their file numbers, or of `start`."""
    found = []
    numbered: dict[tuple[object, ...], list[tuple[Run, list[int]]]] = {}
    for run in runs:
        if run.path is not None:
            pattern = re.sub(r"\d+", "#", run.path.name)
            numbers = [int(number[:18]) for number in re.findall(r"\d+", run.path.name)] + [run.start]
            series = (run.condition, run.block, run.subject, run.path.parent, pattern)
            numbered.setdefault(series, []).append((run, numbers))
    for rows in numbered.values():
        varying = [column for column in zip(*(numbers for _, numbers in rows), strict=True) if len(set(column)) > 1]
        if len(varying) != 1:  # nothing to order by, or no telling by which
            continue
        for (before, after), (earlier, later) in zip(pairwise(rows), pairwise(varying[0]), strict=True):
            if later < earlier:
                message = f"Stands after run {before[0].name!r}, but its number is smaller: {later} after {earlier}."
                advice = "Groups such as `run_number <= 5` count rows: sort the table in the order of recording."
                found.append(_found(after[0].name, "row_order", 1, "runs", message, advice))
    return found or [_passed("row_order", 0, "runs", "Rows are in the order of the numbers in their files' names.")]


def check_condition_order(runs: Sequence[Run]) -> list[Finding]:
    """One block with its conditions in another order than all others."""
    blocks = _blocks(runs)
    kinds = Counter(tuple(run.condition for run in block) for block in blocks)
    counts = {tuple(sorted(Counter(kind).items())) for kind in kinds}
    n_orders = _n_orders(next(iter(kinds))) if len(counts) == 1 and kinds else 1
    n_blocks = len(blocks)
    # probability that blocks in random order agree in all but one, or in all
    chance = 1.0 if n_orders < 2 else (1 + n_blocks * (n_orders - 1)) / n_orders ** (n_blocks - 1)
    if len(kinds) == 2 and min(kinds.values()) == 1 and n_blocks > 2 and chance <= CHANCE:
        usual, odd = (kind for kind, _ in kinds.most_common())
        block = next(block for block in blocks if tuple(run.condition for run in block) == odd)
        message = (
            f"Conditions come as {', '.join(usual)} in {n_blocks - 1} blocks of {n_blocks}, but as {', '.join(odd)} in "
            f"runs {', '.join(run.name for run in block)}; by chance that happens in {100 * chance:.2g} %."
        )
        advice = "Two labels may have been swapped: compare these rows with your notes."
        return [_found(block[0].name, "condition_order", 100 * chance, "% by chance", message, advice)]
    return [_passed("condition_order", None, "% by chance", "No block stands out by the order of its conditions.")]


def check_shared_frames(measures: Sequence[Measures]) -> list[Finding]:
    """Two runs with the same frames, bit for bit, under any file name."""
    contents = [np.unique(run.digest[~run.uniform]) for run in measures]
    advice = "Tests take runs for independent: drop one of them, or correct `path`, `start` and `stop`."
    found = []
    for number, (other, n_shared) in _sharing(contents).items():
        run, name = measures[number], measures[other].run.name
        whole = n_shared == min(len(contents[number]), len(contents[other]))
        frame = int(np.flatnonzero(np.isin(run.digest, contents[other]))[0])
        message = f"{n_shared} of its {run.n_frames} frames are also in run {name!r}, bit for bit."
        if whole:
            message = f"One recording under two names: {message}"
        level: Level = "fail" if whole else "warn"
        found.append(_found(run.run.name, "shared_frames", n_shared, "frames", message, advice, level, frame))
    return found or [_passed("shared_frames", 0, "frames", "No two runs share a frame.")]


def check_between_runs(measures: Sequence[Measures]) -> list[Finding]:
    """Drift from run to run: brightness of most pixels of one run against another."""
    known = [run for run in measures if np.isfinite(run.mean).any()]
    if len({run.mean_image.shape for run in known}) != 1 or len(known) < 2:
        return [_passed("between_runs", None, "% of the mean", "There are no two runs to compare.")]
    if min(float(np.nanmin(run.low)) for run in known) < 0:
        return [_passed("between_runs", None, "% of the mean", "Pixels around zero have no brightness to compare.")]
    images = np.stack([run.mean_image for run in known])
    usual = images.mean(axis=0)
    bright = usual >= np.median(usual)  # the darker half may be offset alone
    if not usual[bright].min():
        return [_passed("between_runs", None, "% of the mean", "More than half of the pixels are dark.")]
    # the median over pixels: a few active cells are no drift
    factor = np.median(images[:, bright] / usual[bright], axis=1)
    spread = float(np.ptp(factor))
    dim, bright_run = known[int(factor.argmin())].run.name, known[int(factor.argmax())].run.name
    message = f"The runs' brightness spans {100 * spread:.2g} % of its mean, from run {dim} up to run {bright_run}."
    if spread <= BETWEEN_RUNS:
        return [_passed("between_runs", 100 * spread, "% of the mean", message)]
    advice = "One intensity scale holds for the session: bring the runs to one baseline, such as dF/F, before the fit."
    return [_found(None, "between_runs", 100 * spread, "% of the mean", message, advice)]


def check_between_conditions(measures: Sequence[Measures]) -> list[Finding]:
    """Lengths, brightness or signal-to-noise differing by condition, easily taken for other dynamics."""
    known = [run for run in measures if np.isfinite(run.mean).any() and run.noise > 0 and run.brightness > 0]
    length = np.array([run.n_frames for run in known], float)
    brightness = np.array([run.brightness for run in known])
    noise = np.sqrt([run.noise for run in known])
    return [
        _by_condition(
            known,
            "length_by_condition",
            length,
            LENGTH_RATIO,
            "frames",
            "Runs",
            "Coefficients fitted on more frames differ. `larscope compare` cuts all runs to one length; better to "
            "choose such ranges with the `start` and `stop` columns.",
        ),
        _by_condition(
            known,
            "brightness_by_condition",
            brightness,
            BRIGHTNESS_RATIO,
            "mean brightness",
            "Brightness",
            "Laser power, gain, depth or bleaching then differ with the condition, and may pass for other dynamics. "
            "Interleave the conditions in the next recording.",
        ),
        _by_condition(
            known,
            "noise_by_condition",
            brightness / noise,
            NOISE_RATIO,
            "brightness over noise",
            "Signal-to-noise",
            "Noisier movies give other coefficients under the same dynamics: a small p-value may come from the noise "
            "alone.",
        ),
    ]


TABLE_CHECKS: tuple[Callable[[Sequence[Run]], list[Finding]], ...] = (
    check_names,
    check_frame_sizes,
    check_dtypes,
    check_rates,
    check_labels,
    check_row_order,
    check_condition_order,
)
"""Checks without frames."""

SESSION_CHECKS: tuple[Callable[[Sequence[Measures]], list[Finding]], ...] = (
    check_shared_frames,
    check_between_runs,
    check_between_conditions,
)
"""Checks with the frames of all runs."""


def _found(
    run: str | None,
    check: str,
    value: float,
    unit: str,
    message: str,
    advice: str,
    level: Level = "warn",
    frame: int | None = None,
) -> Finding:
    return Finding(run, check, level, float(value), unit, frame, message, advice)


def _passed(check: str, value: float | None, unit: str, message: str) -> Finding:
    return Finding(None, check, "pass", None if value is None else float(value), unit, None, message, "")


def _unlike(runs: Sequence[Run], check: str, said: Sequence[str], what: str, advice: str) -> list[Finding]:
    """Name the runs unlike most others."""
    usual = Counter(said).most_common(1)[0][0]
    return [
        _found(run.name, check, 1, "runs", f"Here {what} {own}, in most runs {usual}.", advice)
        for run, own in zip(runs, said, strict=True)
        if own != usual
    ]


def _sharing(contents: Sequence[UInt64[NDArray[np.uint64], " frames"]]) -> dict[int, tuple[int, int]]:
    """For each run with frames of an earlier one, return the run it shares most with, and the number of frames.

    >>> _sharing([np.array([1, 2, 3], np.uint64), np.array([4], np.uint64), np.array([2, 3, 5], np.uint64)])
    {2: (0, 2)}
    """
    if not any(len(content) for content in contents):
        return {}
    digest = np.concatenate(contents)
    owner = np.repeat(np.arange(len(contents)), [len(content) for content in contents])
    order = np.lexsort((owner, digest))
    digest, owner = digest[order], owner[order]
    new = np.concatenate([[True], digest[1:] != digest[:-1]])
    first = owner[np.maximum.accumulate(np.where(new, np.arange(len(digest)), 0))]
    pairs = Counter(zip(owner[~new].tolist(), first[~new].tolist(), strict=True))
    most: dict[int, tuple[int, int]] = {}
    for (run, other), count in sorted(pairs.items()):
        if count > most.get(run, (0, 0))[1]:
            most[run] = (other, count)
    return most


def _names(text: str, condition: str) -> bool:
    """Say whether a file's name has a condition's name in it, as a word.

    >>> _names("day1_novel-03.tif", "novel"), _names("novelty.tif", "novel"), _names("a1.tif", "a")
    (True, False, False)
    """
    word = re.sub(r"[\W_]+", " ", condition.lower()).strip()
    if sum(letter.isalpha() for letter in word) < WORD:
        return False
    return re.search(rf"(?<![^\W\d_]){re.escape(word)}(?![^\W\d_])", re.sub(r"[\W_]+", " ", text.lower())) is not None


def _blocks(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs of each block; without blocks, of each consecutive group long enough for every condition once."""
    if any(run.block is not None for run in runs):
        blocks: dict[tuple[str | None, str | None], list[Run]] = {}
        for run in runs:
            blocks.setdefault((run.subject, run.block), []).append(run)
        return list(blocks.values())
    size = len({run.condition for run in runs})
    return [list(runs[start : start + size]) for start in range(0, len(runs), size)]


def _n_orders(conditions: Sequence[str]) -> int:
    """Return in how many orders the conditions of a block can come.

    >>> _n_orders("aabb")
    6
    """
    return math.factorial(len(conditions)) // math.prod(math.factorial(n) for n in Counter(conditions).values())


def _by_condition(
    measures: Sequence[Measures],
    check: str,
    values: Float[NDArray[np.float64], " runs"],
    most: float,
    unit: str,
    subject: str,
    advice: str,
) -> Finding:
    """Compare the geometric means of the conditions, permuting exchangeable labels."""
    unit = f"ratio of {unit}"
    conditions = list(dict.fromkeys(run.run.condition for run in measures))
    if len(conditions) < 2:
        return _passed(check, None, unit, "There is one condition.")
    runs = [run.run for run in measures]
    block = [run.block for run in runs]
    subjects = [run.subject for run in runs]
    try:
        units = exchangeable_units(
            [run.condition for run in runs],
            None if None in block else block,
            None if None in subjects else subjects,
        )
    except LarscopeError:
        return _passed(check, None, unit, "The design leaves nothing to compare.")
    labelings = permute_labels(units, LABELINGS)
    logs = np.log(values)
    means = np.stack([_mean_of(logs, labelings.labels == c) for c in range(len(units.conditions))])
    spread = np.ptp(means, axis=0)
    ratio = math.exp(spread[0])
    named = ", ".join(f"{name} {math.exp(mean):.4g}" for name, mean in zip(units.conditions, means[:, 0], strict=True))
    chance = pvalue(spread)
    differs = ratio > most and chance <= max(CHANCE, labelings.min_pvalue) and labelings.min_pvalue < 1
    message = f"{subject} by condition: {named}, a ratio of {ratio:.2f}."
    if not differs:
        return _passed(check, ratio, unit, message)
    return _found(None, check, ratio, unit, f"{message} Permuted labels give as much with p = {chance:.2g}.", advice)


def _mean_of(values: NDArray[np.float64], members: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray((members * values).sum(axis=1) / members.sum(axis=1))
