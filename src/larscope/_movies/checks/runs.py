"""The checks of one run: from measures to a level, a number, a sentence and advice.

`docs/check.md` explains each check and threshold.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from larscope._movies.checks.findings import Finding, Level
from larscope._movies.checks.measure import LARGEST, Measures

MOVED = 1.0
"""Smallest shift to count as motion, in pixels."""

MOVED_SHARE = 0.01
"""Allowed share of moved frames among the tested ones."""

TREND = 0.1
"""Change of the mean over a run, as a share of it, to count as a drift."""

TREND_CERTAINTY = 7.0
"""The drift must also exceed so many standard errors, from the scatter of `TREND_PARTS` parts: activity comes and
goes."""

TREND_PARTS = 10

JUMP = 0.2
"""Departure of a frame's mean from its neighbours', as a share of the mean, to count as a jump."""

JUMP_DEVIATIONS = 10.0
"""The same in robust standard deviations of such departures."""

STEP = 0.1
"""Change of the level between frames that counts as a step, if it lasts for `STEP_FRAMES[0]` frames at least."""

STEP_DEVIATIONS = 10.0
"""The same in robust standard deviations of changes within three frames."""

STEP_FRAMES = (10, 20, 40, 80, 160, 320)
"""Frames compared before and after a step."""

SATURATED_SHARE = 1e-5
"""Allowed share of pixels at the highest value."""

ZERO_SHARE = 1e-4
"""Allowed share of zero pixels, if zero stands apart."""

FEW_FRAMES = 20
"""Fewest frames for judging trend, jumps and unchanging pixels."""

LEAVE_OUT = "Leave them out with the `start` and `stop` columns, or restore the recording."


def check_run(measures: Measures, needed: int) -> list[Finding]:
    """Return one finding per check; a run without any change gets only this one.

    `needed` is how many frames a fit asks of a run.
    """
    if measures.constant.all() and measures.n_frames > 1:
        return [_constant_run(measures)]
    return [check_length(measures, needed), *(check(measures) for check in RUN_CHECKS)]


def _constant_run(measures: Measures) -> Finding:
    return Finding(
        measures.run.name,
        "constant_frames",
        "fail",
        float(measures.n_frames),
        "frames",
        0,
        f"All {measures.n_frames} frames are the same.",
        "Make sure the file holds the recorded movie, or drop the run.",
    )


def check_length(measures: Measures, needed: int) -> Finding:
    """Fewer frames than a fit needs."""
    return _finding(
        measures,
        "length",
        measures.n_frames,
        "frames",
        f"{measures.n_frames} frames.",
        f"{measures.n_frames} frames are fewer than a fit needs: order + window = {needed}."
        if measures.n_frames < needed
        else None,
        "Drop the run, or lower `order` or `window`.",
    )


def check_finite(measures: Measures) -> Finding:
    """NaN and infinite pixels."""
    bad = np.flatnonzero(measures.nonfinite)
    return _finding(
        measures,
        "finite",
        len(bad),
        "frames",
        "All pixels are finite.",
        f"{measures.nonfinite.sum()} pixels are NaN or infinite, in {_frames(measures, bad)}." if len(bad) else None,
        f"Choose how to treat them with `--nan`. {LEAVE_OUT}",
        frame=_first(bad),
        level="fail",
    )


def check_range(measures: Measures) -> Finding:
    """Numbers beyond any detector."""
    bad = np.flatnonzero(measures.oversized)
    return _finding(
        measures,
        "range",
        len(bad),
        "frames",
        "All pixels have a size fit for computing.",
        f"{measures.oversized.sum()} pixels are larger than {LARGEST:.2g}, too large for exact numbers, in "
        f"{_frames(measures, bad)}."
        if len(bad)
        else None,
        "No detector counts so far: check how the file was written.",
        frame=_first(bad),
        level="fail",
    )


def check_constant_frames(measures: Measures) -> Finding:
    """Frames with one value in every pixel."""
    bad = np.flatnonzero(measures.uniform)
    return _finding(
        measures,
        "constant_frames",
        len(bad),
        "frames",
        "No frame is blank.",
        f"One value ({measures.low[bad[0]]:g}) in every pixel of {_frames(measures, bad)}." if len(bad) else None,
        f"The shutter was closed, or frames were lost in writing. {LEAVE_OUT}",
        frame=_first(bad),
    )


def check_repeated_frames(measures: Measures) -> Finding:
    """Frames equal to the one before, bit for bit."""
    bad = np.flatnonzero(measures.repeated & ~measures.uniform)
    return _finding(
        measures,
        "repeated_frames",
        len(bad),
        "frames",
        "No frame repeats the one before.",
        f"Bit for bit the same as the frame before: {_frames(measures, bad)}." if len(bad) else None,
        (
            "Acquisition software repeats a frame in place of a dropped one. Forecasting a repeat is no "
            f"achievement. {LEAVE_OUT}"
        ),
        frame=_first(bad),
    )


def check_missing_frames(measures: Measures) -> Finding:
    """Gaps in the time stamps, if the file has any."""
    run = measures.run
    stamps = getattr(run.movie, "timestamps", None)
    taken = np.empty(0) if stamps is None else np.asarray(stamps, float)[run.start : run.stop]
    steps = np.diff(taken)
    usual = float(np.median(steps)) if len(steps) else 0.0
    if len(taken) != run.n_frames or not 0 < usual < math.inf:
        said = "The file has no time stamps, so unwritten frames cannot be seen."
        return _finding(measures, "missing_frames", None, "frames", said, None, "")
    lost = np.maximum(np.nan_to_num(np.rint(steps / usual)) - 1, 0)
    bad = np.flatnonzero(lost) + 1
    return _finding(
        measures,
        "missing_frames",
        lost.sum(),
        "frames",
        "The time stamps have no gaps.",
        f"The time stamps leave room for {lost.sum():.0f} more frames, before {_frames(measures, bad)}."
        if len(bad)
        else None,
        "A lag across a gap is longer than it seems. Cut the run at the gaps with the `start` and `stop` columns.",
        frame=_first(bad),
    )


def check_jumps(measures: Measures) -> Finding:
    """Single frames, or a few, much brighter or darker than their neighbours, except constant ones."""
    departure = _departures(measures)
    spread = 1.4826 * float(np.median(np.abs(departure)))
    limit = max(JUMP, JUMP_DEVIATIONS * spread)
    bad = np.flatnonzero((np.abs(departure) > limit) & ~measures.uniform)
    largest = 100 * float(np.abs(departure).max(initial=0))
    return _finding(
        measures,
        "jumps",
        largest,
        "% of the mean",
        f"No frame's mean departs from its neighbours' by more than {largest:.1f} % of the mean.",
        f"The mean of each frame is within {largest:.0f} % of its neighbours in {_frames(measures, bad)}."
        if len(bad)
        else None,
        f"A flash, a shutter, or a frame written in part. {LEAVE_OUT}",
        frame=_first(bad),
    )


def check_steps(measures: Measures) -> Finding:
    """Light that changes within a frame and stays so: laser power, gain, a lamp."""
    largest = _largest_step(measures)
    if largest is None:
        said = "Too few frames, or too little light, to see steps."
        return _finding(measures, "steps", None, "% of the level", said, None, "")
    frame, change, deviations, factor = largest
    return _finding(
        measures,
        "steps",
        100 * change,
        "% of the level",
        f"The level of the light never steps by more than {_percent(change)}.",
        f"From {_frame(measures, frame)} on, the light is {factor:.3g} times as bright as before."
        if change > STEP and deviations > STEP_DEVIATIONS
        else None,
        "Laser power, gain or a lamp has changed, and it passes for dynamics of all cells. Cut the run there with the "
        "`start` and `stop` columns, or scale one part to the other before the fit.",
        frame=frame,
    )


def check_lone_pixels(measures: Measures) -> Finding:
    """Single pixels far above all others, for one frame."""
    first, n_frames = measures.lone[:1], len({frame for frame, *_ in measures.lone})
    value = float(measures.high[first[0][0]]) if first else 0.0
    # a value that occurs: the mean of two may be too large for any number
    usual = float(np.nanquantile(measures.high, 0.5, method="lower")) if first else 0.0
    where = f", the first in {_frame(measures, first[0][0])}, row {first[0][1]}, column {first[0][2]}" if first else ""
    return _finding(
        measures,
        "lone_pixels",
        len(measures.lone),
        "pixels",
        "No pixel alone is far above all others.",
        f"{len(measures.lone)} pixels in {n_frames} frames are far above all around them: up to {value:.6g}, where the "
        f"brightest pixel of most frames has {usual:.6g}{where}."
        if first
        else None,
        "A particle or a glitch. A fit takes the highest other value for them, so that they rule nothing.",
        frame=first[0][0] if first else None,
    )


def check_saturation(measures: Measures) -> Finding:
    """Pixels at the type's highest value, or at another evident ceiling."""
    top = float(np.nanmax(measures.high, initial=-np.inf))
    always = measures.n_frames * int(np.count_nonzero(measures.constant & (measures.image == top)))
    share = (measures.brightest - always) / measures.n_pixels
    dtype = measures.run.movie.dtype
    limit = dtype.kind in "iu" and top == np.iinfo(np.dtype(dtype.str)).max
    clipped = (limit or measures.ceiling) and share > SATURATED_SHARE
    bad = np.flatnonzero(measures.high == top)
    what = f"the largest {dtype}" if limit else "a ceiling: the values below are much rarer"
    return _finding(
        measures,
        "saturation",
        100 * share if limit or measures.ceiling else 0,
        "% of pixels",
        "No pixels pile up at the highest value.",
        f"{_percent(share)} of the pixels are {top:g}, {what}; in {_frames(measures, bad)}." if clipped else None,
        "The true brightness is lost there. Lower the gain or laser power in the next recording, and read nothing "
        "into the amplitudes of these cells.",
        frame=_first(bad),
    )


