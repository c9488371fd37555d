"""Every command's help is a short manual: what it does, what it writes, examples that parse, exit codes, 80 columns."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import larscope
from larscope._cli import commands, options
from larscope._cli.commands import app
from larscope._settings import setting_names

GROUP = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)
SOURCE = str(Path(larscope.__file__).parents[1])


def shown(*arguments: str) -> str:
    """The help as a terminal of 80 columns shows it."""
    done = CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert done.exit_code == 0
    return done.output


def examples(text: str | None) -> list[str]:
    """The command lines that are examples: in backticks, in a list or after `Example:`."""
    return re.findall(r"(?:^\* |Example: )`(larscope [^`]+)`", text or "", flags=re.MULTILINE)


def parse(line: str) -> None:
    """Run an example through the parser, and nothing else."""
    words = shlex.split(line.split(" > ")[0])[1:]
    context = GROUP.make_context("larscope", list(words), resilient_parsing=words[0].startswith("-"))
    if not words[0].startswith("-"):
        name, command, rest = GROUP.resolve_command(context, words)
        command.make_context(name, list(rest), parent=context)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_parse(name):
    command = GROUP.commands[name]
    found = [line for line in examples(command.help) if line.split()[1] == name]
    assert found
    for line in examples(command.help):
        parse(line)


def test_the_examples_of_the_whole_parse_and_begin_with_the_demo():
    found = examples(GROUP.help)
    assert found[0] == "larscope demo"
    assert len(found) >= 4
    for line in found:
        parse(line)


@pytest.mark.parametrize("line", ["larscope fit", "larscope fti session.csv", "larscope fit s.csv --out r --penalti 1"])
def test_what_does_not_parse_is_noticed(line):
    with pytest.raises(Exception, match=r"Missing|No such") as error:
        parse(line)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_fits_80_columns_and_says_the_exit_codes(name):
    text = shown(*([name] if name else []))
    assert max(len(line) for line in text.splitlines()) <= 80
    words = " ".join(text.split())
    assert "Exit codes: 0 done" in words
    assert "2 something must be changed" in words


@pytest.mark.parametrize("name", COMMANDS)
def test_says_what_is_written(name):
    assert re.search(r"\b([Ww]rites?|[Ss]aves?|[Pp]rints?)\b", GROUP.commands[name].help)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_described_and_no_name_is_broken(name):
    text = shown(name)
    for parameter in GROUP.commands[name].params:
        assert getattr(parameter, "help", None), parameter.name
        for option in parameter.opts:
            # an argument that may be repeated is shown with dots
            assert option in text.replace("│", " ").replace("...", " ").split(), option


def test_settings_are_grouped_and_all_are_in_a_group():
    assert set(options.PANELS) == set(setting_names())
    text = shown("fit")
    for panel in (options.DYNAMICS, options.FRAMES, options.NETWORK, options.TRAINING):
        assert f"─ {panel} ─" in text
    assert "─ Settings ─" not in text


def test_choices_and_defaults_of_settings_are_said():
    words = " ".join(shown("fit").replace("│", " ").split())
    assert "One of linear, leaky. [default: linear]" in words
    assert "'end-to-end': gradients through the fit too. [default: end-to-end]" in words


def test_commands_are_grouped():
    text = shown()
    for panel in (commands.ANALYSE, commands.TRY, commands.SETUP):
        assert f"─ {panel} ─" in text
    assert "─ Commands ─" not in text


def complete(line: str) -> set[str]:
    """What the shell offers at the end of a line."""
    environment = {**os.environ, "PYTHONPATH": SOURCE, "_LARSCOPE_COMPLETE": "complete_bash"}
    environment |= {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    code = "import sys; sys.argv = ['larscope']; from larscope._cli.commands import app; app(prog_name='larscope')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    return set(done.stdout.split())


def test_the_shell_completes_commands_options_and_choices():
    assert complete("larscope fi") == {"fit"}
    assert complete("larscope fit --penalty") == {"--penalty", "--penalty-scale"}
    assert complete("larscope fit --training e") == {"embedded", "end-to-end"}


def test_completion_is_installed_into_the_shell(tmp_path):
    command = shlex.quote(str(Path(sys.executable).with_name("larscope")))
    done = subprocess.run(
        ["bash", "-c", f"{command} --install-completion; exit $?"],
        env={**os.environ, "PYTHONPATH": SOURCE, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "completion installed" in done.stdout
    installed = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "_LARSCOPE_COMPLETE" in installed
