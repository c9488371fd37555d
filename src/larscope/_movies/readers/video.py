"""AVI, MP4 and MOV videos, through PyAV."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray

from larscope._errors import LarscopeError
from larscope._movies.readers.reader import Request, choose, load_library, unbelievable

GREY = {"gray": "u1", "gray10le": "<u2", "gray12le": "<u2", "gray16le": "<u2", "gray16be": ">u2"}
"""Pixel formats of one value, and how they are stored."""

COLOURS = ("red", "green", "blue")


def is_video(path: Path, head: bytes) -> bool:
    """Return whether a file begins as AVI, MP4 or MOV files do."""
    return (head[:4] == b"RIFF" and head[8:12] == b"AVI ") or head[4:8] == b"ftyp"


class VideoMovie:
    """The one video stream of a file.

    Grey frames come as they are stored. Colour is never made grey: frames whose three channels are equal give one of
    them, others need a `channel`. Frames are found by their time stamps, and a decoder that is where the last read
    ended goes on from there.

    Parameters
    ----------
    path
        The file.
    request
        Which channel, and whether a file that was cut short is an error.
    """

    def __init__(self, path: Path, request: Request) -> None:
        request.refuse(path, "A video", "dataset", "plane")
        self.paths = (path,)
        self._path = path
        self._channel = None if request.channel is None else choose(path, "channel", request.channel, COLOURS)
        self._decoder: _Decoder | None = None
        try:
            broken = _broken_box(path)
            decoder = self._decoding()
            self._stamps, declared, cut = decoder.count()
            broken = broken or cut
            self.frame_rate = decoder.frame_rate
            height, width = decoder.size
            if not height or not width or unbelievable(3 * height * width, path.stat().st_size):
                raise ValueError(f"it claims frames of {height} x {width} pixels")
            self._require_grey(decoder.pixel_format, request)
            self.dtype: np.dtype[np.generic] = np.dtype(GREY.get(decoder.pixel_format, "u1")).newbyteorder("=")
            n_frames = len(self._stamps)
            self.shape: tuple[int, int, int] = (n_frames, height, width)
            if broken or n_frames < declared:
                whole = self._n_decodable() if request.on_truncated == "keep" else n_frames
                why = broken or "the file has no more"
                self.shape = (request.whole_frames(path, whole, declared or None, why), height, width)
            elif self._channel is None:
                self.read(0, 1)  # where it is coloured, better to say so now
        except LarscopeError:
            raise
        except Exception as error:  # a damaged file can make a decoder raise anything
            raise LarscopeError(
                f"Expected a whole video; {path} cannot be read, from frame 0 on: {error}. Restore it."
            ) from error
        finally:
            self._close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_decoder": None}

    def read(self, start: int, stop: int) -> Shaped[NDArray[np.generic], "frames height width"]:
        """Return frames `start` to `stop` (exclusive)."""
        stop = max(start, min(stop, self.shape[0]))
        frames = np.empty((stop - start, *self.shape[1:]), self.dtype)
        try:
            decoder = self._decoding()
            for number in range(start, stop):
                frames[number - start] = self._grey(decoder.frame(number, self._stamps), number)
        except LarscopeError:
            self._close()
            raise
        except Exception as error:  # a damaged file can make a decoder raise anything
            self._close()
            raise LarscopeError(
                f"Expected frames {start} to {stop} of {self._path}; they cannot be read: {error}. Restore the file."
            ) from error
        return frames

    def _decoding(self) -> "_Decoder":
        if self._decoder is None or self._decoder.process != os.getpid():  # after a fork the file's position is shared
            self._decoder = _Decoder(self._path)
        return self._decoder

    def _close(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def _require_grey(self, pixel_format: str, request: Request) -> None:
        if pixel_format in GREY:
            request.refuse(self._path, "A grey video", "channel")
        elif _Decoder.bits(self._path, pixel_format) > 8:
            raise LarscopeError(
                f"Expected grey pixels, or 8 bits a colour; {self._path} has pixels of {pixel_format}. Convert it to "
                "gray16le in an AVI, or to TIFF."
            )

    def _grey(self, frame: Any, number: int) -> NDArray[np.generic]:
        if frame.format.name in GREY:
            stored = np.dtype(GREY[frame.format.name])
            plane = frame.planes[0]
            rows = np.frombuffer(plane, stored).reshape(-1, plane.line_size // stored.itemsize)
            return rows[: frame.height, : frame.width]
        colours: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
        if self._channel is not None:
            return colours[:, :, self._channel]
        if not (colours == colours[:, :, :1]).all():
            raise LarscopeError(
                f"Expected grey frames; frame {number} of {self._path} is coloured. Choose a channel by number (from "
                f"0) or name in the `channel` column: {', '.join(COLOURS)}."
            )
        return colours[:, :, 0]

    def _n_decodable(self) -> int:
        decoder, number = self._decoding(), 0
        try:
            for number in range(len(self._stamps)):
                decoder.frame(number, self._stamps)
        except Exception:  # whatever a decoder raises at the cut
            self._close()
            return number
        return len(self._stamps)


class _Decoder:
    """An open video with the next frame to decode."""

    def __init__(self, path: Path) -> None:
        self.process = os.getpid()
        self._path = path
        self._open()
        context = self._stream.codec_context
        self.size: tuple[int, int] = (context.height, context.width)
        self.pixel_format = str(context.pix_fmt)
        rate = self._stream.average_rate
        self.frame_rate = float(rate) if rate and 0 < rate < 1e6 else None

    def _open(self) -> None:
        self._container = load_library("av", "video", self._path).open(str(self._path))
        if len(self._container.streams.video) != 1:
            raise ValueError(f"it has {len(self._container.streams.video)} video streams")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "SLICE"  # one frame out for each frame in
        self._frames, self._position = self._decode(), 0

    @staticmethod
    def bits(path: Path, pixel_format: str) -> int:
        """Return how many bits the largest part of a pixel has."""
        library = load_library("av", "video", path)
        return max(int(part.bits) for part in library.VideoFormat(pixel_format, 8, 8).components)

    def close(self) -> None:
        """Close the file."""
        self._frames.close()
        self._container.close()

    def count(self) -> tuple[list[int | None], int, str | None]:
        """Return the frames' time stamps, how many the file declares (0 if it does not), and whether one is cut off.

        Every packet is read, none decoded.
        """
        stamps: list[int | None] = []
        cut = None
        for packet in self._container.demux(self._stream):
            if packet.is_corrupt and cut is None:
                cut = f"the data of frame {len(stamps)} are cut off"
            if packet.size and not packet.is_discard and cut is None:
                stamps.append(packet.pts)
        if None in stamps or len(set(stamps)) < len(stamps):
            stamps = [None] * len(stamps)  # then only counting from the beginning finds a frame
        else:
            stamps.sort(key=lambda stamp: stamp or 0)
        declared = self._stream.frames
        self._restart()
        return stamps, declared, cut

    def frame(self, number: int, stamps: list[int | None]) -> Any:
        """Return a frame, decoded."""
        if number != self._position:
            self._go_to(number, stamps)
        frame = next(self._frames, None)
        while frame is not None and stamps[number] is not None and (frame.pts is None or frame.pts < stamps[number]):
            frame = next(self._frames, None)  # between the key frame and the one that is wanted
        if frame is None or frame.is_corrupt or (stamps[number] is not None and frame.pts != stamps[number]):
            raise ValueError(f"frame {number} cannot be decoded")
        self._position = number + 1
        return frame

    def _go_to(self, number: int, stamps: list[int | None]) -> None:
        stamp = stamps[number]
        if stamp is None or number == 0:
            self._restart()
            for _ in range(number):
                next(self._frames, None)
        else:
            self._frames.close()
            self._container.seek(stamp, stream=self._stream, backward=True)
            self._frames = self._decode()

    def _restart(self) -> None:
        self.close()
        self._open()

    def _decode(self) -> Generator[Any]:
        for packet in self._container.demux(self._stream):
            if packet.is_corrupt:
                raise ValueError("the data of a frame are cut off")
            yield from packet.decode()


def _broken_box(path: Path) -> str | None:
    """Return the outermost part of a file that reaches beyond its end, None if all are whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        return _broken_riff(file, size) if head[:4] == b"RIFF" else _broken_atom(file, size)


def _broken_riff(file: BinaryIO, size: int) -> str | None:
    position = 0
    while position + 8 <= size:
        file.seek(position)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF":
            return None  # what follows the video is no part of it
        if length == 0:
            return "its header was never finished"
        position += 8 + length + length % 2
        if position - length % 2 > size:
            return f"it has {size} of {position} bytes"
    return None


def _broken_atom(file: BinaryIO, size: int) -> str | None:
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length == 0:
            return None  # to the end of the file
        if length < 8 or position + length > size:
            return f"it has {size} of {position + length} bytes"
        position += length
    return None