def check_dead_rows(measures: Measures) -> Finding:
    """Rows of unchanging pixels."""
    return _check_lines(measures, "rows", np.asarray(measures.constant.all(axis=1)))


def check_dead_columns(measures: Measures) -> Finding:
    """Columns of unchanging pixels."""
    return _check_lines(measures, "columns", np.asarray(measures.constant.all(axis=0)))


def _check_lines(measures: Measures, what: str, dead: Bool[NDArray[np.bool_], " lines"]) -> Finding:
    judged = dead & (measures.n_frames >= FEW_FRAMES)  # a dim pixel may have no photon in fewer frames
    numbers = np.flatnonzero(judged)
    values = np.unique(measures.image[judged] if what == "rows" else measures.image[:, judged])
    value = f" (always {float(values[0]):g})" if len(values) == 1 else ""
    noun = what if len(numbers) > 1 else what.removesuffix("s")
    named = f"{noun} {', '.join(str(number) for number in numbers[:5])}{', ...' if len(numbers) > 5 else ''}"
    return _finding(
        measures,
        f"dead_{what}",
        len(numbers),
        what,
        f"All {what} change.",
        f"{len(numbers)} of {len(dead)} {what} never change{value}: {named}." if len(numbers) else None,
        "Blank edges come from motion correction or from the scanner: leave them out with `crop`.",
    )


