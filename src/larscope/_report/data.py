"""Section "What data?": runs, frames, conditions, and problems found in the movies."""

import math
from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from larscope._report.section import Picture, Section
from larscope._report.style import counted, label_pixels, listed, places_of, titled
from larscope._results.folder import Result

COLUMNS = {
    "run": "run",
    "condition": "condition",
    "block": "block",
    "subject": "subject",
    "dataset": "dataset",
    "channel": "channel",
    "plane": "plane",
    "n_frames": "frames",
    "seconds": "seconds",
    "frame_rate": "frames a second",
    "pixel_size": "pixel size, µm",
}
"""Columns of the table of runs with their headings; empty columns are left out."""

TEXT = ("run", "condition", "block", "subject", "dataset", "channel", "plane")


def data_section(result: Result) -> Section:
    """Describe the analysed movies."""
    return Section(
        "data",
        "What data?",
        [_sentence(result), describe_checks(result)],
        [
            Picture(
                "figures/mean_frame.png",
                plot_mean_frame(result),
                "The static image: mean over runs of each run's mean over time. The skip connection carries it past "
                "the network.",
            )
        ],
        shown={"runs": run_table(result.dataset), "complaints": complaints_of(result)},
    )


def run_table(data: xr.Dataset) -> dict[str, Any]:
    """Return headings and rows of the table of runs; its first `n_text` columns are text."""
    columns: dict[str, list[Any]] = {name: data[name].to_numpy().tolist() for name in COLUMNS if name in data}
    columns["seconds"] = [
        round(frames / rate, 1) if rate and math.isfinite(rate) else math.nan
        for frames, rate in zip(columns["n_frames"], columns["frame_rate"], strict=True)
    ]
    kept = [name for name in COLUMNS if name in columns and not all(_is_empty(value) for value in columns[name])]
    cells = [["" if _is_empty(value) else value for value in columns[name]] for name in kept]
    n_text = len([name for name in kept if name in TEXT])
    return {"headings": [COLUMNS[name] for name in kept], "rows": list(zip(*cells, strict=True)), "n_text": n_text}


def plot_mean_frame(result: Result) -> Figure:
    """Draw the static image: mean over runs of each run's mean over time."""
    places = places_of(result.dataset)
    figure = Figure(figsize=(4.2 * min(places.wide, 2) + 1.4, 4.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(result.dataset["mean_frame"], cmap="gray", extent=places.extent)
    label_pixels(axes)
    axes.set_title(titled(result.dataset.attrs["simulated"], "Mean frame"))
    figure.colorbar(image, ax=axes, label="intensity, [0, 1] of the session")
    return figure


def _sentence(result: Result) -> str:
    data = result.dataset
    height, width = (int(size) for size in data.attrs["crop"])
    step = int(data.attrs["downscale"])
    rows, columns = data["mean_frame"].shape
    small = "" if step == 1 else f", one pixel in {step} along each side ({rows} x {columns})"
    low, high = (data.attrs[f"intensity_{end}"] for end in ("low", "high"))
    return (
        f"The analysis used the centre {height} x {width} pixels of each frame{small}. Intensities from {low:g} to "
        f"{high:g} were scaled to [0, 1], once for the session. Rows and columns on this page are those of the "
        "recorded movie, counted from 0."
    )


def describe_checks(result: Result) -> str:
    """Say whether the check found problems in the movies."""
    if result.provenance.get("checks") is None:
        return "The movies' quality was not recorded with this result. Run `larscope check` to measure it."
    complaints = complaints_of(result)
    if not complaints:
        return "No problems were found in the movies."
    runs = {run for complaint in complaints for run in complaint["runs"]}
    of_all = f" in {len(runs)} of {counted(result.dataset['run'], 'run')}" if runs else ""
    found = listed(complaint["check"] for complaint in complaints)
    return f"Problems were found in the movies{of_all}: {found}. See the quality warnings."


def complaints_of(result: Result) -> list[dict[str, Any]]:
    """Return the problems found, one per check: level, runs, message and advice."""
    found = [finding for finding in result.provenance.get("checks") or [] if finding["level"] != "pass"]
    grouped = {finding["check"]: [other for other in found if other["check"] == finding["check"]] for finding in found}
    return [
        {
            "check": check.replace("_", " "),
            "level": "fail" if any(finding["level"] == "fail" for finding in findings) else "warn",
            "runs": [finding["run"] for finding in findings if finding["run"] is not None],
            "message": findings[0]["message"],
            "advice": findings[0]["advice"],
        }
        for check, findings in grouped.items()
    ]


def _is_empty(value: Any) -> bool:
    return value in ("", None) or (isinstance(value, float) and math.isnan(value))
