"""The parts of the work, small enough for less than 40 minutes of one core each at full size, and who does them."""

import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from rich.progress import track

from larscope._compute.workers import hand_out, open_workers
from larscope._fit.training import EmptyFitWarning, ShortTrainingWarning
from larscope._statistics.comparison import ComparisonWarning

from . import choices, comparisons, figures, page, penalty, recorded, table2, truth, yardstick
from .work import Size, Work, console

FOLDS = {"simulated": 4, "mouse_2p": 4, "mouse_s1_vr": 2}


def parts_of(size: Size) -> dict[str, Callable[[Work], None]]:
    """Return what does each part: a table, or of the long ones a seed, a penalty or a fold (`truth/0`).

    Those that train what others need too come first.
    """
    parts: dict[str, Callable[[Work], None]] = {}

    def split(table: str, run: Callable[..., None], over: str, values: Iterable[object]) -> None:
        parts.update({f"{table}/{value}": partial(run, **{over: value}) for value in values})

    split("table2-half", partial(table2.run_half, center=True), "seed", size.seeds)
    parts.update(
        {f"table2-half/{seed}-uncentred": partial(table2.run_half, seed=seed, center=False) for seed in size.seeds}
    )
    split("table2-paper", table2.run_paper, "penalty", size.penalties)
    parts["comparisons"] = comparisons.run
    parts["figure2"] = figures.run_figure2
    split("table2-mouse_2p", recorded.run, "penalty", size.recorded_penalties)
    for name, n_folds in FOLDS.items():
        folds = range(min(n_folds, size.max_folds))
        split(f"yardstick-{name}", partial(yardstick.run_fold, name=name), "fold", folds)
    parts["yardstick-mouse_2p-3-5-7"] = partial(yardstick.run_without, name="mouse_2p", left_out=("3", "5", "7"))
    split("modes-mouse_2p", yardstick.run_modes, "seed", size.recorded_seeds)
    split("choices", choices.run, "seed", size.seeds[:2])
    split("truth", truth.run, "seed", size.seeds)
    split("penalty", penalty.run, "seed", size.seeds)
    parts["figure3"] = figures.run_figure3
    parts["figure4"] = figures.run_figure4
    return parts


def named(size: Size, names: Iterable[str]) -> list[str]:
    """Return the parts that are meant: by their names, or by those of their tables; all, where none is named.

    Raises
    ------
    KeyError
        A name is none of them.

    >>> from .work import FULL
    >>> named(FULL, ["truth/3", "choices", "choices/0"])
    ['truth/3', 'choices/0', 'choices/1']
    """
    parts = list(parts_of(size))
    chosen: list[str] = []
    for name in names:
        meant = [part for part in parts if name in (part, part.split("/")[0])]
        if not meant:
            raise KeyError(name)
        chosen += meant
    return list(dict.fromkeys(chosen)) or parts


def do(part: str, work: Work) -> None:
    """Do a part, or what is left of it, and note the time that it took; of one that was killed there is none."""
    started = time.monotonic()
    console.rule(f"{part} ({work.size.name})")
    try:
        with work.alone(f"part {part.replace('/', ' ')}"):
            parts_of(work.size)[part](work)
    finally:
        work.log_time(part, time.monotonic() - started)


def rebuild(work: Work, parts: list[str], readme: Path, jobs: int = 1) -> None:
    """Do parts, so many at once, one thread each, and write the page."""
    with warnings.catch_warnings(), open_workers(jobs):
        for category in (ComparisonWarning, EmptyFitWarning, ShortTrainingWarning):
            warnings.simplefilter("ignore", category)  # what they say is in the tables
        done = hand_out(partial(do, work=work), parts)
        list(track(done, "Parts", total=len(parts), console=console, disable=jobs == 1))
    page.write(work, readme)