def check_dead_pixels(measures: Measures) -> Finding:
    """Unchanging pixels outside dead rows and columns."""
    dead = measures.constant & ~measures.constant.all(axis=1, keepdims=True) & ~measures.constant.all(axis=0)
    dead &= measures.n_frames >= FEW_FRAMES
    n_dead = int(dead.sum())
    row, column = np.argwhere(dead)[0] if n_dead else (0, 0)
    return _finding(
        measures,
        "dead_pixels",
        n_dead,
        "pixels",
        "All other pixels change.",
        f"{n_dead} more pixels of {dead.size} never change, the first in row {row}, column {column}."
        if n_dead
        else None,
        "They tell nothing; at an edge, leave them out with `crop`.",
    )


def check_zero_pixels(measures: Measures) -> Finding:
    """Zeros far more frequent than the next values."""
    always = int(np.count_nonzero(measures.constant & (measures.image == 0)))
    zeros = np.where(measures.uniform, 0, measures.zeros - always)
    share = float(zeros.sum()) / measures.n_pixels
    apart = measures.clipped_at_zero and share > ZERO_SHARE
    bad = np.flatnonzero(zeros)
    return _finding(
        measures,
        "zero_pixels",
        100 * share if measures.clipped_at_zero else 0,
        "% of pixels",
        "No zeros stand apart from the values next to them.",
        f"{_percent(share)} of the changing pixels are zero, far more often than any value near zero; in "
        f"{_frames(measures, bad)}."
        if apart
        else None,
        "Signal clipped at the dark level, edges filled in by motion correction, or photons too few to see. Clipped "
        "noise is not symmetric; filled edges move: leave them out with `crop`.",
        frame=_first(bad),
    )


