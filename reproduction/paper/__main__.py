"""Rebuild the paper's tables and figures, part by part: `python -m reproduction.paper full [part ...]`.

What a part has finished is kept and not computed again, and a training that was stopped goes on from its last epoch:
give the same command again.
"""

import argparse
from pathlib import Path

from .parts import named, parts_of, rebuild
from .work import FULL, SIZES, Work

HERE = Path(__file__).parents[1]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=[name for name in SIZES if name != "tiny"])
    parser.add_argument(
        "parts", nargs="*", help=f"all, unless named; before the slash, all of a table: {', '.join(parts_of(FULL))}"
    )
    parser.add_argument("--jobs", type=int, default=1, help="parts at once, one thread each (default: 1, all threads)")
    parser.add_argument("--kept", type=Path, help="where movies and models are kept (default: beside the numbers)")
    arguments = parser.parse_intermixed_args()  # options may stand before the parts
    size, numbers = SIZES[arguments.size], HERE / arguments.size
    try:
        parts = named(size, arguments.parts)
    except KeyError as error:
        parser.error(f"a part must be one of {', '.join(parts_of(size))}, or a table: got {error}")
    work = Work(size, numbers, arguments.kept or numbers / "kept", progress=arguments.jobs == 1)
    try:
        rebuild(work, parts, (HERE if arguments.size == "full" else numbers) / "README.md", arguments.jobs)
    except KeyboardInterrupt:
        parser.exit(130, "Stopped. The same command goes on from here.\n")
