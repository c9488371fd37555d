"""`config.toml`: repeats a run, is checked line by line, and editors check it alike."""

import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
import tomli_w
from typer.testing import CliRunner

from larscope import LarscopeError, LatentVAR, load
from larscope._cli.commands import app
from larscope._results.config import config_schema, read_config
from larscope._settings import setting_names

VALIDATOR = jsonschema.Draft202012Validator(config_schema())


def larscope(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def config(tmp_path):
    def write(text: str) -> Path:
        (tmp_path / "config.toml").write_text(text, encoding="utf-8")
        return tmp_path / "config.toml"

    return write


def test_the_config_of_a_result_repeats_it_bit_for_bit(table, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    settings = [
        "--latents",
        "grid",
        "--order",
        "2",
        "--window",
        "32",
        "--epochs",
        "1",
        "--crop",
        "16",
        "16",
        "--max-distance",
        "1.5",
    ]
    done = larscope("fit", table, "--out", first, *settings, "--penalty", "0.0017", "--seed", "4", "--no-skip")
    assert done.exit_code == 0, done.output
    done = larscope("fit", table, "--out", again, "--config", first / "config.toml")
    assert done.exit_code == 0, done.output
    one, two = load(first), load(again)
    assert repr(one) == repr(two)
    assert sum(one.coef_[run].astype(bool).sum() for run in range(4)) > 0
    for run in range(4):
        assert one.coef_[run].tobytes() == two.coef_[run].tobytes()
        assert one.latents_[run].tobytes() == two.latents_[run].tobytes()
        assert one.forecasts_[run].tobytes() == two.forecasts_[run].tobytes()
    assert (first / "config.toml").read_bytes() == (again / "config.toml").read_bytes()
    assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert (first / "log.jsonl").read_bytes() == (again / "log.jsonl").read_bytes()


def test_options_win_over_the_file_and_mend_it(config):
    path = config("order = 40\nwindow = 32\nseed = 'one'\n")
    assert read_config(path, {"order": 4, "seed": 1}) == {"order": 4, "window": 32, "seed": 1}


def test_all_settings_go_through_a_file(config):
    model = LatentVAR(crop=(64, 32), epochs=3, penalty=0.5, max_distance=2.0, cell_diameter=9.0)
    assert set(model.settings.as_dict()) == set(setting_names())
    assert repr(LatentVAR(**read_config(config(tomli_w.dumps(model.settings.as_dict()))))) == repr(model)


def test_a_preset_of_the_file_is_under_its_settings_and_one_of_the_options_over_them(config):
    path = config("preset = 'paper'\nepochs = 4\ncenter = true\n")
    settings = read_config(path, {"epochs": 5})
    assert LatentVAR(**settings).settings == LatentVAR(preset="paper", epochs=5, center=True).settings
    assert read_config(path, {"preset": "default"})["epochs"] == 4
    settings = read_config(path, {"preset": "paper", "epochs": 5})
    assert LatentVAR(**settings).settings == LatentVAR(preset="paper", epochs=5).settings


WRONG = {
    "misspelt key": ("order = 3\n\n# ours\npenalti = 1", 4, "Unknown setting 'penalti'. Did you mean 'penalty'?"),
    "misspelt value": ("training = 'end2end'", 1, "got 'end2end'. Did you mean 'end-to-end'?"),
    "out of range": ("seed = 1\norder = 0", 2, "greater than or equal to 1, or 'auto'; got 0"),
    "text for a number": ("order = '5'", 1, "valid integer, or 'auto'; got '5'"),
    "truth for a number": ("order = true", 1, "valid integer, or 'auto'; got True"),
    "number for truth": ("\nskip = 1", 2, "valid boolean; got 1"),
    "not finite": ("penalty = inf", 1, "finite number, or 'auto'; got inf"),
    "another preset": ("seed = 1\npreset = 'papre'", 2, "got 'papre'. Did you mean 'paper'?"),
    "another word": ("penalty = 'best'", 1, "valid number, or 'auto'; got 'best'"),
    "a date": ("order = 2024-01-01", 1, "valid integer"),
    "too few": ("seed = 1\ncrop = [\n  64\n]", 2, "Centre crop, height and width"),
    "a table": ("seed = 1\n[penalty]\norder = 3", 2, "valid number"),
    "text over lines": ("note = '''\norder = 0\n'''\norder = 0", 4, "greater than or equal to 1"),
    "quoted key": ("'order' = 0", 1, "got 0"),
    "two that do not fit": ("seed = 0\norder = 70\nwindow = 64", 3, "`order` must be smaller than `window`"),
    "syntax": ("seed = 0\norder == 3", 2, "cannot be read"),
    "twice": ("order = 3\norder = 4", 2, "cannot be read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_file_and_line(case, config, table):
    text, line, message = WRONG[case]
    path = config(text)
    with pytest.raises(LarscopeError) as error:
        read_config(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    [said] = [part for part in str(error.value).split("\n") if message in part]
    assert re.search(rf"\bline {line}\b", said)
    done = larscope("fit", table, "--out", path.with_name("result"), "--config", path)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert not path.with_name("result").exists()


def test_every_wrong_line_is_named(config):
    with pytest.raises(LarscopeError) as error:
        read_config(config("a = 1\norder = 0\nb = 2"))
    assert [re.search(r"line (\d)", line)[1] for line in str(error.value).split("\n")] == ["2", "1", "3"]


def test_a_missing_file_and_bytes_are_said(config, tmp_path):
    with pytest.raises(LarscopeError, match="No such file"):
        read_config(tmp_path / "nothing.toml")
    path = config("")
    path.write_bytes(b"order = \xff\xfe")
    with pytest.raises(LarscopeError, match="cannot be read"):
        read_config(path)


def test_a_newer_config_is_refused(config):
    with pytest.raises(LarscopeError, match="Update larscope"):
        read_config(config("schema_version = 99\npenalty = 1"))


def test_the_schema_is_one_and_the_command_prints_it():
    jsonschema.Draft202012Validator.check_schema(config_schema())
    done = larscope("schema")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == config_schema()
    assert set(config_schema()["properties"]) == {"schema_version", "preset", *setting_names()}
    assert all(entry["description"] for entry in config_schema()["properties"].values())


SINGLE = [case for case in WRONG if case not in ("two that do not fit", "syntax", "twice", "not finite")]


@pytest.mark.parametrize("case", SINGLE)
def test_an_editor_refuses_what_larscope_refuses(case):
    content = json.loads(json.dumps(tomllib.loads(WRONG[case][0]), default=str))
    assert not VALIDATOR.is_valid(content)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "order = 3",
        "crop = [64, 32]",
        "penalty = 1",
        "penalty = 'auto'",
        "preset = 'paper'",
        "max_distance = 0.5\nepochs = 2",
        "schema_version = 1",
    ],
)
def test_an_editor_accepts_what_larscope_accepts(text, config):
    read_config(config(text))
    VALIDATOR.validate(tomllib.loads(text))
    VALIDATOR.validate(LatentVAR(crop=(8, 8)).settings.as_dict())