def check_motion(measures: Measures) -> Finding:
    """Frames moved against the mean of the run."""
    if measures.shifts is None:
        return _finding(
            measures,
            "motion",
            None,
            "% of frames",
            "Too few frames or pixels, or too little at rest, to see motion.",
            None,
            "",
        )
    distance = np.hypot(*measures.shifts.T)
    moved = np.flatnonzero(distance > MOVED)
    share, n_seen = len(moved) / len(distance), len(distance)
    furthest = f"{distance.max():.1f} pixels (frame {measures.sampled[distance.argmax()]})"
    looked = f"the {n_seen} frames" if n_seen == measures.n_frames else f"{n_seen} frames looked at"
    still = f"None of {looked} has moved by more than {MOVED:g} pixel."
    return _finding(
        measures,
        "motion",
        100 * share,
        "% of frames",
        f"{len(moved)} of {looked} have moved by more than {MOVED:g} pixel, at most by {furthest}."
        if len(moved)
        else still,
        f"{len(moved)} of {looked} have moved by more than {MOVED:g} pixel against the run's mean, at most by "
        f"{furthest}; first {_frame(measures, int(measures.sampled[moved[0]]))}."
        if share > MOVED_SHARE
        else None,
        "Motion looks like activity to the network. Correct it with your usual tool, or leave such frames out with "
        "the `start` and `stop` columns.",
        frame=None if not len(moved) else int(measures.sampled[moved[0]]),
    )


def check_trend(measures: Measures) -> Finding:
    """Bleaching and drift: how much a line through the means of the frames changes over the run."""
    if measures.n_frames < FEW_FRAMES or not measures.brightness:
        return _finding(measures, "trend", None, "% of the mean", "Too few frames to see a trend.", None, "")
    mean = _known_means(measures)
    change = _slope(mean) * (measures.n_frames - 1) / measures.brightness
    parts = np.array([part.mean() for part in np.array_split(mean, TREND_PARTS)])
    certain = abs(_certainty(parts)) > TREND_CERTAINTY
    said = f"The mean {'rises' if change > 0 else 'falls'} by {_percent(abs(change))} from the first frame to the last"
    return _finding(
        measures,
        "trend",
        100 * change,
        "% of the mean",
        f"{said}.",
        f"{said}: {'drift' if change > 0 else 'bleaching or drift'}." if abs(change) > TREND and certain else None,
        "A slow change passes for dynamics. Correct bleaching and focus drift before the fit, or leave the worst "
        "part out with the `start` and `stop` columns.",
    )


RUN_CHECKS: tuple[Callable[[Measures], Finding], ...] = (
    check_finite,
    check_range,
    check_constant_frames,
    check_repeated_frames,
    check_missing_frames,
    check_jumps,
    check_steps,
    check_lone_pixels,
    check_saturation,
    check_dead_rows,
    check_dead_columns,
    check_dead_pixels,
    check_zero_pixels,
    check_motion,
    check_trend,
)
"""Every check of a run. To add one: its function, a line here, and a row in `docs/check.md`."""


def _finding(
    measures: Measures,
    check: str,
    value: float | None,
    unit: str,
    passed: str,
    problem: str | None,
    advice: str,
    frame: int | None = None,
    level: Level = "warn",
) -> Finding:
    """Return the finding of a check, passed or with a problem."""
    value = None if value is None else float(value)
    if problem is None:
        return Finding(measures.run.name, check, "pass", value, unit, None, passed, "")
    return Finding(measures.run.name, check, level, value, unit, frame, problem, advice)


def _known_means(measures: Measures) -> Float[NDArray[np.float64], " frames"]:
    """Return the frames' means, interpolated over blank frames and frames without finite pixels."""
    return _interpolate(measures, measures.mean)


def _interpolate(measures: Measures, values: Float[NDArray[np.float64], " frames"]) -> NDArray[np.float64]:
    frames = np.arange(measures.n_frames)
    known = np.isfinite(values) & ~measures.uniform
    if not known.any():
        return np.zeros(measures.n_frames)
    return np.interp(frames, frames[known], values[known])


