"""An open result, shared by all pages of one server: its movies and everything computed from them."""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from larscope._fit.estimator import load
from larscope._report.page import write_report
from larscope._view.couplings import LatentPath, follow_path
from larscope._view.frames import Screen, changed_files, find_runs

KEPT_PATHS = 64
"""Most exact paths in memory: tens of megabytes each with hundreds of latents."""


class Exhibit:
    """A result under inspection.

    Parameters
    ----------
    folder
        The result; its report is written where that is missing.
    table
        A session table that says where the movies are now.

    Attributes
    ----------
    model, screen, positions
        The fit, its movies, and row and column of each latent in the preprocessed frame.
    frame_thread, path_thread
        Where frames are decoded, and where paths are followed: two, so that neither waits for the other.

    Raises
    ------
    LarscopeError
        The result or the session table cannot be read. A movie that is missing is no error here.
    """

    def __init__(self, folder: Path, table: Path | None = None) -> None:
        self.folder = folder
        self.model = load(folder)
        if not (folder / "report.html").is_file():
            write_report(folder)
        self.screen = Screen(self.model, find_runs(self.model, folder, table))
        self.positions = self.model.network_.positions
        self.frame_thread = ThreadPoolExecutor(1, "frames")
        self.path_thread = ThreadPoolExecutor(1, "paths")
        self._follow = lru_cache(KEPT_PATHS)(lambda run, latent: follow_path(self.model, run, latent))
        self._changed = lru_cache(1)(lambda: changed_files(self.screen.runs, self.model.provenance_["inputs"]))

    def path_of(self, run: int, latent: int) -> LatentPath:
        """Return the exact path of a latent's sources, computed once."""
        return self._follow(run, latent)

    def changed_files(self) -> list[str]:
        """Return a sentence about each movie unlike the fitted one, compared once."""
        return self._changed()

    def close(self) -> None:
        """Compute nothing more."""
        for thread in (self.frame_thread, self.path_thread):
            thread.shutdown(wait=False, cancel_futures=True)
