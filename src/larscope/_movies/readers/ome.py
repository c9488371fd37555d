"""OME-TIFF, in one file or several."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from xml.etree import ElementTree

import numpy as np

from larscope._errors import LarscopeError
from larscope._movies.readers.pages import MAGIC, TiffPages, first_texts
from larscope._movies.readers.reader import Request, choose, square
from larscope._movies.readers.tiff import MOST_PAGES, Layout, TiffMovie, is_tiff, require_alike

MICROMETRES = {"nm": 1e-3, "µm": 1.0, "\u03bcm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
SECONDS = {"ns": 1e-9, "µs": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}


def is_ome(path: Path, head: bytes) -> bool:
    """Return whether a file is a TIFF with OME metadata."""
    return is_tiff(path, head) and first_texts(path)[0].rstrip().endswith("OME>")


def open_ome(path: Path, request: Request) -> TiffMovie:
    """Open an OME-TIFF; its metadata map pages of files to frames, planes and channels.

    A file of several images needs the name of one in the `dataset` column. Files that the metadata name are looked
    for beside the one given.
    """
    root = _metadata(path)
    images = [(image, pixels) for image in _all(root, "Image") if (pixels := _first(image, "Pixels")) is not None]
    if not images:
        raise LarscopeError(f"Expected an image in the OME metadata of {path}; it has none. Restore the file.")
    names = [image.get("Name") or image.get("ID") for image, _ in images]
    chosen = choose(path, "dataset", request.dataset, names)
    uuid, stacks = root.get("UUID"), {path: TiffPages(path)}
    layout = _arrange(path, uuid, images[chosen][1], stacks)
    try:
        others = [_arrange(path, uuid, pixels, stacks) for _, pixels in (*images[:chosen], *images[chosen + 1 :])]
        excused = tuple(
            np.concatenate([np.empty(0, np.int64), *(other.pages[other.files == number] for other in others)])
            for number in range(len(layout.stacks))
        )
    except LarscopeError:  # an image that nobody asked for may be anywhere
        excused = tuple(np.arange(stack.n_pages) for stack in layout.stacks)
    return TiffMovie(path, replace(layout, excused=excused), request)


def _metadata(path: Path) -> ElementTree.Element:
    text = first_texts(path)[0]
    root = _parse(path, text)
    binary = _first(root, "BinaryOnly")
    if binary is None:
        return root
    master = _beside(path, binary.get("MetadataFile", ""))
    if not master.is_file():
        raise LarscopeError(f"{path} has its metadata in {master}, but this file does not exist. Restore it.")
    with master.open("rb") as file:
        is_image = file.read(4) in MAGIC
    return _parse(master, first_texts(master)[0] if is_image else master.read_text("utf-8", errors="replace"))


def _parse(path: Path, text: str) -> ElementTree.Element:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise LarscopeError(f"Expected plain OME metadata in {path}; they define entities. Write the file again.")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise LarscopeError(
            f"Expected whole OME metadata in {path}; they cannot be read: {error}. Restore the file."
        ) from error


def _arrange(path: Path, own_uuid: str | None, pixels: ElementTree.Element, stacks: dict[Path, TiffPages]) -> Layout:
    """Map pages to the frames of an image. `stacks` keeps each file once it is open, for the other images."""
    sizes = {axis: _integer(path, pixels, f"Size{axis}", 1) for axis in "TZC"}
    samples = [_integer(path, channel, "SamplesPerPixel", 1) for channel in _all(pixels, "Channel")]
    if samples and samples[0] > 1:
        sizes["C"] = max(1, sizes["C"] // samples[0])  # a pixel's values count as channels
    n_planes = sizes["T"] * sizes["Z"] * sizes["C"]
    if not 0 < n_planes <= MOST_PAGES:
        raise LarscopeError(f"Expected a number of frames; the OME metadata of {path} say {sizes}. Restore the file.")
    order = [axis for axis in reversed(pixels.get("DimensionOrder", "XYCZT")) if axis in "TZC"]
    if sorted(order) != ["C", "T", "Z"]:
        raise LarscopeError(f"Expected an order of dimensions; the OME metadata of {path} say {order}. Restore it.")
    pages, files = np.full(n_planes, -1), np.zeros(n_planes, np.int64)
    for first, count, page, name in _blocks(path, pixels, order, sizes, own_uuid):
        if name not in stacks:
            stacks[name] = TiffPages(name)
        n_here = min(count or stacks[name].n_pages + (stacks[name].broken is not None), n_planes - first)
        if page + n_here > MOST_PAGES:
            raise LarscopeError(f"Expected a page; the OME metadata of {path} say page {page}. Restore the file.")
        pages[first : first + n_here] = np.arange(page, page + n_here)
        files[first : first + n_here] = list(stacks).index(name)
    require_alike(tuple(stacks.values()))
    shape = [sizes[axis] for axis in order]
    axes = [order.index(axis) for axis in "TZC"]
    interval = _length(pixels, "TimeIncrement", SECONDS, "s")
    x, y = (_length(pixels, f"PhysicalSize{axis}", MICROMETRES, "µm") for axis in "XY")
    return Layout(
        tuple(stacks.values()),
        pages.reshape(shape).transpose(axes),
        files.reshape(shape).transpose(axes),
        sizes["T"],
        tuple(channel.get("Name") for channel in _all(pixels, "Channel"))[: sizes["C"]],
        1 / interval if interval else None,
        square(x, y) if x and y else None,
    )


def _blocks(
    path: Path, pixels: ElementTree.Element, order: list[str], sizes: dict[str, int], own_uuid: str | None
) -> Iterator[tuple[int, int | None, int, Path]]:
    """Yield the first plane, the number of planes (None: to the end), the first page and the file of each block."""
    data = _all(pixels, "TiffData")
    names = {uuid.get("FileName") for block in data if (uuid := _first(block, "UUID")) is not None}
    if not data:
        yield 0, None, 0, path
    for block in data:
        first = 0
        for axis in order:
            index = _integer(path, block, f"First{axis}", 0)
            if index >= sizes[axis]:
                raise LarscopeError(
                    f"Expected at most {sizes[axis]} along {axis}; the OME metadata of {path} say First{axis}={index}. "
                    "Restore the file."
                )
            first = first * sizes[axis] + index
        count = _integer(path, block, "PlaneCount", 1 if block.get("IFD") else 0) or None
        uuid = _first(block, "UUID")
        name = None if uuid is None else uuid.get("FileName")
        file = path if name is None or uuid is None or uuid.text == own_uuid else _beside(path, name)
        if not file.is_file():
            if len(names) > 1:
                raise LarscopeError(f"{path} is one of several files, but {file} does not exist. Restore it.")
            file = path  # renamed since it was written
        yield first, count, _integer(path, block, "IFD", 0), file


def _beside(path: Path, name: str) -> Path:
    """Return a named file in the folder of another: metadata lead nowhere else."""
    return path.parent / PureWindowsPath(name).name


def _all(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return element.findall(f"{{*}}{name}")


def _first(element: ElementTree.Element, name: str) -> ElementTree.Element | None:
    return element.find(f"{{*}}{name}")


def _integer(path: Path, element: ElementTree.Element, name: str, default: int) -> int:
    text = element.get(name, str(default))
    if not text.isdecimal() or len(text) > 15:
        raise LarscopeError(f"Expected a number for {name} in the OME metadata of {path}; got {text!r}. Restore it.")
    return int(text)


def _length(pixels: ElementTree.Element, name: str, units: dict[str, float], default: str) -> float | None:
    unit = units.get(pixels.get(f"{name}Unit", default))
    try:
        value = float(pixels.get(name, ""))
    except ValueError:
        return None
    return value * unit if unit and 1e-9 < value < 1e9 else None
