"""Every example in a docstring and every Python block in README and docs runs."""

import doctest
import importlib
import pkgutil
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import larscope

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = sorted(module.name for module in pkgutil.walk_packages(larscope.__path__, "larscope."))
MODULES.remove("larscope.__main__")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, extraglobs={"torch": torch, "np": np}, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_code_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.setattr("larscope.training.MIN_STEPS", 8)  # the reader trains for minutes, the test for seconds
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    if "session.csv" in "".join(blocks):
        # what the page's reader has: a session table in the working folder
        session = larscope.simulate_session(n_runs=4, n_frames=140, frame_shape=(48, 48), seed=0)
        table = session.write(tmp_path / "movies")
        text = table.read_text().replace("simulated-0", "movies/simulated-0")
        (tmp_path / "session.csv").write_text(text)
    namespace: dict[str, object] = {}
    for block in blocks:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            exec(compile(block, str(page), "exec"), namespace)


def test_public_functions_have_an_example():
    for name in larscope.__all__:
        home = getattr(larscope, name)
        if name not in {"LarscopeError", "Run", "load"}:
            assert ">>>" in (home.__doc__ or ""), name


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_and_pictures_exist(page):
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []
