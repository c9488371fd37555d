"""Run the commands of docs/tutorial.md on the recorded movie and keep what they print, for the page to include.

python reproduction/tutorial.py ../shared/data/mouse_s1_vr
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "tutorial.md"
FIGURES = {"result/figures/reconstruction.png": "tutorial-reconstruction.png"}
WIDTH = 80


def fold(row: str) -> str:
    """Break a sentence as a terminal does; what is indented is a table's row."""
    return row.rstrip() if row.startswith(" ") else textwrap.fill(row, WIDTH)


def main(data: Path) -> None:
    """Run the page's larscope commands, in their order, in a folder with a copy of the session."""
    printed = DOCS / "tutorial"
    printed.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "s1"
        shutil.copytree(data, folder)
        for line in re.findall(r"^larscope .*$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE):
            _, command, *_ = line.split()
            done = subprocess.run(
                [f"{Path(sys.executable).parent}/{line}"],
                shell=True,
                check=False,
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "COLUMNS": str(WIDTH), "TERM": "dumb"},
            )
            text = done.stdout.replace(f"{folder}/", "")
            text = "\n".join(fold(row) for row in text.splitlines() if "━" not in row).strip("\n")
            (printed / f"{command}.txt").write_text(f"{text}\n", encoding="utf-8")
            print(f"{line}: exit code {done.returncode}")
        for figure, copy in FIGURES.items():
            shutil.copy(folder / figure, DOCS / "images" / copy)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
