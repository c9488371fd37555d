"""ScanImage's TIFFs: channels, planes and fly-back frames lie one after the other."""

import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from larscope._errors import LarscopeError
from larscope._movies.readers.pages import SOFTWARE, TiffPages, first_texts
from larscope._movies.readers.reader import Request, choose, square
from larscope._movies.readers.tiff import Layout, TiffMovie, interleave, is_tiff, require_alike

ARTIST = 315
"""Tag of ScanImage's regions."""


def is_scanimage(path: Path, head: bytes) -> bool:
    """Whether a file is a TIFF from ScanImage."""
    if not is_tiff(path, head):
        return False
    description, software = first_texts(path)
    return software.startswith("SI.") or "scanimage.SI" in description or description.startswith("state.")


def open_scanimage(path: Path, request: Request, parts: Sequence[Path] = ()) -> TiffMovie:
    """Open a recording of ScanImage's in one file, or in several that follow one another."""
    stacks = tuple(TiffPages(part) for part in parts or (path,))
    require_alike(stacks)
    cut = next((number for number, stack in enumerate(stacks[:-1]) if stack.broken), None)
    if cut is not None:
        request.whole_frames(stacks[cut].path, stacks[cut].n_pages, None, str(stacks[cut].broken))
        stacks = stacks[: cut + 1]  # kept up to here: what follows would hide the gap
    says = _Settings(f"{stacks[0].text(SOFTWARE)}\n{stacks[0].text()}")
    layout = _arrange(path, stacks, says)
    if says.flag("SI.hRoiManager.mroiEnable"):
        names, rows = _regions(path, stacks[0])
        layout = replace(layout, rows=rows[choose(path, "dataset", request.dataset, names)], pixel_size=None)
    else:
        request.refuse(path, "A recording of one region", "dataset")
    return TiffMovie(path, layout, request)


def _arrange(path: Path, stacks: tuple[TiffPages, ...], says: "_Settings") -> Layout:
    """Arrange pages as ScanImage's settings say: channels change fastest, then frames of a plane, planes, volumes.

    Files may end anywhere in a volume: their pages are one list.
    """
    saved = says.numbers("SI.hChannels.channelSave") or says.numbers("SI4.channelsSave")
    n_channels = len(saved) or int(says.number("state.acq.numberOfChannelsSave", 1))
    if max(says.number("SI4.stackNumSlices", 1), says.number("state.acq.numberOfZSlices", 1)) > 1:
        raise LarscopeError(
            f"Expected frames of one plane; {path} is a stack of an old version of ScanImage. Export the wanted plane "
            "as OME-TIFF, for instance with Fiji."
        )
    n_planes, n_repeats, n_flyback = 1, 1, 0
    if says.flag("SI.hStackManager.enable"):
        n_planes = int(says.number("SI.hStackManager.actualNumSlices", says.number("SI.hStackManager.numSlices", 1)))
        averaged = says.number("SI.hScan2D.logAverageFactor", 1)
        n_repeats = max(1, int(says.number("SI.hStackManager.framesPerSlice", 1) / max(averaged, 1)))
        n_in_volume = says.number("SI.hStackManager.numFramesPerVolume", 0)
        n_flyback = max(
            0, int(says.number("SI.hStackManager.numFramesPerVolumeWithFlyback", n_in_volume) - n_in_volume)
        )
    n_wanted = n_planes * n_repeats
    counts = [stack.n_pages for stack in stacks]
    broken = stacks[-1].broken
    joined = SimpleNamespace(path=path, n_pages=sum(counts), broken=broken)
    numbers, _ = interleave(joined, {"T": None, "Z": n_wanted + n_flyback, "C": n_channels})
    excused = numbers[:, n_wanted:]
    numbers = numbers[:, :n_wanted].reshape(-1, n_planes, n_repeats, n_channels).swapaxes(1, 2)
    numbers = numbers.reshape(-1, n_planes, n_channels)
    whole = np.asarray((numbers < sum(counts)).all(axis=(1, 2)))
    if broken is None and len(whole) > 1 and not whole.all():
        lost = numbers[~whole]
        excused = np.append(excused, lost)
        numbers = numbers[whole]
        warnings.warn(
            f"{path} ends within a volume: {int((lost < sum(counts)).sum())} of its last {lost.size} pages are there, "
            f"and left out in every plane and channel. {len(numbers)} frames of each are read.",
            UserWarning,
            stacklevel=2,
        )
    starts = np.cumsum([0, *counts])
    files = np.clip(np.searchsorted(starts, numbers, side="right") - 1, 0, len(stacks) - 1)
    of_file = np.clip(np.searchsorted(starts, excused, side="right") - 1, 0, len(stacks) - 1)
    names = says.words("SI.hChannels.channelName")
    return Layout(
        stacks,
        numbers - starts[files],
        files,
        channels=tuple(names[int(n) - 1] if 1 <= n <= len(names) else f"Channel {n:g}" for n in saved),
        frame_rate=_frame_rate(says, n_wanted),
        pixel_size=_pixel_size(says, stacks[0].frame_shape),
        excused=tuple(excused[of_file == number] - starts[number] for number in range(len(stacks))),
    )


