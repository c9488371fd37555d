"""Rebuild the paper's tables and figures, part by part: `python -m reproduction.paper full [part ...]`.

What a part has finished is kept and not computed again, and a training that was stopped goes on from its last epoch:
give the same command again.
"""

import argparse
import time
import warnings
from pathlib import Path

from larscope.comparison import ComparisonWarning
from larscope.training import EmptyFitWarning, ShortTrainingWarning

from . import choices, comparisons, figures, page, penalty, recorded, table2, truth, yardstick
from .work import SIZES, Work, console

HERE = Path(__file__).parents[1]
PARTS = {
    "table2-half": lambda work: table2.run(work, "half"),
    "truth": truth.run,
    "figure4": figures.run_figure4,
    "choices": choices.run,
    "penalty": penalty.run,
    "table2-paper": lambda work: table2.run(work, "paper"),
    "figure2": figures.run_figure2,
    "figure3": figures.run_figure3,
    "comparisons": comparisons.run,
    "yardstick-simulated": lambda work: yardstick.run(work, "simulated"),
    "yardstick-mouse_2p": lambda work: yardstick.run(work, "mouse_2p"),
    "yardstick-mouse_2p-3-5-7": lambda work: yardstick.run(work, "mouse_2p", left_out=("3", "5", "7")),
    "yardstick-mouse_s1_vr": lambda work: yardstick.run(work, "mouse_s1_vr"),
    "modes-mouse_2p": yardstick.run_modes,
    "table2-mouse_2p": recorded.run,
}


def rebuild(work: Work, parts: list[str], readme: Path) -> None:
    for part in parts:
        started = time.monotonic()
        console.rule(f"{part} ({work.size.name})")
        PARTS[part](work)
        work.log_time(part, time.monotonic() - started)
    page.write(work, readme)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=[name for name in SIZES if name != "tiny"])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help=f"all, unless named: {', '.join(PARTS)}")
    parser.add_argument("--kept", type=Path, help="where movies and models are kept (default: beside the numbers)")
    arguments = parser.parse_args()
    numbers = HERE / arguments.size
    for category in (ComparisonWarning, EmptyFitWarning, ShortTrainingWarning):
        warnings.simplefilter("ignore", category)  # what they say is in the tables
    work = Work(SIZES[arguments.size], numbers, arguments.kept or numbers / "kept")
    rebuild(work, arguments.parts or list(PARTS), (HERE if arguments.size == "full" else numbers) / "README.md")
