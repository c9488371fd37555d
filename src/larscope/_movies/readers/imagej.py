"""ImageJ's TIFFs: stacks and hyperstacks."""

import warnings
from pathlib import Path

from larscope._errors import LarscopeError
from larscope._movies.readers.pages import TiffPages, first_texts
from larscope._movies.readers.reader import square
from larscope._movies.readers.tiff import Layout, interleave, is_tiff

MICROMETRES = {
    "nm": 1e-3,
    "um": 1.0,
    "µm": 1.0,  # the micro sign
    "\u03bcm": 1.0,  # the Greek letter
    "\\u00B5m": 1.0,  # as Java escapes it
    "micron": 1.0,
    "microns": 1.0,
    "mm": 1e3,
    "cm": 1e4,
}

COUNTS = {"images", "frames", "slices", "channels"}


def is_imagej(path: Path, head: bytes) -> bool:
    """Return whether a file is a TIFF with ImageJ's description."""
    return is_tiff(path, head) and first_texts(path)[0].startswith("ImageJ=")


def arrange_imagej(path: Path, stack: TiffPages) -> Layout:
    """Arrange pages as ImageJ's description says.

    The images of a plain stack are its frames, whatever ImageJ calls them: it has one dimension only. A hyperstack
    says what is what.
    """
    says = dict(line.split("=", 1) for line in stack.text().splitlines() if "=" in line)

    def number(key: str) -> int:
        return int(says[key]) if says.get(key, "").isdecimal() else 1

    sizes = {"T": number("frames"), "Z": number("slices"), "C": number("channels")}
    if stack.n_samples > 1 and sizes["C"] == stack.n_samples:
        sizes["C"] = 1  # some writers count a pixel's values as channels
    n_images = sizes["T"] * sizes["Z"] * sizes["C"]
    if says.get("hyperstack") != "true" or n_images == 1:
        n_images = _count_images(stack, max(n_images, number("images")), bool(COUNTS & set(says)))
        sizes = {"T": n_images, "Z": 1, "C": 1}
    elif stack.n_pages > n_images:
        raise LarscopeError(
            f"Expected as many pages as the text says; {path} has {stack.n_pages}, but its text tells of {n_images}: "
            f"{sizes['T']} frames, {sizes['Z']} slices, {sizes['C']} channels. Open it in Fiji, set its dimensions "
            "(Image, Properties), and save it again."
        )
    stack.stretch(n_images)
    order = says.get("order", "czt").upper()[::-1]  # fastest first
    axes = order if sorted(order) == ["C", "T", "Z"] else "TZC"
    pages, expected = interleave(stack, {axis: sizes[axis] for axis in axes})
    return Layout((stack,), pages, expected=expected, frame_rate=_frame_rate(says), pixel_size=_pixel_size(stack, says))


def _count_images(stack: TiffPages, declared: int, says_so: bool) -> int:
    """Return the number of images of a plain stack, from its text and its pages."""
    if stack.n_pages > declared:
        found, why = stack.n_pages + (stack.broken is not None), "all pages are read as frames"
    elif stack.n_pages == 1 < declared and stack.broken is None and stack.ends_with_first:
        found, why = 1, "the text was copied from another file, and the one page is read"
    else:
        return declared
    if says_so:
        warnings.warn(
            f"{stack.path} has {stack.n_pages} pages, but its text tells of {declared} images: {why}.",
            UserWarning,
            stacklevel=2,
        )
    return found


def _frame_rate(says: dict[str, str]) -> float | None:
    try:
        interval = float(says.get("finterval", "0"))
    except ValueError:
        return None
    in_seconds = says.get("tunit", "sec") in ("s", "sec", "second", "seconds")
    return 1 / interval if in_seconds and 1e-9 < interval < 1e9 else None


def _pixel_size(stack: TiffPages, says: dict[str, str]) -> float | None:
    unit = MICROMETRES.get(says.get("unit", ""))
    if unit is None or stack.resolution is None or min(stack.resolution) <= 0:
        return None
    return square(*(unit / pixels for pixels in stack.resolution))