def _regions(path: Path, stack: TiffPages) -> tuple[list[str], list[tuple[int, int]]]:
    """Return names and rows of the regions that ScanImage has put below one another in every page.

    Between two of them lie the lines of the mirrors' way from one to the next.
    """
    try:
        group = json.loads(stack.text(ARTIST))["RoiGroups"]["imagingRoiGroup"]["rois"]
        regions = group if isinstance(group, list) else [group]
        fields = [region["scanfields"] for region in regions]
        if any(not isinstance(field, dict) for field in fields):
            raise ValueError("a region has several scan fields")
        sizes = [tuple(int(side) for side in field["pixelResolutionXY"]) for field in fields]
        names = [str(region.get("name") or f"ROI {number}") for number, region in enumerate(regions, start=1)]
        gap, rest = divmod(stack.frame_shape[0] - sum(height for _, height in sizes), max(len(sizes) - 1, 1))
        if gap < 0 or (rest and len(sizes) > 1) or any(width != stack.frame_shape[1] for width, _ in sizes):
            raise ValueError(f"regions of {sizes} (width, height) do not fill pages of {stack.frame_shape}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LarscopeError(
            f"{path} shows several regions in every page (`mroiEnable`), and its description does not say where they "
            f"are: {type(error).__name__}: {error}. Save the wanted region as a movie of its own."
        ) from error
    tops = np.cumsum([0, *(height + gap for _, height in sizes[:-1])]).tolist()
    return names, [(top, top + height) for top, (_, height) in zip(tops, sizes, strict=True)]


def _frame_rate(says: "_Settings", n_planes: int) -> float | None:
    key = "SI.hRoiManager.scanFrameRate" if n_planes == 1 else "SI.hRoiManager.scanVolumeRate"
    rate = says.number(key, says.number("SI4.scanFrameRate", says.number("state.acq.frameRate", 0)))
    averaged = says.number("SI.hScan2D.logAverageFactor", 1)
    return rate / averaged if averaged > 0 and 0 < rate < 1e6 else None


def _pixel_size(says: "_Settings", frame_shape: tuple[int, int]) -> float | None:
    corners = says.numbers("SI.hRoiManager.imagingFovUm")  # x, y of each corner
    if len(corners) != 8:
        return None
    height, width = max(corners[1::2]) - min(corners[1::2]), max(corners[::2]) - min(corners[::2])
    return square(width / frame_shape[1], height / frame_shape[0])


class _Settings:
    """ScanImage's settings, `name = value` in MATLAB's notation."""

    def __init__(self, text: str) -> None:
        pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
        self._texts = {name.strip().removeprefix("scanimage."): value.strip() for name, value in pairs}

    def numbers(self, name: str) -> list[float]:
        return [float(text) for text in re.findall(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?", self._texts.get(name, ""))]

    def number(self, name: str, default: float) -> float:
        found = self.numbers(name)
        return found[0] if found and found[0] < 1e9 else default

    def words(self, name: str) -> list[str]:
        return re.findall(r"'([^']*)'", self._texts.get(name, ""))

    def flag(self, name: str) -> bool:
        return self._texts.get(name, "false").lower() in ("true", "1")
