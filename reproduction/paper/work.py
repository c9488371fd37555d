"""What is computed at which size, and where it is kept: sessions and trained models here, numbers with the parts."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from filelock import FileLock
from matplotlib.figure import Figure
from rich.console import Console

from larscope import LatentVAR, load, read_session, simulate_session
from larscope._movies.session import Run, Session
from larscope._results.folder import publish_result
from larscope._simulate.files import read_truth
from larscope._simulate.truth import Truth

RECORDED = Path(__file__).parents[2].parent / "shared" / "data"
console = Console()

Where = Literal["paper", "half"]

UNTRAINED: Mapping[str, Any] = {"epochs": 1, "learning_rate": 1e-12}
"""Steps too small to move anything: the network as the shortcut leaves it, before training."""


@dataclass(frozen=True)
class Size:
    """How much of everything: `FULL` is what the tables show, `SMALL` and `TINY` run the same code."""

    name: str
    simulated: Mapping[Where, Mapping[str, Any]]
    """Arguments of `simulate_session` for the session of the paper's size, and for that of half its resolution."""
    seeds: Sequence[int]
    """Of the sessions at half resolution, and of their trainings; the session of the paper's size takes the first."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every training on simulated sessions, beside what a part compares: the paper's."""
    shortened: Mapping[str, Any] = field(default_factory=dict)
    """What shortens the trainings whose settings are compared as a whole."""
    penalties: Sequence[float] = (0.005, 0.01, 0.02)
    all_penalties: Sequence[float] = (0.003, 0.005, 0.01, 0.02, 0.032)
    recorded_penalties: Sequence[float] = (0.001, 0.003, 0.01)
    recorded_seeds: Sequence[int] = (0,)
    recorded_training: Mapping[str, Any] = field(default_factory=dict)
    max_folds: int = 4
    most_components: int = 50
    """Of the PCA baselines: those with more are left out."""


FULL = Size(
    "full",
    simulated={"paper": {}, "half": {"frame_shape": (96, 64)}},
    seeds=(0, 1, 2, 3, 4),
    training={"preset": "paper"},
    recorded_seeds=(0, 1, 2, 3, 4),
)
SMALL = Size(
    "small",
    simulated={
        "paper": {"frame_shape": (64, 48), "n_runs": 16, "n_frames": 100},
        "half": {"frame_shape": (48, 32), "n_runs": 16, "n_frames": 100},
    },
    seeds=(0,),
    training={"preset": "paper", "epochs": 5},
    shortened={"epochs": 5},
    recorded_penalties=(0.003, 0.01),
    recorded_training={"epochs": 2, "crop": (48, 48)},
    max_folds=1,
)
TINY = replace(
    SMALL,
    name="tiny",
    most_components=20,
    simulated={
        "paper": {"frame_shape": (32, 24), "n_runs": 16, "n_frames": 60, "n_cells": 6, "cell_diameter": 5.0},
        "half": {"frame_shape": (32, 24), "n_runs": 16, "n_frames": 60, "n_cells": 6, "cell_diameter": 5.0},
    },
    training={"preset": "paper", "epochs": 1, "window": 20},
    shortened={"epochs": 1, "window": 20},
    penalties=(0.01,),
    all_penalties=(0.003, 0.032),
    recorded_penalties=(0.003,),
    recorded_training={"epochs": 1, "crop": (16, 16)},
)
SIZES = {size.name: size for size in (FULL, SMALL, TINY)}


