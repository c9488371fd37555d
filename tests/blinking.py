"""Small movies of blinking squares, and sessions of them as files."""

from pathlib import Path

import numpy as np

from larscope._movies.session import ArrayMovie, Run, Session


def blinking_movie(n_frames: int, height: int = 24, width: int = 16, seed: int = 0) -> np.ndarray:
    """uint16 frames of four square cells, the second following the first, the fourth the third."""
    rng = np.random.default_rng(seed)
    drive = rng.random((n_frames, 2)) < 0.1
    activity = np.zeros((n_frames, 4))
    for t in range(1, n_frames):
        activity[t] = 0.7 * activity[t - 1]
        activity[t, [0, 2]] += drive[t]
        activity[t, [1, 3]] += 0.8 * drive[t - 1]
    brightness = np.full((n_frames, height, width), 200.0)
    for cell in range(4):
        row, column = 2 + 12 * (cell // 2), 1 + 8 * (cell % 2)
        brightness[:, row : row + 5, column : column + 5] += 150 * (1 + 3 * activity[:, cell, None, None])
    return rng.poisson(brightness).astype(np.uint16)


def write_session(session: Session, folder: Path) -> Path:
    """Write a session as files, one .npy a run, and return their table."""
    lines = ["path,condition,run"]
    for run in session:
        np.save(folder / f"{run.name}.npy", run.movie.array)
        lines.append(f"{run.name}.npy,{run.condition},{run.name}")
    (folder / "session.csv").write_text("\n".join(lines) + "\n")
    return folder / "session.csv"


def noise(n_frames: int, height: int = 16, width: int = 16, dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    """Frames of noise over all that their type can hold."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal((n_frames, height, width)).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, (n_frames, height, width), dtype=dtype, endpoint=True)


def session_of(*stacks: np.ndarray) -> Session:
    """Each stack of frames as a run, the conditions in turn."""
    conditions = ("familiar", "novel")
    return Session(tuple(Run(f"run{i}", conditions[i % 2], ArrayMovie(stack)) for i, stack in enumerate(stacks)))
