"""The examples run, at small size, and draw something."""

import re
import runpy
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("script", EXAMPLES, ids=[script.stem for script in EXAMPLES])
def test_runs_and_draws(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script.name, "--small"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a small training is told to be too short
        runpy.run_path(str(script), run_name="__main__")
    drawn = [axes for number in plt.get_fignums() for axes in plt.figure(number).axes]
    plt.close("all")
    assert any(axes.get_xlabel() for axes in drawn)
    assert any(axes.get_ylabel() for axes in drawn)
    picture = plt.imread(tmp_path / f"{script.stem}.png")
    assert picture.std() > 0.05


@pytest.mark.parametrize("script", EXAMPLES, ids=[script.stem for script in EXAMPLES])
def test_is_in_the_gallery(script):
    gallery = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert f"{{{{ source examples/{script.name} }}}}" in gallery
    assert re.search(rf"!\[[^\]]+\]\(images/{script.stem}\.png\)", gallery)
    assert (ROOT / "docs" / "images" / f"{script.stem}.png").is_file()


def test_simulated_data_is_called_simulated():
    for script in EXAMPLES:
        if script.stem != "diabetes_path":
            titles = re.findall(r"(?:title=|suptitle\()(?:f?\")([^\"]+)", script.read_text(encoding="utf-8"))
            assert any("simulated" in title for title in titles), script.name