def _largest_step(measures: Measures) -> tuple[int, float, float, float] | None:
    """Return the frame of the largest step, its size as a share of the level and in deviations, and its factor.

    A step is seen by the medians of three frames before and after, and again by those of many: activity comes fast,
    but goes. What is less in either counts.
    """
    level, n_frames = _interpolate(measures, measures.level), measures.n_frames
    least = measures.brightness if np.nanmin(measures.low, initial=0) < 0 else 0.0
    if n_frames < 2 * STEP_FRAMES[0] or not np.median(np.abs(level)) or np.isnan(least):
        return None
    three = _medians(level, 3)
    near = np.zeros(n_frames)
    near[3 : n_frames - 2] = three[3:] - three[:-3]
    spread = 1.4826 * float(np.median(np.abs(near[3 : n_frames - 2])))
    best = (0, 0.0, 0.0, 1.0)
    for length in STEP_FRAMES:
        if 2 * length > n_frames:
            break
        medians = _medians(level, length)
        before, after = medians[:-length], medians[length:]
        here = near[length : n_frames - length + 1]
        size = np.where(np.sign(here) == np.sign(after - before), np.minimum(np.abs(here), np.abs(after - before)), 0)
        share = size / np.maximum(np.maximum(np.maximum(np.abs(before), np.abs(after)), least), np.finfo(float).tiny)
        at = int(share.argmax())
        if share[at] > best[1]:
            deviations = float(size[at]) / spread if spread else math.inf
            factor = float(after[at] / before[at]) if before[at] else math.inf
            best = (at + length, float(share[at]), deviations, factor)
    around = np.arange(max(1, best[0] - 2), min(n_frames, best[0] + 3))
    frame = int(around[np.abs(level[around] - level[around - 1]).argmax()])
    return frame, *best[1:]


def _medians(values: Float[NDArray[np.float64], " frames"], length: int) -> NDArray[np.float64]:
    """Return the median of every `length` values in a row."""
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(values, length), axis=1))


def _departures(measures: Measures) -> Float[NDArray[np.float64], " frames"]:
    """Return by how much each frame's mean departs from its neighbours', as a share of the mean.

    From the median of the three before or of the three after, whichever is nearer: a transient, which decays, is not
    taken for a flash.
    """
    if measures.n_frames < FEW_FRAMES or not measures.brightness:
        return np.zeros(measures.n_frames)
    mean = _known_means(measures)
    around = np.pad(mean, 3, mode="reflect")
    shifted = [around[shift : shift + measures.n_frames] for shift in range(7)]
    before, after = (mean - np.median(others, axis=0) for others in (shifted[:3], shifted[4:]))
    nearer = np.where(np.abs(before) < np.abs(after), before, after)
    return np.where(before * after > 0, nearer, 0) / measures.brightness


def _slope(values: Float[NDArray[np.float64], " n"]) -> float:
    """Return the slope of the line through evenly spaced values."""
    place = np.arange(len(values)) - (len(values) - 1) / 2
    return float(place @ values / (place @ place))


def _certainty(values: Float[NDArray[np.float64], " n"]) -> float:
    """Return the slope in units of its standard error."""
    place = np.arange(len(values)) - (len(values) - 1) / 2
    slope = _slope(values)
    rest = values - values.mean() - slope * place
    error = np.sqrt(rest @ rest / (len(values) - 2) / (place @ place))
    return slope / float(error) if error else math.copysign(math.inf, slope) if slope else 0.0


def _first(frames: Int[NDArray[np.int64], " found"]) -> int | None:
    return int(frames[0]) if len(frames) else None


def _frames(measures: Measures, found: Int[NDArray[np.int64], " found"]) -> str:
    """Say how many frames, and name the first in the run and in its file."""
    n_found = len(found)
    if n_found == 1:
        return f"1 of {measures.n_frames} frames: {_frame(measures, int(found[0]))}"
    return f"{n_found} of {measures.n_frames} frames, first {_frame(measures, int(found[0]))}"


def _frame(measures: Measures, frame: int) -> str:
    run = measures.run
    where = f" of {run.path.name}" if run.path else " of the movie"
    return f"frame {frame}" + (f" (frame {run.start + frame}{where})" if run.start or run.path else "")


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
