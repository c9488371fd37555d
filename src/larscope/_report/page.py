"""Writes `report.html`: one file without server, network or Python."""

import base64
import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from PIL import Image
from plotly.offline.offline import get_plotlyjs

from larscope._report.comparison import conditions_section, summarise_comparison
from larscope._report.data import complaints_of, data_section, describe_checks
from larscope._report.dynamics import dynamics_section
from larscope._report.finding import cell_table, edge_table, finding_picture, found_in, verdict_on
from larscope._report.maps import where_section
from larscope._report.methods import methods_section
from larscope._report.penalty import penalty_section
from larscope._report.section import Picture, Section
from larscope._report.sentences import describe, describe_dynamics, describe_training
from larscope._report.stability import read_stability, stability_section
from larscope._report.training import training_section
from larscope._results.comparison import ComparisonRecord, find_incomplete, find_records, read_record
from larscope._results.folder import Result, read_result
from larscope._storage import replacing, require_inside, write_text

DPI = 110

IMAGE_BYTES = 1_600_000
"""Most bytes of static figures on the page. Further figures stay in the folder, and the page names them."""


def write_report(folder: str | Path) -> Path:
    """Write `report.html`, its static figures as PNG, `cells.csv` and `edges.csv` into a result folder.

    Returns the path of the page.
    """
    folder = Path(folder)
    result = read_result(folder)
    records = {at: read_record(at) for at in find_records(folder)}
    sections = list(_sections(result, folder, records))
    images = {}
    first = finding_picture(result)
    pictures = [picture for section in sections for picture in section.pictures]
    for picture in [*([first] if first else []), *pictures]:
        images[picture.path] = _png(picture.figure)
        with replacing(_made(folder, picture.path)) as path:
            path.write_bytes(images[picture.path])
    tables = {"cells.csv": cell_table(result.dataset)}
    if found_in(result.dataset):
        tables["edges.csv"] = edge_table(result.dataset)
    for name, table in tables.items():
        with replacing(folder / name) as path:
            table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
    page = folder / "report.html"
    with replacing(page) as path:
        write_text(path, _render(result, records, find_incomplete(folder), first, sections, images))
    return page


def _sections(result: Result, folder: Path, records: Mapping[Path, ComparisonRecord]) -> Iterator[Section]:
    """Answer the reader's questions in their natural order."""
    yield data_section(result)
    yield training_section(result, describe_training(result))
    yield dynamics_section(result, describe_dynamics(result))
    if (stability := read_stability(folder)) is not None:
        yield stability_section(stability)
    yield conditions_section(result, folder, records)
    yield where_section(result, list(records.values()))
    yield penalty_section(result)
    yield methods_section(result, list(records.values()))


def _summary(result: Result, records: Mapping[Path, ComparisonRecord], incomplete: Sequence[Path]) -> list[str]:
    complaints = [describe_checks(result)] if complaints_of(result) else []
    lost = [
        f"The comparison in comparisons/{folder.name} is incomplete and not in this report. Run `larscope compare` "
        "again."
        for folder in incomplete
    ]
    return [*describe(result), *complaints, *(summarise_comparison(record) for record in records.values()), *lost]


def _render(
    result: Result,
    records: Mapping[Path, ComparisonRecord],
    incomplete: Sequence[Path],
    first: Picture | None,
    sections: Sequence[Section],
    images: Mapping[str, bytes],
) -> str:
    # movies and tables come from strangers: whatever they name a run is text, never markup
    environment = Environment(
        loader=PackageLoader("larscope._report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = _embedding(images)
    environment.filters["flow"] = _flow
    simulated = bool(result.dataset.attrs["simulated"])
    explored = {"simulated": simulated} | {name: data for part in sections for name, data in part.explored.items()}
    scripts = [get_plotlyjs(), _asset("report.js")]
    return environment.get_template("page.html").render(
        title=result.dataset.attrs["title"],
        simulated=simulated,
        created=result.provenance["created"],
        verdict=verdict_on(result, list(records.values())),
        finding=first,
        summary=_summary(result, records, incomplete),
        sections=sections,
        style=Markup(_asset("report.css")),
        explored=_json(explored),
        scripts=[Markup(script) for script in scripts],
        # the browser runs these two scripts and no other, and fetches nothing, whatever a result holds
        hashes=Markup(" ".join(f"'sha256-{_sha256(script)}'" for script in scripts)),
    )


def _flow(text: str) -> Markup:
    """Return a text for the page: no line break before a unit, code for text between backticks."""
    pieces = (escape(piece) for piece in text.replace(" %", "\u00a0%").split("`"))
    return Markup().join(Markup("<code>{}</code>").format(piece) if i % 2 else piece for i, piece in enumerate(pieces))


def _embedding(images: Mapping[str, bytes]) -> Any:
    """Return a filter from a picture to its data URI, or to nothing once the page is full."""
    left = IMAGE_BYTES

    @cache
    def embed(picture: Picture) -> str | None:
        nonlocal left
        image = base64.b64encode(_webp(images[picture.path])).decode()
        if len(image) > left:
            return None
        left -= len(image)
        return f"data:image/webp;base64,{image}"

    return embed


def _json(content: Any) -> Markup:
    """Return data as JSON, safe inside a script element."""
    text = json.dumps(_finite(content), allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _finite(content: Any) -> Any:
    """Replace numbers unknown to JSON by null."""
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _asset(name: str) -> str:
    return (files("larscope._report") / "templates" / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _made(folder: Path, path: str) -> Path:
    require_inside((folder / path).parent, folder).mkdir(parents=True, exist_ok=True)
    return folder / path


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _webp(png: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, format="webp", quality=82, method=4)
    return buffer.getvalue()
