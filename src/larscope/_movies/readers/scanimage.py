"""ScanImage's TIFFs: channels, planes and fly-back frames lie one after the other."""

import re
from pathlib import Path

from larscope._errors import LarscopeError
from larscope._movies.readers.pages import SOFTWARE, TiffPages, first_texts
from larscope._movies.readers.reader import square
from larscope._movies.readers.tiff import Layout, interleave, is_tiff


def is_scanimage(path: Path, head: bytes) -> bool:
    """Whether a file is a TIFF from ScanImage."""
    if not is_tiff(path, head):
        return False
    description, software = first_texts(path)
    return software.startswith("SI.") or "scanimage.SI" in description or description.startswith("state.")


def arrange_scanimage(path: Path, stack: TiffPages) -> Layout:
    """Arrange pages as ScanImage's settings say: channels change fastest, then frames of a plane, planes, volumes."""
    says = _Settings(f"{stack.text(SOFTWARE)}\n{stack.text()}")
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
    pages, _ = interleave(stack, {"T": None, "Z": n_wanted + n_flyback, "C": n_channels})
    pages = pages[:, :n_wanted].reshape(-1, n_planes, n_repeats, n_channels).swapaxes(1, 2)
    names = says.words("SI.hChannels.channelName")
    return Layout(
        (stack,),
        pages.reshape(-1, n_planes, n_channels),
        channels=tuple(names[int(n) - 1] if 1 <= n <= len(names) else f"Channel {n:g}" for n in saved),
        frame_rate=_frame_rate(says, n_wanted),
        pixel_size=_pixel_size(says, stack.frame_shape),
    )


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
