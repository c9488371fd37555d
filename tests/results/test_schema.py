"""Results of every version open; those of newer versions are refused, file by file."""

import json
import re
import shutil
import tomllib
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from larscope import LarscopeError, load
from larscope._cli.commands import app
from larscope._report.page import write_report
from larscope._report.stability import read_stability
from larscope._results import schema
from larscope._results.comparison import read_record, write_record
from larscope._results.folder import FILES, read_result, write_dataset, write_result
from larscope._results.schema import SCHEMA_VERSION, migrate
from larscope._storage import DIGESTS

RESULTS = Path(__file__).parent / "kept"
COMPARISON = "comparisons/familiar-novel"
OLD = sorted(path.name for path in RESULTS.iterdir())


@pytest.fixture(params=OLD)
def old(request, tmp_path):
    """A copy of a result of simulated data that a released version wrote."""
    return Path(shutil.copytree(RESULTS / request.param, tmp_path / "result"))


def version_in(path: Path) -> int | None:
    """What a file says its version is, by its format's own reader."""
    match path.suffix:
        case ".toml":
            return tomllib.loads(path.read_text()).get("schema_version")
        case ".json":
            return json.loads(path.read_text()).get("schema_version")
        case ".jsonl":
            return json.loads(path.read_text().splitlines()[0]).get("schema_version")
        case ".safetensors":
            with safe_open(path, framework="numpy") as file:
                return int((file.metadata() or {}).get("schema_version", 0))
        case ".nc":
            with h5py.File(path) as file:
                return int(np.ravel(file.attrs.get("schema_version", 0))[0])


CANNOT_SAY = {".csv", ".png", ".html"}
"""A table that goes with its folder, and what is drawn anew from the other files."""


