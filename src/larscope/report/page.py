"""`report.html`: one file that needs no server, no network and no Python."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from larscope.record import find_records, read_record
from larscope.report.comparison import COMPARISON_FIGURES, describe_comparison, write_figures
from larscope.report.figures import FIGURES
from larscope.report.stability import STABILITY_CAPTION, describe_stability, plot_stability, read_stability
from larscope.report.words import describe
from larscope.result import Result, read_result

DPI = 110


def write_report(folder: str | Path) -> Path:
    """Write `report.html`, and the figures as `figures/*.png`, into a result folder; comparisons and stability too.

    Returns the path of the page.
    """
    folder = Path(folder)
    result = read_result(folder)
    images = {name: _png(plot(result)) for name, (plot, _) in FIGURES.items()}
    (folder / "figures").mkdir(exist_ok=True)
    for name, image in images.items():
        _replace(folder / "figures" / f"{name}.png", image)
    sections = [_comparison_section(compared) for compared in find_records(folder)]
    if (stability := read_stability(folder)) is not None:
        sections.append(_stability_section(stability, folder))
    page = folder / "report.html"
    _replace(page, _render(result, images, sections).encode())
    return page


def _comparison_section(folder: Path) -> dict[str, Any]:
    """Write the figures of a comparison anew, and return what the page says about it."""
    record = read_record(folder)
    images = write_figures(record, folder)
    return {
        "title": f"{record.summary['first']} against {record.summary['second']}",
        "sentences": describe_comparison(record),
        "figures": [_figure(name, images[name], caption) for name, (_, caption) in COMPARISON_FIGURES.items()],
    }


def _stability_section(stability: xr.Dataset, folder: Path) -> dict[str, Any]:
    image = _png(plot_stability(stability))
    _replace(folder / "figures" / "stability.png", image)
    return {
        "title": "Stability over training seeds",
        "sentences": describe_stability(stability),
        "figures": [_figure("stability", image, STABILITY_CAPTION)],
    }


def _figure(name: str, image: bytes, caption: str) -> tuple[str, str, str]:
    return name, base64.b64encode(image).decode(), caption


def _render(result: Result, images: Mapping[str, bytes], sections: Sequence[Mapping[str, Any]]) -> str:
    # movies and tables come from strangers: whatever they name a run is text, never markup
    environment = Environment(
        loader=PackageLoader("larscope.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html").render(
        title=result.dataset.attrs["title"],
        simulated=bool(result.dataset.attrs["simulated"]),
        sentences=describe(result),
        figures=[_figure(name, images[name], caption) for name, (_, caption) in FIGURES.items()],
        sections=sections,
        runs=_run_rows(result),
        settings=result.settings,
        provenance=result.provenance,
    )


def _run_rows(result: Result) -> list[dict[str, Any]]:
    data = result.dataset
    names = ["run", "condition", "n_frames", "reconstruction_error", "forecast_error", "var_error", "var_explained"]
    names += ["var_error_heldout", "n_active"]
    columns = {name: data[name].to_numpy().tolist() for name in names}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    filling = path.with_name(f".{path.name}.writing-{os.getpid()}")
    try:
        filling.write_bytes(content)
        filling.replace(path)
    finally:
        filling.unlink(missing_ok=True)
