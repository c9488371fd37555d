"""Every example in a docstring and every block of code in README and docs runs; commands at least parse."""

import doctest
import importlib
import inspect
import pkgutil
import re
import shlex
import tomllib
import warnings
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer.main

import larscope
from larscope import LatentVAR
from larscope._cli.commands import app
from larscope._movies.table import Row
from larscope._settings import PRESETS, Settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
MODULES = sorted(module.name for module in pkgutil.walk_packages(larscope.__path__, "larscope."))
MODULES.remove("larscope.__main__")
MODULES.remove("larscope.lasso")  # a function, tested at its home in larscope.lasso._layer
LARSCOPE = typer.main.get_command(app)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Each fenced block of a page with its language, and each indented one; those in lists are indented and fenced."""
    text = page.read_text(encoding="utf-8")
    for indent, language, code in re.findall(r"^( *)```(\w*).*\n((?:.*\n)*?)\1```$", text, flags=re.MULTILINE):
        yield language, re.sub(f"^{indent}", "", code, flags=re.MULTILINE)
    unfenced = re.sub(r"^( *)```.*\n(?:.*\n)*?\1```$", "", text, flags=re.MULTILINE)
    for code in re.findall(r"(?<=\n\n)(?:(?: {4}.*)?\n)+", unfenced):
        yield "", re.sub("^ {4}", "", code, flags=re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Every command of a page, split into words."""
    lines = [
        line
        for language, code in blocks(page)
        if language in ("", "console", "bash", "sh")
        for line in re.sub(r"\\\n\s*", "", code).splitlines()
    ]
    split = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if re.match(r"[\w./$]", line)]
    return [without_srun(words) for words in split if words]


def without_srun(words: list[str]) -> list[str]:
    """What `srun` starts, with the numbers that SLURM gives a job."""
    if words[0] == "srun":
        words = list(dropwhile(lambda word: word.startswith("-"), words[1:]))
    return [re.sub(r"\$SLURM_\w+", "1", word) for word in words]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, extraglobs={"torch": torch, "np": np}, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_code_blocks_run(page, tmp_path, monkeypatch):
    # the reader trains for minutes, the test for seconds
    monkeypatch.setattr("larscope._fit.training.SHORTCUT_STEPS", 8)
    code = [code for language, code in blocks(page) if language == "python"]
    monkeypatch.chdir(tmp_path)
    if "session.csv" in "".join(code):
        # what the page's reader has: a session table in the working folder
        session = larscope.simulate_session(n_runs=4, n_frames=140, frame_shape=(48, 48), seed=0)
        table = session.write(tmp_path / "movies")
        text = table.read_text().replace("simulated-0", "movies/simulated-0")
        (tmp_path / "session.csv").write_text(text)
    namespace: dict[str, object] = {}
    for block in code:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for words in commands(page):
        program = words[0].removeprefix(".venv/bin/")
        if program == "larscope":
            parse(words[1:])
        elif program == "make":
            assert set(words[1:]) <= targets, words
        elif program == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), words


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_named_in_a_sentence_exist(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`larscope ([a-z]+)[^`]*`", text))
    assert named <= set(LARSCOPE.commands)
    parameters = [parameter for name in named for parameter in LARSCOPE.commands[name].params]
    options = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    used = set(re.findall(r"--[\w-]+", " ".join(re.findall(r"`larscope [a-z]+([^`]*)`", text))))
    assert used <= options | {"--help"}


def parse(words: list[str]) -> None:
    """Parse a command as the program does, without running it."""
    group = typer.Context(LARSCOPE, info_name="larscope")
    if words[0].startswith("--"):
        assert words[0] in {option for parameter in LARSCOPE.get_params(group) for option in parameter.opts}
        return
    name, command, rest = LARSCOPE.resolve_command(group, words)
    if rest != ["--help"]:
        command.make_context(name, list(rest), parent=group)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("fti session.csv", "No such command"),
        ("fit session.csv --out result --penalti 1", "No such option"),
        ("fit session.csv --out result --window five", "valid integer"),
        ("compare", "Missing parameter"),
    ],
)
def test_the_parser_refuses_what_does_not_exist(wrong, complaint):
    with pytest.raises(Exception, match=f"(?i){complaint}"):
        parse(wrong.split())


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_other_blocks_are_what_they_say(page, tmp_path):
    for language, code in blocks(page):
        assert language in {"", "python", "console", "bash", "csv", "toml", "json", "text", "r", "matlab"}, language
        if language == "csv":
            (tmp_path / "table.csv").write_text(code)
            for row in pd.read_csv(tmp_path / "table.csv", dtype=str, keep_default_na=False).to_dict("records"):
                Row.model_validate(row)
        elif language == "toml":
            Settings(**tomllib.loads(code))


def test_the_session_page_names_every_column():
    page = (ROOT / "docs" / "session.md").read_text(encoding="utf-8")
    assert [column for column in Row.model_fields if f"`{column}`" not in page] == []


def test_what_a_reader_calls_has_an_example():
    """Functions, and classes that readers make themselves; types they only get back are shown where they come from."""
    made = {"LatentVAR", "Lasso", "Session", "Settings", "SparseCoefficients", "SparseVAR"}
    on_pages = {"load", "write_nwb", "write_report"}  # need a fit
    called = {name for name in larscope.__all__ if not inspect.isclass(getattr(larscope, name))} | made
    assert {name for name in called if ">>>" not in (getattr(larscope, name).__doc__ or "")} == on_pages


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_and_pictures_exist(page):
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


def test_the_paper_s_letter_is_what_its_preset_is():
    """Every option that the page names as the paper's is in the preset, and everything in it is a default or named."""
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    table = page.split("## Where we chose otherwise")[1].split("##")[0]
    named = [row.split("|")[-2].strip(" `") for row in table.splitlines() if row.startswith("|")]
    options = {option: one for one in LARSCOPE.commands["fit"].params for option in (*one.opts, *one.secondary_opts)}
    letter = {}
    for option, *value in (text.split() for text in named if text.partition(" ")[0] in options):
        letter[options[option].name] = value[0] if value else option in options[option].opts
    assert letter.keys() >= {"center", "epochs"}
    paper, default = LatentVAR(preset="paper"), LatentVAR()
    assert {name: str(getattr(paper, name)) for name in letter} == {name: str(value) for name, value in letter.items()}
    differs = {name for name in PRESETS["paper"] if getattr(paper, name) != getattr(default, name)}
    assert differs == letter.keys()