def versions(folder: Path) -> dict[str, int | None]:
    """What each file of a result folder says its version is."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in CANNOT_SAY]
    files = [path for path in files if path.name != DIGESTS]
    return {str(path.relative_to(folder)): version_in(path) for path in files}


def rewrite_as_current(old: Path, folder: Path) -> Path:
    """Read an old result and write it anew, with its comparison and stability."""
    write_result(read_result(old), folder)
    write_record(read_record(old / COMPARISON), folder)
    write_dataset(read_stability(old), folder / "stability.nc")
    return folder


def test_there_is_a_folder_of_every_version():
    assert [int(name.removeprefix("schema-")) for name in OLD] == list(range(1, SCHEMA_VERSION + 1))


def test_an_old_result_is_the_model_that_was_saved(old):
    """Weights, coefficients and settings still mean what they meant, whatever defaults have changed since."""
    model = load(old)
    assert len(model.latents_) == 4
    for run, latent in enumerate(model.latents_):
        with torch.no_grad():
            fit = model.var_(torch.from_numpy(latent))
        np.testing.assert_allclose(fit.coef.numpy(), model.coef_[run], atol=1e-5)
        np.testing.assert_allclose(fit.forecast.numpy(), model.forecasts_[run], rtol=1e-4, atol=1e-5)
        frame = model.dataset_["example_observed"].to_numpy()[run]
        with torch.no_grad():
            encoded, _ = model.network_.encode(torch.from_numpy(frame)[None])
        expected = latent[int(model.dataset_["example_frame"].to_numpy()[run])]
        np.testing.assert_allclose(encoded.numpy().ravel(), expected, rtol=1e-4, atol=1e-5)


def test_an_old_result_is_reported(old):
    write_report(old)
    page = (old / "report.html").read_text(encoding="utf-8")
    assert "familiar against novel" in page
    assert "Trained 2 times" in page


@pytest.mark.parametrize("old", [OLD[0], OLD[-1]], indirect=True)
def test_an_old_result_is_compared(old):
    before = read_record(old / COMPARISON).summary["tests"]
    done = CliRunner().invoke(app, ["compare", str(old), "familiar", "novel", "--permutations", "99"])
    assert done.exit_code == 0, done.output
    after = read_record(old / COMPARISON).summary["tests"]
    for test, numbers in before.items():
        assert after[test]["pvalue"] == pytest.approx(numbers["pvalue"])
        assert after[test]["statistic"] == pytest.approx(numbers["statistic"], rel=1e-4)


def test_every_file_says_its_version(session, tmp_path):
    lines = ["path,condition,run"]
    for run in session:
        np.save(tmp_path / f"{run.name}.npy", run.movie.array)
        lines.append(f"{run.name}.npy,{run.condition},{run.name}")
    (tmp_path / "session.csv").write_text("\n".join(lines))
    out = tmp_path / "result"
    fit = [
        "fit",
        str(tmp_path / "session.csv"),
        "--out",
        str(out),
        "--latents",
        "grid",
        "--window",
        "32",
        "--epochs",
        "1",
        "--seeds",
        "2",
    ]
    for command in (fit, ["compare", str(out), "familiar", "novel", "--permutations", "9"]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    said = versions(out)
    assert said.keys() >= {*FILES, "stability.nc", f"{COMPARISON}/comparison.nc", f"{COMPARISON}/comparison.json"}
    assert set(said.values()) == {SCHEMA_VERSION}, said


def test_an_old_result_written_anew_says_the_current_version(old, tmp_path):
    said = versions(rewrite_as_current(old, tmp_path / "new"))
    assert set(said.values()) == {SCHEMA_VERSION}, said


def test_the_version_is_no_part_of_what_is_read(old, tmp_path):
    result = read_result(rewrite_as_current(old, tmp_path / "new"))
    for part in (result.settings, result.provenance, result.log[0], result.dataset.attrs):
        assert "schema_version" not in part
    assert "schema_version" not in read_record(tmp_path / "new" / COMPARISON).summary
    assert result.log == read_result(old).log


def say_version(path: Path, version: int) -> None:
    """Let a file claim a version."""
    text = "" if path.suffix in (".nc", ".safetensors") else path.read_text()
    match path.suffix:
        case ".toml" | ".jsonl" | ".json":
            changed = re.sub(r"(schema_version\D+)\d+", rf"\g<1>{version}", text, count=1)
            assert changed != text
            path.write_text(changed)
        case ".nc":
            with h5py.File(path, "a") as file:
                file.attrs["schema_version"] = version
        case ".safetensors":
            save_file(load_file(path), path, {"schema_version": str(version)})


NAMES = [*FILES, "stability.nc", f"{COMPARISON}/comparison.json", f"{COMPARISON}/comparison.nc"]


@pytest.mark.parametrize("name", NAMES)
def test_a_newer_file_is_refused_with_words(name, tmp_path):
    folder = rewrite_as_current(RESULTS / OLD[-1], tmp_path / "result")
    for digests in folder.rglob(DIGESTS):
        digests.unlink()  # a newer version's own would fit its files
    say_version(folder / name, 99)
    with pytest.raises(LarscopeError) as error:
        (read_result(folder), read_stability(folder), read_record(folder / COMPARISON))
    for part in (str(folder / name), "newer larscope", "99", f"up to version {SCHEMA_VERSION}", "Update larscope"):
        assert part in str(error.value)
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert done.exit_code == 2
    assert "Update larscope" in " ".join(done.stderr.split())


@pytest.mark.parametrize("version", ["x", 0, -1, None, [1]])
def test_what_is_no_version_is_refused(version):
    with pytest.raises(LarscopeError, match=re.escape(f"got {version!r}")):
        migrate({}, version, Path("config.toml"))


def test_migrations_run_in_order_from_the_version_that_wrote_the_file(old, monkeypatch):
    monkeypatch.setattr(schema, "SCHEMA_VERSION", SCHEMA_VERSION + 2)
    steps = {
        ("config.toml", SCHEMA_VERSION): lambda settings: {**settings, "renamed": settings["order"]},
        ("config.toml", SCHEMA_VERSION + 1): lambda settings: {
            **{name: value for name, value in settings.items() if name != "renamed"},
            "penalty": settings["renamed"] * 10.0,
        },
        ("results.nc", SCHEMA_VERSION + 1): lambda dataset: dataset.assign(average_frame=dataset["mean_frame"]),
        ("comparison.json", SCHEMA_VERSION): lambda summary: {**summary, "note": "early"},
    }
    monkeypatch.setattr(schema, "MIGRATIONS", {**schema.MIGRATIONS, **steps})
    result = read_result(old)
    assert result.settings["penalty"] == result.settings["order"] * 10
    assert "average_frame" in result.dataset
    assert read_record(old / COMPARISON).summary["note"] == "early"


def test_a_setting_added_since_takes_its_default(old):
    text = (old / "config.toml").read_text()
    (old / "config.toml").write_text(re.sub(r"^batch_norm.*\n", "", text, flags=re.MULTILINE))
    assert load(old).batch_norm == "running"
