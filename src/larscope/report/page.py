"""`report.html`: one file that needs no server, no network and no Python."""

import base64
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from larscope.report.figures import FIGURES
from larscope.report.words import describe
from larscope.result import Result, read_result

DPI = 110


def write_report(folder: str | Path) -> Path:
    """Write `report.html`, and the figures as `figures/*.png`, into a result folder.

    Returns the path of the page.
    """
    folder = Path(folder)
    result = read_result(folder)
    images = {name: _png(plot(result)) for name, (plot, _) in FIGURES.items()}
    (folder / "figures").mkdir(exist_ok=True)
    for name, image in images.items():
        _replace(folder / "figures" / f"{name}.png", image)
    page = folder / "report.html"
    _replace(page, _render(result, images).encode())
    return page


def _render(result: Result, images: Mapping[str, bytes]) -> str:
    # movies and tables come from strangers: whatever they name a run is text, never markup
    environment = Environment(
        loader=PackageLoader("larscope.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html").render(
        title=result.dataset.attrs["title"],
        simulated=bool(result.dataset.attrs["simulated"]),
        sentences=describe(result),
        figures=[(name, base64.b64encode(images[name]).decode(), caption) for name, (_, caption) in FIGURES.items()],
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
