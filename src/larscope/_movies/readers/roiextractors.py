"""Formats of other laboratories' microscopes, through roiextractors."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray

from larscope._errors import LarscopeError, suggest
from larscope._movies.readers.reader import Request, choose, load_library

PREFIX = "roiextractors:"
"""Prefix of a `dataset` naming one of roiextractors' classes, such as `roiextractors:ThorTiffImagingExtractor`."""

BY_EXTENSION = {
    ".sbx": "SbxImagingExtractor",
    ".isxd": "InscopixImagingExtractor",
    ".mesc": "FemtonicsImagingExtractor",
}


def is_extractable(path: Path, head: bytes) -> bool:
    """Whether the extension is roiextractors' alone: these formats have no magic bytes."""
    return path.suffix.lower() in BY_EXTENSION


def open_extractor(path: Path, request: Request) -> "ExtractorMovie":
    """Open a movie with the class for its extension or `dataset` column."""
    dataset = request.dataset or PREFIX + BY_EXTENSION.get(path.suffix.lower(), "")
    if not dataset.startswith(PREFIX):
        raise LarscopeError(f"Expected `{PREFIX}` and a class for {path}; got dataset={dataset!r}. Leave it empty.")
    return ExtractorMovie(path, dataset.removeprefix(PREFIX), request)


class ExtractorMovie:
    """A movie read by roiextractors, cut files included.

    Parameters
    ----------
    path
        File or folder.
    name
        Of the class.
    request
        Channel and plane.
    """

    def __init__(self, path: Path, name: str, request: Request) -> None:
        self.paths = (path,)
        self._path, self._name, self._channel = path, name, request.channel
        self._plane: int | None = None
        self._extractor: Any = None
        extractor = self._opened()
        try:
            n_frames, height, width, *planes = (int(n) for n in self._series(extractor, 0, 1).shape)
            n_frames = int(extractor.get_num_samples())
            self.dtype: np.dtype[np.generic] = np.dtype(extractor.get_dtype()).newbyteorder("=")
            rate = extractor.get_sampling_frequency()
        except Exception as error:  # anything may happen in there
            raise self._failed(error) from error
        if planes:
            self._plane = choose(path, "plane", request.plane, [None] * planes[0])
        else:
            request.refuse(path, f"What {name} reads", "plane")
        self.shape: tuple[int, int, int] = (n_frames, height, width)
        self.frame_rate = float(rate) if rate and 0 < rate < 1e6 else None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_extractor": None}

    def read(self, start: int, stop: int) -> Shaped[NDArray[np.generic], "frames height width"]:
        """Return frames `start` to `stop` (exclusive)."""
        stop = max(start, min(stop, self.shape[0]))
        if start == stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        try:
            frames = self._series(self._opened(), start, stop)
        except Exception as error:
            raise self._failed(error) from error
        return np.asarray(frames if self._plane is None else frames[..., self._plane], self.dtype)

    @staticmethod
    def _series(extractor: Any, start: int, stop: int) -> Any:
        return extractor.get_series(start_sample=start, end_sample=stop)

    def _opened(self) -> Any:
        if self._extractor is None:
            library = load_library("roiextractors", "formats", self._path)
            classes = {found.__name__: found for found in library.imaging_extractor_full_list}
            if self._name not in classes:
                raise LarscopeError(
                    f"Expected a class of roiextractors for {self._path}; got {self._name!r}. "
                    f"{suggest(self._name, classes)}"
                )
            known = inspect.signature(classes[self._name]).parameters
            options: dict[str, Any] = {"folder_path" if "folder_path" in known else "file_path": str(self._path)}
            if self._channel is not None:
                options["channel_name"] = self._channel
            try:
                self._extractor = classes[self._name](**options)
            except Exception as error:  # anything may happen in there
                raise self._failed(error) from error
        return self._extractor

    def _failed(self, error: Exception) -> LarscopeError:
        return LarscopeError(
            f"Expected frames of {self._path}; roiextractors' {self._name} cannot read them: "
            f"{type(error).__name__}: {error}. Correct the columns, or convert the movie."
        )