@dataclass(frozen=True)
class Work:
    """A size, the folder of its numbers and figures, and the folder of what can be made again: movies and models.

    Processes that do parts of the same work share both folders.
    """

    size: Size
    numbers: Path
    kept: Path
    progress: bool = True
    """Show bars: where several processes print, they would overwrite each other's."""

    def session(self, where: Where, seed: int) -> Session:
        """Return a simulated session, from disk, where it is written when first asked for."""
        folder = self._simulated(where, seed)
        return replace(read_session(folder / "session.csv"), simulated=True)

    def truth(self, where: Where, seed: int) -> Truth:
        return read_truth(self._simulated(where, seed))

    def _simulated(self, where: Where, seed: int) -> Path:
        folder = self.kept / "sessions" / f"{where}-{seed}"
        with self.alone(folder.name):
            if not folder.is_dir():
                folder.parent.mkdir(parents=True, exist_ok=True)
                console.print(f"Simulating the session {where}-{seed}", highlight=False, soft_wrap=True)
                simulate_session(seed=seed, **self.size.simulated[where]).write(folder)
        return folder

    def simulated_model(
        self,
        where: Where,
        seed: int,
        *,
        runs: Sequence[int] | None = None,
        refit: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> LatentVAR:
        """Return a model trained on a simulated session, or on some of its runs, with the size's training."""
        session, name = self.session(where, seed), f"{where}-{seed}"
        if runs is not None:
            name += "-without-" + "-".join(str(run) for run in range(len(session)) if run not in runs)
            session = subset(session, runs)
        return self.model(name, session, refit=refit, **{**self.size.training, "seed": seed, **settings})

    def model(
        self, name: str, session: Session, *, refit: Mapping[str, Any] | None = None, **settings: Any
    ) -> LatentVAR:
        """Return a model from disk; one that is not there is trained, going on from its last epoch.

        With `refit`, its VAR is then fitted anew with those settings.
        """
        described = "-".join([name, *(f"{key}={value}" for key, value in sorted(settings.items()))])
        if refit is not None:
            described = "-then-".join([described, *(f"{key}={value}" for key, value in sorted(refit.items()))])
        folder = self.kept / "models" / described.replace(" ", "").replace("/", "_")
        with self.alone(folder.name):
            if not folder.is_dir():
                how: dict[str, Any] = {"progress": self.progress, "cache": self.kept / "frames"}
                unfinished = self.kept / "unfinished" / folder.name
                if refit is None:
                    console.print(f"Training {described}", highlight=False, soft_wrap=True)
                    # the paper's latents: cells are judged by `reproduction/cells.py`
                    model = LatentVAR(**{"latents": "grid", **settings}).fit(session, checkpoints=unfinished, **how)
                else:
                    model = self.model(name, session, **settings).refit(session, **refit, **how)
                unfinished.parent.mkdir(parents=True, exist_ok=True)
                folder.parent.mkdir(parents=True, exist_ok=True)
                publish_result(model.save(unfinished / "result"), folder)
        return load(folder)

    def has(self, table: str, **values: Any) -> bool:
        """Say whether a table of raw numbers has a row with these values."""
        found = self.found(table)
        return found is not None and bool((found[list(values)] == pd.Series(values)).all(axis=1).any())

    def add(self, table: str, rows: pd.DataFrame) -> None:
        """Add to a table of raw numbers, which is in the order of sessions or folds, whoever was first."""
        with self.alone(table):
            found = pd.concat([self.found(table), rows], ignore_index=True)
            by = [name for name in ("seed", "fold") if name in found][:1]
            self.write(table, found.sort_values(by, kind="stable") if by else found)

    def found(self, table: str) -> pd.DataFrame | None:
        """Return a table of raw numbers, if it is there."""
        path = self.numbers / f"{table}.csv"
        return pd.read_csv(path, dtype={"run": str}, keep_default_na=True) if path.is_file() else None

    def draw(self, table: str, plot: Callable[[pd.DataFrame], Figure]) -> None:
        """Draw a table's figure anew."""
        with self.alone(table):
            plot(self.found(table)).savefig(self.numbers / f"{table}.png", dpi=110)

    def log_time(self, part: str, seconds: float) -> None:
        """Add to the minutes that a part has taken, over all the times that it was stopped and started."""
        with self.alone("times"):
            table = self.found("times")
            minutes = {} if table is None else dict(zip(table["part"], table["minutes"], strict=True))
            minutes[part] = minutes.get(part, 0) + seconds / 60
            self.write("times", pd.DataFrame({"part": list(minutes), "minutes": list(minutes.values())}))

    def write(self, table: str, rows: pd.DataFrame) -> None:
        """Write a table of raw numbers, whole or not at all."""
        self.numbers.mkdir(parents=True, exist_ok=True)
        path = self.numbers / f"{table}.csv"
        unfinished = path.with_suffix(".csv.unfinished")
        rows.to_csv(unfinished, index=False, float_format="%.6g")
        unfinished.replace(path)

    def alone(self, name: str) -> FileLock:
        """Let other processes wait that want to do or write the same."""
        folder = self.kept / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{name}.lock")

    @cached_property
    def recorded(self) -> Mapping[str, Path]:
        """The recorded movies that are at hand, by name."""
        return {path.parent.name: path for path in sorted(RECORDED.glob("*/session.csv"))}


def subset(session: Session, runs: Sequence[int]) -> Session:
    return replace(session, runs=tuple(session.runs[run] for run in runs))


def score_unseen(model: LatentVAR, unseen: Session) -> pd.DataFrame:
    """Return what is forecast of runs that nothing was fitted to, by coefficients that the trained runs share."""
    shared = copy.copy(model)
    shared._settings = replace(model.settings, coefficients="condition")  # `set_params` would forget the fit
    return shared.score_frames(unseen)


def one_condition(session: Session) -> Session:
    """Segments of one recording: what is shared among the runs of a condition is shared among all."""
    return replace(session, runs=tuple(replace(run, condition="all") for run in session))


def folds_of(runs: Sequence[Run], n_folds: int = 4) -> list[list[int]]:
    """Return the runs that each fold leaves out: whole blocks, one of each condition; without blocks, every fourth run.

    >>> import numpy as np
    >>> folds_of([Run("a", "x", np.zeros((9, 8, 8), np.uint16))] * 5)
    [[0, 4], [1], [2], [3]]
    """
    blocks = list(dict.fromkeys(run.block for run in runs))
    if blocks == [None]:
        return [list(range(fold, len(runs), n_folds)) for fold in range(n_folds)]
    seen: dict[str, int] = {}
    fold_of_block = {}
    for block in blocks:
        condition = next(run.condition for run in runs if run.block == block)
        fold_of_block[block] = seen.setdefault(condition, 0) % n_folds
        seen[condition] += 1
    n_folds = len(set(fold_of_block.values()))  # no more than there are blocks
    return [[i for i, run in enumerate(runs) if fold_of_block[run.block] == fold] for fold in range(n_folds)]
